"""What the errors of `lat.sites` say of the layer that they refuse."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from lat import sites


def test_a_layer_padded_more_on_one_side_is_refused_by_its_kind_kernel_and_dilation() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, kernel_size=(3, 2), dilation=(2, 1), padding="same"))
    with pytest.raises(sites.SiteError, match=r"'0' is a Conv2d with padding 'same', kernel \(3, 2\) and dilation \(2"):
        sites.layer(model, "0")


class TwoInputs(nn.Module):
    """The second input is used by nothing, and yet the forward pass is no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor, unused: Tensor) -> Tensor:
        return self.fc(x)


class AMethod(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.fc(x), self.name)()


def test_a_second_input_breaks_a_chain() -> None:
    with pytest.raises(sites.SiteError, match="'unused' does not take the output of the module before it alone"):
        sites.chain(TwoInputs())


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "abs"])
def test_a_method_that_radii_cannot_pass_is_refused_by_name(name: str) -> None:
    with pytest.raises(sites.SiteError, match=name):
        sites.chain(AMethod(name))


@pytest.mark.parametrize("name", ["relu", "flatten"])
def test_methods_that_radii_pass_unchanged_are_passed_over(name: str) -> None:
    assert [entry for entry, _ in sites.chain(AMethod(name))] == ["fc"]

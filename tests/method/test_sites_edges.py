"""`lat.sites` at its edges: what its errors say of what they refuse, odd forward passes, and what a tap records."""

from __future__ import annotations

from typing import Any

import pytest
import torch
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


class WithoutInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.fc = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)

    def forward(self) -> Tensor:
        return self.fc(self.start)


def test_a_forward_pass_that_starts_at_a_parameter_is_no_chain() -> None:
    with pytest.raises(sites.SiteError, match="'start' does not take the output of the module before it alone"):
        sites.chain(WithoutInput())


class Flagged(nn.Module):
    """What it calls depends on an argument that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.relu = nn.Linear(2, 2), nn.ReLU()

    def forward(self, x: Tensor, rectified: bool = False) -> Tensor:
        return self.relu(self.fc(x)) if rectified else self.fc(x)


class Around(nn.Module):
    """Calls its part with arguments by name."""

    def __init__(self, part: nn.Module, **given: Any) -> None:
        super().__init__()
        self.part, self.given = part, given

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x, **self.given)


@pytest.mark.parametrize(("rectified", "names"), [(True, ["part.fc", "part.relu"]), (False, ["part.fc"])])
def test_a_chain_leads_through_the_parts_of_a_network_with_the_arguments_that_they_are_given(
    rectified: bool, names: list[str]
) -> None:
    assert [name for name, _ in sites.chain(Around(Flagged(), rectified=rectified))] == names


@pytest.mark.parametrize("rectified", [True, False])
def test_a_trace_follows_the_arguments_that_are_fixed_for_it(rectified: bool) -> None:
    graph = sites.Tracer().trace(Flagged(), concrete_args={"rectified": rectified})
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["fc", "relu"][: 1 + rectified]


def test_the_activation_of_a_layer_may_stand_behind_modules_that_pass_its_output_on() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Identity(), nn.Dropout(0.5), nn.Flatten(), nn.ReLU(), nn.Linear(2, 2))
    assert sites.activation_after(sites.chain(model), "0") == "4"


def test_the_gradients_of_a_tap_hold_no_graph_of_a_backward_pass_that_is_differentiated_again() -> None:
    fc = nn.Linear(2, 2).double()
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    with sites.Tap({"fc": fc}, lambda name, y: None) as tap:
        y = fc(x)
    for passes in (1, 2):
        torch.autograd.grad(y.square().sum(), fc.weight, create_graph=True)
        assert torch.equal(tap.gradients["fc"], 2 * passes * y)
        assert not tap.gradients["fc"].requires_grad


def test_a_tap_keeps_sizes_as_plain_tuples() -> None:
    fc = nn.Linear(2, 3)
    with sites.Tap({"fc": fc}, lambda name, y: None) as tap:
        fc(torch.zeros(4, 5, 2))
    assert repr(tap.sizes) == "{'fc': (5, 2)}"

"""`Kept` alone: when radii are formed again, and when the last ones are given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lat.perturbation.kept import Kept, Radii

SIZES = {"conv": (1, 4, 4)}


class Asked:
    """A `Kept` that counts how often radii were formed."""

    def __init__(self) -> None:
        self.kept, self.formed = Kept(), 0

    def __call__(self, *parts: Tensor, sizes: dict[str, tuple[int, ...]] = SIZES) -> int:
        """Asks for radii made of the parts; how often any were formed so far."""

        def form() -> Radii:
            self.formed += 1
            return {"conv": torch.tensor(float(self.formed))}

        radii = self.kept(sizes, parts, form)
        assert radii["conv"].item() == self.formed, "those that were formed last"
        return self.formed


def step() -> None:
    """A step of an optimiser, that of another network."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()


def test_radii_are_formed_once_more_and_then_kept_while_nothing_changes() -> None:
    asked, weight = Asked(), torch.rand(3, 3)
    assert [asked(weight) for _ in range(5)] == [1, 2, 2, 2, 2], "copies are made at the second time"


def test_a_step_of_any_optimiser_forms_them_without_a_look_at_the_parts() -> None:
    asked, weight = Asked(), torch.rand(3, 3)
    assert [asked(weight), asked(weight), asked(weight)] == [1, 2, 2]
    step()
    assert [asked(weight), asked(weight), asked(weight)] == [3, 3, 3], "copied at once, as they were asked for again"
    step()
    assert asked(weight) == 4


def test_one_update_a_step_makes_no_copies() -> None:
    asked, weight = Asked(), torch.rand(3, 3)
    for count in range(1, 4):
        assert asked(weight) == count
        step()
    assert asked.kept._parts is None


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 2.0, 3.5]),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        torch.tensor([1.0, 2.0]),
        torch.empty(3, device="meta"),
    ],
    ids=["a value", "the type", "the shape", "the device"],
)
def test_another_part_forms_them_again(other: Tensor) -> None:
    asked, weight, bias = Asked(), torch.tensor([1.0, 2.0, 3.0]), torch.ones(1)
    assert [asked(bias, weight) for _ in range(3)] == [1, 2, 2]
    assert asked(bias, other) == 3


def test_more_parts_and_fewer_form_them_again() -> None:
    asked, weight = Asked(), torch.rand(3)
    assert [asked(weight) for _ in range(3)] == [1, 2, 2]
    assert [asked(weight, weight), asked(weight, weight), asked(weight)] == [3, 3, 4]


def test_a_part_changed_in_place_behind_autograd_forms_them_again() -> None:
    asked, weight = Asked(), nn.Parameter(torch.rand(3))
    assert [asked(weight) for _ in range(3)] == [1, 2, 2]
    assert [part.requires_grad for part in asked.kept._parts or [weight]] == [False], "no graph is held"
    weight.data += 1
    assert [asked(weight), asked(weight)] == [3, 3]


def test_other_sizes_form_them_again_also_where_the_mapping_itself_was_changed() -> None:
    asked, weight, sizes = Asked(), torch.rand(3), dict(SIZES)
    assert [asked(weight, sizes=sizes) for _ in range(3)] == [1, 2, 2]
    sizes["conv"] = (1, 5, 5)
    assert [asked(weight, sizes=sizes), asked(weight, sizes=sizes)] == [3, 3]

"""Restarts: one is the plain attack, more break at least as much, and what is broken takes part no more."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_networks import Digits
from torch import Tensor, nn

from lat.attacks import Draws, Threat, run_attack


@pytest.mark.parametrize(("plain", "restarted"), [("pgd", "pgd_restarts"), ("cw", "cw_restarts")])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_restart_is_the_plain_attack(digits: Digits, attacks: dict, plain: str, restarted: str, norm: str) -> None:
    threat = Threat(norm, 0.1 if norm == "linf" else 0.8)
    right = digits.model(digits.x).argmax(1) == digits.y
    x, y = digits.x[right], digits.y[right]
    rows = range(len(x))
    once = replace(attacks[restarted], threat=threat, restarts=1).perturb(digits.model, x, y, Draws(3, rows))
    assert torch.equal(once, replace(attacks[plain], threat=threat).perturb(digits.model, x, y, Draws(3, rows)))


@pytest.mark.parametrize("name", ["pgd_restarts", "cw_restarts"])
def test_more_restarts_break_all_that_fewer_broke_and_more(digits: Digits, attacks: dict, name: str) -> None:
    def robust(restarts: int) -> Tensor:
        attack = replace(attacks[name], steps=3, restarts=restarts)  # so few steps that the start decides
        return run_attack(digits.model, digits.x, digits.y, range(len(digits.x)), attack, seed=0).robust

    one, three, ten = (robust(restarts) for restarts in (1, 3, 10))
    assert not (three & ~one).any()
    assert not (ten & ~three).any()
    assert int(one.sum()) - int(ten.sum()) >= 10


class Counting(nn.Module):
    """Counts the images it has been shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


def test_what_is_broken_takes_part_no_more(digits: Digits, attacks: dict) -> None:
    x, y = digits.x[:50], digits.y[:50]
    counting = Counting(copy.deepcopy(digits.model))
    attack = replace(attacks["pgd_restarts"], threat=Threat("linf", 1.0), restarts=10)
    outcome = run_attack(counting, x, y, range(50), attack, seed=0)
    assert not outcome.robust.any()
    assert counting.images <= 50 * (1 + 2 * 41 + 2)  # at most two of the ten ascents, and what is judged


def test_a_class_that_cannot_be_left_is_searched_to_the_end(attacks: dict) -> None:
    class Certain(nn.Module):
        """Sure of class 0, with a gradient that leads nowhere."""

        def forward(self, x: Tensor) -> Tensor:
            score = 1e-3 * x.flatten(1).sum(1)
            return torch.stack([score + 9, score * 0], 1)

    x, y = torch.full((3, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    counting = Counting(Certain())
    outcome = run_attack(counting, x, y, range(3), replace(attacks["pgd_restarts"], restarts=4), seed=0)
    assert outcome.robust.all()
    assert counting.images == 3 * (2 + 1 + 4 * 41 + 2)  # two to see whether it is random

"""On a network that is random, one draw that errs ends no search: attacks are as strong as those that never stop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from noisy import Noisy
from small_networks import Linear, linear_classes
from torch import Tensor, nn

from lat.attacks import Attack, Draws, Threat, Transfer, run_attack, undisturbed
from lat.attacks.protocol import Unjudged, is_random

ASCENTS = ("ifgsm", "pgd", "eot", "cw", "mi_fgsm", "pgd_restarts", "cw_restarts")
INNER = ("pgd", "pgd_restarts", "cw_restarts", "noise")
IMAGES = 150


def accuracy(model: nn.Module, x: Tensor, y: Tensor, passes: int = 20) -> float:
    with torch.no_grad():
        return sum(float((model(x).argmax(1) == y).float().mean()) for _ in range(passes)) / passes


def few(attack: Attack) -> Attack:
    """The attack with fewer draws and restarts."""
    fewer = {"noise_draws": 10, "restarts": 3}
    return replace(attack, **{key: value for key, value in fewer.items() if hasattr(attack, key)})


@pytest.mark.parametrize("name", ASCENTS)
def test_attacks_on_a_random_network_are_as_strong_as_without_an_early_end(attacks: dict, name: str) -> None:
    linear, x, y = linear_classes(seed=0, n=IMAGES)
    model = nn.Sequential(Noisy(0.05), linear)
    attack = replace(few(attacks[name]), threat=Threat("linf", 0.05))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = run_attack(model, x, y, range(IMAGES), attack, seed=0).adversarial
        full = run_attack(Unjudged(model), x, y, range(IMAGES), attack, seed=0).adversarial
        clean, left, without = (accuracy(model, images, y) for images in (x, found, full))
        early = accuracy(model, attack_that_stops(attack, model, x, y), y)
    assert clean > 0.6, "too noisy a network shows nothing"
    assert left < without + 0.03
    assert left < early - 0.3, "an early end costs the attack nothing here, so this shows nothing"


def attack_that_stops(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """What the attack finds that takes the network for one that is not random."""
    with undisturbed(model):
        return attack.perturb(model, x, y, Draws(0, range(len(x)))).detach()


def test_a_network_is_random_where_two_of_its_passes_differ_by_more_than_rounding() -> None:
    linear, x, _ = linear_classes(seed=1, n=20)
    assert not is_random(linear, x)
    assert not is_random(nn.Sequential(Noisy(1e-7), linear), x)
    assert is_random(nn.Sequential(Noisy(1e-2), linear), x)

    class Empty(nn.Module):
        """No score is a number, in every pass."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 10), torch.nan)

    assert not is_random(Empty(), x)


@pytest.mark.parametrize("name", INNER)
def test_any_inner_attack_goes_on_where_the_surrogate_is_wrong_already(attacks: dict, name: str) -> None:
    """The surrogate is wrong on every image, so that a search that asked it would return the images."""
    w = torch.ones(16) / 16
    target, surrogate = Linear(w, -0.46), Linear(w, -1.0)
    x, y = torch.full((5, 16), 0.5), torch.ones(5, dtype=torch.int64)
    attack = replace(few(attacks[name]), threat=Threat("linf", 0.1))
    if name == "noise":
        attack = replace(attack, distribution="sign", noise_draws=100)
        target = Linear(torch.eye(16)[0], -0.46)  # half of the draws break it
    outcome = run_attack(target, x, y, range(5), Transfer(attack, {"wrong": surrogate}), seed=0)
    assert (outcome.distance > 0.0999).all()
    if name == "noise":
        assert int((~outcome.robust).sum()) > 0
    else:
        assert not outcome.robust.any()

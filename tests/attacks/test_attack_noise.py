"""Noise breaks what chance says it breaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import Linear, distances_of, linear_classes
from torch import Tensor

from lat import norms
from lat.attacks import Draws, Noise, Threat, run_attack


def share(noise: Noise, model: torch.nn.Module, n: int = 4000) -> float:
    """The part of n equal images (0.5, 0.5) of class 1 that the noise breaks."""
    x, y = torch.full((n, 2), 0.5), torch.ones(n, dtype=torch.int64)
    return 1 - float(run_attack(model, x, y, range(n), noise, seed=0).robust.float().mean())


@pytest.mark.parametrize("noise_draws", [1, 3])
def test_noise_breaks_with_the_probability_of_a_linear_network(noise_draws: int) -> None:
    # Class 1 is left where the two shifts add up to less than -0.15: of the square of side 0.2 the corner with legs of
    # 0.05 lies there, a thirty-second; of its four corners, one.
    model = Linear(torch.tensor([1.0, 1.0]), -0.85)
    for distribution, p in (("uniform", 1 / 32), ("sign", 1 / 4)):
        noise = Noise(Threat("linf", 0.1), None, noise_draws, distribution)
        expected = 1 - (1 - p) ** noise_draws
        assert share(noise, model) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


@pytest.mark.parametrize("distribution", ["uniform", "sign"])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_noise_never_breaks_what_is_farther_than_the_radius(distribution: str, norm: str, dual: int) -> None:
    model, x, y = linear_classes(0, 20)
    exact = distances_of(model, x, y, dual)
    noise = Noise(Threat(norm, 0.999 * float(exact.min())), None, 200, distribution)
    assert run_attack(model, x, y, range(20), noise, seed=0).robust.all()
    far = replace(noise, threat=Threat(norm, 0.4 if norm == "linf" else 4.0))
    assert not run_attack(model, x, y, range(20), far, seed=0).robust.all()


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_signs_move_every_element_by_the_same_amount(seed: int, size: int) -> None:
    x, y = torch.full((3, size), 0.5), torch.ones(3, dtype=torch.int64)
    model = Linear(torch.zeros(size), 1.0)
    for norm, step in (("linf", 0.1), ("l2", 0.1 / size**0.5)):
        found = Noise(Threat(norm, 0.1), None, 1, "sign").perturb(model, x, y, Draws(seed, range(3)))
        torch.testing.assert_close((found - x).abs(), torch.full((3, size), step), rtol=1e-5, atol=1e-7)


def test_an_image_that_is_wrong_draws_nothing_and_stays() -> None:
    model = Linear(torch.tensor([1.0, 1.0]), -0.85)
    x, y = torch.tensor([[0.5, 0.5], [0.1, 0.1]]), torch.ones(2, dtype=torch.int64)
    draws = Draws(0, range(2))
    found = Noise(Threat("linf", 0.01), None, 5, "uniform").perturb(model, x, y, draws)
    assert torch.equal(found[1], x[1])
    assert 0 < float(norms.size(found - x, "linf")[0]) <= 0.01
    like: Tensor = torch.zeros(2, 3)
    assert torch.equal(draws.uniform(like)[1], Draws(0, range(2)).uniform(like)[1])

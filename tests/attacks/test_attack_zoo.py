"""ZOO: slopes from scores alone, and the distance that they lead to."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import Digits, distances_of, linear_classes

from lat.attacks import Attack, Draws, run_attack
from lat.attacks.losses import Exact, margin
from lat.evaluation import evaluate


@pytest.fixture
def zoo(attacks: dict[str, Attack]) -> Attack:
    """A short search on small images."""
    return replace(attacks["zoo"], steps=60, coordinates=16, search_steps=2, examples=None)


def test_its_slopes_are_those_of_the_penalty(digits: Digits, zoo: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(digits.model).double()
    x, y = digits.x[:30].double(), digits.y[:30]
    chosen = Draws(0, range(30)).uniform(x[:, 0, 0, :5]).mul(64).long()
    margins, gradient, _ = Exact(model, y, margin)(x)
    expected = -gradient.flatten(1).gather(1, chosen) * (margins < 0)[:, None]
    assert int((margins > 0).sum()) >= 1  # the penalty is cut where the image is wrong
    with torch.no_grad():
        found = zoo._slopes(model, x, y, x.flatten(1), chosen)
        monkeypatch.setattr("lat.attacks.zoo.ROWS", 70)  # seven images at a time: no other slopes
        cut = zoo._slopes(model, x, y, x.flatten(1), chosen)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cut, found, rtol=1e-9, atol=1e-9)


def test_it_finds_the_distance_to_the_hyperplanes(zoo: Attack) -> None:
    model, x, y = linear_classes(2, 20)
    exact = distances_of(model, x, y, 2)
    patient = replace(zoo, steps=400, lr=0.003, search_steps=4, initial_constant=1e-3)  # the scores are steep
    outcome = run_attack(model, x, y, range(20), patient, seed=0)
    assert not outcome.robust.any()
    assert (outcome.distance >= exact * (1 - 1e-3)).all()  # nothing closer exists
    assert float((outcome.distance / exact).median()) < 1.2


def test_it_asks_for_no_gradient_and_is_no_better_than_the_attack_that_does(
    digits: Digits, attacks: dict[str, Attack], zoo: Attack
) -> None:
    x, y = digits.x[:25], digits.y[:25]
    with torch.inference_mode():  # where nothing can be differentiated
        blind = run_attack(digits.model, x, y, range(25), replace(zoo, steps=150, search_steps=3), seed=0)
    seeing = run_attack(digits.model, x, y, range(25), attacks["cw_l2"], seed=0)
    assert not blind.robust.any()
    assert float(blind.distance.median()) < 1.5 * float(seeing.distance.median())
    assert (blind.distance >= seeing.distance * 0.9).all()


def test_its_verdicts_do_not_depend_on_the_size_of_the_batches(digits: Digits, zoo: Attack) -> None:
    model, x, y = copy.deepcopy(digits.model).double(), digits.x[:20].double(), digits.y[:20]
    whole = evaluate(model, x, y, {"zoo": zoo}, seed=3)
    cut = evaluate(model, x, y, {"zoo": zoo}, seed=3, batch=7)
    np.testing.assert_array_equal(cut.verdicts["zoo"], whole.verdicts["zoo"])
    np.testing.assert_allclose(cut.distances["zoo"], whole.distances["zoo"], rtol=1e-6)


def test_an_image_that_is_wrong_stays(digits: Digits, zoo: Attack) -> None:
    x = digits.x[:3]
    wrong = (digits.model(x).argmax(1) + 1) % 10
    outcome = run_attack(digits.model, x, wrong, range(3), zoo, seed=0)
    assert torch.equal(outcome.adversarial, x)
    assert outcome.distance.tolist() == [0.0, 0.0, 0.0]

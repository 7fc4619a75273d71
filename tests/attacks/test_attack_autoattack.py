"""AutoAttack through `lat` is pyautoattack's, and disturbs nothing around it."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pyautoattack
import pytest
import torch
from small_networks import Digits, distances_of, linear_classes

from lat.attacks import AutoAttack, Draws, Threat, run_attack
from lat.attacks.autoattack import MEMBERS
from lat.attacks.foreign import batch_seed
from lat.evaluation import evaluate

FAST = ("apgd-ce", "apgd-t")


@pytest.mark.parametrize(
    ("norm", "theirs", "radius", "names"), [("linf", "Linf", 0.1, MEMBERS), ("l2", "L2", 0.4, MEMBERS[:3])]
)
def test_autoattack_is_pyautoattack_called_directly(
    digits: Digits, attacks: dict, norm: str, theirs: str, radius: float, names: tuple[str, ...]
) -> None:
    x, y, n = digits.x[:40], digits.y[:40], 40
    attack = replace(attacks["autoattack"], threat=Threat(norm, radius), attacks=names)
    ours = run_attack(digits.model, x, y, range(n), attack, seed=7)
    seed = batch_seed(Draws(7, range(n)), 0)
    with torch.random.fork_rng(devices=[]):
        direct = pyautoattack.AutoAttack(digits.model, norm=theirs, eps=radius, seed=seed)
        assert tuple(direct.attacks_to_run) == MEMBERS  # the standard version is all of them, in this order
        direct.attacks_to_run = list(names)
        found, labels = direct.run_standard_evaluation(x, y, batch_size=n)
    assert torch.equal(ours.robust, labels == y)
    broken = ~ours.robust
    assert 5 <= int(broken.sum()) <= n - 3  # both verdicts occur
    torch.testing.assert_close(ours.adversarial, found, rtol=0, atol=1e-6)  # what projecting takes off is rounding


@pytest.mark.parametrize(
    ("name", "norm", "reach"),
    [
        ("apgd-ce", "linf", 1.3),
        ("apgd-ce", "l2", 1.3),
        ("apgd-t", "linf", 1.01),
        ("apgd-t", "l2", 1.01),
        ("fab-t", "linf", 1.01),
        ("fab-t", "l2", 1.01),
        ("square", "linf", 4.0),
    ],
)
def test_a_linear_network_breaks_beyond_its_margin_over_the_dual_norm(name: str, norm: str, reach: float) -> None:
    # The cross-entropy pulls towards all nine other classes, and squares do not lie along the weights: these two need a
    # radius that many times the distance.
    model, x, y = linear_classes(0, 40)
    exact = distances_of(model, x, y, 1 if norm == "linf" else 2)
    radius = float(exact.quantile(0.7))
    attack = AutoAttack(Threat(norm, radius), None, [name], 40)
    robust = run_attack(model, x, y, range(40), attack, seed=0).robust
    assert robust[exact > radius].all()  # twelve that nothing can break
    within = exact * reach < radius
    assert int(within.sum()) >= 3
    assert not robust[within].any()


def test_the_ensemble_breaks_what_each_of_its_members_breaks(digits: Digits, attacks: dict) -> None:
    # The members of an ensemble draw as they do alone, but only for the examples that those before them left over.
    x, y = digits.x[:60], digits.y[:60]
    both = replace(attacks["autoattack"], attacks=list(FAST))
    together = run_attack(digits.model, x, y, range(60), both, seed=0).robust
    first = run_attack(digits.model, x, y, range(60), replace(both, attacks=[FAST[0]]), seed=0).robust
    assert not (together & ~first).any()
    backwards = run_attack(digits.model, x, y, range(60), replace(both, attacks=list(FAST[::-1])), seed=0)
    assert torch.equal(together, backwards.robust)  # the order is the standard one


def test_an_evaluation_cut_at_multiples_of_the_batch_is_the_same(digits: Digits, attacks: dict) -> None:
    attack = replace(attacks["apgd_ce"], batch=10, examples=None)
    x, y = digits.x[:45], digits.y[:45]

    def verdicts(batch: int) -> np.ndarray:
        return evaluate(digits.model, x, y, {"apgd_ce": attack}, seed=1, batch=batch).verdicts["apgd_ce"]

    np.testing.assert_array_equal(verdicts(10), verdicts(1000))
    np.testing.assert_array_equal(verdicts(20), verdicts(1000))


def test_generators_the_mode_of_determinism_and_a_trace_function_come_back(digits: Digits, attacks: dict) -> None:
    def trace(frame: object, event: str, argument: object) -> None:
        return None

    before, mode, outer = torch.get_rng_state(), torch.get_deterministic_debug_mode(), sys.gettrace()
    torch.set_deterministic_debug_mode("error")
    sys.settrace(trace)
    try:
        run_attack(digits.model, digits.x[:5], digits.y[:5], range(5), attacks["apgd_ce"], seed=0)
        kept = sys.gettrace(), torch.get_deterministic_debug_mode()
    finally:
        sys.settrace(outer)
        torch.set_deterministic_debug_mode(mode)
    assert kept == (trace, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_draws_differ_by_seed_and_by_batch(digits: Digits, attacks: dict) -> None:
    assert len({batch_seed(Draws(seed, range(8)), first) for seed in (0, 1) for first in (0, 4)}) == 4


def test_images_and_scores_it_cannot_attack_are_refused(digits: Digits, attacks: dict) -> None:
    attack, draws = attacks["apgd_ce"], Draws(0, range(2))
    x, y = digits.x[:2], digits.y[:2]
    for wrong in (x.flatten(1), x.double()):
        with pytest.raises(ValueError, match=r"AutoAttack needs float32 \(n, channels, height, width\)"):
            attack.perturb(digits.model, wrong, y, draws)
    few = torch.nn.Sequential(digits.model, torch.nn.Linear(10, 9))
    with pytest.raises(ValueError, match="9 classes; the standard version of AutoAttack needs at least 10"):
        attack.perturb(few, x, y, draws)


def test_a_ball_of_radius_nothing_changes_nothing(digits: Digits, attacks: dict) -> None:
    x, y = digits.x[:20], digits.y[:20]
    outcome = run_attack(digits.model, x, y, range(20), replace(attacks["apgd_ce"], threat=Threat("linf", 0.0)), seed=0)
    assert torch.equal(outcome.robust, digits.model(x).argmax(1) == y)

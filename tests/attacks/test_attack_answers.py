"""Attacks where the answer is known: linear networks, breakable ones, and ones that mask their gradients."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from small_networks import Digits, Linear
from torch import Tensor, nn

from lat import norms
from lat.attacks import CWL2, Draws, Threat, from_settings, run_attack
from lat.attacks.ascent import ascend
from lat.attacks.losses import Exact, Seen, cross_entropy, margin
from lat.attacks.protocol import Unjudged

BALL = ("fgsm", "ifgsm", "pgd", "eot", "cw", "mi_fgsm", "pgd_restarts", "cw_restarts")
WIDE = (-100.0, 100.0)  # a box that is never reached


def at_radius(attack, radius: float, norm: str = "linf", box: tuple[float, float] = (0.0, 1.0)):
    return replace(attack, threat=Threat(norm, radius, box))


def linear_case(seed: int, size: int) -> tuple[Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(size, generator=generator, dtype=torch.float64)
    model = Linear(w, torch.randn(1, generator=generator, dtype=torch.float64).squeeze())
    x = torch.randn(3, size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        y = model(x).argmax(1)
    return model, x, y


@pytest.mark.parametrize("name", BALL)
@pytest.mark.parametrize(("norm", "dual"), [("linf", "l1"), ("l2", "l2")])
def test_a_linear_network_breaks_exactly_at_its_margin_over_the_dual_norm(
    attacks: dict, name: str, norm: str, dual: str
) -> None:
    if name == "eot":
        attacks["eot"] = replace(attacks["eot"], noise_draws=2)  # the gradient is the same everywhere
    if name.endswith("_restarts"):
        attacks[name] = replace(attacks[name], restarts=2)
    beyond = (
        1.001 if norm == "linf" or name in ("fgsm", "ifgsm", "mi_fgsm") else 1.02
    )  # a direction is approached, a corner reached
    for seed in range(2):
        model, x, y = linear_case(seed, 6)
        with torch.no_grad():
            margins = -margin(model(x), y)
            distance = margins / norms.size(model.w[None], dual)
        for i in range(len(x)):
            for factor, robust in ((0.999, True), (beyond, False)):
                attack = at_radius(attacks[name], factor * float(distance[i]), norm, WIDE)
                outcome = run_attack(model, x[i : i + 1], y[i : i + 1], [i], attack, seed=seed)
                assert outcome.robust.tolist() == [robust], (name, norm, factor)


@pytest.mark.parametrize("name", ["cw_l2", "lbfgs"])
def test_a_search_for_the_smallest_distance_finds_that_to_the_hyperplane(attacks: dict, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(40, generator=generator, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(12, 40, generator=generator, dtype=torch.float64)
    model = Linear(w, -float(x.mean(0) @ w))
    with torch.no_grad():
        scores = model(x)
        y = scores.argmax(1)
    exact = -margin(scores.detach(), y) / w.norm()
    attack = attacks[name] if name == "cw_l2" else replace(attacks[name], search_steps=16)  # its c decides how near
    outcome = run_attack(model, x, y, range(12), attack, seed=0)
    assert not outcome.robust.any()
    assert (outcome.distance >= exact * (1 - 1e-9)).all()  # nothing closer exists
    far = exact > 0.01  # two hundred iterations do not settle to less than a hundredth of that
    assert int(far.sum()) >= 10
    assert (outcome.distance[far] <= exact[far] * 1.04).all()
    along = ((outcome.adversarial - x) @ w).abs() / (outcome.distance * w.norm())
    assert float(along[far].min()) > 0.98  # and the way there is along the normal


@pytest.mark.parametrize("name", ["cw_l2", "lbfgs"])
def test_a_search_for_the_smallest_distance_leaves_what_is_misclassified_or_cannot_be(attacks: dict, name: str) -> None:
    class Stubborn(nn.Module):
        """Right on the second image whatever is added to it, wrong on the first."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum(1) * 0 - 1, x.sum(1) * 1e-3 + 5], 1)

    x = torch.full((2, 3), 0.5)
    quick = replace(attacks[name], steps=5)
    outcome = run_attack(Stubborn(), x, torch.tensor([0, 1]), range(2), quick, seed=0)
    assert outcome.robust.tolist() == [False, True]
    assert torch.equal(outcome.adversarial, x)
    assert outcome.distance.tolist() == [0.0, 0.0]


def test_cw_l2_moves_pixels_at_the_edges_of_the_box() -> None:
    # The nearest adversarial example of an all-black image: brighten one pixel.
    model = Linear(torch.tensor([-1.0, 0.0, 0.0]), 0.5)
    attack = CWL2(Threat("l2", None), None, 3, 200, 0.01, 0.99, 1.0, 0.0)
    black, y = torch.zeros(1, 3), torch.tensor([1])
    outcome = run_attack(model, black, y, [0], attack, seed=0)
    assert outcome.robust.tolist() == [False]
    assert float(outcome.distance) == pytest.approx(0.5, rel=0.03)
    stuck = run_attack(model, black, y, [0], replace(attack, shrink=0.999999), seed=0)
    assert stuck.robust.tolist() == [True]  # with the usual factor the same pixel never gets there


@pytest.mark.parametrize("name", BALL)
def test_a_network_made_to_be_broken_is_broken(digits: Digits, attacks: dict, name: str) -> None:
    attack = at_radius(attacks[name], 0.5)
    clean = digits.model(digits.x).argmax(1) == digits.y
    outcome = run_attack(digits.model, digits.x, digits.y, range(len(digits.x)), attack, seed=0)
    assert float(outcome.robust.sum() / clean.sum()) < 0.05


@pytest.mark.parametrize("name", ["cw_l2", "lbfgs"])
def test_a_search_for_the_smallest_distance_breaks_a_network_made_to_be_broken(
    digits: Digits, attacks: dict, name: str
) -> None:
    x, y = digits.x[:25], digits.y[:25]
    outcome = run_attack(digits.model, x, y, range(25), replace(attacks[name], search_steps=3), seed=0)
    assert float(outcome.robust.float().mean()) < 0.05
    assert 0.05 < float(outcome.distance.median()) < 1.5


def test_more_steps_are_at_least_as_strong_and_a_larger_ball_breaks_more(digits: Digits, attacks: dict) -> None:
    def accuracy(name: str, radius: float) -> float:
        attack = at_radius(attacks[name], radius)
        outcome = run_attack(digits.model, digits.x, digits.y, range(len(digits.x)), attack, seed=0)
        return float(outcome.robust.float().mean())

    assert accuracy("pgd", 0.1) <= accuracy("ifgsm", 0.1) + 0.005 <= accuracy("fgsm", 0.1) + 0.01
    by_radius = [accuracy("pgd", radius) for radius in (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)]
    assert by_radius == sorted(by_radius, reverse=True)
    assert by_radius[0] == pytest.approx(float((digits.model(digits.x).argmax(1) == digits.y).float().mean()))
    assert by_radius[-1] == 0


class Scaled(nn.Module):
    """The same decisions with scores so large that the cross-entropy's float32 gradient is exactly zero."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.model(x)


def test_the_margin_attack_sees_through_saturated_scores(digits: Digits, attacks: dict) -> None:
    x, y = digits.x, digits.y
    masked = Scaled(digits.model, 1e4)

    def accuracy(name: str, model: nn.Module) -> float:
        return float(run_attack(model, x, y, range(len(x)), attacks[name], seed=0).robust.float().mean())

    assert accuracy("fgsm", masked) > accuracy("fgsm", digits.model) + 0.1  # cross-entropy is fooled
    assert accuracy("cw", masked) == pytest.approx(accuracy("cw", digits.model), abs=0.005)


def test_the_margin_attack_keeps_the_best_point_it_has_seen(digits: Digits) -> None:
    x, y = digits.x[:60], digits.y[:60]
    inner = Exact(Unjudged(digits.model), y, margin)  # all its points are seen, those after it has broken an image too
    seen: list[Tensor] = []

    class Recording:
        def __call__(self, point: Tensor) -> Seen:
            found = inner(point)
            seen.append(found.loss)
            return found

        def rows(self, rows: Tensor) -> Recording:
            raise AssertionError("nobody leaves")

    coarse = {"steps": 6, "step": 0.3}  # steps as large as the ball: the margin goes up and down
    best = ascend(Recording(), x, Threat("linf", 0.3), keep="highest", **coarse)
    last = ascend(inner, x, Threat("linf", 0.3), **coarse)
    highest = torch.stack(seen).amax(0)
    assert len(seen) == 7
    torch.testing.assert_close(inner(best)[0], highest)
    assert float((inner(last)[0] < highest - 1e-3).float().mean()) > 0.1  # the last point alone would have been weaker


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 10**6))
@example(n=1, classes=2, seed=0)
def test_the_margin_is_positive_exactly_where_another_class_scores_higher(n: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, classes, generator=generator)
    y = torch.randint(0, classes, (n,), generator=generator)
    assert torch.equal(margin(scores, y) > 0, scores.argmax(1) != y)
    for i in range(n):
        rest = [float(scores[i, j]) for j in range(classes) if j != int(y[i])]
        assert float(margin(scores, y)[i]) == pytest.approx(max(rest) - float(scores[i, y[i]]), abs=1e-6)


def test_tiny_gradients_do_not_depend_on_the_number_of_examples() -> None:
    # The other class has probability e^-87 and its weight is 1e-5: divided by 4096 that would be zero.
    model = Linear(torch.tensor([1e-5, -1e-5]), -87.0)
    one, y = torch.zeros(1, 2), torch.tensor([0])
    alone = Exact(model, y, cross_entropy)(one).gradient
    among = Exact(model, y.expand(4096), cross_entropy)(one.expand(4096, -1)).gradient
    assert float(alone.abs().min()) > 0
    assert torch.equal(among, alone.expand(4096, -1))


def test_the_gradient_is_that_of_central_differences(digits: Digits) -> None:
    model = copy.deepcopy(digits.model).double()
    x, y = digits.x[:8].double(), digits.y[:8]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    for loss in (cross_entropy, margin):
        at = Exact(model, y, loss)
        h = 1e-7
        slope = (at(x + h * direction)[0] - at(x - h * direction)[0]) / (2 * h)
        torch.testing.assert_close((at(x)[1] * direction).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-6)


def test_a_uniform_start_is_used_and_differs_by_seed(digits: Digits, attacks: dict) -> None:
    x, y = digits.x[:10], digits.y[:10]
    one_step = replace(attacks["pgd"], steps=1)
    first = one_step.perturb(digits.model, x, y, Draws(0, range(10)))
    again = one_step.perturb(digits.model, x, y, Draws(0, range(10)))
    other = one_step.perturb(digits.model, x, y, Draws(1, range(10)))
    clean = replace(one_step, start="clean").perturb(digits.model, x, y, Draws(0, range(10)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float((clean - x).abs().max()) == pytest.approx(0.01, rel=1e-4)
    assert float((first - x).abs().max()) > 0.05


def test_eot_without_noise_is_pgd(digits: Digits, settings: dict) -> None:
    silent = from_settings({"eot": settings["eot"] | {"relative_noise": 0.0}, "pgd": settings["pgd"]})
    x, y = digits.x.double(), digits.y
    model = copy.deepcopy(digits.model).double()
    eot, pgd = (silent[name].perturb(model, x, y, Draws(5, range(len(x)))) for name in ("eot", "pgd"))
    torch.testing.assert_close(eot, pgd, rtol=0, atol=1e-12)

"""Attacks by decisions alone: foolbox's, from starting points of ours, asked for no score and no gradient."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from small_networks import Digits, Linear, distances_of, linear_classes
from torch import Tensor, nn

from lat import norms
from lat.attacks import Attack, Draws, Threat, run_attack
from lat.attacks.decisions import NOISE, starting_points
from lat.attacks.foreign import batch_seed
from lat.evaluation import evaluate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox


@pytest.fixture
def quick(attacks: dict[str, Attack]) -> dict[str, Attack]:
    """The two attacks, short."""
    return {
        "hopskipjump": replace(attacks["hopskipjump"], steps=6, examples=None),
        "boundary": replace(attacks["boundary"], steps=300, examples=None),
    }


class Decided(nn.Module):
    """Only the decision of a network: one for the class it gives, nothing for the others, and no gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scores = self.model(x)
        return nn.functional.one_hot(scores.argmax(1), scores.shape[1]).to(x.dtype)


@pytest.mark.parametrize("name", ["hopskipjump", "boundary"])
def test_decisions_are_all_they_see(digits: Digits, quick: dict[str, Attack], name: str) -> None:
    x, y = digits.x[:30], digits.y[:30]
    scores = run_attack(digits.model, x, y, range(30), quick[name], seed=0)
    decisions = run_attack(Decided(digits.model), x, y, range(30), quick[name], seed=0)
    assert torch.equal(scores.adversarial, decisions.adversarial)
    assert not torch.equal(scores.adversarial, x)


@pytest.mark.parametrize("name", ["hopskipjump", "boundary"])
def test_they_are_foolboxs_called_directly(digits: Digits, quick: dict[str, Attack], name: str) -> None:
    x, y = digits.x[:20], digits.y[:20]
    right = digits.model(x).argmax(1) == y
    x, y = x[right], y[right]
    n = len(x)
    ours = quick[name].perturb(digits.model, x, y, Draws(4, range(n)))
    draws = Draws(4, range(n))
    starts, reachable = starting_points(digits.model, x, y, draws)
    assert reachable.all()
    attack = (
        foolbox.attacks.HopSkipJumpAttack(steps=6, constraint="linf")
        if name == "hopskipjump"
        else foolbox.attacks.BoundaryAttack(steps=300)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(batch_seed(draws, 0))
        model = foolbox.PyTorchModel(copy.deepcopy(digits.model), bounds=(0, 1), device="cpu")
        theirs = attack.run(model, x, foolbox.criteria.Misclassification(y), starting_points=starts)
    if name == "hopskipjump":
        within = norms.size(theirs - x, "linf") <= 0.1
        assert 1 <= int(within.sum()) < n
        assert torch.equal(ours[~within], x[~within])
        ours, theirs = ours[within], theirs[within]
    assert torch.equal(ours, theirs)


def test_hopskipjump_breaks_nearly_all_of_a_linear_network_beyond_its_margin_over_the_dual_norm(
    attacks: dict[str, Attack],
) -> None:
    model, x, y = linear_classes(0, 40)
    exact = distances_of(model, x, y, 1)
    radius = float(exact.quantile(0.7))
    attack = replace(attacks["hopskipjump"], threat=Threat("linf", radius), steps=25)
    robust = run_attack(model, x, y, range(40), attack, seed=0).robust
    assert robust[exact > radius].all()
    within = exact * 1.5 < radius
    assert int(within.sum()) >= 5
    assert float(robust[within].float().mean()) < 0.1  # a few starts lead along a face that is not the nearest


def test_boundary_comes_near_the_distance_to_the_hyperplanes(attacks: dict[str, Attack]) -> None:
    model, x, y = linear_classes(1, 30)
    exact = distances_of(model, x, y, 2)
    outcome = run_attack(model, x, y, range(30), replace(attacks["boundary"], steps=5000), seed=0)
    assert not outcome.robust.any()
    assert (outcome.distance >= exact * (1 - 1e-3)).all()  # nothing closer exists
    assert float((outcome.distance / exact).median()) < 1.05


def test_a_start_is_the_nearest_image_of_another_class_among_noise_black_white_and_the_negative() -> None:
    model = Linear(torch.tensor([1.0, 0.0]), -0.5)  # class 1 on the right
    x, y = torch.tensor([[0.1, 0.3], [0.6, 0.1]]), torch.tensor([0, 1])
    draws = Draws(0, range(2))
    starts, reachable = starting_points(model, x, y, draws)
    assert reachable.all()
    again = Draws(0, range(2))
    noise = [again.uniform(x) for _ in range(NOISE)]
    for i in range(2):
        others = torch.stack([torch.zeros(2), torch.ones(2), 1 - x[i], *(drawn[i] for drawn in noise)])
        others = others[model(others).argmax(1) != y[i]]
        assert torch.equal(starts[i], others[(others - x[i]).norm(dim=1).argmin()])


def test_images_of_one_class_alone_can_be_started(digits: Digits) -> None:
    # Test sets may lie in the order of their classes, so no image of another class need be near.
    for label in range(10):
        x = digits.x[digits.y == label]
        _, reachable = starting_points(digits.model, x, digits.y[digits.y == label], Draws(0, range(len(x))))
        assert reachable.all(), label


@pytest.mark.parametrize("name", ["hopskipjump", "boundary"])
def test_what_is_wrong_or_has_no_start_stays(digits: Digits, quick: dict[str, Attack], name: str) -> None:
    x = digits.x[:2]
    wrong = (digits.model(x).argmax(1) + 1) % 10
    constant = nn.Sequential(copy.deepcopy(digits.model), nn.Linear(10, 10))
    with torch.no_grad():
        constant[1].weight.zero_()
    sure = constant(x).argmax(1)
    for model, y, robust in ((constant, sure, True), (digits.model, wrong, False)):
        outcome = run_attack(model, x, y, range(2), quick[name], seed=0)
        assert torch.equal(outcome.adversarial, x)
        assert outcome.robust.tolist() == [robust] * 2


@pytest.mark.parametrize("name", ["hopskipjump", "boundary"])
def test_an_evaluation_cut_at_multiples_of_the_batch_is_the_same_and_draws_from_no_other_generator(
    digits: Digits, quick: dict[str, Attack], name: str
) -> None:
    x, y = digits.x[:25], digits.y[:25]
    attack = {name: replace(quick[name], batch=10)}
    before = torch.get_rng_state()
    whole = evaluate(digits.model, x, y, attack, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    cut = evaluate(digits.model, x, y, attack, seed=1, batch=10)
    assert (cut.verdicts[name] == whole.verdicts[name]).all()
    if name == "boundary":
        torch.testing.assert_close(
            torch.from_numpy(cut.distances[name]), torch.from_numpy(whole.distances[name]), rtol=0, atol=0
        )

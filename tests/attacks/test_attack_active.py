"""Who is broken leaves: the verdicts are those of the full computation, and what is found is the first wrong point."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from small_networks import Digits, Linear
from torch import Tensor, nn

from lat.attacks import Attack, Draws, Threat, active, run_attack
from lat.attacks.losses import margin
from lat.attacks.protocol import Unjudged

ASCENTS = ("fgsm", "ifgsm", "pgd", "eot", "cw", "mi_fgsm", "pgd_restarts", "cw_restarts")
AT_ONCE, NEVER = 0.0, math.inf


@pytest.fixture(scope="module")
def convolutional(digits: Digits) -> nn.Module:
    """A small convolutional network after a second of training on the first 400 of the held-out digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (
            nn.Conv2d(1, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 10),
        )
        model = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits.x[:400]), digits.y[:400]).backward()
            optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    model.eval()
    assert (model(digits.x[400:]).argmax(1) == digits.y[400:]).float().mean() > 0.85, "the network did not train"
    return model


@pytest.fixture(params=["dense", "convolutional"])
def model(request: pytest.FixtureRequest, digits: Digits) -> nn.Module:
    return digits.model if request.param == "dense" else request.getfixturevalue("convolutional")


class Watching(nn.Module):
    """Keeps every batch that it is shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x.detach().clone())
        return self.model(x)


def quick(attack: Attack) -> Attack:
    """The attack with fewer draws and restarts."""
    few = {"noise_draws": 2, "restarts": 3}
    return replace(attack, **{key: value for key, value in few.items() if hasattr(attack, key)})


@pytest.mark.parametrize("name", ASCENTS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_verdict_differs_from_that_of_the_full_computation(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, digits: Digits, attacks: dict, name: str, norm: str
) -> None:
    x, y = digits.x[:200], digits.y[:200]
    attack = replace(quick(attacks[name]), threat=Threat(norm, 0.06 if norm == "linf" else 0.5))
    robust, shown = {}, {}
    for share in (NEVER, AT_ONCE, active.RECUT_AT):
        monkeypatch.setattr(active, "RECUT_AT", share)
        watching = Watching(model)
        robust[share] = run_attack(watching, x, y, range(200), attack, seed=1).robust
        shown[share] = sum(len(batch) for batch in watching.batches)
    full = robust.pop(NEVER)
    assert 0.02 < float(full.float().mean()) < 0.98
    assert {share: int((verdicts != full).sum()) for share, verdicts in robust.items()} == dict.fromkeys(robust, 0)
    if name != "fgsm":  # whose only look at the network is the first
        assert shown[AT_ONCE] < shown[NEVER]


@pytest.mark.parametrize("name", ["fgsm", "ifgsm", "pgd", "cw", "mi_fgsm"])
@pytest.mark.parametrize("share", [AT_ONCE, 0.3, NEVER])
def test_what_is_found_is_the_first_wrong_point_of_the_full_trajectory(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, digits: Digits, attacks: dict, name: str, share: float
) -> None:
    monkeypatch.setattr(active, "RECUT_AT", share)
    double = copy.deepcopy(model).double()
    x, y = digits.x[:200].double(), digits.y[:200]
    watching = Watching(double)
    last = attacks[name].perturb(Unjudged(watching), x, y, Draws(4, range(200)))
    trajectory = [*watching.batches, last]  # the margin has looked at its last point already
    with torch.no_grad():
        scores = torch.stack([double(point) for point in trajectory])
    wrong = scores.argmax(2) != y
    first = wrong.int().argmax(0)  # 0 too where none is
    expected = torch.where(wrong.any(0).view(-1, 1, 1, 1), torch.stack(trajectory)[first, range(200)], last)
    found = attacks[name].perturb(double, x, y, Draws(4, range(200)))
    assert 0.02 < float(wrong.any(0).double().mean()) < 0.98
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_eot_asks_without_noise_and_those_who_stay_keep_their_draws(
    monkeypatch: pytest.MonkeyPatch, digits: Digits, attacks: dict
) -> None:
    model, x, y = copy.deepcopy(digits.model).double(), digits.x[:100].double(), digits.y[:100]
    attack, n = quick(attacks["eot"]), range(100)
    last = attack.perturb(Unjudged(model), x, y, Draws(2, n))
    for share in (AT_ONCE, NEVER):
        monkeypatch.setattr(active, "RECUT_AT", share)
        found = attack.perturb(model, x, y, Draws(2, n))
        robust = model(found).argmax(1) == y
        assert 10 < int(robust.sum()) < 90
        torch.testing.assert_close(found[robust], last[robust], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["ifgsm", "mi_fgsm"])
def test_on_a_linear_network_it_is_the_first_multiple_of_the_step_beyond_the_margin(attacks: dict, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(8, generator=generator, dtype=torch.float64)
    model = Linear(w)
    x = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        y = model(x).argmax(1)
        distance = -margin(model(x), y) / w.abs().sum()
    radius = float(distance.median())
    attack = replace(attacks[name], steps=10, threat=Threat("linf", radius, (-100.0, 100.0)))
    outcome = run_attack(model, x, y, range(60), attack, seed=0)
    steps = torch.ceil(distance / radius * 10 - 1e-9).clamp(max=10)
    far = (distance / radius - 1).abs() > 1e-6  # the median itself may fall on either side
    torch.testing.assert_close(outcome.distance[far], (steps * radius / 10)[far])
    assert torch.equal(outcome.robust[far], (distance > radius)[far])


def test_a_batch_is_cut_once_the_share_is_broken_and_not_before(monkeypatch: pytest.MonkeyPatch, attacks: dict) -> None:
    model = Linear(torch.ones(1, dtype=torch.float64))
    x = torch.arange(1, 9, dtype=torch.float64)[:, None] / 8  # one more of eight breaks at each step of an eighth
    y = torch.ones(8, dtype=torch.int64)
    attack = replace(attacks["ifgsm"], steps=12, threat=Threat("linf", 1.5, (-2.0, 2.0)))
    sizes = {}
    for share in (AT_ONCE, 0.5, NEVER):
        monkeypatch.setattr(active, "RECUT_AT", share)
        watching = Watching(model)
        found = attack.perturb(watching, x - 1 / 16, y, Draws(0, range(8)))
        torch.testing.assert_close(found, torch.full_like(x, -1 / 16))
        sizes[share] = [len(batch) for batch in watching.batches]
    assert sizes[AT_ONCE] == [8, 8, 7, 6, 5, 4, 3, 2, 1]
    assert sizes[0.5] == [8, 8, 8, 8, 8, 4, 4, 2, 1]
    assert sizes[NEVER] == [8] * 12


def test_scores_that_are_not_finite_end_the_search(attacks: dict) -> None:
    class Bursting(nn.Module):
        """Right everywhere, and without a finite score beyond 0.55."""

        def forward(self, x: Tensor) -> Tensor:
            score = x.flatten(1).sum(1)
            return torch.stack([9 - score, torch.where(score > 0.55, torch.nan, score)], 1)

    x, y = torch.tensor([[0.1], [0.5]]), torch.zeros(2, dtype=torch.int64)
    for name in ("ifgsm", "cw"):
        threat = Threat("linf", 0.1)
        attack = replace(attacks[name], threat=threat, **({"start": "clean"} if name == "cw" else {}))
        outcome = run_attack(Bursting(), x, y, range(2), attack, seed=0)
        assert outcome.robust.tolist() == [True, False]
        assert not outcome.finite
        assert outcome.distance.tolist() == pytest.approx([0.1, 0.06], abs=1e-6)


def test_an_image_that_is_wrong_already_stays_as_it_is(digits: Digits, attacks: dict) -> None:
    wrong = (digits.y + 1) % 10
    right = digits.model(digits.x).argmax(1) == digits.y
    x, y = digits.x[right][:20], wrong[right][:20]
    searches = {"cw_l2": replace(attacks["cw_l2"], steps=5)}
    for name, attack in {**{name: attacks[name] for name in ("fgsm", "ifgsm", "mi_fgsm")}, **searches}.items():
        watching = Watching(digits.model)
        assert torch.equal(attack.perturb(watching, x, y, Draws(0, range(20))), x), name
        assert len(watching.batches) == 1, name

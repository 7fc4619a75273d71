"""Networks whose gradients are masked on purpose are caught, one that is trained with PGD passes: on real digits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from noisy import Noisy
from shuffled_digits import dense, shuffled_digits
from subjects import ATTACKS, SETTINGS, Quantised, Times, evaluated
from torch import Tensor, nn

from lat.attacks import Transfer, run_attack
from lat.audit import Result, examine
from lat.findings import chosen

ATTACKED = ("fgsm", "ifgsm", "pgd", "cw", "pgd_twice", "pgd_restarts", "pgd_curve")
Trained = tuple[nn.Module, Tensor, Tensor]


def trained(adversarial: bool) -> Trained:
    """A 64-64-64-10 network on 1,200 digits, on PGD examples of radius 0.1 if it is told so, and 300 other images."""
    x, y = shuffled_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = dense(64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(12):
            for rows in torch.randperm(1200).split(100):
                seen = x[rows]
                for _ in range(7 if adversarial else 0):
                    seen = seen.requires_grad_()
                    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(seen), y[rows]), seen)
                    moved = seen.detach() + 0.025 * gradient.sign()
                    seen = (x[rows] + (moved - x[rows]).clamp(-0.1, 0.1)).clamp(0, 1)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(seen), y[rows]).backward()
                optimizer.step()
    return model.eval(), x[1200:1500], y[1200:1500]


@pytest.fixture(scope="module")
def undefended() -> Trained:
    return trained(adversarial=False)


@pytest.fixture(scope="module")
def defended() -> Trained:
    return trained(adversarial=True)


def audited(
    model: nn.Module, x: Tensor, y: Tensor, checks: str = "all", attacked: Sequence[str] = ATTACKED
) -> dict[str, Result]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subject = evaluated(model.eval(), x, y, attacked)
        return {result.check: result for result in examine(subject, chosen(SETTINGS, checks))}


def findings(results: dict[str, Result]) -> set[str]:
    return {check for check, result in results.items() if result.status == "found"}


def test_a_network_trained_with_pgd_passes(defended: Trained) -> None:
    results = audited(*defended)
    assert findings(results) == set()
    skipped = {check for check, result in results.items() if result.status == "skipped"}
    slow = {"margin_restarts", "gradient_free", "smaller_distances", "noise_alone"}
    assert skipped == {*slow, "certified@0.1"}, "slow attacks, and a radius past the bounds"
    assert results["certified@0.002"].n
    assert results["breakable"].n


def test_attacks_without_gradients_find_nothing_on_a_network_trained_with_pgd(defended: Trained) -> None:
    model, x, y = defended
    results = audited(model, x[:60], y[:60], attacked=(*ATTACKED, "apgd_t", "square", "noise"))
    assert findings(results) == set()
    made = ("gradient_free@square", "gradient_free@noise", "noise_alone")
    assert {results[check].status for check in made} == {"passed"}


def test_an_undefended_network_is_weak_and_not_masked(undefended: Trained) -> None:
    """More steps or restarts may find an image or two more: PGD is short there, which is no masking."""
    assert findings(audited(*undefended)) <= {"more_steps", "more_restarts"}


def test_saturated_logits_are_caught(undefended: Trained) -> None:
    model, x, y = undefended
    results = audited(nn.Sequential(model, Times(1000.0)), x, y)
    assert findings(results) >= {"zero_gradients", "scaled_logits", "large_ball@1"}


def test_quantised_input_is_caught(undefended: Trained) -> None:
    model, x, y = undefended
    results = audited(nn.Sequential(Quantised(16), model), x, y)
    assert findings(results) >= {"zero_gradients", "large_ball@1", "breakable"}
    assert results["zero_gradients"].value == 1.0


def test_a_random_layer_is_caught(undefended: Trained) -> None:
    model, x, y = undefended
    results = audited(nn.Sequential(Noisy(0.2), model), x[:60], y[:60], "cheap")
    assert findings(results) >= {"repeated_passes"}


def test_dropout_that_is_never_switched_off_is_caught(undefended: Trained) -> None:
    class Dropped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.3, training=True)

    model, x, y = undefended
    assert findings(audited(nn.Sequential(Dropped(), model), x[:60], y[:60], "cheap")) >= {"repeated_passes"}


def test_transfer_finds_what_a_staircase_hides(undefended: Trained) -> None:
    """PGD on the network without its staircase breaks what PGD on the network itself does not."""
    model, x, y = undefended
    masked = nn.Sequential(Quantised(16), model)
    subject = evaluated(masked, x, y, ("pgd", "pgd_restarts"))
    transfer = Transfer(ATTACKS["pgd"], {"without the staircase": model})
    robust = run_attack(masked, x, y, range(len(x)), transfer, 0).robust.numpy()
    index, restarts = subject.verdicts["pgd_restarts"]
    verdicts = {"pgd_restarts": (index, restarts), "transfer": (index, robust)}
    attacks = {**subject.attacks, "transfer": transfer}
    settings = {"gradient_free": SETTINGS["gradient_free"] | {"needed": ["pgd_restarts"]}}
    *_, result = examine(type(subject)(masked, x, y, verdicts, subject.clean, attacks, 0), settings)
    assert (result.check, result.status) == ("gradient_free@transfer", "found") and result.value > 10

"""Transfer makes its candidates on the surrogates alone, and only the target decides what they are worth."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from small_networks import Digits, Linear
from torch import Tensor, nn

from lat.attacks import FGSM, SettingError, Threat, Transfer, run_attack
from lat.attacks.protocol import Unjudged
from lat.evaluation import evaluate


def other_digits(digits: Digits, seed: int) -> nn.Module:
    """A network of the same shape, trained from another start on the other half of the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = copy.deepcopy(digits.model)
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits.x[300:]), digits.y[300:]).backward()
            optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    return model


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0.05, 2))
@example(seed=0, size=6, radius=0.3)
def test_a_step_on_one_linear_network_breaks_another_by_their_inner_product(
    seed: int, size: int, radius: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    v, w, point = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(3))
    target, surrogate = Linear(w, 0.1), Linear(v)
    x = point[None]
    y = target(x).argmax(1)
    margin = float(abs(w @ point + 0.1))
    gain = radius * float(w @ v.sign())  # what a step of FGSM on v takes from the margin of w, in either class
    attack = Transfer(FGSM(Threat("linf", radius, (-100.0, 100.0)), None), {"v": surrogate})
    broken = not bool(run_attack(target, x, y, [0], attack, seed=0).robust)
    if abs(gain - margin) > 1e-9:
        assert broken == (gain > margin)


def test_a_copy_of_the_target_makes_it_the_inner_attack_to_its_last_step(digits: Digits, attacks: dict) -> None:
    right = digits.model(digits.x).argmax(1) == digits.y
    x, y = digits.x[right], digits.y[right]
    transfer = Transfer(attacks["pgd"], {"twin": copy.deepcopy(digits.model)})
    ours = run_attack(digits.model, x, y, range(len(x)), transfer, seed=2)
    inner = run_attack(Unjudged(digits.model), x, y, range(len(x)), attacks["pgd"], seed=2)
    assert torch.equal(ours.adversarial, inner.adversarial)
    assert torch.equal(ours.robust, inner.robust)


def test_an_independent_network_breaks_less_and_two_break_all_that_one_does(digits: Digits, attacks: dict) -> None:
    first, second = other_digits(digits, 1), other_digits(digits, 2)
    x, y = digits.x[:300], digits.y[:300]

    def robust(surrogates: dict[str, nn.Module]) -> Tensor:
        return run_attack(digits.model, x, y, range(300), Transfer(attacks["pgd"], surrogates), seed=0).robust

    white = run_attack(digits.model, x, y, range(300), attacks["pgd"], seed=0).robust
    one, both = robust({"first": first}), robust({"first": first, "second": second})
    clean = digits.model(x).argmax(1) == y
    assert int(white.sum()) + 10 < int(both.sum()) < int(one.sum()) < int(clean.sum())
    assert not (both & ~one).any()


class WithoutGradient(nn.Module):
    """Refuses to be differentiated."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled(), "the target was asked for a gradient"
        return self.model(x)


def test_the_target_is_never_differentiated_and_the_surrogate_comes_back_as_it_was(
    digits: Digits, attacks: dict
) -> None:
    surrogate = other_digits(digits, 1).train()
    transfer = Transfer(replace(attacks["pgd"], steps=3), {"first": surrogate})
    run_attack(WithoutGradient(digits.model), digits.x[:20], digits.y[:20], range(20), transfer, seed=0)
    assert surrogate.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in surrogate.parameters())


def test_verdicts_do_not_depend_on_the_size_of_the_batches(digits: Digits, attacks: dict) -> None:
    surrogates = {"first": other_digits(digits, 1).double(), "second": other_digits(digits, 2).double()}
    transfer = {"transfer": Transfer(replace(attacks["pgd"], steps=5), surrogates)}
    model, x, y = copy.deepcopy(digits.model).double(), digits.x[:60].double(), digits.y[:60]
    whole = evaluate(model, x, y, transfer, seed=3).verdicts["transfer"]
    assert (evaluate(model, x, y, transfer, seed=3, batch=7).verdicts["transfer"] == whole).all()


def test_no_surrogate_is_refused(attacks: dict) -> None:
    with pytest.raises(SettingError, match="surrogates: none is given"):
        Transfer(attacks["pgd"], {})

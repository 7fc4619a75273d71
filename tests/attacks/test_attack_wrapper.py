"""`run_attack` believes nothing: it checks what an attack returns, judges it, and leaves the model as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from small_networks import Digits, Linear
from torch import Tensor, nn

from lat import norms
from lat.attacks import Attack, AttackError, Draws, Threat, run_attack
from lat.attacks.losses import NoGradient

NEAR = Threat("linf", 0.1)


@dataclass(frozen=True)
class Returning:
    """An attack that returns what `found` makes of the images."""

    found: Callable[[Tensor], Tensor]
    threat: Threat = NEAR
    examples: int | None = None

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return self.found(x)


def judge(attack: Attack, x: Tensor, y: Tensor | None = None, model: nn.Module | None = None):
    model = model or Linear(torch.ones(x[0].numel(), dtype=x.dtype), -0.5)
    y = torch.ones(len(x), dtype=torch.int64) if y is None else y
    return run_attack(model, x, y, range(len(x)), attack, seed=0, name="cheat")


X = torch.full((3, 1, 2, 2), 0.5)


def spoil(x: Tensor, value: float) -> Tensor:
    out = x.clone()
    out[1, 0, 0, 0] = value
    return out


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda x: spoil(x, 0.65), r"cheat: a candidate leaves the linf ball of radius 0.1 by 0.05"),
        (lambda x: spoil(x, 0.5 + 0.1 + 1e-5), r"cheat: .*ball of radius 0.1 by 9.98e-06"),
        (lambda x: spoil(x, 1.25), r"cheat: a candidate leaves the box \(0.0, 1.0\) by 0.25"),
        (lambda x: spoil(x, -0.5), r"cheat: a candidate leaves the box \(0.0, 1.0\) by 0.5"),
        (lambda x: spoil(x, math.nan), r"cheat: 1 of 3 candidates are not finite"),
        (lambda x: spoil(x, math.inf), r"cheat: 1 of 3 candidates are not finite"),
        (lambda x: x[:2], r"cheat: candidates are .*\(2, 1, 2, 2\)"),
        (lambda x: x.double(), r"cheat: candidates are torch.float64"),
        (lambda x: x.add_(0.3), r"cheat: a candidate leaves the linf ball of radius 0.1 by 0.2"),  # in place
        (lambda x: None, r"cheat: candidates are no tensor but NoneType$"),
        (lambda x: (x, x), r"cheat: candidates are no tensor but tuple$"),
        (lambda x: x + 0.01 * torch.rand_like(x), r"cheat: the attack drew from torch's global generator; draw from"),
    ],
)
def test_an_attack_that_cheats_is_caught_and_named(found: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        judge(Returning(found), X)


@dataclass(frozen=True)
class Touching(Returning):
    """An attack that does something to the network or the labels, and returns the images."""

    touch: Callable[[nn.Module, Tensor], object] = lambda model, y: None

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        self.touch(model, y)
        return self.found(x)


def test_labels_that_an_attack_overwrites_are_its_own_copy() -> None:
    y = torch.tensor([1, 0, 1])
    plain = judge(Returning(lambda x: x), X, y)
    touched = judge(Touching(lambda x: x, touch=lambda m, z: z.zero_()), X, y)
    assert torch.equal(plain.robust, touched.robust)
    assert plain.robust.tolist() == y.bool().tolist() == [True, False, True]


def replaced(model: nn.Module) -> None:
    model.last.weight = nn.Parameter(model.last.weight.clone(), requires_grad=False)


@pytest.mark.parametrize(
    ("touch", "message"),
    [
        (
            lambda m: m.first.bias.add_(1),
            r"cheat: the attack changed 'first\.bias' of the network; let it work on a copy",
        ),
        (lambda m: m.last.weight.data.zero_(), r"cheat: the attack changed 'last\.weight' of the network"),
        (lambda m: m.normal.train()(torch.rand(4, 16)), r"cheat: the attack changed 'normal\.running_mean'"),
        (replaced, r"cheat: the attack changed 'last\.weight' of the network"),
        (lambda m: m.train(), r"cheat: the attack left 'the network' in training mode; put it back into eval mode"),
        (lambda m: m.drop.train(), r"cheat: the attack left 'drop' in training mode"),
    ],
)
def test_an_attack_that_touches_the_network_is_caught_and_undone(
    touch: Callable[[nn.Module], object], message: str, digits: Digits
) -> None:
    model = Mixed()
    before = model.state()
    for weight in (0.5, math.nan):  # the weights of a network that diverged are no numbers, and equal themselves
        with torch.no_grad():
            model.last.bias[0] = before[3][-1][0] = weight
        attack = Touching(lambda x: x, touch=lambda m, y: touch(m))
        judge(Returning(lambda x: x), digits.x[:4], digits.y[:4], model)
        with pytest.raises(AttackError, match=message):
            judge(attack, digits.x[:4], digits.y[:4], model)
        assert before[0] == model.state()[0]
        now, kept = model.state()[3], before[3]
        assert all(torch.equal(a.nan_to_num(nan=7.0), b.nan_to_num(nan=7.0)) for a, b in zip(now, kept, strict=True))


def test_a_network_that_draws_from_the_global_generator_may(digits: Digits) -> None:
    class Faint(nn.Module):
        """Random by less than `is_random` sees."""

        def forward(self, x: Tensor) -> Tensor:
            scores = digits.model(x)
            return scores + 1e-9 * torch.rand_like(scores)

    passing = Touching(lambda x: x, touch=lambda m, y: m(digits.x[:4]))
    assert judge(passing, digits.x[:4], digits.y[:4], Faint()).robust.shape == (4,)


def test_an_attack_that_leaves_the_l2_ball_is_caught() -> None:
    stretched = Returning(lambda x: x + 0.06, Threat("l2", 0.1))  # length 0.12 in four dimensions
    with pytest.raises(AttackError, match=r"l2 ball of radius 0\.1 by 0\.02"):
        judge(stretched, X)


def test_rounding_is_forgiven_and_taken_off() -> None:
    outcome = judge(Returning(lambda x: x + 0.1 + 1e-7), X)
    assert float((outcome.adversarial - X).abs().max()) <= 0.1 + 6e-8
    minimal = judge(Returning(lambda x: (x + 0.6).clamp(0, 1) + 1e-7, Threat("l2", None)), X)
    assert float(minimal.adversarial.max()) == 1.0


def test_images_outside_the_box_are_refused() -> None:
    for value in (1.5, -0.5, math.nan):
        with pytest.raises(ValueError, match="an image leaves the box"):
            judge(Returning(lambda x: x), spoil(X, value))


def test_a_verdict_is_robust_only_where_the_model_is_right_on_both_images() -> None:
    model = Linear(torch.tensor([1.0, 0.0]), -0.5)
    x = torch.tensor([[0.45, 0.0], [0.55, 0.0], [0.9, 0.0], [0.1, 0.0]])  # wrong, right, right, wrong for class 1
    y = torch.ones(4, dtype=torch.int64)
    up = judge(Returning(lambda z: (z + 0.1).clamp(0, 1)), x, y, model)
    assert up.robust.tolist() == [False, True, True, False]  # the first became right: it is broken all the same
    down = judge(Returning(lambda z: (z - 0.1).clamp(0, 1)), x, y, model)
    assert down.robust.tolist() == [False, False, True, False]
    torch.testing.assert_close(down.distance, torch.full((4,), 0.1))


def test_success_is_counted_on_what_was_found_not_on_what_was_claimed(digits: Digits, attacks: dict) -> None:
    attack = attacks["pgd"]
    outcome = run_attack(digits.model, digits.x, digits.y, range(len(digits.x)), attack, seed=1)
    with torch.no_grad():
        clean = digits.model(digits.x).argmax(1) == digits.y
        found = digits.model(outcome.adversarial).argmax(1) == digits.y
    assert torch.equal(outcome.robust, clean & found)
    assert float(norms.size(outcome.adversarial - digits.x, "linf").max()) <= 0.1 + 1e-6
    torch.testing.assert_close(outcome.distance, norms.size(outcome.adversarial - digits.x, "linf"))


class Mixed(nn.Module):
    """A network with batch normalisation and dropout, some modules in training and some not, one weight frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.first = nn.Flatten(), nn.Linear(64, 16)
        self.normal, self.drop, self.last = nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 10)
        self.train()
        self.drop.eval()
        self.first.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.normal(self.first(self.flat(x)).relu())))

    def state(self) -> tuple[list[bool], list[bool], list[object], list[Tensor]]:
        return (
            [module.training for module in self.modules()],
            [parameter.requires_grad for parameter in self.parameters()],
            [parameter.grad for parameter in self.parameters()],
            [tensor.clone() for tensor in self.state_dict().values()],
        )


def same(one: tuple, other: tuple) -> bool:
    tensors = all(torch.equal(a, b) for a, b in zip(one[3], other[3], strict=True))
    return one[:3] == other[:3] and tensors


def test_the_model_comes_back_as_it_was(digits: Digits, attacks: dict) -> None:
    model = Mixed()
    before = model.state()
    assert sorted(set(before[0])) == [False, True]
    assert sorted(set(before[1])) == [False, True]
    for name in ("fgsm", "ifgsm", "pgd", "eot", "cw", "mi_fgsm", "pgd_restarts", "autoattack"):
        run_attack(model, digits.x[:20], digits.y[:20], range(20), attacks[name], seed=0)
        assert same(before, model.state()), name
    assert all(gradient is None for gradient in model.state()[2])


def test_the_model_comes_back_as_it_was_whatever_is_raised(digits: Digits) -> None:
    model = Mixed()
    before = model.state()
    seen = []

    @dataclass(frozen=True)
    class Failing(Returning):
        def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
            seen.append((any(m.training for m in model.modules()), any(p.requires_grad for p in model.parameters())))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_attack(model, digits.x[:5], digits.y[:5], range(5), Failing(lambda x: x), seed=0)
    assert seen == [(False, False)]  # in eval mode, no weight needs a gradient
    assert same(before, model.state())
    with pytest.raises(AttackError):
        run_attack(model, digits.x[:5], digits.y[:5], range(5), Returning(lambda x: x + 7), seed=0)
    assert same(before, model.state())


def test_weight_gradients_are_not_even_made_by_an_attack_on_its_own(digits: Digits, attacks: dict) -> None:
    model = Mixed().eval()
    for name in ("fgsm", "pgd", "eot", "cw"):
        attacks[name].perturb(model, digits.x[:4], digits.y[:4], Draws(0, range(4)))
        assert all(parameter.grad is None for parameter in model.parameters()), name


def test_a_model_that_hides_its_gradient_is_an_error_not_a_robust_model(digits: Digits, attacks: dict) -> None:
    class Hiding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return digits.model(x).detach()

    for name in ("fgsm", "pgd", "cw"):
        with pytest.raises(NoGradient, match="carry no gradient"):
            run_attack(Hiding(), digits.x[:4], digits.y[:4], range(4), attacks[name], seed=0)


def test_no_images_are_no_verdicts(digits: Digits, attacks: dict) -> None:
    outcome = run_attack(digits.model, digits.x[:0], digits.y[:0], [], attacks["pgd"], seed=0)
    assert len(outcome.robust) == len(outcome.distance) == len(outcome.adversarial) == 0
    assert outcome.finite

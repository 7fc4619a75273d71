"""The attacks against independent implementations: foolbox, torchattacks, cleverhans.

Which for which, and why no others: foolbox's C&W counts failures as successes, torchattacks' C&W cannot move pixels at
the edge of the box.

They return the last point of an ascent, also where an earlier one was wrong. So each is compared twice: image by image
with ours on the same network `Unjudged`, where it goes on to the last step too; and with ours as it is, which must
break all that they break, and whose images of the examples that it does not break must be theirs.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from small_networks import Digits
from torch import Tensor, nn

from lat import norms
from lat.attacks import CWL2, Attack, Draws, Outcome, Threat, run_attack
from lat.attacks.ascent import start_at
from lat.attacks.protocol import Unjudged

with warnings.catch_warnings():
    # Third-party modules, pinned, wanted for their attacks alone: deprecated imports inside them are theirs to mend.
    warnings.simplefilter("ignore")
    import foolbox
    import torchattacks
    from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2

PIXELS_ALLOWED = 1e-4  # fraction of pixels where the sign of a gradient of about zero is taken differently


def differing(ours: Tensor, theirs: Tensor) -> float:
    """The share of pixels that differ by more than rounding."""
    return float(((ours - theirs).abs() > 1e-6).double().mean())


def agree(attack: Attack, theirs: Tensor, digits: Digits, seed: int = 0) -> None:
    """To the last step the same images but for a few pixels, and the same verdicts.

    To the first wrong point: what theirs breaks is broken, and what is not broken is the same image.
    """
    with torch.no_grad():
        right = digits.model(theirs).argmax(1) == digits.y
        last = ours(attack, replace(digits, model=Unjudged(digits.model)), seed).adversarial
        assert differing(last, theirs) <= PIXELS_ALLOWED
        assert torch.equal(digits.model(last).argmax(1) == digits.y, right)
    first = ours(attack, digits, seed)
    assert not (first.robust & ~right).any()
    assert differing(first.adversarial[first.robust], theirs[first.robust]) <= PIXELS_ALLOWED


def by_foolbox(attack: foolbox.Attack, digits: Digits, radius: float, box: tuple[float, float]) -> Tensor:
    wrapped = foolbox.PyTorchModel(copy.deepcopy(digits.model), bounds=box, device="cpu")
    _, clipped, _ = attack(wrapped, digits.x, digits.y, epsilons=radius)
    return clipped


def ours(attack: Attack, digits: Digits, seed: int = 0) -> Outcome:
    return run_attack(digits.model, digits.x, digits.y, range(len(digits.x)), attack, seed)


@pytest.mark.parametrize("radius", [0.02, 0.1, 0.3])
def test_fgsm_is_foolboxs(digits: Digits, attacks: dict, radius: float) -> None:
    theirs = by_foolbox(foolbox.attacks.FGSM(), digits, radius, (0, 1))
    agree(replace(attacks["fgsm"], threat=Threat("linf", radius)), theirs, digits)


@pytest.mark.parametrize("radius", [0.02, 0.1, 0.3])
def test_ifgsm_is_foolboxs(digits: Digits, attacks: dict, radius: float) -> None:
    oracle = foolbox.attacks.LinfBasicIterativeAttack(rel_stepsize=0.1, steps=10, random_start=False)
    theirs = by_foolbox(oracle, digits, radius, (0, 1))
    agree(replace(attacks["ifgsm"], threat=Threat("linf", radius)), theirs, digits)


@pytest.mark.parametrize(("norm", "radius", "box"), [("linf", 0.1, (0.0, 1.0)), ("l2", 1.5, (-9.0, 9.0))])
def test_pgd_is_foolboxs_from_the_same_start(
    digits: Digits, attacks: dict, norm: str, radius: float, box: tuple[float, float]
) -> None:
    # L2 in a box that is never reached: foolbox clips to it after the ball, which is not the nearest point of both.
    attack = replace(attacks["pgd"], threat=Threat(norm, radius, box))
    start = start_at(digits.x, attack.threat, "uniform", Draws(3, range(len(digits.x))))
    base = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD

    class FromThere(base):
        def get_random_start(self, x0, epsilon):
            return type(x0)(start)

    theirs = by_foolbox(FromThere(rel_stepsize=0.1, steps=40), digits, radius, box)
    if norm == "linf":
        agree(attack, theirs, digits, seed=3)
    else:
        # foolbox divides by at least 1e-12: where the gradient is shorter its steps shrink, and ours do not.
        mine = ours(attack, replace(digits, model=Unjudged(digits.model)), seed=3).adversarial
        apart = norms.size(mine - theirs, "linf") > 1e-4
        assert float(apart.double().mean()) <= 0.005


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_mi_fgsm_is_torchattacks(digits: Digits, attacks: dict, decay: float) -> None:
    # torchattacks divides by the mean of |g| and not by its sum: the same but for a factor that no sign sees.
    oracle = torchattacks.MIFGSM(copy.deepcopy(digits.model), eps=0.1, alpha=0.01, steps=10, decay=decay)
    agree(replace(attacks["mi_fgsm"], decay=decay), oracle(digits.x, digits.y), digits)


class Noisy(nn.Module):
    """A network that adds noise prepared beforehand to its input, the next draw at every call."""

    def __init__(self, model: nn.Module, noise: Tensor) -> None:
        super().__init__()
        self.model, self.noise, self.calls = model, noise, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.model(x + self.noise[self.calls - 1])


def test_eot_is_torchattacks_on_a_network_with_the_same_noise(digits: Digits, attacks: dict) -> None:
    steps, draws = 12, 5
    attack = replace(attacks["eot"], start="clean", steps=steps, noise_draws=draws)
    n = len(digits.x)
    streams = Draws(7, range(n))
    like = digits.x[:, None].expand(-1, draws, -1, -1, -1)
    noise = torch.cat([0.05 * streams.normal(like).transpose(0, 1) for _ in range(steps)])
    noisy = Noisy(copy.deepcopy(digits.model), noise)
    oracle = torchattacks.EOTPGD(noisy, eps=0.1, alpha=0.01, steps=steps, eot_iter=draws, random_start=False)
    theirs = oracle(digits.x, digits.y)
    assert noisy.calls == steps * draws
    agree(attack, theirs, digits, seed=7)


def test_eot_is_not_pgd_once_there_is_noise(digits: Digits, attacks: dict) -> None:
    endless = replace(digits, model=Unjudged(digits.model))
    plain = ours(replace(attacks["pgd"], start="clean"), endless).adversarial
    noisy = ours(replace(attacks["eot"], start="clean"), endless).adversarial
    assert float(((plain - noisy).abs() > 1e-3).float().mean()) > 0.01


def test_cw_l2_is_cleverhans(digits: Digits) -> None:
    # One image at a time: cleverhans multiplies (n, 1) constants by (n,) losses, which is right for n = 1 alone. Its
    # Adam is not started again for each constant and ours is, so distances agree and images need not. The images are
    # moved off the edges of the box, where so few iterations get neither attack anywhere.
    kept = torch.nonzero(digits.model(digits.x).argmax(1) == digits.y).flatten()[:5]
    x, y = 0.15 + 0.7 * digits.x[kept], digits.y[kept]
    model = copy.deepcopy(digits.model)
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    assert len(x) >= 4
    search = {"search_steps": 4, "steps": 150, "lr": 0.01, "initial_constant": 1.0, "confidence": 0.0}
    mine = run_attack(model, x, y, range(len(x)), CWL2(Threat("l2", None), None, shrink=0.999999, **search), seed=0)
    theirs = torch.cat(
        [
            carlini_wagner_l2(
                model,
                x[i : i + 1],
                10,
                y=y[i : i + 1],
                lr=0.01,
                initial_const=1.0,
                binary_search_steps=4,
                max_iterations=150,
            )
            for i in range(len(x))
        ]
    )
    assert not (model(theirs).argmax(1) == y).any()
    assert not mine.robust.any()
    torch.testing.assert_close(mine.distance, norms.size(theirs - x, "l2"), rtol=0.04, atol=0)

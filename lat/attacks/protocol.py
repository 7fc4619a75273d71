"""What an attack is, and the one place where its result is believed.

An attack proposes candidates; `run_attack` checks that they lie in the threat model, and counts the successes itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lat import norms
from lat.attacks.draws import Draws
from lat.types import Images, Labels, PerExample, Scores, Verdicts

RANDOM_FROM = 1e-4
"""The distance of logits scaled to length 1 from which two passes over the same images count as different."""


class AttackError(RuntimeError):
    """An attack left its threat model, or touched what is not its own; the message names the attack and says how."""


class SettingError(ValueError):
    """A setting of an attack is unknown, missing or impossible; the message names the key, the value and the mend."""


@dataclass(frozen=True)
class Threat:
    """What an adversary may do: move an image by at most `radius` in `norm`, within the box of the data.

    `radius` is None for attacks that look for the smallest distance instead.
    """

    norm: str
    radius: float | None
    box: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in norms.NORMS:
            raise SettingError(f"norm: {self.norm!r} is not known; use one of {', '.join(norms.NORMS)}")
        if self.radius is not None and not (is_number(self.radius) and self.radius >= 0):
            raise SettingError(f"radius: {self.radius!r} must be a number of at least 0")
        if not (len(self.box) == 2 and all(is_number(side) for side in self.box) and self.box[0] < self.box[1]):
            raise SettingError(f"box: {self.box!r} must be two numbers, the lower one first")
        object.__setattr__(self, "box", (float(self.box[0]), float(self.box[1])))

    @property
    def ball(self) -> float:
        """The radius, for attacks that need one. Raises SettingError where there is none."""
        if self.radius is None:
            raise SettingError("radius: None, but this attack searches a ball; give a number")
        return self.radius


@runtime_checkable
class Attack(Protocol):
    """Settings that know how to search. `examples` is the number of test images it runs on (None: all)."""

    @property
    def threat(self) -> Threat: ...

    @property
    def examples(self) -> int | None: ...

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """Candidates of the shape of x, in the threat model around x.

        The model is in eval mode, its parameters need no gradient, and gradients are off (`torch.enable_grad` where
        they are needed): `run_attack` sees to it. The model stays as it is, and random numbers come from `draws`.
        """


@dataclass(frozen=True)
class Outcome:
    """What an attack did to n examples.

    adversarial: the images found, (n, ...), in ball and box. robust: right on the clean image and on that one.
    distance: between the two, in the norm of the threat. finite: whether every score judged is a finite number.
    """

    adversarial: Images
    robust: Verdicts
    distance: PerExample
    finite: bool


def is_number(value: object) -> bool:
    """An int or a finite float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def right(scores: Scores, y: Labels) -> Verdicts:
    """Whether the largest score is that of y; a row with a score that is not finite is wrong, whatever comes first."""
    return (scores.argmax(1) == y) & scores.isfinite().all(1)


class Unjudged(nn.Module):
    """A network of whose mistakes no search takes notice, so that each of them goes on to its last step.

    Two need that. What is made on one network for another: a point that the one gets just wrong, the other mostly gets
    right. And a network that is random: a point that one draw of it gets wrong, the next mostly gets right.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Images) -> Scores:
        scores: Scores = self.model(x)
        return scores


def broken(model: nn.Module, scores: Scores, y: Labels) -> Verdicts:
    """Where these scores of the model end a search in the ball: they are not `right`, and it is not `Unjudged`."""
    mistaken = ~right(scores, y)
    return torch.zeros_like(mistaken) if isinstance(model, Unjudged) else mistaken


def directions(scores: Float[Tensor, "*passes n k"]) -> Float[Tensor, "*passes n k"]:
    """Each row of scores scaled to an L2 length of 1, in float64; entries that are not finite count as 0.

    By their distance AutoAttack's check of randomised defences tells two passes apart (Croce and Hein 2020).
    """
    return nn.functional.normalize(scores.double().nan_to_num(0.0, 0.0, 0.0), dim=-1)


def is_random(model: nn.Module, x: Images) -> bool:
    """Whether two passes of the model over the same images differ by more than rounding.

    Measured as the audit measures it: by the L2 distance of the scores' `directions`, against RANDOM_FROM.
    """
    with torch.no_grad():
        first, second = (directions(model(x)) for _ in range(2))
    return bool(((first - second).norm(dim=1) > RANDOM_FROM).any())


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with gradients of its parameters switched off.

    The training flag of every module and `requires_grad` of every parameter are as before afterwards, whatever is
    raised inside.
    """
    training = [(module, module.training) for module in model.modules()]
    needed = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in needed:
            parameter.requires_grad_(False)
        yield model
    finally:
        for parameter, flag in needed:
            parameter.requires_grad_(flag)
        for module, mode in training:
            module.training = mode


@contextmanager
def _untouched(model: nn.Module, name: str) -> Iterator[None]:
    """A block in which attack `name` may look at the model and change nothing of it. Values of weights and buffers are
    put back; raises AttackError naming the first that was changed, or the module that was left in training mode.
    """
    before = [(key, tensor, tensor.clone()) for key, tensor in _tensors(model)]
    try:
        yield
    finally:
        now = dict(_tensors(model))
        changed = [key for key, tensor, value in before if now.get(key) is not tensor or not _same(tensor, value)]
        for _, tensor, value in before if changed else ():
            tensor.copy_(value)
    if changed:
        raise AttackError(f"{name}: the attack changed {changed[0]!r} of the network; let it work on a copy")
    if training := [key or "the network" for key, module in model.named_modules() if module.training]:
        raise AttackError(f"{name}: the attack left {training[0]!r} in training mode; put it back into eval mode")


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same values, where what is no number is equal to itself."""
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def _global_draws(device: torch.device) -> Tensor:
    """The state of torch's global generators, from which an attack of its own draws nothing."""
    on_host = torch.get_rng_state()
    return torch.cat([on_host, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else on_host


def slack(x: Images, threat: Threat) -> float:
    """How far rounding alone can carry a point of the ball outside it, as a distance in the norm of the threat."""
    reach = max(1.0, *(abs(side) for side in threat.box))
    elements = x[0].numel() if threat.norm == "l2" and len(x) else 1
    return 8 * torch.finfo(x.dtype).eps * reach * max(1.0, elements**0.5)


def _checked(candidate: object, x: Images, threat: Threat, name: str) -> Images:
    """The candidate, projected on ball and box to remove rounding. Raises AttackError where more than that is wrong."""
    if not isinstance(candidate, Tensor):
        raise AttackError(f"{name}: candidates are no tensor but {type(candidate).__name__}")
    candidate = candidate.detach()
    if candidate.shape != x.shape or candidate.dtype != x.dtype:
        raise AttackError(
            f"{name}: candidates are {candidate.dtype} {tuple(candidate.shape)}, the images {x.dtype} {tuple(x.shape)}"
        )
    if bad := int((~candidate.isfinite()).flatten(1).any(1).sum()):
        raise AttackError(f"{name}: {bad} of {len(x)} candidates are not finite")
    low, high = threat.box
    for point, allowed in ((candidate, slack(x, threat)), (_projected(candidate, x, threat), slack(x, threat))):
        beyond = max(float(low - point.min()), float(point.max() - high))
        if beyond > allowed:
            raise AttackError(f"{name}: a candidate leaves the box {threat.box} by {beyond:.3g}")
        if threat.radius is not None:
            excess = float(norms.size(point - x, threat.norm).max()) - threat.radius
            if excess > allowed:
                raise AttackError(
                    f"{name}: a candidate leaves the {threat.norm} ball of radius {threat.radius:g} by {excess:.3g}"
                )
    return point


def _projected(candidate: Images, x: Images, threat: Threat) -> Images:
    if threat.radius is None:
        return candidate.clamp(*threat.box)
    return norms.project(candidate, x, threat.radius, threat.norm, threat.box)


def run_attack(
    model: nn.Module, x: Images, y: Labels, index: Sequence[int], attack: Attack, seed: int, name: str | None = None
) -> Outcome:
    """Attack n images and judge the result.

    x is (n, ...) in the box of the threat, y (n,), `index` the number of each image in its dataset, from which with
    `seed` its random draws derive. An image is robust only if the model is right on it and on what the attack found:
    the clean image lies in the ball too. Scores that are not finite count as wrong. The model comes back as it was.

    A network that is random (`is_random`) is attacked as `Unjudged`: searches in the ball go on to their last step and
    take all their restarts, since one draw in which it errs says little of the next. It is judged in one draw; for
    its accuracy over many see the audit's `fresh_draws`. Attacks that look for the smallest distance, and those of
    other packages (AutoAttack, HopSkipJump, Boundary), believe every draw all the same and are weak on it.

    Raises AttackError where a candidate leaves ball or box by more than rounding or is not finite, where the attack has
    changed the network, or drawn from torch's global generators though the network does not; and ValueError where x
    itself lies outside the box.
    """
    name = name or type(attack).__name__
    threat = attack.threat
    if len(x) == 0:
        empty = torch.empty(0, dtype=x.dtype, device=x.device)
        return Outcome(x.clone(), torch.empty(0, dtype=torch.bool, device=x.device), empty, True)
    if float(x.min()) < threat.box[0] or float(x.max()) > threat.box[1] or not bool(x.isfinite().all()):
        raise ValueError(f"{name}: an image leaves the box {threat.box}; scale the images to it")
    with undisturbed(model), torch.no_grad():
        before = _global_draws(x.device)
        searched = Unjudged(model) if is_random(model, x) else model
        of_its_own = torch.equal(before, after := _global_draws(x.device))
        with _untouched(model, name):
            candidate = attack.perturb(searched, x.clone(), y.clone(), Draws(seed, index))
        if of_its_own and not torch.equal(after, _global_draws(x.device)):
            raise AttackError(f"{name}: the attack drew from torch's global generator; draw from `draws` instead")
        adversarial = _checked(candidate, x, threat, name)
        clean, attacked = model(x), model(adversarial)
    return Outcome(
        adversarial=adversarial,
        robust=right(clean, y) & right(attacked, y),
        distance=norms.size(adversarial - x, threat.norm),
        finite=bool(clean.isfinite().all() and attacked.isfinite().all()),
    )

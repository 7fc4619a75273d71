"""Checks of the gradient that the attacks follow: whether it is there, and whether its ascent has come to an end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from lat import norms
from lat.attacks import Draws, right, run_attack, undisturbed
from lat.attacks.ascent import Search
from lat.attacks.losses import Exact, cross_entropy
from lat.audit.subject import NOT_FINITE, Indices, Skipped, Subject
from lat.audit.verdicts import judged
from lat.cells import seed_for
from lat.findings import Result


def converged(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """The attack's loss has converged; finding when > 5 % of its range is gained in the last 10 steps.

    The loss is the mean cross-entropy at each point of the ascent of `attack`, the start included, over those images of
    a sample that no point before the `last_steps` has broken: only these can still fall, and the loss of the others,
    which grows without bound, would hide theirs. Its range is the highest minus the lowest of it. value: the share of
    it that the `last_steps` gain, 0 where the loss never changes; n: how many images these are. Skipped where there are
    none, and where the loss is not finite.
    """
    attack = subject.attack(given["attack"])
    if not isinstance(attack, Search):
        raise Skipped(f"{given['attack']}: has no steps to follow")
    index = subject.sample(given["examples"])
    losses, wrong = ascent_of(subject, attack, index, seed_for(subject.seed, check))
    if not np.isfinite(losses).all():
        raise Skipped(NOT_FINITE)
    before = max(0, attack.steps - given["last_steps"])
    left = ~wrong[: before + 1].any(0)
    if not left.any():
        raise Skipped(f"all {len(index)} images are broken {given['last_steps']} steps before the end")
    curve = losses[:, left].mean(1)
    reach, gain = float(curve.max() - curve.min()), float(curve[-1] - curve[before])
    value = gain / reach if reach > 0 else 0.0
    return judged(check, value, given["share"], int(left.sum()), found=value > given["share"])


def ascent_of(
    subject: Subject, attack: Search, index: Indices, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The cross-entropy of each image, and whether it is misclassified, at the start of the attack's ascent and after
    each of its steps: (steps + 1, len(index)) each.
    """
    threat, done = attack.threat, 0
    losses = np.empty((attack.steps + 1, len(index)))
    wrong = np.empty((attack.steps + 1, len(index)), dtype=np.bool_)
    with undisturbed(subject.model):
        for part, x, y in subject.parts(index):
            columns, done = slice(done, done + len(part)), done + len(part)
            inside = norms.projector(x, threat.ball, threat.norm, threat.box)
            point = x
            if attack.start == "uniform":
                point = inside(x + norms.sample_ball(x, threat.ball, threat.norm, Draws(seed, part.tolist())))
            for step in range(attack.steps + 1):
                seen = Exact(subject.model, y, cross_entropy)(point)
                losses[step, columns] = seen.loss.double().cpu().numpy()
                wrong[step, columns] = seen.wrong.cpu().numpy()
                direction = norms.steepest_direction(seen.gradient, threat.norm)
                point = inside(point + attack.relative_step * threat.ball * direction)
    return losses, wrong


def zero_gradients(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Zero input gradients; any: note; > 1 %: finding.

    Of the cross-entropy at the images of a sample, in their own precision (float32), where every element is exactly
    zero or not a number: neither moves an ascent. value: the share of the images.
    """
    index = subject.sample(given["examples"])
    zero = 0
    with undisturbed(subject.model):
        for _, x, y in subject.parts(index):
            gradient = Exact(subject.model, y, cross_entropy)(x).gradient
            zero += int(((gradient == 0) | gradient.isnan()).flatten(1).all(1).sum())
    value = zero / len(index)
    status = "found" if value > given["share"] else "noted" if zero else "passed"
    return [Result(check, status, value, given["share"], len(index))]


class Rescaled(nn.Module):
    """factor * scores + shift: the class of every image is that of `model`."""

    def __init__(self, model: nn.Module, factor: float, shift: float) -> None:
        super().__init__()
        self.model, self.factor, self.shift = model, factor, shift

    def forward(self, x: Tensor) -> Float[Tensor, "n classes"]:
        return self.factor * self.model(x) + self.shift


def scaled_logits(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Logits scaled ×0.1, ×10, shifted; finding when robust accuracy *drops* by > 1 point.

    `attack` runs on the network and on each rescaled one, on the same sample with the same draws; what it finds is
    judged by the network itself. value: the largest drop, 0 where there is none, in points. Scores that are not finite
    are no pass.
    """
    attack = subject.attack(given["attack"])
    index = subject.sample(given["examples"])
    changes = [(1.0, 0.0), *((float(factor), 0.0) for factor in given["factors"]), (1.0, float(given["shift"]))]
    robust, finite = dict.fromkeys(changes, 0), True
    for part, x, y in subject.parts(index):
        for change in changes:
            rescaled = Rescaled(subject.model, *change)
            outcome = run_attack(rescaled, x, y, part.tolist(), attack, seed_for(subject.seed, check), check)
            with undisturbed(subject.model), torch.no_grad():
                still = right(subject.model(x), y) & right(subject.model(outcome.adversarial), y)
            robust[change] += int(still.sum())
            finite = finite and outcome.finite
    drop = 100 * (robust[changes[0]] - min(robust.values())) / len(index)
    return judged(check, drop, given["points"], len(index), found=drop > given["points"], finite=finite)

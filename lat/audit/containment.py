"""Whether what the attacks propose lies in their threat model, measured without the wrapper and its arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lat.attacks import Draws, Threat, undisturbed
from lat.audit.subject import AuditError, Skipped, Subject
from lat.audit.verdicts import judged, lacking
from lat.cells import seed_for
from lat.findings import Result
from lat.types import Images


def ball_and_box(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Every adversarial example of a sample is inside ball and box, finite; any outside: error.

    `run_attack` asserts it for each attack. Here every attack with verdicts is one that the run has, on images that
    there are, and what those of `attacks` that it has propose on a sample, before `run_attack` has touched it, is
    measured in NumPy and float64. value: how far the worst one lies outside, 0 where none does; threshold: `tolerance`,
    the rounding of float32; reason: those of `attacks` that the run does not have.

    Raises AuditError where one is not finite or lies outside by more, and where verdicts are not of the run's attacks.
    """
    for name, (index, robust) in subject.verdicts.items():
        if name not in subject.attacks:
            raise AuditError(f"{check}: {name}: there are verdicts, but the run has no such attack")
        numbers = np.arange(len(subject.x))
        if len(index) != len(robust) or not np.array_equal(index, np.intersect1d(index, numbers)):
            raise AuditError(f"{check}: {name}: its verdicts are not one an image, in ascending order")
    names = [name for name in given["attacks"] if name in subject.attacks]
    if not names:
        raise Skipped(f"{', '.join(given['attacks'])}: this run has none of these attacks")
    sample, beyond = subject.sample(given["examples"]), 0.0
    for name in names:
        attack = subject.attacks[name]
        for part, x, y in subject.parts(sample):
            draws = Draws(seed_for(subject.seed, check, name), part.tolist())
            with undisturbed(subject.model), torch.no_grad():
                proposed = attack.perturb(subject.model, x.clone(), y.clone(), draws)
            if not bool(np.isfinite(_array(proposed)).all()):
                raise AuditError(f"{check}: {name}: an adversarial example is not finite")
            outside = excess(_array(proposed), _array(x), attack.threat)
            if outside > given["tolerance"]:
                raise AuditError(f"{check}: {name}: an adversarial example lies outside ball or box by {outside:.3g}")
            beyond = max(beyond, outside)
    (result,) = judged(check, beyond, given["tolerance"], len(sample), found=False)
    return [replace(result, reason=lacking(given["attacks"], names))]


def excess(adversarial: NDArray[np.float64], x: NDArray[np.float64], threat: Threat) -> float:
    """How far the worst of the adversarial examples (n, d) lies outside the ball around its image or outside the box;
    0 where none does.
    """
    low, high = threat.box
    order = np.inf if threat.norm == "linf" else 2
    outside_box = max(low - adversarial.min(), adversarial.max() - high)
    outside_ball = (
        np.linalg.norm(adversarial - x, ord=order, axis=1).max() - threat.radius
        if threat.radius is not None
        else -np.inf
    )
    return max(0.0, float(outside_box), float(outside_ball))


def _array(images: Images) -> NDArray[np.float64]:
    return images.flatten(1).double().cpu().numpy()

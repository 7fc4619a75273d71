"""Whether what the attacks propose lies in their threat model, counted again without the wrapper's own arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lat.attacks import Threat, run_attack
from lat.audit.subject import AuditError, Subject
from lat.audit.verdicts import judged
from lat.cells import seed_for
from lat.findings import Result
from lat.types import Images


def ball_and_box(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Every adversarial example of a sample is inside ball and box, finite; any outside: error.

    `run_attack` asserts it for each attack. Here every attack with verdicts is one that the wrapper ran, on images that
    there are, and the examples of `attack` on a sample are measured in NumPy and float64. value: how far the worst one
    lies outside, 0 where none does; threshold: `tolerance`, the rounding of float32.

    Raises AuditError where one is not finite or lies outside by more, and where verdicts are not of the run's attacks.
    """
    for name, (index, robust) in subject.verdicts.items():
        if name not in subject.attacks:
            raise AuditError(f"{check}: {name}: there are verdicts, but the run has no such attack")
        numbers = np.arange(len(subject.x))
        if len(index) != len(robust) or not np.array_equal(index, np.intersect1d(index, numbers)):
            raise AuditError(f"{check}: {name}: its verdicts are not one an image, in ascending order")
    attack = subject.attack(given["attack"])
    sample = subject.sample(given["examples"])
    beyond = 0.0
    for part, x, y in subject.parts(sample):
        outcome = run_attack(subject.model, x, y, part.tolist(), attack, seed_for(subject.seed, check), check)
        if not bool(np.isfinite(_array(outcome.adversarial)).all()):
            raise AuditError(f"{check}: {given['attack']}: an adversarial example is not finite")
        beyond = max(beyond, excess(_array(outcome.adversarial), _array(x), attack.threat))
    if beyond > given["tolerance"]:
        raise AuditError(f"{check}: {given['attack']}: an adversarial example lies outside ball or box by {beyond:.3g}")
    return judged(check, beyond, given["tolerance"], len(sample), found=False)


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

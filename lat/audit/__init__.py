"""The audit: whether the accuracy that was measured under attack can be believed, check by check.

Adding a check is one function in a module here, one line in `CHECKS`, an entry in `config/audit.yaml` and one in its
schema. Attacks are run before, by the evaluation; what the checks run themselves looks into the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lat.audit.binarization import breakable
from lat.audit.certificates import certified
from lat.audit.containment import ball_and_box
from lat.audit.gradients import converged, scaled_logits, zero_gradients
from lat.audit.randomness import fresh_draws, repeated_passes
from lat.audit.subject import AuditError, Skipped, Subject
from lat.audit.verdicts import (
    falls_with_radius,
    gradient_free,
    large_ball,
    noise_alone,
    single_step,
    smaller_distances,
    stronger,
    worst_case,
)
from lat.findings import Result

__all__ = ["CHECKS", "AuditError", "Result", "Subject", "examine"]

Check = Callable[[str, Subject, Mapping[str, Any]], list[Result]]

CHECKS: Mapping[str, Check] = {
    "worst_case": worst_case,
    "single_step": single_step,
    "more_steps": stronger,
    "more_restarts": stronger,
    "margin_restarts": stronger,
    "converged": converged,
    "falls_with_radius": falls_with_radius,
    "large_ball": large_ball,
    "gradient_free": gradient_free,
    "smaller_distances": smaller_distances,
    "noise_alone": noise_alone,
    "zero_gradients": zero_gradients,
    "scaled_logits": scaled_logits,
    "repeated_passes": repeated_passes,
    "fresh_draws": fresh_draws,
    "breakable": breakable,
    "ball_and_box": ball_and_box,
    "certified": certified,
}


def examine(subject: Subject, settings: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """The result of each check of `settings` (config/audit.yaml, or a part of it), in order.

    A check that needs what the subject does not have is skipped, and so is every one where it has no images; some have
    a result for each radius or attack. The network comes back as it was. Raises SettingError where attacks that a check
    compares have different threat models, and AuditError for what can only be a mistake of this program, so that the
    run must fail.
    """
    results = []
    for name, given in settings.items():
        try:
            if not len(subject.x):
                raise Skipped("there are no images")
            results += CHECKS[name](name, subject, given)
        except Skipped as reason:
            results.append(Result(name, "skipped", math.nan, math.nan, None, str(reason)))
    return results

"""The audit: whether the accuracy that was measured under attack can be believed, check by check.

Adding a check is one function in a module here, one line in `CHECKS`, an entry in `config/audit.yaml` and one in its
schema. Attacks are run before, by the evaluation; what the checks run themselves looks into the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lat.audit.subject import AuditError, Skipped, Subject
from lat.findings import Result

__all__ = ["CHECKS", "AuditError", "Result", "Subject", "examine"]

Check = Callable[[Subject, Mapping[str, Any]], list[Result]]

CHECKS: Mapping[str, Check] = {}


def examine(subject: Subject, settings: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """The result of each check of `settings` (config/audit.yaml, or a part of it), in order.

    A check that needs what the subject does not have is skipped; a few have a result for each radius. Raises AuditError
    for what can only be a mistake of this program.
    """
    results = []
    for name, given in settings.items():
        try:
            results += CHECKS[name](subject, given)
        except Skipped as reason:
            results.append(Result(name, "skipped", float("nan"), float("nan"), None, str(reason)))
    return results

"""A claim judged on the paper's own printed numbers: as decimals, exactly, and without intervals."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from lat.claims.printed import Printed
from lat.claims.rules import NOT_JUDGED, UNDECIDED, Comparison, Part, Rules, compared, limits, verdict


def compare(claim: Mapping[str, Any], printed: Printed, rules: Rules) -> list[Comparison]:
    """The claim's comparisons on printed numbers, each column a part with a difference and no interval.

    A column in which either number is a slip is left out; a comparison left without columns is not judged.
    """
    found = []
    for pair in claim["comparisons"]:
        parts = []
        for column in claim["columns"]:
            subject, reference = (printed.number(pair[side], column) for side in ("subject", "reference"))
            if subject is not None and reference is not None:
                parts.append(_part(claim, column, 100 * (subject - reference), rules))
        if not parts:
            parts = [Part(claim["columns"][0], NOT_JUDGED, reason="a printed number of every column is a slip")]
        found.append(compared(claim["quantifier"], pair["subject"]["row"], pair["reference"]["row"], parts))
    return found


def _part(claim: Mapping[str, Any], column: str, difference: Decimal, rules: Rules) -> Part:
    margin = Decimal(str(claim["margin"]))
    if any(abs(difference - limit) <= rules.resolution for limit in limits(claim["direction"], margin)):
        found, reason = UNDECIDED, f"no further than {rules.resolution} points from the limit"
    else:
        found, reason = verdict(claim["direction"], margin, difference, difference), ""
    return Part(column, found, float(difference), reason=reason)

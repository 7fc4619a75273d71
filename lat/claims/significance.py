"""The tests that claims are judged by: Student's t at a limit, Holm's procedure, McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import special


def beyond(values: Sequence[float], limit: float) -> tuple[float, float]:
    """Twice the one-sided p, at most 1, of "the mean is above `limit`" and of "it is below", by Student's t.

    `values` are at least two. Where they are all equal p is 0 on the limit's own side and 1 elsewhere, on the limit
    itself included. p < 1 - level exactly where the interval of that level lies beyond the limit.
    """
    k = len(values)
    if k < 2:
        raise ValueError(f"values: {list(values)!r} has no spread; give at least two")
    if min(values) == max(values):
        return float(values[0] <= limit), float(values[0] >= limit)
    mean = math.fsum(values) / k
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (k - 1))
    t = (mean - limit) * math.sqrt(k) / deviation
    above, below = (float(special.stdtr(k - 1, side)) for side in (-t, t))
    return min(1.0, 2 * above), min(1.0, 2 * below)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p of each value of a family, in the order given: rejected at alpha where it is at most alpha.

    The i-th smallest of m is multiplied by m - i + 1; none is smaller than one before it, none above 1.
    """
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        largest = max(largest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = largest
    return adjusted


def mcnemar(first_only: int, second_only: int) -> float:
    """McNemar's exact p, two-sided: the discordant pairs as tosses of a fair coin; 1 where there are none."""
    return min(1.0, 2 * float(special.bdtr(float(min(first_only, second_only)), first_only + second_only, 0.5)))

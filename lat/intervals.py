"""Intervals: of a mean over seeds, of a fraction of test images, and of the difference of two such figures.

Values are fractions in [0, 1] (accuracies) unless a docstring says otherwise. The seed is the unit: with two or more
seeds an interval is Student's t over seeds; with one seed only the test images are random, and the interval is the
exact binomial one, which says nothing about other seeds. `kind` carries which of them it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import special

LEVEL = 0.95


class IntervalError(ValueError):
    """An interval was asked of values that have none; the message names the value and the mend."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval [low, high] and the kind of interval.

    `kind` is `student_t`, `binomial`, `point` (no interval can be given), or one of the kinds of a difference.
    `seeds` is how many seeds stand behind it, `n` how many examples each was measured on (None: not a count).
    """

    mean: float
    low: float
    high: float
    kind: str
    seeds: int
    n: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


def _check(values: Sequence[float], level: float) -> None:
    if not values:
        raise IntervalError("values: [] has no mean; give at least one value")
    if wrong := [value for value in values if not math.isfinite(value)]:
        raise IntervalError(f"values: {wrong[0]!r} is not finite; leave out the seeds that diverged")
    if not 0 < level < 1:
        raise IntervalError(f"level: {level!r} must lie between 0 and 1, 0.95 for instance")


def student_t(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of at least two values and Student's t interval: mean ± t(k-1) s / sqrt(k), s over k - 1.

    Not clipped to [0, 1]: clipping would hide how little two seeds say. Raises IntervalError for fewer than two
    values, or values that are not finite.
    """
    _check(values, level)
    k = len(values)
    if k < 2:
        raise IntervalError(f"values: {list(values)!r} has no spread; use `binomial` for one seed")
    mean, deviation = _moments(values)
    half = float(special.stdtrit(k - 1, (1 + level) / 2)) * deviation / math.sqrt(k)
    return Estimate(mean, mean - half, mean + half, "student_t", k)


def binomial(fraction: float, n: int, level: float = LEVEL) -> Estimate:
    """Clopper and Pearson's exact interval of a success probability, `fraction` of `n` examples having succeeded.

    Raises IntervalError where `fraction` is no fraction or `n` is below 1.
    """
    _check([fraction], level)
    if not 0 <= fraction <= 1:
        raise IntervalError(f"fraction: {fraction!r} must lie in [0, 1]; divide the count by n")
    if n < 1:
        raise IntervalError(f"n: {n!r} examples give no interval; give at least 1")
    count, tail = round(fraction * n), (1 - level) / 2
    low = float(special.betaincinv(count, n - count + 1, tail)) if count > 0 else 0.0
    high = float(special.betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return Estimate(fraction, low, high, "binomial", 1, n)


def over_seeds(values: Sequence[float], n: int | None, level: float = LEVEL) -> Estimate:
    """Estimate over seeds: Student's t for two or more, the binomial interval over `n` examples for one.

    One value without `n` (a time, a distance) has no interval: kind `point`, low = high = the value.
    """
    _check(values, level)
    if len(values) > 1:
        found = student_t(values, level)
        return Estimate(found.mean, found.low, found.high, found.kind, found.seeds, n)
    if n is None:
        return Estimate(values[0], values[0], values[0], "point", 1)
    return binomial(values[0], n, level)


def welch(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Estimate:
    """mean(first) - mean(second) with Welch's t interval; both have at least two values (one a seed).

    The variances may differ; the degrees of freedom are Welch's and Satterthwaite's. Where neither side varies the
    interval is the difference itself.
    """
    for values in (first, second):
        _check(values, level)
        if len(values) < 2:
            raise IntervalError(f"values: {list(values)!r} has no spread; use `difference` where a side has one seed")
    parts = []
    for values in (first, second):
        _, deviation = _moments(values)
        parts.append((deviation**2 / len(values), float(len(values) - 1)))
    return _t_difference(_moments(first)[0] - _moments(second)[0], parts, "welch_t", len(first) + len(second), level)


def newcombe(first: tuple[float, int], second: tuple[float, int], level: float = LEVEL) -> Estimate:
    """Difference of two independent fractions, each (fraction, n), with Newcombe's hybrid interval of Wilson's limits.

    Newcombe 1998, Statistics in Medicine 17, method 10: well behaved at 0 and 1, where the normal one collapses.
    """
    (p1, n1), (p2, n2) = first, second
    limits = []
    for fraction, n in (first, second):
        binomial(fraction, n, level)  # refuses what is no fraction of n
        limits.append(_wilson(fraction, n, level))
    (l1, u1), (l2, u2) = limits
    low = (p1 - p2) - math.hypot(p1 - l1, u2 - p2)
    high = (p1 - p2) + math.hypot(u1 - p1, p2 - l2)
    return Estimate(p1 - p2, low, high, "two_proportions", 2, min(n1, n2))


def difference(
    first: Sequence[float],
    second: Sequence[float],
    n: tuple[int, int],
    spread: tuple[float, int] | None = None,
    level: float = LEVEL,
) -> Estimate:
    """mean(first) - mean(second), with the interval that the numbers of seeds allow.

    Both sides several seeds: `welch`. One seed against several: the binomial variances of the two fractions over the
    `n` test images of either side, plus the spread of a single seed around the mean of the k several, s² (1 + 1/k),
    since the one seed is a further draw from them; the quantile is Student's with Satterthwaite's degrees of freedom
    (the binomial parts have infinitely many). One seed each: the same with 2 s², s² and its degrees of freedom being
    the `spread` that other cells show (`pooled`); without one `newcombe`, over the images alone.
    """
    _check(first, level)
    _check(second, level)
    if len(first) > 1 and len(second) > 1:
        return welch(first, second, level)
    if len(first) == len(second) == 1:
        if spread is None:
            return newcombe((first[0], n[0]), (second[0], n[1]), level)
        parts, kind = [(2 * spread[0], float(spread[1]))], "pooled_seeds_and_images"
    else:
        several = first if len(first) > 1 else second
        _, deviation = _moments(several)
        parts, kind = [(deviation**2 * (1 + 1 / len(several)), float(len(several) - 1))], "seed_and_images"
    means = (_moments(first)[0], _moments(second)[0])
    parts += [(p * (1 - p) / images, math.inf) for p, images in zip(means, n, strict=True)]
    return _t_difference(means[0] - means[1], parts, kind, len(first) + len(second), level)


def pooled(groups: Iterable[Sequence[float]]) -> tuple[float, int] | None:
    """The variance of a single value within its group, pooled over the groups of two or more, and its degrees of
    freedom; None where there is no such group.
    """
    spreads = [(_moments(values)[1], len(values) - 1) for values in groups if len(values) > 1]
    freedom = sum(own for _, own in spreads)
    return (math.fsum(own * deviation**2 for deviation, own in spreads) / freedom, freedom) if spreads else None


def _wilson(fraction: float, n: int, level: float) -> tuple[float, float]:
    """Wilson's score interval of a fraction of n."""
    z2 = float(special.ndtri((1 + level) / 2)) ** 2
    middle = (fraction + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (fraction * (1 - fraction) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value); exactly the value and 0 where all are equal."""
    if min(values) == max(values):
        return values[0], 0.0
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _t_difference(mean: float, parts: Sequence[tuple[float, float]], kind: str, seeds: int, level: float) -> Estimate:
    """Interval of a difference whose variance is the sum of `parts`, each (variance, degrees of freedom)."""
    variance = math.fsum(part for part, _ in parts)
    if variance <= 0:
        return Estimate(mean, mean, mean, kind, seeds)
    loss = math.fsum((part / variance) ** 2 / freedom for part, freedom in parts)
    tail = (1 + level) / 2
    quantile = float(special.stdtrit(1 / loss, tail) if loss > 0 else special.ndtri(tail))
    half = quantile * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, kind, seeds)

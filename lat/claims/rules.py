"""The rules of `config/claims.yaml` as functions: directions, quantifiers, and which figure decided.

Differences and limits are in points. A `Part` is one comparison in one column, a `Comparison` joins its columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

HOLDS, FAILS, UNDECIDED, NOT_JUDGED = VERDICTS = ("holds", "fails", "undecided", "not_judged")
DEFAULT, FAVOURABLE = READINGS = ("default", "favourable")
WITHIN = "within"

Number = TypeVar("Number", float, Decimal)


@dataclass(frozen=True)
class Rules:
    """The numbers of the file's rules; what they mean is written there."""

    resolution: Decimal
    level: float
    minimum_pairs: int
    never_judged: tuple[str, ...]
    alpha: float
    one_seed_alpha: float
    fails_above_share: float

    @classmethod
    def of(cls, rules: Mapping[str, Any]) -> Rules:
        measured = rules["measured"]
        return cls(
            resolution=Decimal(str(rules["reported"]["resolution"])),
            level=float(measured["level"]),
            minimum_pairs=int(measured["minimum_pairs"]),
            never_judged=tuple(measured["datasets_never_judged"]),
            alpha=float(rules["multiplicity"]["alpha"]),
            one_seed_alpha=float(rules["one_seed"]["alpha"]),
            fails_above_share=float(rules["diverged"]["fails_above_share"]),
        )


@dataclass(frozen=True)
class McNemar:
    """One seed's test images: how many only the subject keeps, how many only the reference, and the exact p.

    `ahead` is "subject" or "reference" where the test indicates one at the level of the rules, else empty.
    """

    seed: int
    subject_only: int
    reference_only: int
    p: float
    ahead: str


@dataclass(frozen=True)
class Part:
    """One comparison in one column: subject minus reference in points, its interval, and the p of both verdicts.

    A part that cannot be tested has p = 1; printed numbers have no p. `difference` is None where there is no pair.
    `lost` is how many of the seeds have no pair, since one row or the other diverged in them.
    `missing` is the row that has no figure, where that is why the part is not judged. `by_rule` is whether it fails by
    the rule on diverged seeds, which is no test: `reason` says whose seeds, and the p of "fails" is 0 by definition.
    """

    column: str
    verdict: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    lost: int = 0
    p_holds: float = 1.0
    p_fails: float = 1.0
    reason: str = ""
    missing: str = ""
    mcnemar: tuple[McNemar, ...] = ()
    by_rule: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two rows and their parts, joined over the columns. `doubts` says of a row, in words, what the audit found that
    speaks against the gradients by which it was attacked; it decides nothing.
    """

    subject: str
    reference: str
    parts: tuple[Part, ...]
    verdict: str
    p_holds: float = 1.0
    p_fails: float = 1.0
    doubts: tuple[str, ...] = ()


Decided = tuple[Comparison, Part]


def limits(direction: str, margin: Number) -> tuple[Number, ...]:
    """The differences at which a direction's verdict changes."""
    return {"higher": (margin,), "not_lower": (-margin,), WITHIN: (-margin, margin)}[direction]


def verdict(direction: str, margin: Number, low: Number, high: Number) -> str:
    """The verdict on one comparison in one column, [low, high] being the interval of the difference."""
    if direction == WITHIN:
        if -margin <= low and high <= margin:
            return HOLDS
        return FAILS if low > margin or high < -margin else UNDECIDED
    (limit,) = limits(direction, margin)
    if low > limit:
        return HOLDS
    return FAILS if high <= limit else UNDECIDED


def join(quantifier: str, verdicts: Sequence[str]) -> str:
    """The verdict on a whole. Parts not judged leave it undecided, unless one part is enough or none is judged."""
    judged = [found for found in verdicts if found != NOT_JUDGED]
    if not judged:
        return NOT_JUDGED
    enough, needed = (FAILS, HOLDS) if quantifier == "all" else (HOLDS, FAILS)
    if enough in judged:
        return enough
    return needed if all(found == needed for found in verdicts) else UNDECIDED


def join_p(quantifier: str, p_holds: Sequence[float], p_fails: Sequence[float]) -> tuple[float, float]:
    """The p of a whole for "holds" and for "fails": the largest where every part is needed, and where one is enough
    the smallest times the number of parts (Bonferroni), at most 1.
    """
    if not p_holds:
        return 1.0, 1.0
    if quantifier == "all":
        return max(p_holds), min(1.0, min(p_fails) * len(p_fails))
    return min(1.0, min(p_holds) * len(p_holds)), max(p_fails)


def compared(quantifier: str, subject: str, reference: str, parts: Sequence[Part]) -> Comparison:
    """The parts of one comparison joined over its columns."""
    p_holds, p_fails = join_p(quantifier, [part.p_holds for part in parts], [part.p_fails for part in parts])
    found = join(quantifier, [part.verdict for part in parts])
    return Comparison(subject, reference, tuple(parts), found, p_holds, p_fails)


def deciding(
    claim: Mapping[str, Any], verdict: str, comparisons: Sequence[Comparison]
) -> tuple[Comparison, Part] | None:
    """The figure on which a claim's verdict turns: among those that have it, the weakest where all are needed and the
    strongest where one is enough. None where no comparison has a difference or fails by rule.

    Weak is a small difference, and for "within" one far from 0; weakest what fails by rule.
    """

    def strength(part: Part) -> float:
        if part.difference is None or part.by_rule:
            return -math.inf
        return -abs(part.difference) if claim["direction"] == WITHIN else part.difference

    def chosen(quantifier: str, wanted: str, found: Sequence[tuple[str, Comparison, Part]]) -> Any:
        mine = [entry for entry in found if entry[0] == wanted] or found
        choose = min if quantifier == "all" else max
        return choose(mine, key=lambda entry: strength(entry[2]), default=None)

    candidates = []
    for comparison in comparisons:
        told = [part for part in comparison.parts if part.difference is not None or part.by_rule]
        parts = [(part.verdict, comparison, part) for part in told]
        if best := chosen(claim["quantifier"], comparison.verdict, parts):
            candidates.append((comparison.verdict, comparison, best[2]))
    found = chosen(claim["over_comparisons"], verdict, candidates)
    return (found[1], found[2]) if found else None

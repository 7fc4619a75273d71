"""A claim judged on a ledger, at one scale and in one reading: paired by seed, with Student's t.

Where the rules of `config/claims.yaml` leave a case open:

* A seed of a row counts once it diverged or has the figure; one that is trained and not yet attacked is not there.
* The share of diverged seeds fails a claim only with the minimum number of seeds: one diverged seed of one is still
  one seed. It does so whatever became of the reference, and by rule and not by a test: such a part has p = 0 for
  "fails", so that Holm's procedure leaves it as it is.
* A row that has no figure in one column alone is missing in that column.
* Differences are rounded to 1e-9 points, far below one image, so that equal counts of images are equal differences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from lat.claims.examples import Examples
from lat.claims.printed import Operand, Printed, operands
from lat.claims.rules import FAILS, HOLDS, NOT_JUDGED, UNDECIDED, WITHIN, Comparison, Part, Rules, compared, verdict
from lat.claims.significance import beyond
from lat.intervals import student_t
from lat.measured import Ledger, Plan, Rows, Scale, by_seed, found_by_check

PLACES = 9
Pair = Mapping[str, Operand]


@dataclass(frozen=True)
class Row:
    """One row in one column: its figure by surviving seed, how many seeds diverged, and the cell's slug."""

    label: str
    values: Mapping[int, float]
    lost: int
    slug: str = ""

    @property
    def seeds(self) -> int:
        return len(self.values) + self.lost

    @property
    def diverged_text(self) -> str:
        return f"{self.label} diverged ({self.lost} of {self.seeds} seeds)"


@dataclass(frozen=True)
class Source:
    """Where figures are looked up: the ledger and its plan, the tables, the rules, the verdicts by example, and which
    checks of the audit speak against gradients.
    """

    ledger: Ledger
    plan: Plan
    printed: Printed
    rules: Rules
    examples: Examples
    misleading: Collection[str] = ()

    def scales(self, claim: Mapping[str, Any]) -> list[Scale]:
        """The run's scales at which a claim is judged: those that belong to all of its tables, on their dataset."""
        tables = [self.printed.tables[operand["table"]] for operand in operands(claim)]
        return [
            scale
            for scale in self.plan.scales
            if scale.name in claim.get("scales", [scale.name])
            and scale.dataset not in self.rules.never_judged
            and all(scale.belongs(table) and scale.dataset == table["dataset"] for table in tables)
        ]

    def asked(self, claim: Mapping[str, Any], scale: Scale, reading: str) -> bool:
        """Whether the run asks for both rows of one of the claim's comparisons there, measured yet or not."""
        return any(
            all(
                _is_printed(side) or (scale.name, self.printed.cell(side, reading)) in self.plan.slugs
                for side in (pair["subject"], pair["reference"])
            )
            for pair in claim["comparisons"]
        )

    def compare(self, claim: Mapping[str, Any], scale: Scale, reading: str) -> list[Comparison]:
        """The claim's comparisons at one scale and in one reading."""
        return [self._compare(claim, pair, scale, reading) for pair in claim["comparisons"]]

    def _compare(self, claim: Mapping[str, Any], pair: Pair, scale: Scale, reading: str) -> Comparison:
        parts = [self._part(claim, column, pair, scale, reading) for column in claim["columns"]]
        found = compared(claim["quantifier"], pair["subject"]["row"], _label(pair["reference"]), parts)
        attacked = any(column != "clean" for column in claim["columns"])
        measured = [side for side in (pair["subject"], pair["reference"]) if attacked and not _is_printed(side)]
        doubts = [self._doubt(side, scale, reading) for side in measured]
        return replace(found, doubts=tuple(doubt for doubt in doubts if doubt))

    def _doubt(self, operand: Operand, scale: Scale, reading: str) -> str:
        """What the audit found against the gradients of a row's networks, in words; empty where it found nothing."""
        rows = self.ledger.rows(scale.name, self.printed.cell(operand, reading), self.plan.slugs)
        told = [
            f"{check.partition('@')[0].replace('_', ' ')}{f' ({of})' if (of := check.partition('@')[2]) else ''} in "
            f"{found} of {made} seed{'s' if made > 1 else ''}"
            for check, (found, made) in found_by_check(rows).items()
            if found and check.partition("@")[0] in self.misleading
        ]
        return f"{operand['row']} ({', '.join(told)})" if told else ""

    def _part(self, claim: Mapping[str, Any], column: str, pair: Pair, scale: Scale, reading: str) -> Part:
        subject, reference = pair["subject"], pair["reference"]
        mine = self._row(subject, scale, reading, column)
        if _is_printed(reference):
            return against_number(claim, column, mine, self.printed.number(reference, column), self.rules)
        slugs = {self.plan.slugs.get((scale.name, self.printed.cell(side, reading))) for side in (subject, reference)}
        if len(slugs) == 1 and None not in slugs:
            return Part(column, NOT_JUDGED, reason=f"{subject['row']} and {reference['row']} are one cell")
        other = self._row(reference, scale, reading, column)
        return self._beside(paired(claim, column, mine, other, self.rules), mine, other)

    def _row(self, operand: Operand, scale: Scale, reading: str, column: str) -> Row:
        rows = self.ledger.rows(scale.name, self.printed.cell(operand, reading), self.plan.slugs)
        return row_of(operand["row"], rows, column)

    def _beside(self, part: Part, subject: Row, reference: Row) -> Part:
        """The part with McNemar's test of every pair of seeds whose verdicts are at hand; it decides nothing."""
        found = [
            self.examples.compare(
                part.column, seed, (subject.slug, subject.values[seed]), (reference.slug, reference.values[seed])
            )
            for seed in _common(subject, reference)
        ]
        return replace(part, mcnemar=tuple(entry for entry in found if entry is not None))


def _is_printed(reference: Operand) -> bool:
    return reference.get("value") == "reported"


def _label(reference: Operand) -> str:
    return f"{reference['row']} as printed" if _is_printed(reference) else reference["row"]


def row_of(label: str, rows: Rows, column: str) -> Row:
    """A row's figure in one column from all rows of its cell at one scale."""
    found = by_seed(rows, column)
    lost = {row["seed"] for row in rows if row["status"] == "diverged"}
    values = {seed: float(found[seed]["value"]) for seed in sorted(found)}
    return Row(label, values, len(lost), str(rows[0]["slug"]) if rows else "")


def paired(claim: Mapping[str, Any], column: str, subject: Row, reference: Row, rules: Rules) -> Part:
    """One comparison in one column of two measured rows, a difference a seed."""
    differences = [_points(subject.values[seed] - reference.values[seed]) for seed in _common(subject, reference)]
    return _judged(claim, column, differences, subject, reference, rules)


def against_number(claim: Mapping[str, Any], column: str, subject: Row, number: Decimal | None, rules: Rules) -> Part:
    """One measured row in one column against a printed number; one that is a slip (None) cannot be compared with."""
    if number is None:
        return Part(column, NOT_JUDGED, reason="the printed number is a slip")
    differences = [_points(value - float(number)) for value in subject.values.values()]
    return _judged(claim, column, differences, subject, None, rules)


def _judged(
    claim: Mapping[str, Any], column: str, differences: list[float], subject: Row, reference: Row | None, rules: Rules
) -> Part:
    both = [row for row in (subject, reference) if row is not None]
    if missing := [row for row in both if not row.seeds]:
        return Part(column, NOT_JUDGED, missing=missing[0].label)
    counted = both if claim["direction"] == WITHIN else [subject]
    part = _tested(claim, column, differences, rules)
    part = replace(
        part, lost=max(row.seeds for row in both if row.lost) - part.pairs if any(row.lost for row in both) else 0
    )
    if lost := [row for row in counted if row.lost]:
        part = replace(
            part,
            verdict=UNDECIDED if part.verdict == HOLDS else part.verdict,
            p_holds=1.0,
            reason=lost[0].diverged_text,
        )
    elif reference is not None and reference.lost:
        known = [part.reason] if part.reason and part.pairs >= rules.minimum_pairs else []
        part = replace(part, reason="; ".join([*known, reference.diverged_text]))
    for row in counted:
        if row.seeds >= rules.minimum_pairs and row.lost > rules.fails_above_share * row.seeds:
            return replace(part, verdict=FAILS, p_holds=1.0, p_fails=0.0, reason=row.diverged_text, by_rule=True)
    return part


def _tested(claim: Mapping[str, Any], column: str, differences: list[float], rules: Rules) -> Part:
    """The part as its pairs alone decide it."""
    count = len(differences)
    if count == 0:
        return Part(column, UNDECIDED, reason="no seed in common")
    if count < rules.minimum_pairs:
        mean = sum(differences) / count
        return Part(column, UNDECIDED, mean, None, None, count, reason="one seed" if count == 1 else f"{count} seeds")
    direction, margin = claim["direction"], float(claim["margin"])
    estimate = student_t(differences, rules.level)
    found = verdict(direction, margin, estimate.low, estimate.high)
    p_holds, p_fails = p_values(direction, margin, differences)
    reason = "the interval reaches the limit" if found == UNDECIDED else ""
    interval = estimate.mean, estimate.low, estimate.high
    return Part(column, found, *interval, count, p_holds=p_holds, p_fails=p_fails, reason=reason)


def p_values(direction: str, margin: float, differences: list[float]) -> tuple[float, float]:
    """The p of "holds" and of "fails" for one comparison in one column, of at least two differences in points."""
    if direction == WITHIN:
        above_low, below_low = beyond(differences, -margin)
        above_high, below_high = beyond(differences, margin)
        return max(above_low, below_high), min(above_high, below_low)
    return beyond(differences, margin if direction == "higher" else -margin)


def _common(subject: Row, reference: Row) -> list[int]:
    return sorted(set(subject.values) & set(reference.values))


def _points(difference: float) -> float:
    return round(100 * difference, PLACES)

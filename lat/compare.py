"""A run against a reference run: does it agree within the intervals?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lat.intervals import LEVEL, Estimate, difference, over_seeds, pooled
from lat.measured import read_ledger

AGREEMENTS = ("yes", "no", "too few", "missing")
NOT_IN_RUN, NOT_IN_REFERENCE = "not in the run", "not in the reference"


@dataclass(frozen=True)
class Row:
    """One figure of both runs. `agree` is one of `AGREEMENTS`; `note` says why, or by what, where it is not plain."""

    scale: str
    cell: str
    width: int
    attack: str
    run: Estimate | None
    reference: Estimate | None
    difference: Estimate | None
    agree: str
    note: str


@dataclass(frozen=True)
class _Side:
    """One cell's figure in one run: values of the surviving seeds, examples each, seeds in all, seeds diverged."""

    values: tuple[float, ...]
    n: int
    seeds: int
    diverged: int


@dataclass(frozen=True)
class _Spread:
    """The variance of one seed with its degrees of freedom (None: not known), pooled over so many cells."""

    variance: tuple[float, int] | None
    cells: int

    def __str__(self) -> str:
        return f"seed spread of {self.cells} cells of the reference" if self.variance else "by the images alone"


def compare(run: Path, reference: Path) -> list[Row]:
    """Every accuracy of either run's ledger (`ledger.csv` in the two folders), side by side.

    Cells are the same where their slugs are, so that a run with other settings is missing and not disagreeing.
    `agree`:

    * yes: the 95 % interval of run minus reference contains 0, or every seed diverged on both sides. The interval is
      `lat.intervals.difference`: Welch's t with several seeds a side; with one seed against several the binomial one
      widened by the spread of those several; with one seed each widened by the spread that the reference's cells with
      several seeds show under the same attack, pooled over all of them at whatever scale. Where there is none it is the
      two-proportion binomial one. `note` names which of the two.
    * no: it does not contain 0; or every seed diverged on one side, and none on the other, with two or more seeds each.
    * too few: all seeds of a side diverged and the other case is not clear.
    * missing: one side has no such figure; `note` says which.

    Raises LedgerError where a ledger cannot be read.
    """
    frames = [_accuracies(read_ledger(folder / "ledger.csv").frame) for folder in (run, reference)]
    keys = ["slug", "attack"]
    sides = [
        {(str(slug), str(attack)): _side(rows) for (slug, attack), rows in frame.groupby(keys, sort=False)}
        for frame in frames
    ]
    labels: dict[tuple[str, str], tuple[str, str, int, str]] = {}
    for frame in reversed(frames):  # the reference's order and names first
        for values in frame.drop_duplicates(keys)[["slug", "scale", "cell", "width", "attack"]].to_numpy().tolist():
            slug, scale, cell, width, attack = values
            labels.setdefault((slug, attack), (scale, cell, int(width), attack))
    spreads = {attack: _spread(attack, sides[1]) for _, attack in labels}
    return [_row(label, sides[0].get(key), sides[1].get(key), spreads[key[1]]) for key, label in labels.items()]


def judged(rows: Sequence[Row]) -> int:
    """How many of the rows agree or disagree."""
    return sum(row.agree in ("yes", "no") for row in rows)


def text(rows: Sequence[Row]) -> str:
    """The rows as lines of text for a terminal, per cent and points, with a summary in the last line."""
    header = ("scale", "cell", "attack", "run", "reference", "difference", "agree")
    lines = [header]
    for row in rows:
        note = f"{row.agree} ({row.note})" if row.note else row.agree
        lines.append(
            (row.scale, row.cell, row.attack, _shown(row.run), _shown(row.reference), _shown(row.difference), note)
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    out = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    counts = {agree: sum(row.agree == agree for row in rows) for agree in AGREEMENTS}
    known = [row for row in rows if row.note != NOT_IN_REFERENCE]
    lacking = f"the run lacks {sum(row.note == NOT_IN_RUN for row in known)} of the reference's {len(known)} figures"
    found = judged(rows)
    chance = f"by chance alone about {(1 - LEVEL) * found:.0f} of {found} judged figures would disagree"
    if not found:
        chance = "nothing could be judged"
    tally = ", ".join(f"{agree}: {count}" for agree, count in counts.items())
    return "\n".join([*out, "", tally, lacking, chance]) + "\n"


def _accuracies(ledger: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of the attack step, clean ones under the attack name `clean`."""
    found = ledger[(ledger["step"] == "attack") & ledger["metric"].isin(["clean_accuracy", "robust_accuracy"])]
    return found.assign(attack=found["attack"].where(found["metric"] != "clean_accuracy", "clean"))


def _side(rows: pd.DataFrame) -> _Side:
    alive = rows[(rows["status"] != "diverged") & rows["value"].notna()].sort_values("seed")
    n = int(alive["n"].min()) if len(alive) else 0
    values = tuple(float(value) for value in alive["value"])
    return _Side(values, n, rows["seed"].nunique(), int((rows["status"] == "diverged").sum()))


def _spread(attack: str, sides: Mapping[tuple[str, str], _Side]) -> _Spread:
    """What one run's cells with several seeds show under an attack."""
    several = [side.values for (_, name), side in sides.items() if name == attack and len(side.values) > 1]
    return _Spread(pooled(several), len(several))


def _row(label: tuple[str, str, int, str], run: _Side | None, reference: _Side | None, spread: _Spread) -> Row:
    scale, cell, width, attack = label
    ours = over_seeds(run.values, run.n) if run and run.values else None
    theirs = over_seeds(reference.values, reference.n) if reference and reference.values else None
    if run is None or reference is None:
        absent = NOT_IN_RUN if run is None else NOT_IN_REFERENCE
        return Row(scale, cell, width, attack, ours, theirs, None, "missing", absent)
    lost = [
        f"{name}: diverged ({side.diverged} of {side.seeds} seeds)"
        for name, side in (("run", run), ("reference", reference))
        if side.diverged
    ]
    if not run.values or not reference.values:
        if not run.values and not reference.values:
            agree = "yes"
        else:
            clear = min(run.seeds, reference.seeds) > 1 and 0 in (run.diverged, reference.diverged)
            agree = "no" if clear else "too few"
        return Row(scale, cell, width, attack, ours, theirs, None, agree, "; ".join(lost))
    found = difference(run.values, reference.values, (run.n, reference.n), spread.variance)
    by = [str(spread)] if len(run.values) == len(reference.values) == 1 else []
    agree = "yes" if found.contains(0.0) else "no"
    return Row(scale, cell, width, attack, ours, theirs, found, agree, "; ".join([*lost, *by]))


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"

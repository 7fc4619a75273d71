"""A run's ledger, asked for one figure at a time: the mean over seeds, or why there is none.

A figure is in one of three states. `ok`: the seeds that did not diverge have it, and it carries their interval.
`diverged`: every seed diverged (where some did, the state stays `ok` and `diverged` counts them). `gap`: no seed has
it, and `reason` says why. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lat.findings import STATUSES
from lat.intervals import Estimate, over_seeds
from lat.ledger import COLUMNS, LedgerError

FRACTIONS = ("clean_accuracy", "robust_accuracy", "success_rate")
WORST_CASE = "worst_case"
LABELS = {"clean": "Clean", "fgsm": "FGSM", "ifgsm": "IFGSM", "pgd": "PGD", "eot": "EoT", "cw": "C&W"}
LABELS |= {WORST_CASE: "Worst case"}
"""The tables' columns, in their order, as a reader is told them."""
MADE = tuple(status for status in STATUSES if status != "skipped")  # of a check that was made


@dataclass(frozen=True)
class Scale:
    """One scale of a run as it was asked for: `cells` are the names of its cells, `seeds` how many of each; `tables`
    are the paper's tables that it belongs to, of which there may be none.
    """

    name: str
    dataset: str
    model: str
    width: int
    epochs: int
    seeds: int
    cells: tuple[str, ...]
    tables: tuple[str, ...]

    def belongs(self, table: Mapping[str, Any]) -> bool:
        """Whether the scale has a line in a table: as it says, or, where it lists its cells by name, by its network."""
        return table["id"] in self.tables if self.tables else self.model == table["model"]


@dataclass(frozen=True)
class Plan:
    """What a run asked for, without the objects that carry it out: against it, a figure that is missing is a gap.

    `slugs` maps (scale, cell name) to the slug that the run resolves the cell to; `steps` the name of a scale to the
    steps that its cells go through; `audit_files` say what its audits check, and `harder` of which (scale, cell name)
    only so many seeds are attacked harder and go through all the checks.
    """

    name: str
    config: Mapping[str, Any]
    scales: tuple[Scale, ...]
    slugs: Mapping[tuple[str, str], str]
    steps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    audit_files: tuple[str, ...] = ()
    harder: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def seeds_of(self, scale: Scale, cell: str, step: str) -> int:
        """How many seeds of a scale's cell go through a step."""
        return self.harder.get((scale.name, cell), scale.seeds) if step == "harder" else scale.seeds

    @classmethod
    def of(cls, run: Any) -> Plan:
        """The plan of a resolved run: a `config` (the run file), `entries`, each with name, scale, seeds, cell, the
        `steps` of each, `audit_files` and `audits` by scale.
        """
        scales = []
        for given in run.config["scales"]:
            names = tuple(entry.name for entry in run.entries if entry.scale == given["name"])
            fields = {key: given[key] for key in ("name", "model", "width", "epochs", "seeds")}
            tables = tuple(given["cells"]["tables"]) if isinstance(given["cells"], Mapping) else ()
            dataset = given.get("dataset", run.config["dataset"])
            scales.append(Scale(**fields, dataset=dataset, cells=names, tables=tables))
        slugs = {(entry.scale, entry.name): entry.cell.slug for entry in run.entries}
        steps: dict[str, tuple[str, ...]] = {}
        for entry in run.entries:  # some may go through fewer steps than others of their scale
            steps[entry.scale] = max(steps.get(entry.scale, ()), run.steps(entry, 0), key=len)
        harder = {
            (entry.scale, entry.name): sum(
                run.audits[entry.scale].whole(entry.cell, seed) for seed in range(entry.seeds)
            )
            for entry in run.entries
            if entry.scale in run.audits
        }
        return cls(str(run.config["name"]), run.config, tuple(scales), slugs, steps, run.audit_files, harder)


@dataclass(frozen=True)
class Measured:
    """One figure of one cell at one scale: its state, the estimate over surviving seeds, and the seeds counted."""

    state: str
    reason: str
    estimate: Estimate | None
    seeds: int
    diverged: int

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "reason": self.reason,
            "seeds": self.seeds,
            "diverged": self.diverged,
            "estimate": self.estimate.to_json() if self.estimate else None,
        }


Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Ledger:
    """A ledger as a frame of `lat.ledger.COLUMNS`, and its rows by (scale, cell name), both in the file's order."""

    frame: pd.DataFrame
    cells: Mapping[tuple[str, str], Rows]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Ledger:
        cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in frame.to_dict("records"):
            cells.setdefault((row["scale"], row["cell"]), []).append({str(key): value for key, value in row.items()})
        return cls(frame, cells)

    def rows(self, scale: str, cell: str | None, slugs: Mapping[tuple[str, str], str]) -> Rows:
        """All rows of one cell at one scale; none where `cell` is None.

        `slugs` maps (scale, cell) to the slug that the run resolves it to, and the slug decides: a cell trained under
        another row's name is found, and figures of a cell that has since been changed are not.
        """
        slug = slugs.get((scale, str(cell)))
        own = self.cells.get((scale, str(cell)), ())
        if own and own[0]["slug"] == slug:
            return own
        return next((rows for rows in self.cells.values() if rows[0]["slug"] == slug), ())


def read_ledger(path: Path) -> Ledger:
    """The ledger in a file: empty text where a column does not apply, `value` as a float, `n` NaN where there is none.

    Raises LedgerError naming the file where it is missing or no table, or the column where one is missing or unknown.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: no such ledger; run the workflow, or `lat collect`, first")
    text = {name: str for name in COLUMNS if name not in ("value", "n", "seed", "width")}
    try:
        frame = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"value": ["nan", ""], "n": [""]})
    except ValueError as error:  # pandas' own errors are of this kind
        raise LedgerError(f"{path}: no ledger ({' '.join(str(error).split())}); collect the run again") from error
    if wrong := sorted(set(frame.columns) ^ set(COLUMNS)):
        state = "missing" if wrong[0] in COLUMNS else "unknown"
        raise LedgerError(f"{path}: column {wrong[0]!r} is {state}; collect the run again")
    return Ledger.of(frame)


def figure(rows: Rows, attack: str, *, metric: str = "", step: str = "attack", asked: bool = True) -> Measured:
    """The figure `metric` under `attack` from one cell's `rows` of one scale (all steps, all seeds).

    `attack` "clean" is clean accuracy over the attacked images. A seed counts as diverged when any of its rows says
    so. `asked` says whether the run lists this cell: it decides what a gap is blamed on.
    """
    missing = "failed or unfinished" if asked else "not in this run"
    if not rows:
        return Measured("gap", missing, None, 0, 0)
    seeds = {row["seed"] for row in rows}
    lost = {row["seed"] for row in rows if row["status"] == "diverged"}
    found = by_seed(rows, attack, metric=metric, step=step)
    seeds = lost | set(found) if found else seeds  # what is trained and not attacked yet is no seed of the figure
    note = f"diverged ({len(lost)} of {len(seeds)} seeds)" if lost else ""
    if not found and lost == seeds:
        return Measured("diverged", note, None, len(seeds), len(lost))
    if not found:
        if asked and step == "attack" and any(row["step"] == step for row in rows):  # attacked, but not in this way
            missing = "not in this run"
        return Measured("gap", missing, None, len(seeds), len(lost))
    fractions = [row["n"] for row in found.values() if row["metric"] in FRACTIONS and row["n"] == row["n"]]
    values = [float(found[seed]["value"]) for seed in sorted(found)]
    estimate = over_seeds(values, int(min(fractions)) if fractions else None)
    return Measured("ok", note, estimate, len(seeds), len(lost))


def found_by_check(rows: Rows) -> dict[str, tuple[int, int]]:
    """Check of the audit -> in how many of a cell's seeds it found something, and in how many it was made; seeds that
    diverged do not count.
    """
    lost = {row["seed"] for row in rows if row["status"] == "diverged"}
    made: dict[str, dict[int, str]] = {}
    for row in rows:
        if row["step"] == "audit" and row["seed"] not in lost and row["metric"] in MADE:
            made.setdefault(row["attack"], {})[row["seed"]] = row["metric"]
    return {check: (list(by.values()).count("found"), len(by)) for check, by in made.items()}


def by_seed(rows: Rows, attack: str, *, metric: str = "", step: str = "attack") -> dict[int, Mapping[str, Any]]:
    """The row of one figure for each seed that did not diverge. Raises LedgerError where a seed has two."""
    metric = metric or ("clean_accuracy" if attack == "clean" else "robust_accuracy")
    wanted = (step, "" if attack == "clean" else attack, metric)
    lost = {row["seed"] for row in rows if row["status"] == "diverged"}
    found: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        if (row["step"], row["attack"], row["metric"]) != wanted or row["seed"] in lost or row["value"] != row["value"]:
            continue
        if row["seed"] in found:
            place = f"{row['cell']}@{row['scale']}, seed {row['seed']}"
            raise LedgerError(f"ledger: {place} has {metric!r} under {attack!r} twice; collect the run again")
        found[int(row["seed"])] = row
    return found

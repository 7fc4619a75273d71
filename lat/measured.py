"""A run's ledger, asked for one figure at a time: the mean over seeds, or why there is none.

A figure is in one of three states. `ok`: the seeds that did not diverge have it, and it carries their interval.
`diverged`: every seed diverged (where some did, the state stays `ok` and `diverged` counts them). `gap`: no seed has
it, and `reason` says why. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lat.intervals import Estimate, over_seeds
from lat.ledger import COLUMNS, LedgerError

FRACTIONS = ("clean_accuracy", "robust_accuracy", "success_rate")
WORST_CASE = "worst_case"


@dataclass(frozen=True)
class Scale:
    """One scale of a run as it was asked for: `cells` are the names of its cells, `seeds` how many of each."""

    name: str
    model: str
    width: int
    epochs: int
    seeds: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a run asked for, without the objects that carry it out: against it, a figure that is missing is a gap.

    `slugs` maps (scale, cell name) to the slug that the run resolves the cell to.
    """

    name: str
    dataset: str
    config: Mapping[str, Any]
    scales: tuple[Scale, ...]
    slugs: Mapping[tuple[str, str], str]

    @classmethod
    def of(cls, run: Any) -> Plan:
        """The plan of a resolved run: a `config` (the run file) and `entries`, each with name, scale, seeds, cell."""
        scales = []
        for given in run.config["scales"]:
            names = tuple(entry.name for entry in run.entries if entry.scale == given["name"])
            fields = {key: given[key] for key in ("name", "model", "width", "epochs", "seeds")}
            scales.append(Scale(**fields, cells=names))
        slugs = {(entry.scale, entry.name): entry.cell.slug for entry in run.entries}
        return cls(str(run.config["name"]), str(run.config["dataset"]), run.config, tuple(scales), slugs)


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


def read_ledger(path: Path) -> pd.DataFrame:
    """The ledger as a frame of `COLUMNS`, empty text where a column does not apply, `value` as a float.

    Raises LedgerError naming the file where it is missing, or the column where one is missing or unknown.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: no such ledger; run the workflow, or `lat collect`, first")
    text = {name: str for name in COLUMNS if name not in ("value", "n", "seed", "width")}
    frame = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"value": ["nan", ""], "n": [""]})
    if wrong := sorted(set(frame.columns) ^ set(COLUMNS)):
        state = "missing" if wrong[0] in COLUMNS else "unknown"
        raise LedgerError(f"{path}: column {wrong[0]!r} is {state}; collect the run again")
    return frame


def choose(ledger: pd.DataFrame, **columns: object) -> pd.DataFrame:
    """The rows whose columns equal the values given, e.g. `choose(ledger, scale="wide", cell="dnn")`."""
    keep = pd.Series(True, index=ledger.index)
    for name, value in columns.items():
        keep &= ledger[name] == value
    return ledger[keep]


def figure(rows: pd.DataFrame, attack: str, *, metric: str = "", step: str = "attack", asked: bool = True) -> Measured:
    """The figure `metric` under `attack` from one cell's `rows` of one scale (all steps, all seeds).

    `attack` "clean" is clean accuracy over the attacked images. A seed counts as diverged when any of its rows says
    so. `asked` says whether the run lists this cell: it decides what a gap is blamed on.
    """
    if rows.empty:
        return Measured("gap", "failed or unfinished" if asked else "not in this run", None, 0, 0)
    metric = metric or ("clean_accuracy" if attack == "clean" else "robust_accuracy")
    lost = set(rows.loc[rows["status"] == "diverged", "seed"])
    seeds = set(rows["seed"])
    found = choose(rows, step=step, attack="" if attack == "clean" else attack, metric=metric)
    alive = found[~found["seed"].isin(lost) & found["value"].notna()].sort_values("seed")
    if alive.empty and lost and lost == seeds:
        return Measured("diverged", f"diverged ({len(lost)} of {len(seeds)} seeds)", None, len(seeds), len(lost))
    if alive.empty:
        known = not asked or (step == "attack" and step in set(rows["step"]))  # attacked, and not with this attack
        return Measured("gap", "not in this run" if known else "failed or unfinished", None, len(seeds), len(lost))
    if alive["seed"].duplicated().any():
        twice = alive.loc[alive["seed"].duplicated(), ["scale", "cell", "seed"]].iloc[0].to_dict()
        raise LedgerError(f"ledger: {twice} has {metric!r} under {attack!r} twice; collect the run again")
    examples = alive["n"].dropna()
    n = int(examples.min()) if metric in FRACTIONS and not examples.empty else None
    reason = f"diverged ({len(lost)} of {len(seeds)} seeds)" if lost else ""
    return Measured("ok", reason, over_seeds(alive["value"].astype(float).tolist(), n), len(seeds), len(lost))


def cell_rows(
    ledger: pd.DataFrame, scale: str, cell: str | None, slugs: Mapping[tuple[str, str], str] | None = None
) -> pd.DataFrame:
    """All rows of one cell at one scale; none where `cell` is None.

    Where `slugs` maps (scale, cell) to the slug that the run resolves it to, the slug decides: a cell trained under
    another row's name is found, and figures of a cell that has since been changed are not.
    """
    if slugs is None:
        return choose(ledger, scale=scale, cell=cell)
    rows = choose(ledger, slug=slugs.get((scale, str(cell)), "nowhere"))
    own = choose(rows, scale=scale, cell=cell)
    if not own.empty or rows.empty:
        return own
    first = rows.iloc[0]
    return choose(rows, scale=first["scale"], cell=first["cell"])

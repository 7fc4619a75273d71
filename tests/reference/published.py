"""What the committed runs show, for the tests that hold them and the README to it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import yaml

from lat.report import ROOT

REFERENCE = ROOT / "reports/reference"
PUBLISHED = sorted(path.parent.name for path in REFERENCE.glob("*/records.jsonl"))
NARROW, WIDE, CONVOLUTIONAL = "calibrated", "wide", "cnn_wide"


def readme() -> str:
    """The README on one line, each run of blanks one blank."""
    return " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def accuracy(cell: str, scale: str, attack: str, run: str = "mnist", images: int = 10_000) -> list[float]:
    """The accuracies of a cell of a reference run, one a seed; fails where the reference has no such cell."""
    frame = pd.read_csv(REFERENCE / run / "ledger.csv", keep_default_na=False)
    rows = frame[(frame["cell"] == cell) & (frame["scale"] == scale) & (frame["step"] == "attack")]
    metric = ("", "clean_accuracy") if attack == "clean" else (attack, "robust_accuracy")
    found = rows[(rows["attack"] == metric[0]) & (rows["metric"] == metric[1])]
    assert not found.empty, f"the reference run {run} has no {cell}@{scale}"
    assert (found["n"].astype(float) == images).all()
    return [float(value) for value in found["value"]]


def undefended(table: str) -> dict[str, float]:
    """What the paper reports of the network without a defence in one of its tables."""
    tables = yaml.safe_load((ROOT / "config/tables.yaml").read_text())["tables"]
    rows = next(entry["rows"] for entry in tables if entry["id"] == table)
    found: dict[str, float] = next(row["reported"] for row in rows if row["cell"] == "dnn")
    return found


class At:
    """The figures of one scale of a run, in per cent."""

    def __init__(self, scale: str, run: str = "mnist") -> None:
        frame = pd.read_csv(REFERENCE / run / "ledger.csv", keep_default_na=False)
        self.frame = frame[frame["scale"] == scale].astype({"value": float})

    def figures(self, cell: str, attack: str, metric: str = "robust_accuracy", step: str = "attack") -> pd.DataFrame:
        """A cell's figures, one a seed."""
        of = {"cell": cell, "attack": attack, "metric": metric, "step": step}
        found = self.frame[np.logical_and.reduce([self.frame[key] == value for key, value in of.items()])]
        assert not found.empty, f"no {cell} under {attack or metric}"
        return found

    def mean(self, cell: str, attack: str = "worst_case", metric: str = "robust_accuracy") -> str:
        found = self.figures(cell, attack, metric)
        return f"{100 * found[found['status'] != 'diverged']['value'].mean():.1f}"

    def lost(self, cell: str) -> tuple[int, int]:
        """How many of how many seeds diverged."""
        found = self.figures(cell, "worst_case")["status"] == "diverged"
        return int(found.sum()), len(found)

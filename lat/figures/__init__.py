"""Figures of the report: each is computed as plain series first and drawn from those, so that its numbers can be read.

One name a figure; `write` draws all of them for a run. Only this package loads matplotlib.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lat.figures import calibration, curves, dots, equivalence, relu
from lat.ledger import Record, atomic
from lat.measured import Ledger, Plan

NOMINAL_RADIUS = 0.1
"""The radius of every attack in the paper's tables (section IV)."""


def write(
    ledger: Ledger,
    records: Sequence[Record],
    plan: Plan,
    names: Mapping[tuple[str, str], str],
    built: Sequence[Mapping[str, Any]],
    calibrated: Mapping[str, Any] | None,
    compared: pd.DataFrame | None,
    folder: Path,
) -> dict[str, Any]:
    """All figures of a run as SVG in `folder`, and their series as `figures.json`, which is also returned.

    `names` maps (scale, cell) to a label, `built` are the built tables, `compared` the rows of `equivalence.csv`. The
    calibration is left out where its study has no figures, and so are the comparisons where there are no rows.
    """
    series: dict[str, Any] = {
        "epsilon": curves.epsilon_series(ledger, plan, names),
        "training_accuracy": curves.training_series(records, plan, names, "clean_accuracy"),
        "training_loss": curves.training_series(records, plan, names, "loss"),
        "fig_1": relu.describe(),
    }
    radius, epoch = "radius of PGD in L∞, pixels in [0, 1]", "epoch"
    looks = curves.looks([*series["epsilon"], *series["training_loss"]])
    for number, part in enumerate(curves.parts(series["epsilon"]), 1):
        accuracy = "robust accuracy, per cent"
        curves.draw(part, looks, folder / f"epsilon_{number}.svg", x=radius, y=accuracy, mark=NOMINAL_RADIUS)
    for number, part in enumerate(curves.parts(curves.errors(series["training_accuracy"])), 1):
        error = "clean error, per cent"
        curves.draw(part, looks, folder / f"training_error_{number}.svg", x=epoch, y=error, log=True)
    for number, part in enumerate(curves.parts(series["training_loss"]), 1):
        curves.draw(part, looks, folder / f"training_loss_{number}.svg", x=epoch, y="training loss", log=True)
    relu.draw(folder / "fig_1.svg")
    for table in filter(dots.measured, built):
        dots.draw(table, folder / f"dots_{table['id']}.svg")
    if calibrated is not None and any(entry["distance"] is not None for entry in calibrated["widths"]):
        labels = {column["key"]: column["label"] for table in built for column in table["columns"]}
        calibration.draw(calibrated, labels, folder / "calibration.svg")
    if compared is not None and len(compared):
        series["tightness"] = equivalence.tightness_series(compared)
        series["cosine"] = equivalence.cosine_series(compared)
        equivalence.draw_tightness(series["tightness"], folder / "tightness.svg")
        equivalence.draw_cosines(series["cosine"], folder / "cosine.svg")
    series["files"] = sorted(path.name for path in folder.glob("*.svg"))
    with atomic(folder / "figures.json") as temporary:
        temporary.write_text(json.dumps(series, indent=1) + "\n")
    return series

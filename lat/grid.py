"""A row of the grid becomes a cell: under a run file, one of its scales and what a variant overrides."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lat.cells import UNCOMPILED, Cell, Compute, Law, Reading, Schedule
from lat.run_files import RunError, check, opened

ROW_KEYS = (
    "method",
    "layers",
    "law",
    "radius",
    "draw",
    "form",
    "scope",
    "pairing",
    "gradient",
    "at",
    "reset",
    "source",
    "input_law",
    "input_radius",
    "input_draw",
    "mix",
    "statistics",
)
READING_KEYS = ("form", "scope", "pairing", "gradient", "at", "reset", "source")
SCALE_KEYS = ("model", "width", "epochs")
SCHEDULE_KEYS = ("batch", "lr", "momentum", "weight_decay", "schedule", "augmentation")
RUN_KEYS = ("dataset", "train", "compute")  # of the run file, which a scale may say otherwise
LEFT_OUT: Mapping[str, Any] = {"augmentation": Schedule(1).augmentation, "compute": {}}  # what a run file need not say
ABSENT = "-"


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    """The grid's rows by name. Raises RunError naming the file, the line or row, and the column."""
    with opened(path, "grid") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        expected = ["cell", *ROW_KEYS, "comment"]
        if reader.fieldnames != expected:
            wrong = sorted(set(reader.fieldnames or ()) ^ set(expected)) or ["order"]
            raise RunError(
                f"{path.name}: column {wrong[0]!r} is missing, unknown or displaced; write {' '.join(expected)}"
            )
        rows: dict[str, dict[str, str]] = {}
        for number, row in enumerate(reader, start=2):
            if None in row or None in row.values():
                raise RunError(
                    f"{path.name}, line {number}: {len(expected)} columns, separated by tabs, are needed; "
                    f"{ABSENT!r} is none"
                )
            name = row.pop("cell")
            if name in rows:
                raise RunError(f"{path.name}, line {number}: cell {name!r} stands twice; give it another name")
            rows[name] = row
    check([{"cell": name, **row} for name, row in rows.items()], "cells", path.name)
    return rows


def resolve(
    row: Mapping[str, Any], config: Mapping[str, Any], scale: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Cell:
    """The cell of a grid row under a run file, a scale and overrides; what does not apply to its method is left out, as
    is the compilation that it cannot have.
    """
    run = {**LEFT_OUT, **config["schedule"], **{key: config[key] for key in RUN_KEYS if key in config}}
    own = {key: value for key, value in scale.items() if key in (*RUN_KEYS, *SCALE_KEYS, *SCHEDULE_KEYS)}
    values = {**run, **own, **row, **overrides}
    for key, value in overrides.items():
        if not isinstance(value, str | int | float):
            raise RunError(f"{key}: {value!r} in an override; give one value, as a grid row has it")
    if not isinstance(values["width"], int):
        raise RunError(f"width: {values['width']!r} must be a whole number such as 10")
    method = str(values["method"])
    layerwise = "layerwise" in method.split("+")
    compute = Compute(**values["compute"])
    if set(method.split("+")) & set(UNCOMPILED):
        compute = replace(compute, compile="none")
    conventional = bool(set(method.split("+")) - {"standard", "layerwise"}) and values["input_law"] != ABSENT
    return Cell(
        dataset=values["dataset"],
        model=values["model"],
        width=values["width"],
        method=method,
        layers=tuple(str(values["layers"]).split(",")) if layerwise and values["layers"] != ABSENT else (),
        law=_law(values["law"], values["radius"], values["draw"], "radius") if layerwise else None,
        reading=Reading(**{key: values[key] for key in READING_KEYS}) if layerwise else None,
        input_law=_law(values["input_law"], values["input_radius"], values["input_draw"], "input_radius")
        if conventional
        else None,
        mix=conventional and _flag("mix", values["mix"]),
        schedule=Schedule(epochs=values["epochs"], **{key: values[key] for key in SCHEDULE_KEYS}),
        train=values["train"],
        part=config["part"],
        compute=compute,
        statistics=str(values["statistics"]),
    )


def _law(kind: str, radius: object, draw: str, key: str) -> Law:
    try:
        number = float(str(radius))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RunError(f"{key}: {radius!r} is no number; write one such as 0.1")
    return Law(kind, number, draw)


def _flag(key: str, value: object) -> bool:
    flags = {"yes": True, "no": False, ABSENT: False, True: True, False: False}
    if value not in flags:
        raise RunError(f"{key}: {value!r} is neither yes nor no; write one of them")
    return flags[value]

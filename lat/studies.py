"""Three studies that stand beside the tables: the width, the reading of the method, and the other assumptions.

Each takes the ledger of its own run. A name in such a ledger is a row of the grid and, after blanks, what was changed
in it: `fc_34 form=closed pairing=mean`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lat.intervals import Estimate, over_seeds
from lat.measured import WORST_CASE, Plan, choose, figure

CALIBRATED_ON = ("clean", "fgsm", "ifgsm", "pgd")
FAMILIES = ("layerwise", "fgsm", "pgd")
SHOWN = ("clean", "fgsm", "pgd", "cw", WORST_CASE)
CHANGES = ("clean", WORST_CASE)


def _text(value: float) -> str:
    return f"{100 * value:.1f}"


def _signed(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def split_name(name: str) -> tuple[str, dict[str, str]]:
    """A cell's name as its grid row and the changes made to it: `a b=c d=e` is ("a", {"b": "c", "d": "e"})."""
    base, *changes = name.split(" ")
    return base, dict(change.split("=", 1) for change in changes)


def calibration(ledger: pd.DataFrame, reported: Mapping[str, float]) -> dict[str, Any]:
    """The undefended network over a grid of widths, and its distance to the paper's undefended row.

    The distance is the root mean square, over `CALIBRATED_ON`, of the differences of means over seeds to `reported`
    (fractions), in points. The width chosen is the nearest one; of a tie, the smallest. Widths of which a figure is
    missing, or all seeds diverged, have no distance.
    """
    undefended = choose(ledger, method="standard")
    widths = []
    for width in sorted(set(undefended["width"])):
        rows = choose(undefended, width=width)
        found = {key: figure(rows, key) for key in CALIBRATED_ON}
        means = {key: entry.estimate.mean for key, entry in found.items() if entry.estimate is not None}
        gaps = [entry.reason for entry in found.values() if entry.state != "ok"]
        distance = None
        if len(means) == len(CALIBRATED_ON):
            squares = [(means[key] - reported[key]) ** 2 for key in CALIBRATED_ON]
            distance = 100 * math.sqrt(math.fsum(squares) / len(squares))
        widths.append(
            {
                "width": int(width),
                "seeds": max(entry.seeds for entry in found.values()),
                "diverged": max(entry.diverged for entry in found.values()),
                "means": means,
                "intervals": {
                    key: [entry.estimate.low, entry.estimate.high] for key, entry in found.items() if entry.estimate
                },
                "text": {key: _text(mean) for key, mean in means.items()},
                "distance": distance,
                "distance_text": f"{distance:.1f}" if distance is not None else "",
                "reason": "; ".join(sorted(set(gaps))),
            }
        )
    near = [entry for entry in widths if entry["distance"] is not None]
    chosen = min(near, key=lambda entry: (entry["distance"], entry["width"]))["width"] if near else None
    return {
        "columns": list(CALIBRATED_ON),
        "reported": {key: reported[key] for key in CALIBRATED_ON},
        "reported_text": {key: f"{100 * reported[key]:.2f}" for key in CALIBRATED_ON},
        "widths": widths,
        "chosen": chosen,
    }


def family(method: str) -> str:
    """The method family whose tuning budget a cell belongs to; empty for one that is not tuned."""
    parts = method.split("+")
    return next((name for name in FAMILIES if name in parts), "")


def readings(ledger: pd.DataFrame, plan: Plan | None = None) -> dict[str, Any]:
    """The reading study: every point of the grid, ranked by worst-case accuracy within its scale and method family.

    Diverged points come last and win nothing. Where `plan` is given, `asked` counts the points that the run lists, so
    that an unfinished study says so and names no winner of that group.
    """
    groups = []
    for scale in dict.fromkeys(ledger["scale"]):
        for name in FAMILIES:
            mine = ledger[(ledger["scale"] == scale) & (ledger["method"].map(family) == name)]
            if mine.empty:
                continue
            ranked = sorted((_point(rows) for _, rows in mine.groupby("cell", sort=False)), key=_rank)
            for place, point in enumerate(ranked, start=1):
                point["rank"] = place if point["worst_case"] is not None else None
            alive = [point for point in ranked if point["worst_case"] is not None]
            asked = _asked(plan, scale, {split_name(point["cell"])[0] for point in ranked}) if plan else len(ranked)
            lost = [point for point in ranked if point["state"] == "diverged"]
            done = len(alive) + len(lost) == asked
            groups.append(
                {
                    "scale": scale,
                    "width": int(mine["width"].iloc[0]),
                    "family": name,
                    "asked": asked,
                    "measured": len(alive) + len(lost),
                    "diverged": len(lost),
                    "winner": alive[0]["cell"] if done and alive else None,
                    "points": ranked,
                }
            )
    examples = ledger.loc[ledger["attack"] == WORST_CASE, "n"].dropna()
    images = int(examples.max()) if len(examples) else None
    return {"columns": list(SHOWN), "images": images, "groups": groups}


def _point(rows: pd.DataFrame) -> dict[str, Any]:
    found = {key: figure(rows, key) for key in SHOWN}
    base, changes = split_name(rows["cell"].iloc[0])
    worst = found[WORST_CASE]
    lost = worst.diverged > 0  # a point that trains on some seeds only is not one to build on
    return {
        "cell": rows["cell"].iloc[0],
        "slug": rows["slug"].iloc[0],
        "base": base,
        "changes": " ".join(f"{key}={value}" for key, value in changes.items()),
        "state": "diverged" if lost else worst.state,
        "reason": worst.reason,
        "worst_case": worst.estimate.mean if worst.estimate and not lost else None,
        "text": {key: _text(entry.estimate.mean) for key, entry in found.items() if entry.estimate},
    }


def _rank(point: Mapping[str, Any]) -> tuple[bool, float, str]:
    worst = point["worst_case"]
    return worst is None, -(worst or 0.0), point["cell"]


def _asked(plan: Plan, scale: str, bases: set[str]) -> int:
    return sum(split_name(name)[0] in bases for where, name in plan.slugs if where == scale)


def sensitivity(
    ledger: pd.DataFrame, assumptions: Iterable[Mapping[str, Any]], plan: Plan | None = None
) -> dict[str, Any]:
    """Each alternative of the assumptions register against the default: change in points of each base row.

    Changes are paired by seed (same initialisation and batches). `plan`, where given, tells an alternative that does
    not apply to a row (it resolves to the default cell, so the run does not list it) from one that is missing.
    """
    scale = next(iter(ledger["scale"]), "")
    mine = choose(ledger, scale=scale)
    names = list(dict.fromkeys(mine["cell"]))
    bases = list(dict.fromkeys(split_name(name)[0] for name in names))
    default = {base: {key: figure(choose(mine, cell=base), key) for key in CHANGES} for base in bases}
    listed = [
        {"assumption": entry["id"], "id": option["id"], "set": option["set"]}
        for entry in assumptions
        for option in entry.get("sensitivity") or []
    ]
    alternatives = []
    for option in listed:
        row: dict[str, Any] = {"assumption": option["assumption"], "id": option["id"], "cells": {}}
        for base in bases:
            name = next((name for name in names if _is(name, base, option["set"])), None)
            asked = plan is None or any(w == scale and _is(name, base, option["set"]) for w, name in plan.slugs)
            row["cells"][base] = _change(mine, base, name, asked)
        alternatives.append(row)
    return {
        "scale": scale,
        "width": int(mine["width"].iloc[0]) if len(mine) else None,
        "columns": list(CHANGES),
        "bases": bases,
        "default": {
            base: {key: _text(entry.estimate.mean) if entry.estimate else entry.reason for key, entry in found.items()}
            for base, found in default.items()
        },
        "alternatives": alternatives,
    }


def _is(name: str, base: str, setting: Mapping[str, Any]) -> bool:
    """Whether the cell's name is `base` changed as `setting` says; keys of it that do not reach the row may be absent.

    A nested mapping {key: {old: new}} stands for `key=new`.
    """
    row, changes = split_name(name)
    if row != base or not changes:
        return False
    for key, value in changes.items():
        if key not in setting:
            return False
        allowed = setting[key].values() if isinstance(setting[key], Mapping) else [setting[key]]
        if value not in [str(entry) for entry in allowed]:
            return False
    return True


def _change(ledger: pd.DataFrame, base: str, name: str | None, asked: bool) -> dict[str, Any]:
    """One alternative of one row: for each of `CHANGES` the mean difference to the default, a fraction and its text."""
    if name is None:
        return {"state": "gap" if asked else "same", "reason": "not in this run" if asked else "", "columns": {}}
    rows = choose(ledger, cell=name)
    columns: dict[str, Any] = {}
    for key in CHANGES:
        found, before = figure(rows, key), _by_seed(choose(ledger, cell=base), key)
        after = _by_seed(rows, key)
        pairs = [after[seed] - before[seed] for seed in sorted(set(after) & set(before))]
        if found.state != "ok" or not pairs:
            columns[key] = {"difference": None, "text": "", "seeds": 0, "reason": found.reason or "no common seed"}
            continue
        estimate: Estimate = over_seeds(pairs, None)
        columns[key] = estimate.to_json() | {
            "difference": estimate.mean,
            "text": _signed(estimate.mean),
            "reason": found.reason,
        }
    states: Sequence[str] = [figure(rows, key).state for key in CHANGES]
    lost = figure(rows, CHANGES[0])
    return {"state": states[0] if len(set(states)) == 1 else "ok", "reason": lost.reason, "columns": columns}


def _by_seed(rows: pd.DataFrame, key: str) -> dict[int, float]:
    """Value by seed of the seeds that did not diverge."""
    lost = set(rows.loc[rows["status"] == "diverged", "seed"])
    metric = "clean_accuracy" if key == "clean" else "robust_accuracy"
    found = choose(rows, step="attack", attack="" if key == "clean" else key, metric=metric)
    return {int(s): float(v) for s, v in zip(found["seed"], found["value"], strict=True) if s not in lost}

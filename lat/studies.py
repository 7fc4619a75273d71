"""Three studies that stand beside the tables: the width, the reading of the method, and the other assumptions.

Each takes the ledger of its own run. A name in such a ledger is a row of the grid and, after blanks, what was changed
in it: `fc_34 form=closed pairing=mean`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lat.intervals import over_seeds
from lat.ledger import Record
from lat.measured import LABELS, WORST_CASE, Ledger, Plan, Rows, by_seed, figure

CALIBRATED_ON = {"clean": 0.03, "fgsm": 0.06, "ifgsm": 0.06, "pgd": 0.06}
"""The columns of the paper's undefended row by which a network is chosen, and how near each has to come to fit it."""
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


def made(records: Sequence[Record], plan: Plan) -> dict[str, Any]:
    """How a study was made: the epochs and the seeds of its points, the parts it was trained and scored on, and the
    attacks, over which its worst case is; `without` are those of the tables that are not among them.

    `elsewhere` are the scales of `plan`, the run that shows the study, that have a network of the study at other epochs
    or trained on another part (`there`), so that the same row has other figures in the run's tables.
    """
    trained = [record for record in records if record.step == "train"]
    seeds: dict[tuple[str, str], set[int]] = {}
    for record in trained:
        seeds.setdefault((record.scale, record.name), set()).add(record.seed)
    ways: dict[tuple[str, str, float], set[int]] = {}
    for record in trained:
        cell = record.cell
        ways.setdefault((cell.dataset, cell.model, cell.width), set()).add(cell.schedule.epochs)
    fixed = [name for name in LABELS if name not in ("clean", WORST_CASE)]
    made_by = {name for record in records if record.step == "attack" for name in record.settings["attacks"]}
    parts, there = sorted({record.cell.part for record in trained}), plan.config["part"]
    return {
        "epochs": sorted(set().union(*ways.values())),
        "seeds": sorted({len(found) for found in seeds.values()}),
        "parts": parts,
        "attacks": [LABELS[name] for name in fixed if name in made_by],
        "without": [LABELS[name] for name in fixed if name not in made_by],
        "scored": sorted({record.settings["part"] for record in records if record.step == "attack"}),
        "there": there,
        "elsewhere": [
            {"name": scale.name, "epochs": scale.epochs}
            for scale in plan.scales
            if (epochs := ways.get((scale.dataset, scale.model, scale.width)))
            and (epochs != {scale.epochs} or parts != [there])
        ],
    }


def calibration(ledger: Ledger, reported: Mapping[str, float]) -> dict[str, Any]:
    """The undefended network over a grid of networks and widths, and its distance to the paper's undefended row.

    The distance is the root mean square, over `CALIBRATED_ON`, of the differences of means over seeds to `reported`
    (fractions), in points. The point chosen is the nearest one; of a tie, the narrowest. It `fits` where each of its
    means is as near as `CALIBRATED_ON` says. Points of which a figure is missing, or all seeds diverged, have no
    distance.
    """
    undefended = [rows for rows in ledger.cells.values() if rows[0]["method"] == "standard"]
    points = [_calibrated(rows, reported) for rows in undefended]
    near = [point for point in points if point["distance"] is not None]
    chosen = min(near, key=lambda point: (point["distance"], point["width"]), default=None)
    networks = list(dict.fromkeys(point["model"] for point in points))
    return {
        "columns": list(CALIBRATED_ON),
        "reported": {key: reported[key] for key in CALIBRATED_ON},
        "reported_text": {key: f"{100 * reported[key]:.2f}" for key in CALIBRATED_ON},
        "networks": networks,
        "widths": sorted(
            (point | {"chosen": point is chosen} for point in points),
            key=lambda point: (networks.index(point["model"]), point["width"]),
        ),
        "chosen": chosen["width"] if chosen else None,
        "network": chosen["model"] if chosen else None,
        "fits": chosen is not None
        and all(abs(chosen["means"][key] - reported[key]) <= near for key, near in CALIBRATED_ON.items()),
    }


def _calibrated(rows: Rows, reported: Mapping[str, float]) -> dict[str, Any]:
    """One point of a calibration's grid."""
    found = {key: figure(rows, key) for key in CALIBRATED_ON}
    means = {key: entry.estimate.mean for key, entry in found.items() if entry.estimate is not None}
    gaps = [entry.reason for entry in found.values() if entry.state != "ok"]
    distance = None
    if len(means) == len(CALIBRATED_ON):
        squares = [(means[key] - reported[key]) ** 2 for key in CALIBRATED_ON]
        distance = 100 * math.sqrt(math.fsum(squares) / len(squares))
    return {
        "model": rows[0]["model"],
        "width": int(rows[0]["width"]),
        "seeds": max(entry.seeds for entry in found.values()),
        "diverged": max(entry.diverged for entry in found.values()),
        "means": means,
        "intervals": {key: [entry.estimate.low, entry.estimate.high] for key, entry in found.items() if entry.estimate},
        "text": {key: _text(mean) for key, mean in means.items()},
        "distance": distance,
        "distance_text": f"{distance:.1f}" if distance is not None else "",
        "reason": "; ".join(sorted(set(gaps))),
    }


def family(method: str) -> str:
    """The method family whose tuning budget a cell belongs to; empty for one that is not tuned."""
    parts = method.split("+")
    return next((name for name in FAMILIES if name in parts), "")


def readings(ledger: Ledger, plan: Plan | None = None) -> dict[str, Any]:
    """The reading study: every point of the grid, ranked by worst-case accuracy within its scale and method family.

    Diverged points come last and win nothing. Where `plan` is given, `asked` counts the points that the run lists, so
    that an unfinished study says so and names no winner of that group.
    """
    groups = []
    for scale in dict.fromkeys(scale for scale, _ in ledger.cells):
        cells = [rows for (where, _), rows in ledger.cells.items() if where == scale]
        for name in FAMILIES:
            mine = [rows for rows in cells if family(rows[0]["method"]) == name]
            if not mine:
                continue
            ranked = sorted((_point(rows) for rows in mine), key=_rank)
            for place, point in enumerate(ranked, start=1):
                point["rank"] = place if point["worst_case"] is not None else None
            alive = [point for point in ranked if point["worst_case"] is not None]
            asked = _asked(plan, scale, {split_name(point["cell"])[0] for point in ranked}) if plan else len(ranked)
            lost = [point for point in ranked if point["state"] == "diverged"]
            done = len(alive) + len(lost) == asked
            groups.append(
                {
                    "scale": scale,
                    "width": int(mine[0][0]["width"]),
                    "family": name,
                    "asked": asked,
                    "measured": len(alive) + len(lost),
                    "diverged": len(lost),
                    "winner": alive[0]["cell"] if done and alive else None,
                    "points": ranked,
                }
            )
    return {"columns": list(SHOWN), "images": _images(ledger), "groups": groups}


def rates(ledger: Ledger, plan: Plan | None = None) -> dict[str, Any]:
    """The study of the learning rate: every measured point, with how many of its seeds diverged.

    A point's `text` is over the seeds that did not, and empty where all did. Where `plan` is given, the points stand in
    its order, and `asked` counts all that it lists.
    """
    listed = list(plan.slugs) if plan else list(ledger.cells)
    points = [_point(ledger.cells[place]) for place in listed if place in ledger.cells]
    return {"columns": list(SHOWN), "images": _images(ledger), "asked": len(listed), "points": points}


def _images(ledger: Ledger) -> int | None:
    """How many images a study was scored on."""
    frame = ledger.frame
    examples = frame.loc[frame["attack"] == WORST_CASE, "n"].dropna()
    return int(examples.max()) if len(examples) else None


def _point(rows: Rows) -> dict[str, Any]:
    found = {key: figure(rows, key) for key in SHOWN}
    base, changes = split_name(rows[0]["cell"])
    worst = found[WORST_CASE]
    lost = worst.diverged > 0  # a point that trains on some seeds only is not one to build on
    return {
        "cell": rows[0]["cell"],
        "slug": rows[0]["slug"],
        "base": base,
        "changes": " ".join(f"{key}={value}" for key, value in changes.items()),
        "state": "diverged" if lost else worst.state,
        "reason": worst.reason,
        "seeds": worst.seeds,
        "diverged": worst.diverged,
        "worst_case": worst.estimate.mean if worst.estimate and not lost else None,
        "text": {key: _text(entry.estimate.mean) for key, entry in found.items() if entry.estimate},
    }


def _rank(point: Mapping[str, Any]) -> tuple[bool, float, str]:
    worst = point["worst_case"]
    return worst is None, -(worst or 0.0), point["cell"]


def _asked(plan: Plan, scale: str, bases: set[str]) -> int:
    return sum(split_name(name)[0] in bases for where, name in plan.slugs if where == scale)


def sensitivity(ledger: Ledger, assumptions: Iterable[Mapping[str, Any]], plan: Plan | None = None) -> dict[str, Any]:
    """Each alternative of the assumptions register against the default: change in points of each base row.

    Changes are paired by seed (same initialisation and batches). `plan`, where given, tells an alternative that does
    not apply to a row (it resolves to the default cell, so the run does not list it) from one that is missing.
    """
    scale = next((where for where, _ in ledger.cells), "")
    mine = {name: rows for (where, name), rows in ledger.cells.items() if where == scale}
    names = list(mine)
    listed_names = [name for where, name in plan.slugs if where == scale] if plan else names
    bases = list(dict.fromkeys(split_name(name)[0] for name in listed_names))
    default = {base: {key: figure(mine.get(base, ()), key) for key in CHANGES} for base in bases}
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
            asked = any(_is(name, base, option["set"]) for name in listed_names) if plan else True
            row["cells"][base] = _change(mine.get(base, ()), mine[name] if name else None, asked)
        alternatives.append(row)
    return {
        "scale": scale,
        "width": int(mine[names[0]][0]["width"]) if names else None,
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


def _change(default: Rows, rows: Rows | None, asked: bool) -> dict[str, Any]:
    """One alternative of one row: for each of `CHANGES` the mean difference to the default, a fraction and its text.

    `rows` is None where there are none: a gap where the run asks for them, else the alternative does not apply.
    """
    if rows is None:
        return {"state": "gap" if asked else "same", "reason": "not in this run" if asked else "", "columns": {}}
    columns: dict[str, Any] = {}
    for key in CHANGES:
        found, before, after = figure(rows, key), by_seed(default, key), by_seed(rows, key)
        pairs = [
            float(after[seed]["value"]) - float(before[seed]["value"]) for seed in sorted(set(after) & set(before))
        ]
        if not pairs:
            columns[key] = {"difference": None, "text": "", "seeds": 0, "reason": found.reason or "no common seed"}
            continue
        estimate = over_seeds(pairs, None)
        columns[key] = estimate.to_json() | {
            "difference": estimate.mean,
            "text": _signed(estimate.mean),
            "reason": found.reason,
        }
    first = figure(rows, CHANGES[0])
    state = first.state if all(entry["difference"] is None for entry in columns.values()) else "ok"
    return {"state": state, "reason": first.reason, "columns": columns}

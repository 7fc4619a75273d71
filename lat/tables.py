"""The paper's tables, reported beside measured: from a ledger and `config/tables.yaml` to plain values for the report.

All fractions; the `text` beside a figure is what is printed, in per cent (differences in points).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lat.cells import BATCH_NORMALISED
from lat.intervals import Estimate
from lat.ledger import atomic
from lat.measured import LABELS, WORST_CASE, Ledger, Measured, Plan, Scale, figure
from lat.run_files import read

BASELINE = "dnn"
READINGS = ("default", "favourable")


class TableError(ValueError):
    """A table that is not there was asked for; the message names it and the ones that are."""


def load_tables(path: Path) -> list[dict[str, Any]]:
    """The tables of `config/tables.yaml`, each with its columns. Raises RunError where the file does not fit."""
    content = read(path, "tables", "tables.file")
    return [{"columns": content["columns"], **table} for table in content["tables"]]


def named_table(tables: Iterable[dict[str, Any]], name: str) -> dict[str, Any]:
    """The table whose id is `name`; raises TableError listing the known ones."""
    known = {table["id"]: table for table in tables}
    if name not in known:
        raise TableError(f"table: {name!r} is not known; use one of {', '.join(known)}")
    return known[name]


def labels_of(tables: Iterable[Mapping[str, Any]], plan: Plan) -> dict[tuple[str, str], str]:
    """The name a cell of a scale goes by outside the tables: its row in the last table of the scale that shows it,
    favourable or not; by (scale, cell).
    """
    found: dict[tuple[str, str], str] = {}
    for table in tables:
        for scale in (scale for scale in plan.scales if scale.belongs(table)):
            for row in [*table["rows"], *(table.get("extra") or [])]:
                found |= {(scale.name, cell): row["row"] for cell in (row["cell"], row.get("best")) if cell}
    return found


def percent(value: float, places: int = 1) -> str:
    return f"{100 * value:.{places}f}"


def points(value: float) -> str:
    """A difference in points with its sign; a true minus."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def interval_text(estimate: Estimate) -> str:
    if estimate.kind == "point":
        return ""
    return f"{percent(estimate.low)} to {percent(estimate.high)}".replace("-", "−")


def shown(measured: Measured, reported: float | None) -> dict[str, Any]:
    """A measured fraction as the report shows it: its values, its texts, and its distance to the reported number."""
    entry = measured.to_json() | {"text": "", "interval_text": "", "difference": None, "difference_text": ""}
    if measured.estimate is not None:
        mean = measured.estimate.mean
        entry |= {"text": percent(mean), "interval_text": interval_text(measured.estimate)}
        if reported is not None:
            entry |= {"difference": mean - reported, "difference_text": points(mean - reported)}
    return entry


def training_cost(ledger: Ledger, plan: Plan, scale: Scale, cell: str | None) -> dict[str, Any]:
    """Processor time of a training step: the mean over seeds in ms, and how many times the undefended cell's."""
    own, baseline = (_train_mean(ledger, plan, scale, name, "step_ms") for name in (cell, BASELINE))
    ratio = own / baseline if own is not None and baseline else None
    return {"step_ms": own, "ratio": ratio, "text": f"{ratio:.1f}×" if ratio is not None else ""}


def line(
    ledger: Ledger,
    plan: Plan,
    scale: Scale,
    cell: str | None,
    reported: Mapping[str, float],
    columns: Sequence[str],
) -> dict[str, Any]:
    """One cell at one scale: every column, the worst case, the cost, and the state of the line as a whole."""
    rows = ledger.rows(scale.name, cell, plan.slugs)
    measured = {key: figure(rows, key, asked=cell in scale.cells) for key in (*columns, WORST_CASE)}
    states = {entry.state for entry in measured.values()}
    lost = max(entry.diverged for entry in measured.values())
    seeds = max(entry.seeds for entry in measured.values())
    clean = measured[columns[0]].estimate
    return {
        "scale": scale.name,
        "width": scale.width,
        "cell": cell,
        "state": states.pop() if len(states) == 1 else "ok",
        "reason": "; ".join(sorted({entry.reason for entry in measured.values() if entry.state != "ok"})),
        "seeds": seeds,
        "seeds_asked": scale.seeds,
        "diverged": lost,
        "diverged_text": f"diverged ({lost} of {seeds} seeds)" if lost else "",
        "interval": clean.kind if clean else "",
        "columns": {key: shown(entry, reported.get(key)) for key, entry in measured.items()},
        "cost": training_cost(ledger, plan, scale, cell),
    }


def build(ledger: Ledger, table: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """One table: each row's reported numbers and, for every scale, its measured line; the favourable reading beside.

    `table` is an entry of `load_tables`. A row without a cell has no measured line.
    Differences to the reported numbers are given where the scale's dataset is the table's, and the run no smoke test.
    Rows whose favourable reading the run does not have at any scale are listed under `without_favourable`.
    """
    columns = list(table["columns"])
    scales = [scale for scale in plan.scales if scale.belongs(table)]
    rows = []
    for extra, entries in ((False, table["rows"]), (True, table.get("extra") or [])):
        for entry in entries:
            reported = dict(entry.get("reported") or {})
            cells = dict(zip(READINGS, (entry["cell"], entry.get("best")), strict=True))
            lines = [
                {"reading": reading}
                | line(ledger, plan, scale, cell, reported if _comparable(plan, scale, table) else {}, columns)
                for reading, cell in cells.items()
                if cell is not None and (reading == "default" or any(cell in scale.cells for scale in scales))
                for scale in scales
            ]
            rows.append(
                {
                    "row": entry["row"],
                    "cell": entry["cell"],
                    "extra": extra,
                    "reported": reported,
                    "reported_text": {key: percent(value, 2) for key, value in reported.items()},
                    "lines": lines,
                }
            )
    return {
        "id": table["id"],
        "roman": table["roman"],
        "title": table["title"],
        "dataset": table["dataset"],
        "model": table["model"],
        "batch_normalised": table["model"] in BATCH_NORMALISED,
        "columns": [{"key": key, "label": LABELS.get(key, key)} for key in (*columns, WORST_CASE)],
        "scales": [asdict(scale) | {"cells": len(scale.cells)} for scale in scales],
        "rows": rows,
        "without_favourable": [
            row["row"]
            for row, entry in zip(rows, [*table["rows"], *(table.get("extra") or [])], strict=True)
            if entry.get("best") and not any(found["reading"] == "favourable" for found in row["lines"])
        ],
        "notes": list(table.get("notes") or []),
    }


def _comparable(plan: Plan, scale: Scale, table: Mapping[str, Any]) -> bool:
    return scale.dataset == table["dataset"] and not plan.config.get("smoke")


def costs(ledger: Ledger, plan: Plan, labels: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """Beside the tables, a line a (scale, cell): the processor time of a training step, and the L2 distance C&W needs.

    Milliseconds, and distances in the data's units; ratios are to the undefended cell at the same scale.
    """
    out = []
    for scale in plan.scales:
        for cell in scale.cells:
            rows = ledger.rows(scale.name, cell, plan.slugs)
            distance = figure(rows, "cw_l2", metric="median_l2").estimate
            reached = figure(rows, "cw_l2", metric="success_rate").estimate
            cost = training_cost(ledger, plan, scale, cell)
            out.append(
                {
                    "scale": scale.name,
                    "width": scale.width,
                    "cell": cell,
                    "row": labels.get((scale.name, cell), cell),
                    "favourable": cell.endswith("_best"),
                    "step_text": f"{cost['step_ms']:.2f}" if cost["step_ms"] is not None else "",
                    "ratio_text": f"{cost['ratio']:.2f}×" if cost["ratio"] is not None else "",
                    "l2_text": f"{distance.mean:.2f}" if distance else "",
                    "reached_text": percent(reached.mean) if reached else "",
                    "reason": figure(rows, "clean", asked=True).reason,
                }
            )
    return out


def _train_mean(ledger: Ledger, plan: Plan, scale: Scale, cell: str | None, metric: str) -> float | None:
    """Mean over seeds of a figure of the training step; None where no seed has it."""
    found = figure(ledger.rows(scale.name, cell, plan.slugs), "", metric=metric, step="train")
    return found.estimate.mean if found.estimate else None


def flat(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The built table as rows of a CSV: one a (row, source, column)."""
    empty = {"scale": "", "width": "", "cell": "", "low": "", "high": "", "interval": "", "seeds": "", "diverged": ""}
    empty |= {"difference": "", "state": "ok", "reason": ""}
    for row in table["rows"]:
        name = {"table": table["id"], "row": row["row"]}
        for key, value in row["reported"].items():
            yield name | {"source": "reported", "column": key, "value": value} | empty
        for entry in row["lines"]:
            for key, found in entry["columns"].items():
                estimate = found["estimate"] or {}
                yield (
                    name
                    | {"source": "measured", "column": key, "value": estimate.get("mean", "")}
                    | {
                        **{name: entry[name] for name in ("scale", "width")},
                        "cell": entry["cell"] or "",
                        "low": estimate.get("low", ""),
                        "high": estimate.get("high", ""),
                        "interval": estimate.get("kind", ""),
                        "seeds": found["seeds"],
                        "diverged": found["diverged"],
                        "difference": "" if found["difference"] is None else found["difference"],
                        "state": found["state"],
                        "reason": found["reason"],
                    }
                )


def markdown(table: Mapping[str, Any]) -> str:
    """The built table for reading in a terminal or on a page of a repository; per cent, intervals left out."""
    labels = [column["label"] for column in table["columns"]]
    keys = [column["key"] for column in table["columns"]]
    out = [f"**Table {table['roman']}.** {table['title']}; per cent.", ""]
    out += ["| " + " | ".join(["row", "source", *labels, "cost"]) + " |"]
    out += ["|" + "---|" * (len(labels) + 3)]
    for row in table["rows"]:
        if row["reported_text"]:
            cells = [row["reported_text"].get(key, "") for key in keys]
            out.append("| " + " | ".join([row["row"], "reported", *cells, ""]) + " |")
        for entry in row["lines"]:
            source = entry["scale"] + (", favourable" if entry["reading"] == "favourable" else "")
            source += f"; {entry['diverged_text']}" if entry["diverged"] and entry["state"] == "ok" else ""
            cells = [found["text"] or found["reason"] for found in (entry["columns"][key] for key in keys)]
            out.append("| " + " | ".join([row["row"], source, *cells, entry["cost"]["text"]]) + " |")
    return "\n".join(out) + "\n"


def write(table: Mapping[str, Any], folder: Path) -> tuple[Path, Path, Path]:
    """The built table as `<id>.json`, `<id>.csv` and `<id>.md` in `folder`, each written atomically."""
    paths = [folder / f"{table['id']}.{suffix}" for suffix in ("json", "csv", "md")]
    with atomic(paths[0]) as temporary:
        temporary.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    rows = list(flat(table))
    with atomic(paths[1]) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with atomic(paths[2]) as temporary:
        temporary.write_text(markdown(table))
    return paths[0], paths[1], paths[2]

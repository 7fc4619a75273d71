"""Lines by cell: accuracy against the attack's radius, and the course of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lat.figures.style import GREY, canvas, label_ends, look, margins
from lat.ledger import Record
from lat.measured import Ledger, Plan, figure

CURVE = "pgd_curve@"
GROUPS = (
    ("input", "Inputs perturbed"),
    ("layers", "Layers perturbed, default reading"),
    ("favourable", "Layers perturbed, most favourable reading"),
)
Series = dict[str, Any]


def group(cell: str, method: str) -> str:
    """The panel a cell is drawn in; the undefended one is drawn in all of them."""
    if "layerwise" not in method.split("+"):
        return "input"
    return "favourable" if cell.endswith("_best") else "layers"


def epsilon_series(ledger: Ledger, plan: Plan, labels: Mapping[str, str]) -> list[Series]:
    """One series a (scale, cell): mean robust accuracy over seeds at every radius of the curve; radius 0 is clean."""
    names = sorted((name for name in set(ledger.frame["attack"]) if name.startswith(CURVE)), key=_radius)
    found = []
    for scale in plan.scales:
        for cell in scale.cells:
            rows = ledger.rows(scale.name, cell, plan.slugs)
            if not rows:
                continue
            means = [(0.0, figure(rows, "clean").estimate)] + [(_radius(n), figure(rows, n).estimate) for n in names]
            points = [(radius, estimate.mean) for radius, estimate in means if estimate is not None]
            found.append(_series(scale, cell, rows[0]["method"], labels, points if len(points) > 1 else []))
    return found


def training_series(records: Iterable[Record], plan: Plan, labels: Mapping[str, str], key: str) -> list[Series]:
    """One series a (scale, cell): mean over seeds of `key` of the training curve, by epoch; diverged seeds left out."""
    by_slug: dict[str, list[Record]] = {}
    for record in records:
        if record.step == "train":
            by_slug.setdefault(record.cell.slug, []).append(record)
    found = []
    for scale in plan.scales:
        for cell in scale.cells:
            mine = by_slug.get(plan.slugs[scale.name, cell], [])
            if not mine:
                continue
            by_epoch: dict[int, list[float]] = {}
            for record in mine:
                for entry in record.curve if record.status == "ok" else ():
                    by_epoch.setdefault(int(entry["epoch"]), []).append(float(entry[key]))
            points = [(float(epoch), fmean(values)) for epoch, values in sorted(by_epoch.items())]
            finite = [(epoch, value) for epoch, value in points if math.isfinite(value)]
            found.append(_series(scale, cell, mine[0].cell.method, labels, finite))
    return found


def _series(
    scale: Any, cell: str, method: str, labels: Mapping[str, str], points: Sequence[tuple[float, float]]
) -> Series:
    tuned = cell.endswith("_best") and group(cell, method) == "input"
    return {
        "scale": scale.name,
        "width": scale.width,
        "cell": cell,
        "label": labels.get(cell, cell) + (", tuned" if tuned else ""),
        "group": group(cell, method),
        "standard": method == "standard",
        "points": [list(point) for point in points],
    }


def _radius(name: str) -> float:
    return float(name.removeprefix(CURVE))


def draw(series: Sequence[Series], path: Path, *, x: str, y: str, log: bool = False, mark: float | None = None) -> None:
    """Panels by scale (columns) and group of cells (rows), a line a cell, its name at its end.

    `x`, `y` are axis labels; `mark` draws a vertical line; `log` makes the vertical axis logarithmic, else it is
    [0, 1] in per cent. A cell without points is named under the panel.
    """
    scales = list(dict.fromkeys((entry["scale"], entry["width"]) for entry in series)) or [("", "")]
    groups = [entry for entry in GROUPS if any(s["group"] == entry[0] and not s["standard"] for s in series)]
    groups = groups or [GROUPS[0]]
    with canvas(path, 0.3 + 1.9 * len(groups)) as fig:
        panels = fig.subplots(len(groups), len(scales), squeeze=False, sharex="col", sharey=True)
        for row, (name, title) in enumerate(groups):
            for column, (scale, width) in enumerate(scales):
                axes = panels[row][column]
                mine = [s for s in series if s["scale"] == scale and (s["group"] == name or s["standard"])]
                axes.set_title(f"{scale}, width {width}\n{title}" if row == 0 else title)
                _panel(axes, mine, log=log, mark=mark)
                if row == len(groups) - 1:
                    axes.set_xlabel(x)
                if column == 0:
                    axes.set_ylabel(y)
        margins(fig, left=0.5, right=1.35, top=0.4, bottom=0.4, between=(1.5, 0.5))
        for axes in panels.flat:
            _ends(axes)


def _panel(axes: Any, series: Sequence[Series], *, log: bool, mark: float | None) -> None:
    absent = []
    place = 0
    for entry in series:
        if not entry["points"]:
            absent.append(entry["label"])
            continue
        style: dict[str, Any] = {"color": GREY, "linestyle": "-"} if entry["standard"] else look(place)
        place += not entry["standard"]
        values = [value if log else 100 * value for _, value in entry["points"]]
        axes.plot([at for at, _ in entry["points"]], values, label=entry["label"], **style)
    if mark is not None:
        axes.axvline(mark, color=GREY, linewidth=0.5, linestyle=":")
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 100)
    axes.margins(x=0)
    if absent:
        text = "all seeds diverged:\n" + "\n".join(absent)
        high = log or mark is not None  # the corner that falling (or rising) lines leave free
        corner: dict[str, Any] = {"y": 0.98, "va": "top"} if high else {"y": 0.03, "va": "bottom"}
        axes.text(x=0.98, s=text, ha="right", transform=axes.transAxes, fontsize=6, color=GREY, **corner)


def _ends(axes: Any) -> None:
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_") and len(line.get_ydata())]
    ends = [(float(line.get_ydata()[-1]), str(line.get_label()), str(line.get_color())) for line in lines]
    label_ends(axes, ends)

"""Lines by cell: accuracy against the attack's radius, and the course of training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import LogLocator, NullFormatter

from lat.figures.style import GREY, MARKER, canvas, label_ends, look, margins
from lat.ledger import Record
from lat.measured import Ledger, Plan, Scale, figure

CURVE = "pgd_curve@"
DIVERGED, UNFINISHED = "†", "‡"
GROUPS = (
    ("input", "Inputs perturbed"),
    ("layers", "Layers perturbed, default reading"),
    ("favourable", "Layers perturbed, most favourable reading"),
)
ACROSS = 2
"""How many scales stand side by side."""

Series = dict[str, Any]
Looks = Mapping[str, Mapping[str, Any]]


def group(cell: str, method: str) -> str:
    """The panel a cell is drawn in; the undefended one is drawn in all of them."""
    if "layerwise" not in method.split("+"):
        return "input"
    return "favourable" if cell.endswith("_best") else "layers"


def epsilon_series(ledger: Ledger, plan: Plan, labels: Mapping[tuple[str, str], str]) -> list[Series]:
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
            reason = "" if len(points) > 1 else (figure(rows, "clean").reason or "not attacked at these radii")
            found.append(_series(scale, cell, rows[0]["method"], labels, [] if reason else points, reason))
    return found


def training_series(
    records: Iterable[Record], plan: Plan, labels: Mapping[tuple[str, str], str], key: str
) -> list[Series]:
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
            lost = sum(record.status == "diverged" for record in mine)
            reason = "" if finite else f"diverged ({lost} of {len(mine)} seeds)"
            found.append(_series(scale, cell, mine[0].cell.method, labels, finite, reason))
    return found


def _series(
    scale: Scale,
    cell: str,
    method: str,
    labels: Mapping[tuple[str, str], str],
    points: Sequence[tuple[float, float]],
    reason: str,
) -> Series:
    """A line's points, or the reason why it has none."""
    tuned = cell.endswith("_best") and group(cell, method) == "input"
    return {
        "scale": scale.name,
        "model": scale.model,
        "width": scale.width,
        "cell": cell,
        "label": labels.get((scale.name, cell), cell) + (", tuned" if tuned else ""),
        "group": group(cell, method),
        "standard": method == "standard",
        "points": [list(point) for point in points],
        "reason": reason,
    }


def _radius(name: str) -> float:
    return float(name.removeprefix(CURVE))


def errors(accuracies: Iterable[Series]) -> list[Series]:
    """The same series as 1 - accuracy, in per cent: on a logarithmic axis accuracies near 1 are told apart."""
    return [entry | {"points": [[at, 100 * (1 - value)] for at, value in entry["points"]]} for entry in accuracies]


def parts(series: Iterable[Series]) -> list[list[Series]]:
    """The series that make a figure each: those of two consecutive scales of one network; none without any points."""
    found: list[list[Series]] = []
    for _, same in itertools.groupby(series, key=lambda entry: entry["model"]):
        scales = [list(of) for _, of in itertools.groupby(same, key=lambda entry: entry["scale"])]
        found += [[*itertools.chain(*scales[start : start + ACROSS])] for start in range(0, len(scales), ACROSS)]
    return [part for part in found if any(entry["points"] for entry in part)]


def looks(series: Iterable[Series]) -> Looks:
    """Each label's look, for all figures of these series: a colour and a marker; the undefended network grey, plain.

    Inputs and layers are counted apart, as they share no panel.
    """
    found: dict[str, Mapping[str, Any]] = {}
    counts = {True: 0, False: 0}
    for entry in series:
        if entry["label"] in found:
            continue
        if entry["standard"]:
            found[entry["label"]] = {"color": GREY}
            continue
        of_inputs = entry["group"] == "input"
        found[entry["label"]] = look(counts[of_inputs])
        counts[of_inputs] += 1
    return found


def draw(
    series: Sequence[Series],
    looks: Looks,
    path: Path,
    *,
    x: str,
    y: str,
    log: bool = False,
    mark: float | None = None,
) -> None:
    """Panels by scale (columns) and group of cells (rows), a line a cell, its name to the right.

    `looks` is what the function of that name returns, `x`, `y` are axis labels. `log` makes the vertical axis
    logarithmic, else it is [0, 1] in per cent. `mark` draws a vertical line, orders the names by the heights there,
    and makes the horizontal axis a square root, so that the small radii are seen. The name of a cell without points
    comes last, in italics, with `DIVERGED` or `UNFINISHED` behind it.
    """
    scales = list(dict.fromkeys((entry["scale"], entry["width"]) for entry in series)) or [("", "")]
    groups = [entry for entry in GROUPS if any(s["group"] == entry[0] and not s["standard"] for s in series)]
    groups = groups or [GROUPS[0]]
    shown: list[Sequence[Series]] = []
    with canvas(path, 0.3 + 1.9 * len(groups)) as fig:
        panels = fig.subplots(len(groups), len(scales), squeeze=False, sharex="col", sharey=True)
        for row, (name, title) in enumerate(groups):
            for column, (scale, width) in enumerate(scales):
                axes = panels[row][column]
                mine = [s for s in series if s["scale"] == scale and (s["group"] == name or s["standard"])]
                axes.set_title(f"{scale}, width {width}\n{title}" if row == 0 else title)
                _panel(axes, mine, looks, log=log, mark=mark)
                shown.append(mine)
                if row == len(groups) - 1:
                    axes.set_xlabel(x)
                if column == 0:
                    axes.set_ylabel(y)
        margins(fig, left=0.5, right=1.45, top=0.4, bottom=0.4, between=(1.65, 0.5))
        for axes in panels.flat:
            _names(axes, shown.pop(0), looks, mark)


def _panel(axes: Any, series: Sequence[Series], looks: Looks, *, log: bool, mark: float | None) -> None:
    for place, entry in enumerate(series):
        values = [value if log else 100 * value for _, value in entry["points"]]
        if values:
            # a few markers, staggered: fractions of the panel's diagonal along the line
            every = (0.03 * place, 0.3) if len(values) > 1 else None
            style: dict[str, Any] = {"markersize": MARKER, "markevery": every, **looks[entry["label"]]}
            axes.plot([at for at, _ in entry["points"]], values, label=entry["label"], **style)
    if mark is not None:
        axes.axvline(mark, color=GREY, linewidth=0.5, linestyle=":")
        axes.set_xscale("function", functions=(_root, np.square))
        last = max((entry["points"][-1][0] for entry in series if entry["points"]), default=mark)
        ticks = [
            tick for tick in (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0) if tick <= last and (tick != 0.05 or last <= 0.5)
        ]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    else:
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 100)
    axes.margins(x=0)


def _root(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.sqrt(np.maximum(x, 0.0))


def _names(axes: Any, series: Sequence[Series], looks: Looks, mark: float | None) -> None:
    """Names at the heights of the lines' ends, or at their heights at `mark`; below them those without a line."""
    ends = []
    for line in axes.get_lines():
        if line.get_label().startswith("_"):
            continue
        height = line.get_ydata()[-1] if mark is None else np.interp(mark, line.get_xdata(), line.get_ydata())
        ends.append((float(height), str(line.get_label()), looks[line.get_label()]))
    absent = [entry for entry in series if not entry["points"]]
    marks = [DIVERGED if entry["reason"].startswith("diverged") else UNFINISHED for entry in absent]
    names = [f"{entry['label']} {sign}" for entry, sign in zip(absent, marks, strict=True)]
    label_ends(axes, ends, names, hairs=mark is None)

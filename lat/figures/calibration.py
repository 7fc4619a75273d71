"""The undefended network against its width, with the paper's undefended row as lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lat.figures.style import GREY, MARKER, RED, canvas, label_ends, look, margins


def draw(calibration: Mapping[str, Any], labels: Mapping[str, str], path: Path) -> None:
    """`calibration` is what `lat.studies.calibration` returns: accuracy (left) and distance (right) against width."""
    widths = [entry for entry in calibration["widths"] if entry["distance"] is not None]
    with canvas(path, 2.5) as fig:
        left, right = fig.subplots(1, 2, width_ratios=[3, 2])
        ends = []
        for place, key in enumerate(calibration["columns"]):
            style = look(place)
            at = [entry["width"] for entry in widths]
            means = [100 * entry["means"][key] for entry in widths]
            bars = [[max(m - 100 * e["intervals"][key][0], 0) for m, e in zip(means, widths, strict=True)]]
            bars += [[max(100 * e["intervals"][key][1] - m, 0) for m, e in zip(means, widths, strict=True)]]
            left.errorbar(at, means, yerr=bars, markersize=MARKER, elinewidth=0.6, **style)
            left.axhline(100 * calibration["reported"][key], color=style["color"], linestyle=(0, (4, 2)), linewidth=0.7)
            if means:
                ends.append((means[-1], labels.get(key, key), style))
        left.set_ylim(0, 100)
        left.set_ylabel("accuracy, per cent")
        left.set_title("Measured (with intervals) and reported (dashed)")
        right.plot(
            [e["width"] for e in widths], [e["distance"] for e in widths], color=GREY, marker="o", markersize=2.5
        )
        for entry in widths:
            if entry["chosen"]:
                right.plot([entry["width"]], [entry["distance"]], color=RED, marker="o", markersize=5)
        right.set_ylim(bottom=0)
        right.set_ylabel("distance to the paper's row, points")
        right.set_title(f"Distance; nearest: width {calibration['chosen']}")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlabel("width")
            ticks = [entry["width"] for entry in widths]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        margins(fig, left=0.5, right=0.15, top=0.25, bottom=0.4, between=(1.1, 0))
        label_ends(left, ends)

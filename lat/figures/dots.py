"""A table as dots: reported and measured on one line a row, one panel a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE

from lat.figures.style import BLACK, GREY, MARKER, canvas, look, margins


def draw(table: Mapping[str, Any], path: Path) -> None:
    """`table` comes from `lat.tables.build`. Diamond: reported; filled: default reading; hollow: most favourable.

    Intervals are cut at 0 and 100 per cent, with an arrow where they go on. Rows without any number are left out.
    """
    rows = [row for row in table["rows"] if row["reported"] or _measured(row)]
    columns = table["columns"]
    with canvas(path, 0.95 + 0.27 * len(rows)) as fig:
        panels = fig.subplots(1, len(columns), squeeze=False)[0]
        for axes, column in zip(panels, columns, strict=True):
            key = column["key"]
            axes.hlines(range(len(rows)), 0, 100, color="#dddddd", linewidth=0.5, zorder=0)
            for place, scale in enumerate(table["scales"]):
                for reading in ("default", "favourable"):
                    shift = (place - (len(table["scales"]) - 1) / 2) * 0.34 + (0.12 if reading == "favourable" else 0)
                    _dots(axes, place, shift, _estimates(rows, scale["name"], reading, key), reading == "favourable")
            reported = [(height, row["reported"][key]) for height, row in enumerate(rows) if key in row["reported"]]
            places, values = [height for height, _ in reported], [100 * value for _, value in reported]
            axes.plot(values, places, "D", color=BLACK, markersize=3.6, zorder=4, clip_on=False)
            axes.set_title(column["label"])
            axes.set_xlim(0, 100)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_xticks([0, 50, 100])
            axes.tick_params(axis="x", labelsize=6)
            axes.spines["left"].set_visible(False)
            axes.set_yticks([])
        panels[0].tick_params(axis="y", left=False)
        panels[0].set_yticks(range(len(rows)), [row["row"] for row in rows])
        panels[len(panels) // 2].set_xlabel("accuracy, per cent")
        margins(fig, left=1.45, right=0.15, top=0.5, bottom=0.4, between=(0.22, 0))
        fig.legend(handles=_legend(table), loc="upper center", ncols=6, fontsize=6.5, handletextpad=0.2)


def _measured(row: Mapping[str, Any]) -> bool:
    return any(line["state"] == "ok" for line in row["lines"])


def measured(table: Mapping[str, Any]) -> bool:
    """Whether there is anything measured in the table to draw beside what is reported."""
    return any(_measured(row) for row in table["rows"])


def _estimates(
    rows: Sequence[Mapping[str, Any]], scale: str, reading: str, key: str
) -> list[tuple[float, Mapping[str, float]]]:
    """(place of the row, estimate) of one scale, reading and column, where there is one."""
    return [
        (float(height), line["columns"][key]["estimate"])
        for height, row in enumerate(rows)
        for line in row["lines"]
        if (line["scale"], line["reading"]) == (scale, reading) and line["columns"][key]["estimate"] is not None
    ]


def _dots(
    axes: Axes, place: int, shift: float, found: Sequence[tuple[float, Mapping[str, float]]], hollow: bool
) -> None:
    if not found:
        return
    style: dict[str, Any] = {"markersize": MARKER, "linestyle": "", "clip_on": False, **look(place)}
    heights = [height + shift for height, _ in found]
    low, high = ([100 * min(max(e[end], 0), 1) for _, e in found] for end in ("low", "high"))
    axes.hlines(heights, low, high, color=style["color"], linewidth=0.8, zorder=2)
    for edge, arrow, beyond in (
        (0, CARETLEFTBASE, [height for height, (_, e) in zip(heights, found, strict=True) if e["low"] < 0]),
        (100, CARETRIGHTBASE, [height for height, (_, e) in zip(heights, found, strict=True) if e["high"] > 1]),
    ):
        axes.plot([edge] * len(beyond), beyond, zorder=2, **style | {"marker": arrow})
    means = [100 * e["mean"] for _, e in found]
    axes.plot(means, heights, markerfacecolor="white" if hollow else style["color"], zorder=3, **style)


def _legend(table: Mapping[str, Any]) -> list[Line2D]:
    handles = [Line2D([], [], color=BLACK, marker="D", markersize=3.6, linestyle="", label="reported")]
    for place, scale in enumerate(table["scales"]):
        style: dict[str, Any] = {"markersize": MARKER, "linewidth": 0.8, **look(place)}
        handles.append(Line2D([], [], label=f"{scale['name']}, width {scale['width']}", **style))
    if any(line["reading"] == "favourable" for row in table["rows"] for line in row["lines"]):
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markersize": MARKER, "linestyle": ""}
        handles.append(Line2D([], [], color=GREY, marker="o", label="hollow: most favourable reading", **hollow))
    return handles

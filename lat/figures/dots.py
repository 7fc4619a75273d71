"""A table as dots: reported and measured on one line a row, one panel a column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D

from lat.figures.style import BLACK, BLUE, GREY, RED, canvas, margins

COLOURS = (BLUE, RED)
MARKERS = ("o", "s")


def draw(table: Mapping[str, Any], path: Path) -> None:
    """`table` comes from `lat.tables.build`. Diamond: reported; filled: default reading; hollow: most favourable."""
    rows = table["rows"]
    columns = table["columns"]
    scales = [scale["name"] for scale in table["scales"]]
    with canvas(path, 0.95 + 0.27 * len(rows)) as fig:
        panels = fig.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(panels, columns, strict=True):
            key = column["key"]
            for height, row in enumerate(rows):
                axes.axhline(height, color="#dddddd", linewidth=0.5, zorder=0)
                if key in row["reported"]:
                    axes.plot([100 * row["reported"][key]], [height], "D", color=BLACK, markersize=3.6, zorder=4)
                for entry in row["lines"]:
                    estimate = entry["columns"][key]["estimate"]
                    if estimate is None:
                        continue
                    place = scales.index(entry["scale"])
                    hollow = entry["reading"] == "favourable"
                    shift = (place - (len(scales) - 1) / 2) * 0.34 + (0.12 if hollow else 0.0)
                    colour = COLOURS[place % len(COLOURS)]
                    low, high = (100 * min(max(estimate[end], 0), 1) for end in ("low", "high"))
                    axes.plot([low, high], [height + shift] * 2, color=colour, linewidth=0.8, zorder=2)
                    axes.plot(
                        [100 * estimate["mean"]],
                        [height + shift],
                        MARKERS[place % len(MARKERS)],
                        color=colour,
                        markerfacecolor="white" if hollow else colour,
                        markersize=3.2,
                        zorder=3,
                    )
            axes.set_title(column["label"])
            axes.set_xlim(0, 100)
            axes.set_xticks([0, 50, 100])
            axes.tick_params(left=False)
            axes.spines["left"].set_visible(False)
        panels[0].set_yticks(range(len(rows)), [row["row"] for row in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        panels[len(panels) // 2].set_xlabel("accuracy, per cent")
        margins(fig, left=1.45, right=0.15, top=0.5, bottom=0.4, between=(0.14, 0))
        fig.legend(handles=_legend(table, scales), loc="upper center", ncols=6, fontsize=6.5, handletextpad=0.2)


def _legend(table: Mapping[str, Any], scales: list[str]) -> list[Line2D]:
    handles = [Line2D([], [], color=BLACK, marker="D", markersize=3.6, linestyle="", label="reported")]
    for place, scale in enumerate(table["scales"]):
        style: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        label = f"{scale['name']}, width {scale['width']}"
        handles.append(Line2D([], [], markersize=3.2, linewidth=0.8, label=label, **style))
    if any(line["reading"] == "favourable" for row in table["rows"] for line in row["lines"]):
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markersize": 3.2, "linestyle": ""}
        handles.append(Line2D([], [], color=GREY, marker="o", label="hollow: most favourable reading", **hollow))
    return handles

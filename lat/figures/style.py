"""How all figures look: sizes in inches at print size, one palette, labels at the lines' ends, files without dates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lat.ledger import atomic

WIDTH = 6.7
"""Width of the report's text, inches."""

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
"""Okabe and Ito's palette without its yellow, which is too light on paper; told apart with any colour vision."""

WINE, INDIGO = "#882255", "#332288"
"""Two of Tol's, told apart from the others too."""

GREY = "#777777"
CYCLE = (BLUE, RED, GREEN, ORANGE, PINK, SKY, BLACK, WINE, INDIGO)
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*", "<")

MARKER = 3.2
"""Size of a marker, points."""

SETTINGS: Any = {
    "svg.hashsalt": "lat",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "legend.frameon": False,
}


@contextmanager
def canvas(path: Path, height: float) -> Iterator[Figure]:
    """A figure `WIDTH` by `height` inches, written to `path` as SVG when the block ends; equal input, equal bytes."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(figure)
        yield figure
        with atomic(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def margins(
    figure: Figure, *, left: float, right: float, top: float, bottom: float, between: tuple[float, float] = (0, 0)
) -> None:
    """Room around the panels, and between them (across, down), in inches."""
    width, height = figure.get_size_inches()
    grid = figure.axes[0].get_gridspec()
    rows, columns = (grid.nrows, grid.ncols) if grid is not None else (1, 1)
    across = (width - left - right - between[0] * (columns - 1)) / columns
    down = (height - top - bottom - between[1] * (rows - 1)) / rows
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=between[0] / across,
        hspace=between[1] / down,
    )


def look(place: int) -> dict[str, str]:
    """Colour and marker of the line in this place: the first nine share neither, no two of the first 81 both."""
    count = len(CYCLE)
    return {"color": CYCLE[place % count], "marker": MARKERS[(place + place // count) % count]}


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near `heights`, in their order, at least `gap` apart and inside [low, high] as far as they fit."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    gap = min(gap, (high - low) / max(len(heights) - 1, 1))
    found = [0.0] * len(heights)
    floor = low
    for place in order:
        found[place] = floor = max(heights[place], floor)
        floor += gap
    ceiling = high
    for place in reversed(order):
        found[place] = ceiling = min(found[place], ceiling)
        ceiling -= gap
    return found


def label_ends(
    axes: Axes,
    ends: Sequence[tuple[float, str, Mapping[str, Any]]],
    absent: Sequence[str] = (),
    gap: float = 0.075,
    *,
    hairs: bool = True,
) -> None:
    """Labels to the right of the axes, one for each (height of a line's end, text, `look` of the line), without
    overlap, behind the line's marker.

    With `hairs`, a hair line leads from a label that had to move to the end that it belongs to. Heights are data; the
    axes' limits must be set before. `absent` are names without a line: below the others, in grey italics.
    """
    low = axes.get_ylim()[0]
    scale = axes.transData + axes.transAxes.inverted()
    inch = 1 / (axes.get_position().width * WIDTH)
    hair, sample, name = (1 + inch * start for start in (0.02, 0.1, 0.25))
    at = axes.get_xlim()[1]
    heights = [
        float(min(max(scale.transform((at, end))[1], 0), 1)) if end > 0 or low <= 0 else 0.0 for end, _, _ in ends
    ]
    moved = spread([*(-1.0 for _ in absent), *heights], gap, 0.0, 1.0)
    for text, height in zip(absent, moved, strict=False):
        axes.text(name, height, text, color=GREY, transform=axes.transAxes, va="center", fontsize=6.2, style="italic")
    for (_, text, line), own, place in zip(ends, heights, moved[len(absent) :], strict=True):
        beside: dict[str, Any] = {"color": line["color"], "transform": axes.transAxes, "clip_on": False}
        if hairs:
            axes.plot([hair, sample], [own, place], linewidth=0.5, **beside)
        axes.plot([sample, sample + 0.12 * inch], [place, place], **beside)
        axes.plot([sample + 0.06 * inch], [place], marker=line.get("marker", ""), markersize=MARKER, **beside)
        axes.text(name, place, text, color=BLACK, transform=axes.transAxes, va="center", fontsize=6.2)

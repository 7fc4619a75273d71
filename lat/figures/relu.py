"""Fig. 1 of the paper, computed: ReLU of the clean and of the perturbed pre-activation, and their difference (eq. 12).

The paper draws the case w_1 > 0, r > 0. Beside it stands w_1 < 0, where eq. 13's two cases are swapped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lat.figures.style import BLACK, BLUE, PINK, RED, canvas, margins

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Example:
    """A network of one unit, y = w_2 ReLU(w_1 x + b_1) + b_2, and an input perturbation r."""

    w1: float
    b1: float
    w2: float
    r: float

    @property
    def kink(self) -> float:
        """x_0 = -b_1 / w_1, where the clean ReLU starts."""
        return -self.b1 / self.w1


EXAMPLES = (Example(w1=1.0, b1=-0.5, w2=0.8, r=0.15), Example(w1=-1.0, b1=0.5, w2=0.8, r=0.15))


def relu_original(example: Example, x: Array) -> Array:
    """Eq. (12), Relu_ori = ReLU(|w_2| w_1 x + |w_2| b_1), for inputs of any shape."""
    scale = abs(example.w2)
    return np.maximum(scale * example.w1 * x + scale * example.b1, 0.0)


def relu_perturbed(example: Example, x: Array) -> Array:
    """Eq. (12), Relu_adv = ReLU(|w_2| w_1 x + |w_2| b_1 + |w_2| w_1 r), for inputs of any shape."""
    scale = abs(example.w2)
    return np.maximum(scale * example.w1 * x + scale * example.b1 + scale * example.w1 * example.r, 0.0)


def change(example: Example, x: Array) -> Array:
    """Eq. (12), diff = sign(w_2) (Relu_adv - Relu_ori)."""
    return np.sign(example.w2) * (relu_perturbed(example, x) - relu_original(example, x))


def printed_change(example: Example, x: Array) -> Array:
    """Eq. (13) as printed: w_2 w_1 r right of x_0 + |r|, 0 left of x_0 - |r|, nothing (NaN) in the band between."""
    value = example.w2 * example.w1 * example.r
    right = np.where(x > example.kink + abs(example.r), value, np.nan)
    return np.where(x < example.kink - abs(example.r), 0.0, right)


def describe() -> list[dict[str, Any]]:
    """The examples' numbers, and the largest distance between eq. 12 and eq. 13 where the latter says something."""
    x = _inputs()
    out = []
    for example in EXAMPLES:
        distance = float(np.nanmax(np.abs(change(example, x) - printed_change(example, x))))
        out.append(asdict(example) | {"kink": example.kink, "distance": round(distance, 12)})
    return out


def draw(path: Path) -> None:
    """The two examples side by side, x over the data's range [0, 1]."""
    x = _inputs()
    with canvas(path, 2.5) as fig:
        panels = fig.subplots(1, len(EXAMPLES), sharey=True)
        for axes, example in zip(panels, EXAMPLES, strict=True):
            axes.axvspan(example.kink - abs(example.r), example.kink + abs(example.r), color="#eeeeee", zorder=0)
            axes.axhline(0, color="#bbbbbb", linewidth=0.5, zorder=0)
            axes.plot(x, relu_original(example, x), color=BLUE, label="ReLU, clean")
            axes.plot(x, relu_perturbed(example, x), color=RED, linestyle=(0, (5, 1.5)), label="ReLU, perturbed")
            axes.plot(x, change(example, x), color=BLACK, label="difference, eq. 12")
            axes.plot(x, printed_change(example, x), color=PINK, linewidth=2.4, alpha=0.7, label="difference, eq. 13")
            sign = ">" if example.w1 > 0 else "<"
            axes.set_title(f"$w_1 {sign} 0$, $r > 0$" + (" (the paper's Fig. 1)" if example.w1 > 0 else ""))
            axes.set_xlabel("input $x$ (grey: $|x - x_0| \\leq |r|$, left out of eq. 13)")
            axes.set_xlim(0, 1)
        margins(fig, left=0.35, right=0.1, top=0.5, bottom=0.4, between=(0.35, 0))
        fig.legend(*panels[0].get_legend_handles_labels(), loc="upper center", ncols=4, fontsize=6.5)


def _inputs() -> Array:
    return np.linspace(0.0, 1.0, 1001)

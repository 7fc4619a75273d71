"""Training methods by name. Adding one is one file here, one line in `DEFENCES`, and a row in `config/cells.tsv`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from lat.cells import Cell
from lat.defences.base import Combined, Defence
from lat.defences.inputs import Fgsm, FgsmPrevious, Noise, Pgd
from lat.defences.interval_bound import IntervalBound
from lat.defences.layerwise import Layerwise

__all__ = ["DEFENCES", "Combined", "Defence", "build"]

DEFENCES: Mapping[str, Callable[[nn.Module, Cell, int], Defence]] = {
    "standard": Defence,
    "fgsm": Fgsm,
    "fgsm_previous": FgsmPrevious,
    "noise": Noise,
    "pgd": Pgd,
    "interval_bound": IntervalBound,
    "layerwise": Layerwise,
}


def build(model: nn.Module, cell: Cell, seed: int) -> Defence:
    """The training method of `cell` on `model`; its random draws derive from (cell, seed)."""
    parts = [DEFENCES[name](model, cell, seed) for name in cell.methods]
    return parts[0] if len(parts) == 1 else Combined(model, cell, seed, parts)

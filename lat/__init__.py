"""Layer-wise adversarial training: a library for the method, and the reproduction of its paper.

The names below are what a training loop of one's own needs; those that pull in torch are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lat.cells import Cell, CellError, Law, Reading, Schedule

if TYPE_CHECKING:
    from lat.laws import AbsNormal, Fixed, Normal
    from lat.models.layer_sets import layer_set
    from lat.perturbation import LayerwiseAdversary, PerturbationError
    from lat.sites import SiteError

__version__ = "0.1.0"

__all__ = [
    "AbsNormal",
    "Cell",
    "CellError",
    "Fixed",
    "Law",
    "LayerwiseAdversary",
    "Normal",
    "PerturbationError",
    "Reading",
    "Schedule",
    "SiteError",
    "layer_set",
]

_LAZY = {
    "AbsNormal": "lat.laws",
    "Fixed": "lat.laws",
    "LayerwiseAdversary": "lat.perturbation",
    "Normal": "lat.laws",
    "PerturbationError": "lat.perturbation",
    "SiteError": "lat.sites",
    "layer_set": "lat.models.layer_sets",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'lat' has no attribute {name!r}")

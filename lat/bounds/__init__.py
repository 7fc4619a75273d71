"""Bounds: how far the units of a network can move, where they lie, and which predictions are proved to stay.

`radii` carries the closed form of eqs. (7) and (9) through any traced network, `intervals` a box of inputs; the
functions of tensors that they are made of are in `lat.bounds.primitives`. `certified` and `certified_by_chain` say
which predictions no perturbation changes.
"""

from __future__ import annotations

from lat.bounds.certification import SLACK, certified, certified_by_chain
from lat.bounds.networks import OUTPUT, intervals, radii
from lat.bounds.operations import BoundsError

__all__ = ["OUTPUT", "SLACK", "BoundsError", "certified", "certified_by_chain", "intervals", "radii"]

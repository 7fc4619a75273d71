"""Comparisons that a law is made of: exact on exact tensors, within a tolerance on floating-point ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from lat.proofs.exact import Exact

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest relative error of a comparison, by dtype."""


@dataclass
class Watch:
    """What the comparisons made inside a `watched` block saw: the last pair of sides, and the largest relative error,
    |a - b| / max(1, |a|, |b|).
    """

    sides: tuple[Tensor, Tensor] | None = None
    largest_error: float = 0.0
    compared: int = 0


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched() -> Iterator[Watch]:
    """A block whose comparisons are noted."""
    watch = Watch()
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)


def equal(a: Tensor, b: Tensor) -> Tensor:
    """Whether a = b, element by element after broadcasting, as one truth value."""
    return _compared(a, b, signed=False)


def at_most(a: Tensor, b: Tensor) -> Tensor:
    """Whether a ≤ b, element by element after broadcasting, as one truth value."""
    return _compared(a, b, signed=True)


def implies(condition: Tensor, conclusion: Tensor) -> Tensor:
    """Whether the conclusion holds wherever the condition does."""
    return ~condition | conclusion


def exactly_where(condition: Tensor, conclusion: Tensor) -> Tensor:
    """Whether the conclusion holds where the condition does, and nowhere else."""
    return implies(condition, conclusion) & implies(conclusion, condition)


def _compared(a: Tensor, b: Tensor, *, signed: bool) -> Tensor:
    watch = _watch.get()
    if watch is not None:
        watch.sides = (a, b)
        watch.compared += 1
    if isinstance(a, Exact) or isinstance(b, Exact):
        return (a <= b).all() if signed else (a == b).all()
    a, b = torch.broadcast_tensors(a, b)
    beyond = (a - b).clamp(min=0) if signed else (a - b).abs()
    error = (beyond / torch.maximum(a.abs(), b.abs()).clamp(min=1)).max()
    if watch is not None:
        watch.largest_error = max(watch.largest_error, float(error))
    return error <= TOLERANCE[a.dtype]

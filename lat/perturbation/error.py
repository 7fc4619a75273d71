"""The one kind of error of a `LayerwiseAdversary` that is used wrongly."""

from __future__ import annotations


class PerturbationError(RuntimeError):
    """A `LayerwiseAdversary` was called out of order; the message says what to call first."""

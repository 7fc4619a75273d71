"""The laws of epsilon: how they are written, and how they are drawn."""

from __future__ import annotations

from typing import SupportsFloat

import torch
from torch import Tensor

from lat.cells import CellError, Law


def Normal(mean: float, std: float, draw: str = "sample") -> Law:
    """The law N(0, std) of epsilon, as the paper writes it; `std` is a standard deviation. Raises CellError for
    another mean.
    """
    if mean != 0:
        raise CellError(f"mean: {mean!r}; the paper's law has mean 0, use 0")
    return Law("normal", std, draw)


def AbsNormal(std: float, draw: str = "sample") -> Law:
    """The law |N(0, std)| of epsilon: never against the gradient."""
    return Law("abs_normal", std, draw)


def Fixed(radius: float) -> Law:
    """A constant epsilon."""
    return Law("fixed", radius)


def law_of(epsilon: object) -> Law:
    """The law that is meant: a law itself, or that of a number, which is constant. Raises CellError for neither."""
    if isinstance(epsilon, Law):
        return epsilon
    if isinstance(epsilon, bool) or not isinstance(epsilon, SupportsFloat):
        raise CellError(f"epsilon: {epsilon!r} is no number and no law; give 0.1, or lat.Normal(0, 0.1)")
    return Fixed(float(epsilon))


def draw_epsilon(law: Law, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor | float:
    """Epsilon for a perturbation of `shape` (n, …): a number for a fixed law, else a tensor that broadcasts against it.

    One draw a batch, a sample or an element, as the law says, from `generator`, of which a fixed law needs none; in
    float32 or the dtype of `like`, whichever is wider.
    """
    if law.kind == "fixed":
        return law.radius
    sizes = {"batch": (1,) * len(shape), "sample": (shape[0],) + (1,) * (len(shape) - 1), "element": shape}
    dtype = torch.promote_types(like.dtype, torch.float32)
    eps = law.radius * torch.randn(sizes[law.draw], generator=generator, device=like.device, dtype=dtype)
    return eps.abs() if law.kind == "abs_normal" else eps

"""Geometry of the threat models: balls of the L-infinity and the L2 norm, cut by the data's box.

Every function works on each example by itself: the first axis counts examples, the norm runs over all the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lat.types import Images, PerExample

NORMS = ("linf", "l2")
_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


class NormError(ValueError):
    """A norm that is not known; the message names it and those that are."""


@runtime_checkable
class Source(Protocol):
    """Where random numbers come from, one independent row an example."""

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers from [0, 1), of the shape and dtype of `like` (n, ...)."""

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers, of the shape and dtype of `like` (n, ...)."""


def check_norm(norm: str) -> str:
    """`norm` itself where balls of it are known. Raises NormError otherwise."""
    if norm not in NORMS:
        raise NormError(f"norm: {norm!r} is not known; use one of {', '.join(NORMS)}")
    return norm


def dual(norm: str) -> str:
    """Name of the dual norm: max over ||r|| <= 1 of <g, r> is the dual norm of g. L1 for L-infinity, L2 for L2."""
    if norm not in _DUAL:
        raise NormError(f"norm: {norm!r} has no dual here; use one of {', '.join(_DUAL)}")
    return _DUAL[norm]


def size(v: Images, norm: str) -> PerExample:
    """Norm of each example: (n, ...) -> (n,); `norm` is "l1", "l2" or "linf"."""
    flat = v.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    if norm == "l1":
        return flat.abs().sum(1)
    if norm == "l2":
        largest = flat.abs().amax(1, keepdim=True)  # scaled, so that squares of tiny numbers do not vanish
        scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
        return (flat / scale).square().sum(1).sqrt() * scale.squeeze(1)
    raise NormError(f"norm: {norm!r} is not known; use one of {', '.join(_DUAL)}")


def steepest_direction(g: Images, norm: str) -> Images:
    """argmax over ||r|| <= 1 of <g, r>, for each example: (n, ...) -> (n, ...). The maximum is the dual norm of g.

    L-infinity: sign(g). L2: g / ||g||_2, and 0 where g = 0. An entry that is NaN counts as 0, since it points nowhere,
    and an infinite one as the largest finite number.
    """
    if norm == "linf":
        return torch.sign(g)  # 0 where g is NaN
    check_norm(norm)
    flat = g.flatten(1).nan_to_num(nan=0.0)
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(g.dtype).tiny)
    return (flat / flat.square().sum(1, keepdim=True).sqrt().clamp_(min=torch.finfo(g.dtype).tiny)).view_as(g)


def project(v: Images, centre: Images, radius: float, norm: str, box: tuple[float, float]) -> Images:
    """argmin over z of ||z - v||_2 subject to ||z - centre|| <= radius and box[0] <= z <= box[1], for each example.

    v, centre and z are (n, ...); the centre must lie in the box, so that the set is not empty. The result is the
    nearest point of the intersection itself, not a projection on one set after the other. A point that is already
    inside comes back as it was.
    """
    return projector(centre, radius, norm, box)(v)


def projector(centre: Images, radius: float, norm: str, box: tuple[float, float]) -> Callable[[Images], Images]:
    """`project` on one set, for many points: what depends on the set alone is computed once."""
    low, high = box
    if norm == "linf":  # the ball is a box too, so the intersection is one
        lowest, highest = (centre - radius).clamp_(min=low), (centre + radius).clamp_(max=high)
        return lambda v: torch.clamp(v, lowest, highest)
    check_norm(norm)

    def nearest(v: Images) -> Images:
        boxed = v.clamp(low, high)
        outside = size(boxed - centre, norm) > radius
        if bool(outside.any()):
            boxed[outside] = _project_l2(v[outside], centre[outside], radius, box)
        return boxed

    return nearest


def _project_l2(v: Images, c: Images, radius: float, box: tuple[float, float]) -> Images:
    """The L2 case of `project`, for examples that lie outside the ball once they are clipped to the box.

    The Lagrangian of the problem is separable, and its minimiser is z(t) = clip(c + t d, box) with d = v - c and t in
    [0, 1]. In coordinate i the shift |z_i(t) - c_i| = min(t |d_i|, m_i), m_i being the room that the box leaves on that
    side. With the coordinates known that stop at the box, ||z(t) - c|| = radius gives t at once. Where only some of
    them are known that t is too small, and what stops at it stops at the right one too: from none on, each round finds
    more of them, and all once it finds no more. Every operation here has a deterministic form on a GPU.
    """
    low, high = box
    d = (v - c).flatten(1).double()
    room = torch.where(d > 0, (high - c).flatten(1), (c - low).flatten(1)).double()
    stopped = torch.zeros_like(d, dtype=torch.bool)
    while True:
        left = (radius**2 - room.square().where(stopped, 0).sum(1, keepdim=True)).clamp_(min=0.0)
        moving = d.square().where(~stopped, 0).sum(1, keepdim=True)
        t = (left / moving.clamp_(min=torch.finfo(d.dtype).tiny)).sqrt().clamp_(max=1.0)
        found = stopped | (t * d.abs() >= room)
        if torch.equal(found, stopped):
            break
        stopped = found
    z = (c + (t * d).view_as(c).to(c.dtype)).clamp_(low, high)
    length = size(z - c, "l2").clamp_(min=torch.finfo(c.dtype).tiny)  # what rounding left over is scaled away
    factor = (radius / length).clamp_(max=1.0).view(-1, *[1] * (c.dim() - 1))
    return (c + (z - c) * factor).clamp_(low, high)


def sample_ball(like: Images, radius: float, norm: str, source: Source) -> Images:
    """A point of the ball {r : ||r|| <= radius} for each example, uniform in volume; (n, ...) like `like`.

    L-infinity: every element from [-radius, radius). L2: a normal direction times radius * u^(1/d), u uniform.
    """
    if norm == "linf":
        return source.uniform(like).mul_(2 * radius).sub_(radius)
    check_norm(norm)
    direction = steepest_direction(source.normal(like), norm)
    u = source.uniform(like[:, :1].flatten(1)[:, :1]).pow_(1 / like[0].numel())
    return direction * (radius * u).view(-1, *[1] * (like.dim() - 1))

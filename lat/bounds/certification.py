"""Which predictions are proved to stay: the worst-case margin over a ball, by intervals and by the closed chain."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lat.bounds.domains import Intervals, Radii, Value
from lat.bounds.networks import Passage, check_radius, passed
from lat.bounds.operations import BoundsError
from lat.bounds.primitives import Interval, ball, linear_interval
from lat.types import Images, Labels, Verdicts

SLACK = 1e-6
"""By how much the margin of two scores must be positive, as a part of the sizes of all terms of both. Bounds are
computed in float64, whose rounding is 1e-16 of the numbers that are summed: the slack keeps them sound as long as the
numbers inside the network are not 1e9 times larger than those that reach its last layer. It is also about ten times the
rounding of float32, so that a forward pass in float32 seldom disagrees, though nothing proves that it never does."""

Box = tuple[float, float]
BeforeLast = tuple[nn.Linear, Interval]


def certified(
    model: nn.Module, x: Images, y: Labels, eps: float, box: Box | None = (0.0, 1.0), batch: int = 1000
) -> Verdicts:
    """For which x (n, *size) interval bounds prove that the class is y (n) on all of the ball.

    The problem: min over k != y and ||z - x||_inf <= eps with z in the box of (w_y - w_k) h(z) + b_y - b_k, where w and
    b are the last layer and h(z) its input; y stays where that is positive. Solved from below, with the minimum taken
    over the interval of h: True is a proof, up to SLACK, and False says nothing. A tie is not certified, nor is what is
    not finite. The model is taken in eval mode and float64, as a copy: it is left as it is.

    Raises BoundsError as `radii` does, and for a network that does not end in nn.Linear, images outside the box, an
    empty box, labels that are no classes or not one an image, or a batch below 1.
    """
    _check(x, y, eps, box, batch)
    exact = copy.deepcopy(model).double().eval()

    def bound(z: Images) -> BeforeLast:
        return _before_last(passed(exact, Intervals(), ball(z, eps, box)), exact)

    return _in_batches(bound, x, y, batch)


def certified_by_chain(model: nn.Module, x: Images, y: Labels, eps: float, batch: int = 1000) -> Verdicts:
    """For which x (n, *size) the closed chain of eqs. (7) and (9) proves that the class is y (n) on all of the ball.

    min over k != y of (w_y - w_k) h(x) + b_y - b_k - |w_y - w_k| rho > 0, where rho is the radius at the last layer's
    input, as `radii` has it. It never certifies more than `certified`, which knows which ReLUs are off; otherwise, and
    in what it raises, it is like it.
    """
    _check(x, y, eps, None, batch)
    exact = copy.deepcopy(model).double().eval()

    def bound(z: Images) -> BeforeLast:
        last, (h, _) = _before_last(passed(exact, Intervals(), (z, z)), exact)
        _, rho = _before_last(passed(exact, Radii(), torch.full_like(z[:1], eps)), exact)
        return last, (h - rho, h + rho)

    return _in_batches(bound, x, y, batch)


def _check(x: Images, y: Labels, eps: float, box: Box | None, batch: int) -> None:
    check_radius(eps)
    if batch < 1:
        raise BoundsError(f"batch: {batch} images at a time; give a number of at least 1")
    if y.shape != x.shape[:1]:
        raise BoundsError(f"y: shape {tuple(y.shape)} beside {len(x)} images; give one label an image, ({len(x)},)")
    if y.is_floating_point():
        raise BoundsError(f"y: {y.dtype} is no class; give whole numbers, as y.long()")
    if box is not None and not box[0] <= box[1]:
        raise BoundsError(f"box: {box} is empty; give (low, high) with low <= high")
    if box is not None and not bool(((x >= box[0]) & (x <= box[1])).all()):
        raise BoundsError(f"x: an image leaves the box {box}; give images in it, or another box")


def _before_last(passage: Passage[Value], model: nn.Module) -> tuple[nn.Linear, Value]:
    """The last layer, and the bound on its input. Raises BoundsError where the network ends otherwise."""
    if passage.last is None:
        raise BoundsError(
            f"{type(model).__name__} does not end in nn.Linear, whose rows give the margins; let its last module be one"
        )
    name, value = passage.last
    last = model.get_submodule(name)
    assert isinstance(last, nn.Linear)
    return last, value


def _in_batches(bound: Callable[[Images], BeforeLast], x: Images, y: Labels, batch: int) -> Verdicts:
    """Whether each margin is positive, `batch` images at a time."""
    found = [torch.empty(0, dtype=torch.bool, device=x.device)]
    with torch.no_grad():
        for first in range(0, len(x), batch):
            part = slice(first, first + batch)
            last, (low, high) = bound(x[part].double())
            found.append(_stays(last, low, high, y[part]))
    return torch.cat(found)


def _stays(last: nn.Linear, low: Float[Tensor, "n in"], high: Float[Tensor, "n in"], y: Labels) -> Verdicts:
    """Whether y has the largest score, by more than the slack, for all inputs low <= h <= high of the last layer.

    For all k != y: min_h (w_y - w_k) h + b_y - b_k > SLACK (s_y + s_k), where s_k = |w_k| max_h |h| + |b_k| is the sum
    of the sizes of the terms of score k. The two rows are subtracted before the minimum is taken: bounds on the two
    scores apart would let h differ between them.
    """
    w = last.weight
    b = last.bias if last.bias is not None else torch.zeros_like(w[:, 0])
    if len(y) and not bool(((y >= 0) & (y < len(w))).all()):
        raise BoundsError(
            f"y: labels from {int(y.min())} to {int(y.max())}; the network has the classes 0 to {len(w) - 1}"
        )
    stays = torch.zeros_like(y, dtype=torch.bool)
    sizes = torch.maximum(low.abs(), high.abs()) @ w.abs().T + b.abs()
    for c in y.unique().tolist():
        rows, others = y == c, torch.arange(len(w), device=w.device) != c
        least, _ = linear_interval(w[c] - w[others], b[c] - b[others], low[rows], high[rows])
        slack = SLACK * (sizes[rows, c, None] + sizes[rows][:, others])
        stays[rows] = (least > slack).all(dim=1)
    return stays

"""How far one operation carries a radius or an interval: pure functions of tensors, one a statement.

A *radius* (n, *shape), not negative, says how far each unit can move; an *interval* is a pair low <= high of that
shape. A leading axis n is the batch; where a bound is that of all inputs, n is 1. Each function gives the smallest
radius or interval of every unit taken alone, for inputs that are free to move independently of each other. A *window*
is the set of inputs that one unit of a pooling layer sees; it is the first axis here. Nothing works in place, and
everything is differentiable and keeps its dtype and device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lat import equations
from lat.equations import Geometry, Kernel, TransposedKernel, Weight

Interval = tuple[Tensor, Tensor]
Units = Float[Tensor, "n *shape"]
Moved = Float[Tensor, "n *moved"]
Windows = Float[Tensor, "window *out"]
Pooled = Float[Tensor, "*out"]
Factor = Float[Tensor, "..."]
Pool = Callable[[Tensor], Tensor]


def ball(x: Units, eps: float, box: tuple[float, float] | None = None) -> Interval:
    """[min_z z_i, max_z z_i] over ||z - x||_inf <= eps and, where a box is given, box[0] <= z <= box[1].

    max(x - eps, box[0]) and min(x + eps, box[1]); low > high where x lies further than eps outside the box.
    """
    low, high = x - eps, x + eps
    if box is None:
        return low, high
    return low.clamp(min=box[0]), high.clamp(max=box[1])


def linear_radius(w: Weight, radius: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
    """max_r |(w r)_i| over |r_j| <= radius_j, for each output i: |w| radius, one step of eq. (7)."""
    return radius @ w.abs().T


def convolution_radius(w: Kernel, at: Geometry, radius: Float[Tensor, "n in *size"]) -> Float[Tensor, "n out *moved"]:
    """max_r |(w * r)_i| over |r_j| <= radius_j, for each output i: |w| * radius, one step of eq. (9).

    Row by row it is `equations.convolution_closed_radius` with that row as the initial value.
    """
    return equations.convolution(w.abs(), radius, at)


def transposed_convolution_radius(
    w: TransposedKernel, at: Geometry, radius: Float[Tensor, "n in *size"]
) -> Float[Tensor, "n out *moved"]:
    """max_r |(w * r)_i| over |r_j| <= radius_j for a transposed convolution, for each output i: |w| * radius."""
    return equations.transposed_convolution(w.abs(), radius, at)


def relu_radius(radius: Units) -> Units:
    """max_{x,r} |ReLU(x + r) - ReLU(x)| over all x and |r| <= radius: the radius itself, attained at x = radius."""
    return radius


def max_radius(radii: Windows) -> Pooled:
    """max_{x,r} |max_k (x_k + r_k) - max_k x_k| over all x and |r_k| <= radii_k: the largest radius of the window."""
    return radii.amax(dim=0)


def mean_radius(radii: Windows) -> Pooled:
    """max_r |mean_k r_k| over |r_k| <= radii_k: the mean radius of the window."""
    return radii.mean(dim=0)


def sum_radius(one: Units, other: Units) -> Units:
    """max_{r,s} |r + s| over |r| <= one and |s| <= other: the sum of the two, as a residual addition needs it."""
    return one + other


def scale_radius(scale: Factor, radius: Units) -> Units:
    """max_r |scale r| over |r| <= radius: |scale| radius. `scale`, of either sign, broadcasts against the radius.

    BatchNorm in eval mode scales by gamma / sqrt(var + its epsilon).
    """
    return scale.abs() * radius


def pooled_radius(pool: Pool, radius: Units) -> Moved:
    """max_{x,r} |pool(x + r) - pool(x)| over all x and |r| <= radius: pool(radius).

    For a pool that takes the maximum of each window, by `max_radius`; for one that takes the sum of each window divided
    by a positive number, by `mean_radius`; for one that only reorders, because it does.
    """
    return pool(radius)


def linear_interval(
    w: Weight, b: Float[Tensor, " out"] | None, low: Float[Tensor, "*n in"], high: Float[Tensor, "*n in"]
) -> tuple[Float[Tensor, "*n out"], Float[Tensor, "*n out"]]:
    """[min_x (w x + b)_i, max_x (w x + b)_i] over low <= x <= high, for each output i.

    With centre c = (low + high) / 2 and radius rho = (high - low) / 2: w c + b -+ |w| rho.
    """
    centre = (low + high) / 2 @ w.T
    if b is not None:
        centre = centre + b
    rho = linear_radius(w, (high - low) / 2)
    return centre - rho, centre + rho


def convolution_interval(
    w: Kernel,
    b: Float[Tensor, " out"] | None,
    at: Geometry,
    low: Float[Tensor, "n in *size"],
    high: Float[Tensor, "n in *size"],
) -> tuple[Float[Tensor, "n out *moved"], Float[Tensor, "n out *moved"]]:
    """[min_x (w * x + b)_i, max_x (w * x + b)_i] over low <= x <= high, for each output i.

    With centre c and radius rho as in `linear_interval`: w * c + b -+ |w| * rho; the padding is 0 and does not move.
    """
    centre = equations.convolution(w, (low + high) / 2, at)
    if b is not None:
        centre = centre + b.view(-1, *[1] * at.axes)
    rho = convolution_radius(w, at, (high - low) / 2)
    return centre - rho, centre + rho


def transposed_convolution_interval(
    w: TransposedKernel,
    b: Float[Tensor, " out"] | None,
    at: Geometry,
    low: Float[Tensor, "n in *size"],
    high: Float[Tensor, "n in *size"],
) -> tuple[Float[Tensor, "n out *moved"], Float[Tensor, "n out *moved"]]:
    """[min_x (w * x + b)_i, max_x (w * x + b)_i] over low <= x <= high for a transposed convolution, for each output i.

    With centre c and radius rho as in `linear_interval`: w * c + b -+ |w| * rho.
    """
    centre = equations.transposed_convolution(w, (low + high) / 2, at)
    if b is not None:
        centre = centre + b.view(-1, *[1] * at.axes)
    rho = transposed_convolution_radius(w, at, (high - low) / 2)
    return centre - rho, centre + rho


def relu_interval(low: Units, high: Units) -> tuple[Units, Units]:
    """[min_x ReLU(x), max_x ReLU(x)] over low <= x <= high: ReLU of both ends, as ReLU never falls."""
    return torch.relu(low), torch.relu(high)


def max_interval(low: Windows, high: Windows) -> tuple[Pooled, Pooled]:
    """[min_x max_k x_k, max_x max_k x_k] over low <= x <= high: the largest low and the largest high of the window."""
    return low.amax(dim=0), high.amax(dim=0)


def mean_interval(low: Windows, high: Windows) -> tuple[Pooled, Pooled]:
    """[min_x mean_k x_k, max_x mean_k x_k] over low <= x <= high: the mean low and the mean high of the window."""
    return low.mean(dim=0), high.mean(dim=0)


def sum_interval(
    low: Units,
    high: Units,
    other_low: Units,
    other_high: Units,
) -> tuple[Units, Units]:
    """[min (x + y), max (x + y)] over low <= x <= high and other_low <= y <= other_high: the sums of the ends."""
    return low + other_low, high + other_high


def scale_interval(
    scale: Factor,
    shift: Factor,
    low: Units,
    high: Units,
) -> tuple[Units, Units]:
    """[min_x (scale x + shift), max_x (scale x + shift)] over low <= x <= high, `scale` of either sign.

    With centre c and radius rho as in `linear_interval`: scale c + shift -+ |scale| rho.
    """
    centre = scale * ((low + high) / 2) + shift
    rho = scale_radius(scale, (high - low) / 2)
    return centre - rho, centre + rho


def pooled_interval(pool: Pool, low: Units, high: Units) -> tuple[Moved, Moved]:
    """[min_x pool(x), max_x pool(x)] over low <= x <= high, for a pool as in `pooled_radius`: it never falls, so that
    its ends are those of its inputs, by `max_interval` and `mean_interval`.
    """
    return pool(low), pool(high)

"""The worst scores over a ball, by intervals and differentiable by the weights: what interval-bound training lowers."""

from __future__ import annotations

from torch import fx, nn

from lat.bounds.certification import Box, _before_last
from lat.bounds.domains import Intervals
from lat.bounds.networks import check_radius, passed
from lat.bounds.primitives import ball, linear_interval
from lat.types import Images, Labels, Scores


def worst_scores(
    model: nn.Module,
    x: Images,
    y: Labels,
    eps: float,
    box: Box | None = (0.0, 1.0),
    graph: fx.Graph | None = None,
) -> Scores:
    """Upper bounds on how far each score of x (n, *size) can come above that of y (n), anywhere in the ball.

    Entry k: max over low <= h <= high of (w_k - w_y) h + b_k - b_y, where w and b are the last layer and [low, high] is
    the interval of its input over ||z - x||_inf <= eps with z in the box; entry y is 0. All but entry y are negative
    where `certified` holds, but for its slack. The two rows are subtracted before the maximum is taken (Gowal et al.
    2018, section 3). The model is taken as it stands, in its own dtype; `graph` is what `networks.traced` gave for it,
    where that is known.

    Raises BoundsError as `radii` does, and for a network that does not end in nn.Linear.
    """
    check_radius(eps)
    last, (low, high) = _before_last(passed(model, Intervals(), ball(x, eps, box), graph), model)
    w, b = last.weight, last.bias
    rows = (w - w[:, None]).flatten(0, 1)  # row (y, k): w_k - w_y
    shifts = None if b is None else (b - b[:, None]).flatten()
    _, worst = linear_interval(rows, shifts, low, high)
    return worst.unflatten(1, (len(w), len(w))).take_along_dim(y[:, None, None], dim=1).squeeze(1)

"""How radii and perturbations pass the operations of a route: the rules of `lat.bounds.radii`, and their signed twins.

Linear maps pass a radius by their weights' absolute values and a perturbation by their weights; ReLU, dropout and
flatten pass both unchanged, BatchNorm multiplies by |gamma / sigma| or gamma / sigma, average pooling is taken as it
is, and an addition adds. Max pooling passes the largest radius of a window, or the perturbation at its maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lat.bounds.domains import Radii
from lat.bounds.operations import MAXIMA, BoundsError, flattened, pooled, through_function
from lat.bounds.primitives import scale_radius
from lat.linear_maps import LinearMap, linear_map
from lat.perturbation.routes import UNCHANGED, Operation, Route
from lat.sites import PERTURBABLE, SiteError

Linear = Callable[[LinearMap, Tensor, bool], Tensor]
"""A linear map, the value (m, *in) at its input, and whether that is a start's own: the value (m, *out) behind it."""


@dataclass(frozen=True)
class Seen:
    """What a forward pass has shown of the network, on which R depends beside the weights.

    `sizes` are the shapes of the inputs at the starts, `tensors` 1 / sigma (channels) of each BatchNorm and the
    positions (n, channels, *out) of each max pooling's maxima, by their modules' names.
    """

    sizes: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, Tensor]


def radii(route: Route, seen: Seen, layers: Collection[str], like: Tensor) -> dict[str, Tensor]:
    """Eqs. (7) and (9) with all that lies in between: how far the output (*out) of each of `layers` can move when every
    unit at the starts moves by at most 1, in the dtype and on the device of `like`; in one pass.
    """
    one = torch.ones((), dtype=like.dtype, device=like.device)
    start = {name: one.expand(1, *seen.sizes[site]) for name, site in route.starts.items()}

    def linear(step: LinearMap, value: Tensor, fresh: bool) -> Tensor:
        if fresh:
            radius = step.closed_radius()
            return radius.expand(*value.shape[: value.dim() - radius.dim()], *radius.shape)
        if value.dim() > 2 and step.module.weight.dim() == 2:  # rows of rows
            return step.absolute_change(value)
        return step.closed_radius(value[0])[None]

    values = _carried(route, start, seen, linear, layers, signed=False)
    return {name: values[route.ends[name]][0] for name in layers}


def pushed(
    route: Route, start: Mapping[str, Tensor], seen: Seen, layers: Collection[str], *, signed: bool
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Perturbations (n, *in) at the starts, pushed through the weights (signed) or their absolute values to the outputs
    (n, *out) of `layers`, in one pass; and the shapes of these layers' inputs, without the batch axis.
    """

    def linear(step: LinearMap, value: Tensor, fresh: bool) -> Tensor:
        return step.change(value) if signed else step.absolute_change(value)

    values = _carried(route, start, seen, linear, layers, signed=signed)
    ends = {step.name: step for step in route.operations}
    sizes = {name: tuple(values[ends[route.ends[name]].inputs[0]].shape[1:]) for name in layers}
    return {name: values[route.ends[name]] for name in layers}, sizes


def _carried(
    route: Route,
    start: Mapping[str, Tensor],
    seen: Seen,
    linear: Linear,
    layers: Collection[str],
    *,
    signed: bool,
) -> dict[str, Tensor]:
    """The value behind each operation, up to the last of `layers`, by the operation's name."""
    values, fresh = dict(start), set(start)
    missing = {route.ends[name] for name in layers}
    for step in route.operations:
        given = [values[name] for name in step.inputs]
        if isinstance(step.module, PERTURBABLE):
            size = tuple(given[0].shape[1:])
            if seen.sizes.get(step.site, size) != size:
                raise SiteError(
                    f"{step.site!r} takes inputs of shape {seen.sizes[step.site]}, and what was carried to it has the "
                    f"shape {size}: an addition before it broadcasts, which radii cannot pass; use scope 'local'"
                )
            values[step.name] = linear(linear_map(step.module, size), given[0], step.inputs[0] in fresh)
        else:
            values[step.name] = _through(step, given, seen, signed=signed)
        if step.keeps and step.inputs[0] in fresh:
            fresh.add(step.name)
        missing.discard(step.name)
        if not missing:
            break
    return values


def _through(step: Operation, given: Sequence[Tensor], seen: Seen, *, signed: bool) -> Tensor:
    """Through an operation that is no layer. Raises SiteError where its settings are none that radii can pass."""
    module, value = step.module, given[0]
    if isinstance(module, UNCHANGED) or step.does in ("relu", "dropout") or (step.does == "add" and len(given) == 1):
        return value
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        scale = seen.tensors[step.site].to(value.dtype)
        scale = scale if module.weight is None else module.weight * scale
        scale = scale.view(-1, *[1] * (value.dim() - 2))
        return scale * value if signed else scale_radius(scale, value)
    if isinstance(module, MAXIMA) and signed:
        return _at(seen.tensors[step.site], value)
    try:
        if module is None:
            return through_function(Radii(), step.name, step.target, list(given), step.arguments, dict(step.named))
        if isinstance(module, nn.Flatten):
            return flattened(Radii(), step.site, module.forward, value)
        return pooled(Radii(), step.site, module.forward, vars(module), value)
    except BoundsError as error:
        raise SiteError(str(error)) from error


def _at(positions: Tensor, value: Tensor) -> Tensor:
    """The entries of value (n or 1, channels, *size) at positions (n, channels, *out) of each channel."""
    rows = value.expand(len(positions), *value.shape[1:]).flatten(2)
    return rows.gather(2, positions.flatten(2)).view_as(positions)

"""Bounds through a whole network: a traced graph of layers, of which residual additions are a part."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor, fx, nn

from lat.bounds.domains import Domain, Intervals, Radii, Value
from lat.bounds.operations import (
    PASSED,
    BoundsError,
    in_place,
    shares_memory,
    through_function,
    through_module,
)
from lat.bounds.primitives import Interval
from lat.sites import SiteError, Tracer, bare, refuse_hidden
from lat.types import Images

OUTPUT = ""
"""The site of the network's own output, as `named_modules` calls the network itself."""


def radii(model: nn.Module, size: Sequence[int], eps: float = 1.0) -> dict[str, Tensor]:
    """How far the units of each layer can move when every input moves by at most eps, whatever the input is.

    size is that of one input, (C, H, W) or (in,). One entry a site, that is, a module of the forward pass by its name,
    and OUTPUT for the network's output; each of the shape of that module's output for one example, in the dtype of the
    model, differentiable by its weights. A module that is called more than once has no single radius: it is passed,
    but has no entry. Scope `network` of eqs. (7) and (9): it does not know which ReLUs are off.

    Raises BoundsError for an eps that is no finite number >= 0, for a size that is no shape, and for a model that
    cannot be traced, does more than its trace shows (hooks, a forward set on a module), has an operation that bounds
    cannot pass (naming it and what they pass), is given BatchNorm or dropout in train mode, or changes in place what is
    used again.
    """
    check_radius(eps)
    if not isinstance(size, Sequence):
        raise BoundsError(f"size: {size!r} is no shape; give that of one input without its batch, as (1, 28, 28)")
    like = next(model.parameters(), torch.empty(0))
    start = torch.full((1, *size), eps, dtype=like.dtype, device=like.device)
    return {site: radius[0] for site, radius in passed(model, Radii(), start).sites.items()}


def intervals(model: nn.Module, low: Images, high: Images) -> dict[str, Interval]:
    """Where the units of each layer lie for inputs with low <= x <= high (n, *size): interval bound propagation.

    One entry (low, high) a site, (n, *shape) each, with sites as for `radii`. Raises BoundsError as `radii` does, and
    where low and high differ in shape or low > high.
    """
    if low.shape != high.shape:
        raise BoundsError(f"low, high: shapes {tuple(low.shape)} and {tuple(high.shape)}; give two of one shape")
    like = next(model.parameters(), low)
    if not low.dtype == high.dtype == like.dtype:
        raise BoundsError(f"low, high: {low.dtype} and {high.dtype}; give the dtype of the model, {like.dtype}")
    if not bool((low <= high).all()):
        raise BoundsError("low, high: low > high or no number somewhere; give low <= high everywhere")
    return passed(model, Intervals(), (low, high)).sites


def check_radius(eps: float) -> None:
    """Raises BoundsError for an eps that is no finite number >= 0."""
    if not (math.isfinite(eps) and eps >= 0):
        raise BoundsError(f"eps: {eps} is no radius; give a finite number of at least 0")


@dataclass(frozen=True)
class Passage(Generic[Value]):
    """What was found on the way through a network.

    sites: the bound at each site. last: the name of the fully connected layer that gives the network's output, and the
    bound on its input; None where something else gives the output.
    """

    sites: dict[str, Value]
    last: tuple[str, Value] | None


def passed(model: nn.Module, domain: Domain[Value], start: Value, graph: fx.Graph | None = None) -> Passage[Value]:
    """Carries `start`, the bound on the inputs, through `model` as it stands.

    `graph` is what `traced` gave for this model, where that is known: tracing takes longer than a step of training.
    Raises BoundsError as `radii` does.
    """
    modules = dict(model.named_modules())
    found: dict[fx.Node, Value] = {}
    sites: dict[str, Value] = {}
    calls: list[str] = []
    graph = traced(model) if graph is None else graph
    for node in graph.nodes:
        if node.op == "placeholder":
            if found:
                raise BoundsError(f"{node.name!r} is a second input; bounds pass networks of one input")
            found[node] = start
        elif node.op == "call_module":
            name = str(node.target)
            (value,) = inputs(node, found)
            found[node] = sites[name] = through_module(domain, name, modules[name], value)
            calls.append(name)
        elif node.op in ("call_function", "call_method"):
            values = inputs(node, found)
            found[node] = through_function(
                domain, node.name, node.target, values, node.args[len(values) :], dict(node.kwargs)
            )
    end = output(graph)
    once = {name: bound for name, bound in sites.items() if calls.count(name) == 1}
    last: tuple[str, Value] | None = None
    if end.op == "call_module" and type(modules[str(end.target)]) is nn.Linear:
        last = (str(end.target), inputs(end, found)[0])
    return Passage(once | {OUTPUT: found[end]}, last)


class _Traced(fx.Proxy):
    """What stands for a layer's output while fx traces, and tells `x += y`, which works in place, from `x = x + y`."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _GraphTracer(Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Traced(node, self)


def trace(model: nn.Module) -> fx.Graph:
    """The graph of the forward pass. Raises BoundsError where there is none, and where a module does more than its
    graph shows.
    """
    try:
        if bare(model) is not model:
            raise SiteError(f"{type(model).__name__} wraps the network; give the network in it, model.module")
        graph = _GraphTracer().trace(model)
        refuse_hidden(model, graph)
    except SiteError as error:
        raise BoundsError(str(error)) from error
    except Exception as error:  # fx raises whatever the traced forward raises
        raise BoundsError(
            f"{type(model).__name__} cannot be traced ({error}); bounds need a forward pass that is the same for "
            "all inputs"
        ) from error
    return graph


def traced(model: nn.Module) -> fx.Graph:
    """The graph of the forward pass, without what does not reach the output.

    Raises BoundsError where there is none, or an operation overwrites what another one reads.
    """
    graph, modules = trace(model), dict(model.named_modules())
    for node in graph.nodes:
        if node.op == "get_attr":
            raise BoundsError(
                f"{node.target!r} is a tensor that the forward pass uses by itself; bounds pass layers that are "
                f"modules: {PASSED}"
            )
        if node.op.startswith("call") and in_place(modules, node.op, node.target, node.kwargs):
            refuse_overwritten(modules, node)
    return graph


def refuse_overwritten(modules: Mapping[str, nn.Module], node: fx.Node) -> None:
    """Raises BoundsError where what `node` overwrites, or what shares memory with it, is read by another operation."""
    for changed in first_inputs(modules, node):
        if len(changed.users) > 1:
            raise BoundsError(
                f"{node.name!r} works in place on {changed.name!r}, which is used again; take inplace=False"
            )


def first_inputs(modules: Mapping[str, nn.Module], node: fx.Node) -> list[fx.Node]:
    """The first input of `node`, and all of which it may be a view."""
    found: list[fx.Node] = []
    entry: Any = node.args[0] if node.args else None
    while isinstance(entry, fx.Node):
        found.append(entry)
        shared = shares_memory(modules, entry.op, entry.target, entry.kwargs)
        entry = entry.args[0] if shared and entry.args else None
    return found


def inputs(node: fx.Node, found: Mapping[fx.Node, Value]) -> list[Value]:
    """The bounds on the inputs of `node`, its leading arguments.

    Raises BoundsError where a layer's output is given otherwise: by name, in a list or after a number.
    """
    leading = [argument for argument in node.args if isinstance(argument, fx.Node)]
    if list(node.args[: len(leading)]) != leading or set(node.all_input_nodes) != set(leading) or not leading:
        raise BoundsError(
            f"{node.name!r} ({getattr(node.target, '__name__', node.target)}) is not called on layers' outputs as its "
            f"first arguments alone; bounds pass {PASSED}"
        )
    if node.op == "call_module" and len(node.args) != 1:
        raise BoundsError(f"{node.target!r} is called on {len(node.args)} arguments; bounds pass modules of one input")
    return [found[argument] for argument in leading]


def output(graph: fx.Graph) -> fx.Node:
    """The operation that gives the network's output. Raises BoundsError where the output is not one tensor of it."""
    (end,) = next(node for node in graph.nodes if node.op == "output").args
    if not isinstance(end, fx.Node):
        raise BoundsError(f"the network returns {end}; bounds pass networks that return one tensor")
    return end

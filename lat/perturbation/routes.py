"""The way from a scope's start to the perturbed layers: the operations of the forward pass that lie on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lat.bounds.networks import first_inputs, refuse_overwritten, trace
from lat.bounds.operations import DROPOUTS, FUNCTIONS, MAXIMA, MEANS, NORMS, PASSED, BoundsError, in_place
from lat.cells import Reading
from lat.sites import CONVOLUTIONS, PERTURBABLE, TRANSPOSED, WITHOUT_ORDER, Reader, SiteError, layer

INPUT = ""
"""The network's own input, as `named_modules` calls the network itself."""
UNCHANGED: tuple[type[nn.Module], ...] = (nn.ReLU, nn.Identity, *DROPOUTS)
MAXIMUM_FUNCTIONS: tuple[object, ...] = (
    functional.max_pool1d, functional.max_pool2d, functional.max_pool3d, torch.max_pool1d, torch.max_pool2d,
    torch.max_pool3d,
)  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """One operation on the way, a module or a traced function or method.

    `inputs` names the operations before it, or starts, whose outputs it takes; what else it takes does not move.
    `arguments` and `named` are what a function takes after its inputs.
    """

    name: str
    inputs: tuple[str, ...]
    site: str = ""
    module: nn.Module | None = None
    target: Any = None
    arguments: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    @property
    def does(self) -> str:
        """What a function does, in the words of `lat.bounds.operations`; empty for a module and the unknown."""
        return FUNCTIONS.get(self.target, "")

    @property
    def keeps(self) -> bool:
        """Whether it passes on what it is given, each unit or in another shape."""
        return isinstance(self.module, (*UNCHANGED, nn.Flatten)) or self.does in ("relu", "dropout", "flatten")


@dataclass(frozen=True)
class Route:
    """The operations between the starts of a scope and the perturbed layers, in the order of the forward pass.

    `starts` has the site at whose input each start lies, by the name that operations have for the start; `ends` the
    operation of each perturbed layer. `first` is the layer through whose weights the gradient at the one start is
    found, empty in the closed form and where no gradient is asked for. `signed` says whether perturbations pass, by
    the weights, or radii, by their absolute values.
    """

    operations: tuple[Operation, ...]
    starts: Mapping[str, str]
    ends: Mapping[str, str]
    first: str
    signed: bool

    @property
    def convolutional(self) -> bool:
        """Whether a convolution lies on the way."""
        return any(isinstance(step.module, (*CONVOLUTIONS, *TRANSPOSED)) for step in self.operations)

    @property
    def parameters(self) -> list[Tensor]:
        """The weights on the way, those of BatchNorm included."""
        weights = [
            getattr(step.module, "weight", None)
            for step in self.operations
            if isinstance(step.module, (*PERTURBABLE, *NORMS))
        ]
        return [weight for weight in weights if isinstance(weight, Tensor)]

    @property
    def maxima(self) -> bool:
        """Whether a perturbation passes max pooling, which hands on what lies at the maxima of each example."""
        return self.signed and any(isinstance(step.module, MAXIMA) for step in self.operations)

    def readers(self, model: nn.Module) -> dict[str, tuple[nn.Module, Reader]]:
        """What of a forward pass R depends on: sigma of each BatchNorm, and where the maxima of pooling lie."""
        found: dict[str, tuple[nn.Module, Reader]] = {}
        for step in self.operations:
            if isinstance(step.module, NORMS):
                found[step.site] = step.module, inverse_deviation
            elif self.signed and isinstance(step.module, MAXIMA):
                found[step.site] = step.module, positions
        if INPUT in self.starts.values():
            found[INPUT] = model, lambda module, x: None
        return found


@torch.no_grad()
def inverse_deviation(module: nn.Module, x: Tensor) -> Tensor:
    """1 / sigma (channels) as BatchNorm divides x (n, channels, *size) by it: the batch's in training mode."""
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    if module.training or module.running_var is None:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        _, variance = torch.batch_norm_update_stats(wide, None, None, 0.0)
    else:
        variance = module.running_var
    return (variance + module.eps).rsqrt()


@torch.no_grad()
def positions(module: nn.Module, x: Tensor) -> Tensor:
    """Where in its channel (n, channels, *size), counted along all axes, each maximum (n, channels, *out) lies."""
    assert isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d)
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[MAXIMA.index(type(module))]
    _, found = pool(
        x, module.kernel_size, module.stride, module.padding, module.dilation,
        ceil_mode=module.ceil_mode, return_indices=True,
    )  # fmt: skip
    return found


def route(model: nn.Module, layers: Sequence[str], reading: Reading) -> Route:
    """The way to `layers` in the scope of `reading`, which is wider than `local`.

    Raises SiteError where the model cannot be traced, a layer takes no part in the forward pass or is called twice,
    the scope's start is not clear, or the way leads through what radii cannot pass (naming it).
    """
    try:
        graph = trace(model)
    except BoundsError as error:
        raise SiteError(f"{error}; {WITHOUT_ORDER}") from error
    modules = dict(model.named_modules())
    ends = _called_once(graph, modules, layers)
    signed = reading.form == "propagated"
    begin = _inputs(graph, ends) if reading.scope == "network" else _firsts(graph, ends)
    if signed and reading.source == "gradient":
        begin = _one_first(begin, modules, ends)
    reached = _after(graph, begin)
    way = reached & _before(ends.values())
    for name, node in ends.items():
        if node not in reached:
            raise SiteError(f"layers: {name!r} takes nothing of the network's input; {WITHOUT_ORDER}")
    starts = {_start(node): INPUT if node.op == "placeholder" else str(node.target) for node in begin}
    operations = tuple(
        _operation(node, modules, begin, reached, reading)
        for node in graph.nodes
        if node in way and node.op != "placeholder"
    )
    for step in operations:
        if isinstance(step.module, PERTURBABLE):
            layer(model, step.site)
    _refuse_changed(graph, modules, way)
    _refuse_read_twice(operations, signed)
    first = str(begin[0].target) if signed and reading.source == "gradient" else ""
    return Route(operations, starts, {name: node.name for name, node in ends.items()}, first, signed)


def _called_once(graph: fx.Graph, modules: Mapping[str, nn.Module], layers: Sequence[str]) -> dict[str, fx.Node]:
    """The one call of each layer."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    names = [str(node.target) for node in calls]
    for name in layers:
        if name not in names:
            known = dict.fromkeys(entry for entry in names if isinstance(modules[entry], PERTURBABLE))
            raise SiteError(f"layers: {name!r} takes no part in the forward pass; name one of {', '.join(known)}")
        if names.count(name) > 1:
            raise SiteError(f"layers: {name!r} is called twice in one forward pass; a perturbation needs one call")
    return {name: calls[names.index(name)] for name in layers}


def _start(node: fx.Node) -> str:
    """What operations call the start that lies at `node`: not the name of any operation, which is an identifier."""
    return f"input of {node.name}"


def _before(ends: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes from which `ends` are computed, themselves included."""
    found: set[fx.Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _after(graph: fx.Graph, begin: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes that are computed from those of `begin`, themselves included."""
    found = set(begin)
    for node in graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _inputs(graph: fx.Graph, ends: Mapping[str, fx.Node]) -> list[fx.Node]:
    """The network's one input from which the layers are computed."""
    before = _before(ends.values())
    found = [node for node in graph.nodes if node.op == "placeholder" and node in before]
    if len(found) != 1:
        raise SiteError(
            f"scope 'network' starts at one input; the layers are computed from {len(found)}"
            f"{''.join(f', {node.name!r}' for node in found)}; {WITHOUT_ORDER}"
        )
    return found


def _firsts(graph: fx.Graph, ends: Mapping[str, fx.Node]) -> list[fx.Node]:
    """The layers of the set that no other layer of the set comes before, in forward order."""
    called = set(ends.values())
    return [node for node in graph.nodes if node in called and _before([node]) & called == {node}]


def _one_first(begin: list[fx.Node], modules: Mapping[str, nn.Module], ends: Mapping[str, fx.Node]) -> list[fx.Node]:
    """The one layer through which all of the scope starts, for the propagated form."""
    before = _before(ends.values())
    while len(begin) == 1 and not (
        begin[0].op == "call_module" and isinstance(modules[str(begin[0].target)], PERTURBABLE)
    ):
        node = begin[0]
        if node.op != "placeholder" and not _bare(node, modules).keeps:
            raise SiteError(
                f"{node.name!r} lies between the network's input and its first layer, through whose weights alone the "
                f"propagated form finds dL/dx; use form 'closed', or scope 'layer_set'"
            )
        begin = [user for user in node.users if user in before]
    if len(begin) != 1:
        names = ", ".join(repr(str(node.target) if node.op == "call_module" else node.name) for node in begin)
        raise SiteError(
            f"the propagated form pushes one r from one first layer, and here {names} each start; use form 'closed', "
            "scope 'local', or a layer set with one layer before all others"
        )
    return begin


def _bare(node: fx.Node, modules: Mapping[str, nn.Module], inputs: tuple[str, ...] = ()) -> Operation:
    if node.op == "call_module":
        return Operation(node.name, inputs, str(node.target), modules[str(node.target)])
    rest = tuple(argument for argument in node.args if not isinstance(argument, fx.Node))
    return Operation(node.name, inputs, node.name, None, node.target, rest, dict(node.kwargs))


def _operation(
    node: fx.Node, modules: Mapping[str, nn.Module], begin: Sequence[fx.Node], reached: set[fx.Node], reading: Reading
) -> Operation:
    """What `node` does on the way. Raises SiteError where radii cannot pass it, or not as it is called."""
    if node in begin:
        return _bare(node, modules, (_start(node),))
    moving = [entry for entry in node.args if isinstance(entry, fx.Node) and entry in reached]
    if node.op == "call_module":
        moving = [entry for entry in node.all_input_nodes if entry in reached]
    inputs = tuple(_start(entry) if entry.op == "placeholder" else entry.name for entry in moving)
    found = _bare(node, modules, inputs)
    called = getattr(node.target, "__name__", node.target)
    what = f"{node.name!r} ({called})"
    if found.module is not None:
        what = f"{found.site!r}, a {type(found.module).__name__}"
    if not _passed(node, found):
        raise SiteError(
            f"scope {reading.scope!r} leads through {what}, which radii cannot pass as it is called; they pass "
            f"{PASSED}; {WITHOUT_ORDER}"
        )
    if reading.form == "propagated" and found.target in MAXIMUM_FUNCTIONS:
        raise SiteError(
            f"scope {reading.scope!r} leads through {what}, whose maxima the propagated form cannot find; write it as "
            "nn.MaxPool1d, 2d or 3d, or use form 'closed'"
        )
    return found


def _passed(node: fx.Node, operation: Operation) -> bool:
    """Whether radii pass an operation as it is called."""
    if operation.module is not None:
        alone = len(node.args) + len(node.kwargs) == 1 and len(operation.inputs) == 1
        kinds = (*UNCHANGED, nn.Flatten, *NORMS, *MAXIMA, *MEANS)
        return alone and (isinstance(operation.module, PERTURBABLE) or type(operation.module) in kinds)
    first_alone = len(node.all_input_nodes) == 1 and node.args[:1] == (node.all_input_nodes[0],)
    if operation.does == "add":
        return len(node.args) == 2 and not node.kwargs
    return first_alone and bool(operation.does)


def _refuse_changed(graph: fx.Graph, modules: Mapping[str, nn.Module], way: set[fx.Node]) -> None:
    """Raises SiteError where what lies on the way, or a view of it, is overwritten and read again."""
    for node in graph.nodes:
        near = (node, *node.all_input_nodes, *first_inputs(modules, node))
        calls = node.op.startswith("call") and not way.isdisjoint(near)
        if calls and in_place(modules, node.op, node.target, node.kwargs):
            try:
                refuse_overwritten(modules, node)
            except BoundsError as error:
                raise SiteError(str(error)) from error


def _refuse_read_twice(operations: Sequence[Operation], signed: bool) -> None:
    """Raises SiteError where a module whose input R depends on is called more than once."""
    read = [step for step in operations if isinstance(step.module, (*NORMS, *MAXIMA) if signed else NORMS)]
    sites = [step.site for step in read]
    for step in read:
        if sites.count(step.site) > 1:
            raise SiteError(
                f"{step.site!r}, a {type(step.module).__name__}, is called more than once, on inputs that R depends "
                f"on; give each call its own module, or {WITHOUT_ORDER}"
            )

"""Sites: where a network can be perturbed, and how its layers' outputs are captured and changed, always undone.

A *site* is the output of one fully connected or convolutional layer before its activation; a transposed convolution is
a convolutional layer too. `Tap` hooks sites for the length of a block; `chain` orders the layers of a network that is a
chain, for gradients at the activation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils import checkpoint

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Layer = nn.Linear | Convolution | TransposedConvolution
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PERTURBABLE = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
PASSED_UNCHANGED = (nn.ReLU, nn.Flatten, nn.Identity, nn.Dropout)
FUNCTIONS_PASSED = (torch.relu, functional.relu, torch.flatten)
METHODS_PASSED = ("relu", "flatten")
WITHOUT_ORDER = "use scope 'local' with the gradient at 'output'"


class SiteError(ValueError):
    """A name that is no perturbable layer, or a network whose layers cannot be hooked or chained as asked."""


def layer(model: nn.Module, name: str) -> Layer:
    """The fully connected or convolutional layer `name` of `model`.

    Raises SiteError for a name that is no layer (listing those there are), is a layer of another kind (naming it), has
    a forward of its own or a weight that changes when it is read, or is a convolution whose padding eq. (8) does not
    cover: not of zeros, or not the same on both sides.
    """
    modules = dict(model.named_modules())
    known = [key for key, module in modules.items() if isinstance(module, PERTURBABLE)]
    if name not in modules or not name:
        raise SiteError(
            f"layers: {name!r} is no layer of {type(model).__name__}; it has {', '.join(known) or 'none to perturb'}"
        )
    module = modules[name]
    if not isinstance(module, PERTURBABLE):
        raise SiteError(
            f"layers: {name!r} is a {type(module).__name__}, which cannot be perturbed; name one of {', '.join(known)}"
        )
    if not keeps_forward(module):
        raise SiteError(
            f"layers: {name!r} is a {type(module).__name__}, whose forward is not that of nn.{_kind(module).__name__}, "
            "so that its weight does not say what it computes; keep torch's forward, and change the weight by "
            "torch.nn.utils.parametrize"
        )
    if parametrize.is_parametrized(module, "weight") and any(
        isinstance(part, _SpectralNorm)
        for part in module.parametrizations["weight"]  # type: ignore[index]
    ):
        raise SiteError(
            f"layers: {name!r} has spectral_norm, whose power iteration goes on whenever the weight is read, as R "
            "needs it; use weight_norm, or name another layer"
        )
    if isinstance(module, CONVOLUTIONS):
        _refuse_padding(module, name)
    return module


def _kind(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in PERTURBABLE if isinstance(module, kind))


def keeps_forward(module: Layer) -> bool:
    """Whether a layer, maybe of a subclass, computes its output as torch's class does."""
    kind = _kind(module)
    methods = [name for name in ("forward", "_conv_forward") if hasattr(kind, name)]
    return all(getattr(getattr(module, name), "__func__", None) is getattr(kind, name) for name in methods)


def _refuse_padding(module: Convolution, name: str) -> None:
    if module.padding_mode != "zeros":
        raise SiteError(
            f"layers: {name!r} is a {type(module).__name__} with padding_mode {module.padding_mode!r}; "
            "only padding with zeros can be perturbed, use padding_mode 'zeros'"
        )
    spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding == "same" and any(span % 2 for span in spans):
        raise SiteError(
            f"layers: {name!r} is a {type(module).__name__} with padding 'same', kernel {module.kernel_size} and "
            f"dilation {module.dilation}, which pads one side more; use an odd kernel, or pad in a module before it"
        )


def refuse_compiled(model: nn.Module) -> None:
    """Raises SiteError where `model` or a part of it is compiled: compiled code runs without the hooks that are
    added later."""
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            place = f"module {name!r}" if name else type(model).__name__
            raise SiteError(
                f"{place} is compiled by torch.compile, which ignores later hooks; give the module it was compiled from"
            )


TYPE_CHECKERS = ("beartype", "jaxtyping", "typeguard")
"""The packages whose wrappers of a forward change nothing, and refuse fx's proxies."""


def _unchecked(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward without the wrappers that check its types at run time; any other wrapper is traced as it is."""
    while hasattr(forward, "__wrapped__") and _checks_types(forward):
        forward = forward.__wrapped__
    return forward


def _checks_types(wrapper: Callable[..., Any]) -> bool:
    code = getattr(wrapper, "__code__", None)
    package = getattr(wrapper, "__globals__", {}).get("__name__", "").partition(".")[0]
    return package in TYPE_CHECKERS or (code is not None and code.co_filename.startswith("<@beartype"))


def bare(model: nn.Module) -> nn.Module:
    """The network itself: DistributedDataParallel is unwrapped. Raises SiteError for DataParallel, and for a model
    that is compiled or has a part that is.
    """
    refuse_compiled(model)
    if isinstance(model, nn.DataParallel):
        raise SiteError("DataParallel runs copies of the layers, whose hooks are lost; use DistributedDataParallel")
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def refuse_hidden(model: nn.Module, graph: fx.Graph) -> None:
    """Raises SiteError where a module of the forward pass, or one that holds it, does more than its `graph` shows: by a
    forward hook, or a forward that was set on the module itself.
    """
    modules = dict(model.named_modules())
    for called in dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module"):
        parts = called.split(".")
        for name in (".".join(parts[:count]) for count in range(len(parts) + 1)):
            module = modules[name]
            what = f"module {name!r}" if name else type(model).__name__
            if module._forward_hooks or module._forward_pre_hooks:
                raise SiteError(f"{what} has forward hooks, which may change its output; remove them first")
            if "forward" in vars(module):
                raise SiteError(
                    f"{what} has a forward that was set on it, and not on its class, which may change its output; "
                    "write it as a module"
                )


class Tracer(fx.Tracer):
    """Traces what a run-time type checker has wrapped, which refuses fx's proxies.

    A layer of a subclass that keeps torch's forward is one module of the graph, as torch's own are.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (isinstance(m, PERTURBABLE) and keeps_forward(m)) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        return super().create_args_for_root(_unchecked(root_fn), is_module, concrete_args)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        plain = _unchecked(type(m).forward)
        return super().call_module(m, lambda *a, **k: plain(m, *a, **k), args, kwargs)


def chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of `model` in the order of its forward pass, which must be a chain: each feeds the next alone.

    Functional ReLU and flatten are passed over; they have no module to hook. Raises SiteError naming the module or
    operation that is not a perturbable layer, ReLU, flatten, dropout or identity, or that breaks the chain.
    """
    try:
        graph = Tracer().trace(model)
    except Exception as error:  # fx raises whatever the traced forward raises
        raise SiteError(f"{type(model).__name__} cannot be traced ({error}); {WITHOUT_ORDER}") from error
    modules = dict(model.named_modules())
    found: list[tuple[str, nn.Module]] = []
    previous: fx.Node | None = None
    for node in graph.nodes:
        if node.op in ("placeholder", "output") and (previous is None or node.op == "output"):
            previous = node
            continue
        if node.all_input_nodes != [previous]:
            raise SiteError(f"{node.name!r} does not take the output of the module before it alone; {WITHOUT_ORDER}")
        if node.op == "call_module":
            module = modules[str(node.target)]
            if not isinstance(module, (*PERTURBABLE, *PASSED_UNCHANGED)):
                raise SiteError(
                    f"{node.target!r} is a {type(module).__name__}, which radii cannot pass; {WITHOUT_ORDER}"
                )
            found.append((str(node.target), module))
        elif not (node.target in FUNCTIONS_PASSED or (node.op == "call_method" and node.target in METHODS_PASSED)):
            raise SiteError(f"{node.name!r} ({node.target}) is an operation that radii cannot pass; {WITHOUT_ORDER}")
        previous = node
    names = [name for name, _ in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SiteError(f"layers: {min(twice)!r} is called twice in one forward pass; a perturbation needs one call")
    return found


def activation_after(order: Sequence[tuple[str, nn.Module]], name: str) -> str:
    """The name of the ReLU module that follows layer `name` in a `chain`; `name` itself for the last layer.

    Raises SiteError where an activation follows that is no module and cannot be hooked.
    """
    names = [entry for entry, _ in order]
    for follower, module in order[names.index(name) + 1 :]:
        if isinstance(module, nn.ReLU):
            return follower
        if isinstance(module, PERTURBABLE):
            raise SiteError(
                f"layers: no ReLU module follows {name!r}; write it as nn.ReLU, or take the gradient at 'output'"
            )
    return name


Reader = Callable[[nn.Module, Tensor], Tensor | None]
"""What is kept of a module and its input x (n, *size), if anything."""


class Tap:
    """While its block lasts, changes the outputs of named modules and records the gradients that reach them.

    `change(name, y)` returns what is added to the output y (n, *out) of module `name`, or None for nothing. `edges`
    holds the places of the changed outputs in the graph (None where no gradient is asked for), and `gradients` the
    dL/dy (n, *out) that backward passes through them have summed up, also after the block; a module that changes its
    input in place, such as ReLU(inplace=True), does not change them. `sizes` holds the shape of the last input of every
    module without its batch axis; it is there before `change` is called. Modules in eval mode are otherwise left
    alone. `readers` name further modules, whose outputs are left alone: what a reader makes of its module and the
    input x (n, *size) is in `seen`, and the input's shape in `sizes`. A forward pass for which `counts()` is false
    leaves no trace. The hooks are gone when the block ends, whatever was raised in it.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        change: Callable[[str, Tensor], Tensor | None],
        readers: Mapping[str, tuple[nn.Module, Reader]] = MappingProxyType({}),
        counts: Callable[[], bool] = lambda: True,
    ) -> None:
        self.modules = modules
        self.change = change
        self.readers = readers
        self.counts = counts
        self.edges: dict[str, GradientEdge | None] = {}
        self.gradients: dict[str, Tensor] = {}
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.seen: dict[str, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Tap:
        for name, module in self.modules.items():
            self._handles.append(module.register_forward_hook(_Hook(self, name), with_kwargs=True))
        for name, (module, reader) in self.readers.items():
            self._handles.append(module.register_forward_hook(_Read(self, name, reader), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()


class _Uncopied:
    """A hook that is an object, so that a copy of the hooked module can be refused."""

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise SiteError("deepcopy inside the block would copy its hooks; leave the block first")


class _Hook(_Uncopied):
    """The forward hook of one site."""

    def __init__(self, tap: Tap, name: str) -> None:
        self.tap = tap
        self.name = name

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], y: Tensor) -> Tensor | None:
        tap, name = self.tap, self.name
        if not tap.counts():
            return None
        x, *_ = (*inputs, *named.values())
        tap.sizes[name] = tuple(x.shape[1:])
        if not module.training:
            return None
        if _checkpointed():
            raise SiteError(
                f"layers: {name!r} runs under torch.utils.checkpoint, which runs it once more in backward(), where no "
                "perturbation is added; call it outside the checkpointed part"
            )
        if name in tap.edges:
            raise SiteError(
                f"layers: {name!r} was called twice inside one block; a perturbation needs one forward pass"
            )
        change = tap.change(name, y)
        changed = y if change is None else y + change.to(y.dtype)
        tap.edges[name] = get_gradient_edge(changed) if changed.requires_grad else None
        if changed.requires_grad:
            changed.register_hook(_Sum(tap.gradients, name))
        return changed


def _checkpointed() -> bool:
    """Whether what calls this is run by torch.utils.checkpoint, in either of its modes."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals is not vars(checkpoint):
        frame = frame.f_back
    return frame is not None


class _Read(_Uncopied):
    """The forward hook of one module that is only read."""

    def __init__(self, tap: Tap, name: str, reader: Reader) -> None:
        self.tap = tap
        self.name = name
        self.reader = reader

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], y: object) -> None:
        if not self.tap.counts():
            return
        x, *_ = (*inputs, *named.values())
        self.tap.sizes[self.name] = tuple(x.shape[1:])
        found = self.reader(module, x)
        if found is not None:
            self.tap.seen[self.name] = found


class _Sum:
    """The gradient hook of one output: sums up what reaches it. It holds no tensor of the graph, and so no cycle."""

    def __init__(self, sums: dict[str, Tensor], name: str) -> None:
        self.sums = sums
        self.name = name

    def __call__(self, g: Tensor) -> None:
        before = self.sums.get(self.name)
        self.sums[self.name] = g.detach() if before is None else before + g.detach()

"""Sets of layers by name: what the paper's rows All and Conv-all stand for in a given network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from lat.sites import CONVOLUTIONS, PERTURBABLE, TRANSPOSED, SiteError, Tracer, bare

Layers = Sequence[tuple[str, nn.Module]]

LAYER_SETS: Mapping[str, Callable[[Layers], Layers]] = {
    "all": lambda layers: layers[1:],
    "conv_all": lambda layers: convolutions(layers)[1:],
    "conv_all_with_first": lambda layers: convolutions(layers),
}


def convolutions(layers: Layers) -> Layers:
    """Those of the layers that are convolutions, transposed ones and shortcuts included."""
    return [(name, module) for name, module in layers if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED))]


def layer_set(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """The names of the layers of `model` that `names` stand for.

    One name of a set stands for its layers in the order of the forward pass, as torch.fx traces it: `all` for every
    layer that can be perturbed but the first, the input layer; `conv_all` for every convolution but the first;
    `conv_all_with_first` for every convolution. A layer that the forward pass does not call is in no set. Names of
    modules stand for themselves; where a module is called as a set is, that name is the module's.

    DistributedDataParallel is unwrapped: the names are those of the network in it, as `lat.LayerwiseAdversary` takes
    them.

    Raises SiteError for one text in the place of names, for a name that is neither a set's nor a module's, for a set
    beside other names, for a set that has no layer in this model, for a compiled model, and where the order cannot be
    traced, whole or in a part such as nn.TransformerEncoderLayer.
    """
    if isinstance(names, str):
        raise SiteError(f"layers: {names!r} is one text; give a list of names, [{names!r}]")
    model = bare(model)
    modules = dict(model.named_modules())
    held = [(name, module) for name, module in modules.items() if name and isinstance(module, PERTURBABLE)]
    its_layers = f"{type(model).__name__}; it has {', '.join(name for name, _ in held) or 'none to perturb'}"
    others = [name for name in names if name not in modules or not name]
    if not others:
        return tuple(names)
    name = others[0]
    if name not in LAYER_SETS:
        raise SiteError(f"layers: {name!r} is no layer of {its_layers}, and the sets {', '.join(LAYER_SETS)}")
    if len(names) > 1:
        raise SiteError(f"layers: {name!r} is a set beside other names; name one set, or layers alone")
    chosen = LAYER_SETS[name](called(model))
    if not chosen:
        raise SiteError(f"layers: the set {name!r} holds no layer of {its_layers}")
    return tuple(layer for layer, _ in chosen)


def called(model: nn.Module) -> Layers:
    """The layers that the forward pass of `model` calls, in its order. Raises SiteError where it cannot be traced."""
    try:
        graph = Tracer().trace(model)
    except Exception as error:  # fx raises whatever the traced forward raises
        raise SiteError(
            f"layers: {type(model).__name__} cannot be traced ({error}), so that no set can tell which layer is its "
            "first; name the layers"
        ) from error
    modules = dict(model.named_modules())
    names = dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module")
    for name in names:
        if any(isinstance(part, PERTURBABLE) for part in modules[name].modules() if part is not modules[name]):
            raise SiteError(
                f"layers: {name!r} is a {type(modules[name]).__name__}, into which the order of layers cannot be "
                "traced; name the layers"
            )
    return [(name, modules[name]) for name in names if isinstance(modules[name], PERTURBABLE)]

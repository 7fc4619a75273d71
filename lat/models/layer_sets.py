"""Sets of layers by name: what the paper's rows All and Conv-all stand for in a given network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from lat.sites import CONVOLUTIONS, PERTURBABLE, SiteError

Layers = Sequence[tuple[str, nn.Module]]

LAYER_SETS: Mapping[str, Callable[[Layers], Layers]] = {
    "all": lambda layers: layers[1:],
    "conv_all": lambda layers: convolutions(layers)[1:],
    "conv_all_with_first": lambda layers: convolutions(layers),
}


def convolutions(layers: Layers) -> Layers:
    """Those of the layers that are convolutions, shortcuts included."""
    return [(name, module) for name, module in layers if isinstance(module, CONVOLUTIONS)]


def layer_set(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """The names of the layers of `model` that `names` stand for.

    One name of a set stands for its layers in the order in which `model` holds them, which is that of the forward pass
    in the networks of `lat.models`: `all` for every layer that can be perturbed but the first, the input layer;
    `conv_all` for every convolution but the first; `conv_all_with_first` for every convolution. Names of modules stand
    for themselves; where a module is called as a set is, that name is the module's.

    Raises SiteError for a name that is neither a set's nor a module's, for a set beside other names, and for a set that
    has no layer in this model.
    """
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
    chosen = LAYER_SETS[name](held)
    if not chosen:
        raise SiteError(f"layers: the set {name!r} holds no layer of {its_layers}")
    return tuple(layer for layer, _ in chosen)

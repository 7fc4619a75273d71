"""Which modules and functions bounds can pass, and how: each becomes one operation of a domain."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lat.bounds.domains import Domain
from lat.equations import ConvolutionalModule, Geometry

Value = TypeVar("Value")

MAXIMA: tuple[type[nn.Module], ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MEANS: tuple[type[nn.Module], ...] = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
DROPOUTS: tuple[type[nn.Module], ...] = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MODULES: tuple[type[nn.Module], ...] = (
    nn.Linear,
    *CONVOLUTIONS,
    *TRANSPOSED,
    nn.ReLU,
    nn.Flatten,
    *NORMS,
    *MAXIMA,
    *MEANS,
    nn.Identity,
    *DROPOUTS,
)

# What traced functions and methods do; a method goes by its name.
FUNCTIONS: Mapping[object, str] = {
    torch.relu: "relu", torch.relu_: "relu", functional.relu: "relu", "relu": "relu", "relu_": "relu",
    torch.flatten: "flatten", "flatten": "flatten",
    operator.add: "add", operator.iadd: "add", torch.add: "add", "add": "add", "add_": "add",
    functional.max_pool1d: "pool", functional.max_pool2d: "pool", functional.max_pool3d: "pool",
    torch.max_pool1d: "pool", torch.max_pool2d: "pool", torch.max_pool3d: "pool",
    functional.avg_pool1d: "pool", functional.avg_pool2d: "pool", functional.avg_pool3d: "pool",
    functional.adaptive_avg_pool1d: "pool", functional.adaptive_avg_pool2d: "pool",
    functional.adaptive_avg_pool3d: "pool",
    functional.dropout: "dropout", functional.dropout1d: "dropout", functional.dropout2d: "dropout",
    functional.dropout3d: "dropout", functional.alpha_dropout: "dropout", functional.feature_alpha_dropout: "dropout",
}  # fmt: skip
VIEWS = (
    "view", "view_as", "reshape", "squeeze", "unsqueeze", "transpose", "permute", "t", "expand", "narrow", "select",
    "unbind", "chunk", "split", "detach", "contiguous", "getitem", "movedim", "swapaxes", "unfold", "unflatten",
    "diagonal",
)  # fmt: skip
"""Methods and functions, by name, whose output may be a view of their input."""
PASSED = (
    f"modules: {', '.join(kind.__name__ for kind in MODULES)}; functions and methods: relu, flatten(1), "
    "max_pool1d to 3d, avg_pool1d to 3d, adaptive_avg_pool1d to 3d, the dropouts, and + of two layers' outputs"
)


class BoundsError(ValueError):
    """A network, an operation or an argument for which there is no bound."""


def through_module(domain: Domain[Value], name: str, module: nn.Module, value: Value) -> Value:
    """The bound on the output of `module`, called `name`, from that on its input.

    Raises BoundsError for a module that bounds cannot pass, or in train mode where that matters.
    """
    kind = type(module)
    if kind not in MODULES:
        raise BoundsError(f"{name!r} is a {kind.__name__}, which bounds cannot pass; they pass {PASSED}")
    if module.training and kind in (*NORMS, *DROPOUTS):
        raise BoundsError(
            f"{name!r} is a {kind.__name__} in train mode, where its output is no fixed function of its input and "
            "nothing bounds it; call eval() first"
        )
    if isinstance(module, nn.Linear):
        return domain.linear(module.weight, module.bias, value)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return domain.convolution(module.weight, module.bias, geometry(name, module), value)
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return domain.transposed(module.weight, module.bias, geometry(name, module), value)
    if isinstance(module, nn.ReLU):
        return domain.relu(value)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        scale, shift = normalisation(name, module, len(domain.shape(value)) - 2)
        return domain.scaled(scale, shift, value)
    if isinstance(module, nn.Flatten):
        return flattened(domain, name, module.forward, value)
    if kind in (*MAXIMA, *MEANS):
        return pooled(domain, name, module.forward, vars(module), value)
    return value


def through_function(
    domain: Domain[Value], name: str, target: Any, values: list[Value], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value:
    """The bound on the output of a traced function or method from those on its inputs, its leading arguments.

    `name` is that of the traced operation, `args` and `kwargs` are what follows the inputs. Raises BoundsError for an
    operation that bounds cannot pass, and for dropout that is called for training.
    """
    does = FUNCTIONS.get(target)
    call: Callable[..., Tensor] = torch.flatten if target == "flatten" else target
    if does == "relu" and len(values) == 1:
        return domain.relu(values[0])
    if does == "flatten" and len(values) == 1:
        return flattened(domain, name, lambda x: call(x, *args, **kwargs), values[0])
    if does == "pool" and len(values) == 1:
        return pooled(domain, name, lambda x: call(x, *args, **kwargs), settings_of(target, args, kwargs), values[0])
    if does == "dropout" and len(values) == 1:
        given = inspect.signature(target).bind(*values, *args, **kwargs)
        given.apply_defaults()
        if given.arguments["training"]:
            raise BoundsError(
                f"{name!r} ({target.__name__}) is called for training, where its output is no fixed function of its "
                "input and nothing bounds it; give it training=self.training, and call eval() first"
            )
        return values[0]
    if does == "add" and len(values) == 2 and not args and not kwargs:
        one, other = values
        if domain.shape(one) != domain.shape(other):
            shapes = " and ".join(str(tuple(domain.shape(value))[1:]) for value in values)
            raise BoundsError(f"{name!r} adds outputs of the shapes {shapes}; bounds add outputs of one shape")
        return domain.added(one, other)
    called = getattr(target, "__name__", target)
    raise BoundsError(
        f"{name!r} ({called}) is an operation that bounds cannot pass as it is called; they pass {PASSED}"
    )


def settings_of(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The settings of a functional pool that decide whether it has a bound, by name."""
    if target in (functional.avg_pool2d, functional.avg_pool3d) and len(args) > 5:
        return {"divisor_override": args[5]}
    return kwargs


def pooled(
    domain: Domain[Value], name: str, pool: Callable[[Tensor], Tensor], settings: Mapping[str, Any], value: Value
) -> Value:
    """Through a pool, which has to give one tensor, and to divide by a positive number."""
    if settings.get("return_indices"):
        raise BoundsError(f"{name!r}: return_indices gives two outputs; bounds pass one, leave it at False")
    if (settings.get("divisor_override") or 1) < 0:
        raise BoundsError(
            f"{name!r}: divisor_override is {settings['divisor_override']}; bounds need a positive divisor"
        )
    return domain.pooled(pool, value)


def flattened(domain: Domain[Value], name: str, flatten: Callable[[Tensor], Tensor], value: Value) -> Value:
    """Through flatten, which has to leave the examples apart."""
    shape = domain.shape(value)
    probe = flatten(torch.empty(2, *shape[1:], device="meta"))
    if probe.dim() < 2 or len(probe) != 2:
        raise BoundsError(f"{name!r} flattens the examples of a batch into one; start at dimension 1: flatten(x, 1)")
    return domain.pooled(flatten, value)


def normalisation(
    name: str, module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, axes: int
) -> tuple[Tensor, Tensor]:
    """Scale and shift of BatchNorm in eval mode, (channels, 1, …) with one 1 a spatial axis.

    gamma / sqrt(var + its epsilon), and beta - mean times that. Raises BoundsError where there are no running
    statistics.
    """
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        raise BoundsError(
            f"{name!r} normalises with the statistics of the batch in eval mode too, where nothing bounds it; "
            "give it track_running_stats=True"
        )
    scale = 1 / torch.sqrt(variance + module.eps)
    if module.affine:
        scale = module.weight * scale
    shift = -mean * scale
    if module.affine:
        shift = module.bias + shift
    wide = (-1, *[1] * axes)
    return scale.view(wide), shift.view(wide)


def geometry(name: str, module: ConvolutionalModule) -> Geometry:
    """How the module's kernel moves. Raises BoundsError for a padding that is not of zeros, the same on both sides."""
    try:
        return Geometry.of(module)
    except ValueError as error:
        raise BoundsError(f"{name!r}: {error}") from error


def in_place(modules: Mapping[str, nn.Module], kind: str, target: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a traced operation overwrites its first input."""
    if kind == "call_module":
        return bool(getattr(modules[str(target)], "inplace", False))
    name = _named(target)
    overwrites = name.endswith("_") and not name.endswith("__")  # torch's own way to say so
    return overwrites or target is operator.iadd or bool(kwargs.get("inplace")) or kwargs.get("out") is not None


def _named(target: Any) -> str:
    return target if isinstance(target, str) else str(getattr(target, "__name__", ""))


def shares_memory(modules: Mapping[str, nn.Module], kind: str, target: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether the output of a traced operation may be its first input, or a view of it."""
    if in_place(modules, kind, target, kwargs):
        return True
    if kind == "call_module":
        return type(modules[str(target)]) in (nn.Flatten, nn.Identity, *DROPOUTS)
    return FUNCTIONS.get(target) in ("flatten", "dropout") or _named(target) in VIEWS

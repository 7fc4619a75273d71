"""Tensors whose elements are exact: whole numbers, rationals, or the solver's real terms.

`Exact` passes for a float64 tensor, and carries out the torch functions that the equations and bounds are written with
element by element, without rounding. So what is proved, refuted or enumerated is the code of `lat.equations` and
`lat.bounds` itself, not a second copy of it.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import z3
from torch import Tensor

Terms = npt.NDArray[np.object_]


class Exact(Tensor):
    """A tensor of exact `terms`, of any shape; Booleans where it is the result of a comparison.

    Raises NotImplementedError naming the torch function where one is called that is not exact, or not needed so far.
    """

    terms: Terms

    @staticmethod
    def __new__(cls, terms: Any) -> Exact:
        return Tensor._make_wrapper_subclass(cls, _array(terms).shape, dtype=torch.float64)

    def __init__(self, terms: Any) -> None:
        self.terms = _array(terms)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # of an attribute: its name is that of the descriptor
            name = func.__self__.__name__  # type: ignore[attr-defined]
        name = name.strip("_")
        if name in _PLAIN:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if name not in _FUNCTIONS:
            raise NotImplementedError(f"{name}: has no exact form in lat.proofs.exact; add one")
        return Exact(_FUNCTIONS[name](*map(_opened, args), **{k: _opened(v) for k, v in (kwargs or {}).items()}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise NotImplementedError(f"{func}: reached an exact tensor's storage, which it has not")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Exact({self.terms.tolist()})"


def exact(values: Tensor | Sequence[Any] | int) -> Exact:
    """Numbers as an exact tensor; floating-point numbers as the rationals that they are."""
    return Exact(_opened(values) if isinstance(values, Tensor) else values)


def symbols(name: str, shape: Sequence[int]) -> Exact:
    """A tensor of the solver's real variables, called `name` and, by place, `name_0_1`."""
    terms = np.empty(tuple(shape), dtype=object)
    for place in np.ndindex(*shape):
        terms[place] = z3.Real("_".join([name, *map(str, place)]))
    return Exact(terms)


def symbolic(term: Any) -> bool:
    """Whether an element is a term of the solver, rather than a number or a truth value."""
    return isinstance(term, z3.ExprRef)


# Elements ------------------------------------------------------------------------------------------------------------


def _chosen(condition: Any, yes: Any, no: Any) -> Any:
    if symbolic(condition):
        return z3.If(condition, _term(yes), _term(no))
    return yes if condition else no


def _term(value: Any) -> Any:
    """A number for the solver; NaN, of which a statement says nothing, as a variable that may be anything."""
    if isinstance(value, float) and value != value:
        return z3.FreshReal("unsaid")
    return value if symbolic(value) else z3.RealVal(value)


def _sign(v: Any) -> Any:
    return _chosen(v > 0, 1, _chosen(v < 0, -1, 0))


def _absolute(v: Any) -> Any:
    return _chosen(v >= 0, v, -v)


def _larger(a: Any, b: Any) -> Any:
    return _chosen(a >= b, a, b)


def _smaller(a: Any, b: Any) -> Any:
    return _chosen(a <= b, a, b)


def _both(a: Any, b: Any) -> Any:
    return z3.And(a, b) if symbolic(a) or symbolic(b) else bool(a and b)


def _either(a: Any, b: Any) -> Any:
    return z3.Or(a, b) if symbolic(a) or symbolic(b) else bool(a or b)


def _not(a: Any) -> Any:
    return z3.Not(a) if symbolic(a) else not a


def _quotient(a: Any, b: Any) -> Any:
    if symbolic(a) or symbolic(b):
        return a / b
    return Fraction(a) / Fraction(b) if b else float("nan")


# Arrays of elements --------------------------------------------------------------------------------------------------


def _array(terms: Any) -> Terms:
    if isinstance(terms, np.ndarray):
        return terms.astype(object)
    if isinstance(terms, list | tuple):
        return np.array(terms, dtype=object)
    whole = np.empty((), dtype=object)
    whole[()] = terms
    return whole


def _opened(value: Any) -> Any:
    """What the functions below work on: terms for an exact tensor, rationals for a plain one; all else as it is."""
    if isinstance(value, Exact):
        return value.terms
    if isinstance(value, Tensor):
        numbers = _array(np.empty(tuple(value.shape), dtype=object))
        for place in np.ndindex(*value.shape):
            number = Fraction(float(value[place]))
            numbers[place] = int(number) if number.denominator == 1 else number
        return numbers
    if isinstance(value, list | tuple) and any(isinstance(entry, Tensor) for entry in value):
        return [_opened(entry) for entry in value]
    if isinstance(value, float) and value == value:
        number = Fraction(value)
        return int(number) if number.denominator == 1 else number
    return value


def _each(function: Callable[..., Any], count: int) -> Callable[..., Terms]:
    """The function of `count` elements for arrays that broadcast."""
    element_wise = np.frompyfunc(function, count, 1)

    def each(*arrays: Any) -> Terms:
        with np.errstate(invalid="ignore"):  # comparing with NaN, of which a statement says nothing
            return _array(element_wise(*map(_array, arrays)))

    return each


def _folded(function: Callable[[Any, Any], Any]) -> Callable[..., Terms]:
    """The function of two elements along one axis or more, or over all elements."""

    def fold(a: Terms, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Terms:
        axes = range(a.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
        for axis in sorted((axis % a.ndim for axis in axes), reverse=True):
            parts = [a.take(place, axis) for place in range(a.shape[axis])]
            whole = _array(parts[0])
            for part in parts[1:]:
                whole = _each(function, 2)(whole, part)
            a = np.expand_dims(whole, axis) if keepdim else whole
        return a

    return fold


def _mean(a: Terms, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Terms:
    total = _folded(operator.add)(a, dim, keepdim)
    return _each(_quotient, 2)(total, a.size // max(total.size, 1))


def _clamped(a: Terms, min: Any = None, max: Any = None) -> Terms:  # noqa: A002 - torch's names
    a = a if min is None else _each(_larger, 2)(a, min)
    return a if max is None else _each(_smaller, 2)(a, max)


def _flattened(a: Terms, start_dim: int = 0, end_dim: int = -1) -> Terms:
    last = end_dim % a.ndim
    return a.reshape(*a.shape[:start_dim], -1, *a.shape[last + 1 :])


def _reshaped(a: Terms, *shape: Any) -> Terms:
    return a.reshape(*shape)


def _places(w: Terms, at: Mapping[str, Any], size: Sequence[int], moved: Sequence[int]) -> Iterable[Any]:
    """Where a kernel meets its input: (output place, input channel, input place, kernel entry), zeros left out."""
    filters, channels, *kernel = w.shape
    each_group = filters // at["groups"]
    for f, out in itertools.product(range(filters), np.ndindex(*moved)):
        for c, k in itertools.product(range(channels), np.ndindex(*kernel)):
            place = tuple(
                o * s - p + d * q
                for o, s, p, d, q in zip(out, at["stride"], at["padding"], at["dilation"], k, strict=True)
            )
            if all(0 <= q < n for q, n in zip(place, size, strict=True)):
                yield (f, *out), f // each_group * channels + c, place, w[(f, c, *k)]


def _convolution(x: Terms, w: Terms, bias: None, stride: Any, padding: Any, dilation: Any, groups: int) -> Terms:
    at = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    size = x.shape[2:]
    moved = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, w.shape[2:], stride, padding, dilation, strict=True)
    ]
    y = np.full((len(x), w.shape[0], *moved), 0, dtype=object)
    for out, channel, place, entry in _places(w, at, size, moved):
        for sample in range(len(x)):
            y[(sample, *out)] = y[(sample, *out)] + entry * x[(sample, channel, *place)]
    return y


def _transposed_convolution(
    g: Terms, w: Terms, bias: None, stride: Any, padding: Any, beyond: Any, groups: int, dilation: Any
) -> Terms:
    at = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    moved = g.shape[2:]
    size = [
        (m - 1) * s - 2 * p + d * (k - 1) + 1 + b
        for m, k, s, p, d, b in zip(moved, w.shape[2:], stride, padding, dilation, beyond, strict=True)
    ]
    x = np.full((len(g), w.shape[1] * groups, *size), 0, dtype=object)
    for out, channel, place, entry in _places(w, at, size, moved):
        for sample in range(len(g)):
            x[(sample, channel, *place)] = x[(sample, channel, *place)] + entry * g[(sample, *out)]
    return x


_PLAIN = {"shape", "dtype", "device", "ndim", "dim", "requires_grad", "size", "numel", "len", "is_floating_point"}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "T": lambda a: a.T,
    "abs": _each(_absolute, 1),
    "add": _each(operator.add, 2),
    "and": _each(_both, 2),
    "all": _folded(_both),
    "amax": _folded(_larger),
    "any": _folded(_either),
    "bitwise_and": _each(_both, 2),
    "bitwise_not": _each(_not, 1),
    "bitwise_or": _each(_either, 2),
    "clamp": _clamped,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv_transpose1d": _transposed_convolution,
    "conv_transpose2d": _transposed_convolution,
    "div": _each(_quotient, 2),
    "eq": _each(operator.eq, 2),
    "flatten": _flattened,
    "full_like": lambda a, value, **_: _each(lambda _: value, 1)(a),
    "ge": _each(operator.ge, 2),
    "getitem": lambda a, place: _array(a[place]),
    "gt": _each(operator.gt, 2),
    "invert": _each(_not, 1),
    "le": _each(operator.le, 2),
    "lt": _each(operator.lt, 2),
    "matmul": lambda a, b: _array(np.dot(a, b)),
    "maximum": _each(_larger, 2),
    "mean": _mean,
    "minimum": _each(_smaller, 2),
    "mul": _each(operator.mul, 2),
    "ne": _each(operator.ne, 2),
    "neg": _each(operator.neg, 1),
    "or": _each(_either, 2),
    "relu": lambda a, **_: _each(_larger, 2)(a, 0),
    "reshape": _reshaped,
    "rsub": lambda a, b: _each(operator.sub, 2)(b, a),
    "rdiv": lambda a, b: _each(_quotient, 2)(b, a),
    "sign": _each(_sign, 1),
    "stack": lambda parts, dim=0: np.stack(parts, dim),
    "sub": _each(operator.sub, 2),
    "sum": _folded(operator.add),
    "view": _reshaped,
    "where": _each(_chosen, 3),
    "zeros_like": lambda a, **_: _each(lambda _: 0, 1)(a),
}

"""What is carried through a network: radii, or intervals. Both pass the same operations, by the same names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor

from lat.bounds import primitives
from lat.bounds.primitives import Interval, Pool
from lat.equations import Geometry

Value = TypeVar("Value")


class Domain(ABC, Generic[Value]):
    """One kind of bound on the units (n, *shape) of a layer, and how each operation passes it on.

    Weights, scales and pools are as in `lat.bounds.primitives`, of whose functions every method is one.
    """

    @abstractmethod
    def shape(self, value: Value) -> Sequence[int]:
        """The shape (n, *shape) of the units."""

    @abstractmethod
    def linear(self, w: Tensor, b: Tensor | None, value: Value) -> Value:
        """Through w x + b."""

    @abstractmethod
    def convolution(self, w: Tensor, b: Tensor | None, at: Geometry, value: Value) -> Value:
        """Through w * x + b."""

    @abstractmethod
    def transposed(self, w: Tensor, b: Tensor | None, at: Geometry, value: Value) -> Value:
        """Through the transposed convolution w * x + b."""

    @abstractmethod
    def relu(self, value: Value) -> Value:
        """Through ReLU."""

    @abstractmethod
    def scaled(self, scale: Tensor, shift: Tensor, value: Value) -> Value:
        """Through scale x + shift, unit by unit."""

    @abstractmethod
    def pooled(self, pool: Pool, value: Value) -> Value:
        """Through a maximum or a positive mean over windows, or a new order of the units."""

    @abstractmethod
    def added(self, one: Value, other: Value) -> Value:
        """Through the addition of two layers' outputs."""


class Radii(Domain[Tensor]):
    """How far each unit can move, whatever the input: eqs. (7) and (9) with everything in between."""

    def shape(self, value: Tensor) -> Sequence[int]:
        return value.shape

    def linear(self, w: Tensor, b: Tensor | None, value: Tensor) -> Tensor:
        return primitives.linear_radius(w, value)

    def convolution(self, w: Tensor, b: Tensor | None, at: Geometry, value: Tensor) -> Tensor:
        return primitives.convolution_radius(w, at, value)

    def transposed(self, w: Tensor, b: Tensor | None, at: Geometry, value: Tensor) -> Tensor:
        return primitives.transposed_convolution_radius(w, at, value)

    def relu(self, value: Tensor) -> Tensor:
        return primitives.relu_radius(value)

    def scaled(self, scale: Tensor, shift: Tensor, value: Tensor) -> Tensor:
        return primitives.scale_radius(scale, value)

    def pooled(self, pool: Pool, value: Tensor) -> Tensor:
        return primitives.pooled_radius(pool, value)

    def added(self, one: Tensor, other: Tensor) -> Tensor:
        return primitives.sum_radius(one, other)


class Intervals(Domain[Interval]):
    """Where each unit lies for one box of inputs: interval bound propagation."""

    def shape(self, value: Interval) -> Sequence[int]:
        return value[0].shape

    def linear(self, w: Tensor, b: Tensor | None, value: Interval) -> Interval:
        return primitives.linear_interval(w, b, *value)

    def convolution(self, w: Tensor, b: Tensor | None, at: Geometry, value: Interval) -> Interval:
        return primitives.convolution_interval(w, b, at, *value)

    def transposed(self, w: Tensor, b: Tensor | None, at: Geometry, value: Interval) -> Interval:
        return primitives.transposed_convolution_interval(w, b, at, *value)

    def relu(self, value: Interval) -> Interval:
        return primitives.relu_interval(*value)

    def scaled(self, scale: Tensor, shift: Tensor, value: Interval) -> Interval:
        return primitives.scale_interval(scale, shift, *value)

    def pooled(self, pool: Pool, value: Interval) -> Interval:
        return primitives.pooled_interval(pool, *value)

    def added(self, one: Interval, other: Interval) -> Interval:
        return primitives.sum_interval(*one, *other)

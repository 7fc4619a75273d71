"""A layer as the linear map that it is, whatever its kind: what eqs. (6)-(9) need of it, in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lat import equations
from lat.equations import Geometry
from lat.sites import CONVOLUTIONS, Convolution, Layer


@dataclass(frozen=True)
class FullyConnected:
    """The map r -> w r of a fully connected layer, by its current weight (out, in)."""

    module: nn.Linear

    def change(self, r: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """Eq. (5): the change of the output under r."""
        return equations.output_change(self.module.weight, r)

    def input_gradient(self, g: Float[Tensor, "n out"]) -> Float[Tensor, "n in"]:
        """Eq. (6), line 3: dL/dx from g = dL/dy."""
        return equations.input_gradient(g, self.module.weight)

    def closed_radius(self, initial: Float[Tensor, " in"] | None = None) -> Float[Tensor, " out"]:
        """Eqs. (6) and (7): |w| 1, or |w| times `initial`."""
        return equations.closed_stack_radius([self.module.weight], initial)


@dataclass(frozen=True)
class Convolved:
    """The map r -> w * r of a convolution on inputs of `size` (their spatial axes), by its current weight."""

    module: Convolution
    size: tuple[int, ...]

    def change(self, r: Float[Tensor, "n in *size"]) -> Float[Tensor, "n filters *moved"]:
        """Eq. (8), left side: the change of the output under r."""
        return equations.convolution_change(self.module.weight, r, Geometry.of(self.module))

    def input_gradient(self, g: Float[Tensor, "n filters *moved"]) -> Float[Tensor, "n in *size"]:
        """Eq. (8): dL/dx from g = dL/dy."""
        return equations.convolution_input_gradient(g, self.module.weight, Geometry.of(self.module), self.size)

    def closed_radius(self, initial: Float[Tensor, "in *size"] | None = None) -> Float[Tensor, " filters *moved"]:
        """Eqs. (8) and (9): |w| * 1, or |w| * `initial`, the padded boundary included."""
        return equations.convolution_closed_radius(self.module.weight, Geometry.of(self.module), self.size, initial)


LinearMap = FullyConnected | Convolved


def linear_map(module: Layer, size: tuple[int, ...]) -> LinearMap:
    """The linear map of `module` on inputs of shape `size`, which is without the batch axis."""
    return Convolved(module, size[1:]) if isinstance(module, CONVOLUTIONS) else FullyConnected(module)


def propagated(maps: Sequence[LinearMap], r: Tensor) -> Tensor:
    """Eqs. (5) and (9): r (n, *in) pushed through the maps in the order of the forward pass, to (n, *out)."""
    for step in maps:
        r = step.change(r)
    return r


def closed(maps: Sequence[LinearMap], g: Tensor, eps: Tensor | float) -> Tensor:
    """Eqs. (6)-(9), closed: eps (|w_n| ... |w_1| 1) ⊙ sign(g), with g (n, *out) the gradient at the last map's output.

    `eps` is a number or broadcasts against (n, *out).
    """
    first, *rest = maps
    radius = first.closed_radius()
    for step in rest:
        radius = step.closed_radius(radius)
    return eps * radius * torch.sign(g)

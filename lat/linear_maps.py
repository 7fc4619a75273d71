"""A layer as the linear map that it is, whatever its kind: what eqs. (6)-(9) need of it, in the same words."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from lat import equations
from lat.equations import Geometry
from lat.sites import CONVOLUTIONS, TRANSPOSED, Convolution, Layer, TransposedConvolution


@dataclass(frozen=True)
class FullyConnected:
    """The map r -> w r of a fully connected layer, by its current weight (out, in)."""

    module: nn.Linear

    def change(self, r: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        """Eq. (5): the change of the output under r."""
        return equations.output_change(self.module.weight, r)

    def absolute_change(self, r: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        """Eq. (7), its weights' absolute values: |w| r."""
        return equations.output_change(self.module.weight.abs(), r)

    def input_gradient(self, g: Float[Tensor, "*n out"]) -> Float[Tensor, "*n in"]:
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

    def absolute_change(self, r: Float[Tensor, "n in *size"]) -> Float[Tensor, "n filters *moved"]:
        """Eq. (9), its weights' absolute values: |w| * r."""
        return equations.convolution_change(self.module.weight.abs(), r, Geometry.of(self.module))

    def input_gradient(self, g: Float[Tensor, "n filters *moved"]) -> Float[Tensor, "n in *size"]:
        """Eq. (8): dL/dx from g = dL/dy."""
        return equations.convolution_input_gradient(g, self.module.weight, Geometry.of(self.module), self.size)

    def closed_radius(self, initial: Float[Tensor, "in *size"] | None = None) -> Float[Tensor, " filters *moved"]:
        """Eqs. (8) and (9): |w| * 1, or |w| * `initial`, the padded boundary included."""
        return equations.convolution_closed_radius(self.module.weight, Geometry.of(self.module), self.size, initial)


@dataclass(frozen=True)
class TransposedConvolved:
    """The map r -> w * r of a transposed convolution on inputs of `size` (their spatial axes), by its weight."""

    module: TransposedConvolution
    size: tuple[int, ...]

    @property
    def outputs(self) -> tuple[int, ...]:
        """The shape (out, *moved) of an output."""
        moved = Geometry.of(self.module).transposed_size(self.module.kernel_size, self.size)
        return (self.module.out_channels, *moved)

    def change(self, r: Float[Tensor, "n in *size"]) -> Float[Tensor, "n out *moved"]:
        """Eq. (8), left side: the change of the output under r."""
        return equations.transposed_convolution_change(self.module.weight, r, Geometry.of(self.module))

    def absolute_change(self, r: Float[Tensor, "n in *size"]) -> Float[Tensor, "n out *moved"]:
        """Eq. (9), its weights' absolute values: |w| * r."""
        return equations.transposed_convolution_change(self.module.weight.abs(), r, Geometry.of(self.module))

    def input_gradient(self, g: Float[Tensor, "n out *moved"]) -> Float[Tensor, "n in *size"]:
        """Eq. (8): dL/dx from g = dL/dy."""
        at = Geometry.of(self.module)
        return equations.transposed_convolution_input_gradient(g, self.module.weight, at, self.size)

    def closed_radius(self, initial: Float[Tensor, "in *size"] | None = None) -> Float[Tensor, " out *moved"]:
        """Eqs. (8) and (9): |w| * 1, or |w| * `initial`, the boundary included."""
        at = Geometry.of(self.module)
        return equations.transposed_convolution_closed_radius(self.module.weight, at, self.size, initial)


LinearMap = FullyConnected | Convolved | TransposedConvolved


def linear_map(module: Layer, size: tuple[int, ...]) -> LinearMap:
    """The linear map of `module` on inputs of shape `size`, which is without the batch axis."""
    if isinstance(module, CONVOLUTIONS):
        return Convolved(module, size[1:])
    if isinstance(module, TRANSPOSED):
        return TransposedConvolved(module, size[1:])
    return FullyConnected(module)

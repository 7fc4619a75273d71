"""Eqs. (5)-(14) of the paper, in its order, one function a statement.

The paper's symbols are used inside: `w` a weight of shape (out, in), `b` a bias (out), `x` a batch of inputs (n, in),
`r` a perturbation of the inputs (n, in), `g` the gradient dL/dy of the loss by a layer's output (n, out), and `eps`
the radius: a number, or a tensor that broadcasts against (n, in) or (n, out). For convolutions an input is (channels,
*size), an output (filters, *moved), `w` is (filters, channels / groups, *kernel), and `at` says how the kernel moves;
the weight of a transposed convolution is (channels, filters / groups, *kernel), as torch has it.
The closed forms also take one g (1, out) for n radii. Every function works in the dtype and on the device of its
tensors and is differentiable where the statement is. That a statement is written here does not say that it is true:
the laws in `lat.proofs` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu

Weight = Float[Tensor, "out in"]
Kernel = Float[Tensor, "filters channels *kernel"]
TransposedKernel = Float[Tensor, "channels filters *kernel"]
Epsilon = Tensor | float


ConvolutionalModule = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass(frozen=True)
class Geometry:
    """How the kernel of a convolution moves over its input: one number a spatial axis, zeros as padding on both sides.

    A transposed convolution is the transpose of the convolution that moves so over its output; `output_padding` says by
    how much its output is longer than the least that this convolution takes (empty: by nothing). A convolution itself
    has none. Raises ValueError where the numbers of axes differ or a number is out of range.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    output_padding: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.stride) == len(self.padding) == len(self.dilation) <= 3:
            raise ValueError(
                f"stride, padding, dilation: {self.stride}, {self.padding}, {self.dilation}; "
                "give each one number a spatial axis, of which there are one to three"
            )
        if min(*self.stride, *self.dilation, self.groups) < 1 or min(self.padding) < 0:
            raise ValueError(
                f"stride, padding, dilation, groups: {self.stride}, {self.padding}, {self.dilation}, {self.groups}; "
                "padding starts at 0, the others at 1"
            )
        if self.output_padding:
            axes = zip(self.output_padding, self.stride, self.dilation, strict=False)
            if len(self.output_padding) != self.axes or not all(0 <= p < max(s, d) for p, s, d in axes):
                raise ValueError(
                    f"output_padding: {self.output_padding}, stride: {self.stride}, dilation: {self.dilation}; "
                    "give one number a spatial axis, at least 0 and below its stride or dilation, or none"
                )

    @classmethod
    def of(cls, module: ConvolutionalModule) -> Geometry:
        """How the kernel of a layer moves, the words 'valid' and 'same' written as numbers.

        Raises ValueError where the padding is not of zeros, or not the same on both sides.
        """
        if module.padding_mode != "zeros":
            raise ValueError(f"padding_mode: {module.padding_mode!r} is not covered by eq. (8); use 'zeros'")
        padding = module.padding
        spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if padding == "same":
            if any(span % 2 for span in spans):
                raise ValueError("padding: 'same' pads one side more than the other here; use an odd kernel")
            padding = tuple(span // 2 for span in spans)
        elif isinstance(padding, str):
            padding = (0,) * len(spans)
        further = module.output_padding if module.transposed else ()
        return cls(module.stride, padding, module.dilation, module.groups, further)

    @property
    def axes(self) -> int:
        """The number of spatial axes."""
        return len(self.stride)

    def transposed_size(self, kernel: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
        """The size of a transposed convolution's outputs for inputs of `size`."""
        extra = self.output_padding or (0,) * self.axes
        axes = zip(size, kernel, self.stride, self.padding, self.dilation, extra, strict=True)
        return tuple((whole - 1) * s - 2 * p + d * (k - 1) + 1 + more for whole, k, s, p, d, more in axes)


Convolution = tuple[Tensor, Geometry]
"""A convolutional layer of a stack: its weight and how it moves."""


def adversarial_output(
    w: Weight, b: Float[Tensor, " out"], x: Float[Tensor, "n in"], r: Float[Tensor, "n in"]
) -> Float[Tensor, "n out"]:
    """Eq. (5). The layer's output for the perturbed input, y_adv = w (x + r) + b = y + w r."""
    return x @ w.T + b + output_change(w, r)


def output_change(w: Weight, r: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
    """Eq. (5). The change of the layer's output under r: y_adv - y = w r."""
    return r @ w.T


def stacked_change(weights: Sequence[Tensor], r: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
    """Eq. (5), stacked: w_n ... w_1 r, the change of the last output of linear layers with nothing between them.

    `weights` are in the order of the forward pass, w_1 first.
    """
    for w in weights:
        r = output_change(w, r)
    return r


def input_gradient(g: Float[Tensor, "*n out"], w: Weight) -> Float[Tensor, "*n in"]:
    """Eq. (6), line 3: dL/dx = dL/dy w, the gradient of the loss by the layer's input."""
    return g @ w


def input_perturbation(g: Float[Tensor, "n out"], w: Weight, eps: Epsilon) -> Float[Tensor, "n in"]:
    """Eq. (6), line 1: r = eps sign(dL/dx), the step of FGSM at the layer's input."""
    return eps * torch.sign(input_gradient(g, w))


def propagated(g: Float[Tensor, "n out"], w: Weight, eps: Epsilon) -> Float[Tensor, "n out"]:
    """Eq. (6), first line: w r with r = eps sign(dL/dx); exactly what FGSM at the layer's input does to its output."""
    return output_change(w, input_perturbation(g, w, eps))


def closed_radius(w: Weight) -> Float[Tensor, " out"]:
    """Eq. (6), last line: |w| 1, how far each output can move when every input moves by at most 1."""
    return w.abs().sum(dim=1)


def closed(g: Float[Tensor, "#n out"], w: Weight, eps: Epsilon) -> Float[Tensor, "n out"]:
    """Eq. (6), last line, in the reading whose shapes fit: eps (|w| 1) ⊙ sign(dL/dy)."""
    return eps * closed_radius(w) * torch.sign(g)


def closed_stack_radius(
    weights: Sequence[Tensor], initial: Float[Tensor, " in"] | None = None
) -> Float[Tensor, " out"]:
    """Eq. (7), last line: |w_n| ... |w_1| 1, with `weights` in the order of the forward pass, w_1 first.

    `initial` stands in the place of 1: how far each input can move. Passed on from the last convolutional layer, it is
    the paper's "initial value to calculate the perturbation of successive fully connected layers" (section III-D).
    """
    first, *rest = weights
    radius = closed_radius(first) if initial is None else first.abs() @ initial
    for w in rest:
        radius = w.abs() @ radius
    return radius


def closed_stack(g: Float[Tensor, "#n out"], weights: Sequence[Tensor], eps: Epsilon) -> Float[Tensor, "n out"]:
    """Eq. (7), last line: eps (|w_n| ... |w_1| 1) ⊙ sign(dL/dy), with g the gradient at the last layer's output."""
    return eps * closed_stack_radius(weights) * torch.sign(g)


def propagated_stack(
    g_first: Float[Tensor, "n first"], weights: Sequence[Tensor], eps: Epsilon
) -> Float[Tensor, "n out"]:
    """Eq. (7), second line: w_n ... w_1 eps sign(dL/dx), where dL/dx = dL/dy_1 w_1 and `g_first` is dL/dy_1."""
    return stacked_change(weights, input_perturbation(g_first, weights[0], eps))


def convolution(w: Kernel, x: Float[Tensor, "n in *size"], at: Geometry) -> Float[Tensor, "n filters *moved"]:
    """The paper's w * x, without a bias: the cross-correlation that convolutional layers compute."""
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[at.axes - 1]
    return convolve(x, w, None, at.stride, at.padding, at.dilation, at.groups)


def convolution_output(
    w: Kernel,
    b: Float[Tensor, " filters"],
    x: Float[Tensor, "n in *size"],
    r: Float[Tensor, "n in *size"],
    at: Geometry,
) -> Float[Tensor, "n filters *moved"]:
    """Eq. (8), the text before it: the layer's output for the perturbed input, y_adv = w * (x + r) + b = y + w * r."""
    return convolution(w, x + r, at) + b.view(-1, *[1] * at.axes)


def convolution_change(w: Kernel, r: Float[Tensor, "n in *size"], at: Geometry) -> Float[Tensor, "n filters *moved"]:
    """Eq. (8), left side: the change of the layer's output under r, y_adv - y = w * r."""
    return convolution(w, r, at)


def convolution_input_gradient(
    g: Float[Tensor, "n filters *moved"], w: Kernel, at: Geometry, size: Sequence[int]
) -> Float[Tensor, "n in *size"]:
    """Eq. (8), dL/dx = dL/dy dy/dx for inputs of `size` (their spatial axes): the transposed convolution of dL/dy.

    Raises ValueError where w moved over inputs of `size` does not give outputs of g's size.
    """
    axes = zip(size, g.shape[2:], w.shape[2:], at.stride, at.padding, at.dilation, strict=True)
    beyond = [
        whole - ((moved - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
        for whole, moved, kernel, stride, padding, dilation in axes
    ]
    if not all(0 <= rest < stride for rest, stride in zip(beyond, at.stride, strict=True)):
        raise ValueError(f"size: inputs of {tuple(size)} do not give outputs of {tuple(g.shape[2:])}; give their size")
    convolve = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[at.axes - 1]
    return convolve(g, w, None, at.stride, at.padding, beyond, at.groups, at.dilation)


def convolution_propagated(
    g: Float[Tensor, "n filters *moved"], w: Kernel, eps: Epsilon, at: Geometry, size: Sequence[int]
) -> Float[Tensor, "n filters *moved"]:
    """Eq. (8), left side: w * r with r = eps sign(dL/dx); exactly what FGSM at the layer's input does to its output."""
    return convolution_change(w, eps * torch.sign(convolution_input_gradient(g, w, at, size)), at)


def convolution_closed_radius(
    w: Kernel, at: Geometry, size: Sequence[int], initial: Float[Tensor, "in *size"] | None = None
) -> Float[Tensor, " filters *moved"]:
    """Eq. (8), right side, in the reading whose shapes fit: |w| * 1, the padded boundary included.

    How far each output can move when every input of `size` moves by at most 1, or by at most its entry of `initial`.
    """
    if initial is None:
        initial = torch.ones(w.shape[1] * at.groups, *size, dtype=w.dtype, device=w.device)
    return convolution(w.abs(), initial[None], at)[0]


def convolution_closed(
    g: Float[Tensor, "#n filters *moved"], w: Kernel, eps: Epsilon, at: Geometry, size: Sequence[int]
) -> Float[Tensor, "n filters *moved"]:
    """Eq. (8), right side, in the reading whose shapes fit: eps (|w| * 1) ⊙ sign(dL/dy)."""
    return eps * convolution_closed_radius(w, at, size) * torch.sign(g)


def transposed_convolution(
    w: TransposedKernel, x: Float[Tensor, "n in *size"], at: Geometry
) -> Float[Tensor, "n out *moved"]:
    """Eq. (8)'s w * x for a transposed convolution, without a bias: the adjoint of `convolution` by the same w."""
    convolve = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[at.axes - 1]
    return convolve(x, w, None, at.stride, at.padding, at.output_padding or (0,) * at.axes, at.groups, at.dilation)


def transposed_convolution_change(
    w: TransposedKernel, r: Float[Tensor, "n in *size"], at: Geometry
) -> Float[Tensor, "n out *moved"]:
    """Eq. (8), left side, for a transposed convolution: the change of the layer's output under r."""
    return transposed_convolution(w, r, at)


def transposed_convolution_input_gradient(
    g: Float[Tensor, "n out *moved"], w: TransposedKernel, at: Geometry, size: Sequence[int]
) -> Float[Tensor, "n in *size"]:
    """Eq. (8), dL/dx = dL/dy dy/dx, for a transposed convolution of inputs of `size` (their spatial axes): the
    convolution of dL/dy by w, without the windows that only the output padding has made room for.

    Raises ValueError where inputs of `size` do not give outputs of g's size.
    """
    moved = at.transposed_size(w.shape[2:], size)
    if tuple(g.shape[2:]) != moved:
        raise ValueError(
            f"size: inputs of {tuple(size)} give outputs of {moved}, not {tuple(g.shape[2:])}; give their size"
        )
    gradient = convolution(w, g, at)
    for axis, length in enumerate(size, start=2):
        gradient = gradient.narrow(axis, 0, length)
    return gradient


def transposed_convolution_propagated(
    g: Float[Tensor, "n out *moved"], w: TransposedKernel, eps: Epsilon, at: Geometry, size: Sequence[int]
) -> Float[Tensor, "n out *moved"]:
    """Eq. (8), left side, for a transposed convolution: w * r with r = eps sign(dL/dx)."""
    r = eps * torch.sign(transposed_convolution_input_gradient(g, w, at, size))
    return transposed_convolution_change(w, r, at)


def transposed_convolution_closed_radius(
    w: TransposedKernel, at: Geometry, size: Sequence[int], initial: Float[Tensor, "in *size"] | None = None
) -> Float[Tensor, " out *moved"]:
    """Eq. (8), right side, for a transposed convolution, in the reading whose shapes fit: |w| * 1, the boundary
    included.

    How far each output can move when every input of `size` moves by at most 1, or by at most its entry of `initial`.
    """
    if initial is None:
        initial = torch.ones(w.shape[0], *size, dtype=w.dtype, device=w.device)
    return transposed_convolution(w.abs(), initial[None], at)[0]


def transposed_convolution_closed(
    g: Float[Tensor, "#n out *moved"], w: TransposedKernel, eps: Epsilon, at: Geometry, size: Sequence[int]
) -> Float[Tensor, "n out *moved"]:
    """Eq. (8), right side, for a transposed convolution: eps (|w| * 1) ⊙ sign(dL/dy), in the same reading."""
    return eps * transposed_convolution_closed_radius(w, at, size) * torch.sign(g)


def convolution_stack_change(layers: Sequence[Convolution], r: Tensor) -> Tensor:
    """Eq. (9), the text before it: w_n * ... * w_1 * r, (n, in, *size) to (n, filters, *moved), w_1 first."""
    for w, at in layers:
        r = convolution_change(w, r, at)
    return r


def convolution_closed_stack_radius(layers: Sequence[Convolution], size: Sequence[int]) -> Tensor:
    """Eq. (9), in the reading whose shapes fit: |w_n| * ... * |w_1| * 1 for inputs of `size`, (filters, *moved)."""
    radius: Tensor | None = None
    for w, at in layers:
        radius = convolution_closed_radius(w, at, size, radius)
    if radius is None:
        raise ValueError("layers: none given; give at least one layer")
    return radius


def convolution_closed_stack(g: Tensor, layers: Sequence[Convolution], eps: Epsilon, size: Sequence[int]) -> Tensor:
    """Eq. (9), in the reading whose shapes fit: eps (|w_n| * ... * |w_1| * 1) ⊙ sign(dL/dy_n), with g (n, filters,
    *moved) the gradient at the last layer's output.
    """
    return eps * convolution_closed_stack_radius(layers, size) * torch.sign(g)


def convolution_propagated_stack(
    g_first: Tensor, layers: Sequence[Convolution], eps: Epsilon, size: Sequence[int]
) -> Tensor:
    """Eq. (9), first line: w_n * ... * w_1 * eps sign(dL/dx), where `g_first` (n, filters, *moved) is dL/dy_1."""
    w, at = layers[0]
    return convolution_stack_change(layers, eps * torch.sign(convolution_input_gradient(g_first, w, at, size)))


def relu_output(
    w_1: Float[Tensor, "hidden in"],
    b_1: Float[Tensor, " hidden"],
    w_2: Float[Tensor, "out hidden"],
    b_2: Float[Tensor, " out"],
    x: Float[Tensor, "n in"],
    r: Float[Tensor, "n in"],
) -> Float[Tensor, "n out"]:
    """Eq. (10). The next layer's output after a ReLU for the input x + r; r = 0 gives y itself."""
    return relu(x @ w_1.T + r @ w_1.T + b_1) @ w_2.T + b_2


def relu_moved_outside(w_2: Weight, z: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
    """Eq. (11), first line: w_2 ReLU(z), with z the output before the activation."""
    return relu(z) @ w_2.T


def relu_moved_inside(w_2: Float[Tensor, "1 in"], z: Float[Tensor, "n in"]) -> Float[Tensor, "n in"]:
    """Eq. (11), last line, in the one reading whose shapes fit: sign(w_2) ReLU(|w_2| z), element by element.

    For one output unit (w_2 a row) its sum over the elements is w_2 ReLU(z); ReLU of the *summed* |w_2| z is not.
    """
    return torch.sign(w_2) * relu(w_2.abs() * z)


def scalar_difference(w_1: Tensor, b_1: Tensor, w_2: Tensor, x: Tensor, r: Tensor) -> Tensor:
    """Eq. (12) for scalars: sign(w_2) [ReLU(|w_2| w_1 x + |w_2| b_1 + |w_2| w_1 r) - ReLU(|w_2| w_1 x + |w_2| b_1)].

    All arguments broadcast against each other, and everything is element-wise.
    """
    scale = w_2.abs()
    original = relu(scale * w_1 * x + scale * b_1)
    perturbed = relu(scale * w_1 * x + scale * b_1 + scale * w_1 * r)
    return torch.sign(w_2) * (perturbed - original)


def scalar_difference_by_cases(w_1: Tensor, b_1: Tensor, w_2: Tensor, x: Tensor, r: Tensor) -> Tensor:
    """Eq. (13), as printed, for scalars: |w_2||w_1||r| with three signs where x > -b_1/w_1 + |r|, 0 where x <
    -b_1/w_1 - |r|.

    NaN in the band between the two cases, of which the equation says nothing.
    """
    crossing = -b_1 / w_1
    signs = torch.sign(w_2) * torch.sign(w_1) * torch.sign(r)
    moved = signs * w_2.abs() * w_1.abs() * r.abs()
    above = x > crossing + r.abs()
    below = x < crossing - r.abs()
    unsaid = torch.full_like(moved + x, torch.nan)
    return torch.where(above, moved + 0 * x, torch.where(below, torch.zeros_like(unsaid), unsaid))


def masked_difference(w_1: Tensor, b_1: Tensor, w_2: Tensor, x: Tensor, r: Tensor) -> Tensor:
    """Eq. (14), last line, for scalars: ReLU(sign(w_1 x + b_1)) w_2 w_1 r."""
    return relu(torch.sign(w_1 * x + b_1)) * w_2 * w_1 * r

"""Eqs. (8) and (9), and the hand-over to eq. (7), against the matrices that convolutions are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from plain_network import dense, moved
from test_equations_fc import SEEDS, SIZES, close, draw
from torch import Tensor
from torch.nn.functional import relu

from lat import equations
from lat.equations import Geometry

EPS = st.floats(-1, 1)
DRAWS = st.sampled_from(["number", "sample", "element"])


@dataclass(frozen=True)
class Shape:
    """A convolution without its values: how it moves, its kernel, its channels and filters, its inputs' size."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    kernel: tuple[int, ...]
    channels: int
    filters: int
    size: tuple[int, ...]

    @property
    def at(self) -> Geometry:
        return Geometry(self.stride, self.padding, self.dilation, self.groups)

    @property
    def weight(self) -> tuple[int, ...]:
        return (self.filters, self.channels // self.groups, *self.kernel)

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.channels, *self.size)

    @property
    def outputs(self) -> tuple[int, ...]:
        return (self.filters, *moved(self.kernel, self.stride, self.padding, self.dilation, self.size))


@st.composite
def shapes(choose: st.DrawFn, axes: int | None = None, *, after: Shape | None = None, disjoint: bool = False) -> Shape:
    """Any small convolution; one that takes the outputs of `after`; one whose windows are `disjoint`, of one filter a
    group.
    """
    axes = (len(after.size) if after else choose(st.integers(1, 3))) if axes is None else axes
    groups = choose(st.sampled_from([g for g in (1, 2) if after is None or after.filters % g == 0]))
    channels = after.filters if after else groups * choose(st.integers(1, 2))
    most = 3 if axes < 3 else 2
    kernel, stride, padding, dilation, size = [], [], [], [], []
    for axis in range(axes):  # no Geometry in here: its checks draw random numbers, which hypothesis forbids
        k, d, p = choose(st.integers(1, most)), choose(st.integers(1, 2)), choose(st.integers(0, 2))
        given_size = after.outputs[1 + axis] if after else None
        if given_size is not None and given_size + 2 * p < d * (k - 1) + 1:
            k = 1
        span = d * (k - 1) + 1
        kernel.append(k)
        dilation.append(d)
        padding.append(p)
        stride.append(choose(st.integers(span, span + 1) if disjoint else st.integers(1, 3)))
        size.append(given_size or max(1, span - 2 * p) + choose(st.integers(0, most)))
    filters = groups if disjoint else groups * choose(st.integers(1, 2))
    found = (tuple(numbers) for numbers in (stride, padding, dilation))
    return Shape(*found, groups, tuple(kernel), channels, filters, tuple(size))


@st.composite
def stacks(choose: st.DrawFn) -> list[Shape]:
    """One to three convolutions, each on the outputs of the one before."""
    found = [choose(shapes(choose(st.integers(1, 2))))]
    for _ in range(choose(st.integers(0, 2))):
        found.append(choose(shapes(after=found[-1])))
    return found


# Strides that leave inputs past the last window: by one and by two on the two axes, and by one in three dimensions.
LEFT_OVER = Shape((2, 3), (0, 1), (1, 2), 2, (2, 2), 2, 4, (5, 6))
LEFT_OVER_3D = Shape((2, 2, 2), (0, 0, 0), (1, 1, 1), 1, (2, 2, 2), 1, 2, (3, 2, 5))
PADDING_ONLY = Shape((3,), (2,), (1,), 1, (2,), 1, 1, (1,))  # windows that see padding alone


def matrices(layers: Sequence[Shape], weights: Sequence[Tensor]) -> list[Tensor]:
    return [dense(w, shape.at, shape.size) for shape, w in zip(layers, weights, strict=True)]


def epsilon(kind: str, seed: int, n: int, outputs: tuple[int, ...]) -> tuple[float | Tensor, Tensor]:
    """Epsilon of one draw a batch, a sample or an element, as the functions take it and written out (n, *outputs)."""
    if kind == "number":
        return 0.3, torch.full((n, *outputs), 0.3, dtype=torch.float64)
    (eps,) = draw(seed + 1, (n, *outputs) if kind == "element" else (n, *[1] * len(outputs)))
    return eps, eps.expand(n, *outputs)


# Eq. (8) -----------------------------------------------------------------------------------------------------------


@given(SEEDS, SIZES, shapes())
@example(2, 2, LEFT_OVER)
@example(2, 1, PADDING_ONLY)
def test_eq_8_the_output_for_x_plus_r_is_the_output_for_x_plus_w_r(seed: int, n: int, shape: Shape) -> None:
    w, b, x, r = draw(seed, shape.weight, (shape.filters,), (n, *shape.inputs), (n, *shape.inputs))
    D = dense(w, shape.at, shape.size)
    change = (r.flatten(1) @ D.T).view(n, *shape.outputs)
    y = (x.flatten(1) @ D.T).view(n, *shape.outputs) + torch.stack(
        [torch.full(shape.outputs[1:], bias.item(), dtype=torch.float64) for bias in b]
    )
    assert close(equations.convolution_change(w, r, shape.at), change)
    assert close(equations.convolution_output(w, b, x, 0 * r, shape.at), y)
    assert close(equations.convolution_output(w, b, x, r, shape.at), y + change)


@given(SEEDS, SIZES, shapes())
@example(2, 2, LEFT_OVER)
@example(2, 2, LEFT_OVER_3D)
@example(2, 1, PADDING_ONLY)
def test_the_input_gradient_is_the_adjoint_and_autograds(seed: int, n: int, shape: Shape) -> None:
    w, g, x = draw(seed, shape.weight, (n, *shape.outputs), (n, *shape.inputs))
    found = equations.convolution_input_gradient(g, w, shape.at, shape.size)
    D = dense(w, shape.at, shape.size)
    assert close(found, (g.flatten(1) @ D).view(n, *shape.inputs))
    x = x.requires_grad_()
    y = equations.convolution(w, x, shape.at)
    (expected,) = torch.autograd.grad((g * y).sum(), x)
    assert close(found, expected)
    assert torch.allclose((g * y).sum(), (found * x).sum(), rtol=1e-10, atol=1e-10)


def test_inputs_past_the_last_window_have_no_gradient() -> None:
    w, g = draw(2, LEFT_OVER.weight, (1, *LEFT_OVER.outputs))
    found = equations.convolution_input_gradient(g, w, LEFT_OVER.at, LEFT_OVER.size)
    assert bool((found[0, :, 4, :] == 0).all())
    assert bool((found[0, :, :4, 2] != 0).all())


@pytest.mark.parametrize("size", [(3, 6), (6, 6), (5, 3), (5, 7)])
def test_inputs_of_a_size_that_does_not_give_those_outputs_are_refused(size: tuple[int, int]) -> None:
    w, g = draw(2, LEFT_OVER.weight, (1, *LEFT_OVER.outputs))
    with pytest.raises(
        ValueError, match=r"size: inputs of \(\d, \d\) do not give outputs of \(2, 2\); give their size"
    ):
        equations.convolution_input_gradient(g, w, LEFT_OVER.at, size)


@given(SEEDS, shapes())
@example(2, LEFT_OVER)
@example(2, PADDING_ONLY)
def test_the_closed_radius_is_the_row_sums_of_the_absolute_matrix_at_the_boundary_too(seed: int, shape: Shape) -> None:
    w, initial = draw(seed, shape.weight, shape.inputs)
    D = dense(w, shape.at, shape.size).abs()
    found = equations.convolution_closed_radius(w, shape.at, shape.size)
    assert close(found, D.sum(1).view(shape.outputs))
    passed_on = equations.convolution_closed_radius(w, shape.at, shape.size, initial.abs())
    assert close(passed_on, (D @ initial.abs().flatten()).view(shape.outputs))


def test_the_radius_is_smaller_at_a_padded_boundary() -> None:
    w = torch.tensor([[[1.0, -2.0, 4.0]]])
    found = equations.convolution_closed_radius(w, Geometry((1,), (1,), (1,)), (4,))
    assert found.tolist() == [[6.0, 7.0, 7.0, 3.0]]


@given(SEEDS, SIZES, shapes(), DRAWS)
def test_closed_is_eps_times_the_radius_times_the_sign_of_g(seed: int, n: int, shape: Shape, kind: str) -> None:
    w, g = draw(seed, shape.weight, (n, *shape.outputs))
    eps, full = epsilon(kind, seed, n, shape.outputs)
    sign = (g > 0).double() - (g < 0).double()
    expected = full * dense(w, shape.at, shape.size).abs().sum(1).view(shape.outputs) * sign
    assert close(equations.convolution_closed(g, w, eps, shape.at, shape.size), expected)


@given(SEEDS, SIZES, shapes(), EPS)
@example(2, 2, LEFT_OVER, 0.5)
def test_propagated_is_what_fgsm_at_the_layers_input_does_to_its_output(
    seed: int, n: int, shape: Shape, eps: float
) -> None:
    w, g = draw(seed, shape.weight, (n, *shape.outputs))
    D = dense(w, shape.at, shape.size)
    slope = g.flatten(1) @ D
    r = eps * torch.where(slope.abs() < 1e-12, 0.0, slope.sign())
    expected = (r @ D.T).view(n, *shape.outputs)
    assert close(equations.convolution_propagated(g, w, eps, shape.at, shape.size), expected)


def test_eq_8_fails_for_one_channel_and_a_constant_gradient() -> None:
    w, g, at = torch.tensor([[[1.0, -2.0]]]), torch.ones(1, 1, 2), Geometry((1,), (0,), (1,))
    assert equations.convolution_propagated(g, w, 1.0, at, (3,)).tolist() == [[[3.0, 1.0]]]
    assert equations.convolution_closed(g, w, 1.0, at, (3,)).tolist() == [[[3.0, 3.0]]]


@given(SEEDS, SIZES, shapes(disjoint=True), EPS)
def test_eq_8_holds_where_windows_are_disjoint_and_a_group_has_one_filter(
    seed: int, n: int, shape: Shape, eps: float
) -> None:
    w, g = draw(seed, shape.weight, (n, *shape.outputs))
    left = equations.convolution_propagated(g, w, eps, shape.at, shape.size)
    assert close(left, equations.convolution_closed(g, w, eps, shape.at, shape.size))


def test_eq_8_fails_for_two_filters_also_where_windows_are_disjoint() -> None:
    w, g, at = torch.ones(2, 1, 1), torch.tensor([[[2.0], [-1.0]]]), Geometry((1,), (0,), (1,))
    assert equations.convolution_propagated(g, w, 1.0, at, (1,)).flatten().tolist() == [1.0, 1.0]
    assert equations.convolution_closed(g, w, 1.0, at, (1,)).flatten().tolist() == [1.0, -1.0]


@given(SEEDS, SIZES, shapes(), st.floats(0, 1))
def test_no_output_moves_further_than_the_radius_and_each_reaches_it(
    seed: int, n: int, shape: Shape, eps: float
) -> None:
    w, r = draw(seed, shape.weight, (n, *shape.inputs))
    radius = equations.convolution_closed_radius(w, shape.at, shape.size)
    change = equations.convolution_change(w, eps * r.clamp(-1, 1), shape.at)
    assert bool((change.abs() <= eps * radius + 1e-12).all())
    worst = dense(w, shape.at, shape.size).sign().view(-1, *shape.inputs)  # row k is the worst case of output k
    assert close(equations.convolution_change(w, worst, shape.at).flatten(1).diagonal(), radius.flatten())


# Eq. (9) -----------------------------------------------------------------------------------------------------------


@given(SEEDS, SIZES, stacks(), EPS)
def test_a_stack_is_the_product_of_its_matrices_and_its_radius_that_of_the_absolute_ones(
    seed: int, n: int, stack: list[Shape], eps: float
) -> None:
    first, last = stack[0], stack[-1]
    *weights, r, g = draw(seed, *[s.weight for s in stack], (n, *first.inputs), (n, *last.outputs))
    layers = [(w, shape.at) for w, shape in zip(weights, stack, strict=True)]
    change, radius = r.flatten(1), torch.ones(r[0].numel(), dtype=torch.float64)
    for D in matrices(stack, weights):
        change, radius = change @ D.T, D.abs() @ radius
    radius = radius.view(last.outputs)
    found = equations.convolution_stack_change(layers, r)
    assert found.shape == (n, *last.outputs)
    assert torch.allclose(found.flatten(1), change, rtol=1e-10, atol=1e-10)
    assert torch.allclose(equations.convolution_closed_stack_radius(layers, first.size), radius, rtol=1e-10)
    closed = equations.convolution_closed_stack(g, layers, eps, first.size)
    assert torch.allclose(closed, eps * radius * g.sign(), rtol=1e-10, atol=1e-12)


@given(SEEDS, SIZES, stacks(), EPS)
def test_propagated_stack_pushes_the_input_step_through_all_kernels(
    seed: int, n: int, stack: list[Shape], eps: float
) -> None:
    *weights, g = draw(2 * (seed // 2) + 1, *[s.weight for s in stack], (n, *stack[0].outputs))  # whole numbers
    layers = [(w, shape.at) for w, shape in zip(weights, stack, strict=True)]
    found = matrices(stack, weights)
    expected = torch.sign(g.flatten(1) @ found[0])
    for D in found:
        expected = expected @ D.T
    pushed = equations.convolution_propagated_stack(g, layers, eps, stack[0].size)
    assert torch.allclose(pushed.flatten(1), eps * expected, rtol=1e-10, atol=1e-10)


@given(SEEDS, SIZES, shapes(), EPS)
def test_a_stack_of_one_convolution_is_that_convolution(seed: int, n: int, shape: Shape, eps: float) -> None:
    w, g = draw(seed, shape.weight, (n, *shape.outputs))
    stack, at, size = [(w, shape.at)], shape.at, shape.size
    assert torch.equal(
        equations.convolution_closed_stack(g, stack, eps, size), equations.convolution_closed(g, w, eps, at, size)
    )
    assert torch.equal(
        equations.convolution_propagated_stack(g, stack, eps, size),
        equations.convolution_propagated(g, w, eps, at, size),
    )


def test_eq_9_fails_in_general() -> None:
    at = Geometry((1,), (0,), (1,))
    layers = [(torch.ones(2, 1, 1), at), (torch.tensor([[[1.0], [-2.0]]]), at)]
    assert equations.convolution_stack_change(layers, torch.ones(1, 1, 1)).item() == -1
    assert equations.convolution_closed_stack_radius(layers, (1,)).item() == 3


@given(SEEDS, SIZES, stacks(), st.floats(0, 1), st.booleans())
def test_no_output_of_a_stack_moves_further_than_its_radius_with_or_without_relu(
    seed: int, n: int, stack: list[Shape], eps: float, through_relu: bool
) -> None:
    *weights, x, r = draw(seed, *[s.weight for s in stack], *[(n, *stack[0].inputs)] * 2)
    layers = [(w, shape.at) for w, shape in zip(weights, stack, strict=True)]
    found = matrices(stack, weights)

    def forward(h: Tensor) -> Tensor:
        h = h.flatten(1)
        for D in found:
            h = h @ D.T
            h = relu(h) if through_relu else h
        return h

    change = (forward(x + eps * r.clamp(-1, 1)) - forward(x)).abs()
    radius = equations.convolution_closed_stack_radius(layers, stack[0].size).flatten()
    assert bool((change <= eps * radius + 1e-9).all())


def test_a_stack_of_no_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="layers: none given; give at least one layer"):
        equations.convolution_closed_stack_radius([], (3,))


@given(SEEDS, stacks())
def test_the_radius_of_the_last_convolution_is_the_initial_value_of_the_fully_connected_layers(
    seed: int, stack: list[Shape]
) -> None:
    inside = torch.Size(stack[-1].outputs).numel()
    *weights, v_1, v_2 = draw(seed, *[s.weight for s in stack], (3, inside), (2, 3))
    layers = [(w, shape.at) for w, shape in zip(weights, stack, strict=True)]
    initial = equations.convolution_closed_stack_radius(layers, stack[0].size).flatten()
    expected = torch.ones(torch.Size(stack[0].inputs).numel(), dtype=torch.float64)
    for matrix in [*matrices(stack, weights), v_1, v_2]:
        expected = matrix.abs() @ expected
    assert torch.allclose(equations.closed_stack_radius([v_1, v_2], initial), expected, rtol=1e-10)
    without = equations.closed_stack_radius([v_1, v_2], torch.ones(inside, dtype=torch.float64))
    assert torch.allclose(without, equations.closed_stack_radius([v_1, v_2]), rtol=1e-12)


# Geometry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        (((1, 1), (0,), (1, 1)), r"stride, padding, dilation: \(1, 1\), \(0,\), \(1, 1\); give each one number"),
        (((1,), (0,), (1, 1)), "give each one number a spatial axis"),
        (((), (), ()), "of which there are one to three"),
        (((1,) * 4, (0,) * 4, (1,) * 4), "of which there are one to three"),
        (((0,), (0,), (1,)), "padding starts at 0, the others at 1"),
        (((1,), (-1,), (1,)), "padding starts at 0, the others at 1"),
        (((1,), (0,), (0,)), "padding starts at 0, the others at 1"),
        (((1,), (0,), (1,), 0), r"groups: \(1,\), \(0,\), \(1,\), 0; padding starts at 0, the others at 1"),
    ],
)
def test_a_geometry_of_unequal_axes_or_numbers_out_of_range_is_refused(numbers: tuple, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Geometry(*numbers)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_geometry_counts_its_axes(axes: int) -> None:
    assert Geometry((1,) * axes, (0,) * axes, (1,) * axes).axes == axes

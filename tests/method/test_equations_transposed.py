"""Eq. (8) for transposed convolutions, and bounds through them, against the matrices that they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from plain_network import dense, lengthened, transposed_dense
from test_equations_conv import Shape, epsilon
from test_equations_fc import SEEDS, SIZES, close, draw
from torch import Tensor, nn

from lat import LayerwiseAdversary, PerturbationError, bounds, equations
from lat.equations import Geometry


def geometry(shape: Shape, more: tuple[int, ...]) -> Geometry:
    return Geometry(shape.stride, shape.padding, shape.dilation, shape.groups, more)


@st.composite
def transposed(choose: st.DrawFn) -> tuple[Shape, tuple[int, ...]]:
    """Any small transposed convolution that has outputs, and its output padding."""
    axes, groups = choose(st.integers(1, 3)), choose(st.integers(1, 2))
    numbers: dict[str, list[int]] = {key: [] for key in ("stride", "padding", "dilation", "kernel", "size", "more")}
    for _ in range(axes):
        s, d, k, whole = (choose(st.integers(1, high)) for high in (3, 2, 3 if axes < 3 else 2, 3 if axes < 3 else 2))
        more = choose(st.integers(0, max(s, d) - 1))
        least = s * (whole - 1) + d * (k - 1) + more  # one less than the size without padding
        for key, number in zip(
            numbers, (s, choose(st.integers(0, min(2, least // 2))), d, k, whole, more), strict=True
        ):
            numbers[key].append(number)
    found = {key: tuple(value) for key, value in numbers.items()}
    channels, filters = (groups * choose(st.integers(1, 2)) for _ in range(2))
    shape = Shape(
        found["stride"], found["padding"], found["dilation"], groups, found["kernel"], channels, filters, found["size"]
    )
    return shape, found["more"]


def sizes(shape: Shape, more: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the weight and of the outputs."""
    outputs = lengthened(shape.kernel, geometry(shape, more), shape.size)
    return (shape.channels, shape.filters // shape.groups, *shape.kernel), (shape.filters, *outputs)


# More output than the stride leaves over, grouped; padding that cuts off all but the middle.
LONGER = (Shape((1, 2), (0, 1), (3, 1), 2, (2, 3), 4, 2, (2, 3)), (2, 1))
CUT = (Shape((3,), (2,), (1,), 1, (3,), 2, 1, (2,)), (0,))


@given(SEEDS, SIZES, transposed())
@example(1, 2, LONGER)
@example(2, 1, CUT)
def test_eq_8_a_transposed_convolution_is_its_matrix_in_all_that_r_needs(
    seed: int, n: int, case: tuple[Shape, tuple[int, ...]]
) -> None:
    shape, more = case
    at = geometry(shape, more)
    weight, outputs = sizes(shape, more)
    w, r, g, initial = draw(seed, weight, (n, *shape.inputs), (n, *outputs), shape.inputs)
    D = transposed_dense(w, at, shape.size)
    assert close(equations.transposed_convolution(w, r, at), (r.flatten(1) @ D.T).view(n, *outputs))
    assert close(equations.transposed_convolution_change(w, r, at), (r.flatten(1) @ D.T).view(n, *outputs))
    found = equations.transposed_convolution_input_gradient(g, w, at, shape.size)
    assert close(found, (g.flatten(1) @ D).view(n, *shape.inputs))
    radius = equations.transposed_convolution_closed_radius(w, at, shape.size)
    assert close(radius, D.abs().sum(1).view(outputs))
    radius = equations.transposed_convolution_closed_radius(w, at, shape.size, initial.abs())
    assert close(radius, (D.abs() @ initial.abs().flatten()).view(outputs))


@given(SEEDS, SIZES, transposed(), st.sampled_from(["number", "sample", "element"]))
@example(1, 2, LONGER, "sample")
def test_eq_8_both_sides_for_a_transposed_convolution(
    seed: int, n: int, case: tuple[Shape, tuple[int, ...]], kind: str
) -> None:
    shape, more = case
    at = geometry(shape, more)
    weight, outputs = sizes(shape, more)
    w, g = draw(seed, weight, (n, *outputs))
    D = transposed_dense(w, at, shape.size)
    eps, each = epsilon(kind, seed, n, outputs)
    expected = each.flatten(1) * D.abs().sum(1) * torch.sign(g.flatten(1))
    found = equations.transposed_convolution_closed(g, w, eps, at, shape.size)
    assert close(found, expected.view(n, *outputs))
    eps, each = epsilon(kind, seed, n, shape.inputs)
    slope = equations.transposed_convolution_input_gradient(g, w, at, shape.size)
    expected = (each * torch.sign(slope)).flatten(1) @ D.T
    found = equations.transposed_convolution_propagated(g, w, eps, at, shape.size)
    assert close(found, expected.view(n, *outputs))


@given(SEEDS, transposed())
@example(1, LONGER)
def test_a_transposed_convolution_is_the_transpose_of_the_convolution_over_its_outputs(
    seed: int, case: tuple[Shape, tuple[int, ...]]
) -> None:
    """But for the windows that the output padding has made room for beyond the stride."""
    shape, more = case
    at = geometry(shape, more)
    weight, outputs = sizes(shape, more)
    (w,) = draw(seed, weight)
    forward = dense(w, Geometry(at.stride, at.padding, at.dilation, at.groups), outputs[1:])
    windows = [(o + 2 * p - d * (k - 1) - 1) // s + 1 for o, p, d, k, s in zip(
        outputs[1:], at.padding, at.dilation, shape.kernel, at.stride, strict=True
    )]  # fmt: skip
    kept = torch.arange(len(forward)).view(shape.channels, *windows)[(slice(None), *(slice(s) for s in shape.size))]
    assert close(transposed_dense(w, at, shape.size), forward[kept.flatten()].T)


def test_outputs_that_inputs_of_the_size_do_not_have_are_refused() -> None:
    at = Geometry((2,), (0,), (1,), 1, (1,))
    w = torch.ones(1, 1, 2)
    assert equations.transposed_convolution_input_gradient(torch.ones(1, 1, 7), w, at, (3,)).shape == (1, 1, 3)
    for wrong in (6, 8):
        with pytest.raises(ValueError, match=rf"size: inputs of \(3,\) give outputs of \(7,\), not \({wrong},\); give"):
            equations.transposed_convolution_input_gradient(torch.ones(1, 1, wrong), w, at, (3,))


@pytest.mark.parametrize(
    ("stride", "dilation", "more"),
    [((2,), (1,), (2,)), ((1,), (1,), (1,)), ((2,), (1,), (-1,)), ((2,), (1,), (1, 1)), ((2, 2), (1, 1), (1,))],
)
def test_an_output_padding_that_torch_does_not_take_is_refused(
    stride: tuple[int, ...], dilation: tuple[int, ...], more: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"^output_padding: \(.*give one number a spatial axis, at least 0 and below"):
        Geometry(stride, (0,) * len(stride), dilation, 1, more)
    assert Geometry((2,), (0,), (1,), 1, (1,)).output_padding == (1,)
    assert Geometry((1,), (0,), (3,), 1, (2,)).output_padding == (2,)
    assert Geometry((1,), (0,), (3,)).output_padding == ()


def test_an_output_size_given_in_the_call_is_an_error_that_says_what_does_not_fit() -> None:
    model = nn.ConvTranspose1d(1, 1, 2, stride=2)
    root = nn.ModuleDict({"up": model})
    adversary = LayerwiseAdversary(root, ["up"], 0.1)
    with adversary:
        y = model(torch.rand(2, 1, 3), output_size=[7])
    y.sum().backward()
    with pytest.raises(PerturbationError, match=r"'up' has shape \(2, 1, 7\), .* \(1, 6\); .* output_padding"):
        adversary.update()


# Bounds ---------------------------------------------------------------------------------------------------------------


def upwards(axes: int, positive: bool) -> nn.Module:
    up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(axes)
        model = nn.Sequential(
            up(2, 4, 2, stride=2, padding=1, output_padding=1, groups=2), nn.ReLU(), up(4, 1, 2, bias=False, dilation=2)
        ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.abs() + 0.1 if positive else 3 * p)
    return model.eval()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_bounds_through_transposed_convolutions_hold_and_are_attained_without_negative_weights(axes: int) -> None:
    size, eps = (2, *[3] * axes), 0.2
    (x,) = draw(axes, (5, *size))
    for positive in (False, True):
        model = upwards(axes, positive)
        z = x.abs() if positive else x
        radius = bounds.radii(model, size, eps)
        low, high = bounds.intervals(model, z - eps, z + eps)[bounds.OUTPUT]
        (moves,) = draw(9, (40, *z.shape))
        changed = [model(z + eps * move.clamp(-1, 1)) for move in (*moves, torch.ones_like(z), -torch.ones_like(z))]
        for y in changed:
            assert bool(((y - model(z)).abs() <= radius[bounds.OUTPUT] + 1e-12).all())
            assert bool(((low - 1e-12 <= y) & (y <= high + 1e-12)).all())
        if positive:
            assert torch.allclose(changed[-2] - model(z), radius[bounds.OUTPUT].expand_as(low), rtol=1e-9)
            assert torch.allclose(changed[-2], high, rtol=1e-9) and torch.allclose(changed[-1].relu(), low.relu())


def matrix_radius(model: nn.Sequential, size: tuple[int, ...]) -> Tensor:
    radius = torch.ones(2 * 3, dtype=torch.float64)
    for module in (model[0], model[2]):
        D = transposed_dense(module.weight.detach(), Geometry.of(module), size)
        radius = D.abs() @ radius
        size = lengthened(module.kernel_size, Geometry.of(module), size)
    return radius


def test_radii_through_transposed_convolutions_are_those_of_their_matrices() -> None:
    model = upwards(1, positive=False)
    assert torch.allclose(bounds.radii(model, (2, 3))[bounds.OUTPUT].flatten(), matrix_radius(model, (3,)), rtol=1e-12)

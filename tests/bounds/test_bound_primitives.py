"""Each primitive against all corners of small boxes: no bound is broken, and every unit attains its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from lat import bounds, equations
from lat.bounds import primitives

SEEDS = st.integers(0, 2**32 - 1)
Function = Callable[[Tensor], Tensor]


def whole(seed: int, *shapes: tuple[int, ...], least: int = -3) -> list[Tensor]:
    """One tensor of small whole numbers a shape, in float64, where sums of their products and halves are exact."""
    draws = torch.Generator().manual_seed(seed)
    return [torch.randint(least, 4, shape, generator=draws).double() for shape in shapes]


def corners(low: Tensor, high: Tensor) -> list[Tensor]:
    """All corners of the box low <= x <= high."""
    ends = list(zip(low.flatten().tolist(), high.flatten().tolist(), strict=True))
    return [torch.tensor(corner, dtype=low.dtype).view(low.shape) for corner in product(*ends)]


def inside(low: Tensor, high: Tensor, seed: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [low + (high - low) * torch.rand(low.shape, generator=draws, dtype=low.dtype) for _ in range(20)]


def assert_exact_interval(f: Function, low: Tensor, high: Tensor, found: tuple[Tensor, Tensor], seed: int) -> None:
    """The least and largest value of each unit over the corners are its interval, and no point inside leaves it."""
    values = torch.stack([f(x) for x in corners(low, high)])
    torch.testing.assert_close(found[0], values.amin(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], values.amax(0), rtol=1e-12, atol=1e-12)
    for x in inside(low, high, seed):
        assert bool(((f(x) >= found[0] - 1e-12) & (f(x) <= found[1] + 1e-12)).all())


def assert_exact_radius(f: Function, radius: Tensor, found: Tensor, centres: list[Tensor]) -> None:
    """Over all corners around all centres no unit moves further than `found`, and each moves as far from one."""
    moves = torch.stack([(f(x + r) - f(x)).abs() for x in centres for r in corners(-radius, radius)])
    torch.testing.assert_close(found, moves.amax(0), rtol=1e-12, atol=1e-12)


@given(SEEDS, st.integers(1, 4), st.integers(1, 3))
def test_linear_bounds_are_the_corners_of_the_box(seed: int, inputs: int, outs: int) -> None:
    w, b, low, x = whole(seed, (outs, inputs), (outs,), (1, inputs), (1, inputs))
    (width,) = whole(seed + 1, (1, inputs), least=0)

    def f(h: Tensor) -> Tensor:
        return torch.stack([sum(w[i, j] * h[0, j] for j in range(inputs)) + b[i] for i in range(outs)])[None]

    high = low + width
    assert_exact_interval(f, low, high, primitives.linear_interval(w, b, low, high), seed)
    without = primitives.linear_interval(w, None, low, high)
    assert_exact_interval(lambda h: f(h) - b, low, high, without, seed)
    assert_exact_radius(f, width, primitives.linear_radius(w, width), [x])


@given(SEEDS, st.integers(1, 2), st.integers(0, 1), st.integers(1, 2), st.sampled_from([1, 2]))
@example(0, 1, 1, 2, 2)
def test_convolution_bounds_are_the_corners_of_the_box(
    seed: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    size = 4
    w, b, low, x = whole(seed, (2, 2 // groups, 2), (2,), (1, 2, size), (1, 2, size))
    (width,) = whole(seed + 1, (1, 2, size), least=0)
    at = equations.Geometry((stride,), (padding,), (dilation,), groups)
    moved = (size + 2 * padding - dilation - 1) // stride + 1

    def f(h: Tensor) -> Tensor:
        out = torch.zeros(1, 2, moved, dtype=h.dtype)
        for o, p, k, c in product(range(2), range(moved), range(2), range(2 // groups)):
            place = p * stride + k * dilation - padding
            if 0 <= place < size:
                out[0, o, p] += w[o, c, k] * h[0, c if groups == 1 else o, place]
        return out + b.view(1, 2, 1)

    high = low + width
    assert_exact_interval(f, low, high, primitives.convolution_interval(w, b, at, low, high), seed)
    assert_exact_radius(f, width, primitives.convolution_radius(w, at, width), [x])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_convolution_carries_each_row_as_the_closed_radius_carries_its_initial_value(axes: int) -> None:
    (w,) = whole(axes, (4, 3, *[2] * axes))
    (radius,) = whole(axes, (2, 6, *range(4, 4 + axes)), least=0)
    at = equations.Geometry((2,) * axes, (1,) * axes, (1,) * axes, 2)
    found = primitives.convolution_radius(w, at, radius)
    for row, one in zip(radius, found, strict=True):
        assert torch.equal(one, equations.convolution_closed_radius(w, at, row.shape[1:], row))


@given(SEEDS)
def test_relu_bounds_are_the_corners_of_the_box_and_its_radius_is_attained(seed: int) -> None:
    (low,) = whole(seed, (1, 4))
    (width,) = whole(seed + 1, (1, 4), least=0)
    high = low + width
    assert_exact_interval(lambda x: x.clamp(min=0), low, high, primitives.relu_interval(low, high), seed)
    assert_exact_radius(lambda x: x.clamp(min=0), width, primitives.relu_radius(width), [low, width])


@given(SEEDS, st.integers(1, 4))
def test_maximum_bounds_are_the_corners_of_the_box_and_its_radius_is_attained(seed: int, window: int) -> None:
    (low,) = whole(seed, (window, 2))
    (width,) = whole(seed + 1, (window, 2), least=0)
    high = low + width

    def f(x: Tensor) -> Tensor:
        return torch.tensor([max(x[:, k].tolist()) for k in range(2)], dtype=x.dtype)

    assert_exact_interval(f, low, high, primitives.max_interval(low, high), seed)
    assert_exact_radius(f, width, primitives.max_radius(width), [low, torch.zeros_like(low)])


@given(SEEDS, st.integers(1, 4))
def test_mean_bounds_are_the_corners_of_the_box(seed: int, window: int) -> None:
    low, x = whole(seed, (window, 2), (window, 2))
    (width,) = whole(seed + 1, (window, 2), least=0)
    high = low + width

    def f(h: Tensor) -> Tensor:
        return torch.stack([sum(h[k, i] for k in range(window)) / window for i in range(2)])

    assert_exact_interval(f, low, high, primitives.mean_interval(low, high), seed)
    assert_exact_radius(f, width, primitives.mean_radius(width), [x])


@given(SEEDS)
def test_sum_bounds_are_the_corners_of_the_box(seed: int) -> None:
    (low,) = whole(seed, (2, 3))
    (width,) = whole(seed + 1, (2, 3), least=0)
    high = low + width
    found = primitives.sum_interval(low[:1], high[:1], low[1:], high[1:])
    assert_exact_interval(lambda x: x[:1] + x[1:], low, high, found, seed)
    assert_exact_radius(lambda x: x[:1] + x[1:], width, primitives.sum_radius(width[:1], width[1:]), [low])


@given(SEEDS)
@example(3)
def test_scale_bounds_are_the_corners_of_the_box_for_scales_of_both_signs(seed: int) -> None:
    scale, shift, low = whole(seed, (3, 1), (3, 1), (1, 3, 2))
    scale = torch.cat([scale[:1], -scale[:1], scale[2:]])
    (width,) = whole(seed + 1, (1, 3, 2), least=0)
    high = low + width
    found = primitives.scale_interval(scale, shift, low, high)
    assert_exact_interval(lambda x: scale * x + shift, low, high, found, seed)
    radius = primitives.scale_radius(scale, width)
    assert_exact_radius(lambda x: scale * x + shift, width, radius, [low])


def test_the_ball_is_cut_by_the_box() -> None:
    x = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    low, high = primitives.ball(x, 0.375, (0.0, 1.0))
    assert low.tolist() == [[0.0, 0.0, 0.125, 0.625]]
    assert high.tolist() == [[0.375, 0.625, 0.875, 1.0]]
    low, high = primitives.ball(x, 0.375)
    assert (low[0, 0].item(), high[0, 3].item()) == (-0.375, 1.375)


# Pooling modules -----------------------------------------------------------------------------------------------------


Window = tuple[list[int], int]


def windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> list[Window]:
    """Along one axis: the places that each window sees, and how many it spans with its padding."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(room // -stride) if ceil else room // stride) + 1
    starts = [number * stride - padding for number in range(count)]
    reached = [[start + k * dilation for k in range(kernel)] for start in starts if start < size]
    return [([p for p in places if 0 <= p < size], sum(p < size + padding for p in places)) for places in reached]


POOLS = [
    (nn.MaxPool1d, {"kernel_size": 2}),
    (nn.MaxPool1d, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    (nn.MaxPool2d, {"kernel_size": 2}),
    (nn.MaxPool2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    (nn.MaxPool2d, {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}),
    (nn.MaxPool2d, {"kernel_size": 2, "stride": 1, "dilation": 2}),
    (nn.MaxPool3d, {"kernel_size": 2, "stride": 2, "padding": 1}),
    (nn.AvgPool1d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    (nn.AvgPool2d, {"kernel_size": 2}),
    (nn.AvgPool2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    (nn.AvgPool2d, {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}),
    (nn.AvgPool2d, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    (nn.AvgPool2d, {"kernel_size": 2, "stride": 2, "padding": 1, "divisor_override": 3}),
    (nn.AvgPool3d, {"kernel_size": 2, "stride": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), POOLS)
def test_a_pooling_module_takes_the_maximum_or_the_mean_of_the_bounds_in_each_window(
    kind: type[nn.Module], settings: dict[str, int]
) -> None:
    axes = int(kind.__name__[-2])
    size = (5, 6, 4)[:axes]
    kernel, padding = settings["kernel_size"], settings.get("padding", 0)
    stride, ceil = settings.get("stride", kernel), bool(settings.get("ceil_mode"))
    along = [windows(whole, kernel, stride, padding, settings.get("dilation", 1), ceil) for whole in size]
    low, width = torch.randn(2, 3, *size).double(), torch.rand(2, 3, *size).double()
    found = bounds.intervals(nn.Sequential(kind(**settings)).eval(), low, low + width)["0"]
    radius = primitives.pooled_radius(kind(**settings), width)
    assert radius.shape[2:] == tuple(len(places) for places in along)
    for unit in product(*(range(len(places)) for places in along)):
        seen = list(product(*(places[k][0] for places, k in zip(along, unit, strict=True))))
        inner, lower, upper = (torch.stack([t[(..., *place)] for place in seen]) for t in (width, low, low + width))
        if kind.__name__.startswith("Max"):
            expected = primitives.max_radius(inner), *primitives.max_interval(lower, upper)
        else:
            spanned = torch.tensor([places[k][1] for places, k in zip(along, unit, strict=True)]).prod().item()
            divisor = spanned if settings.get("count_include_pad", True) else len(seen)
            share = len(seen) / settings.get("divisor_override", divisor)
            means = primitives.mean_radius(inner), *primitives.mean_interval(lower, upper)
            expected = tuple(share * mean for mean in means)
        for value, wanted in zip((radius, *found), expected, strict=True):
            torch.testing.assert_close(value[(..., *unit)], wanted, rtol=1e-12, atol=1e-12)


def test_adaptive_average_pooling_takes_the_mean_of_each_of_its_windows() -> None:
    low, width = torch.randn(2, 1, 6, 4).double(), torch.rand(2, 1, 6, 4).double()
    found = bounds.intervals(nn.Sequential(nn.AdaptiveAvgPool2d((3, 2))), low, low + width)["0"]
    for i, j in product(range(3), range(2)):
        for value, t in zip(found, (low, low + width), strict=True):
            mean = primitives.mean_radius(t[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(2, 1, 4).movedim(2, 0))
            torch.testing.assert_close(value[:, :, i, j], mean, rtol=1e-12, atol=1e-12)


def test_bounds_of_batchnorm_are_of_what_it_computes_in_eval_mode() -> None:
    bn = nn.BatchNorm1d(2, eps=0.25).double().eval()
    for tensor, values in [(bn.weight, [3.0, -3.0]), (bn.bias, 1.0), (bn.running_mean, 2.0), (bn.running_var, 2.0)]:
        tensor.data.copy_(torch.tensor(values))
    low, high = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[3.0, 3.0]]).double()
    found = bounds.intervals(nn.Sequential(bn), low, high)["0"]
    assert found[0].tolist() == [[-3.0, -1.0]]  # 3 (x - 2) / 1.5 + 1 at 0, and -3 (x - 2) / 1.5 + 1 at 3
    assert found[1].tolist() == [[3.0, 5.0]]
    assert bounds.radii(nn.Sequential(bn), (2,), 0.5)["0"].tolist() == [1.0, 1.0]
    torch.testing.assert_close(bn(torch.cat([low, high])).sort(dim=0).values, torch.cat(found))

"""Laws of balls, boxes and directions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lat import norms
from lat.attacks import Draws

BOTH = ("linf", "l2")
NORM = st.sampled_from(BOTH)
RADIUS = st.floats(0.0, 3.0)
BOX = (0.0, 1.0)


def points(seed: int, n: int, size: int, spread: float) -> tuple[Tensor, Tensor]:
    """Centres in the box, some coordinates exactly on its edges, and points around them; float64."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, size, generator=generator, dtype=torch.float64).mul_(1.4).sub_(0.2).clamp_(*BOX)
    return centre, centre + spread * torch.randn(n, size, generator=generator, dtype=torch.float64)


def inside(z: Tensor, centre: Tensor, radius: float, norm: str) -> bool:
    return bool((norms.size(z - centre, norm) <= radius + 1e-12).all() and (z >= BOX[0]).all() and (z <= BOX[1]).all())


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 12), st.floats(0, 4), RADIUS, NORM)
@example(seed=0, n=3, size=4, spread=2.0, radius=0.0, norm="l2")  # a ball of one point
@example(seed=1, n=3, size=1, spread=4.0, radius=0.5, norm="l2")  # one coordinate
@example(seed=2, n=3, size=12, spread=0.0, radius=0.5, norm="l2")  # the centre itself: no direction to move in
@example(seed=3, n=3, size=12, spread=4.0, radius=3.0, norm="l2")  # the box alone decides
def test_a_projection_is_inside_and_projecting_it_again_changes_nothing(
    seed: int, n: int, size: int, spread: float, radius: float, norm: str
) -> None:
    centre, v = points(seed, n, size, spread)
    z = norms.project(v, centre, radius, norm, BOX)
    assert inside(z, centre, radius, norm)
    torch.testing.assert_close(norms.project(z, centre, radius, norm, BOX), z, rtol=0, atol=1e-12)


@given(st.integers(0, 2**31), st.integers(1, 8), st.floats(0.1, 4), st.floats(0.01, 2.0), NORM)
@example(seed=5, size=2, spread=4.0, radius=0.7, norm="l2")  # the nearest point lies on the box and the sphere at once
def test_no_point_of_ball_and_box_is_closer_than_the_projection(
    seed: int, size: int, spread: float, radius: float, norm: str
) -> None:
    centre, v = points(seed, 1, size, spread)
    z = norms.project(v, centre, radius, norm, BOX)
    many = centre.expand(400, -1)
    source = Draws(seed, range(400))
    shift = norms.sample_ball(many, radius, norm, source)
    near = z + 0.05 * radius * source.normal(many)  # candidates beside the projection: the hard ones
    candidates = torch.cat([(many + shift).clamp(*BOX), near.clamp(*BOX)])
    kept = candidates[norms.size(candidates - centre, norm) <= radius]
    assert len(kept) > 0
    assert (norms.size(kept - v, "l2") >= norms.size(z - v, "l2") - 1e-9).all()


@given(st.integers(0, 2**31), st.integers(1, 8), st.floats(0.1, 4), st.floats(0.01, 2.0), NORM)
def test_the_way_to_a_projection_makes_no_sharp_angle_with_any_way_into_the_set(
    seed: int, size: int, spread: float, radius: float, norm: str
) -> None:
    # Variational inequality: <v - z, u - z> <= 0 for all u of a convex set if and only if z is the nearest point.
    centre, v = points(seed, 1, size, spread)
    z = norms.project(v, centre, radius, norm, BOX)
    many = centre.expand(200, -1)
    u = (many + norms.sample_ball(many, radius, norm, Draws(seed, range(200)))).clamp(*BOX)
    u = u[norms.size(u - centre, norm) <= radius]
    assert float(((v - z) * (u - z)).sum(1).max()) <= 1e-9


def by_bisection(v: list[float], c: list[float], radius: float, box: tuple[float, float]) -> list[float]:
    """The nearest point of the L2 ball and the box, one example: the step t of clip(c + t (v - c)) is bisected."""
    low, high = 0.0, 1.0

    def at(t: float) -> list[float]:
        return [min(max(b + t * (a - b), box[0]), box[1]) for a, b in zip(v, c, strict=True)]

    if math.dist(at(1.0), c) <= radius:
        return at(1.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.dist(at(middle), c) <= radius else (low, middle)
    return at(low)


QUARTERS = st.integers(-12, 12).map(lambda k: k / 4)


@given(st.lists(st.tuples(QUARTERS, st.integers(-4, 2).map(lambda k: k / 4)), min_size=1, max_size=6), RADIUS)
@example([(1.0, 0.0), (0.5, -1.0)], 1.3)  # a step of exactly 1 that the box stops half way
@example([(-1.5, -0.5), (0.5, -1.0)], 1.3)
@example([(3.0, 0.25), (3.0, 0.25), (0.0, 0.0)], 0.3)  # two coordinates stop at once, one does not move
def test_the_l2_projection_is_the_one_that_bisection_finds_in_a_box_beside_zero(
    pairs: list[tuple[float, float]], radius: float
) -> None:
    box = (-1.0, 0.5)
    v, c = [a for a, _ in pairs], [b for _, b in pairs]
    point, centre, nearest = torch.tensor([[v], [c], [by_bisection(v, c, radius, box)]], dtype=torch.float64)
    torch.testing.assert_close(norms.project(point, centre, radius, "l2", box), nearest, rtol=0, atol=1e-9)


@given(st.integers(0, 2**31), RADIUS, NORM)
def test_a_projection_moves_and_grows_with_its_box(seed: int, radius: float, norm: str) -> None:
    centre, v = points(seed, 3, 5, 1.0)
    z = norms.project(v, centre, radius, norm, BOX)
    moved = norms.project(3 * v - 2, 3 * centre - 2, 3 * radius, norm, (-2.0, 1.0))
    torch.testing.assert_close(moved, 3 * z - 2, rtol=0, atol=1e-9)


@given(st.integers(0, 2**31), st.floats(0.05, 2.0), NORM)
def test_an_image_is_treated_as_the_row_of_its_pixels(seed: int, radius: float, norm: str) -> None:
    centre, v = points(seed, 4, 12, 1.0)
    g = v - centre

    def image(rows: Tensor) -> Tensor:
        return rows.view(4, 3, 2, 2)

    z = norms.project(v, centre, radius, norm, BOX)
    assert torch.equal(norms.project(image(v), image(centre), radius, norm, BOX), image(z))
    assert torch.equal(norms.steepest_direction(image(g), norm), image(norms.steepest_direction(g, norm)))
    assert torch.equal(norms.size(image(g), norm), norms.size(g, norm))
    sampled = norms.sample_ball(v, radius, norm, Draws(seed, range(4)))
    assert torch.equal(norms.sample_ball(image(v), radius, norm, Draws(seed, range(4))), image(sampled))


@given(st.integers(0, 2**31), st.floats(0.01, 1.5), NORM)
def test_each_example_is_treated_by_itself(seed: int, radius: float, norm: str) -> None:
    centre, v = points(seed, 5, 8, 1.0)
    together = norms.project(v, centre, radius, norm, BOX)
    alone = [norms.project(v[k : k + 1], centre[k : k + 1], radius, norm, BOX) for k in range(5)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)
    sampled = norms.sample_ball(v, radius, norm, Draws(seed, range(5)))
    single = [norms.sample_ball(v[k : k + 1], radius, norm, Draws(seed, [k])) for k in range(5)]
    torch.testing.assert_close(sampled, torch.cat(single), rtol=0, atol=1e-12)


@given(st.integers(0, 2**31), st.floats(0.01, 2.0), NORM)
def test_single_precision_projects_as_double_does_but_for_its_rounding(seed: int, radius: float, norm: str) -> None:
    centre, v = (t.float() for t in points(seed, 200, 12, 3.0))
    z = norms.project(v, centre, radius, norm, BOX)
    assert z.dtype == torch.float32
    assert bool((z >= BOX[0]).all() and (z <= BOX[1]).all())
    assert float(norms.size((z - centre).double(), norm).max()) <= radius + 4e-7
    true = norms.project(v.double(), centre.double(), radius, norm, BOX)
    torch.testing.assert_close(z.double(), true, rtol=0, atol=5e-7)


class Recorded(TorchDispatchMode):
    """The names of the operations that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def test_a_projection_calls_no_sum_that_is_refused_on_a_gpu_where_everything_has_to_be_deterministic() -> None:
    centre, v = points(3, 5, 12, 2.0)
    with Recorded() as recorded:
        norms.project(v, centre, 0.5, "l2", BOX)
    assert "aten::sum.dim_IntList" in recorded.names
    assert not {name for name in recorded.names if "cum" in name or "scatter" in name}


def test_squares_of_tiny_numbers_do_not_vanish_from_a_projection_in_single_precision() -> None:
    ball = norms.project(torch.tensor([[3e-25, 4e-25]]), torch.zeros(1, 2), 1e-25, "l2", BOX)
    torch.testing.assert_close(ball, torch.tensor([[0.6e-25, 0.8e-25]]), rtol=1e-5, atol=0)
    centre = torch.tensor([[1e-25, 0.0]])  # the first coordinate stops at the box, the second goes on
    both = norms.project(torch.tensor([[-9e-25, 1e-24]]), centre, 3e-25, "l2", (0.0, 1e-23))
    torch.testing.assert_close(both, torch.tensor([[0.0, 8**0.5 * 1e-25]]), rtol=1e-5, atol=0)


def test_points_on_the_sphere_are_inside_and_come_back_as_they_were() -> None:
    centre, v = points(11, 50, 9, 0.2)
    v = v.clamp(*BOX)
    for row in range(50):
        here, there = v[row : row + 1], centre[row : row + 1]
        radius = norms.size(here - there, "l2").item()
        assert torch.equal(norms.project(here, there, radius, "l2", BOX), here)


def test_clipping_to_the_ball_and_then_to_the_box_is_not_the_nearest_point() -> None:
    # The false law that a shortcut would rest on.
    centre, v = torch.tensor([[0.5, 1.0]]), torch.tensor([[1.5, 3.0]])
    nearest = norms.project(v, centre, 0.4, "l2", BOX)
    shift = v - centre
    shortcut = (centre + 0.4 * shift / shift.norm()).clamp(*BOX)
    assert norms.size(nearest - v, "l2") < norms.size(shortcut - v, "l2") - 0.05
    torch.testing.assert_close(nearest, torch.tensor([[0.9, 1.0]]))


def test_a_point_that_is_inside_comes_back_as_it_was() -> None:
    centre, v = points(7, 6, 9, 0.01)
    v = v.clamp(*BOX)
    for norm in BOTH:
        assert torch.equal(norms.project(v, centre, 1.0, norm, BOX), v)


@given(st.integers(0, 2**31), st.integers(1, 10), st.floats(-200, 30), st.sampled_from(("linf", "l2")))
@example(seed=0, size=4, log_scale=-300.0, norm="l2")  # squares of these numbers underflow in float64
def test_the_steepest_direction_attains_the_dual_norm(seed: int, size: int, log_scale: float, norm: str) -> None:
    g = torch.randn(3, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10.0**log_scale
    direction = norms.steepest_direction(g, norm)
    assert (norms.size(direction, norm) <= 1 + 1e-12).all()
    gain, dual = (g * direction).sum(1), norms.size(g, norms.dual(norm))
    torch.testing.assert_close(gain / dual, torch.ones_like(dual))
    other = torch.randn(3, 200, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    other = other / norms.size(other.flatten(0, 1), norm).view(3, 200, 1)
    assert ((other * g[:, None]).sum(2) <= gain[:, None] * (1 + 1e-12)).all()


@pytest.mark.parametrize("norm", BOTH)
def test_a_gradient_that_is_zero_or_not_a_number_gives_no_direction(norm: str) -> None:
    g = torch.tensor([[0.0, 0.0], [math.nan, math.nan], [math.nan, 2.0], [math.inf, -1.0]])
    direction = norms.steepest_direction(g, norm)
    assert direction.isfinite().all()
    assert torch.equal(direction[:2], torch.zeros(2, 2))
    assert torch.equal(direction[2], torch.tensor([0.0, 1.0]))
    assert direction[3, 0] == 1


@pytest.mark.parametrize("norm", BOTH)
def test_sampled_points_fill_the_ball_evenly(norm: str) -> None:
    like = torch.zeros(4000, 3, dtype=torch.float64)
    shift = norms.sample_ball(like, 0.5, norm, Draws(1, range(4000)))
    length = norms.size(shift, norm)
    assert float(length.max()) <= 0.5
    # uniform in volume: the fraction within t times the radius is t cubed, in three dimensions, for either norm
    for t in (0.3, 0.6, 0.9):
        assert float((length <= 0.5 * t).double().mean()) == pytest.approx(t**3, abs=0.03)
    assert float(shift.mean(0).abs().max()) < 0.02


@pytest.mark.parametrize(("norm", "joint"), [("linf", 0.25), ("l2", 0.435)])
def test_coordinates_of_sampled_points_have_the_balls_own_spread_and_are_not_tied_to_one_another(
    norm: str, joint: float
) -> None:
    # Both of two coordinates of three within half the radius: 1/2 · 1/2 in the cube; in the ball the integral of
    # 2 sqrt(1 - x^2 - y^2) over that square, by its volume 4 pi / 3.
    like = torch.zeros(20000, 3, dtype=torch.float64)
    near = norms.sample_ball(like, 1.0, norm, Draws(3, range(20000))).abs() <= 0.5
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert float((near[:, i] & near[:, j]).double().mean()) == pytest.approx(joint, abs=0.015)


def test_sizes_are_those_of_torch() -> None:
    v = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for norm, p in (("l1", 1), ("l2", 2), ("linf", math.inf)):
        torch.testing.assert_close(norms.size(v, norm), torch.linalg.vector_norm(v.flatten(1), p, dim=1))
        assert norms.dual(norms.dual(norm)) == norm


def test_sizes_of_tiny_huge_and_infinite_numbers_do_not_disturb_one_another() -> None:
    v = torch.tensor([[3e-200, 4e-200], [1e-200, 1e200], [3.0, 4.0], [math.inf, 1.0], [0.0, 0.0]], dtype=torch.float64)
    sizes = {"l2": [5e-200, 1e200, 5.0, math.inf, 0.0], "linf": [4e-200, 1e200, 4.0, math.inf, 0.0]}
    for norm, expected in sizes.items():
        torch.testing.assert_close(norms.size(v, norm), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
        alone = torch.cat([norms.size(row[None], norm) for row in v])
        assert torch.equal(norms.size(v, norm), alone)


def test_the_norms_of_threat_models_are_known_and_keep_their_names() -> None:
    assert [norms.check_norm(norm) for norm in BOTH] == ["linf", "l2"]
    assert [norms.dual(norm) for norm in ("linf", "l2", "l1")] == ["l1", "l2", "linf"]
    with pytest.raises(norms.NormError, match=r"linf, l2$"):
        norms.check_norm("l1")


@pytest.mark.parametrize(
    "call",
    [
        lambda v: norms.projector(v, 0.1, "l3", BOX),
        lambda v: norms.project(v, v, 0.1, "l3", BOX),
        lambda v: norms.size(v, "l3"),
        lambda v: norms.steepest_direction(v, "l3"),
        lambda v: norms.sample_ball(v, 0.1, "l3", Draws(0, [0])),
        lambda _: norms.dual("l3"),
    ],
)
def test_an_unknown_norm_is_an_error_that_names_it(call) -> None:
    with pytest.raises(norms.NormError, match="'l3'"):
        call(torch.zeros(1, 2))

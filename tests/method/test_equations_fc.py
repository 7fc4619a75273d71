"""Eqs. (5)-(7) and (10)-(14): which of them hold, on which domain, and where they fail."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import relu

from lat import equations

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 4)
WHOLE = st.integers(-4, 4)
NOT_ZERO = WHOLE.filter(bool)


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """One float64 tensor a shape; every other seed gives small whole numbers, zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    if seed % 2:
        return [torch.randint(-3, 4, shape, generator=generator).double() for shape in shapes]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def scalar(*values: float) -> list[Tensor]:
    return [torch.tensor(float(value), dtype=torch.float64) for value in values]


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-12)


# Eq. (5) -----------------------------------------------------------------------------------------------------------


@given(SEEDS, SIZES, SIZES, SIZES)
def test_eq_5_the_output_for_x_plus_r_is_the_output_for_x_plus_w_r(seed: int, n: int, o: int, i: int) -> None:
    w, b, x, r = draw(seed, (o, i), (o,), (n, i), (n, i))
    direct = torch.stack([torch.stack([(w[k] * (x[s] + r[s])).sum() + b[k] for k in range(o)]) for s in range(n)])
    assert close(equations.adversarial_output(w, b, x, r), direct)
    assert close(equations.output_change(w, r), direct - torch.nn.functional.linear(x, w, b))


@given(SEEDS, SIZES)
def test_eq_5_stacks_in_the_order_of_the_forward_pass_where_nothing_lies_between(seed: int, n: int) -> None:
    w_1, w_2, w_3, x, r = draw(seed, (3, 2), (4, 3), (2, 4), (n, 2), (n, 2))

    def forward(h: Tensor) -> Tensor:
        return ((h @ w_1.T) @ w_2.T) @ w_3.T

    assert close(equations.stacked_change([w_1, w_2, w_3], r), forward(x + r) - forward(x))


def test_eq_5_stacked_fails_through_a_relu() -> None:
    w, one = torch.ones(1, 1), torch.ones(1, 1)
    true = relu((one * -2 + one) @ w.T) @ w.T - relu(one * -2 @ w.T) @ w.T
    assert true.item() == 0
    assert equations.stacked_change([w, w], one).item() == 1


# Eq. (6) -----------------------------------------------------------------------------------------------------------


@given(SEEDS, SIZES, SIZES, SIZES, st.floats(-1, 1))
def test_propagated_is_what_fgsm_at_the_layers_input_does_to_its_output(
    seed: int, n: int, o: int, i: int, eps: float
) -> None:
    w, b, x, target = draw(seed, (o, i), (o,), (n, i), (n, o))

    def layer(h: Tensor) -> Tensor:
        return torch.nn.functional.linear(h, w, b)

    x = x.requires_grad_()
    y = layer(x)
    y.retain_grad()
    (y * target).sum().backward()
    assert x.grad is not None and y.grad is not None
    # An exact sign needs the very sums that autograd made: those below are formed in the same way.
    assert close(equations.input_gradient(y.grad, w), x.grad)
    fgsm = x + eps * equations.input_gradient(y.grad, w).sign()
    assert close(equations.propagated(y.grad, w, eps), (layer(fgsm) - y).detach())


@given(SEEDS, SIZES, SIZES, SIZES, st.sampled_from(["number", "sample", "element"]))
def test_closed_is_eps_times_the_row_sums_of_w_times_the_sign_of_g(
    seed: int, n: int, o: int, i: int, draws: str
) -> None:
    w, g, eps = draw(seed, (o, i), (n, o), {"number": (1, 1), "sample": (n, 1), "element": (n, o)}[draws])
    R = equations.closed(g, w, eps.item() if draws == "number" else eps)
    assert R.shape == (n, o)
    full = eps.expand(n, o)
    for s, k in product(range(n), range(o)):
        sign = (g[s, k] > 0).double() - (g[s, k] < 0).double()
        expected = full[s, k] * sum(abs(w[k, j].item()) for j in range(i)) * sign
        assert R[s, k].item() == pytest.approx(expected.item(), abs=1e-12)


def test_eq_6_fails_in_general() -> None:
    w, g = torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0, -1.0]])
    assert equations.propagated(g, w, 1.0).tolist() == [[1.0, 1.0]]
    assert equations.closed(g, w, 1.0).tolist() == [[1.0, -1.0]]


@given(SEEDS, SIZES, SIZES, st.floats(-1, 1))
def test_eq_6_holds_for_one_output_unit(seed: int, n: int, i: int, eps: float) -> None:
    w, g = draw(seed, (1, i), (n, 1))
    assert close(equations.propagated(g, w, eps), equations.closed(g, w, eps))


@given(SEEDS, SIZES, SIZES, SIZES, st.floats(0, 1))
def test_no_unit_moves_further_than_the_closed_radius(seed: int, n: int, o: int, i: int, eps: float) -> None:
    w, r = draw(seed, (o, i), (n, i))
    r = eps * r.clamp(-1, 1)
    assert bool((equations.output_change(w, r).abs() <= eps * equations.closed_radius(w) + 1e-12).all())


@given(SEEDS, SIZES, SIZES)
def test_the_closed_radius_is_reached_unit_by_unit(seed: int, o: int, i: int) -> None:
    (w,) = draw(seed, (o, i))
    reached = equations.output_change(w, w.sign())  # row k of r is the worst case of unit k
    assert close(reached.diagonal(), equations.closed_radius(w))


@given(SEEDS, SIZES, SIZES, SIZES, st.floats(0, 1))
def test_the_first_order_change_of_the_loss_is_a_dual_norm_and_the_closed_one_is_no_smaller(
    seed: int, n: int, o: int, i: int, eps: float
) -> None:
    w, g = draw(seed, (o, i), (n, o))
    true = (g * equations.propagated(g, w, eps)).sum(1)
    above = (g * equations.closed(g, w, eps)).sum(1)
    assert close(true, eps * (g @ w).abs().sum(1))
    assert close(above, eps * (g.abs() * w.abs().sum(1)).sum(1))
    assert bool((true <= above + 1e-12).all())
    assert close((g * equations.closed(g, 2 * w, eps)).sum(1), 2 * above)


# Eq. (7) -----------------------------------------------------------------------------------------------------------


@given(SEEDS, SIZES, st.floats(-1, 1))
def test_closed_stack_is_the_chain_of_absolute_weights_times_the_sign_of_the_last_g(
    seed: int, n: int, eps: float
) -> None:
    sizes = [3, 2, 4, 2]
    *stack, g = draw(seed, *[(o, i) for i, o in pairwise(sizes)], (n, 2))
    radius = [1.0] * sizes[0]
    for w in stack:
        radius = [sum(abs(w[k, j].item()) * radius[j] for j in range(w.shape[1])) for k in range(w.shape[0])]
    expected = eps * torch.tensor(radius, dtype=torch.float64) * g.sign()
    assert close(equations.closed_stack(g, stack, eps), expected)


@given(SEEDS, SIZES, SIZES, SIZES, st.floats(-1, 1))
def test_a_stack_of_one_layer_is_that_layer(seed: int, n: int, o: int, i: int, eps: float) -> None:
    w, g = draw(seed, (o, i), (n, o))
    assert torch.equal(equations.closed_stack(g, [w], eps), equations.closed(g, w, eps))
    assert torch.equal(equations.propagated_stack(g, [w], eps), equations.propagated(g, w, eps))


@given(SEEDS, SIZES, st.floats(-1, 1))
def test_propagated_stack_pushes_the_input_step_through_all_weights(seed: int, n: int, eps: float) -> None:
    w_1, w_2, w_3, g = draw(seed, (3, 2), (4, 3), (2, 4), (n, 3))
    expected = eps * torch.sign(g @ w_1) @ w_1.T @ w_2.T @ w_3.T
    assert close(equations.propagated_stack(g, [w_1, w_2, w_3], eps), expected)


def test_eq_7_fails_in_general() -> None:
    w_1, w_2, one = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0, -2.0]]), torch.ones(1, 1)
    assert equations.stacked_change([w_1, w_2], one).item() == -1
    assert equations.closed_stack_radius([w_1, w_2]).item() == 3


@given(NOT_ZERO, NOT_ZERO, NOT_ZERO, NOT_ZERO)
def test_eq_7_holds_for_scalars(a: int, b: int, c: int, g: int) -> None:
    stack = [value.view(1, 1) for value in scalar(a, b, c)]
    last = torch.tensor([[float(g)]], dtype=torch.float64)
    first = last * b * c  # dL/dy_1 = dL/dy_3 w_3 w_2
    assert torch.equal(equations.propagated_stack(first, stack, 0.5), equations.closed_stack(last, stack, 0.5))


@given(SEEDS, SIZES, st.floats(0, 1), st.booleans())
def test_no_output_of_a_stack_moves_further_than_the_chain_with_or_without_relu(
    seed: int, n: int, eps: float, through_relu: bool
) -> None:
    w_1, w_2, b, x, r = draw(seed, (4, 3), (2, 4), (4,), (n, 3), (n, 3))
    r = eps * r.clamp(-1, 1)

    def forward(h: Tensor) -> Tensor:
        z = h @ w_1.T + b
        return (relu(z) if through_relu else z) @ w_2.T

    moved = (forward(x + r) - forward(x)).abs()
    assert bool((moved <= eps * equations.closed_stack_radius([w_1, w_2]) + 1e-9).all())


# Eqs. (10)-(12) ----------------------------------------------------------------------------------------------------


@given(SEEDS, SIZES)
def test_eq_10_is_the_network_at_the_perturbed_input(seed: int, n: int) -> None:
    w_1, b_1, w_2, b_2, x, r = draw(seed, (4, 3), (4,), (2, 4), (2,), (n, 3), (n, 3))
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    with torch.no_grad():
        for p, value in zip(net.parameters(), [w_1, b_1, w_2, b_2], strict=True):
            p.copy_(value)
        assert close(equations.relu_output(w_1, b_1, w_2, b_2, x, r), net(x + r))
        assert close(equations.relu_output(w_1, b_1, w_2, b_2, x, 0 * r), net(x))


@given(SEEDS, SIZES, SIZES)
def test_eq_11_holds_element_by_element_for_one_output_unit(seed: int, n: int, i: int) -> None:
    w_2, z = draw(seed, (1, i), (n, i))
    inside = equations.relu_moved_inside(w_2, z)
    assert inside.shape == (n, i)
    assert close(inside.sum(1, keepdim=True), equations.relu_moved_outside(w_2, z))


@given(WHOLE, WHOLE)
def test_eq_11_holds_for_scalars(w: int, z: int) -> None:
    w_2, z_1 = (value.view(1, 1) for value in scalar(w, z))
    printed = torch.sign(w_2) * relu(w_2.abs() @ z_1)
    assert equations.relu_moved_outside(w_2, z_1).item() == printed.item() == w * max(z, 0)


def test_eq_11_fails_for_matrices() -> None:
    w_2, z = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    assert equations.relu_moved_outside(w_2, z).item() == 1
    assert relu(z @ w_2.abs().T).item() == 0


@given(SEEDS, SIZES)
@example(1, 2)
def test_relu_of_the_sum_is_no_larger_and_equal_exactly_where_no_signs_are_mixed(seed: int, i: int) -> None:
    w, z = draw(2 * (seed // 2) + 1, (1, i), (1, i))  # whole numbers: exact sums
    outside, inside = equations.relu_moved_outside(w.abs(), z), relu(z @ w.abs().T)
    used = z[w != 0]
    mixed = bool((used > 0).any() and (used < 0).any())
    assert bool(outside >= inside)
    assert bool(outside == inside) == (not mixed)


@given(WHOLE, WHOLE, WHOLE, WHOLE, WHOLE)
def test_eq_12_is_the_true_difference_for_scalars(w_1: int, b_1: int, w_2: int, x: int, r: int) -> None:
    true = w_2 * max(w_1 * (x + r) + b_1, 0) - w_2 * max(w_1 * x + b_1, 0)
    assert equations.scalar_difference(*scalar(w_1, b_1, w_2, x, r)).item() == true


# Eqs. (13) and (14): whole numbers, with the crossing at a whole number, so that every comparison is exact. -----------


@given(NOT_ZERO, WHOLE, WHOLE, st.integers(-9, 9), WHOLE)
def test_eq_13_is_right_for_positive_w_1_swapped_for_negative_w_1_and_silent_in_the_band(
    w_1: int, crossing: int, w_2: int, x: int, r: int
) -> None:
    values = scalar(w_1, -w_1 * crossing, w_2, x, r)
    cases = equations.scalar_difference_by_cases(*values).item()
    true = equations.scalar_difference(*values).item()
    if abs(x - crossing) <= abs(r):
        assert cases != cases  # NaN
    elif w_1 > 0:
        assert cases == true
    else:
        assert {cases, true} == {0.0, float(w_1 * w_2 * r)}
        assert (cases == 0) == (x < crossing) or w_2 * r == 0
        assert cases != true or w_2 * r == 0


@given(WHOLE, WHOLE, WHOLE, WHOLE, WHOLE)
@example(1, 0, 1, 0, 2)  # z = 0
@example(1, 0, 1, 1, -3)  # the unit is switched off
@example(-1, 0, 1, 1, -3)  # the unit is switched on
@example(1, 0, 1, 2, -2)  # it ends exactly at its kink
def test_eq_14_is_exact_unless_the_unit_flips_and_its_error_is_the_overshoot(
    w_1: int, b_1: int, w_2: int, x: int, r: int
) -> None:
    values = scalar(w_1, b_1, w_2, x, r)
    z, move = w_1 * x + b_1, w_1 * r
    error = (equations.masked_difference(*values) - equations.scalar_difference(*values)).abs().item()
    if z == 0:
        assert error == abs(w_2) * max(move, 0)
    elif z * move < 0:
        assert error == abs(w_2) * max(abs(move) - abs(z), 0)
    else:
        assert error == 0
    domain = z != 0 and (z * move >= 0 or abs(move) <= abs(z))
    assert (error == 0) == (domain or w_2 == 0 or (z == 0 and move <= 0))


@given(SEEDS, SIZES)
def test_the_change_is_w_2_d_w_1_r_exactly_where_no_unit_flips(seed: int, n: int) -> None:
    w_1, b_1, w_2, b_2, x, r = draw(seed, (4, 3), (4,), (2, 4), (2,), (n, 3), (n, 3))
    z = x @ w_1.T + b_1
    change = equations.output_change(w_1, r)
    shrink = torch.where(change != 0, z.abs() / change.abs().clamp(min=1e-300), torch.inf).amin(1, keepdim=True)
    r = r * (0.5 * shrink).clamp(max=1)  # half way to the first kink, sample by sample
    mask = (z > 0).double()
    moved = equations.relu_output(w_1, b_1, w_2, b_2, x, r) - equations.relu_output(w_1, b_1, w_2, b_2, x, 0 * r)
    assert torch.allclose(moved, (mask * equations.output_change(w_1, r)) @ w_2.T, atol=1e-9)

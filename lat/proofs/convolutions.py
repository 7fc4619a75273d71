"""Laws of eqs. (8) and (9): convolutions, alone and stacked, and the hand-over to fully connected layers."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from lat import equations as eq
from lat.equations import Geometry
from lat.proofs.comparison import at_most, equal
from lat.proofs.enumeration import Counterexample
from lat.proofs.law import Case, Law, Sizes, anything, nonnegative, nonzero, unit
from lat.proofs.sampling import Draw, Tests
from lat.proofs.solver import Proof

LAYER = {"w": anything("f c *k"), "g": anything("n f *m")}
RADIUS = {"eps": nonnegative("")}


def moved(size: int, kernel: int, at: Geometry, axis: int = 0) -> int:
    """The output's size on one axis."""
    return (size + 2 * at.padding[axis] - at.dilation[axis] * (kernel - 1) - 1) // at.stride[axis] + 1


def line(
    size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1, filters: int = 1
) -> Sizes:
    """The sizes of a case with one spatial axis and one channel a group."""
    at = Geometry((stride,), (padding,), (dilation,), groups)
    return {
        "n": 1, "f": filters, "c": 1, "i": groups, "k": (kernel,), "s": (size,), "m": (moved(size, kernel, at),), "at": at,
    }  # fmt: skip


PADDED, STRIDED, DILATED = line(2, 2, padding=1), line(4, 2, stride=2), line(4, 2, dilation=2)
GROUPED = line(2, 2, groups=2, filters=2)
PLAIN = line(3, 2)
EVERY = (PLAIN, PADDED, STRIDED, DILATED, GROUPED)


def any_geometry(draw: Draw) -> Sizes:
    """A convolution with one or two spatial axes, of any stride, padding, dilation and groups."""
    axes, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    at = Geometry(
        tuple(draw(st.integers(1, 3)) for _ in range(axes)),
        tuple(draw(st.integers(0, 2)) for _ in range(axes)),
        tuple(draw(st.integers(1, 2)) for _ in range(axes)),
        groups,
    )
    size = [d * (k - 1) + 1 + draw(st.integers(0, 2)) for d, k in zip(at.dilation, kernel, strict=True)]
    channels = draw(st.integers(1, 2))
    return {
        "n": draw(st.integers(1, 2)),
        "f": groups * draw(st.integers(1, 2)),
        "c": channels,
        "i": channels * groups,
        "k": tuple(kernel),
        "s": tuple(size),
        "m": tuple(moved(n, k, at, axis) for axis, (n, k) in enumerate(zip(size, kernel, strict=True))),
        "at": at,
    }


def two_layers(draw: Draw) -> Sizes:
    """Two convolutions of one spatial axis and a fully connected layer behind them."""
    first = line(
        draw(st.integers(4, 7)),
        draw(st.integers(1, 3)),
        stride=draw(st.integers(1, 2)),
        padding=draw(st.integers(0, 1)),
    )
    at = Geometry((draw(st.integers(1, 2)),), (draw(st.integers(0, 1)),), (1,))
    second = draw(st.integers(1, min(2, first["m"][0] + 2 * at.padding[0])))
    channels = draw(st.integers(1, 2))
    size = moved(first["m"][0], second, at)
    return {
        **first, "f": channels, "h": draw(st.integers(1, 2)), "q": (second,), "at_2": at, "flat": size, "o": 2,
        "n": draw(st.integers(1, 2)),
    }  # fmt: skip


TWO = {**line(3, 2), "h": 1, "q": (2,), "at_2": Geometry((1,), (0,), (1,)), "flat": 1, "o": 1}
STACK = {"w_1": anything("f c *k"), "w_2": anything("h f *q")}


def _stack(c: Case) -> list[tuple[Tensor, Geometry]]:
    return [(c.w_1, c.at), (c.w_2, c.at_2)]


def _equation_8(c: Case) -> Tensor:
    return equal(
        eq.convolution_propagated(c.g, c.w, c.eps, c.at, c.s), eq.convolution_closed(c.g, c.w, c.eps, c.at, c.s)
    )


def _each_output_attains(c: Case) -> Tensor:
    """For every output by itself, the perturbation by the signs of its own weights moves it by the radius."""
    places = torch.eye(c.g[0].numel(), dtype=torch.float64).reshape(-1, *c.g.shape[1:])
    steps = c.eps * torch.sign(eq.convolution_input_gradient(0 * c.g[:1] + places, c.w, c.at, c.s))
    own = (eq.convolution_change(c.w, steps, c.at) * places).flatten(1).sum(1)
    return equal(own, (c.eps * eq.convolution_closed_radius(c.w, c.at, c.s)).flatten())


def _with_flat(sizes: Sizes) -> Sizes:
    return {**sizes, "z": sizes["h"] * sizes["flat"]}


def _last_gradient_to_first(c: Case) -> Tensor:
    return eq.convolution_input_gradient(c.g, c.w_2, c.at_2, c.m)


def _dense_gradient_to_first(c: Case) -> Tensor:
    """The gradient at the first convolution's output, from g at the output of the layer behind the second."""
    behind = eq.input_gradient(c.g, c.w_3).reshape(len(c.g), len(c.w_2), -1)
    return eq.convolution_input_gradient(behind, c.w_2, c.at_2, c.m)


LAWS = (
    Law(
        id="8.identity",
        role="claim",
        statement="w * (x + r) + b = (w * x + b) + w * r",
        domain="all w, b, x, r; any stride, padding, dilation and groups",
        variables={"w": anything("f c *k"), "b": anything("f"), "x": anything("n i *s"), "r": anything("n i *s")},
        holds=lambda c: equal(
            eq.convolution_output(c.w, c.b, c.x, c.r, c.at),
            eq.convolution(c.w, c.x, c.at) + c.b.view(-1, *[1] * c.at.axes) + eq.convolution_change(c.w, c.r, c.at),
        ),
        evidence=(Proof(EVERY), Tests(any_geometry)),
    ),
    Law(
        id="8.equality",
        role="claim",
        statement='w * (epsilon op("sign")(w^T * g)) = epsilon (abs(w) * bold(1)) dot.o op("sign")(g)',
        domain="one channel and filter, no entry of g or of the input's gradient zero",
        variables={"w": anything("f c *k"), "g": nonzero("n f *m"), "eps": nonnegative("")},
        where=lambda c: (eq.convolution_input_gradient(c.g, c.w, c.at, c.s) != 0).all(),
        holds=_equation_8,
        evidence=(Counterexample((line(1, 1), line(2, 2), PLAIN)),),
    ),
    Law(
        id="8.radius_lost",
        role="claim",
        statement='w * (epsilon op("sign")(w^T * g)) = w * op("sign")(epsilon w^T * g) dot.o op("sign")(g)',
        domain="as printed: sign(ε …) forgets the size of ε (one output, where the product's shapes fit)",
        variables={"w": anything("f c *k"), "g": nonzero("n f *m"), "eps": nonnegative("")},
        holds=lambda c: equal(
            eq.convolution_propagated(c.g, c.w, c.eps, c.at, c.s),
            eq.convolution_change(
                c.w,
                torch.sign(c.eps * eq.convolution_input_gradient(0 * c.g + 1, c.w, c.at, c.s)),
                c.at,
            )
            * torch.sign(c.g),
        ),
        evidence=(Counterexample((line(1, 1),)),),
    ),
    Law(
        id="8.one_output",
        role="condition",
        statement='w * (epsilon op("sign")(w^T * g)) = epsilon (abs(w) * bold(1)) dot.o op("sign")(g)',
        domain="a convolution with a single output: one filter at one position",
        variables=LAYER | {"eps": anything("")},
        holds=_equation_8,
        evidence=(Proof((line(2, 2), line(3, 2, dilation=2))),),
    ),
    Law(
        id="8.disjoint",
        role="condition",
        statement='w * (epsilon op("sign")(w^T * g)) = epsilon (abs(w) * bold(1)) dot.o op("sign")(g)',
        domain="one filter a group whose windows do not overlap (stride at least the kernel's reach): no input feeds two "
        "outputs",
        variables=LAYER | {"eps": anything("")},
        holds=_equation_8,
        evidence=(
            Proof((STRIDED, line(5, 2, stride=3), line(2, 2, stride=2, padding=1), line(2, 1, groups=2, filters=2))),
        ),
    ),
    Law(
        id="8.bound",
        role="instead",
        statement="abs(w * r)_k <= epsilon (abs(w) * bold(1))_k",
        domain="all w, all r with |r| ≤ ε, the padded boundary included; any stride, padding, dilation and groups",
        variables={"w": anything("f c *k"), "u": unit("n i *s"), "eps": nonnegative("")},
        holds=lambda c: at_most(
            eq.convolution_change(c.w, c.eps * c.u, c.at).abs(), c.eps * eq.convolution_closed_radius(c.w, c.at, c.s)
        ),
        evidence=(Proof(EVERY), Tests(any_geometry)),
    ),
    Law(
        id="8.attained",
        role="instead",
        statement='(w * epsilon op("sign")(w^T * e_k))_k = epsilon (abs(w) * bold(1))_k',
        domain="each output k by itself: the bound is the exact worst case over the ball",
        variables=LAYER | {"eps": nonnegative("")},
        holds=_each_output_attains,
        evidence=(Proof(EVERY), Tests(any_geometry)),
    ),
    Law(
        id="8.ascent",
        role="instead",
        statement="⟨g, w * r⟩ = epsilon norm(w^T * g)_1 <= ⟨g, R⟩",
        domain="r = ε sign(wᵀ * g), R the closed form, ε ≥ 0",
        variables=LAYER | RADIUS,
        holds=lambda c: (
            equal(
                (c.g * eq.convolution_propagated(c.g, c.w, c.eps, c.at, c.s)).flatten(1).sum(1),
                (c.eps * eq.convolution_input_gradient(c.g, c.w, c.at, c.s).abs()).flatten(1).sum(1),
            )
            & at_most(
                (c.g * eq.convolution_propagated(c.g, c.w, c.eps, c.at, c.s)).flatten(1).sum(1),
                (c.g * eq.convolution_closed(c.g, c.w, c.eps, c.at, c.s)).flatten(1).sum(1),
            )
        ),
        evidence=(Proof((line(2, 2), STRIDED, PADDED)), Tests(any_geometry)),
    ),
    Law(
        id="9.stack",
        role="claim",
        statement="w_2 * (w_1 * (x + r)) - w_2 * (w_1 * x) = w_2 * w_1 * r",
        domain="convolutions with nothing between them",
        variables=STACK | {"x": anything("n i *s"), "r": anything("n i *s")},
        holds=lambda c: equal(
            eq.convolution(c.w_2, eq.convolution(c.w_1, c.x + c.r, c.at) - eq.convolution(c.w_1, c.x, c.at), c.at_2),
            eq.convolution_stack_change(_stack(c), c.r),
        ),
        evidence=(Proof((TWO,)), Tests(two_layers)),
    ),
    Law(
        id="9.equality",
        role="claim",
        statement='w_2 * w_1 * (epsilon op("sign")(w_1^T * w_2^T * g)) = epsilon (abs(w_2) * abs(w_1) * bold(1)) dot.o op("sign")(g)',
        domain="one channel, one output, no entry of the input's gradient zero",
        variables=STACK | {"g": nonzero("n h flat"), "eps": nonnegative("")},
        where=lambda c: (eq.convolution_input_gradient(_last_gradient_to_first(c), c.w_1, c.at, c.s) != 0).all(),
        holds=lambda c: equal(
            eq.convolution_propagated_stack(_last_gradient_to_first(c), _stack(c), c.eps, c.s),
            eq.convolution_closed_stack(c.g, _stack(c), c.eps, c.s),
        ),
        evidence=(Counterexample((TWO,)),),
    ),
    Law(
        id="9.nonnegative",
        role="condition",
        statement='w_2 * w_1 * (epsilon op("sign")(w_1^T * w_2^T * g)) = epsilon (abs(w_2) * abs(w_1) * bold(1)) dot.o op("sign")(g)',
        domain="no negative weight and no negative entry of g, every output with g > 0",
        variables={
            "w_1": nonnegative("f c *k"),
            "w_2": nonnegative("h f *q"),
            "g": nonnegative("n h flat"),
            "eps": nonnegative(""),
        },
        where=lambda c: (c.g > 0).all(),
        holds=lambda c: equal(
            eq.convolution_propagated_stack(_last_gradient_to_first(c), _stack(c), c.eps, c.s),
            eq.convolution_closed_stack(c.g, _stack(c), c.eps, c.s),
        ),
        evidence=(Proof((TWO,)),),
    ),
    Law(
        id="9.bound",
        role="instead",
        statement="abs(w_2 * w_1 * r)_k <= epsilon (abs(w_2) * abs(w_1) * bold(1))_k",
        domain="all weights, all r with |r| ≤ ε",
        variables=STACK | {"u": unit("n i *s"), "eps": nonnegative("")},
        holds=lambda c: at_most(
            eq.convolution_stack_change(_stack(c), c.eps * c.u).abs(),
            c.eps * eq.convolution_closed_stack_radius(_stack(c), c.s),
        ),
        evidence=(Proof((TWO,)), Tests(two_layers)),
    ),
    Law(
        id="9.hand_over_equality",
        role="claim",
        statement='w_3 "vec"(w_2 * w_1 * (epsilon op("sign")(w_1^T * w_2^T * w_3^T g))) = epsilon (abs(w_3) "vec"(abs(w_2) * abs(w_1) * bold(1))) dot.o op("sign")(g)',
        domain="a fully connected layer behind the convolutions, whose R is the initial value of its product (section III-D); one output, no entry of the input's gradient zero",
        variables=STACK | {"w_3": anything("o z"), "g": nonzero("n o"), "eps": nonnegative("")},
        where=lambda c: (eq.convolution_input_gradient(_dense_gradient_to_first(c), c.w_1, c.at, c.s) != 0).all(),
        holds=lambda c: equal(
            eq.output_change(
                c.w_3,
                eq.convolution_propagated_stack(_dense_gradient_to_first(c), _stack(c), c.eps, c.s).flatten(1),
            ),
            c.eps
            * eq.closed_stack_radius([c.w_3], eq.convolution_closed_stack_radius(_stack(c), c.s).flatten())
            * torch.sign(c.g),
        ),
        evidence=(Counterexample(({**TWO, "z": 1},)),),
    ),
    Law(
        id="9.hand_over",
        role="instead",
        statement='abs(W "vec"(w_2 * w_1 * r))_k <= epsilon (abs(W) "vec"(abs(w_2) * abs(w_1) * bold(1)))_k',
        domain="a fully connected layer behind the convolutions, their radius passed on as its initial value (section III-D)",
        variables=STACK | {"fc": anything("o z"), "u": unit("n i *s"), "eps": nonnegative("")},
        holds=lambda c: at_most(
            eq.output_change(c.fc, eq.convolution_stack_change(_stack(c), c.eps * c.u).flatten(1)).abs(),
            c.eps * eq.closed_stack_radius([c.fc], eq.convolution_closed_stack_radius(_stack(c), c.s).flatten()),
        ),
        evidence=(Proof(({**TWO, "z": 1},)), Tests(lambda draw: _with_flat(two_layers(draw)))),
    ),
)

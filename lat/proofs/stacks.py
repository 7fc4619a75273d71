"""Laws of eq. (7): stacked fully connected layers, without and with a ReLU between them."""

from __future__ import annotations

import torch
from torch import Tensor

from lat import equations as eq
from lat.proofs.comparison import at_most, equal
from lat.proofs.enumeration import Counterexample
from lat.proofs.law import Case, Law, anything, nonnegative, nonzero, unit
from lat.proofs.sampling import Tests, ranges
from lat.proofs.solver import Proof

STACK = {"w_1": anything("h i"), "w_2": anything("o h"), "g": anything("n o"), "eps": nonnegative("")}
RELU = {
    "w_1": anything("h i"), "b": anything("h"), "w_2": anything("o h"), "x": anything("n i"), "u": unit("n i"),
    "eps": nonnegative(""),
}  # fmt: skip
SIZES = ranges(n=(1, 3), i=(1, 4), h=(1, 4), o=(1, 4))
EQUATION = 'W_2 W_1 (epsilon op("sign")(W_1^T W_2^T g)) = epsilon (abs(W_2) abs(W_1) bold(1)) dot.o op("sign")(g)'


def shape(i: int, h: int, o: int) -> dict[str, int]:
    return {"n": 1, "i": i, "h": h, "o": o}


def _equation_7(c: Case) -> Tensor:
    return equal(
        eq.propagated_stack(eq.input_gradient(c.g, c.w_2), [c.w_1, c.w_2], c.eps),
        eq.closed_stack(c.g, [c.w_1, c.w_2], c.eps),
    )


def _through_relu(c: Case, x: Tensor) -> Tensor:
    return eq.output_change(c.w_2, torch.relu(eq.output_change(c.w_1, x) + c.b))


LAWS = (
    Law(
        id="7.equality",
        role="claim",
        statement=EQUATION,
        domain="two layers with nothing between them, one output, no entry of the input's gradient zero",
        variables=STACK | {"g": nonzero("n o")},
        where=lambda c: (eq.input_gradient(eq.input_gradient(c.g, c.w_2), c.w_1) != 0).all(),
        holds=_equation_7,
        evidence=(Counterexample((shape(1, 1, 1), shape(1, 2, 1))),),
    ),
    Law(
        id="7.relu",
        role="claim",
        statement='W_2 op("ReLU")(W_1 (x + r) + b) - W_2 op("ReLU")(W_1 x + b) = epsilon (abs(W_2) abs(W_1) bold(1)) dot.o op("sign")(g)',
        domain="scalars, a ReLU between the layers, r = ε sign(dL/dx), g ≠ 0",
        variables=RELU | {"g": nonzero("n o")},
        where=lambda c: c.eps > 0,
        holds=lambda c: equal(
            _through_relu(c, c.x + c.eps * _input_step(c)) - _through_relu(c, c.x),
            eq.closed_stack(c.g, [c.w_1, c.w_2], c.eps),
        ),
        evidence=(Counterexample((shape(1, 1, 1),)),),
    ),
    Law(
        id="7.scalars",
        role="condition",
        statement='w_3 w_2 w_1 (epsilon op("sign")(w_1 w_2 w_3 g)) = epsilon abs(w_3) abs(w_2) abs(w_1) op("sign")(g)',
        domain="layers of one unit each",
        variables={"w_1": anything("o o"), "w_2": anything("o o"), "w_3": anything("o o"), "g": anything("n o"), "eps": anything("")},
        holds=lambda c: equal(
            eq.propagated_stack(
                eq.input_gradient(eq.input_gradient(c.g, c.w_3), c.w_2), [c.w_1, c.w_2, c.w_3], c.eps
            ),
            eq.closed_stack(c.g, [c.w_1, c.w_2, c.w_3], c.eps),
        ),
        evidence=(Proof(({"n": 1, "o": 1},)), Tests(ranges(n=(1, 3), o=(1, 1)), whole=True)),
    ),
    Law(
        id="7.nonnegative",
        role="condition",
        statement=EQUATION,
        domain="no negative weight, every entry of g positive",
        variables={"w_1": nonnegative("h i"), "w_2": nonnegative("o h"), "g": nonnegative("n o"), "eps": anything("")},
        where=lambda c: (c.g > 0).all(),
        holds=_equation_7,
        evidence=(Proof((shape(1, 2, 1), shape(2, 1, 2), shape(2, 2, 1)), thorough=(shape(2, 2, 2),)),),
    ),
    Law(
        id="7.bound",
        role="instead",
        statement="abs((W_2 W_1 r)_k) <= epsilon (abs(W_2) abs(W_1) bold(1))_k",
        domain="all weights, all r with |r| ≤ ε",
        variables={"w_1": anything("h i"), "w_2": anything("o h"), "u": unit("n i"), "eps": nonnegative("")},
        holds=lambda c: at_most(
            eq.stacked_change([c.w_1, c.w_2], c.eps * c.u).abs(), c.eps * eq.closed_stack_radius([c.w_1, c.w_2])
        ),
        evidence=(Proof((shape(1, 2, 1), shape(2, 2, 1))), Tests(SIZES)),
    ),
    Law(
        id="7.bound_relu",
        role="instead",
        statement="abs(Delta_k) <= epsilon (abs(W_2) abs(W_1) bold(1))_k",
        domain="the true change Δ of the second layer's output, a ReLU between the layers; all weights, biases and x, all r "
        "with |r| ≤ ε",
        variables=RELU,
        holds=lambda c: at_most(
            (_through_relu(c, c.x + c.eps * c.u) - _through_relu(c, c.x)).abs(),
            c.eps * eq.closed_stack_radius([c.w_1, c.w_2]),
        ),
        evidence=(Proof((shape(1, 2, 1),), thorough=(shape(2, 2, 1),)), Tests(SIZES)),
    ),
    Law(
        id="7.attained",
        role="claim",
        statement="max_(abs(r) <= epsilon) (W_2 W_1 r)_k = epsilon (abs(W_2) abs(W_1) bold(1))_k",
        domain="the chain as each unit's worst case, two layers with nothing between them",
        variables={"w_1": anything("h i"), "w_2": anything("o h"), "eps": nonnegative("")},
        holds=lambda c: equal(
            c.eps * eq.closed_radius(c.w_2 @ c.w_1), c.eps * eq.closed_stack_radius([c.w_1, c.w_2])
        ),
        evidence=(Counterexample((shape(1, 1, 1), shape(1, 2, 1))),),
    ),
    Law(
        id="7.attained_nonnegative",
        role="instead",
        statement="Delta = epsilon abs(W_2) abs(W_1) bold(1)",
        domain="the same change under r = ε everywhere, no negative weight, bias or input: the chain is attained by all units "
        "at once",
        variables={
            "w_1": nonnegative("h i"), "b": nonnegative("h"), "w_2": nonnegative("o h"), "x": nonnegative("n i"),
            "eps": nonnegative(""),
        },
        holds=lambda c: equal(
            _through_relu(c, c.x + c.eps) - _through_relu(c, c.x), c.eps * eq.closed_stack_radius([c.w_1, c.w_2])
        ),
        evidence=(Proof((shape(1, 2, 1), shape(2, 2, 1))), Tests(SIZES)),
    ),
)  # fmt: skip


def _input_step(c: Case) -> Tensor:
    """sign(dL/dx) through the ReLU's mask, for scalars."""
    on = torch.relu(torch.sign(eq.output_change(c.w_1, c.x) + c.b))
    return torch.sign(eq.input_gradient(on * eq.input_gradient(c.g, c.w_2), c.w_1))

"""Laws of eqs. (5) and (6): one fully connected layer, and linear layers with nothing between them."""

from __future__ import annotations

import torch
from torch import Tensor

from lat import equations as eq
from lat.proofs.comparison import at_most, equal, exactly_where
from lat.proofs.enumeration import Counterexample
from lat.proofs.law import Case, Law, anything, nonnegative, nonzero, unit
from lat.proofs.sampling import Tests, ranges
from lat.proofs.solver import Proof

LAYER = {"w": anything("o i"), "g": anything("n o")}
RADIUS = {"eps": nonnegative("")}
FREE = ranges(n=(1, 3), o=(1, 4), i=(1, 4))
SMALL = tuple({"n": 1, "o": o, "i": i} for o, i in ((1, 1), (1, 3), (3, 1), (2, 2), (2, 3)))


def _equation_6(c: Case) -> Tensor:
    return equal(eq.propagated(c.g, c.w, c.eps), eq.closed(c.g, c.w, c.eps))


def _aligned(c: Case) -> Tensor:
    """No input's products g_k w_kj have mixed signs: for n = 1, rows k and l, g_k w_kj g_l w_lj ≥ 0."""
    terms = c.g[0][:, None] * c.w
    mixed = terms[:, None] * terms
    return (mixed >= 0).all()


def _single(c: Case) -> Tensor:
    """No input feeds two units: each column of w has at most one entry that is not 0."""
    size = c.w.abs()
    return (size.sum(0) == size.amax(0)).all()


def _exact_domain(c: Case) -> Tensor:
    """For n = 1: where g_k is not 0, all inputs that feed unit k move its way; where g_k is 0, they cancel."""
    back = eq.input_gradient(c.g, c.w)[0]
    g = c.g[0]
    same = (torch.sign(back) == torch.sign(c.w * g[:, None])) | (c.w == 0)
    cancel = (c.w * torch.sign(back)).sum(1) == 0
    return (((g != 0) & same.all(1)) | ((g == 0) & cancel)).all()


LAWS = (
    Law(
        id="5.identity",
        role="claim",
        statement="W (x + r) + b = (W x + b) + W r",
        domain="all W, b, x, r",
        variables={"w": anything("o i"), "b": anything("o"), "x": anything("n i"), "r": anything("n i")},
        holds=lambda c: (
            equal((c.x + c.r) @ c.w.T + c.b, eq.adversarial_output(c.w, c.b, c.x, c.r))
            & equal((c.x + c.r) @ c.w.T - c.x @ c.w.T, eq.output_change(c.w, c.r))
        ),
        evidence=(Proof(SMALL), Tests(FREE)),
    ),
    Law(
        id="5.stack",
        role="condition",
        statement="W_2 (W_1 (x + r)) - W_2 (W_1 x) = W_2 W_1 r",
        domain="layers with nothing between them, multiplied in the order Wₙ … W₁",
        variables={"w_1": anything("h i"), "w_2": anything("o h"), "x": anything("n i"), "r": anything("n i")},
        holds=lambda c: equal(
            ((c.x + c.r) @ c.w_1.T) @ c.w_2.T - (c.x @ c.w_1.T) @ c.w_2.T,
            eq.stacked_change([c.w_1, c.w_2], c.r),
        ),
        evidence=(
            Proof(({"n": 1, "i": 1, "h": 2, "o": 1}, {"n": 1, "i": 2, "h": 2, "o": 2})),
            Tests(ranges(n=(1, 3), i=(1, 4), h=(1, 4), o=(1, 4))),
        ),
    ),
    Law(
        id="5.stack_order",
        role="claim",
        statement="W_2 W_1 r = W_1 W_2 r",
        domain="the product over i = 1, …, n read from left to right, square layers",
        variables={"w_1": anything("o o"), "w_2": anything("o o"), "r": anything("n o")},
        holds=lambda c: equal(eq.stacked_change([c.w_1, c.w_2], c.r), eq.stacked_change([c.w_2, c.w_1], c.r)),
        evidence=(Counterexample(({"n": 1, "o": 1}, {"n": 1, "o": 2})),),
    ),
    Law(
        id="5.stack_relu",
        role="claim",
        statement='W_2 op("ReLU")(W_1 (x + r)) - W_2 op("ReLU")(W_1 x) = W_2 W_1 r',
        domain="a ReLU between the layers",
        variables={"w_1": anything("h i"), "w_2": anything("o h"), "x": anything("n i"), "r": anything("n i")},
        holds=lambda c: equal(
            torch.relu((c.x + c.r) @ c.w_1.T) @ c.w_2.T - torch.relu(c.x @ c.w_1.T) @ c.w_2.T,
            eq.stacked_change([c.w_1, c.w_2], c.r),
        ),
        evidence=(Counterexample(({"n": 1, "i": 1, "h": 1, "o": 1},)),),
    ),
    Law(
        id="6.equality",
        role="claim",
        statement='W (epsilon op("sign")(W^T g)) = epsilon (abs(W) bold(1)) dot.o op("sign")(g)',
        domain="all W, no entry of g or of the input's gradient zero",
        variables={"w": anything("o i"), "g": nonzero("n o"), "eps": nonnegative("")},
        where=lambda c: (eq.input_gradient(c.g, c.w) != 0).all(),
        holds=_equation_6,
        evidence=(Counterexample(({"n": 1, "o": 1, "i": 1}, {"n": 1, "o": 1, "i": 2}, {"n": 1, "o": 2, "i": 1})),),
    ),
    Law(
        id="6.sign_of_product",
        role="claim",
        statement='op("sign")(W^T g) = op("sign")(W)^T op("sign")(g)',
        domain="line 4 of the derivation, for all W and g",
        variables=LAYER,
        holds=lambda c: equal(
            torch.sign(eq.input_gradient(c.g, c.w)), eq.input_gradient(torch.sign(c.g), torch.sign(c.w))
        ),
        evidence=(Counterexample(({"n": 1, "o": 1, "i": 1}, {"n": 1, "o": 2, "i": 1})),),
    ),
    Law(
        id="6.printed",
        role="claim",
        statement='W (epsilon op("sign")(W^T g)) = epsilon abs(W) op("sign")(g)',
        domain="the last line as printed, a matrix product: shapes fit only where W is square",
        variables={"w": anything("o o"), "g": nonzero("n o"), "eps": nonnegative("")},
        where=lambda c: (eq.input_gradient(c.g, c.w) != 0).all(),
        holds=lambda c: equal(eq.propagated(c.g, c.w, c.eps), c.eps * eq.output_change(c.w.abs(), torch.sign(c.g))),
        evidence=(Counterexample(({"n": 1, "o": 1}, {"n": 1, "o": 2})),),
    ),
    Law(
        id="6.one_unit",
        role="condition",
        statement='W (epsilon op("sign")(W^T g)) = epsilon (abs(W) bold(1)) dot.o op("sign")(g)',
        domain="a layer of one output unit",
        variables=LAYER | {"eps": anything("")},
        holds=_equation_6,
        evidence=(
            Proof(tuple({"n": 1, "o": 1, "i": i} for i in (1, 2, 3))),
            Tests(ranges(n=(1, 3), o=(1, 1), i=(1, 5)), whole=True),
        ),
    ),
    Law(
        id="6.aligned",
        role="condition",
        statement='g_k W_(k j) g_l W_(l j) >= 0 space forall j, k, l space <==> "eq. 6"',
        domain="g without a zero entry, ε > 0: the products that meet at an input share their sign, necessary and "
        "sufficient",
        variables={"w": anything("o i"), "g": nonzero("n o"), "eps": nonzero("")},
        where=lambda c: c.eps > 0,
        holds=lambda c: exactly_where(_aligned(c), _equation_6(c)),
        evidence=(
            Proof(tuple({"n": 1, "o": o, "i": i} for o, i in ((1, 2), (2, 1), (2, 2)))),
            Tests(ranges(n=(1, 1), o=(1, 3), i=(1, 4)), whole=True),
        ),
    ),
    Law(
        id="6.domain",
        role="condition",
        statement='(g_k != 0 => op("sign")(W^T g)_j = op("sign")(W_(k j) g_k) "where" W_(k j) != 0) and '
        '(g_k = 0 => (W op("sign")(W^T g))_k = 0) space <==> "eq. 6"',
        domain="all W and g, ε > 0: the exact domain, zeros included",
        variables=LAYER | {"eps": nonzero("")},
        where=lambda c: c.eps > 0,
        holds=lambda c: exactly_where(_exact_domain(c), _equation_6(c)),
        evidence=(
            Proof(tuple({"n": 1, "o": o, "i": i} for o, i in ((1, 2), (2, 1), (2, 2)))),
            Tests(ranges(n=(1, 1), o=(1, 3), i=(1, 4)), whole=True),
        ),
    ),
    Law(
        id="6.every_g",
        role="condition",
        statement='"no input feeds two units" => "eq. 6"',
        domain="all g: each column of W has at most one entry that is not 0",
        variables=LAYER | {"eps": anything("")},
        where=_single,
        holds=_equation_6,
        evidence=(Proof(tuple({"n": 1, "o": o, "i": i} for o, i in ((2, 1), (2, 2), (3, 2)))),),
    ),
    Law(
        id="6.bound",
        role="instead",
        statement="abs((W r)_k) <= epsilon (abs(W) bold(1))_k",
        domain="all W, all r with |r| ≤ ε: no unit moves further than the closed radius",
        variables={"w": anything("o i"), "u": unit("n i"), "eps": nonnegative("")},
        holds=lambda c: at_most(eq.output_change(c.w, c.eps * c.u).abs(), c.eps * eq.closed_radius(c.w)),
        evidence=(Proof(SMALL), Tests(FREE)),
    ),
    Law(
        id="6.attained",
        role="instead",
        statement='(W epsilon op("sign")(W_k))_k = epsilon (abs(W) bold(1))_k',
        domain="each unit k by itself: the bound is the exact worst case over the ball (the dual norm)",
        variables={"w": anything("o i"), "eps": nonnegative("")},
        holds=lambda c: equal((c.w * (c.eps * torch.sign(c.w))).sum(1), c.eps * eq.closed_radius(c.w)),
        evidence=(Proof(({"o": 1, "i": 3}, {"o": 2, "i": 2})), Tests(ranges(o=(1, 4), i=(1, 4)))),
    ),
    Law(
        id="6.ascent",
        role="instead",
        statement="g^T W r = epsilon norm(W^T g)_1 <= g^T R",
        domain="r = ε sign(Wᵀg), R the closed form, ε ≥ 0: the closed form promises no less than FGSM delivers",
        variables=LAYER | RADIUS,
        holds=lambda c: (
            equal((c.g * eq.propagated(c.g, c.w, c.eps)).sum(1), c.eps * eq.input_gradient(c.g, c.w).abs().sum(1))
            & at_most((c.g * eq.propagated(c.g, c.w, c.eps)).sum(1), (c.g * eq.closed(c.g, c.w, c.eps)).sum(1))
        ),
        evidence=(Proof(({"n": 1, "o": 1, "i": 2}, {"n": 1, "o": 2, "i": 1}, {"n": 1, "o": 2, "i": 2})), Tests(FREE)),
    ),
    Law(
        id="6.l_0",
        role="claim",
        statement='g^T R "depends on" W "through its zeros alone" space (l_0)',
        domain="two weights V, W with the same zeros",
        variables={"w": anything("o i"), "v": anything("o i"), "g": anything("n o"), "eps": nonnegative("")},
        where=lambda c: ((c.w == 0) == (c.v == 0)).all(),
        holds=lambda c: equal((c.g * eq.closed(c.g, c.w, c.eps)).sum(1), (c.g * eq.closed(c.g, c.v, c.eps)).sum(1)),
        evidence=(Counterexample(({"n": 1, "o": 1, "i": 1},)),),
    ),
    Law(
        id="6.l_1",
        role="instead",
        statement="g^T R = epsilon sum_k abs(g_k) norm(W_k)_1",
        domain="all W, g, ε: the first-order change of the loss is a gradient-weighted l₁ norm; doubling W doubles it",
        variables=LAYER | {"eps": anything("")},
        holds=lambda c: (
            equal((c.g * eq.closed(c.g, c.w, c.eps)).sum(1), c.eps * (c.g.abs()[:, :, None] * c.w.abs()).sum((1, 2)))
            & equal(eq.closed(c.g, 2 * c.w, c.eps), 2 * eq.closed(c.g, c.w, c.eps))
        ),
        evidence=(Proof(SMALL), Tests(FREE)),
    ),
    Law(
        id="6.mean_zero",
        role="instead",
        statement="g^T R(epsilon) + g^T R(-epsilon) = 0",
        domain="a signed random ε with a symmetric law: the first-order effect of R vanishes in expectation",
        variables=LAYER | {"eps": anything("")},
        holds=lambda c: (
            equal(
                (c.g * eq.closed(c.g, c.w, c.eps)).sum(1) + (c.g * eq.closed(c.g, c.w, -c.eps)).sum(1),
                0 * c.g.sum(1),
            )
            & equal(eq.propagated(c.g, c.w, c.eps) + eq.propagated(c.g, c.w, -c.eps), 0 * c.g)
        ),
        evidence=(Proof(SMALL), Tests(FREE)),
    ),
)

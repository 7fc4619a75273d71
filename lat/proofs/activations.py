"""Laws of eqs. (10) to (14): what a ReLU does to the perturbation."""

from __future__ import annotations

import torch
from torch import Tensor

from lat import equations as eq
from lat.proofs.comparison import at_most, equal, exactly_where
from lat.proofs.enumeration import Counterexample
from lat.proofs.law import Case, Law, anything
from lat.proofs.sampling import Tests, ranges
from lat.proofs.solver import Proof

NETWORK = {
    "w_1": anything("h i"),
    "b_1": anything("h"),
    "w_2": anything("o h"),
    "b_2": anything("o"),
    "x": anything("n i"),
    "r": anything("n i"),
}
NETWORKS = ranges(n=(1, 3), i=(1, 3), h=(1, 4), o=(1, 3))
ONE_TWO_ONE = {"n": 1, "i": 1, "h": 2, "o": 1}
SCALARS = {"w_1": anything(""), "b_1": anything(""), "w_2": anything(""), "x": anything(""), "r": anything("")}
SCALAR: dict[str, int] = {}
NUMBERS = ranges()
NEGLIGIBLE = 100
"""How many times larger than |r| the input is where r is called negligible."""


def _before(c: Case) -> Tensor:
    """z = w_1 x + b_1, for scalars."""
    return c.w_1 * c.x + c.b_1


def _true(c: Case) -> Tensor:
    """The change of the next layer's output, for scalars, by the definition of ReLU alone."""
    z = _before(c)
    return c.w_2 * torch.where(z + c.w_1 * c.r > 0, z + c.w_1 * c.r, 0 * z) - c.w_2 * torch.where(z > 0, z, 0 * z)


def _unflipped(c: Case) -> Tensor:
    """No hidden unit is on for x and off for x + r, or the other way round."""
    z = eq.output_change(c.w_1, c.x) + c.b_1
    return ((z > 0) == (z + eq.output_change(c.w_1, c.r) > 0)).all()


def _mixed(c: Case) -> Tensor:
    """Among the z_k with w_k ≠ 0 there are two of opposite signs, for n = o = 1."""
    w, z = c.w_2[0], c.z[0]
    return ((w != 0) & (z > 0)).any() & ((w != 0) & (z < 0)).any()


def _equation_14(c: Case) -> Tensor:
    return equal(_true(c), eq.masked_difference(c.w_1, c.b_1, c.w_2, c.x, c.r))


def _far(c: Case) -> Case:
    """The case at an input `NEGLIGIBLE` times m, its kink moved there too: b_1 stands for b_1 - NEGLIGIBLE w_1 m."""
    return Case(w_1=c.w_1, b_1=c.b_1 - NEGLIGIBLE * c.w_1 * c.m, w_2=c.w_2, x=NEGLIGIBLE * c.m, r=c.r)


def _equation_14_domain(c: Case) -> Tensor:
    """z is not 0, and w_1 r has its sign or is no larger; or there is nothing to see."""
    z, move = _before(c), c.w_1 * c.r
    inside = (z != 0) & ((z * move >= 0) | (move.abs() <= z.abs()))
    return inside | (c.w_2 == 0) | ((z == 0) & (move <= 0))


def _overshoot(c: Case) -> Tensor:
    """|w_2| max(|w_1 r| - |z|, 0) where w_1 r opposes z; |w_2| max(w_1 r, 0) where z = 0; 0 elsewhere."""
    z, move = _before(c), c.w_1 * c.r
    beyond = torch.relu(move.abs() - z.abs())
    return c.w_2.abs() * torch.where(z == 0, torch.relu(move), torch.where(z * move < 0, beyond, 0 * z))


def _outside_band(c: Case) -> Tensor:
    return (c.x > -c.b_1 / c.w_1 + c.r.abs()) | (c.x < -c.b_1 / c.w_1 - c.r.abs())


def _swapped_cases(c: Case) -> Tensor:
    """Eq. (13) with its two cases exchanged: the change lies left of the kink, and 0 right of it."""
    moved = torch.sign(c.w_2) * torch.sign(c.w_1) * torch.sign(c.r) * c.w_2.abs() * c.w_1.abs() * c.r.abs()
    return torch.where(c.x < -c.b_1 / c.w_1 - c.r.abs(), moved, 0 * moved)


LAWS = (
    Law(
        id="10.definition",
        role="claim",
        statement='y_"adv" = W_2 op("ReLU")(W_1 (x + r) + b_1) + b_2',
        domain="all weights, x and r: adding W₁r before the ReLU is perturbing the input of one layer",
        variables=NETWORK,
        holds=lambda c: equal(
            torch.relu((c.x + c.r) @ c.w_1.T + c.b_1) @ c.w_2.T + c.b_2,
            eq.relu_output(c.w_1, c.b_1, c.w_2, c.b_2, c.x, c.r),
        ),
        evidence=(Proof((ONE_TWO_ONE, {"n": 1, "i": 2, "h": 1, "o": 1})), Tests(NETWORKS)),
    ),
    Law(
        id="11.matrix",
        role="claim",
        statement='w_2 op("ReLU")(z) = op("ReLU")(abs(w_2) z)',
        domain="one output unit with w₂ ≥ 0, so that sign(w₂) does not matter; several hidden units",
        variables={"w_2": anything("o h"), "z": anything("n h")},
        where=lambda c: (c.w_2 >= 0).all(),
        holds=lambda c: equal(eq.relu_moved_outside(c.w_2, c.z), torch.relu(eq.output_change(c.w_2.abs(), c.z))),
        evidence=(Counterexample(({"n": 1, "o": 1, "h": 1}, {"n": 1, "o": 1, "h": 2})),),
    ),
    Law(
        id="11.scalar",
        role="condition",
        statement='w_2 op("ReLU")(z) = op("sign")(w_2) op("ReLU")(abs(w_2) z)',
        domain="scalars w₂ and z",
        variables={"w_2": anything("o h"), "z": anything("n h")},
        holds=lambda c: equal(
            eq.relu_moved_outside(c.w_2, c.z), torch.sign(c.w_2) * torch.relu(eq.output_change(c.w_2.abs(), c.z))
        ),
        evidence=(Proof(({"n": 1, "o": 1, "h": 1},)), Tests(ranges(n=(1, 1), o=(1, 1), h=(1, 1)))),
    ),
    Law(
        id="11.elements",
        role="condition",
        statement='w_2 op("ReLU")(z) = sum_k op("sign")(w_(2 k)) op("ReLU")(abs(w_(2 k)) z_k)',
        domain="one output unit, |w₂| moved inside element by element and summed outside",
        variables={"w_2": anything("o h"), "z": anything("n h")},
        holds=lambda c: equal(eq.relu_moved_outside(c.w_2, c.z)[:, 0], eq.relu_moved_inside(c.w_2, c.z).sum(1)),
        evidence=(
            Proof(({"n": 1, "o": 1, "h": 2}, {"n": 1, "o": 1, "h": 3})),
            Tests(ranges(n=(1, 3), o=(1, 1), h=(1, 5))),
        ),
    ),
    Law(
        id="11.inequality",
        role="instead",
        statement='abs(w_2) op("ReLU")(z) >= op("ReLU")(abs(w_2) z)',
        domain="all w₂ and z, equal exactly where the zₖ with w₂ₖ ≠ 0 have no mixed signs",
        variables={"w_2": anything("o h"), "z": anything("n h")},
        holds=lambda c: (
            at_most(torch.relu(eq.output_change(c.w_2.abs(), c.z)), eq.relu_moved_outside(c.w_2.abs(), c.z))
            & exactly_where(
                ~_mixed(c),
                equal(torch.relu(eq.output_change(c.w_2.abs(), c.z)), eq.relu_moved_outside(c.w_2.abs(), c.z)),
            )
        ),
        evidence=(
            Proof(({"n": 1, "o": 1, "h": 2}, {"n": 1, "o": 1, "h": 3})),
            Tests(ranges(n=(1, 1), o=(1, 1), h=(1, 5)), whole=True),
        ),
    ),
    Law(
        id="12.scalar",
        role="condition",
        statement='op("diff") = op("sign")(w_2) [op("ReLU")(abs(w_2) (w_1 x + b_1 + w_1 r)) - op("ReLU")(abs(w_2) (w_1 x + b_1))]',
        domain="scalars",
        variables=SCALARS,
        holds=lambda c: equal(eq.scalar_difference(c.w_1, c.b_1, c.w_2, c.x, c.r), _true(c)),
        evidence=(Proof((SCALAR,)), Tests(NUMBERS)),
    ),
    Law(
        id="12.matrix",
        role="claim",
        statement='op("diff") = op("ReLU")(abs(w_2) (z + W_1 r)) - op("ReLU")(abs(w_2) z)',
        domain="one output unit with w₂ ≥ 0; several hidden units z = W₁x + b₁ (inherits eq. 11)",
        variables={"w_2": anything("o h"), "z": anything("n h"), "q": anything("n h")},
        where=lambda c: (c.w_2 >= 0).all(),
        holds=lambda c: equal(
            eq.relu_moved_outside(c.w_2, c.z + c.q) - eq.relu_moved_outside(c.w_2, c.z),
            torch.relu(eq.output_change(c.w_2.abs(), c.z + c.q)) - torch.relu(eq.output_change(c.w_2.abs(), c.z)),
        ),
        evidence=(Counterexample(({"n": 1, "o": 1, "h": 1}, {"n": 1, "o": 1, "h": 2})),),
    ),
    Law(
        id="13.positive",
        role="condition",
        statement='op("diff") = "eq. 13"',
        domain="scalars, w₁ > 0, outside the band |x - x₀| ≤ |r| around the kink x₀ = -b₁/w₁",
        variables=SCALARS,
        where=lambda c: (c.w_1 > 0) & _outside_band(c),
        holds=lambda c: equal(eq.scalar_difference_by_cases(c.w_1, c.b_1, c.w_2, c.x, c.r), _true(c)),
        evidence=(Proof((SCALAR,)), Tests(NUMBERS, whole=True)),
    ),
    Law(
        id="13.negative",
        role="claim",
        statement='op("diff") = "eq. 13"',
        domain="scalars, w₁ < 0, outside the band",
        variables=SCALARS,
        where=lambda c: (c.w_1 < 0) & _outside_band(c),
        holds=lambda c: equal(_true(c), eq.scalar_difference_by_cases(c.w_1, c.b_1, c.w_2, c.x, c.r)),
        evidence=(Counterexample((SCALAR,)),),
    ),
    Law(
        id="13.swapped",
        role="instead",
        statement='op("diff") = "eq. 13 with its two cases exchanged"',
        domain="scalars, w₁ < 0, outside the band: the unit is on left of its kink",
        variables=SCALARS,
        where=lambda c: (c.w_1 < 0) & _outside_band(c),
        holds=lambda c: equal(_swapped_cases(c), _true(c)),
        evidence=(Proof((SCALAR,)), Tests(NUMBERS, whole=True)),
    ),
    Law(
        id="13.band",
        role="claim",
        statement='op("diff") in {w_2 w_1 r, 0}',
        domain="scalars, the band |x - x₀| ≤ |r|, of which eq. 13 says nothing",
        variables=SCALARS,
        where=lambda c: (c.w_1 != 0) & ~_outside_band(c),
        holds=lambda c: equal(_true(c), 0 * c.w_1) | equal(_true(c), c.w_2 * c.w_1 * c.r),
        evidence=(Counterexample((SCALAR,)),),
    ),
    Law(
        id="14.equality",
        role="claim",
        statement='op("diff") = op("ReLU")(op("sign")(w_1 x + b_1)) w_2 w_1 r',
        domain="all scalars",
        variables=SCALARS,
        holds=_equation_14,
        evidence=(Counterexample((SCALAR,)),),
    ),
    Law(
        id="14.negligible",
        role="claim",
        statement='op("diff") = op("ReLU")(op("sign")(w_1 x + b_1)) w_2 w_1 r',
        domain=f"scalars with |x| at least {NEGLIGIBLE} times |r| (x = {NEGLIGIBLE} m, its kink at b₁ - {NEGLIGIBLE} w₁m): r much "
        "smaller than x, as the paper has it",
        variables={"w_1": anything(""), "b_1": anything(""), "w_2": anything(""), "m": anything(""), "r": anything("")},
        where=lambda c: c.r.abs() <= c.m.abs(),
        holds=lambda c: _equation_14(_far(c)),
        evidence=(Counterexample((SCALAR,)),),
    ),
    Law(
        id="14.domain",
        role="condition",
        statement='z != 0 and (w_1 r z >= 0 or abs(w_1 r) <= abs(z)) space <==> space "eq. 14", quad z = w_1 x + b_1',
        domain="z = w₁x + b₁ ≠ 0 where w₁r has z's sign or is no larger than z, w₁ of either sign (scalars); beside it only "
        "where w₂ = 0, or z = 0 and w₁r ≤ 0",
        variables=SCALARS,
        holds=lambda c: exactly_where(_equation_14_domain(c), _equation_14(c)),
        evidence=(Proof((SCALAR,)), Tests(NUMBERS, whole=True)),
    ),
    Law(
        id="14.error",
        role="instead",
        statement="abs(delta) = abs(w_2) max(abs(w_1 r) - abs(z), 0)",
        domain="the exact error δ of eq. 14 for scalars where w₁r opposes z; at z = 0 it is |w₂| max(w₁r, 0), elsewhere 0",
        variables=SCALARS,
        holds=lambda c: equal((eq.masked_difference(c.w_1, c.b_1, c.w_2, c.x, c.r) - _true(c)).abs(), _overshoot(c)),
        evidence=(Proof((SCALAR,)), Tests(NUMBERS, whole=True)),
    ),
    Law(
        id="14.final",
        role="claim",
        statement='op("diff") = w_2 w_1 r',
        domain="all scalars: the paper's conclusion, the mask left out",
        variables=SCALARS,
        holds=lambda c: equal(_true(c), c.w_2 * c.w_1 * c.r),
        evidence=(Counterexample((SCALAR,)),),
    ),
    Law(
        id="14.unflipped",
        role="instead",
        statement='op("diff") = W_2 D(z) W_1 r, quad D = "the 0/1 mask of the units that are on"',
        domain="matrices, where no unit flips between x and x + r",
        variables=NETWORK,
        where=_unflipped,
        holds=lambda c: equal(
            eq.relu_output(c.w_1, c.b_1, c.w_2, c.b_2, c.x, c.r)
            - eq.relu_output(c.w_1, c.b_1, c.w_2, c.b_2, c.x, 0 * c.r),
            eq.output_change(
                c.w_2,
                torch.where(
                    eq.output_change(c.w_1, c.x) + c.b_1 > 0,
                    eq.output_change(c.w_1, c.r),
                    0 * eq.output_change(c.w_1, c.r),
                ),
            ),
        ),
        evidence=(
            Proof((ONE_TWO_ONE,), thorough=({"n": 1, "i": 2, "h": 2, "o": 1},)),
            Tests(NETWORKS, whole=True),
        ),
    ),
)

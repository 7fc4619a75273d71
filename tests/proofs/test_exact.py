"""Exact tensors: the functions of torch on rationals and on the solver's terms, against torch and by hand."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import z3
from torch import Tensor
from torch.nn import functional

from lat.equations import Geometry, convolution, convolution_input_gradient
from lat.proofs.exact import Exact, exact, symbols

A = torch.tensor([[2.0, -3.0, 0.0], [-1.0, 0.0, 4.0]], dtype=torch.float64)
B = torch.tensor([[1.0, 2.0, -2.0], [4.0, -1.0, 1.0]], dtype=torch.float64)
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "subtract from a number": lambda a, b: 1 - a,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "divide a number": lambda a, b: 3 / b,
    "matrix product": lambda a, b: a @ b.T,
    "negate": lambda a, b: -a,
    "absolute value": lambda a, b: a.abs(),
    "sign": lambda a, b: torch.sign(a),
    "ReLU": lambda a, b: functional.relu(a) + torch.relu(b),
    "clamp": lambda a, b: a.clamp(min=-1, max=2) + b.clamp(max=0),
    "larger and smaller": lambda a, b: torch.maximum(a, b) - torch.minimum(a, b),
    "sum along an axis": lambda a, b: a.sum(dim=1),
    "sum over all": lambda a, b: a.sum(),
    "sum over two axes": lambda a, b: (a[:, :, None] * b[:, None]).sum((1, 2)),
    "sum that keeps its axis": lambda a, b: a.sum(dim=0, keepdim=True),
    "mean": lambda a, b: a.mean(dim=0) + a.mean(),
    "largest along an axis": lambda a, b: a.amax(dim=1),
    "choice": lambda a, b: torch.where(a > b, a, b),
    "comparisons": lambda a, b: torch.where((a >= b) | ~((a < 0) & (b <= 4)) | (a == b) & (a != 0), a, b),
    "all and any": lambda a, b: torch.where((a > 0).all(dim=1) | (b > 3).any(dim=1), a[:, 0], b[:, 0]),
    "shapes": lambda a, b: a.view(3, 2) + b.reshape(-1).view(3, 2) + a.flatten().sum(),
    "stack": lambda a, b: torch.stack([a, b], dim=1),
    "zeros": lambda a, b: torch.zeros_like(a) + torch.full_like(b, 7),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_exact_numbers_is_torch_s(name: str) -> None:
    expected = FUNCTIONS[name](A, B)
    found = FUNCTIONS[name](exact(A), exact(B))
    assert isinstance(found, Exact)
    assert found.shape == expected.shape
    assert torch.allclose(torch.tensor(found.terms.astype(float)), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_the_solver_s_terms_is_torch_s(name: str) -> None:
    """The terms, with the numbers put in the place of the variables, come to what torch computes."""
    a, b = symbols("a", A.shape), symbols("b", B.shape)
    found, expected = FUNCTIONS[name](a, b), FUNCTIONS[name](A, B)
    values = [
        (variable, z3.RealVal(value))
        for terms, numbers in ((a, A), (b, B))
        for variable, value in zip(terms.terms.flat, numbers.flatten().tolist(), strict=True)
    ]
    for term, value in zip(found.terms.flat, expected.flatten().tolist(), strict=True):
        number = z3.simplify(z3.substitute(term, *values)) if isinstance(term, z3.ExprRef) else z3.RealVal(term)
        assert float(number.as_fraction()) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("at", "size"), [(Geometry((2,), (1,), (1,), 2), (5,)), (Geometry((1, 2), (0, 1), (2, 1), 1), (5, 4))]
)
def test_convolutions_and_their_transposes_are_torch_s(at: Geometry, size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    w = torch.randint(-3, 4, (4, 2, *[2] * at.axes), generator=generator).double()
    x = torch.randint(-3, 4, (2, 2 * at.groups, *size), generator=generator).double()
    y = convolution(w, x, at)
    assert convolution(exact(w), exact(x), at).terms.tolist() == y.tolist()
    found = convolution_input_gradient(exact(y), exact(w), at, size)
    assert found.terms.tolist() == convolution_input_gradient(y, w, at, size).tolist()


def test_exact_numbers_are_not_rounded() -> None:
    third = exact([1]) / 3
    assert third.terms[0] == Fraction(1, 3)
    assert (3 * third == exact([1])).terms.tolist() == [True]
    assert exact(torch.tensor([0.1])).terms[0] == Fraction(float(torch.tensor(0.1)))
    assert exact(torch.tensor([2.0])).terms[0] == 2 and isinstance(exact(torch.tensor([2.0])).terms[0], int)


def test_of_a_division_by_zero_nothing_is_said() -> None:
    undefined = exact([1, 0]) / exact([0, 0])
    assert not any(((undefined > 0) | (undefined <= 0) | (undefined == 0)).terms)


def test_a_function_without_an_exact_form_is_named() -> None:
    with pytest.raises(NotImplementedError, match="exp: has no exact form"):
        torch.exp(exact([1]))

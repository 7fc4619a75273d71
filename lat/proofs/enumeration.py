"""Refutations: the counterexample with the smallest whole numbers, found by trying them in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lat.proofs.comparison import watched
from lat.proofs.exact import Exact
from lat.proofs.law import Case, Finding, Law, Profile, Sizes

LARGEST = 3
"""Whole numbers up to this size are tried."""


@dataclass(frozen=True)
class Counterexample:
    """The law is false: the first case in which it fails, over the shapes of `sizes` in this order.

    Within a shape, cases come by their largest number, then by the sum of all, then with fewer negative ones first.
    Each is decided in exact rational arithmetic.
    """

    sizes: tuple[Sizes, ...]
    largest: int = LARGEST

    def gather(self, law: Law, profile: Profile, found: Mapping[str, str]) -> Finding:
        tried = 0
        for sizes in self.sizes:
            for case in _cases(law, sizes, self.largest):
                tried += 1
                failed, sides = fails(law, case)
                if failed:
                    return Finding("refuted", self._figures(law, case, sides, tried))
        figures = {"method": "counterexample", "tried": tried, "largest": self.largest}
        return Finding("contradicted" if tried else "unsupported", figures)

    def _figures(self, law: Law, case: Case, sides: tuple[Any, Any], tried: int) -> dict[str, Any]:
        assert law.variables is not None
        left, right = sides
        return {
            "method": "counterexample",
            "values": {name: _plain(getattr(case, name)) for name in law.variables},
            "left": _plain(left),
            "right": _plain(right),
            "tried": tried,
        }


def fails(law: Law, case: Case) -> tuple[bool, tuple[Any, Any]]:
    """Whether a case of exact numbers lies in the law's domain and the law fails there; and the sides it compared."""
    assert law.holds is not None
    if not all(bool(condition.terms[()]) for condition in law.conditions(case)):  # type: ignore[attr-defined]
        return False, (None, None)
    with watched() as watch:
        holds = law.holds(case)
    assert isinstance(holds, Exact)
    return not holds.terms[()], watch.sides or (None, None)


def _cases(law: Law, sizes: Sizes, largest: int) -> Iterator[Case]:
    """The cases of one shape, numbers that are not of their variable's kind left out."""
    assert law.variables is not None
    shapes = {name: variable.sized(sizes) for name, variable in law.variables.items()}
    counts = {name: _count(shape) for name, shape in shapes.items()}
    kinds = [variable.kind for name, variable in law.variables.items() for _ in range(counts[name])]
    for numbers in _smallest_first(kinds, largest):
        tensors, start = {}, 0
        for name, shape in shapes.items():
            tensors[name] = Exact(_shaped(numbers[start : start + counts[name]], shape))
            start += counts[name]
        yield law.case(tensors, sizes)


def _smallest_first(kinds: Sequence[str], largest: int) -> Iterator[tuple[int, ...]]:
    """All tuples of whole numbers of at most `largest` in size, one of each kind, smallest first."""
    for top in range(largest + 1):
        numbers = [[v for v in range(-top, top + 1) if _of_kind(v, kind)] for kind in kinds]
        layer = (t for t in itertools.product(*numbers) if max(map(abs, t), default=0) == top)
        yield from sorted(layer, key=lambda t: (sum(map(abs, t)), sum(v < 0 for v in t), [*map(abs, t)]))


def _of_kind(number: int, kind: str) -> bool:
    return {"any": True, "nonnegative": number >= 0, "nonzero": number != 0, "unit": abs(number) <= 1}[kind]


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _shaped(numbers: Sequence[int], shape: Sequence[int]) -> Any:
    if not shape:
        return numbers[0]
    step = len(numbers) // shape[0]
    return [_shaped(numbers[k * step : (k + 1) * step], shape[1:]) for k in range(shape[0])]


def _plain(value: Any) -> Any:
    """Exact numbers as JSON: whole ones as such, others as text ("1/2")."""
    if isinstance(value, Exact):
        return _plain(value.terms.tolist())
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else str(value)
    return value

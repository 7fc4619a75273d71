"""Tests: random cases of random shapes, small whole numbers and hard floating-point ones among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.extra.numpy import arrays
from torch import Tensor

from lat.proofs.comparison import TOLERANCE, watched
from lat.proofs.law import Finding, Law, Profile, Sizes, Variable

DTYPE = torch.float64
Draw = Callable[[st.SearchStrategy[Any]], Any]

WHOLE = st.integers(-3, 3).map(float)
REAL = st.one_of(WHOLE, st.floats(-8, 8, allow_subnormal=False), st.sampled_from([1e-9, -1e-9, 0.1, 64.0, -64.0]))
UNIT = st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-1, 1, allow_subnormal=False))


@dataclass(frozen=True)
class Tests:
    """The law holds in every random case, compared in float64 within `TOLERANCE`.

    `sizes` draws a case's sizes. Where `whole` is set, all numbers are small whole ones, so that signs and ties come
    out without rounding.
    """

    __test__ = False  # no class of pytest's

    sizes: Callable[[Draw], Sizes]
    whole: bool = False

    def gather(self, law: Law, profile: Profile, found: Mapping[str, str]) -> Finding:
        return tried(lambda draw: self._holds(law, draw), profile, whole=self.whole)

    def _holds(self, law: Law, draw: Draw) -> bool:
        assert law.variables is not None and law.holds is not None
        sizes = self.sizes(draw)
        tensors = {name: tensor(draw, v, v.sized(sizes), whole=self.whole) for name, v in law.variables.items()}
        if law.where is not None:
            assume(bool(law.where(law.case(tensors, sizes))))
        return bool(law.holds(law.case(tensors, sizes)))


@dataclass(frozen=True)
class Experiment:
    """A statement about networks of torch: `run` builds one from what it draws, and returns whether the law holds.

    `share` of a profile's examples are tried, at least ten.
    """

    run: Callable[[Draw], Tensor]
    share: float = 1.0

    def gather(self, law: Law, profile: Profile, found: Mapping[str, str]) -> Finding:
        examples = max(10, round(self.share * profile.examples))
        return tried(lambda draw: bool(self.run(draw)), replace(profile, examples=examples))


def tried(holds: Callable[[Draw], bool], profile: Profile, *, whole: bool = False) -> Finding:
    """Try `holds` on random draws: the number of examples, the largest relative error, and a failing example's blob.

    Cases of whole numbers are exact in float64, and have no error to keep.
    """
    count, largest = 0, 0.0

    @seed(0) if profile.derandomize else _as_it_is
    @settings(
        max_examples=profile.examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal count, largest
        with watched() as watch:
            result = holds(data.draw)
        assert watch.compared, "nothing was compared"
        assert result, f"false by a relative error of {watch.largest_error:g}"
        count += 1
        largest = max(largest, watch.largest_error)

    figures: dict[str, Any] = {"method": "tests", "numbers": "whole" if whole else str(DTYPE).removeprefix("torch.")}
    try:
        check()
    except (AssertionError, HypothesisException) as failure:
        notes = "; ".join(getattr(failure, "__notes__", []))
        return Finding("contradicted", figures | {"failure": f"{failure} ({notes})", "examples": count})
    error = {} if whole else {"tolerance": TOLERANCE[DTYPE], "largest_relative_error": float(f"{largest:.3g}")}
    return Finding("tested" if count else "unsupported", figures | {"examples": count} | error)


def tensor(draw: Draw, variable: Variable, shape: tuple[int, ...], *, whole: bool = False) -> Tensor:
    """A random tensor of the variable's kind; of whole numbers where asked for."""
    elements = WHOLE if whole else REAL
    if variable.kind == "unit":
        elements = st.sampled_from([-1.0, 0.0, 1.0]) if whole else UNIT
    elif variable.kind == "nonnegative":
        elements = elements.map(abs)
    elif variable.kind == "nonzero":
        elements = elements.filter(bool)
    return torch.from_numpy(np.array(draw(arrays(np.float64, shape, elements=elements))))


def ranges(**sizes: tuple[int, int]) -> Callable[[Draw], Sizes]:
    """Sizes drawn from a range each, ends included."""

    def drawn(draw: Draw) -> Sizes:
        return {name: draw(st.integers(*ends)) for name, ends in sizes.items()}

    return drawn


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function

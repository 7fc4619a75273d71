"""Proofs: an SMT solver shows that no real numbers make a law false, for the stated small shapes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import z3

from lat.proofs.exact import Exact, symbolic, symbols
from lat.proofs.law import Finding, Law, Profile, Sizes

TIMEOUT = {"ci": 60, "dev": 60, "thorough": 600}
"""Seconds a shape may take the solver."""


@dataclass(frozen=True)
class Proof:
    """The law's negation is unsatisfiable over all reals, for each of `sizes`; `thorough` are shapes that take long."""

    sizes: tuple[Sizes, ...]
    thorough: tuple[Sizes, ...] = ()

    def gather(self, law: Law, profile: Profile, found: Mapping[str, str]) -> Finding:
        shapes: list[dict[str, Any]] = []
        status = "proved"
        for sizes in (*self.sizes, *(self.thorough if profile.thorough else ())):
            started = time.perf_counter()
            outcome, model = decided(law, sizes, TIMEOUT[profile.name])
            shape = {key: value for key, value in sizes.items() if isinstance(value, int | list | tuple)}
            shapes.append({"sizes": shape, "outcome": outcome, "seconds": round(time.perf_counter() - started, 3)})
            if outcome != "unsat":
                status = "contradicted" if outcome == "sat" else "undecided"
                shapes[-1] |= {"model": model}
                break
        figures = {"method": "proof", "solver": f"Z3 {z3.get_version_string()}", "shapes": shapes}
        return Finding(status if shapes else "unsupported", figures)


def decided(law: Law, sizes: Sizes, seconds: int) -> tuple[str, dict[str, str]]:
    """The solver's answer on the law's negation at one shape (`unsat`, `sat` or `unknown`), and its model of `sat`."""
    assert law.variables is not None and law.holds is not None
    case = law.case({name: symbols(name, v.sized(sizes)) for name, v in law.variables.items()}, sizes)
    solver = z3.Solver()
    solver.set("timeout", 1000 * seconds)
    solver.add(*(_truth(condition) for condition in law.conditions(case)))
    solver.add(z3.Not(_truth(law.holds(case))))
    outcome = solver.check()
    if outcome != z3.sat:
        return str(outcome), {}
    model = solver.model()
    return "sat", {str(name): str(model[name]) for name in sorted(model.decls(), key=str)}


def _truth(value: Any) -> Any:
    """A single truth value as a formula."""
    assert isinstance(value, Exact) and value.terms.shape == ()
    term = value.terms[()]
    return term if symbolic(term) else z3.BoolVal(bool(term))

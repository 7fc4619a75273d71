"""A law: one statement about an equation, where it is said to hold, and the evidence that decides whether it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lat.proofs.exact import Exact

STATUSES = ("proved", "tested", "refuted")
FAILURES = ("contradicted", "undecided", "unsupported")
ROLES = ("claim", "condition", "instead", "step")
KINDS = ("any", "nonnegative", "nonzero", "unit")

Sizes = Mapping[str, Any]
"""Sizes of a case by their names in the variables' shapes, whole numbers or tuples of them, and what else is fixed in
it.
"""

Case = SimpleNamespace
"""One assignment: the law's variables as tensors, and the sizes."""


class LawError(ValueError):
    """A law that is not well formed; the message names the law and the mend."""


@dataclass(frozen=True)
class Variable:
    """A tensor of a law: its shape in names of sizes (`n *size`: `size` is a tuple), and which numbers it holds.

    `kind` is any, nonnegative, nonzero, or unit: between -1 and 1.
    """

    shape: str
    kind: str = "any"

    def sized(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape in numbers."""
        found: list[int] = []
        for name in self.shape.split():
            found += sizes[name[1:]] if name.startswith("*") else [sizes[name]]
        return tuple(found)

    def domain(self, value: Exact) -> Tensor | None:
        """Whether all elements are of the kind, as one truth value; None where any number is."""
        if self.kind == "nonnegative":
            return (value >= 0).all()
        if self.kind == "nonzero":
            return (value != 0).all()
        return ((value >= -1) & (value <= 1)).all() if self.kind == "unit" else None


def anything(shape: str) -> Variable:
    """All real numbers."""
    return Variable(shape)


def nonnegative(shape: str) -> Variable:
    """Real numbers of at least 0."""
    return Variable(shape, "nonnegative")


def nonzero(shape: str) -> Variable:
    """All real numbers but 0."""
    return Variable(shape, "nonzero")


def unit(shape: str) -> Variable:
    """Real numbers from -1 to 1: the unit ball of the L-infinity norm."""
    return Variable(shape, "unit")


@dataclass(frozen=True)
class Profile:
    """How much is tried: random examples a law, and whether the shapes that take the solver long are proved too."""

    name: str
    examples: int
    thorough: bool = False
    derandomize: bool = False


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("dev", 25),
        Profile("ci", 100, derandomize=True),
        Profile("thorough", 2000, thorough=True),
    )
}


@dataclass(frozen=True)
class Finding:
    """What one piece of evidence came to: the status that it supports or one of `FAILURES`, and the figures as JSON."""

    status: str
    figures: Mapping[str, Any]


@runtime_checkable
class Evidence(Protocol):
    """A way to decide a law."""

    def gather(self, law: Law, profile: Profile, found: Mapping[str, str]) -> Finding:
        """Decide the law; `found` holds the statuses of the laws before it."""


@dataclass(frozen=True)
class Law:
    """One statement about an equation of the paper.

    id: "<equation>.<name>". role: `claim` of the paper, `condition` under which a claim holds, what is true `instead`,
    or a `step` that others build on. statement: Typst mathematics. domain: where it is said to hold, in words.
    variables, holds: the statement as code, a truth value of a `Case`; `where` narrows its domain. Evidence of another
    form has no need of them. Raises LawError for an id, role or combination that does not fit.
    """

    id: str
    role: str
    statement: str
    domain: str
    evidence: tuple[Evidence, ...]
    variables: Mapping[str, Variable] | None = None
    holds: Callable[[Case], Tensor] | None = None
    where: Callable[[Case], Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.id.partition(".")[0].isdigit() or self.role not in ROLES:
            raise LawError(f"{self.id}: write '<equation>.<name>', and a role of {', '.join(ROLES)}")
        if (self.variables is None) != (self.holds is None):
            raise LawError(f"{self.id}: variables and holds go together; give both or neither")

    @property
    def equation(self) -> int:
        return int(self.id.partition(".")[0])

    def conditions(self, case: Case) -> list[Tensor]:
        """Truth values of an exact case: the variables' kinds, and `where`. All hold on the law's domain."""
        assert self.variables is not None
        kinds = [variable.domain(getattr(case, name)) for name, variable in self.variables.items()]
        return [kind for kind in kinds if kind is not None] + ([self.where(case)] if self.where else [])

    def case(self, tensors: Mapping[str, Tensor], sizes: Sizes) -> Case:
        return Case(**sizes, **tensors)


@dataclass(frozen=True)
class Induction:
    """A statement about stacks, from lemmas about their parts: proved where every lemma is.

    `argument` is the induction itself, written out in Typst.
    """

    lemmas: Sequence[str]
    argument: str

    def gather(self, law: Law, profile: Profile, found: Mapping[str, str]) -> Finding:
        missing = [lemma for lemma in self.lemmas if found.get(lemma) != "proved"]
        status = "undecided" if missing else "proved" if self.lemmas and self.argument else "unsupported"
        figures = {"method": "induction", "lemmas": list(self.lemmas), "argument": self.argument}
        return Finding(status, figures | ({"not_proved": missing} if missing else {}))

"""What a run file asks of its audits: further attacks and checks, and on which seeds, held to what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lat import findings
from lat.cells import Cell
from lat.run_files import RunError, chosen, described

COMPARED = {  # the settings of a check whose attacks are held against each other, so that their threats must be one
    "single_step": ("single", "iterative"),
    "more_steps": ("base", "stronger"),
    "more_restarts": ("base", "stronger"),
    "margin_restarts": ("base", "stronger"),
    "gradient_free": ("white_box", "needed", "outside"),
    "smaller_distances": ("attack", "others"),
    "noise_alone": ("noise", "needed"),
}
TOLD = ("cost", "against", "words")  # of a check: when it is made and how it is told, which changes no result
FIXED_ATTACKS = ("fgsm", "ifgsm", "pgd", "eot", "cw")  # the fixed attacks that the tables' worst case is made of
ATTACKS = "config/attacks.yaml"  # the project's own
TRANSFER = "transfer"  # the name of what an audit makes on other networks and judges on this one


@dataclass(frozen=True)
class Audit:
    """What is looked into once a network has been attacked: settings by name of further attacks and of the checks.

    `transfer` names the one of all attacks that is made on the surrogates and judged on the network; None: none is.
    `surrogates` are the cells of the same scale that serve as such. `seeds` is how many seeds of a cell, from 0 on, are
    attacked further and go through all the checks, the others through the cheap ones; None: all. `seeds_of` has the
    cells of which that is another number. `examples` is the most images that its attacks, which are capped already,
    and the transfer run on; None: as many as the attacks say.
    """

    attacks: Mapping[str, Mapping[str, Any]]
    checks: Mapping[str, Mapping[str, Any]]
    transfer: str | None = None
    surrogates: tuple[str, ...] = ()
    seeds: int | None = None
    examples: int | None = None
    seeds_of: Mapping[Cell, int] = field(default_factory=dict)

    def whole(self, cell: Cell, seed: int) -> bool:
        """Whether a seed of a cell is attacked further and goes through all the checks."""
        seeds = self.seeds_of.get(cell, self.seeds)
        return seeds is None or seed < seeds

    def harder(self, cell: Cell, seed: int) -> bool:
        """Whether a seed of a cell has further attacks to go through."""
        return self.whole(cell, seed) and bool(self.attacks or self.transfer)

    def checks_of(self, cell: Cell, seed: int) -> Mapping[str, Mapping[str, Any]]:
        """The settings of the checks that a seed of a cell goes through."""
        return self.checks if self.whole(cell, seed) else findings.chosen(self.checks, "cheap")


def _checks(file: str, which: str, attacks: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of the checks asked for ("all" or "cheap"), which name none but known attacks."""
    checks = findings.chosen(described(file, "audit"), which)
    try:
        findings.check_words(checks)
    except ValueError as error:
        raise RunError(f"{file}: {error}") from error
    threats = _threats(attacks)
    curves = [name for name, given in attacks.items() if "radii" in given]
    for name, given in checks.items():
        named = {key: _words(value) for key, value in given.items() if key not in TOLD}
        for key, words in named.items():
            known = curves if key == "curve" else [*threats, TRANSFER]
            if unknown := [word for word in words if word not in known]:
                raise RunError(f"{file}: {name}.{key}: {unknown[0]!r} is no attack; use one of {', '.join(known)}")
            if name == "certified" and (free := [word for word in words if threats.get(word, (0, 0))[1] is None]):
                raise RunError(f"{file}: {name}.{key}: {free[0]!r} has no radius; name attacks in a ball")
        compared = [word for key in COMPARED.get(name, ()) for word in named[key] if word != TRANSFER]
        if other := [word for word in compared if threats[word] != threats[compared[0]]]:
            raise RunError(
                f"{file}: {name}: {other[0]!r} and {compared[0]!r} differ in norm, radius or box; name attacks of one"
            )
    return checks


def _words(value: object) -> list[str]:
    """The names in a setting of a check: it, or the entries of its list, where they are strings."""
    return [word for word in (value if isinstance(value, list) else [value]) if isinstance(word, str)]


def _threats(attacks: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Norm, radius (None: the smallest distance) and box of each attack, by its full name: name@radius where it has
    radii, as `lat.attacks.settings` names it.
    """
    found = {}
    for name, given in attacks.items():
        radii = given.get("radii", [given.get("radius")])
        for radius in radii:
            found[f"{name}@{radius:g}" if "radii" in given else name] = (given["norm"], radius, tuple(given["box"]))
    return found


def audit_of(
    config: Mapping[str, Any],
    scale: Mapping[str, Any],
    attacks: Mapping[str, Mapping[str, Any]],
    cells: Mapping[tuple[str, str], tuple[Cell, int]],
    surrogates: Sequence[str],
) -> Audit | None:
    """The audit of a scale: its own, or the run's; None where there is none.

    `attacks` are the run's own; `cells` has the cell and the number of its seeds by (name, scale); `surrogates` names
    the cells of the scale on which attacks to be transferred may be made. Raises RunError for what does not fit.
    """
    given = scale.get("audit", config.get("audit"))
    if given is None:
        return None
    own, most = chosen(config["attacks"]["file"], "attacks", given["attacks"], "audit.attacks"), given.get("examples")
    if most is not None:
        own = {name: {**attack, "examples": min(attack["examples"] or most, most)} for name, attack in own.items()}
    if twice := sorted(set(own) & set(attacks)):
        raise RunError(f"audit.attacks: {twice[0]!r} is among the run's attacks already; leave it out here")
    if fixed := [name for name in own if name in FIXED_ATTACKS]:
        raise RunError(f"audit.attacks: {fixed[0]!r} belongs to the tables' worst case; name it in the run's attacks")
    nameable = {**described(config["attacks"]["file"], "attacks"), **described(ATTACKS, "attacks")}
    checks, seeds = _checks(given["file"], given["checks"], nameable), given.get("seeds")
    seeds_of = _seeds_of(given.get("seeds_of", {}), scale["name"], cells)
    if given["transfer"] is None:
        return Audit(own, checks, seeds=seeds, examples=most, seeds_of=seeds_of)
    attack, others = given["transfer"]["attack"], given["transfer"]["cells"]
    for key, names, known in (
        ("attack", [attack], {**attacks, **own}),
        ("cells", others, surrogates),
    ):
        if unknown := [name for name in names if name not in known]:
            raise RunError(
                f"audit.transfer.{key}: {unknown[0]!r} is not at scale {scale['name']!r}; it has {', '.join(known)}"
            )
    return Audit(own, checks, attack, tuple(others), seeds, most, seeds_of)


def _seeds_of(
    asked: Mapping[str, int], scale: str, cells: Mapping[tuple[str, str], tuple[Cell, int]]
) -> dict[Cell, int]:
    """Cell -> how many of its seeds are attacked further, of the cells of a scale for which `asked`, by name@scale,
    has another number than for the rest.
    """
    found = {}
    for label, seeds in asked.items():
        name, _, at = label.partition("@")
        if (name, at) not in cells:
            known = ", ".join(f"{cell}@{where}" for cell, where in cells)
            raise RunError(f"audit.seeds_of: {label!r} is no cell at a scale of this run; it has {known}")
        cell, own = cells[name, at]
        if seeds > own:
            raise RunError(f"audit.seeds_of: {seeds} seeds of {label!r}; it has {own}")
        if at == scale:
            found[cell] = seeds
    return found

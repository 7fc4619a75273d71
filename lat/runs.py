"""A run file with its grid becomes named cells, each with its seeds, its steps and what decides them.

A run file is complete: it says the dataset, the schedule, the scales (model, width, epochs, seeds, cells; where they
differ from the run's also dataset, training images and schedule) and, for studies, the variants (base rows and axes of
overrides). Everything wrong in it is an error before any compute.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lat import findings, sources
from lat.cells import Cell, CellError
from lat.grid import ABSENT, ROW_KEYS, SCALE_KEYS, SCHEDULE_KEYS, read_rows, resolve
from lat.run_files import ROOT, RunError, check, chosen, described, read, whole

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
SAFE = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"


@dataclass(frozen=True)
class Entry:
    """A named cell of a run at one scale, and its seeds 0 … seeds - 1. `overrides` is what a variant changed in
    `base`.
    """

    name: str
    scale: str
    cell: Cell
    seeds: int
    base: str
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Audit:
    """What is looked into once a network has been attacked: settings by name of further attacks and of the checks.

    `transfer` names the one of all attacks that is made on the surrogates and judged on the network; None: none is.
    `surrogates` are the cells of the same scale that serve as such. `seeds` is how many seeds of a cell, from 0 on, are
    attacked further and go through all the checks, the others through the cheap ones; None: all. `more` has the cells,
    by slug, of which that is another number. `examples` is the most images that its attacks, which are capped already,
    and the transfer run on; None: as many as the attacks say.
    """

    attacks: Mapping[str, Mapping[str, Any]]
    checks: Mapping[str, Mapping[str, Any]]
    transfer: str | None = None
    surrogates: tuple[str, ...] = ()
    seeds: int | None = None
    examples: int | None = None
    more: Mapping[str, int] = field(default_factory=dict)

    def seeds_of(self, entry: Entry) -> int:
        """How many of an entry's seeds are attacked further and go through all the checks."""
        seeds = self.more.get(entry.cell.slug, self.seeds)
        return entry.seeds if seeds is None else min(entry.seeds, seeds)

    def harder(self, entry: Entry, seed: int) -> bool:
        """Whether a seed has further attacks to go through."""
        return seed < self.seeds_of(entry) and bool(self.attacks or self.transfer)

    def checks_of(self, entry: Entry, seed: int) -> Mapping[str, Mapping[str, Any]]:
        """The settings of the checks that a seed goes through."""
        return self.checks if seed < self.seeds_of(entry) else findings.chosen(self.checks, "cheap")


@dataclass(frozen=True)
class Run:
    """A resolved run: the run file's values, its entries, the attacks' settings by name, and the audits by scale."""

    config: Mapping[str, Any]
    entries: tuple[Entry, ...]
    attacks: Mapping[str, Mapping[str, Any]]
    audits: Mapping[str, Audit] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def part(self) -> str:
        """The part of the dataset that is attacked: `test`, or `validation` in a study that selects."""
        return str(self.config["evaluate"])

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets of the run's cells, each once."""
        return tuple(dict.fromkeys(entry.cell.dataset for entry in self.entries))

    @property
    def audit_files(self) -> tuple[str, ...]:
        """The files that say what the audits check and how it is told, each once."""
        given = [self.config.get("audit"), *(scale.get("audit") for scale in self.config["scales"])]
        return tuple(dict.fromkeys(audit["file"] for audit in given if audit))

    def images(self, entry: Entry) -> int | None:
        """How many images of the part an entry is looked at on, a stratified draw; None: all."""
        scale = next(scale for scale in self.config["scales"] if scale["name"] == entry.scale)
        return scale.get("images", self.config.get("images"))

    def entries_of(self, *tables: str) -> list[Entry]:
        """The entries that stand in the given tables of the paper, in any reading, at the scales that belong there."""
        found = []
        for table in tables:
            names = {name for pair in _table_cells(self.config, [table]) for name in pair if name}
            scales = {scale["name"] for scale in self.config["scales"] if belongs(scale, table)}
            found += [e for e in self.entries if e.scale in scales and e.base in names and e not in found]
        return found

    def entry(self, label: str) -> Entry:
        """The entry that `label` means: a slug, `name@scale`, or a name that stands at one scale. Raises RunError
        otherwise. Where entries share a cell, its slug means the one with the most seeds.
        """
        if label in self._by_slug:
            return self._by_slug[label]
        name, _, scale = label.partition("@")
        found = [e for e in self.entries if e.name == name and scale in ("", e.scale)]
        if not found:
            known = ", ".join(dict.fromkeys(f"{e.name}@{e.scale}" for e in self.entries))
            raise RunError(f"cell: {label!r} is not in run {self.name!r}; it has {known}")
        if len(found) > 1:
            raise RunError(
                f"cell: {label!r} stands at several scales; write {name}@{found[0].scale} or {name}@{found[1].scale}"
            )
        return found[0]

    @cached_property
    def _by_slug(self) -> Mapping[str, Entry]:
        """Slug -> the entry of that cell with the most seeds, of equals the first; a slug is a digest to work out."""
        found: dict[str, Entry] = {}
        for entry in self.entries:
            slug = entry.cell.slug
            if slug not in found or entry.seeds > found[slug].seeds:
                found[slug] = entry
        return found

    def steps(self, entry: Entry, seed: int) -> tuple[str, ...]:
        """The steps that a seed of an entry goes through, in order: the audit only where its scale has one, and harder
        attacks where that has some for the seed.
        """
        audit = self.audits.get(entry.scale)
        if audit is None:
            return ("train", "attack")
        return ("train", "attack", "harder", "audit") if audit.harder(entry, seed) else ("train", "attack", "audit")

    def surrogates(self, entry: Entry, seed: int) -> dict[str, tuple[Entry, int]]:
        """Cell name -> (entry, seed) of the networks on which what is transferred to (entry, seed) is made.

        They are of another seed, 0 or for that one 1, so that nothing is shared with the network but the data (networks
        of one seed begin with the same weights and see the same batches) and more seeds change nothing. At a scale with
        one seed there are none.
        """
        if entry.scale not in self.audits or entry.seeds == 1:
            return {}
        other, names = (1 if seed == 0 else 0), self.audits[entry.scale].surrogates
        return {e.name: (e, other) for e in self.entries if e.scale == entry.scale and e.name in names}

    def sources(self, entry: Entry, step: str) -> str:
        """The digest of the code that decides a step for an entry."""
        cell = entry.cell
        further = self.audits[entry.scale].attacks if step in ("harder", "audit") else {}
        chosen = {**self.attacks, **further}
        kinds = [str(attack["kind"]) for attack in chosen.values()]
        return sources.digest(step, {cell.model, *(cell.methods if step == "train" else kinds)})

    def digests(self) -> dict[tuple[str, str], str]:
        """The present code's digest by (slug, step)."""
        return {(e.cell.slug, step): self.sources(e, step) for e in self.entries for step in self.steps(e, 0)}

    def settings(self, entry: Entry, seed: int, step: str) -> dict[str, Any]:
        """What decides a step's result beside the cell and the code: how many images are looked at where it is not all
        of them; for attacks also the part and every attack's settings, for harder ones those and the transfer's; for
        the audit the part and the settings of its checks.
        """
        count = self.images(entry)
        found: dict[str, Any] = {} if count is None else {"images": count}
        if step == "attack":
            return found | {"part": self.part, "attacks": dict(self.attacks)}
        if step == "harder":
            audit = self.audits[entry.scale]
            sample = {} if audit.examples is None else {"examples": audit.examples}
            transfer = (
                {"attack": audit.transfer, "surrogates": list(audit.surrogates)} | sample if audit.transfer else None
            )
            return found | {"part": self.part, "attacks": dict(audit.attacks), "transfer": transfer}
        if step == "audit":
            checks = {
                name: {key: value for key, value in given.items() if key not in TOLD}
                for name, given in self.audits[entry.scale].checks_of(entry, seed).items()
            }
            return found | {"part": self.part, "checks": checks}
        return found


def load(source: str | Path | Mapping[str, Any]) -> Run:
    """The run that a file, a JSON object in a string, or a mapping describes; paths in it are relative to the project.

    Raises RunError or CellError for whatever does not fit, naming the key.
    """
    config = whole(source)
    check(config, "run")
    rows = read_rows(ROOT / config["grid"])
    attacks = _attacks(config)
    entries: dict[tuple[str, str], Entry] = {}
    scales = [scale["name"] for scale in config["scales"]]
    if twice := [name for name in scales if scales.count(name) > 1]:
        raise RunError(f"scales: {twice[0]!r} stands twice; give one of them another name")
    for scale in config["scales"]:
        for name in _cells(config, scale):
            _add(entries, config, rows, scale, name, {})
    for variant in config["variants"]:
        for scale in _named_scales(config, variant["scales"]):
            for base, *choice in itertools.product(variant["bases"], *variant["axes"]):
                overrides = {key: value for part in choice for key, value in part.items()}
                _add(entries, config, rows, scale, base, overrides, variant["suffix"])
    for scale in config["scales"]:
        names = [entry.name for entry in entries.values() if entry.scale == scale["name"]]
        if scale["keep"] != "all" and (unknown := [name for name in scale["keep"] if name not in names]):
            raise RunError(f"keep: {unknown[0]!r} is not at scale {scale['name']!r}; it has {', '.join(names)}")
    _table_cells(config, config["tables"]["show"])
    audits = {scale["name"]: audit for scale in config["scales"] if (audit := _audit(config, scale, attacks, entries))}
    return Run(config, tuple(entries.values()), attacks, audits)


def tested(cell: Cell) -> str:
    """The part of the dataset on which accuracy is followed while the cell is trained."""
    return "test" if cell.part == "train" else "validation"


def belongs(scale: Mapping[str, Any], table: str) -> bool:
    """Whether a scale of a run file has the cells of `table`: where it lists cells by name, it may have any table's."""
    return not isinstance(scale["cells"], Mapping) or table in scale["cells"]["tables"]


def _cells(config: Mapping[str, Any], scale: Mapping[str, Any]) -> list[str]:
    """The names of a scale's cells: as listed, or the rows of its tables in the default reading, each once."""
    if not isinstance(scale["cells"], Mapping):
        return list(scale["cells"])
    return list(dict.fromkeys(cell for cell, _ in _table_cells(config, scale["cells"]["tables"]) if cell))


def _table_cells(config: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """The cells behind the rows of the paper's tables: in the default reading, and in the most favourable one."""
    listed = {table["id"]: table for table in read(ROOT / config["tables"]["file"], "tables", "tables.file")["tables"]}
    if unknown := [name for name in names if name not in listed]:
        raise RunError(f"tables: {unknown[0]!r} is not in {config['tables']['file']}; it has {', '.join(listed)}")
    rows = [row for name in names for row in (*listed[name]["rows"], *(listed[name].get("extra") or ()))]
    return [(row["cell"], row.get("best")) for row in rows]


def _add(
    entries: dict[tuple[str, str], Entry],
    config: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, str]],
    scale: Mapping[str, Any],
    base: str,
    overrides: Mapping[str, Any],
    suffix: str | None = None,
) -> None:
    """Adds the entry unless an equal cell stands at the scale under that base already (an override that does not bite).

    An override reaches only the rows that have its column; the entry is called by `suffix` or else by its overrides.
    """
    if base not in rows:
        raise RunError(f"cells: {base!r} is no row of {config['grid']}; it has {', '.join(rows)}")
    known = {*ROW_KEYS, *SCALE_KEYS, *SCHEDULE_KEYS}
    if unknown := sorted(set(overrides) - known):
        raise RunError(f"variants: {unknown[0]!r} cannot be overridden; use one of {', '.join(sorted(known))}")
    name = base + ("".join(f" {key}={value}" for key, value in overrides.items()) if suffix is None else suffix)
    overrides = {key: value for key, value in overrides.items() if rows[base].get(key) != ABSENT}
    try:
        cell = resolve(rows[base], config, scale, overrides)
    except (CellError, RunError) as error:
        raise type(error)(f"cell {name!r}: {error}") from error
    if not re.fullmatch(SAFE, cell.slug):
        raise RunError(
            f"cell {name!r}: its dataset or a layer gives the file name {cell.slug!r}; use letters and digits"
        )
    _registered("lat.models", "model", cell.model)
    for part in cell.methods:
        _registered("lat.defences", "method", part)
    if suffix is None and any(e.cell == cell and e.scale == scale["name"] and e.base == base for e in entries.values()):
        return
    key = (name, scale["name"])
    if key in entries:
        raise RunError(f"cells: {name!r} stands twice at scale {scale['name']!r}; name it once")
    entries[key] = Entry(name, scale["name"], cell, scale["seeds"], base, dict(overrides))


def _registered(package: str, key: str, name: str) -> None:
    known = sources.registered(package)
    if name not in known:
        raise RunError(f"{key}: {name!r} is not known; use one of {', '.join(known)}, or add it to {package}")


def _named_scales(config: Mapping[str, Any], names: Sequence[str]) -> list[Mapping[str, Any]]:
    by_name = {scale["name"]: scale for scale in config["scales"]}
    if missing := [name for name in names if name not in by_name]:
        raise RunError(f"variants: scale {missing[0]!r} is not among the scales {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _attacks(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return chosen(config["attacks"]["file"], "attacks", config["attacks"]["names"])


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


def _audit(
    config: Mapping[str, Any],
    scale: Mapping[str, Any],
    attacks: Mapping[str, Mapping[str, Any]],
    entries: Mapping[tuple[str, str], Entry],
) -> Audit | None:
    """The audit of a scale: its own, or the run's; None where there is none."""
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
    more = _more(scale, given, entries)
    if given["transfer"] is None:
        return Audit(own, checks, seeds=seeds, examples=most, more=more)
    attack, surrogates = given["transfer"]["attack"], given["transfer"]["cells"]
    for key, names, known in (
        ("attack", [attack], {**attacks, **own}),
        ("cells", surrogates, _cells(config, scale)),
    ):
        if unknown := [name for name in names if name not in known]:
            raise RunError(
                f"audit.transfer.{key}: {unknown[0]!r} is not at scale {scale['name']!r}; it has {', '.join(known)}"
            )
    return Audit(own, checks, attack, tuple(surrogates), seeds, most, more)


def _more(
    scale: Mapping[str, Any], given: Mapping[str, Any], entries: Mapping[tuple[str, str], Entry]
) -> dict[str, int]:
    """Slug -> how many seeds of it are attacked further, of the cells of a scale of which an audit names another number
    than of the rest.
    """
    named, found = {(e.name, e.scale): e for e in entries.values()}, {}
    for label, seeds in given.get("seeds_of", {}).items():
        name, _, at = label.partition("@")
        entry = named.get((name, at))
        if entry is None:
            known = ", ".join(f"{cell}@{where}" for cell, where in named)
            raise RunError(f"audit.seeds_of: {label!r} is no cell at a scale of this run; it has {known}")
        if seeds > entry.seeds:
            raise RunError(f"audit.seeds_of: {seeds} seeds of {label!r}; it has {entry.seeds}")
        if entry.scale == scale["name"]:
            found[entry.cell.slug] = seeds
    return found

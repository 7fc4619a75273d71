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
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from lat import sources
from lat.audit_settings import FIXED_ATTACKS, TOLD, Audit, audit_of
from lat.cells import Cell, CellError
from lat.grid import ABSENT, ROW_KEYS, SCALE_KEYS, SCHEDULE_KEYS, read_rows, resolve
from lat.run_files import ROOT, RunError, check, chosen, read, whole

GRID = "config/cells.tsv"  # the project's own, whose rows the tables name
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
        return (
            ("train", "attack", "harder", "audit") if audit.harder(entry.cell, seed) else ("train", "attack", "audit")
        )

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
                for name, given in self.audits[entry.scale].checks_of(entry.cell, seed).items()
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
    shown = {cell for cell, _ in _table_cells(config, config["tables"]["show"]) if cell}
    if (absent := shown - set(rows)) and (unknown := sorted(absent - set(known := read_rows(ROOT / GRID)))):
        near = ", ".join(get_close_matches(unknown[0], {**rows, **known}, cutoff=0))
        raise RunError(f"{config['tables']['file']}: cell {unknown[0]!r} is no row of a grid; the nearest are {near}")
    cells = {(entry.name, entry.scale): (entry.cell, entry.seeds) for entry in entries.values()}
    audits = {
        scale["name"]: audit
        for scale in config["scales"]
        if (audit := audit_of(config, scale, attacks, cells, _cells(config, scale)))
    }
    further = {name: given for audit in audits.values() for name, given in audit.attacks.items()}
    _check_kinds(config["attacks"]["file"], {**attacks, **further})
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
    """The settings of the run's attacks. Raises RunError where one cannot be counted with the others in the tables'
    worst case.
    """
    found = chosen(file := config["attacks"]["file"], "attacks", config["attacks"]["names"])
    fixed = [name for name in found if name in FIXED_ATTACKS]
    for name in fixed:
        given, first = found[name], found[fixed[0]]
        differs = any(given.get(key) != first.get(key) for key in ("norm", "radius", "box"))
        if differs or "radii" in given or given["examples"] is not None:
            raise RunError(
                f"{file}, {name}: the tables' attacks ({', '.join(fixed)}) make one worst case; give them one norm and "
                "radius, and all images (examples: null)"
            )
    return found


def _check_kinds(file: str, attacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises RunError where an attack is of no registered kind, or its radius is more than a box of [0, 1] is wide."""
    for kind, name in {given["kind"]: name for name, given in attacks.items()}.items():
        _registered("lat.attacks", f"{file}, {name}.kind", kind)
    for name, given in attacks.items():
        radius = max(given.get("radii", [given.get("radius") or 0]))
        if given["norm"] == "linf" and radius > 1:
            raise RunError(f"{file}, {name}.radius: {radius:g} of pixels that lie in [0, 1]; give a part of 1")

"""A run file with its grid becomes named cells: the one place where rows, scales and overrides meet.

A run file is complete: it says the dataset, the schedule, the scales (model, width, epochs, seeds, cells; where they
differ from the run's also dataset, training images and schedule) and, for studies, the variants (base rows and axes of
overrides). Everything wrong in it is an error before any compute.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from lat import sources
from lat.cells import Cell, CellError, Compute, Law, Reading, Schedule

ROOT = Path(__file__).resolve().parents[1]
ROW_KEYS = (
    "method",
    "layers",
    "law",
    "radius",
    "draw",
    "form",
    "scope",
    "pairing",
    "gradient",
    "at",
    "reset",
    "source",
    "input_law",
    "input_radius",
    "input_draw",
    "mix",
)
READING_KEYS = ("form", "scope", "pairing", "gradient", "at", "reset", "source")
SCALE_KEYS = ("model", "width", "epochs")
SCHEDULE_KEYS = ("batch", "lr", "momentum", "weight_decay", "schedule", "augmentation")
RUN_KEYS = ("dataset", "train", "compute")  # of the run file, which a scale may say otherwise
LEFT_OUT: Mapping[str, Any] = {"augmentation": Schedule(1).augmentation, "compute": {}}  # what a run file need not say
ABSENT = "-"
SAFE = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"


class RunError(ValueError):
    """A run file, grid or name in them that does not fit; the message names the key, the value and the mend."""


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
    """A resolved run: the run file's values, its entries, and the attacks' settings by name."""

    config: Mapping[str, Any]
    entries: tuple[Entry, ...]
    attacks: Mapping[str, Mapping[str, Any]]

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
        if same := [e for e in self.entries if label == e.cell.slug]:
            return max(same, key=lambda e: e.seeds)
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

    def sources(self, entry: Entry, step: str) -> str:
        """The digest of the code that decides a step for an entry."""
        cell = entry.cell
        kinds = [str(attack["kind"]) for attack in self.attacks.values()]
        return sources.digest(step, {cell.model, *(cell.methods if step == "train" else kinds)})

    def digests(self) -> dict[tuple[str, str], str]:
        """The present code's digest by (slug, step)."""
        return {(e.cell.slug, step): self.sources(e, step) for e in self.entries for step in sources.ENTRIES}

    def settings(self, entry: Entry, step: str) -> dict[str, Any]:
        """What decides a step's result beside the cell and the code: for attacks, the part and every attack's settings;
        for both, how many images are looked at where it is not all of them.
        """
        count = self.images(entry)
        images = {} if count is None else {"images": count}
        return images | ({"part": self.part, "attacks": dict(self.attacks)} if step == "attack" else {})


def load(source: str | Path | Mapping[str, Any]) -> Run:
    """The run that a file, a JSON object in a string, or a mapping describes; paths in it are relative to the project.

    Raises RunError or CellError for whatever does not fit, naming the key.
    """
    config = _read(source)
    _check(config, "run")
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
    return Run(config, tuple(entries.values()), attacks)


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
    with _opened(ROOT / config["tables"]["file"], "tables.file") as stream:
        listed = {table["id"]: table for table in _parsed(stream.read(), config["tables"]["file"])["tables"]}
    if unknown := [name for name in names if name not in listed]:
        raise RunError(f"tables: {unknown[0]!r} is not in {config['tables']['file']}; it has {', '.join(listed)}")
    rows = [row for name in names for row in (*listed[name]["rows"], *(listed[name].get("extra") or ()))]
    return [(row["cell"], row.get("best")) for row in rows]


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    """The grid's rows by name, without the comment column. Raises RunError naming the file, the line and the column."""
    with _opened(path, "grid") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        expected = ["cell", *ROW_KEYS, "comment"]
        if reader.fieldnames != expected:
            wrong = sorted(set(reader.fieldnames or ()) ^ set(expected)) or ["order"]
            raise RunError(
                f"{path.name}: column {wrong[0]!r} is missing, unknown or displaced; write {' '.join(expected)}"
            )
        rows: dict[str, dict[str, str]] = {}
        for number, row in enumerate(reader, start=2):
            if None in row or None in row.values():
                raise RunError(
                    f"{path.name}, line {number}: {len(expected)} columns, separated by tabs, are needed; "
                    f"{ABSENT!r} is none"
                )
            name = row.pop("cell")
            del row["comment"]
            if name in rows:
                raise RunError(f"{path.name}, line {number}: cell {name!r} stands twice; give it another name")
            rows[name] = row
    return rows


def resolve(
    row: Mapping[str, Any], config: Mapping[str, Any], scale: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Cell:
    """The cell of a grid row under a run file, a scale and overrides; what does not apply to its method is left out."""
    run = {**LEFT_OUT, **config["schedule"], **{key: config[key] for key in RUN_KEYS if key in config}}
    own = {key: value for key, value in scale.items() if key in (*RUN_KEYS, *SCALE_KEYS, *SCHEDULE_KEYS)}
    values = {**run, **own, **row, **overrides}
    for key, value in overrides.items():
        if not isinstance(value, str | int | float):
            raise RunError(f"{key}: {value!r} in an override; give one value, as a grid row has it")
    if not isinstance(values["width"], int):
        raise RunError(f"width: {values['width']!r} must be a whole number such as 10")
    method = str(values["method"])
    layerwise = "layerwise" in method.split("+")
    conventional = bool(set(method.split("+")) - {"standard", "layerwise"}) and values["input_law"] != ABSENT
    return Cell(
        dataset=values["dataset"],
        model=values["model"],
        width=values["width"],
        method=method,
        layers=tuple(str(values["layers"]).split(",")) if layerwise and values["layers"] != ABSENT else (),
        law=_law(values["law"], values["radius"], values["draw"], "radius") if layerwise else None,
        reading=Reading(**{key: values[key] for key in READING_KEYS}) if layerwise else None,
        input_law=_law(values["input_law"], values["input_radius"], values["input_draw"], "input_radius")
        if conventional
        else None,
        mix=conventional and _flag("mix", values["mix"]),
        schedule=Schedule(epochs=values["epochs"], **{key: values[key] for key in SCHEDULE_KEYS}),
        train=values["train"],
        part=config["part"],
        compute=Compute(**values["compute"]),
    )


def _law(kind: str, radius: object, draw: str, key: str) -> Law:
    try:
        number = float(str(radius))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RunError(f"{key}: {radius!r} is no number; write one such as 0.1")
    return Law(kind, number, draw)


def _flag(key: str, value: object) -> bool:
    flags = {"yes": True, "no": False, ABSENT: False, True: True, False: False}
    if value not in flags:
        raise RunError(f"{key}: {value!r} is neither yes nor no; write one of them")
    return flags[value]


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
    path = ROOT / config["attacks"]["file"]
    with _opened(path, "attacks.file") as stream:
        settings = _parsed(stream.read(), path.name)
    _check(settings, "attacks")
    available: Mapping[str, Mapping[str, Any]] = settings.get("attacks", settings)
    names = config["attacks"]["names"]
    if missing := [name for name in names if name not in available]:
        raise RunError(f"attacks: {missing[0]!r} is not in {config['attacks']['file']}; it has {', '.join(available)}")
    return {name: available[name] for name in names}


def _opened(path: Path, key: str) -> TextIO:
    """The file that `key` of the run file names, opened. Raises RunError where it is not there."""
    try:
        return path.open(newline="")
    except OSError as error:
        raise RunError(f"{key}: {path} cannot be read ({error.strerror}); name a file of the project") from error


def _parsed(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunError(f"{origin}: not YAML ({' '.join(str(error).split())}); mend that place") from error


def _read(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    text = str(source)
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise RunError(f"config: no JSON object ({error}); give one, or the path of a run file") from error
    try:
        found = _parsed(Path(text).read_text(), text)
    except OSError as error:
        raise RunError(
            f"config: {text} cannot be read ({error.strerror}); give a run file such as config/quick.yaml"
        ) from error
    if not isinstance(found, dict):
        raise RunError(f"config: {text} is no mapping of keys; see config/quick.yaml")
    return found


def _check(values: object, schema: str) -> None:
    """Raises RunError with the plainest violation of workflow/schemas/<schema>.schema.yaml, by its key."""
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import best_match

    whole = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict = validators.extend(Draft202012Validator, type_checker=whole)  # 10.0 would be another cell than 10
    validator = strict(yaml.safe_load((ROOT / f"workflow/schemas/{schema}.schema.yaml").read_text()))
    if error := best_match(validator.iter_errors(values)):
        place = ".".join(map(str, error.absolute_path)) or "top level"
        raise RunError(f"{schema} file, {place}: {error.message}; see workflow/schemas/{schema}.schema.yaml")

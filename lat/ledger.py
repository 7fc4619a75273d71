"""Records, one JSON file a (cell, seed, step), and the ledger that they are merged into.

A `Record` holds what was asked (the resolved cell, the settings), what came out (figures, status), and where it came
from (digests of sources, data and inputs, versions, device, wall time). Everything the report shows is read from
`ledger.csv` (long format, one row a figure) and `records.jsonl`. No torch here.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lat.cells import Cell

COLUMNS = (
    "dataset",
    "model",
    "width",
    "cell",
    "method",
    "layers",
    "epsilon",
    "seed",
    "step",
    "attack",
    "metric",
    "value",
    "n",
    "status",
    "scale",
    "slug",
)
STEPS = ("train", "attack", "harder", "audit")
STATUSES = ("ok", "diverged")
MEND = "restore the file, or delete it and run its job again"


class LedgerError(ValueError):
    """A record that cannot be read, or that is not what the run asks for; the message names the file and the mend."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and goes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; ours are read by other jobs and people
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Figure:
    """One measured number: the metric's name, its value, over how many examples, under which attack."""

    metric: str
    value: float
    n: int | None = None
    attack: str = ""


@dataclass(frozen=True)
class Record:
    """What one job of one (cell, seed, step) measured, and everything needed to trust it.

    `reasons` are those of an audit's checks that have one: why they were skipped, or what they lack. The JSON has the
    key only where there are any.
    """

    step: str
    name: str
    scale: str
    cell: Cell
    seed: int
    status: str
    figures: tuple[Figure, ...]
    settings: Mapping[str, Any]
    sources: str
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    device: str
    threads: int
    wall_s: float
    finished: str
    curve: tuple[Mapping[str, float], ...] = field(default_factory=tuple)
    imported: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, allowed in (("step", STEPS), ("status", STATUSES)):
            if getattr(self, key) not in allowed:
                raise LedgerError(f"{key}: {getattr(self, key)!r} in a record; it is one of {', '.join(allowed)}")

    @property
    def path(self) -> Path:
        """Where the record lies below a run's `records` folder."""
        return record_path(self.cell, self.seed, self.step)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        if not self.reasons:
            del values["reasons"]
        return values | {"cell": self.cell.to_json(), "slug": self.cell.slug}

    @classmethod
    def from_json(cls, values: object, origin: str = "record") -> Record:
        """The record that `to_json` wrote; raises LedgerError naming `origin` where it is not one."""
        if not isinstance(values, Mapping):
            raise LedgerError(f"{origin}: not a record but {type(values).__name__}; {MEND}")
        try:
            return cls._built(dict(values), origin)
        except LedgerError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LedgerError(f"{origin}: not a record ({error}); {MEND}") from error

    @classmethod
    def _built(cls, given: dict[str, Any], origin: str) -> Record:
        slug = given.pop("slug", None)
        given["reasons"] = {str(check): str(reason) for check, reason in given.get("reasons", {}).items()}
        known = {entry.name for entry in fields(cls)}
        if wrong := sorted(set(given) ^ known):
            state = "missing" if wrong[0] in known else "unknown"
            raise LedgerError(f"{origin}: key {wrong[0]!r} is {state}; {MEND}")
        for key, allowed in (("step", STEPS), ("status", STATUSES)):
            if given[key] not in allowed:
                raise LedgerError(f"{origin}: {key}: {given[key]!r} is not one of {', '.join(allowed)}; {MEND}")
        given["cell"] = Cell.from_json(given["cell"])
        given["figures"] = tuple(Figure(**entry) for entry in given["figures"])
        given["curve"] = tuple(given["curve"])
        record = cls(**given)
        if slug is not None and slug != record.cell.slug:
            raise LedgerError(
                f"{origin}: slug {slug!r} is not that of its cell, {record.cell.slug!r}; the file was altered: {MEND}"
            )
        return record

    def write(self, path: Path) -> None:
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in `path`; raises LedgerError naming the file where it is missing, cut short or altered."""
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise LedgerError(f"{path}: no such record; run its job") from error
        except ValueError as error:
            raise LedgerError(f"{path}: not a record ({error}); {MEND}") from error
        return cls.from_json(values, str(path))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The record's figures as rows of the ledger, `COLUMNS` each."""
        cell = self.cell
        base = {
            "dataset": cell.dataset,
            "model": cell.model,
            "width": cell.width,
            "cell": self.name,
            "method": cell.method,
            "layers": "+".join(cell.layers),
            "epsilon": cell.epsilon,
            "seed": self.seed,
            "step": self.step,
            "status": self.status,
            "scale": self.scale,
            "slug": cell.slug,
        }
        for figure in self.figures:
            yield base | {
                "attack": figure.attack,
                "metric": figure.metric,
                "value": figure.value,
                "n": "" if figure.n is None else figure.n,
            }


def record_path(cell: Cell, seed: int, step: str) -> Path:
    return Path(cell.slug) / f"seed{seed}.{step}.json"


def write_ledger(records: Iterable[Record], folder: Path) -> None:
    """`ledger.csv` and `records.jsonl` in `folder`, in an order that depends on the records alone; each atomically."""
    ordered = sorted(records, key=lambda r: (r.scale, r.name, r.cell.slug, r.seed, STEPS.index(r.step)))
    with atomic(folder / "ledger.csv") as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for record in ordered:
            writer.writerows(record.rows())
    with atomic(folder / "records.jsonl") as temporary, temporary.open("w") as stream:
        for record in ordered:
            stream.write(json.dumps(record.to_json(), sort_keys=True) + "\n")


def read_records(path: Path) -> list[Record]:
    """The records of a `records.jsonl`; raises LedgerError naming the file and line where one cannot be read."""
    records = []
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise LedgerError(f"{path}: not there; collect the run first, or give the folder of an exported one") from error
    for number, line in enumerate(lines, start=1):
        origin = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise LedgerError(f"{origin}: not a record ({error}); {MEND}") from error
        records.append(Record.from_json(values, origin))
    return records

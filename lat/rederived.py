"""Records of a run that were made again, and whether they came out the same: `rederived.json` beside the ledger.

A record of older code says how it was made, not whether the present code would make it so. `lat import --check` makes
records again and keeps here what came out, by which code and on what; the report tells it. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lat.ledger import STEPS, LedgerError, Record, atomic

FILE = "rederived.json"
OF_THE_MACHINE = ("wall_s", "step_ms", "batch", "batch_halvings")
"""The figures that say how fast and how large the machine was."""
MADE = {"train": "weights", "attack": "verdicts", "harder": "verdicts"}
"""The file that a step leaves, by the key under which its record holds the digest. An audit leaves none."""


@dataclass(frozen=True)
class Rederived:
    """What became of one record that was made again.

    `outcome` is that of the record as it was (`outcome_of`); `equal` says of the file that its step leaves and of its
    figures whether they came out the same. `sources`, `versions`, `device`, `wall_s` and `finished` are of the making
    again, as in a `Record`.
    """

    name: str
    scale: str
    slug: str
    seed: int
    step: str
    outcome: str
    equal: Mapping[str, bool]
    sources: str
    versions: Mapping[str, str]
    device: str
    wall_s: float
    finished: str

    @classmethod
    def of(cls, old: Record, new: Record) -> Rederived:
        """The record `old` beside `new`, the same job done once more."""
        made = MADE.get(old.step)
        equal = {made: new.inputs[made] == old.inputs[made]} if made else {}
        return cls(
            name=old.name,
            scale=old.scale,
            slug=old.cell.slug,
            seed=old.seed,
            step=old.step,
            outcome=outcome_of(old),
            equal=equal | {"figures": measured(new) == measured(old)},
            sources=new.sources,
            versions=new.versions,
            device=new.device,
            wall_s=new.wall_s,
            finished=new.finished,
        )

    @property
    def key(self) -> tuple[str, int, str]:
        return self.slug, self.seed, self.step

    @property
    def same(self) -> bool:
        return all(self.equal.values())

    @property
    def line(self) -> str:
        words = [f"{what} {'equal' if same else 'differ'}" for what, same in self.equal.items()]
        return f"{self.name}@{self.scale}, seed {self.seed}, {self.step}: {', '.join(words)}"


def key_of(record: Record) -> tuple[str, int, str]:
    return record.cell.slug, record.seed, record.step


def measured(record: Record) -> str:
    """What was measured but for times and memory, in writing, where what is no number is equal to itself."""
    figures = [(f.attack, f.metric, f.value, f.n) for f in record.figures if f.metric not in OF_THE_MACHINE]
    return repr((record.status, figures, [sorted(epoch.items()) for epoch in record.curve]))


def outcome_of(record: Record) -> str:
    """SHA-256 of what making a record again has to bring out: its figures, and the digest of the file it left."""
    made = record.inputs[MADE[record.step]] if record.step in MADE else ""
    return hashlib.sha256(f"{made} {measured(record)}".encode()).hexdigest()


def read(folder: Path) -> list[Rederived]:
    """What the folder of a run says was made again; nothing where it has no such file. Raises LedgerError naming the
    file where it is not one.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return [Rederived(**entry) for entry in json.loads(path.read_text())["records"]]
    except (ValueError, TypeError, KeyError) as error:
        raise LedgerError(
            f"{path}: not a list of records made again ({error}); restore the file, or delete it"
        ) from error


def write(folder: Path, entries: Iterable[Rederived]) -> None:
    """`rederived.json` in the folder, atomically; of one record the last entry stands."""
    last = {entry.key: entry for entry in entries}
    ordered = sorted(last.values(), key=lambda e: (e.scale, e.name, e.slug, e.seed, STEPS.index(e.step)))
    with atomic(folder / FILE) as temporary:
        content = {"records": [asdict(entry) for entry in ordered]}
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def summary(
    entries: Sequence[Rederived], records: Iterable[Record], sources: Mapping[tuple[str, str], str] | None
) -> dict[str, Any] | None:
    """What the report says of the entries that are of `records` as they stand; None where there are none.

    `sources` is the present code's digest by (slug, step), by which an entry is `older`; None: nobody asks. `later`
    counts the records that were made again by other code than their own.
    """
    known = {key_of(record): record for record in records}
    about = [entry for entry in entries if entry.key in known and outcome_of(known[entry.key]) == entry.outcome]
    if not about:
        return None
    by_step = [(step, [entry for entry in about if entry.step == step]) for step in STEPS]
    return {
        "records": len(about),
        "steps": [{"step": step, "records": len(mine)} for step, mine in by_step if mine],
        "later": sum(known[entry.key].sources != entry.sources for entry in about),
        "differ": [entry.line for entry in about if not entry.same],
        "older": sources and sum(sources.get((entry.slug, entry.step)) != entry.sources for entry in about),
        "devices": sorted({entry.device for entry in about}),
        "last": max(entry.finished for entry in about),
    }

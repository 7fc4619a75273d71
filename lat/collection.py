"""A run's files on disk: merging its records into a ledger, exporting a finished run, and putting one back."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lat.ledger import STEPS, LedgerError, Record, atomic, read_records, record_path, write_ledger
from lat.runs import Entry, Run


@dataclass(frozen=True)
class Folder:
    """The layout of a run's folder (`results/<run>`): where the files of a (cell, seed) lie."""

    root: Path

    def record(self, entry: Entry, seed: int, step: str) -> Path:
        return self.root / "records" / record_path(entry.cell, seed, step)

    def weights(self, entry: Entry, seed: int) -> Path:
        return self.root / "weights" / entry.cell.slug / f"seed{seed}.safetensors"

    def verdicts(self, entry: Entry, seed: int) -> Path:
        return self.root / "verdicts" / entry.cell.slug / f"seed{seed}.npz"


def jobs(run: Run) -> Iterator[tuple[Entry, int, str]]:
    """Every (entry, seed, step) of a run."""
    for entry in run.entries:
        for seed in range(entry.seeds):
            for step in STEPS:
                yield entry, seed, step


def collect(run: Run, folder: Folder, *, gaps: bool = False) -> list[tuple[Entry, int, str]]:
    """Merge the run's records into `ledger.csv` and `records.jsonl` in its folder; returns what is missing.

    Raises LedgerError naming the file, what was found and what the run asks for where a record is of other settings,
    of other code (unless it was imported) or of other weights than the training record's; and, unless `gaps`, for a
    missing record.
    """
    records, missing = [], []
    for entry, seed, step in jobs(run):
        path = folder.record(entry, seed, step)
        if gaps and not path.exists():
            missing.append((entry, seed, step))
            continue
        records.append(checked(run, entry, step, Record.read(path), path))
    _check_weights(records, folder)
    write_ledger(records, folder.root)
    return missing


def checked(run: Run, entry: Entry, step: str, record: Record, path: Path) -> Record:
    """The record under the run's own name and scale. Raises LedgerError where it is not what the run asks for."""
    mend = f"delete {path} and run its job again"
    if record.cell != entry.cell or record.step != step:
        raise LedgerError(
            f"{path}: a record of {record.cell.slug}, {record.step}; {entry.cell.slug}, {step} is asked for; {mend}"
        )
    if record.settings != run.settings(step):
        raise LedgerError(f"{path}: settings {record.settings}; {run.settings(step)} are asked for; {mend}")
    expected = run.sources(entry, step)
    if not record.imported and record.sources != expected:
        raise LedgerError(
            f"{path}: made by code with digest {record.sources[:8]}; the code's is {expected[:8]}; {mend}"
        )
    return dataclasses.replace(record, name=entry.name, scale=entry.scale)


def _check_weights(records: list[Record], folder: Folder) -> None:
    trained = {(r.cell.slug, r.seed): r.inputs["weights"] for r in records if r.step == "train"}
    for record in records:
        expected = trained.get((record.cell.slug, record.seed))
        if record.step == "attack" and expected and record.inputs["weights"] != expected:
            path = folder.root / "records" / record.path
            raise LedgerError(
                f"{path}: attacked weights {record.inputs['weights'][:8]}; the training record's are {expected[:8]}; "
                f"delete {path} and run its job again"
            )


def needs_weights(run: Run, folder: Folder, entry: Entry, seed: int) -> bool:
    """Whether the attack of (entry, seed) needs the weights: not where its record was imported and is what the run
    asks for.
    """
    if folder.weights(entry, seed).exists():
        return True
    path = folder.record(entry, seed, "attack")
    try:
        return not checked(run, entry, "attack", Record.read(path), path).imported
    except LedgerError:
        return True


def export(run: Run, folder: Folder, target: Path) -> int:
    """Copy a collected run to `target`: ledger, records, verdicts, and the weights that its scales keep. Returns
    their number.

    Files that are there already with the same bytes are left alone.
    """
    records = read_records(folder.root / "records.jsonl")
    kept = {scale["name"]: scale["keep"] for scale in run.config["scales"]}
    out = Folder(target)
    copied = 0
    for record in records:
        if record.step != "attack":
            continue
        entry = run.entry(record.cell.slug)
        _copy(folder.verdicts(entry, record.seed), out.verdicts(entry, record.seed))
        keep = kept[entry.scale]
        if keep == "all" or (entry.name in keep and record.seed == 0):
            _copy(folder.weights(entry, record.seed), out.weights(entry, record.seed))
            copied += 1
    for name in ("ledger.csv", "records.jsonl"):
        _copy(folder.root / name, target / name)
    return copied


def restore(run: Run, source: Path, folder: Folder) -> tuple[int, int]:
    """Put the records of an exported run back, marked imported: weights and verdicts first, then the record of each
    job.

    Returns how many records were put back and how many were left out because the run does not ask for them. A record
    that the folder has already stays. Raises LedgerError where a file's digest is not its record's; data must be
    prepared before, so that every record is newer than it.
    """
    wanted = {(entry.cell.slug, seed, step): entry for entry, seed, step in jobs(run)}
    exported = Folder(source)
    put = left = 0
    for record in read_records(source / "records.jsonl"):
        entry = wanted.get((record.cell.slug, record.seed, record.step))
        if entry is None or record.settings != run.settings(record.step):
            left += 1
            continue
        path = folder.record(entry, record.seed, record.step)
        if path.exists():
            continue
        pairs = {
            "weights": (exported.weights(entry, record.seed), folder.weights(entry, record.seed)),
            "verdicts": (exported.verdicts(entry, record.seed), folder.verdicts(entry, record.seed)),
        }
        key = "weights" if record.step == "train" else "verdicts"
        origin, target = pairs[key]
        if origin.exists():
            _expect(origin, record.inputs[key])
            _copy(origin, target)
        elif record.step == "attack":
            raise LedgerError(f"{origin}: missing beside its record; restore the file")
        dataclasses.replace(record, imported=True).write(path)
        put += 1
    return put, left


def _expect(path: Path, digest: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != digest:
        raise LedgerError(f"{path}: SHA-256 {found[:12]}; its record says {digest[:12]}; restore the file")


def _copy(origin: Path, target: Path) -> None:
    if target.exists() and target.read_bytes() == origin.read_bytes():
        return
    with atomic(target) as temporary:
        shutil.copyfile(origin, temporary)

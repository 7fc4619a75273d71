"""A run's files on disk: merging its records into a ledger, exporting a finished run, and putting one back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from lat import rederived
from lat.cells import FULLY_CONNECTED
from lat.ledger import STEPS, LedgerError, Record, atomic, read_records, record_path, write_ledger
from lat.runs import Entry, Run, tested

EQUIVALENCE = ("equivalence.csv", "equivalence.json")
EQUATIONS = "equations.json"
INPUTS = {
    "train": ("data", "weights"),
    "attack": ("data", "weights", "verdicts"),
    "harder": ("data", "weights", "attacked", "verdicts"),
    "audit": ("data", "weights", "attacked"),
}
VERDICTS = {"attack": "verdicts", "harder": "harder"}
Digest = Callable[[str, str, int | None], str | None]
"""The digest of (dataset, part, number of images) as it is prepared; None where it is not."""
SURROGATE = "surrogate "  # before the name of a cell: the weights of that one, on which what is transferred was made


@dataclass(frozen=True)
class Folder:
    """The layout of a run's folder (`results/<run>`): where the files of a (cell, seed) lie."""

    root: Path

    def record(self, entry: Entry, seed: int, step: str) -> Path:
        return self.root / "records" / record_path(entry.cell, seed, step)

    def weights(self, entry: Entry, seed: int) -> Path:
        return self.root / "weights" / entry.cell.slug / f"seed{seed}.safetensors"

    def verdicts(self, entry: Entry, seed: int, step: str = "attack") -> Path:
        """What the attacks of a step found."""
        return self.root / VERDICTS[step] / entry.cell.slug / f"seed{seed}.npz"

    def checkpoint(self, entry: Entry, seed: int) -> Path:
        """The state of a training that is not finished; a finished one has none."""
        return self.root / "checkpoints" / entry.cell.slug / f"seed{seed}.safetensors"

    def heartbeat(self, entry: Entry, seed: int, step: str) -> Path:
        return self.root / "heartbeats" / record_path(entry.cell, seed, step)


def jobs(run: Run) -> Iterator[tuple[Entry, int, str]]:
    """Every (entry, seed, step) of a run."""
    for entry in run.entries:
        for seed in range(entry.seeds):
            for step in run.steps(entry, seed):
                yield entry, seed, step


def collect(
    run: Run,
    folder: Folder,
    target: Path,
    *,
    data: Digest | None = None,
    only: Collection[Entry] | None = None,
    without: Collection[str] = (),
    gaps: bool = False,
) -> list[tuple[Entry, int, str]]:
    """Merge the run's records into `ledger.csv` and `records.jsonl` in `target`; returns what is missing.

    `data` is what is prepared, None where nobody looks; `only` holds the entries that are merged, None all; `without`
    the steps that are not.

    Raises LedgerError naming the file, what was found and what the run asks for where a record is of other settings,
    of other code (unless it was imported), of other data than is prepared or of other weights than the training
    record's; where verdicts, or weights that are there, are not those of the record; and, unless `gaps`, for a missing
    record. A step without the record of the one before it is missing too: nothing says what it looked at.
    """
    records, missing = [], []
    for entry, seed, step in jobs(run):
        if (only is not None and entry not in only) or step in without:
            continue
        path = folder.record(entry, seed, step)
        steps = run.steps(entry, seed)
        needed = steps[: steps.index(step) + 1]
        if gaps and not all(folder.record(entry, seed, earlier).exists() for earlier in needed):
            missing.append((entry, seed, step))
            continue
        records.append(checked(run, (entry, seed, step), path, data))
    _check_inputs(run, records, folder)
    for record in records:
        _check_file(run, record, folder)
    write_ledger(records, target)
    return missing


def checked(run: Run, job: tuple[Entry, int, str], path: Path, data: Digest | None = None) -> Record:
    """The record in `path` under the run's own name and scale. Raises LedgerError where it is not what the run asks for
    as the job (entry, seed, step), or of other `data`.
    """
    entry, seed, step = job
    record = Record.read(path)
    mend = f"delete {path} and run its job again"
    if (record.cell, record.seed, record.step) != (entry.cell, seed, step):
        raise LedgerError(
            f"{path}: a record of {record.cell.slug}, seed {record.seed}, {record.step}; "
            f"{entry.cell.slug}, seed {seed}, {step} is asked for; {mend}"
        )
    if missing := [key for key in INPUTS[step] if key not in record.inputs]:
        raise LedgerError(f"{path}: no digest of its {missing[0]}; {mend}")
    if record.settings != run.settings(entry, seed, step):
        asked = run.settings(entry, seed, step)
        raise LedgerError(f"{path}: settings {record.settings}; {asked} are asked for; {mend}")
    if not _looks_at_all(run, entry, record):
        raise LedgerError(f"{path}: looked at other steps of attacks than the run has; {mend}")
    expected = run.sources(entry, step)
    if not record.imported and record.sources != expected:
        raise LedgerError(
            f"{path}: made by code with digest {record.sources[:8]}; the code's is {expected[:8]}; {mend}"
        )
    if data and (difference := other_data(run, entry, record, data)):
        raise LedgerError(f"{path}: {difference}; {mend}")
    return dataclasses.replace(record, name=entry.name, scale=entry.scale)


def _looks_at_all(run: Run, entry: Entry, record: Record) -> bool:
    """Whether an audit's record is of harder attacks just where the run has some; true of other records."""
    return record.step != "audit" or ("harder" in record.inputs) == ("harder" in run.steps(entry, record.seed))


def other_data(run: Run, entry: Entry, record: Record, data: Digest) -> str:
    """In words, what a record of the entry was made from where it is not what is prepared; empty where it is, and where
    nothing is prepared.
    """
    cell, images = entry.cell, run.images(entry)
    parts = {"data": (run.part, images)}
    if record.step == "train":
        parts = {"data": (cell.part, cell.train), "tested": (tested(cell), images)}
    for key, (part, count) in parts.items():
        found, expected = record.inputs.get(key), data(cell.dataset, part, count)
        if found and expected and found != expected:
            return f"{key} {found[:8]} of {cell.dataset}, part {part}; prepared is {expected[:8]}"
    return ""


def data_changed(run: Run, folder: Folder, job: tuple[Entry, int, str], data: Digest) -> bool:
    """Whether there is a record of the job (entry, seed, step), and it was made from other data than is prepared."""
    try:
        return bool(other_data(run, job[0], Record.read(folder.record(*job)), data))
    except LedgerError:
        return False


def _check_inputs(run: Run, records: list[Record], folder: Folder) -> None:
    """Raises LedgerError where a record is of another file than the one that an earlier step's record describes."""
    made = {(r.cell.slug, r.seed, r.step): r.inputs for r in records}
    for record in records:
        own = (record.cell.slug, record.seed)
        needed = [("weights", (*own, "train"), "weights")] if record.step != "train" else []
        if record.step in ("harder", "audit"):
            needed.append(("attacked", (*own, "attack"), "verdicts"))
        if record.step == "audit" and "harder" in record.inputs:
            needed.append(("harder", (*own, "harder"), "verdicts"))
        if record.step == "harder":
            for name, (entry, seed) in run.surrogates(run.entry(record.cell.slug), record.seed).items():
                needed.append((SURROGATE + name, (entry.cell.slug, seed, "train"), "weights"))
        for key, maker, made_as in needed:
            expected = made.get(maker, {}).get(made_as)
            found = record.inputs.get(key, "none")
            if expected and found != expected:
                path = folder.root / "records" / record.path
                raise LedgerError(
                    f"{path}: looked at {key} {found[:8]}; the record of {maker[0]}, seed {maker[1]}, {maker[2]} says "
                    f"{expected[:8]}; delete {path} and run its job again"
                )


def _check_file(run: Run, record: Record, folder: Folder) -> None:
    """Raises LedgerError where the file that a record's step has made is not there (weights need not be), or is not
    that file.
    """
    entry = run.entry(record.cell.slug)
    if record.step in VERDICTS:
        _check_digest(record, "verdicts", folder.verdicts(entry, record.seed, record.step))
    elif (path := folder.weights(entry, record.seed)).exists():
        _check_digest(record, "weights", path)


def put_back(run: Run, folder: Folder, job: tuple[Entry, int, str], data: Digest | None = None) -> bool:
    """Whether the record of a job was imported and is what the run asks for, of the `data` that is prepared. It needs
    no weights then, and stands whenever those that are there were made.
    """
    try:
        return checked(run, job, folder.record(*job), data).imported
    except LedgerError:
        return False


def kept(run: Run, folder: Folder) -> list[tuple[Entry, int]]:
    """The (entry, seed) of fully connected networks whose weights the run's scales keep, each of a scale once: what
    `lat equivalence` looks into.

    An imported record whose weights did not come with it is left out, as its weights cannot be had without training.
    """
    keep = {scale["name"]: scale["keep"] for scale in run.config["scales"]}
    found = {
        (entry.scale, entry.cell.slug, seed): (entry, seed)
        for entry in reversed(run.entries)
        if entry.cell.model in FULLY_CONNECTED
        for seed in range(entry.seeds)
        if keep[entry.scale] == "all" or (entry.name in keep[entry.scale] and seed == 0)
    }
    ordered = sorted(found.values(), key=lambda pair: (run.entries.index(pair[0]), pair[1]))
    return [
        (entry, seed)
        for entry, seed in ordered
        if folder.weights(entry, seed).exists() or not put_back(run, folder, (entry, seed, "attack"))
    ]


def export(run: Run, folder: Folder, target: Path) -> int:
    """Copy a collected run to `target`: ledger, records, verdicts, the weights that its scales keep, what was
    measured on those, which records were made again, and what was found of the equations (each where it was). Returns
    the number of weights.

    Files that are there already with the same bytes are left alone. Raises LedgerError where a file is missing or is
    not the one that its record describes, or where something was measured on other weights than the records'.
    """
    records = read_records(folder.root / "records.jsonl")
    keeps = {scale["name"]: scale["keep"] for scale in run.config["scales"]}
    _check_equivalence(records, folder)
    out = Folder(target)
    copied = 0
    for record in records:
        entry = run.entry(record.cell.slug)
        if record.scale not in keeps:
            raise LedgerError(
                f"{folder.root}: its ledger has scale {record.scale!r}, the run has not; collect it again"
            )
        keep = keeps[record.scale]
        if record.step in VERDICTS:
            places = (place.verdicts(entry, record.seed, record.step) for place in (folder, out))
            _copy_checked(record, "verdicts", *places)
        elif record.step == "train" and (keep == "all" or (record.name in keep and record.seed == 0)):
            _copy_checked(record, "weights", folder.weights(entry, record.seed), out.weights(entry, record.seed))
            copied += 1
    for name in ("ledger.csv", "records.jsonl"):
        _copy(folder.root / name, target / name)
    for path in (*(folder.root / name for name in (*EQUIVALENCE, rederived.FILE)), folder.root.parent / EQUATIONS):
        if path.exists():
            _copy(path, target / path.name)
    with atomic(target / "config.json") as temporary:
        temporary.write_text(json.dumps(dict(run.config), indent=1, sort_keys=True) + "\n")
    return copied


def _check_equivalence(records: list[Record], folder: Folder) -> None:
    """Raises LedgerError where `equivalence.json` names other weights of a network than its training record."""
    path = folder.root / EQUIVALENCE[-1]
    if not path.exists():
        return
    trained = {(r.cell.slug, r.seed): r.inputs["weights"] for r in records if r.step == "train"}
    for network in json.loads(path.read_text())["networks"]:
        expected = trained.get((network["slug"], network["seed"]), "none")
        if network["weights"] != expected:
            raise LedgerError(
                f"{path}: weights {network['weights'][:8]} of {network['cell']}@{network['scale']}, seed "
                f"{network['seed']}; its record says {expected[:8]}; run `lat equivalence` again"
            )


def restore(run: Run, source: Path, folder: Folder, data: Digest | None = None) -> tuple[int, int]:
    """Put the records of an exported run back, marked imported: weights and verdicts first, then the record of each
    job, step by step, since what is transferred was made on networks of other seeds.

    Returns how many records were put back and how many were left out because the run does not ask for them. A record
    that the folder has already stays. Raises LedgerError where a file's digest is not its record's, a record is of
    other `data` than is prepared, or the run asks for none of the records; data must be prepared before, so that every
    record is newer than it.
    """
    wanted = {(entry.cell.slug, seed, step): entry for entry, seed, step in jobs(run)}
    exported, records = Folder(source), read_records(source / "records.jsonl")
    put = left = 0
    for record in sorted(records, key=lambda found: STEPS.index(found.step)):
        entry = wanted.get((record.cell.slug, record.seed, record.step))
        asked = entry and record.settings == run.settings(entry, record.seed, record.step)
        if entry is None or not asked or not _looks_at_all(run, entry, record):
            left += 1
            continue
        path = folder.record(entry, record.seed, record.step)
        if path.exists():
            continue
        if data and (difference := other_data(run, entry, record, data)):
            raise LedgerError(f"{source}: {record.path}: {difference}; prepare the data that it was made from")
        if record.step in VERDICTS:
            places = (place.verdicts(entry, record.seed, record.step) for place in (exported, folder))
            _copy_checked(record, "verdicts", *places)
        elif record.step == "train" and exported.weights(entry, record.seed).exists():
            _copy_checked(record, "weights", *(place.weights(entry, record.seed) for place in (exported, folder)))
        dataclasses.replace(record, imported=True).write(path)
        put += 1
    if left and left == len(records):
        raise LedgerError(f"{source}: run {run.name!r} asks for none of its {left} records; name their run (--config)")
    return put, left


def _copy_checked(record: Record, key: str, origin: Path, target: Path) -> None:
    """Copies the file whose digest the record holds under `key`; raises LedgerError where it is not that file."""
    _check_digest(record, key, origin)
    _copy(origin, target)


def _check_digest(record: Record, key: str, origin: Path) -> None:
    if not origin.exists():
        raise LedgerError(f"{origin}: missing beside its record; restore the file, or run its job again")
    with origin.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    expected = record.inputs.get(key, "none")
    if found != expected:
        raise LedgerError(
            f"{origin}: SHA-256 {found[:12]}; its record says {expected[:12]}; restore the file, or run its job again"
        )


def _copy(origin: Path, target: Path) -> None:
    if target.exists() and target.read_bytes() == origin.read_bytes():
        return
    with atomic(target) as temporary:
        shutil.copyfile(origin, temporary)

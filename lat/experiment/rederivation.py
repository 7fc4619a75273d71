"""Records of an exported run made again, and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lat.cells import seed_for
from lat.collection import Folder, jobs
from lat.environment import hardware, versions
from lat.experiment.attack_step import attack
from lat.experiment.audit_step import Audited, audit_cell
from lat.experiment.harder_step import Attacked, attack_harder
from lat.experiment.job import Job
from lat.experiment.training_step import train
from lat.ledger import STEPS, Record, read_records
from lat.rederived import Rederived, key_of, outcome_of
from lat.runs import Entry, Run


def chosen(run: Run, source: Path, records: Iterable[Record], count: int) -> list[Record]:
    """The first `count` of a run's `records`, exported to `source`, by a hash of their names, of those that can be made
    again: trainings, and later steps of networks whose weights were exported.
    """
    exported = Folder(source)
    possible = [r for r in records if all(path.exists() for path in _weights_of(run, exported, r))]
    return sorted(possible, key=lambda r: seed_for(r.cell.slug, r.seed, r.step))[:count]


def rederive(
    run: Run, source: Path, data_root: Path, count: int, known: Iterable[Rederived] = ()
) -> Iterator[Rederived]:
    """Make the `chosen` records of an exported run again and compare each with what it was.

    A training is the same when its weights are, bit for bit, a later step when its verdicts are; and when what was
    measured is, but for times and memory. What is `known` of a record as it is, from the present code, versions and
    hardware, stands and is not made again. Another machine or version may differ in last bits.
    """
    exported, here = Folder(source), (versions(), hardware("cpu"))
    found = {entry.key: entry for entry in known if (dict(entry.versions), entry.device) == here}
    asked = {(entry.cell, seed, step) for entry, seed, step in jobs(run)}
    records = [r for r in read_records(source / "records.jsonl") if (r.cell, r.seed, r.step) in asked]
    with tempfile.TemporaryDirectory() as name:
        for old in chosen(run, source, records, count):
            entry, folder, before = run.entry(old.cell.slug), Folder(Path(name)), found.get(key_of(old))
            if before and (before.outcome, before.sources) == (outcome_of(old), run.sources(entry, old.step)):
                yield before
                continue
            for other in records:  # a step reads the records of those before it
                if (other.cell, other.seed) == (old.cell, old.seed) and STEPS.index(other.step) < STEPS.index(old.step):
                    other.write(folder.record(entry, old.seed, other.step))
            yield Rederived.of(old, _again(run, entry, old, exported, folder, data_root))


def _weights_of(run: Run, exported: Folder, record: Record) -> list[Path]:
    """The weights that a record's step begins with."""
    entry, seed = run.entry(record.cell.slug), record.seed
    own = [] if record.step == "train" else [(entry, seed)]
    others = run.surrogates(entry, seed).values() if record.step == "harder" else ()
    return [exported.weights(*pair) for pair in (*own, *others)]


def _again(run: Run, entry: Entry, old: Record, exported: Folder, folder: Folder, data_root: Path) -> Record:
    """The job of a record done once more in `folder`, where the records of the steps before it are."""
    job, path = Job.of(run, entry, old.seed, old.step, data_root), folder.record(entry, old.seed, old.step)
    if old.step == "train":
        return train(job, folder.weights(entry, old.seed), path)
    weights = exported.weights(entry, old.seed)
    if old.step == "attack":
        return attack(job, run.attacks, run.part, weights, path, folder.verdicts(entry, old.seed))

    def left_by(step: str) -> Attacked:
        return Attacked(weights, folder.record(entry, old.seed, step), exported.verdicts(entry, old.seed, step))

    if old.step == "harder":
        surrogates = {name: exported.weights(*pair) for name, pair in run.surrogates(entry, old.seed).items()}
        verdicts = folder.verdicts(entry, old.seed, old.step)
        return attack_harder(job, run, entry, left_by("attack"), surrogates, path, verdicts)
    harder = left_by("harder") if "harder" in run.steps(entry, old.seed) else None
    return audit_cell(job, run, entry, Audited(left_by("attack"), harder, path))

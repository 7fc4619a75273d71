"""Records of an exported run made again, and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from lat.cells import seed_for
from lat.collection import Folder, jobs
from lat.experiment.attack_step import attack
from lat.experiment.job import Job
from lat.experiment.training_step import train
from lat.ledger import read_records
from lat.runs import Run


def rederive(run: Run, source: Path, data_root: Path, count: int) -> Iterator[tuple[str, bool]]:
    """Make `count` records of an exported run again and compare: a line for each, and whether it came out the same.

    A training is the same when its weights are, bit for bit; an attack, whose weights must have been exported, when its
    verdicts are. Which records follows from their names alone. Another machine or version may differ in last bits.
    """
    exported = Folder(source)
    records = [
        r for r in read_records(source / "records.jsonl") if (r.cell, r.seed) in {(e.cell, s) for e, s, _ in jobs(run)}
    ]
    possible = [r for r in records if r.step == "train" or exported.weights(run.entry(r.cell.slug), r.seed).exists()]
    chosen = sorted(possible, key=lambda r: seed_for(r.cell.slug, r.seed, r.step))[:count]
    with tempfile.TemporaryDirectory() as name:
        for old in chosen:
            entry, folder = run.entry(old.cell.slug), Folder(Path(name))
            job = Job.of(run, entry, old.seed, old.step, data_root)
            path = folder.record(entry, old.seed, old.step)
            weights = folder.weights(entry, old.seed)
            if old.step == "train":
                new = train(job, weights, path)
                key = "weights"
            else:
                exported_weights = exported.weights(entry, old.seed)
                new = attack(job, run.attacks, run.part, exported_weights, path, folder.verdicts(entry, old.seed))
                key = "verdicts"
            equal = new.inputs[key] == old.inputs[key]
            yield (
                f"{entry.name}@{entry.scale}, seed {old.seed}, {old.step}: {key} {'equal' if equal else 'differ'}",
                equal,
            )

"""The harder step: a network that has been attacked goes through the further attacks of its scale's audit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lat import attacks, data, evaluation, heartbeats, training
from lat.audit_settings import FIXED_ATTACKS, TRANSFER
from lat.cells import own_seed
from lat.collection import SURROGATE, Folder
from lat.environment import prepare_torch
from lat.experiment.attack_step import attack_figures, told
from lat.experiment.job import Job, Report, at_once, file_digest, network_of, record_of
from lat.ledger import Figure, LedgerError, Record
from lat.runs import Entry, Run
from lat.shared_images import over_all


@dataclass(frozen=True)
class Attacked:
    """A network and what a step of attacks left of it: its weights, and that step's record and verdicts."""

    weights: Path
    record: Path
    verdicts: Path

    @classmethod
    def of(cls, folder: Folder, entry: Entry, seed: int, step: str = "attack") -> Attacked:
        """Those of (entry, seed) in a run's folder."""
        return cls(folder.weights(entry, seed), folder.record(entry, seed, step), folder.verdicts(entry, seed, step))

    def load(self) -> tuple[Record, evaluation.Evaluation]:
        """The record, and what the step found. Raises LedgerError where it is of other weights or verdicts."""
        record = Record.read(self.record)
        for key, path in (("weights", self.weights), ("verdicts", self.verdicts)):
            if not path.is_file():
                raise LedgerError(f"{path}: no {key} there; run the job that makes them first")
            if (digest := file_digest(path)) != record.inputs[key]:
                raise LedgerError(
                    f"{self.record}: of {key} {record.inputs[key][:8]}; {path} has {digest[:8]}; delete {self.record} "
                    "and run its job again"
                )
        return record, evaluation.load_verdicts(self.verdicts)


def attack_harder(
    job: Job,
    run: Run,
    entry: Entry,
    files: Attacked,
    surrogates: Mapping[str, Path],
    record: Path,
    verdicts: Path,
    report: Report = lambda attack, done, images: None,
) -> Record:
    """Run the audit's own attacks on the job's network; writes the verdicts and then the record.

    `surrogates` are the weights of the networks on which what is transferred is made, by cell name; nothing is
    transferred where there are none, and a figure says so. `report` hears of the attacks as `attack`'s does. Raises
    LedgerError where weights are missing or of another network, and where the attack step was of other weights.
    """
    prepare_torch(job.device)
    with heartbeats.beating(job.heartbeat, "harder") as heart:
        return _attack_harder(job, run, entry, files, surrogates, (record, verdicts), heart, report)


def _attack_harder(
    job: Job,
    run: Run,
    entry: Entry,
    files: Attacked,
    surrogates: Mapping[str, Path],
    paths: tuple[Path, Path],
    heart: heartbeats.Heart,
    report: Report,
) -> Record:
    started = time.perf_counter()
    record, verdicts = paths
    images = data.load(job.cell.dataset, run.part, job.data_root, job.images)
    attacked, before = files.load()
    model, plan = network_of(job, files.weights, images), run.audits[entry.scale]
    others = {name: network_of(job, path, images) for name, path in surrogates.items()}
    x, y = data.tensors(images, job.device)
    given = attacks.from_settings({**run.attacks, **plan.attacks})
    own = {name: attack for name, attack in given.items() if name.split("@")[0] in plan.attacks}
    if plan.transfer and others:
        own[TRANSFER] = attacks.Transfer(sampled(given[plan.transfer], plan.examples), others)
    seed, batch = own_seed(job.cell, job.seed, "audit"), at_once(job.cell.model, job.device)
    found = evaluation.evaluate(model, x, y, own, seed, batch, told(heart, own, len(y), report))
    evaluation.save_verdicts(verdicts, found)
    lacking = (Figure("surrogates", 0, attack=TRANSFER),) if plan.transfer and not others else ()
    made = record_of(
        job,
        "harder",
        diverged=not found.finite or training.has_diverged(model, 0.0, float(before.clean.mean()), images.classes),
        figures=(*attack_figures(found), *lacking, *worst_figures(before, found, {**given, **own})),
        settings=run.settings(entry, job.seed, "harder"),
        inputs={
            "data": images.digest,
            "weights": attacked.inputs["weights"],
            "attacked": attacked.inputs["verdicts"],
            "verdicts": file_digest(verdicts),
            **{SURROGATE + name: file_digest(path) for name, path in surrogates.items()},
        },
        started=started,
    )
    made.write(record)
    return made


def sampled(attack: attacks.Attack, most: int | None) -> attacks.Attack:
    """The attack on `most` images at most; as it is where that is None."""
    if most is None:
        return attack
    return replace(attack, examples=min(attack.examples or most, most))  # type: ignore[type-var]


def worst_figures(
    before: evaluation.Evaluation, found: evaluation.Evaluation, given: Mapping[str, attacks.Attack]
) -> list[Figure]:
    """The worst case over all attacks, before and now, and that over the fixed ones on the same images, as
    `lat.shared_images` has them. `given` are the attacks.
    """
    threats = {name: attack.threat for name, attack in given.items()}
    index, verdicts = {**before.index, **found.index}, {**before.verdicts, **found.verdicts}
    n, values = over_all(index, verdicts, threats, FIXED_ATTACKS, len(before.clean))
    return [Figure("robust_accuracy", value, n=n, attack=name) for name, value in values.items()]

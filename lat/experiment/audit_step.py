"""The audit step: what the attacks found of a network is looked into, check by check."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lat import attacks, audit, data, heartbeats
from lat.audit_settings import TRANSFER
from lat.cells import own_seed
from lat.collection import Folder
from lat.environment import prepare_torch
from lat.experiment.harder_step import Attacked
from lat.experiment.job import Job, network_of, record_of
from lat.ledger import Figure, Record
from lat.runs import Entry, Run

ROBUST = "robust_accuracy"


@dataclass(frozen=True)
class Audited:
    """The files that an audit reads: the network and what the attack step left of it, and the record and verdicts of
    the harder attacks, None where there are none; and the record that it writes.
    """

    attacked: Attacked
    harder: Attacked | None
    record: Path

    @classmethod
    def of(cls, run: Run, folder: Folder, entry: Entry, seed: int) -> Audited:
        """Those of (entry, seed) in a run's folder."""
        harder = "harder" in run.steps(entry, seed)
        return cls(
            Attacked.of(folder, entry, seed),
            Attacked.of(folder, entry, seed, "harder") if harder else None,
            folder.record(entry, seed, "audit"),
        )


def audit_cell(
    job: Job,
    run: Run,
    entry: Entry,
    files: Audited,
    tell: Callable[[audit.Result], None] = lambda result: None,
) -> Record:
    """Make the checks that the run has for the job's network and seed; writes the record.

    `tell` hears what each check found. Raises LedgerError where weights are missing or of another network, and where
    attacks were of other weights or left other verdicts; AuditError where nothing that was measured is to be trusted.
    """
    prepare_torch(job.device)
    with heartbeats.beating(job.heartbeat, "audit") as heart:
        return _audit(job, run, entry, files, heart, tell)


def _audit(
    job: Job,
    run: Run,
    entry: Entry,
    files: Audited,
    heart: heartbeats.Heart,
    tell: Callable[[audit.Result], None],
) -> Record:
    started = time.perf_counter()
    images = data.load(job.cell.dataset, run.part, job.data_root, job.images)
    places = {"attacked": files.attacked, "harder": files.harder}
    before = {key: place.load() for key, place in places.items() if place}
    records, found = [record for record, _ in before.values()], [step for _, step in before.values()]
    model, plan = network_of(job, files.attacked.weights, images), run.audits[entry.scale]
    x, y = data.tensors(images, job.device)
    given = attacks.from_settings({**run.attacks, **plan.attacks})
    if plan.transfer:  # by whichever networks it is made, its threat is that of the attack
        given[TRANSFER] = given[plan.transfer]
    subject = audit.Subject(
        model,
        x,
        y,
        verdicts={name: (step.index[name], step.verdicts[name]) for step in found for name in step.verdicts},
        clean=found[0].clean,
        attacks=given,
        seed=own_seed(job.cell, job.seed, "audit"),
        distances={name: distance for step in found for name, distance in step.distances.items()},
        reported=reported(*records),
    )
    checks = plan.checks_of(entry.cell, job.seed)
    results: list[audit.Result] = []
    for number, (name, settings) in enumerate(checks.items()):
        heart.beat(done=number, total=len(checks), note=name)
        for result in audit.examine(subject, {name: settings}):
            results.append(result)
            tell(result)
    made = record_of(
        job,
        "audit",
        diverged=any(record.status == "diverged" for record in records),
        figures=tuple(check_figures(results)),
        settings=run.settings(entry, job.seed, "audit"),
        inputs={
            "data": images.digest,
            "weights": records[0].inputs["weights"],
            **{key: record.inputs["verdicts"] for key, (record, _) in before.items()},
        },
        started=started,
        reasons={result.check: result.reason for result in results if result.reason},
    )
    made.write(files.record)
    return made


def reported(attacked: Record, harder: Record | None = None) -> dict[str, float | None]:
    """The accuracies that the records of the attacks report, by attack, as an audit's subject names them."""
    found: dict[str, float | None] = {}
    if harder:
        found |= {figure.attack: figure.value for figure in harder.figures if figure.metric == ROBUST}
        found |= {"all_attacks": found.pop("worst_case", None), "fixed_attacks": found.get("fixed_attacks")}
    return found | {figure.attack: figure.value for figure in attacked.figures if figure.metric == ROBUST}


def check_figures(results: Iterable[audit.Result]) -> list[Figure]:
    """For each result of a check its value under the status as metric, and what it was compared with."""
    figures = []
    for result in results:
        figures.append(Figure(result.status, result.value, n=result.n, attack=result.check))
        if not math.isnan(result.threshold):
            figures.append(Figure("threshold", result.threshold, attack=result.check))
    return figures

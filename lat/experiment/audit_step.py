"""The audit step: a network that has been attacked is attacked harder, and its verdicts are looked into."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lat import attacks, audit, data, evaluation, heartbeats, training
from lat.cells import own_seed
from lat.collection import SURROGATE, Folder
from lat.environment import prepare_torch
from lat.experiment.attack_step import attack_figures, told, whole_worst_case
from lat.experiment.job import Job, Report, at_once, file_digest, network_of, record_of
from lat.findings import ENOUGH
from lat.ledger import Figure, LedgerError, Record
from lat.runs import FIXED_ATTACKS, TRANSFER, Entry, Run


@dataclass(frozen=True)
class Audited:
    """The files that an audit reads: the network's weights, the record and verdicts of the attack step, the surrogates'
    weights by cell name; and those that it writes.
    """

    weights: Path
    attack: Path
    attacked: Path
    surrogates: Mapping[str, Path]
    record: Path
    verdicts: Path

    @classmethod
    def of(cls, run: Run, folder: Folder, entry: Entry, seed: int) -> Audited:
        """Those of (entry, seed) in a run's folder."""
        surrogates = {name: folder.weights(*pair) for name, pair in run.surrogates(entry, seed).items()}
        return cls(
            folder.weights(entry, seed),
            folder.record(entry, seed, "attack"),
            folder.verdicts(entry, seed),
            surrogates,
            folder.record(entry, seed, "audit"),
            folder.verdicts(entry, seed, "audit"),
        )


def audit_cell(
    job: Job,
    run: Run,
    entry: Entry,
    files: Audited,
    report: Report = lambda attack, done, images: None,
    tell: Callable[[audit.Result], None] = lambda result: None,
) -> Record:
    """Run the audit of the entry's scale on the job's network; writes the verdicts of its attacks and then the record.

    Nothing is transferred where there are no surrogates, and a figure says so. `report` hears of the attacks as
    `attack`'s does, and `tell` of what each check found. Raises LedgerError where weights are missing or of another
    network, and where the attack step was of other weights or says otherwise than its verdicts; AuditError where
    nothing that was measured is to be trusted.
    """
    prepare_torch(job.device)
    with heartbeats.beating(job.heartbeat, "audit") as heart:
        return _audit(job, run, entry, files, heart, report, tell)


def _audit(
    job: Job,
    run: Run,
    entry: Entry,
    files: Audited,
    heart: heartbeats.Heart,
    report: Report,
    tell: Callable[[audit.Result], None],
) -> Record:
    started = time.perf_counter()
    images = data.load(job.cell.dataset, run.part, job.data_root, job.images)
    before = attacked(files)
    model, plan = network_of(job, files.weights, images), run.audits[entry.scale]
    surrogates = {name: network_of(job, path, images) for name, path in files.surrogates.items()}
    x, y = data.tensors(images, job.device)
    given = attacks.from_settings({**run.attacks, **plan.attacks})
    own = {name: attack for name, attack in given.items() if name.split("@")[0] in plan.attacks}
    if plan.transfer and surrogates:
        own[TRANSFER] = attacks.Transfer(sampled(given[plan.transfer], plan.examples), surrogates)
    seed, batch = own_seed(job.cell, job.seed, "audit"), at_once(job.cell.model, job.device)
    found = evaluation.evaluate(model, x, y, own, seed, batch, told(heart, own, len(y), report))
    evaluation.save_verdicts(files.verdicts, found)
    subject = audit.Subject(
        model,
        x,
        y,
        verdicts={name: (step.index[name], step.verdicts[name]) for step in (before, found) for name in step.verdicts},
        clean=before.clean,
        attacks={**given, **own},
        classes=images.classes,
        seed=seed,
        worst=whole_worst_case(before),
        distances={**before.distances, **found.distances},
    )
    results = audit.examine(subject, plan.checks)
    for result in results:
        tell(result)
    digests = {SURROGATE + name: file_digest(path) for name, path in files.surrogates.items()}
    lacking = (Figure("surrogates", 0, attack=TRANSFER),) if plan.transfer and not surrogates else ()
    made = record_of(
        job,
        "audit",
        diverged=not found.finite or training.has_diverged(model, 0.0, float(before.clean.mean()), images.classes),
        figures=(*attack_figures(found), *lacking, *worst_figures(subject), *check_figures(results)),
        settings=run.settings(entry, "audit"),
        inputs={
            "data": images.digest,
            "weights": file_digest(files.weights),
            "attacked": file_digest(files.attacked),
            "verdicts": file_digest(files.verdicts),
            **digests,
        },
        started=started,
        reasons={result.check: result.reason for result in results if result.reason},
    )
    made.write(files.record)
    return made


def sampled(attack: attacks.Attack, most: int | None) -> attacks.Attack:
    """The attack on `most` images at most; as it is where that is None."""
    if most is None:
        return attack
    return replace(attack, examples=min(attack.examples or most, most))  # type: ignore[type-var]


def attacked(files: Audited) -> evaluation.Evaluation:
    """What the attack step found. Raises LedgerError where its record is of other files than the audit's, or reports
    another accuracy, of an attack or in the worst case, than its verdicts have.
    """
    record = Record.read(files.attack)
    mend = f"delete {files.attack} and run its job again"
    for key, path in (("weights", files.weights), ("verdicts", files.attacked)):
        if not path.is_file():
            raise LedgerError(f"{path}: no {key} there; run the job that makes them first")
        if (digest := file_digest(path)) != record.inputs[key]:
            raise LedgerError(f"{files.attack}: of {key} {record.inputs[key][:8]}; {path} has {digest[:8]}; {mend}")
    found = evaluation.load_verdicts(files.attacked)
    worst = whole_worst_case(found)
    verdicts = {**found.verdicts, **({} if worst is None else {"worst_case": worst})}
    expected = {name: float(robust.mean()) for name, robust in verdicts.items() if name not in found.distances}
    reported = {figure.attack: figure.value for figure in record.figures if figure.metric == "robust_accuracy"}
    for name in sorted(expected.keys() | reported.keys()):
        said, counted = reported.get(name), expected.get(name)
        if said != counted:
            raise LedgerError(f"{files.attack}: reports {said} for {name}, its verdicts have {counted}; {mend}")
    return found


def worst_figures(subject: audit.Subject) -> list[Figure]:
    """The worst case over every attack in the threat model of the fixed ones that saw ENOUGH images, on those that all
    of them saw; and, on the same images, that over the fixed attacks alone.
    """
    enough = min(ENOUGH, len(subject.x))
    seen = [name for name, (index, _) in subject.verdicts.items() if len(index) >= enough]
    fixed = [name for name in FIXED_ATTACKS if name in seen]
    if not fixed:
        return []
    threat = subject.attacks[fixed[0]].threat
    names = [name for name in seen if subject.attacks[name].threat == threat]
    fixed = [name for name in fixed if name in names]
    index, verdicts = subject.common(names)
    parts = {"worst_case": names, "fixed_attacks": fixed}
    return [
        Figure("robust_accuracy", float(evaluation.worst_case(verdicts, part).mean()), n=len(index), attack=name)
        for name, part in parts.items()
    ]


def check_figures(results: Iterable[audit.Result]) -> list[Figure]:
    """For each result of a check its value under the status as metric, and what it was compared with."""
    figures = []
    for result in results:
        figures.append(Figure(result.status, result.value, n=result.n, attack=result.check))
        if not math.isnan(result.threshold):
            figures.append(Figure("threshold", result.threshold, attack=result.check))
    return figures

"""Subcommands that compute: what the jobs of the workflow run."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from lat.cli.asked import folder_of, job_of, leased, print_figures, run_of
from lat.run_files import RunError

if TYPE_CHECKING:
    from lat.runs import Entry, Run


def prepare(options: argparse.Namespace) -> int:
    from lat import data

    run = run_of(options)
    for dataset in [options.dataset] if options.dataset else run.datasets:
        print(data.prepare(dataset, options.data, run.config["mirror"]))
    return 0


def train(options: argparse.Namespace) -> int:
    run = run_of(options)
    entry, folder = run.entry(options.cell), folder_of(options, run)
    job = job_of(options, run, entry, "train")
    from lat import bars, experiment

    label, epochs = f"{entry.name}@{entry.scale}", entry.cell.schedule.epochs
    with leased(options, f"train {label}, seed {options.seed}") as device, bars.of_epochs(epochs, label) as report:
        record = experiment.train(
            replace(job, device=device),
            folder.weights(entry, options.seed),
            folder.record(entry, options.seed, "train"),
            report,
            checkpoint=folder.checkpoint(entry, options.seed),
            every_s=60 * options.checkpoint_minutes,
        )
    print_figures(record.figures)
    print(f"status {record.status}")
    return 0


def attack(options: argparse.Namespace) -> int:
    run = run_of(options)
    if bool(options.cell) == bool(options.weights):
        raise RunError(
            "cell: give either --cell, for a cell of the run, or --weights with --model, --width and --dataset"
        )
    return _attack_checkpoint(options, run) if options.weights else _attack_cell(options, run)


def _attack_cell(options: argparse.Namespace, run: Run) -> int:
    entry, folder = run.entry(options.cell), folder_of(options, run)
    from lat import bars, experiment

    job, what = job_of(options, run, entry, "attack"), f"attack {entry.name}@{entry.scale}, seed {options.seed}"
    with leased(options, what) as device, bars.of_attacks() as report:
        record = experiment.attack(
            replace(job, device=device),
            run.attacks,
            run.part,
            folder.weights(entry, options.seed),
            folder.record(entry, options.seed, "attack"),
            folder.verdicts(entry, options.seed),
            report,
        )
    print_figures(record.figures)
    print(f"status {record.status}")
    return 0


def harder(options: argparse.Namespace) -> int:
    run = run_of(options)
    entry, folder = run.entry(options.cell), folder_of(options, run)
    _has_audit(run, entry)
    job, what = job_of(options, run, entry, "harder"), f"harder {entry.name}@{entry.scale}, seed {options.seed}"
    if "harder" not in run.steps(entry, options.seed):
        reached = sum(run.audits[entry.scale].whole(entry.cell, seed) for seed in range(entry.seeds))
        raise RunError(
            f"seed: {options.seed} of {entry.name!r}; the audit's attacks reach {reached} of its {entry.seeds} seeds; "
            "raise `audit.seeds`, or name it in `audit.seeds_of`"
            if run.audits[entry.scale].attacks or run.audits[entry.scale].transfer
            else f"audit.attacks: none at scale {entry.scale!r}, and no transfer; name some"
        )
    from lat import bars, experiment

    with leased(options, what) as device, bars.of_attacks() as report:
        record = experiment.attack_harder(
            replace(job, device=device),
            run,
            entry,
            experiment.Attacked.of(folder, entry, options.seed),
            {name: folder.weights(*pair) for name, pair in run.surrogates(entry, options.seed).items()},
            folder.record(entry, options.seed, "harder"),
            folder.verdicts(entry, options.seed, "harder"),
            report,
        )
    print_figures(record.figures)
    print(f"status {record.status}")
    return 0


def audit(options: argparse.Namespace) -> int:
    run = run_of(options)
    entry, folder = run.entry(options.cell), folder_of(options, run)
    _has_audit(run, entry)
    from lat import bars, experiment, findings

    job, what = job_of(options, run, entry, "audit"), f"audit {entry.name}@{entry.scale}, seed {options.seed}"
    checks = run.audits[entry.scale].checks_of(entry.cell, options.seed)
    with leased(options, what) as device, bars.of_lines(None, "result") as say:

        def tell(result: findings.Result) -> None:
            say(f"{result.check:<17} {result.status:<7} {findings.words(result, checks)}")

        files = experiment.Audited.of(run, folder, entry, options.seed)
        experiment.audit_cell(replace(job, device=device), run, entry, files, tell)
    return 0


def _has_audit(run: Run, entry: Entry) -> None:
    """Raises RunError where the run has no audit at the entry's scale."""
    if entry.scale not in run.audits:
        raise RunError(f"audit: {run.name!r} has none at scale {entry.scale!r}; add the key `audit` to its run file")


def _attack_checkpoint(options: argparse.Namespace, run: Run) -> int:
    for key in ("model", "width", "dataset"):
        if getattr(options, key) is None:
            raise RunError(f"{key}: missing; --weights needs --model, --width and --dataset")
    from lat import bars, data, experiment

    data.prepare(options.dataset, options.data, run.config["mirror"])
    network = (options.model, options.width)
    with leased(options, f"attack {options.weights.name}") as device, bars.of_attacks() as report:
        figures = experiment.attack_checkpoint(
            options.weights, network, options.dataset, run.part, run.attacks, options.data, options.seed, device, report
        )
    print_figures(figures)
    return 0


def equivalence(options: argparse.Namespace) -> int:
    run = run_of(options)
    with leased(options, f"equivalence of {run.name}") as device:
        return _equivalence(options, run, device)


def _equivalence(options: argparse.Namespace, run: Run, device: str) -> int:
    from functools import partial

    from lat import bars, collection, data, environment, equivalence, experiment, sources

    folder = folder_of(options, run)
    environment.prepare_torch(device)
    kept = collection.kept(run, folder)
    datasets = list(dict.fromkeys(entry.cell.dataset for entry, _ in kept)) or [run.config["dataset"]]
    if len(datasets) > 1:
        raise RunError(
            f"keep: fully connected networks of {' and '.join(datasets)}; keep those of one dataset, which are compared"
        )
    dataset = datasets[0]
    images = data.load(dataset, run.part, options.data, run.images(kept[0][0]) if kept else None)
    networks = []
    for entry, seed in kept:
        path, network = folder.weights(entry, seed), (entry.cell.model, entry.cell.width)
        if options.gaps and not path.is_file():
            print(f"missing: {entry.name}@{entry.scale}, seed {seed}")
            continue
        load = partial(experiment.load_weights, network, path, images.shape, images.classes, device)
        batch = entry.cell.schedule.batch
        networks.append(equivalence.Network(entry.scale, entry.name, entry.cell.slug, seed, batch, path, load))
    order = equivalence.order_seed(dataset, run.part, len(images.labels))
    with bars.of_lines(len(networks), "network") as say:
        rows, measured = equivalence.measure_all(
            networks, data.tensors(images, device), order, lambda n: say(f"{n.cell}@{n.scale}, seed {n.seed}")
        )
    origin = {
        "part": run.part,
        "images": len(images.labels),
        "data": images.digest,
        "sources": sources.digest("equivalence", ()),
        "versions": environment.versions(),
        "networks": measured,
    }
    equivalence.write(folder.root, rows, origin)
    return 0


def verify(options: argparse.Namespace) -> int:
    import json

    from lat import bars, proofs
    from lat.ledger import atomic

    profile, expected = proofs.profile(options.profile), proofs.expected()
    with bars.of_lines(len(proofs.LAWS), "law") as say:
        document = proofs.verify(proofs.LAWS, profile, lambda entry: say(f"{entry['id']:<24} {entry['status']}"))
    proofs.complain(document, "equations", str(options.output))
    with atomic(options.output) as temporary:
        temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    wrong = proofs.differences(document, expected)
    for line in wrong:
        print(line, file=sys.stderr)
    counts = Counter(entry["status"] for entry in document["laws"])
    print(f"{options.output}: {', '.join(f'{count} {status}' for status, count in sorted(counts.items()))}")
    return 1 if wrong else 0

"""The attack step: trained weights become verdicts; and the same for a checkpoint of one's own."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lat import attacks, data, evaluation, heartbeats, training
from lat.audit_settings import FIXED_ATTACKS
from lat.cells import own_seed, seed_for
from lat.environment import prepare_torch
from lat.experiment.job import Job, Report, at_once, file_digest, load_weights, network_of, record_of
from lat.ledger import Figure, Record


def attack(
    job: Job,
    settings: Mapping[str, Mapping[str, Any]],
    part: str,
    weights: Path,
    record: Path,
    verdicts: Path,
    report: Report = lambda attack, done, images: None,
) -> Record:
    """Attack the job's trained network on all images of `part`; writes the verdicts and then the record.

    The network's own random draws derive from (cell, seed). `report` hears the name of each attack, how many of its
    images are done, and of how many. Raises LedgerError where the weights are missing or not those of the cell's
    network.
    """
    prepare_torch(job.device)
    with heartbeats.beating(job.heartbeat, "attack") as heart:
        return _attack(job, settings, part, (weights, record, verdicts), heart, report)


def _attack(
    job: Job,
    settings: Mapping[str, Mapping[str, Any]],
    part: str,
    paths: tuple[Path, Path, Path],
    heart: heartbeats.Heart,
    report: Report,
) -> Record:
    started = time.perf_counter()
    weights, record, verdicts = paths
    images = data.load(job.cell.dataset, part, job.data_root, job.images)
    model = network_of(job, weights, images)
    x, y = data.tensors(images, job.device)
    chosen = attacks.from_settings(settings)
    tell = told(heart, chosen, len(y), report)
    seed, batch = own_seed(job.cell, job.seed, "attacks"), at_once(job.cell.model, job.device)
    found = evaluation.evaluate(model, x, y, chosen, seed, batch, tell)
    evaluation.save_verdicts(verdicts, found)
    clean = float(found.clean.mean())
    made = record_of(
        job,
        "attack",
        diverged=not found.finite or training.has_diverged(model, 0.0, clean, images.classes),
        figures=(Figure("clean_accuracy", clean, n=len(found.clean)), *attack_figures(found)),
        settings=job.looked_at | {"part": part, "attacks": settings},
        inputs={"data": images.digest, "weights": file_digest(weights), "verdicts": file_digest(verdicts)},
        started=started,
    )
    made.write(record)
    return made


def told(heart: heartbeats.Heart, chosen: Mapping[str, attacks.Attack], n: int, report: Report) -> Report:
    """Hears how far the attacks on n images are: lets the heart beat, and reports on.

    The time left follows from the passes through the network that each attack takes an image.
    """
    images = {name: len(attacks.sample_index(n, attack.examples)) for name, attack in chosen.items()}
    passes = {
        name: 2 + math.prod(getattr(attack, key, 1) for key in ("steps", "search_steps", "noise_draws"))
        for name, attack in chosen.items()
    }
    done = dict.fromkeys(chosen, 0)
    begun = dict.fromkeys(chosen, 0.0)

    def tell(name: str, ready: int, of: int) -> None:
        if ready == 0:
            begun[name] = time.perf_counter()
        done[name] = ready
        heart.beat(
            share=sum(done[k] * passes[k] for k in done) / max(1, sum(images[k] * passes[k] for k in images)),
            done=sum(done.values()),
            total=sum(images.values()),
            images_per_s=ready / (time.perf_counter() - begun[name]) if ready else None,
            note=name,
        )
        report(name, ready, of)

    return tell


def attack_figures(found: evaluation.Evaluation) -> list[Figure]:
    """The figures of an evaluation: accuracy or distances by attack, the worst case over the fixed attacks, wall
    times; and where memory ran out, how often the batch was halved, what was left of it, and which attacks that gave
    other draws.
    """
    figures = []
    if found.batch is not None and found.batch.halvings:
        figures += [Figure("batch_halvings", found.batch.halvings), Figure("batch", found.batch.images)]
        figures += [Figure("redrawn", len(found.verdicts[name]), attack=name) for name in found.redrawn]
    for name, verdict in found.verdicts.items():
        n = len(verdict)
        figures.append(Figure("wall_s", found.seconds[name], n=n, attack=name))
        if name in found.distances:
            distance = found.distances[name][found.clean[found.index[name]]]
            reached = distance[distance < math.inf]
            figures.append(Figure("success_rate", len(reached) / max(len(distance), 1), n=len(distance), attack=name))
            if len(reached):
                middle = torch.from_numpy(reached).double()
                figures.append(Figure("median_l2", float(middle.quantile(0.5)), n=len(reached), attack=name))
                figures.append(Figure("mean_l2", float(middle.mean()), n=len(reached), attack=name))
        else:
            figures.append(Figure("robust_accuracy", float(verdict.mean()), n=n, attack=name))
    worst = whole_worst_case(found)
    if worst is not None:
        figures.append(Figure("robust_accuracy", float(worst.mean()), n=len(worst), attack="worst_case"))
    return figures


def whole_worst_case(found: evaluation.Evaluation) -> evaluation.Booleans | None:
    """The worst case as the tables have it: over the fixed attacks that saw all images; None where none did."""
    whole = [name for name in FIXED_ATTACKS if name in found.verdicts and len(found.verdicts[name]) == len(found.clean)]
    return evaluation.worst_case(found.verdicts, whole) if whole else None


def attack_checkpoint(
    weights: Path,
    network: tuple[str, int],
    dataset: str,
    part: str,
    settings: Mapping[str, Mapping[str, Any]],
    data_root: Path,
    seed: int,
    device: str = "cpu",
    report: Report = lambda attack, done, images: None,
) -> list[Figure]:
    """Attack a checkpoint of one's own: `network` is its (model, width) in `lat.models`; the figures, clean
    accuracy first.

    Raises LedgerError where the weights are missing or not that network's, DataError where the dataset is not prepared.
    """
    prepare_torch(device)
    images = data.load(dataset, part, data_root)
    model = load_weights(network, weights, images.shape, images.classes, device)
    x, y = data.tensors(images, device)
    chosen, derived = attacks.from_settings(settings), seed_for(file_digest(weights), seed, "attacks")
    found = evaluation.evaluate(model, x, y, chosen, derived, at_once(network[0], device), report)
    return [Figure("clean_accuracy", float(found.clean.mean()), n=len(found.clean)), *attack_figures(found)]

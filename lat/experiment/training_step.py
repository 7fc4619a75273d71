"""The training step: a cell and a seed become weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lat import data, heartbeats, training
from lat.checkpoints import EVERY_S, Checkpoint
from lat.environment import prepare_torch
from lat.experiment.job import Job, contiguous, file_digest, record_of
from lat.ledger import Figure, Record, atomic
from lat.memory import needed_for
from lat.runs import tested


def train(
    job: Job,
    weights: Path,
    record: Path,
    report: Callable[[training.Epoch | training.Progress], None] = lambda heard: None,
    *,
    checkpoint: Path | None = None,
    every_s: float = EVERY_S,
) -> Record:
    """Train the job's cell; writes the weights (safetensors) and then the record, each atomically.

    `report` hears of each epoch and, every few seconds, of the running one.
    Its unfinished state is kept in `checkpoint` every `every_s` seconds and gone on from where that is there; once the
    record is written it is deleted.
    """
    prepare_torch(job.device)
    epochs = job.cell.schedule.epochs
    with heartbeats.beating(job.heartbeat, "train", total=epochs, epochs=epochs) as heart:
        return _train(job, weights, record, heart, report, checkpoint, every_s)


def _train(
    job: Job,
    weights: Path,
    record: Path,
    heart: heartbeats.Heart,
    report: Callable[[training.Epoch | training.Progress], None],
    checkpoint: Path | None,
    every_s: float,
) -> Record:
    def heard(epoch: training.Epoch) -> None:
        heart.beat(done=epoch.epoch, epoch=epoch.epoch, loss=epoch.loss, clean_accuracy=epoch.clean_accuracy)
        report(epoch)

    def went_on(progress: training.Progress) -> None:
        heart.beat(**heartbeats.heartbeat_of(progress))
        report(progress)

    started = time.perf_counter()
    train_set = data.load(job.cell.dataset, job.cell.part, job.data_root, job.cell.train)
    test_set = data.load(job.cell.dataset, tested(job.cell), job.data_root, job.images)
    identity = checkpoint_identity(job, train_set.digest, test_set.digest)
    store = Checkpoint(checkpoint, identity, every_s) if checkpoint else None
    what = f"train: {len(train_set.labels)} images to train on and {len(test_set.labels)} to evaluate on"
    with needed_for(what, torch.device(job.device), "train on fewer, or end what else uses the device"):
        images, test_images = data.byte_tensors(train_set, job.device), data.byte_tensors(test_set, job.device)
    result = training.fit(
        job.cell,
        job.seed,
        images,
        test_images,
        train_set.classes,
        heard,
        levels=train_set.levels,
        store=store,
        progress=went_on,
    )
    with atomic(weights) as temporary:
        temporary.write_bytes(safetensors.torch.save(contiguous(result.model.state_dict())))
    last = result.epochs[-1]
    figures = (
        Figure("loss", last.loss),
        Figure("clean_accuracy", last.clean_accuracy, n=len(test_set.labels)),
        Figure("step_ms", result.step_ms),
        Figure("skipped_batches", result.skipped),
    )
    made = record_of(
        job,
        "train",
        diverged=result.diverged,
        figures=figures,
        settings=job.looked_at,
        inputs={"data": train_set.digest, "tested": test_set.digest, "weights": file_digest(weights)},
        started=started,
        curve=tuple(asdict(epoch) for epoch in result.epochs),
    )
    made.write(record)
    if store:
        store.remove()
    return made


def checkpoint_identity(job: Job, trained: str, tested: str) -> dict[str, Any]:
    """What a checkpoint has to be of to be gone on from: this cell and seed, by this code, on the images of these
    digests.
    """
    return {"cell": job.cell.digest, "seed": job.seed, "sources": job.sources, "data": trained, "test": tested}

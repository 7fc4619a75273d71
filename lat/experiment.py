"""Cell → objects → Records: the two steps of the grid, training and attacking, each one function with one record."""

from __future__ import annotations

import hashlib
import math
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lat import attacks, data, evaluation, heartbeats, models, training
from lat.cells import Cell, own_seed, seed_for
from lat.checkpoints import EVERY_S, Checkpoint
from lat.collection import Folder, jobs
from lat.environment import hardware, prepare_torch, versions
from lat.ledger import Figure, LedgerError, Record, atomic, read_records
from lat.runs import Entry, Run

WORST_CASE = ("fgsm", "ifgsm", "pgd", "eot", "cw")
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Job:
    """One (cell, seed) of a run: what both steps are told.

    `data_root` holds the prepared datasets; `images` of the evaluated part are looked at, None: all; `device` is
    torch's name of the one to compute on; `heartbeat` is the file that says how far the job is, None: nobody asks.
    """

    cell: Cell
    seed: int
    name: str
    scale: str
    sources: str
    data_root: Path
    images: int | None = None
    device: str = "cpu"
    heartbeat: Path | None = None

    @classmethod
    def of(cls, run: Run, entry: Entry, seed: int, step: str, data_root: Path) -> Job:
        """The job of a run's (entry, seed, step), on the CPU and without a heartbeat."""
        sources, images = run.sources(entry, step), run.images(entry)
        return cls(entry.cell, seed, entry.name, entry.scale, sources, data_root, images)

    @property
    def looked_at(self) -> dict[str, Any]:
        """The part of a record's settings that says how many images were looked at; empty for all."""
        return {} if self.images is None else {"images": self.images}


def train(
    job: Job,
    weights: Path,
    record: Path,
    report: Callable[[training.Epoch], None] = lambda epoch: None,
    *,
    checkpoint: Path | None = None,
    every_s: float = EVERY_S,
) -> Record:
    """Train the job's cell; writes the weights (safetensors) and then the record, each atomically.

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
    report: Callable[[training.Epoch], None],
    checkpoint: Path | None,
    every_s: float,
) -> Record:
    def heard(epoch: training.Epoch) -> None:
        heart.beat(done=epoch.epoch, epoch=epoch.epoch, loss=epoch.loss, clean_accuracy=epoch.clean_accuracy)
        report(epoch)

    started = time.perf_counter()
    train_set = data.load(job.cell.dataset, job.cell.part, job.data_root, job.cell.train)
    test_part = "test" if job.cell.part == "train" else "validation"
    test_set = data.load(job.cell.dataset, test_part, job.data_root, job.images)
    identity = checkpoint_identity(job, train_set.digest, test_set.digest)
    store = Checkpoint(checkpoint, identity, every_s) if checkpoint else None
    result = training.fit(
        job.cell,
        job.seed,
        data.byte_tensors(train_set, job.device),
        data.byte_tensors(test_set, job.device),
        train_set.classes,
        heard,
        levels=train_set.levels,
        store=store,
        progress=lambda progress: heart.beat(**heartbeats.heartbeat_of(progress)),
    )
    with atomic(weights) as temporary:
        safetensors.torch.save_file(contiguous(result.model.state_dict()), temporary)
    last = result.epochs[-1]
    figures = (
        Figure("loss", last.loss),
        Figure("clean_accuracy", last.clean_accuracy, n=len(test_set.labels)),
        Figure("step_ms", result.step_ms),
        Figure("skipped_batches", result.skipped),
    )
    made = _record(
        job,
        "train",
        diverged=result.diverged,
        figures=figures,
        settings=job.looked_at,
        inputs={"data": train_set.digest, "weights": file_digest(weights)},
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
    model = load_weights((job.cell.model, job.cell.width), weights, images.shape, images.classes, job.device)
    x, y = data.tensors(images, job.device)
    chosen = attacks.from_settings(settings)
    tell = told(heart, chosen, len(y), report)
    found = evaluation.evaluate(model, x, y, chosen, own_seed(job.cell, job.seed, "attacks"), progress=tell)
    evaluation.save_verdicts(verdicts, found)
    clean = float(found.clean.mean())
    made = _record(
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
    images = {name: len(evaluation.sample_index(n, attack.examples)) for name, attack in chosen.items()}
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
    times; and where memory ran out, how often the batch was halved and what was left of it.
    """
    figures = []
    if found.batch is not None and found.batch.halvings:
        figures += [Figure("batch_halvings", found.batch.halvings), Figure("batch", found.batch.images)]
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
    whole = [name for name in WORST_CASE if name in found.verdicts and len(found.verdicts[name]) == len(found.clean)]
    if whole:
        worst = evaluation.worst_case(found.verdicts, whole)
        figures.append(Figure("robust_accuracy", float(worst.mean()), n=len(worst), attack="worst_case"))
    return figures


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
    found = evaluation.evaluate(model, x, y, chosen, derived, progress=report)
    return [Figure("clean_accuracy", float(found.clean.mean()), n=len(found.clean)), *attack_figures(found)]


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


def load_weights(
    network: tuple[str, int], path: Path, shape: tuple[int, ...], classes: int, device: str = "cpu"
) -> nn.Module:
    """The network (model, width) on `device`, with the weights of a safetensors file, or of a torch file that holds
    tensors alone.

    Raises LedgerError naming the file and what differs.
    """
    name, width = network
    model = models.build(name, shape, classes, width, seed=0)
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except FileNotFoundError as error:
        raise LedgerError(
            f"{path}: no weights there; train the cell first, or give the file that holds them"
        ) from error
    except (RuntimeError, TypeError, AttributeError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise LedgerError(f"{path}: not the weights of {name} at width {width} ({error})") from error
    return model.to(device)


def contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _record(
    job: Job,
    step: str,
    *,
    diverged: bool,
    figures: tuple[Figure, ...],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    started: float,
    curve: tuple[Mapping[str, float], ...] = (),
) -> Record:
    return Record(
        step=step,
        name=job.name,
        scale=job.scale,
        cell=job.cell,
        seed=job.seed,
        status="diverged" if diverged else "ok",
        figures=figures,
        settings=settings,
        sources=job.sources,
        inputs=inputs,
        versions=versions(),
        device=hardware(job.device),
        threads=torch.get_num_threads(),
        wall_s=time.perf_counter() - started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        curve=curve,
    )

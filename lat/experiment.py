"""Cell → objects → Records: the two steps of the grid, training and attacking, each one function with one record."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lat import attacks, data, evaluation, models, training
from lat.cells import Cell, own_seed
from lat.ledger import Figure, LedgerError, Record, atomic

WORST_CASE = ("fgsm", "ifgsm", "pgd", "eot", "cw")
VERSIONED = ("lat", "torch", "numpy", "scikit-learn", "safetensors")


@dataclass(frozen=True)
class Job:
    """One (cell, seed) of a run: what both steps are told. `data_root` holds the prepared datasets."""

    cell: Cell
    seed: int
    name: str
    scale: str
    sources: str
    data_root: Path


def prepare_torch() -> None:
    """One thread and deterministic kernels: two runs on one machine give the same bits."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def train(job: Job, weights: Path, record: Path, report: Callable[[training.Epoch], None] = lambda epoch: None) -> Record:
    """Train the job's cell; writes the weights (safetensors) and then the record, each atomically."""
    prepare_torch()
    started = time.perf_counter()
    train_set = data.load(job.cell.dataset, job.cell.part, job.data_root, job.cell.train)
    test_part = "test" if job.cell.part == "train" else "validation"
    test_set = data.load(job.cell.dataset, test_part, job.data_root)
    result = training.fit(job.cell, job.seed, data.tensors(train_set), data.tensors(test_set), train_set.classes, report)
    with atomic(weights) as temporary:
        safetensors.torch.save_file(contiguous(result.model.state_dict()), temporary)
    last = result.epochs[-1]
    figures = (
        Figure("loss", last.loss),
        Figure("clean_accuracy", last.clean_accuracy, n=len(test_set.labels)),
        Figure("wall_s", time.perf_counter() - started),
        Figure("step_ms", result.step_ms),
        Figure("skipped_batches", result.skipped),
    )
    made = _record(
        job,
        "train",
        diverged=result.diverged,
        figures=figures,
        settings={},
        inputs={"data": train_set.digest, "weights": file_digest(weights)},
        started=started,
        curve=tuple(asdict(epoch) for epoch in result.epochs),
    )
    made.write(record)
    return made


def attack(
    job: Job, settings: Mapping[str, Mapping[str, Any]], part: str, weights: Path, record: Path, verdicts: Path
) -> Record:
    """Attack the job's trained network on all images of `part`; writes the verdicts and then the record.

    The network's own random draws derive from (cell, seed). Raises LedgerError where the weights are missing or not
    those of the cell's network.
    """
    prepare_torch()
    started = time.perf_counter()
    images = data.load(job.cell.dataset, part, job.data_root)
    model = load_weights(job.cell, weights, images.shape, images.classes)
    x, y = data.tensors(images)
    found = evaluation.evaluate(model, x, y, attacks.from_settings(settings), own_seed(job.cell, job.seed, "attacks"))
    evaluation.save_verdicts(verdicts, found)
    clean = float(found.clean.mean())
    made = _record(
        job,
        "attack",
        diverged=not found.finite or training.has_diverged(model, 0.0, clean, images.classes),
        figures=(Figure("clean_accuracy", clean, n=len(found.clean)), *attack_figures(found)),
        settings={"part": part, "attacks": settings},
        inputs={"data": images.digest, "weights": file_digest(weights), "verdicts": file_digest(verdicts)},
        started=started,
    )
    made.write(record)
    return made


def attack_figures(found: evaluation.Evaluation) -> list[Figure]:
    """The figures of an evaluation: accuracy or distances by attack, the worst case over the fixed attacks, wall times."""
    figures = []
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


def load_weights(cell: Cell, path: Path, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The cell's network with the weights of a safetensors file. Raises LedgerError naming the file and what differs."""
    model = models.build(cell.model, shape, classes, cell.width, seed=0)
    try:
        state = safetensors.torch.load_file(path)
        model.load_state_dict(state)
    except FileNotFoundError as error:
        raise LedgerError(f"{path}: no weights there; train cell {cell.slug} first") from error
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise LedgerError(f"{path}: not the weights of {cell.model} at width {cell.width} ({error})") from error
    return model


def contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Python and the packages whose version can change a result."""
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in VERSIONED}


def processor() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


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
        device=f"cpu ({processor()})",
        threads=torch.get_num_threads(),
        wall_s=time.perf_counter() - started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        curve=curve,
    )

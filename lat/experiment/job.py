"""One (cell, seed) of a run, what its network is loaded from, and the record that a step of it leaves."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lat import data, models
from lat.cells import FULLY_CONNECTED, Cell
from lat.environment import hardware, versions
from lat.ledger import Figure, LedgerError, Record
from lat.runs import Entry, Run

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


def at_once(model: str, device: str) -> int:
    """How many images of an evaluation go through a registered network at once, where memory holds as many.

    It decides no verdict but for last bits. On a CPU a convolutional network takes two thirds of the time on batches
    whose maps stay nearer to its caches (benchmarks/batches.py). Both are multiples of the batches that attacks draw
    for.
    """
    return 250 if device == "cpu" and model not in FULLY_CONNECTED else 1000


def load_weights(
    network: tuple[str, int],
    path: Path,
    shape: tuple[int, ...],
    classes: int,
    device: str = "cpu",
    *,
    channels_last: bool = False,
) -> nn.Module:
    """The network (model, width) on `device`, with the weights of a safetensors file, or of a torch file that holds
    tensors alone; `channels_last` in memory, where so asked.

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
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device).to(memory_format=layout)  # type: ignore[call-overload]


def network_of(job: Job, weights: Path, images: data.Arrays) -> nn.Module:
    """The network of a job's cell with the weights of a file, on the job's device and in the cell's layout.

    Raises LedgerError naming the file and what differs.
    """
    layout = job.cell.compute.channels_last
    network = (job.cell.model, job.cell.width)
    return load_weights(network, weights, images.shape, images.classes, job.device, channels_last=layout)


def contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_of(
    job: Job,
    step: str,
    *,
    diverged: bool,
    figures: tuple[Figure, ...],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    started: float,
    curve: tuple[Mapping[str, float], ...] = (),
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> Record:
    """The record of a step of the job that began at `started` (perf_counter) and ends now."""
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
        reasons=dict(reasons),
    )

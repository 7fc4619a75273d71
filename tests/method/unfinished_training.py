"""Trainings that are stopped at a step and gone on with, on networks that carry every kind of state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_network import CLASSES, SHAPE
from torch import Tensor, nn

from lat import models, training
from lat.cells import Cell
from lat.checkpoints import Checkpoint
from lat.resumption import Store

STEPS = 3
"""Steps an epoch of 30 images in batches of 8."""


class Stopped(Exception):
    """Stands in for a signal: the process ends between two steps."""


class Leaving(Checkpoint):
    """Keeps the state of every step, each in a file of its own beside `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, {}, every_s=0)
        self.files: list[Path] = []

    def keep(self, state: Mapping[str, Any]) -> None:
        super().keep(state)
        self.files.append(self.path.rename(self.path.with_stem(f"step{len(self.files) + 1}")))


class Stopping(Checkpoint):
    """Keeps the state at every step, and ends the training at the one asked for."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(path, {}, every_s=0)
        self.left = step

    def keep(self, state: Mapping[str, Any]) -> None:
        super().keep(state)
        self.left -= 1
        if self.left == 0:
            raise Stopped


def dropping(shape: tuple[int, ...], classes: int, width: int) -> nn.Module:
    """A network that draws at random and has running statistics; its layers' names are 1 and 5."""
    inside = shape[0] * shape[1] * shape[2]
    drawing = [nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(nn.Flatten(), nn.Linear(inside, width), *drawing, nn.Linear(width, classes))


def convolving(shape: tuple[int, ...], classes: int, width: int) -> nn.Module:
    """A convolution with BatchNorm and a layer on all it gives; its layers' names are 0 and 4."""
    channels, height, breadth = shape
    last = nn.Linear(width * height * breadth, classes)
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), last)


@pytest.fixture
def more_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "dropping", dropping)  # type: ignore[arg-type]
    monkeypatch.setitem(models.MODELS, "convolving", convolving)  # type: ignore[arg-type]


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bytes (n, 1, 2, 3) and labels (n)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, *SHAPE), generator=generator, dtype=torch.uint8)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def fit(asked: Cell, store: Store | None = None, seed: int = 0) -> training.Training:
    return training.fit(asked, seed, images(30, 0), images(20, 1), CLASSES, levels=255, store=store)


def stopped(asked: Cell, path: Path, step: int) -> Checkpoint:
    """The checkpoint of a training that ended after so many steps, counted from where it went on."""
    with pytest.raises(Stopped):
        fit(asked, Stopping(path, step))
    return Checkpoint(path, {})


def result(done: training.Training) -> tuple[Any, ...]:
    """What a training decides: every bit of the network, its history and its count of unperturbed batches."""
    state = {name: (str(t.dtype), t.tolist()) for name, t in done.model.state_dict().items()}
    return state, done.epochs, done.skipped, done.diverged


def on(model: str, asked: Cell, layers: tuple[str, ...] = ()) -> Cell:
    return replace(asked, model=model, layers=layers if asked.layerwise else ())


def planned(asked: Cell, **changes: Any) -> Cell:
    return replace(asked, schedule=replace(asked.schedule, **changes))

"""The one training loop: SGD with the paper's parameters around any method of `lat.defences`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lat import defences, models
from lat.batches import Batches, as_floats
from lat.cells import Cell, Compute, Schedule, shared_seed
from lat.memory import Batch, TrainingError, needed_for
from lat.resumption import Epoch, State, Store, own_draws
from lat.running_statistics import reestimate

__all__ = ["Epoch", "Progress", "Training", "accuracy", "fit", "has_diverged", "learning_rate"]

PROGRESS_S = 2.0
"""Seconds between two reports of a running epoch, at the least: each waits for the device."""
EVALUATED = 1000
"""Images that are classified at once, where the device's memory holds as many."""


@dataclass(frozen=True)
class Progress:
    """How far a running epoch is, counted from 1: `step` of its `steps` are done, with their mean training loss, at
    `images_per_s` by the wall clock since the last report.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    images_per_s: float

    @property
    def done(self) -> float:
        """The epochs that are done, the running one in part."""
        return self.epoch - 1 + self.step / self.steps


@dataclass(frozen=True)
class Training:
    """A trained network with its history.

    `step_ms` is the mean processor time of a step, evaluation left out: other jobs share the processors, so wall time
    would say little.
    """

    model: nn.Module
    epochs: tuple[Epoch, ...]
    diverged: bool
    skipped: int
    step_ms: float


def learning_rate(schedule: Schedule, epoch: int) -> float:
    """The learning rate of `epoch`, counted from 0: ×0.1 at 50 % and 75 % of the epochs (`steps`), or by the cosine."""
    done = epoch / schedule.epochs
    if schedule.schedule == "steps":
        return schedule.lr * 0.1 ** ((done >= 0.5) + (done >= 0.75))
    if schedule.schedule == "cosine":
        return schedule.lr * (1 + math.cos(math.pi * done)) / 2
    return schedule.lr


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: Batch, levels: int = 1) -> float:
    """The fraction of images (n, C, H, W) that the model in eval mode classifies as y (n); the mode is restored.

    Images are floats in [0, 1], or uint8 of which `levels` stands for 1.0. Where memory runs out `batch` is halved.
    Raises EvaluationError where one image alone is too much for the memory.
    """
    mode = model.training
    model.eval()
    try:
        parts = batch.over(len(y), lambda part: model(as_floats(x[part], levels)).argmax(1), "clean")
        right = sum(int((found == y[part]).sum()) for part, found in parts)
    finally:
        model.train(mode)
    return right / len(y)


def has_diverged(model: nn.Module, loss: float, clean_accuracy: float, classes: int) -> bool:
    """A seed has diverged when its loss or weights are not finite, or its clean accuracy is at most twice chance, or
    with two classes half way from chance to all.
    """
    finite = math.isfinite(loss) and all(bool(p.isfinite().all()) for p in model.parameters())
    return not finite or clean_accuracy <= min(2 / classes, (1 + 1 / classes) / 2)


def fit(
    cell: Cell,
    seed: int,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    report: Callable[[Epoch], None] = lambda epoch: None,
    *,
    levels: int = 1,
    store: Store | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Training:
    """Train the network of `cell` from `seed` on images (n, C, H, W) and labels (n), on the device that they lie on.

    Images are uint8, of which `levels` stands for 1.0, or floats in [0, 1]. The initial weights, the order of the
    batches, their augmentation and the network's own random draws depend on (dataset, model, width, seed) alone, so
    that all methods share them; short last batches are dropped. Training stops where the loss is no longer finite.
    `test` only fills the history. Where the cell re-estimates BatchNorm's statistics, that is done before the last
    epoch's accuracy is taken.

    `report` hears of each epoch, `progress` of the running one at most every PROGRESS_S seconds. With a `store`, its
    state is gone on from, after a report of each epoch in it, and kept again whenever it is due: a training that was
    killed at any moment ends with the weights of one that was not, bit for bit.

    Raises CellError where a batch is larger than the data, TrainingError where the device's memory does not hold the
    network or a step, EvaluationError where it does not hold one image of `test`, and ResumptionError where the store's
    state is of another type of device.
    """
    plan, device = cell.schedule, train[0].device
    batches = Batches(*train, levels, cell, seed)
    shape, first = tuple(train[0].shape[1:]), shared_seed(cell, seed, "initialisation")
    model = models.build(cell.model, shape, classes, cell.width, first)
    with needed_for(f"width: the weights of {cell.model} at width {cell.width}", device, "lower width"):
        model.to(device)
        model.to(memory_format=batches.layout)  # type: ignore[call-overload]
    defence = defences.build(compiled(model, cell.compute), cell, seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay, fused=True
    )
    autocast = torch.autocast(device.type, torch.bfloat16) if cell.compute.precision == "bf16" else nullcontext()
    state = State(model, optimizer, batches, defence, torch.zeros((), device=device))
    pace, evaluated = Pace(plan.batch), Batch(EVALUATED)
    a_step = f"batch: {plan.batch} images in a batch at width {cell.width}"

    with own_draws(shared_seed(cell, seed, "network"), device), needed_for(a_step, device, "lower batch or width"):
        if store is not None and (kept := store.kept()) is not None:
            state.load_state_dict(kept)
            del kept
        for epoch in state.history:
            report(epoch)

        while state.epoch < plan.epochs and not state.stopped:
            started = time.process_time()
            lr = learning_rate(plan, state.epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            model.train()
            if state.step == 0:
                defence.start_epoch(state.epoch)

            for images, labels in batches.epoch(state.step):
                with autocast:
                    images, labels = defence.examples(images, labels)
                    loss = defence.loss(images, labels)
                if not model.training:
                    raise TrainingError(f"method {cell.method!r} left the network in eval mode; put it back")
                optimizer.zero_grad()
                loss.backward()
                defence.after_backward()
                optimizer.step()
                state.total += loss.detach()
                state.step += 1

                if store is not None and store.due():
                    state.spent += time.process_time() - started
                    store.keep(state.state_dict())
                    started = time.process_time()
                if pace.due():
                    progress(pace.read(state, batches.steps))

            state.spent += time.process_time() - started
            if cell.statistics == "reestimated" and state.epoch == plan.epochs - 1:
                reestimate(model, batches.in_order())
            right = accuracy(model, *test, evaluated, levels)
            state.end_epoch(Epoch(state.epoch + 1, state.total.item() / batches.steps, right, lr))
            report(state.history[-1])

    last = state.history[-1]
    diverged = has_diverged(model, last.loss, last.clean_accuracy, classes)
    step_ms = 1000 * state.spent / (len(state.history) * batches.steps)
    return Training(model, tuple(state.history), diverged, defence.skipped, step_ms)


class Pace:
    """When the running epoch is to be reported, and how fast training is."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._last = time.perf_counter()
        self._steps = 0

    def due(self) -> bool:
        """Called once a step: whether PROGRESS_S seconds have passed since the last report."""
        self._steps += 1
        return time.perf_counter() - self._last >= PROGRESS_S

    def read(self, state: State, steps: int) -> Progress:
        """The progress of `state`, whose epochs have so many steps; the speed is that since the last time."""
        loss = state.total.item() / state.step  # waits for the device, so that the steps counted are done
        now = time.perf_counter()
        speed = self._steps * self.batch / (now - self._last)
        self._last, self._steps = now, 0
        return Progress(state.epoch + 1, state.step, steps, loss, speed)


def compiled(model: nn.Module, compute: Compute) -> nn.Module:
    """The model as training runs it, compiled where asked; it is evaluated as it is, in batches of other sizes."""
    return model if compute.compile == "none" else torch.compile(model, mode=compute.compile)  # type: ignore[return-value]

"""The one training loop: SGD with the paper's parameters around any method of `lat.defences`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lat import defences, models
from lat.cells import Cell, CellError, Schedule, shared_seed


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures: the mean training loss, the accuracy on clean examples after it, and the learning rate
    in it.
    """

    epoch: int
    loss: float
    clean_accuracy: float
    lr: float


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
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """The fraction of images (n, C, H, W) that the model in eval mode classifies as y (n); the mode is restored."""
    mode = model.training
    model.eval()
    try:
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(batch), y.split(batch), strict=True))
    finally:
        model.train(mode)
    return right / len(y)


def has_diverged(model: nn.Module, loss: float, clean_accuracy: float, classes: int) -> bool:
    """A seed has diverged when its loss or weights are not finite, or its clean accuracy is at most 2 / classes."""
    finite = math.isfinite(loss) and all(bool(p.isfinite().all()) for p in model.parameters())
    return not finite or clean_accuracy <= 2 / classes


def fit(
    cell: Cell,
    seed: int,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Training:
    """Train the network of `cell` from `seed` on images (n, C, H, W) in [0, 1] and labels (n); `report` hears of
    each epoch.

    The initial weights and the order of the batches depend on (dataset, model, width, seed) alone, so that all methods
    share them; short last batches are dropped. Training stops where the loss is no longer finite. `test` only fills
    the history.
    """
    x, y = train
    plan = cell.schedule
    steps = len(y) // plan.batch
    if steps == 0:
        raise CellError(f"batch: {plan.batch} images in a batch and {len(y)} to train on; lower batch")
    model = models.build(
        cell.model, tuple(x.shape[1:]), classes, cell.width, shared_seed(cell, seed, "initialisation")
    ).to(x.device)
    defence = defences.build(model, cell, seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay, fused=True
    )
    order = torch.Generator().manual_seed(shared_seed(cell, seed, "order"))
    history: list[Epoch] = []
    spent = 0.0

    for epoch in range(plan.epochs):
        started = time.process_time()
        lr = learning_rate(plan, epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros((), device=x.device)
        batches = torch.randperm(len(y), generator=order).to(x.device)[: steps * plan.batch].view(steps, plan.batch)
        model.train()
        defence.start_epoch(epoch)

        for index in batches:
            images, labels = defence.examples(x[index], y[index])
            loss = defence.loss(images, labels)
            optimizer.zero_grad()
            loss.backward()
            defence.after_backward()
            optimizer.step()
            total += loss.detach()

        mean_loss = total.item() / steps
        spent += time.process_time() - started
        history.append(Epoch(epoch + 1, mean_loss, accuracy(model, *test), lr))
        report(history[-1])
        if not math.isfinite(mean_loss):
            break

    diverged = has_diverged(model, history[-1].loss, history[-1].clean_accuracy, classes)
    return Training(model, tuple(history), diverged, defence.skipped, 1000 * spent / (len(history) * steps))

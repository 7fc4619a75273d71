"""What Algorithm 1 costs: processor time of a training step of layer-wise rows over a plain one.

    .venv/bin/python benchmarks/overhead.py

Rows, schedule and learning rate are those of config/mnist.yaml; the step is that of `lat.training.fit`, on random
images of MNIST's shape. The plain and the perturbed side run in turns on one torch thread, and a pair of turns gives
one ratio, so that what slows the machine down slows both. Printed is the median ratio of all pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from lat import defences, models, runs
from lat.cells import Cell

WIDTHS = (10, 256)
ROWS = {"FC Layer-4": "fc_4", "FC-3&4": "fc_34", "MLPo": "mlpo"}
PLAIN = "dnn"
SHAPE = (1, 28, 28)
CLASSES = 10
PAIRS = 40
STEPS = 25
"""Steps a turn: enough that the processor's clock is fine beside it."""


def cells(width: int) -> dict[str, Cell]:
    """The plain row and the layer-wise ones of Tables II to IV at `width`, by the names of the grid."""
    config = dict(runs.load(runs.ROOT / "config/mnist.yaml").config)
    rows = [PLAIN, *ROWS.values()]
    config["scales"] = [
        {"name": "wide", "model": "4fc", "width": width, "epochs": 1, "seeds": 1, "cells": rows, "keep": []}
    ]
    return {entry.name: entry.cell for entry in runs.load(config).entries}


def turn(cell: Cell, x: torch.Tensor, y: torch.Tensor) -> Callable[[], float]:
    """A function that trains for STEPS steps on images (STEPS, batch, 1, 28, 28) and returns the seconds they took."""
    model = models.build(cell.model, SHAPE, CLASSES, cell.width, seed=0)
    defence = defences.build(model, cell, seed=0)
    plan = cell.schedule
    optimizer = torch.optim.SGD(
        model.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay, fused=True
    )
    model.train()
    defence.start_epoch(0)

    def steps() -> float:
        started = time.process_time()
        for a, b in zip(x, y, strict=True):
            images, labels = defence.examples(a, b)
            loss = defence.loss(images, labels)
            optimizer.zero_grad()
            loss.backward()
            defence.after_backward()
            optimizer.step()
        return time.process_time() - started

    return steps


def ratio(cell: Cell, plain: Cell) -> float:
    """The median over PAIRS pairs of turns of the time of `cell` over that of `plain`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((STEPS, plain.schedule.batch, *SHAPE), generator=generator)
    y = torch.randint(CLASSES, (STEPS, plain.schedule.batch), generator=generator)
    sides = turn(plain, x, y), turn(cell, x, y)
    for side in sides:
        side()  # the first turn allocates the optimiser's state and R
    ratios = []
    for pair in range(PAIRS):
        spent = {side: side() for side in (sides if pair % 2 else sides[::-1])}  # neither side is always the second
        ratios.append(spent[sides[1]] / spent[sides[0]])
    return statistics.median(ratios)


def main() -> None:
    torch.set_num_threads(1)
    by_width = {width: cells(width) for width in WIDTHS}
    print("| row | " + " | ".join(f"width {width}" for width in WIDTHS) + " |")
    print("| --- |" + " ---: |" * len(WIDTHS))
    for title, name in ROWS.items():
        ratios = [ratio(by_width[width][name], by_width[width][PLAIN]) for width in WIDTHS]
        print(f"| {title} | " + " | ".join(f"{value:.2f}" for value in ratios) + " |", flush=True)


if __name__ == "__main__":
    main()

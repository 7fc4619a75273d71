"""What Algorithm 1 costs: processor time of a training step of layer-wise rows over a plain one.

    .venv/bin/python benchmarks/overhead.py                                  # the small networks, scopes local, network
    .venv/bin/python benchmarks/overhead.py 4fc vgg16                        # some of them
    .venv/bin/python benchmarks/overhead.py --readings propagated cw         # other readings
    .venv/bin/python benchmarks/overhead.py --full vgg16                     # VGG16 as it is, a few steps of batch 8

The step is that of `lat.training.fit`, on random images of the dataset's shape; law and reading are the tables' default
but for what a column's reading says. The plain and the perturbed side run in turns on one torch thread, and a pair of
turns gives one ratio, so that what slows the machine down slows both. Printed is the median ratio of all pairs and, in
brackets, their quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from lat import defences, models, training
from lat.cells import Cell, Law, Reading, Schedule
from lat.sites import PERTURBABLE

READINGS = {
    "local": Reading(),
    "network": Reading(scope="network"),
    "propagated": Reading("propagated"),
    "propagated network": Reading("propagated", "network"),
    "cw": Reading(scope="network", source="cw"),
}
FULLY_CONNECTED = {"FC Layer-4": ("fc4",), "FC-3&4": ("fc3", "fc4"), "MLPo": ("fc2", "fc3", "fc4")}


@dataclass(frozen=True)
class Network:
    """A network at one width on images of one shape, its rows (layer sets by name; none: every layer but the first),
    and how much is timed: pairs of turns, steps a turn (enough that the processor's clock is fine beside it), images a
    step.
    """

    model: str
    width: int
    shape: tuple[int, int, int]
    pairs: int
    steps: int
    rows: dict[str, tuple[str, ...]] | None = None
    batch: int = 128
    classes: int = 10


MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
NETWORKS = (
    Network("4fc", 10, MNIST, 40, 25, FULLY_CONNECTED),
    Network("4fc", 256, MNIST, 40, 25, FULLY_CONNECTED),
    Network("3conv2fc", 16, MNIST, 20, 2),
    Network("vgg16", 16, CIFAR, 10, 1),
    Network("wrn10", 1, CIFAR, 10, 1, classes=100),
)
FULL = (
    Network("vgg16", 64, CIFAR, 20, 1, batch=8),
    Network("wrn28", 10, CIFAR, 8, 1, batch=8, classes=100),
)


def every_layer_but_the_first(network: Network) -> dict[str, tuple[str, ...]]:
    """The row of all layers that can be perturbed, the input layer left out."""
    model = models.build(network.model, network.shape, network.classes, network.width, seed=0)
    names = [name for name, module in model.named_modules() if isinstance(module, PERTURBABLE)]
    return {"All-o": tuple(names[1:])}


def cell(network: Network, layers: tuple[str, ...] = (), reading: Reading | None = None) -> Cell:
    """The cell of a row in a reading; without layers and reading the plain one."""
    law = Law("normal", 0.1) if layers else None
    method = "layerwise" if layers else "standard"
    plan = Schedule(1, network.batch)
    return Cell("random", network.model, network.width, method, layers, law, reading, None, False, plan)


def turn(network: Network, asked: Cell, x: torch.Tensor, y: torch.Tensor) -> Callable[[], float]:
    """A function that trains for a turn on images (steps, batch, C, H, W) and returns the seconds it took."""
    model: nn.Module = models.build(network.model, network.shape, network.classes, network.width, seed=0)
    layout = torch.channels_last if asked.compute.channels_last else torch.contiguous_format
    model.to(memory_format=layout)  # type: ignore[call-overload]
    defence = defences.build(training.compiled(model, asked.compute), asked, seed=0)
    plan, precise = asked.schedule, asked.compute.precision == "float32"
    optimizer = torch.optim.SGD(
        model.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay, fused=True
    )
    model.train()
    defence.start_epoch(0)

    def steps() -> float:
        started = time.process_time()
        for a, b in zip(x, y, strict=True):
            with nullcontext() if precise else torch.autocast("cpu", torch.bfloat16):
                images, labels = defence.examples(a.contiguous(memory_format=layout), b)
                loss = defence.loss(images, labels)
            optimizer.zero_grad()
            loss.backward()
            defence.after_backward()
            optimizer.step()
        return time.process_time() - started

    return steps


def ratios(network: Network, asked: Cell) -> list[float]:
    """The time of `asked` over that of the plain cell, in each pair of turns, the first turns left out."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((network.steps, network.batch, *network.shape), generator=generator)
    y = torch.randint(network.classes, (network.steps, network.batch), generator=generator)
    sides = turn(network, cell(network), x, y), turn(network, asked, x, y)
    for side in sides:
        side()  # the first turn allocates the optimiser's state and R
    found = []
    for pair in range(network.pairs):
        spent = {side: side() for side in (sides if pair % 2 else sides[::-1])}  # neither side is always the second
        found.append(spent[sides[1]] / spent[sides[0]])
    return found


def shown(found: list[float]) -> str:
    """The median and the quartiles, as a cell of the table."""
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", help="models to take; all that are registered where none is named")
    parser.add_argument("--readings", nargs="+", choices=READINGS, default=["local", "network"], help="the columns")
    parser.add_argument("--full", action="store_true", help="the full VGG16 and WRN-28-10 instead of small networks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | row | " + " | ".join(given.readings) + " |")
    print("| --- | --- |" + " ---: |" * len(given.readings))
    for network in FULL if given.full else NETWORKS:
        if network.model not in (given.networks or models.MODELS):
            continue
        for title, layers in (network.rows or every_layer_but_the_first(network)).items():
            columns = [ratios(network, cell(network, layers, READINGS[name])) for name in given.readings]
            line = " | ".join([f"{network.model}, width {network.width}", title, *map(shown, columns)])
            print(f"| {line} |", flush=True)


if __name__ == "__main__":
    main()

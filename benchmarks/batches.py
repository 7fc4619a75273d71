"""What an attack's step costs on a processor by how many images go through the network at once, and by their layout.

    .venv/bin/python benchmarks/batches.py                  # the small networks
    .venv/bin/python benchmarks/batches.py 3conv2fc         # some of them

A step is one gradient of the loss by IMAGES images, as every gradient attack takes it. Whole, and cut into the parts
that `lat.experiment.at_once` gives a convolutional network on a CPU, in turns, and both again with weights that are
channels_last. Printed is the median ratio to all images at once in the usual layout and, in brackets, its quartiles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product

import overhead
import torch

from lat import models
from lat.experiment import at_once

IMAGES = at_once("4fc", "cpu")
PARTS = (IMAGES, at_once("3conv2fc", "cpu"))
LAYOUTS = {"": torch.contiguous_format, ", channels_last": torch.channels_last}
PAIRS = 15


def step(network: overhead.Network, part: int, layout: torch.memory_format) -> Callable[[], float]:
    """A function that takes the gradient by all images, `part` at a time; the processor's seconds it took."""
    model = models.build(network.model, network.shape, network.classes, network.width, seed=0).eval()
    model.requires_grad_(False).to(memory_format=layout)  # type: ignore[call-overload]
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(IMAGES, *network.shape, generator=draws)
    y = torch.randint(network.classes, (IMAGES,), generator=draws)

    def timed() -> float:
        started = time.process_time()
        for images, labels in zip(x.split(part), y.split(part), strict=True):
            loss = torch.nn.functional.cross_entropy(model(images.requires_grad_()), labels, reduction="sum")
            torch.autograd.grad(loss, images)
        return time.process_time() - started

    return timed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", help="models to take; all small ones where none is named")
    given = parser.parse_args()
    torch.set_num_threads(1)
    ways = list(product(PARTS, LAYOUTS))
    print("| network | " + " | ".join(f"{part}{layout}" for part, layout in ways[1:]) + " |")
    print("| --- |" + " ---: |" * len(ways[1:]))
    for network in overhead.NETWORKS:
        if network.model not in (given.networks or models.MODELS):
            continue
        steps = [step(network, part, LAYOUTS[layout]) for part, layout in ways]
        for first in steps:
            first()
        turns = [[timed() for timed in steps] for _ in range(PAIRS)]
        columns = [overhead.shown([turn[k] / turn[0] for turn in turns]) for k in range(1, len(ways))]
        print(f"| {network.model}, width {network.width} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()

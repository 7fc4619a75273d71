"""What each setting of `compute:` does to plain training on a processor: its time, and how far the weights go apart.

    .venv/bin/python benchmarks/compute.py                  # the small networks
    .venv/bin/python benchmarks/compute.py vgg16            # some of them

A step with the setting and one without run in turns, as in `benchmarks/overhead.py`, on random images; what compiling
takes, in the first turn, is left out. Printed is the median ratio of their times and, in brackets, its quartiles; then
the largest difference of a weight after five steps, as a part of the largest weight: the reason why a setting is part
of a cell's identity.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import overhead
import torch

from lat import models, training
from lat.cells import Cell, Compute

SETTINGS = {
    "bf16": Compute(precision="bf16"),
    "channels_last": Compute(channels_last=True),
    "compiled": Compute(compile="default"),
    "all three": Compute("bf16", True, "default"),
}
STEPS = 5


def apart(network: overhead.Network, plain: Cell, asked: Cell) -> float:
    """The largest difference of a weight between the two after STEPS steps, as a part of the largest weight."""
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(STEPS * network.batch, *network.shape, generator=draws)
    y = torch.randint(network.classes, (len(x),), generator=draws)
    one, other = (
        training.fit(cell, 0, (x, y), (x[:8], y[:8]), network.classes).model.state_dict() for cell in (plain, asked)
    )
    names = [name for name in one if one[name].is_floating_point()]
    largest = max(float(one[name].abs().max()) for name in names)
    return max(float((one[name] - other[name]).abs().max()) for name in names) / largest


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", help="models to take; all small ones where none is named")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | " + " | ".join(SETTINGS) + " |")
    print("| --- |" + " ---: |" * len(SETTINGS))
    for network in overhead.NETWORKS:
        if network.model not in (given.networks or models.MODELS):
            continue
        plain, cells = overhead.cell(network), []
        for setting in SETTINGS.values():
            asked = replace(plain, compute=setting)
            time = overhead.shown(overhead.ratios(network, asked))
            cells.append(f"{time}, {apart(network, plain, asked):.0e}")
        print(f"| {network.model}, width {network.width} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

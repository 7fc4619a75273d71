"""What it saves that broken examples leave the attacks, and which verdicts that changes.

    .venv/bin/python benchmarks/active_set.py               # every attack; MNIST is prepared under data/
    .venv/bin/python benchmarks/active_set.py pgd cw        # some of them

Every attack runs on the same test images with and without leaving, in turns on one torch thread; its time is the
shortest of all turns, in processor seconds. Beside the verdicts that leaving changes stand those that differ from the
attack that goes on to its last step and is judged there. The fully connected networks have the weights of the
reference run; the convolutional one, whose outputs move in their last bits with the size of the batch, is trained
for three epochs. The last line counts the rows and the verdicts of all of them.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from torch import nn

from lat import attacks, data, training
from lat.attacks import Attack, active, run_attack
from lat.attacks.protocol import Unjudged
from lat.cells import Cell, Schedule
from lat.experiment import load_weights
from lat.types import Images, Labels, Verdicts

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "reports" / "reference" / "mnist" / "weights"
NETWORKS = {  # row and width: its cell
    ("dnn", 12): "mnist-4fc-w12-standard-395fb916",
    ("adv_input", 12): "mnist-4fc-w12-fgsm-f3f892d3",
    ("dnn", 256): "mnist-4fc-w256-standard-6c7a7071",
    ("pgd", 256): "mnist-4fc-w256-pgd-e1ac36b6",
}
CONVOLUTIONAL = Cell("mnist", "3conv2fc", 16, "standard", (), None, None, None, False, Schedule(3))
TRAINED_ON = 12_800  # images
TURNS = {"fgsm": 5, "ifgsm": 5, "pgd": 3, "eot": 1, "cw": 3, "mi_fgsm": 5, "pgd_restarts": 1, "cw_restarts": 1}
SIDES = {"without": math.inf, "with": active.RECUT_AT}
IMAGES = 1000


def compared(model: nn.Module, x: Images, y: Labels, attack: Attack, turns: int) -> dict[str, tuple[float, Verdicts]]:
    """For each of SIDES the shortest time of its turns, and its verdicts."""
    found: dict[str, tuple[float, Verdicts]] = {}
    for turn in range(turns):
        for side in list(SIDES)[:: -1 if turn % 2 else 1]:  # neither side is always the second
            active.RECUT_AT = SIDES[side]
            started = time.process_time()
            robust = run_attack(model, x, y, range(len(x)), attack, seed=0).robust
            spent = time.process_time() - started
            found[side] = min(spent, found[side][0]) if side in found else spent, robust
    return found


def networks(x: Images, y: Labels, classes: int) -> Iterator[tuple[str, nn.Module]]:
    """Each network with its name in the table; x (n, C, H, W) and y (n) are the test images."""
    for (row, width), cell in NETWORKS.items():
        weights = WEIGHTS / cell / "seed0.safetensors"
        yield f"{row}, width {width}", load_weights(("4fc", width), weights, tuple(x.shape[1:]), classes)
    seen = data.tensors(data.load("mnist", "train", ROOT / "data", TRAINED_ON))
    yield "3Conv2FC", training.fit(CONVOLUTIONAL, 0, seen, (x, y), classes).model


def main() -> None:
    torch.set_num_threads(1)
    chosen = attacks.from_settings(yaml.safe_load((ROOT / "config" / "attacks.yaml").read_text("utf-8")))
    data.prepare("mnist", ROOT / "data")
    images = data.load("mnist", "test", ROOT / "data", IMAGES)
    x, y = data.tensors(images)
    print(
        "| network | attack | robust accuracy | without, s | with, s | ratio | verdicts changed | judged at the end |"
    )
    print("| --- | --- |" + " ---: |" * 6)
    rows, verdicts, changes, ends = 0, 0, 0, 0
    for network, model in networks(x, y, images.classes):
        for name in sys.argv[1:] or TURNS:
            sides = compared(model, x, y, chosen[name], TURNS[name])
            (full, expected), (less, robust) = sides["without"], sides["with"]
            last = run_attack(Unjudged(model), x, y, range(len(x)), chosen[name], seed=0).robust
            changed, ended = int((robust != expected).sum()), int((robust != last).sum())
            figures = f"{float(robust.double().mean()):.3f} | {full:.3f} | {less:.3f} | {less / full:.2f}"
            print(f"| {network} | {name} | {figures} | {changed} | {ended} |", flush=True)
            rows, verdicts, changes, ends = rows + 1, verdicts + len(x), changes + changed, ends + ended
    print(f"{rows} rows, {verdicts:,} verdicts: {changes} changed, {ends} other than judged at the end")


if __name__ == "__main__":
    main()

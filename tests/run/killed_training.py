"""Trains one cell in a process that is left alone, and again in processes that are killed with SIGKILL at random
moments until the last, which goes on to the end.

    python killed_training.py <data> <results> <kills>

Each is forked from this process, so that torch is imported once. Printed is a JSON object: the moments of the kills in
seconds, counted in turns from the process's start and, so that a busy machine does not kill them all there, from
its first checkpoint; and the epoch and step that were on disk then (null where nothing was).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from small_run import scale, small_run

from lat import checkpoints, experiment
from lat.collection import Folder
from lat.experiment import Job
from lat.runs import Entry


def entry() -> Entry:
    """FGSM and layer-wise training together on augmented images, so that every kind of state is in it."""
    found = small_run(scales=[scale(width=6, epochs=60, cells=["mlpw"])]).entry("mlpw")
    schedule = replace(found.cell.schedule, augmentation="flip_crop", batch=64)
    return replace(found, cell=replace(found.cell, schedule=schedule))


def begin(asked: Entry, folder: Folder, data_root: Path, every_s: float) -> int:
    """A process that trains the entry; its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        job = Job(asked.cell, 0, asked.name, asked.scale, "code", data_root)
        weights, record = folder.weights(asked, 0), folder.record(asked, 0, "train")
        experiment.train(job, weights, record, checkpoint=folder.checkpoint(asked, 0), every_s=every_s)
        status = 0
    finally:
        os._exit(status)


def ended(process: int) -> int:
    """How the process ended: 0 for well, -9 for SIGKILL."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def written(path: Path) -> int | None:
    """Which file lies there: each checkpoint is a new one, put in the last one's place."""
    return path.stat().st_mtime_ns if path.exists() else None


def on_disk(path: Path) -> tuple[int, int] | None:
    if not path.exists():
        return None
    _, state = checkpoints.read(path)
    return state["epoch"], state["step"]


def main(data_root: Path, results: Path, kills: int) -> None:
    asked = entry()
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # the first one loads the compiler, which takes a second
    started = time.perf_counter()
    assert ended(begin(asked, Folder(results / "alone"), data_root, every_s=1e9)) == 0
    longest = (time.perf_counter() - started) / kills
    folder = Folder(results / "killed")
    moments, kept = [], []
    for kill in range(kills):
        moments.append(random.uniform(0, longest))
        before = written(folder.checkpoint(asked, 0))
        process = begin(asked, folder, data_root, every_s=0.01)
        while kill % 2 and written(folder.checkpoint(asked, 0)) == before:
            time.sleep(0.001)
        time.sleep(moments[-1])
        os.kill(process, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
        kept.append(on_disk(folder.checkpoint(asked, 0)))
    assert ended(begin(asked, folder, data_root, every_s=0.1)) == 0
    print(json.dumps({"moments": moments, "kept": kept}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

"""What the options of a subcommand ask for: a run, its folder, a job and a device."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from lat import devices

if TYPE_CHECKING:
    from lat.collection import Folder
    from lat.experiment import Job
    from lat.ledger import Figure
    from lat.runs import Entry, Run


def run_of(options: argparse.Namespace) -> Run:
    from lat import runs

    return runs.load(options.config)


def folder_of(options: argparse.Namespace, run: Run) -> Folder:
    from lat.collection import Folder

    return Folder(options.results / run.name)


def job_of(options: argparse.Namespace, run: Run, entry: Entry, step: str) -> Job:
    from lat.experiment import Job
    from lat.run_files import RunError

    if not 0 <= options.seed < entry.seeds:
        raise RunError(f"seed: {options.seed} of cell {entry.name!r}; {entry.scale!r} has seeds 0 to {entry.seeds - 1}")
    heartbeat = folder_of(options, run).heartbeat(entry, options.seed, step)
    return replace(Job.of(run, entry, options.seed, step, options.data), heartbeat=heartbeat)


def leased(options: argparse.Namespace, what: str) -> AbstractContextManager[str]:
    return devices.lease(options.device, f"lat {what}", share=options.share_gpu or devices.shared())


def print_figures(figures: Iterable[Figure]) -> None:
    for figure in figures:
        over = "" if figure.n is None else f" (n = {figure.n})"
        print(f"{figure.attack or '-':<14} {figure.metric:<16} {figure.value:.6g}{over}")

"""What the options of a subcommand ask for: a run, its folder, a job and a device."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lat import devices

if TYPE_CHECKING:
    from lat.collection import Digest, Folder
    from lat.experiment import Job
    from lat.ledger import Figure
    from lat.runs import Entry, Run

RUN_FILE = "config/quick.yaml"
"""The run file where none is named."""


def run_of(options: argparse.Namespace) -> Run:
    from lat import runs

    return runs.load(options.config)


def folder_of(options: argparse.Namespace, run: Run) -> Folder:
    from lat.collection import Folder

    return Folder(options.results / run.name)


def ledger_folder(path: str) -> Path:
    """The folder of a ledger that is named by its folder or by the file itself."""
    named = Path(path)
    return named.parent if named.name == "ledger.csv" else named


def prepared_of(options: argparse.Namespace) -> Digest:
    """What is prepared, for `lat.collection`; the data are looked at when it is first asked of one that is."""

    @cache
    def digests() -> Digest:
        from lat import data

        return data.digests_under(options.data)

    def digest(dataset: str, part: str, count: int | None) -> str | None:
        is_prepared = (Path(options.data) / dataset / "prepared.json").exists()  # before numpy is loaded to read it
        return digests()(dataset, part, count) if is_prepared else None

    return digest


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

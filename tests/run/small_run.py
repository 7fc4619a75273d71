"""A run small enough for tests, and records of it that no training has made."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lat import runs
from lat.collection import Folder, jobs
from lat.ledger import Figure, Record
from lat.runs import Entry, Run

ROOT = Path(__file__).resolve().parents[2]


def run_file(**changes: Any) -> dict[str, Any]:
    """A complete run file as a mapping: digits, one scale with two cells, two epochs, FGSM alone."""
    return {
        "name": "small",
        "title": "A small run",
        "dataset": "digits",
        "mirror": None,
        "train": None,
        "part": "train",
        "evaluate": "test",
        "schedule": {"batch": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0001, "schedule": "constant"},
        "grid": "config/cells.tsv",
        "attacks": {"file": "config/attacks.yaml", "names": ["fgsm"]},
        "scales": [scale()],
        "variants": [],
        "tables": {"file": "config/tables.yaml", "show": []},
        "claims": "config/claims.yaml",
        "assumptions": "config/assumptions.yaml",
        "studies": {"calibration": "a", "readings": "b", "sensitivity": "c"},
    } | changes


def scale(**changes: Any) -> dict[str, Any]:
    return {
        "name": "narrow",
        "model": "4fc",
        "width": 6,
        "epochs": 2,
        "seeds": 1,
        "cells": ["dnn", "fc_4"],
        "keep": "all",
    } | changes


def small_run(**changes: Any) -> Run:
    return runs.load(run_file(**changes))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def made_record(run: Run, entry: Entry, seed: int, step: str, **changes: Any) -> Record:
    """A record as the job would write it, for weights and verdicts with the contents of `contents`."""
    inputs = {"data": "d" * 64, "weights": sha256(contents(entry, seed, "weights"))}
    if step == "attack":
        inputs["verdicts"] = sha256(contents(entry, seed, "verdicts"))
    values: dict[str, Any] = {
        "step": step,
        "name": entry.name,
        "scale": entry.scale,
        "cell": entry.cell,
        "seed": seed,
        "status": "ok",
        "figures": (Figure("clean_accuracy", 0.5 + seed / 7, n=360), Figure("wall_s", 1.25)),
        "settings": run.settings(entry, seed, step),
        "sources": run.sources(entry, step),
        "inputs": inputs,
        "versions": {"python": "3.11"},
        "device": "cpu",
        "threads": 1,
        "wall_s": 1.5,
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return Record(**(values | changes))


def contents(entry: Entry, seed: int, kind: str) -> bytes:
    return f"{kind} of {entry.cell.slug}, seed {seed}".encode()


def finished(run: Run, root: Path) -> Folder:
    """A folder with every record, weights file and verdicts file that the run asks for."""
    folder = Folder(root)
    for entry, seed, step in jobs(run):
        made_record(run, entry, seed, step).write(folder.record(entry, seed, step))
        kind = "weights" if step == "train" else "verdicts"
        path = folder.weights(entry, seed) if step == "train" else folder.verdicts(entry, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents(entry, seed, kind))
    return folder

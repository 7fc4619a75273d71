"""A small run with made-up figures, written by `lat.ledger` itself: what the report's tests read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lat.cells import Cell, Law, Reading, Schedule
from lat.ledger import Figure, Record, write_ledger
from lat.measured import Plan

ATTACKS = ("fgsm", "ifgsm", "pgd", "eot", "cw")
RADII = ("0.05", "0.1", "0.2")
DIVERGED = 0.098


@dataclass(frozen=True)
class Entry:
    """What `lat.runs.Entry` offers to the report."""

    name: str
    scale: str
    cell: Cell
    seeds: int


@dataclass(frozen=True)
class Run:
    """What `lat.runs.Run` offers to the report."""

    config: Mapping[str, Any]
    entries: Sequence[Entry]
    audit_files: tuple[str, ...] = ()
    audits: Mapping[str, Any] = field(default_factory=dict)

    def steps(self, entry: Entry, seed: int) -> tuple[str, ...]:
        return ("train", "attack")


def cell_of(name: str, width: int, epochs: int, dataset: str) -> Cell:
    """A cell of the kind that its name says: words after a blank change its batch size."""
    base = name.split(" ")[0].removesuffix("_best")
    batch = 128 if " " not in name else 1 + int(hashlib.sha256(name.encode()).hexdigest()[:4], 16)
    law = Law("normal", 0.1 if not name.endswith("_best") else 0.05, "sample")
    layers = {"fc_2": ("fc2",), "fc_4": ("fc4",), "fc_34": ("fc3", "fc4")}.get(base, ("fc2", "fc3", "fc4"))
    inputs = {"adv_input": "fgsm", "adv_fixed": "fgsm", "adv_pgd": "pgd", "noise": "noise", "mlpw": "fgsm"}.get(base)
    layerwise = base.startswith(("fc", "mlp"))
    parts = [part for part in (inputs, "layerwise" if layerwise else None) if part]
    return Cell(
        dataset=dataset,
        model="4fc",
        width=width,
        method="+".join(parts) or "standard",
        layers=(layers if base != "fc_3" else ("fc3",)) if layerwise else (),
        law=law if layerwise else None,
        reading=Reading() if layerwise else None,
        input_law=Law("fixed" if base in ("adv_fixed", "adv_pgd") else "normal", 0.1) if inputs else None,
        mix=False,
        schedule=Schedule(epochs=epochs, batch=batch),
    )


def accuracy(name: str, seed: int, attack: str) -> float:
    """A made-up accuracy on 10,000 images: the same for the same arguments, lower for stronger attacks."""
    draw = int(hashlib.sha256(f"{name} {attack} {seed}".encode()).hexdigest()[:6], 16) / 0xFFFFFF
    level = int(hashlib.sha256(name.encode()).hexdigest()[:6], 16) / 0xFFFFFF
    strength = {"clean": 0.95, "fgsm": 0.6, "ifgsm": 0.5, "pgd": 0.42, "eot": 0.41, "cw": 0.38, "worst_case": 0.35}
    if attack.startswith("pgd_curve@"):
        value = 0.9 * (1 - min(float(attack.split("@")[1]) / 0.25, 1.0))
    else:
        value = strength[attack]
    scale = 1.0 if attack == "clean" else 0.3 + 0.7 * level
    return round(max(value * scale + 0.02 * (draw - 0.5), 0.0), 4)


def records_of(entry: Entry, seed: int, *, diverged: bool, images: int = 10000) -> list[Record]:
    """The training and the attack record of one seed."""
    epochs = entry.cell.schedule.epochs

    def value(attack: str) -> float:
        return DIVERGED if diverged else accuracy(f"{entry.name}@{entry.scale}", seed, attack)

    wall = 20.0 * (1 + len(entry.name) / 10) + seed
    common: dict[str, Any] = {
        "name": entry.name,
        "scale": entry.scale,
        "cell": entry.cell,
        "seed": seed,
        "status": "diverged" if diverged else "ok",
        "versions": {"lat": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "device": "cpu (a processor)",
        "threads": 1,
        "finished": f"2026-01-0{1 + seed}T10:00:00+00:00",
        "inputs": {"data": "d" * 64, "weights": "e" * 64},
    }
    loss = float("nan") if diverged else 0.1
    curve = tuple(
        {"epoch": e, "loss": 2.0 / e + 0.05, "clean_accuracy": value("clean") * (1 - 0.5 / e), "lr": 0.1}
        for e in range(1, epochs + 1)
    )
    trained = Record(
        step="train",
        figures=(
            Figure("loss", loss),
            Figure("clean_accuracy", value("clean"), n=images),
            Figure("step_ms", wall / 10),
            Figure("skipped_batches", 0),
        ),
        settings={},
        sources="a" * 64,
        wall_s=wall,
        curve=curve,
        imported=seed == 1,
        **common,
    )
    robust = [Figure("robust_accuracy", value(name), n=images, attack=name) for name in (*ATTACKS, "worst_case")]
    robust += [Figure("robust_accuracy", value(f"pgd_curve@{r}"), n=images, attack=f"pgd_curve@{r}") for r in RADII]
    robust += [Figure("median_l2", 1.25, n=900, attack="cw_l2"), Figure("success_rate", 1.0, n=1000, attack="cw_l2")]
    attacked = Record(
        step="attack",
        figures=(Figure("clean_accuracy", value("clean"), n=images), *robust),
        settings={"part": "test", "attacks": {"fgsm": {}, "pgd": {}}},
        sources="b" * 64,
        wall_s=12.5,
        **common,
    )
    return [trained, attacked]


CELLS = ("dnn", "adv_input", "adv_fixed", "noise", "adv_pgd", "fc_2", "fc_2_best", "fc_3", "fc_4", "fc_34", "mlpw")


def make_run(
    dataset: str = "mnist",
    cells: Sequence[str] = CELLS,
    scales: Sequence[tuple[str, int, int]] = (("calibrated", 10, 3), ("wide", 256, 1)),
    epochs: int = 4,
    name: str = "made",
) -> Run:
    """A run of `cells` at scales (name, width, seeds)."""
    config = {
        "name": name,
        "title": "A made-up run",
        "dataset": dataset,
        "train": None,
        "part": "train",
        "evaluate": "test",
        "schedule": {"batch": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0001, "schedule": "steps"},
        "attacks": {"file": "config/attacks.yaml", "names": [*ATTACKS, "cw_l2", "pgd_curve"]},
        "scales": [
            {
                "name": scale,
                "model": "4fc",
                "width": width,
                "epochs": epochs,
                "seeds": seeds,
                "cells": [*cells],
                "keep": "all",
            }
            for scale, width, seeds in scales
        ],
        "tables": {"file": "config/tables.yaml", "show": ["table_1", "table_2", "table_3", "table_4"]},
        "claims": "config/claims.yaml",
        "assumptions": "config/assumptions.yaml",
        "studies": {"calibration": "nowhere", "calibration_cnn": "nowhere"},
    }
    entries = [
        Entry(cell, scale, cell_of(cell, width, epochs, dataset), seeds)
        for scale, width, seeds in scales
        for cell in cells
    ]
    return Run(config, entries)


def write_run(
    run: Run, folder: Path, *, diverged: Sequence[tuple[str, str, int]] = (), skipped: Sequence[str] = ()
) -> Plan:
    """Ledger and records of the run in `folder`; `diverged`: (cell, scale, seed); `skipped`: cells without records."""
    made = [
        record
        for entry in run.entries
        if entry.name not in skipped
        for seed in range(entry.seeds)
        for record in records_of(entry, seed, diverged=(entry.name, entry.scale, seed) in diverged)
    ]
    write_ledger(made, folder)
    return Plan.of(run)


@pytest.fixture(scope="session")
def made() -> Callable[..., Run]:
    return make_run


@pytest.fixture(scope="session")
def written() -> Callable[..., Plan]:
    return write_run

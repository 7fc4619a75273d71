"""`config/smoke-deep.yaml`, narrowed: its rows train and are attacked, and its way to the PDF is whole."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_mirror import small_mirror

from lat import attacks, evaluation, runs, training
from lat.runs import Entry

ROOT = Path(__file__).resolve().parents[2]
SMOKE = yaml.safe_load((ROOT / "config/smoke-deep.yaml").read_text())
SHAPES = {"mnist": ((1, 28, 28), 10), "cifar10": ((3, 32, 32), 10), "cifar100": ((3, 32, 32), 100)}
BATCH, STEPS = 4, 2


def narrowed(**changes: Any) -> dict[str, Any]:
    """The run with the narrowest networks, two steps of training and four test images."""
    small = {"width": 1, "batch": BATCH, "train": BATCH * STEPS}
    return {**SMOKE, "images": 4, "scales": [scale | small for scale in SMOKE["scales"]], **changes}


RUN = runs.load(narrowed())


@pytest.mark.parametrize("entry", RUN.entries, ids=lambda entry: f"{entry.name}@{entry.scale}")
def test_every_row_trains_and_is_attacked(entry: Entry) -> None:
    shape, classes = SHAPES[entry.cell.dataset]
    draws = torch.Generator().manual_seed(1)
    x = torch.rand(BATCH * STEPS, *shape, generator=draws)
    y = torch.randint(0, classes, (len(x),), generator=draws)
    trained = training.fit(entry.cell, 0, (x, y), (x[:2], y[:2]), classes)
    assert trained.skipped == 0
    assert all(p.isfinite().all() for p in trained.model.parameters())
    found = evaluation.evaluate(trained.model, x[:2], y[:2], attacks.from_settings(RUN.attacks), seed=0)
    assert set(found.verdicts) == set(SMOKE["attacks"]["names"])


def test_the_run_asks_for_steps_as_its_comment_says() -> None:
    cells = {entry.scale: entry.cell for entry in runs.load(SMOKE).entries}
    steps = {scale: (cell.train or 0) // cell.schedule.batch * cell.schedule.epochs for scale, cell in cells.items()}
    assert (steps["vgg16"], cells["vgg16"].schedule.batch, cells["vgg16"].width) == (30, 32, 64)
    assert (steps["wrn28_10"], cells["wrn28_10"].schedule.batch, cells["wrn28_10"].width) == (5, 8, 10)
    assert min(steps.values()) == 5 and max(steps.values()) == 200, "five to two hundred, as `smoke` says"
    for name, cut in runs.load(SMOKE).attacks.items():
        assert cut.get("steps", 3) == 3 and cut.get("noise_draws", 2) == 2 and cut.get("search_steps", 1) == 1, name


@pytest.mark.slow
def test_its_way_from_the_mirror_to_the_pdf_is_whole(verified: dict[str, Any], tmp_path: Path) -> None:
    """One cell a scale through Snakemake on random images of MNIST's and CIFAR's shapes, from a mirror in the layout of
    CIFAR's; every page says that it is a smoke test.

    The equations are not verified once more: their document is there before.
    """
    for name in ("lat", "workflow", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "reports").mkdir()
    for template in (ROOT / "reports").glob("*.typ"):
        (tmp_path / "reports" / template.name).symlink_to(template)
    chosen = {"small_cnn": "all_w", "vgg16": "all_o_reestimated", "vgg16_augmented": "dnn"}
    chosen |= {"wrn28_10": "conv_all_with_first", "wrn10_1": "adv_input"}
    run = narrowed(name="narrow-deep", audit=None, dataset="grey", mirror=str(tmp_path / "mirror"))
    audits = {"vgg16": SMOKE["audit"]}  # of the costliest kind of network; the others' would be four jobs more
    for scale in run["scales"]:
        scale |= {"cells": [chosen[scale["name"]]], "audit": audits.get(scale["name"])}
        scale |= {"dataset": "coloured"} if "dataset" in scale else {}
    for dataset, shape in {"grey": (28, 28), "coloured": (32, 32, 3)}.items():
        small_mirror(tmp_path / "mirror", dataset, shape)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/equations.json").write_text(json.dumps(verified))
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(run))
    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "1", "--configfile", "narrow.yaml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "reports/narrow-deep.pdf").read_bytes().startswith(b"%PDF")
    content = json.loads((tmp_path / "reports/build/narrow-deep/report.json").read_text())
    assert content["run"]["notice"] == f"Smoke test: {SMOKE['smoke']}"
    assert content["run"]["datasets"] == ["coloured", "grey"]
    lines = {
        (line["scale"], line["cell"]): line
        for table in content["tables"]
        for row in table["rows"]
        for line in row["lines"]
    }
    assert {(scale, cell) for scale, cell in lines if lines[scale, cell]["state"] != "gap"} == {
        pair for pair in chosen.items() if pair[0] != "wrn10_1"
    }, "a scale that lists its cells by name stands in the tables of its network"
    for entry in lines.values():
        assert all(column["difference"] is None for column in entry["columns"].values())
    with (tmp_path / "results/narrow-deep/ledger.csv").open(newline="") as stream:
        assert {(row["scale"], row["cell"]) for row in csv.DictReader(stream)} == set(chosen.items())

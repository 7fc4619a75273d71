"""Figures: their series are the ledger's, Fig. 1 is the equations', and equal input gives equal files."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lat import tables
from lat.figures import curves, relu, style
from lat.ledger import read_records
from lat.measured import Plan, Scale, read_ledger

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = st.floats(-2, 2).filter(lambda value: abs(value) > 1e-3)


@pytest.fixture
def run(tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]) -> tuple[Path, Plan]:
    cells = ("dnn", "adv_input", "fc_2", "fc_2_best", "fc_3")
    every = [("fc_3", "calibrated", seed) for seed in range(3)]
    return tmp_path, written(made(cells=cells), tmp_path, diverged=[("fc_2", "calibrated", 2), *every])


def test_epsilon_series_start_at_clean_accuracy_and_follow_the_radii(run: tuple[Path, Plan]) -> None:
    ledger = read_ledger(run[0] / "ledger.csv")
    series = {(s["scale"], s["cell"]): s for s in curves.epsilon_series(ledger, run[1], {("calibrated", "dnn"): "DNN"})}
    found = series["calibrated", "dnn"]
    assert [point[0] for point in found["points"]] == [0.0, 0.05, 0.1, 0.2]
    frame = ledger.frame
    mine = frame[(frame["cell"] == "dnn") & (frame["scale"] == "calibrated") & (frame["attack"] == "pgd_curve@0.1")]
    assert found["points"][2][1] == pytest.approx(mine["value"].mean())
    assert found["label"] == "DNN"
    lost = series["calibrated", "fc_3"]
    assert (lost["points"], lost["reason"]) == ([], "diverged (3 of 3 seeds)")
    assert series["calibrated", "fc_2_best"]["group"] == "favourable"


def test_a_line_that_was_not_attacked_is_not_called_diverged(run: tuple[Path, Plan]) -> None:
    path = run[0] / "ledger.csv"
    rows = path.read_text().splitlines(True)
    path.write_text("".join(row for row in rows if not (",dnn," in row and ",attack," in row)))
    series = {(s["scale"], s["cell"]): s for s in curves.epsilon_series(read_ledger(path), run[1], {})}
    assert series["wide", "dnn"]["reason"] == "failed or unfinished"


def test_training_series_are_means_over_the_seeds_that_did_not_diverge(run: tuple[Path, Plan]) -> None:
    records = read_records(run[0] / "records.jsonl")
    series = {(s["scale"], s["cell"]): s for s in curves.training_series(records, run[1], {}, "clean_accuracy")}
    mine = [r for r in records if (r.name, r.scale, r.step, r.status) == ("fc_2", "calibrated", "train", "ok")]
    assert len(mine) == 2
    expected = [fmean(record.curve[epoch]["clean_accuracy"] for record in mine) for epoch in range(4)]
    assert [point[1] for point in series["calibrated", "fc_2"]["points"]] == pytest.approx(expected)


def test_equal_input_gives_equal_files(run: tuple[Path, Plan], tmp_path: Path) -> None:
    series = curves.epsilon_series(read_ledger(run[0] / "ledger.csv"), run[1], {})
    for name in ("a", "b"):
        curves.draw(series, tmp_path / f"{name}.svg", x="x", y="y", mark=0.1)
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert b"dc:date" not in first


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.floats(-3, 3))
def test_the_difference_of_fig_1_is_that_of_the_network(w1: float, b1: float, w2: float, r: float, x: float) -> None:
    example = relu.Example(w1=w1, b1=b1, w2=w2, r=r)

    def network(at: float) -> float:
        return w2 * max(w1 * at + b1, 0.0)

    assert relu.change(example, np.array([x]))[0] == pytest.approx(network(x + r) - network(x), abs=1e-9)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_eq_13_holds_for_positive_w1_and_is_swapped_for_negative(w1: float, b1: float, w2: float, r: float) -> None:
    example = relu.Example(w1=w1, b1=b1, w2=w2, r=r)
    reach = abs(r) * np.array([1.01, 1.5, 4.0])
    sides = example.kink + np.concatenate([-reach, reach])
    printed, true = relu.printed_change(example, sides), relu.change(example, sides)
    if w1 > 0:
        assert printed == pytest.approx(true, abs=1e-9)
    else:
        assert printed[::-1] == pytest.approx(true, abs=1e-9)
        assert np.abs(printed - true).max() > 0


def test_the_drawn_examples_show_both_signs() -> None:
    described = relu.describe()
    assert [example["w1"] > 0 for example in described] == [True, False]
    assert described[0]["distance"] == 0
    assert described[1]["distance"] == pytest.approx(abs(described[1]["w2"] * described[1]["w1"] * described[1]["r"]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_keep_their_order_and_do_not_overlap(heights: list[float]) -> None:
    gap = 0.05
    moved = style.spread(heights, gap, 0.0, 1.0)
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in moved)
    ordered = sorted(moved)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(ordered))
    for first, one in zip(heights, moved, strict=True):
        assert all(one <= two + 1e-9 for second, two in zip(heights, moved, strict=True) if first < second)


def test_lines_look_different() -> None:
    assert len({str(style.look(place)) for place in range(24)}) == 24


def test_figures_name_cells_as_the_tables_of_their_scale_do() -> None:
    scales = [
        Scale("a", "mnist", "4fc", 10, 4, 1, ("dnn",), ()),
        Scale("b", "cifar10", "vgg16", 4, 1, 1, (), ("table_8",)),
    ]
    labels = tables.labels_of(tables.load_tables(ROOT / "config/tables.yaml"), Plan("made", {}, tuple(scales), {}))
    assert [labels["a", cell] for cell in ("dnn", "fc_2", "fc_2_best")] == ["DNN", "FC Layer-2", "FC Layer-2"]
    assert (labels["b", "dnn"], labels["b", "all_o"]) == ("VGG16", "All-o")
    assert ("b", "fc_2") not in labels and ("a", "all_o") not in labels


def test_tables_load_no_drawing() -> None:
    code = "import sys, lat.report, lat.tables, lat.studies, lat.compare; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

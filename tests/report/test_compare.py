"""A run against a reference: agreement, disagreement, too little to tell, and what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lat.compare import Row, compare, text
from lat.measured import Plan

Made, Written = Callable[..., Any], Callable[..., Plan]


def by_place(rows: list[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row.scale, row.cell, row.attack): row for row in rows}


def shift(path: Path, cell: str, scale: str, attack: str, by: float) -> None:
    """Adds `by` to the robust accuracies of one cell under one attack."""
    lines = []
    for line in path.read_text().splitlines():
        cells = line.split(",")
        if (cells[3], cells[14], cells[9], cells[10]) == (cell, scale, attack, "robust_accuracy"):
            cells[11] = str(round(float(cells[11]) + by, 4))
        lines.append(",".join(cells))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def folders(tmp_path: Path, made: Made, written: Written) -> tuple[Path, Path]:
    for name in ("run", "reference"):
        written(made(cells=("dnn", "fc_4", "fc_34")), tmp_path / name)
    return tmp_path / "run", tmp_path / "reference"


def test_equal_runs_agree_in_every_figure(folders: tuple[Path, Path]) -> None:
    rows = compare(*folders)
    assert len(rows) == 3 * 2 * (1 + 5 + 1 + 3)
    assert {row.agree for row in rows} == {"yes"}


def test_a_shift_beyond_the_intervals_disagrees_in_that_figure_alone(folders: tuple[Path, Path]) -> None:
    shift(folders[0] / "ledger.csv", "dnn", "calibrated", "pgd", 0.2)
    rows = compare(*folders)
    assert [(r.cell, r.attack) for r in rows if r.agree == "no"] == [("dnn", "pgd")]
    found = by_place(rows)["calibrated", "dnn", "pgd"].difference
    assert found is not None
    assert found.mean == pytest.approx(0.2)
    assert found.kind == "welch_t"


def test_one_seed_a_side_cannot_disagree(folders: tuple[Path, Path]) -> None:
    shift(folders[0] / "ledger.csv", "dnn", "wide", "pgd", 0.2)
    assert by_place(compare(*folders))["wide", "dnn", "pgd"].agree == "too few"


def test_one_seed_against_several_is_judged_by_their_spread(tmp_path: Path, made: Made, written: Written) -> None:
    written(made(cells=("dnn",), scales=(("calibrated", 10, 1),)), tmp_path / "run")
    written(made(cells=("dnn",), scales=(("calibrated", 10, 3),)), tmp_path / "reference")
    row = by_place(compare(tmp_path / "run", tmp_path / "reference"))["calibrated", "dnn", "pgd"]
    assert row.agree == "yes"
    assert row.difference is not None
    assert row.difference.kind == "seed_and_images"
    shift(tmp_path / "run" / "ledger.csv", "dnn", "calibrated", "pgd", 0.3)
    assert by_place(compare(tmp_path / "run", tmp_path / "reference"))["calibrated", "dnn", "pgd"].agree == "no"


def test_missing_cells_are_listed_on_both_sides(tmp_path: Path, made: Made, written: Written) -> None:
    written(made(cells=("dnn", "fc_4")), tmp_path / "run")
    written(made(cells=("dnn", "fc_34")), tmp_path / "reference")
    rows = by_place(compare(tmp_path / "run", tmp_path / "reference"))
    assert rows["wide", "fc_34", "pgd"].note == "not in the run"
    assert rows["wide", "fc_4", "pgd"].note == "not in the reference"
    assert {row.agree for key, row in rows.items() if key[1] != "dnn"} == {"missing"}


def test_a_cell_of_other_settings_is_missing_and_not_disagreeing(tmp_path: Path, made: Made, written: Written) -> None:
    written(made(cells=("dnn",), epochs=3), tmp_path / "run")
    written(made(cells=("dnn",), epochs=4), tmp_path / "reference")
    assert {row.agree for row in compare(tmp_path / "run", tmp_path / "reference")} == {"missing"}


def test_diverged_seeds_are_left_out_and_named(tmp_path: Path, made: Made, written: Written) -> None:
    run = made(cells=("dnn", "fc_4"), scales=(("calibrated", 10, 3),))
    every = [("fc_4", "calibrated", seed) for seed in range(3)]
    written(run, tmp_path / "one", diverged=[("dnn", "calibrated", 0)])
    written(run, tmp_path / "none")
    written(run, tmp_path / "all", diverged=every)
    row = by_place(compare(tmp_path / "one", tmp_path / "none"))["calibrated", "dnn", "pgd"]
    assert (row.agree, row.note) == ("yes", "run: diverged (1 of 3 seeds)")
    assert by_place(compare(tmp_path / "all", tmp_path / "none"))["calibrated", "fc_4", "pgd"].agree == "no"
    both = by_place(compare(tmp_path / "all", tmp_path / "all"))["calibrated", "fc_4", "pgd"]
    assert (both.agree, both.run, both.difference) == ("yes", None, None)


def test_the_text_has_a_line_a_figure_and_counts(folders: tuple[Path, Path]) -> None:
    shift(folders[0] / "ledger.csv", "dnn", "calibrated", "pgd", 0.2)
    rows = compare(*folders)
    lines = text(rows).splitlines()
    assert len(lines) == len(rows) + 4
    assert lines[-2] == f"yes: {len(rows) - 1}, no: 1, too few: 0, missing: 0"
    assert f"of {len(rows)} judged figures" in lines[-1]

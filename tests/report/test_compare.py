"""A run against a reference: agreement, disagreement, too little to tell, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lat import cli
from lat.compare import Row, compare, text
from lat.measured import Plan, read_ledger

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


def test_one_seed_a_side_is_judged_by_the_spread_of_the_reference_s_other_cells(folders: tuple[Path, Path]) -> None:
    """Made-up accuracies of one cell lie within 2 points over seeds: one point is no disagreement, 21 are."""
    for by, agree in ((0.01, "yes"), (0.2, "no")):
        shift(folders[0] / "ledger.csv", "dnn", "wide", "pgd", by)
        rows = compare(*folders)
        row = by_place(rows)["wide", "dnn", "pgd"]
        assert (row.agree, row.note) == (agree, "seed spread of 3 cells of the reference")
        assert row.difference is not None
        assert row.difference.kind == "pooled_seeds_and_images"
        assert {r.note for r in rows if r.scale == "calibrated"} == {""}
    frame = read_ledger(folders[1] / "ledger.csv").frame
    seeds = frame[(frame["scale"] == "calibrated") & (frame["attack"] == "pgd")].groupby("slug")["value"]
    variance = float(seeds.var().mean())  # three seeds each: equal weights
    assert row.difference.high - row.difference.mean > 1.96 * math.sqrt(2 * variance)
    assert row.difference.high - row.difference.mean == pytest.approx(2.45 * math.sqrt(2 * variance), rel=0.1)


def test_one_seed_a_side_is_judged_by_the_images_where_no_spread_is_known(
    tmp_path: Path, made: Made, written: Written
) -> None:
    for name in ("run", "reference"):
        written(made(cells=("dnn",), scales=(("wide", 256, 1),)), tmp_path / name)
    assert {row.agree for row in compare(tmp_path / "run", tmp_path / "reference")} == {"yes"}
    shift(tmp_path / "run" / "ledger.csv", "dnn", "wide", "pgd", 0.2)
    row = by_place(compare(tmp_path / "run", tmp_path / "reference"))["wide", "dnn", "pgd"]
    assert (row.agree, row.note) == ("no", "by the images alone")


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
    assert len(lines) == len(rows) + 5
    assert lines[-3] == f"yes: {len(rows) - 1}, no: 1, too few: 0, missing: 0"
    assert lines[-2] == f"the run lacks 0 of the reference's {len(rows)} figures"
    assert f"of {len(rows)} judged figures" in lines[-1]


def test_what_the_run_lacks_is_counted_and_nothing_judged_is_a_failure(
    tmp_path: Path, made: Made, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    written(made(cells=("dnn",)), tmp_path / "run")
    written(made(cells=("dnn", "fc_34")), tmp_path / "reference")
    written(made(cells=("fc_4",)), tmp_path / "other")
    assert cli.main(["compare", str(tmp_path / "run"), str(tmp_path / "reference")]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "the run lacks 20 of the reference's 40 figures"
    assert cli.main(["compare", str(tmp_path / "other"), str(tmp_path / "reference")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["the run lacks 40 of the reference's 40 figures", "nothing could be judged"]


@pytest.mark.parametrize("content", ["", "a,b\n1\n1,2,3\n"])
def test_a_ledger_that_is_no_table_is_one_line(
    folders: tuple[Path, Path], content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folders[0] / "ledger.csv"
    path.write_text(content)
    assert cli.main(["compare", *map(str, folders)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lat compare: {path}: no ledger (")
    assert error.endswith("; collect the run again\n")
    assert error.count("\n") == 1

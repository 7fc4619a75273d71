"""The tables: every number is the ledger's, and what is not there says why."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from lat import tables
from lat.intervals import binomial, student_t
from lat.ledger import LedgerError
from lat.measured import Plan, read_ledger

ROOT = Path(__file__).resolve().parents[2]
TABLES = tables.load_tables(ROOT / "config/tables.yaml")
TABLE_2 = tables.named_table(TABLES, "table_2")


def lines_of(table: dict[str, Any], row: str, reading: str = "default") -> dict[str, dict[str, Any]]:
    """The lines of a row by scale."""
    found = next(entry for entry in table["rows"] if entry["row"] == row)
    return {line["scale"]: line for line in found["lines"] if line["reading"] == reading}


def values(path: Path, cell: str, scale: str, attack: str) -> list[float]:
    """The ledger's own values, read without the code under test."""
    with path.open(newline="") as stream:
        return [
            float(row["value"])
            for row in csv.DictReader(stream)
            if (row["cell"], row["scale"], row["attack"], row["metric"]) == (cell, scale, attack, "robust_accuracy")
        ]


@pytest.fixture
def run(tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]) -> tuple[Path, Plan]:
    plan = written(
        made(),
        tmp_path,
        diverged=[("fc_4", "calibrated", 1), ("fc_3", "wide", 0), *[("adv_pgd", "calibrated", s) for s in range(3)]],
        skipped=["noise"],
    )
    return tmp_path, plan


def built(run: tuple[Path, Plan], name: str = "table_2") -> dict[str, Any]:
    return tables.build(read_ledger(run[0] / "ledger.csv"), tables.named_table(TABLES, name), run[1])


def test_several_seeds_have_their_mean_and_students_interval(run: tuple[Path, Plan]) -> None:
    found = lines_of(built(run), "DNN")["calibrated"]["columns"]["pgd"]
    expected = student_t(values(run[0] / "ledger.csv", "dnn", "calibrated", "pgd"))
    assert found["estimate"]["mean"] == expected.mean
    assert (found["estimate"]["low"], found["estimate"]["high"]) == (expected.low, expected.high)
    assert (found["estimate"]["kind"], found["seeds"]) == ("student_t", 3)
    assert found["text"] == f"{100 * expected.mean:.1f}"


def test_one_seed_has_the_binomial_interval_and_says_so(run: tuple[Path, Plan]) -> None:
    line = lines_of(built(run), "DNN")["wide"]
    found = line["columns"]["fgsm"]["estimate"]
    expected = binomial(values(run[0] / "ledger.csv", "dnn", "wide", "fgsm")[0], 10000)
    assert (found["low"], found["high"], found["n"]) == (expected.low, expected.high, 10000)
    assert line["interval"] == "binomial"


def test_the_difference_is_measured_minus_reported(run: tuple[Path, Plan]) -> None:
    found = lines_of(built(run), "Adv-input")["calibrated"]["columns"]["cw"]
    mean = fmean(values(run[0] / "ledger.csv", "adv_input", "calibrated", "cw"))
    assert found["difference"] == pytest.approx(mean - 0.0513)
    assert found["difference_text"] == f"{100 * (mean - 0.0513):+.1f}"


def test_no_difference_is_given_on_other_data(
    tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    plan = written(made("digits"), tmp_path)
    table = built((tmp_path, plan))
    found = [c for row in table["rows"] for line in row["lines"] for c in line["columns"].values()]
    assert any(c["estimate"] for c in found)
    assert all(c["difference"] is None for c in found)


def test_the_worst_case_has_no_reported_number(run: tuple[Path, Plan]) -> None:
    found = lines_of(built(run), "DNN")["calibrated"]["columns"]["worst_case"]
    assert found["estimate"] is not None
    assert found["difference"] is None


def test_a_diverged_seed_is_counted_and_left_out_of_the_mean(run: tuple[Path, Plan]) -> None:
    line = lines_of(built(run), "FC Layer-4")["calibrated"]
    survivors = [v for v in values(run[0] / "ledger.csv", "fc_4", "calibrated", "pgd") if v != 0.098]
    assert len(survivors) == 2
    assert line["columns"]["pgd"]["estimate"]["mean"] == pytest.approx(fmean(survivors))
    assert (line["state"], line["diverged_text"]) == ("ok", "diverged (1 of 3 seeds)")


def test_a_row_of_which_every_seed_diverged_has_no_figure(run: tuple[Path, Plan]) -> None:
    line = lines_of(built(run), "PGD training")["calibrated"]
    assert (line["state"], line["reason"]) == ("diverged", "diverged (3 of 3 seeds)")
    assert all(entry["estimate"] is None for entry in line["columns"].values())


def test_gaps_say_why(run: tuple[Path, Plan]) -> None:
    table = built(run)
    assert lines_of(table, "Undirected noise")["wide"]["reason"] == "failed or unfinished"
    assert lines_of(table, "Adv-input (previous batch)")["wide"]["reason"] == "not in this run"
    assert {lines_of(table, row)["wide"]["state"] for row in ("Undirected noise", "Adv-input (previous batch)")} == {
        "gap"
    }


def test_an_attack_that_was_not_run_is_a_gap_of_its_column_alone(run: tuple[Path, Plan]) -> None:
    path = run[0] / "ledger.csv"
    path.write_text("".join(row for row in path.read_text().splitlines(True) if ",eot," not in row))
    line = lines_of(built(run), "DNN")["wide"]
    assert line["columns"]["eot"]["reason"] == "not in this run"
    assert line["columns"]["pgd"]["state"] == "ok"


def test_a_training_without_its_attack_is_unfinished(run: tuple[Path, Plan]) -> None:
    path = run[0] / "ledger.csv"
    rows = path.read_text().splitlines(True)
    path.write_text("".join(row for row in rows if not (",dnn," in row and ",attack," in row and ",wide," in row)))
    assert lines_of(built(run), "DNN")["wide"]["reason"] == "failed or unfinished"


def test_the_favourable_reading_stands_beside(run: tuple[Path, Plan]) -> None:
    table = built(run)
    found = lines_of(table, "FC Layer-2", "favourable")["calibrated"]
    expected = fmean(values(run[0] / "ledger.csv", "fc_2_best", "calibrated", "pgd"))
    assert found["columns"]["pgd"]["estimate"]["mean"] == pytest.approx(expected)
    assert lines_of(table, "FC Layer-3", "favourable") == {}
    assert table["without_favourable"] == ["FC Layer-3", "FC Layer-4", "Adv-input (fixed eps)", "PGD training"]


def test_the_cost_is_training_time_over_the_undefended_cells(run: tuple[Path, Plan]) -> None:
    # Times of a step in the fixture: 2 (1 + len(name) / 10) + seed / 10, three seeds.
    line = lines_of(built(run), "Adv-input")["calibrated"]
    assert line["cost"]["step_ms"] == pytest.approx(2 * 1.9 + 0.1)
    assert line["cost"]["ratio"] == pytest.approx((20 * 1.9 + 1) / (20 * 1.3 + 1))
    assert lines_of(built(run), "DNN")["wide"]["cost"]["text"] == "1.0×"


def test_costs_hold_distance_and_step_time(run: tuple[Path, Plan]) -> None:
    found = tables.costs(read_ledger(run[0] / "ledger.csv"), run[1], tables.labels_of(TABLES, run[1]))
    row = next(entry for entry in found if (entry["cell"], entry["scale"]) == ("fc_34", "wide"))
    assert (row["row"], row["l2_text"], row["ratio_text"]) == ("FC-3&4", "1.25", "1.15×")
    gone = next(entry for entry in found if (entry["cell"], entry["scale"]) == ("fc_3", "wide"))
    assert gone["reason"] == "diverged (1 of 1 seeds)"


def test_a_seed_that_is_trained_and_not_attacked_is_no_seed_of_the_figure(run: tuple[Path, Plan]) -> None:
    path = run[0] / "ledger.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    unfinished = {"cell": "dnn", "scale": "calibrated", "seed": "2", "step": "attack"}
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if any(row[key] != value for key, value in unfinished.items()))
    line = lines_of(built(run), "DNN")["calibrated"]
    assert line["columns"]["pgd"]["seeds"] == line["seeds"] == 2
    assert len(values(path, "dnn", "calibrated", "pgd")) == 2


def test_a_changed_ledger_value_changes_the_table(run: tuple[Path, Plan]) -> None:
    before = lines_of(built(run), "DNN")["wide"]["columns"]["fgsm"]["text"]
    path = run[0] / "ledger.csv"
    [value] = values(path, "dnn", "wide", "fgsm")
    path.write_text(
        "".join(
            row.replace(f",robust_accuracy,{value},", ",robust_accuracy,0.123,")
            if ",dnn," in row and ",fgsm," in row and ",wide," in row
            else row
            for row in path.read_text().splitlines(True)
        )
    )
    after = lines_of(built(run), "DNN")["wide"]["columns"]["fgsm"]["text"]
    assert (before != after, after) == (True, "12.3")


def test_figures_of_a_cell_that_was_changed_are_not_shown(run: tuple[Path, Plan]) -> None:
    slugs = {**run[1].slugs, ("wide", "dnn"): "another-cell-00000000"}
    plan = Plan(run[1].name, run[1].config, run[1].scales, slugs)
    assert lines_of(built((run[0], plan)), "DNN")["wide"]["state"] == "gap"


def test_an_equal_cell_under_another_name_is_found(run: tuple[Path, Plan]) -> None:
    slugs = {**run[1].slugs, ("wide", "adv_mix"): run[1].slugs["wide", "dnn"]}
    plan = Plan(run[1].name, run[1].config, run[1].scales, slugs)
    table = built((run[0], plan))
    dnn, mix = (lines_of(table, row)["wide"]["columns"]["pgd"] for row in ("DNN", "Adv-input (clean mixed in)"))
    assert mix["estimate"] == dnn["estimate"]


def test_tables_of_other_networks_hold_reported_numbers_alone(run: tuple[Path, Plan]) -> None:
    table = built(run, "table_5")
    assert table["rows"][0]["reported"]["fgsm"] == 0.3177
    assert all(row["lines"] == [] for row in table["rows"])


def test_a_table_is_written_as_json_csv_and_markdown(run: tuple[Path, Plan], tmp_path: Path) -> None:
    table = built(run)
    as_json, as_csv, as_markdown = tables.write(table, tmp_path / "out")
    assert json.loads(as_json.read_text()) == json.loads(json.dumps(table))
    with as_csv.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    reported = [row for row in rows if row["source"] == "reported"]
    assert len(reported) == 5 * 6
    measured = next(r for r in rows if (r["row"], r["scale"], r["column"]) == ("DNN", "wide", "pgd"))
    assert float(measured["value"]) == values(run[0] / "ledger.csv", "dnn", "wide", "pgd")[0]
    text = as_markdown.read_text()
    assert "| DNN | reported | 94.29 | 14.15 | 11.06 | 8.19 | 3.75 | 2.56 |" in text
    assert "failed or unfinished" in text


def test_a_figure_that_stands_twice_is_refused(run: tuple[Path, Plan]) -> None:
    path = run[0] / "ledger.csv"
    rows = path.read_text().splitlines(True)
    twice = next(row for row in rows if ",dnn," in row and ",pgd," in row and ",wide," in row)
    path.write_text("".join([*rows, twice]))
    with pytest.raises(LedgerError, match="twice"):
        built(run)


def test_a_ledger_with_a_missing_column_is_refused_by_name(run: tuple[Path, Plan]) -> None:
    path = run[0] / "ledger.csv"
    path.write_text(path.read_text().replace(",status,", ",state,", 1))
    with pytest.raises(LedgerError, match=r"'stat(e|us)' is (unknown|missing)"):
        read_ledger(path)
    with pytest.raises(LedgerError, match="no such ledger"):
        read_ledger(path.with_name("nothing.csv"))


def test_an_unknown_table_is_refused_with_the_known_ones() -> None:
    with pytest.raises(tables.TableError, match=r"'table_10' is not known; use one of table_1, .*table_9"):
        tables.named_table(TABLES, "table_10")

"""Records and the ledger: written whole or not at all, and read back only as they were written."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
from small_run import made_record, scale, small_run

from lat.collection import jobs
from lat.ledger import COLUMNS, Figure, LedgerError, Record, atomic, read_records, write_ledger


def all_records(seeds: int = 2) -> list[Record]:
    run = small_run(scales=[scale(seeds=seeds), scale(name="wide", width=8, seeds=1)])
    return [made_record(run, entry, seed, step) for entry, seed, step in jobs(run)]


# Atomic writing


def test_a_file_appears_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "file.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "file.txt").exists()
    assert (tmp_path / "new" / "file.txt").read_text() == "whole"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]


def test_an_exception_leaves_the_earlier_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("earlier")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic(tmp_path / "ours") as temporary:
        temporary.write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Records


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    curve = ({"epoch": 1, "loss": 2.25, "clean_accuracy": 0.125, "lr": 0.1},)
    figures = (Figure("loss", float("inf")), Figure("robust_accuracy", 0.25, n=360, attack="pgd"))
    for record in all_records():
        full = Record(**{**vars(record), "curve": curve, "figures": figures, "status": "diverged"})
        full.write(tmp_path / full.path)
        assert Record.read(tmp_path / full.path) == full


def test_reasons_are_written_where_there_are_any_and_older_records_have_none(tmp_path: Path) -> None:
    record = all_records()[0]
    assert "reasons" not in record.to_json()
    assert Record.from_json(record.to_json()).reasons == {}
    told = Record(**{**vars(record), "reasons": {"certified": "no bounds"}})
    told.write(tmp_path / told.path)
    assert Record.read(tmp_path / told.path) == told
    write_ledger([told], tmp_path)
    assert read_records(tmp_path / "records.jsonl") == [told]
    with pytest.raises(LedgerError, match="here: not a record"):
        Record.from_json(record.to_json() | {"reasons": ["no bounds"]}, "here")


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"seed0\.train\.json: no such record; run its job"):
        Record.read(tmp_path / "seed0.train.json")


@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, 0.99])
def test_a_record_that_is_cut_short_is_named(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "seed0.train.json"
    all_records()[0].write(path)
    text = path.read_text().rstrip()
    path.write_text(text[: kept if isinstance(kept, int) else int(kept * len(text))])
    with pytest.raises(LedgerError, match=r"seed0\.train\.json: not a record .*run its job again"):
        Record.read(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seed_": 1}, "key 'seed_' is unknown"),
        ({"figures": None}, "not a record"),
        ({"figures": [{"metric": "loss", "worth": 1.0}]}, "not a record"),
        ({"cell": {}}, "not a record"),
        ({"cell": 3}, "not a record"),
        ({"step": "test"}, "step: 'test' is not one of train, attack"),
        ({"status": "good"}, "status: 'good' is not one of ok, diverged"),
        ({"slug": "digits-4fc-w6-standard-00000000"}, "the file was altered"),
    ],
)
def test_an_altered_record_is_named(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "seed0.train.json"
    path.write_text(json.dumps(all_records()[0].to_json() | change))
    with pytest.raises(LedgerError) as raised:
        Record.read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert complaint in str(raised.value)


def test_a_record_whose_cell_was_altered_is_named(tmp_path: Path) -> None:
    path = tmp_path / "seed0.train.json"
    values = all_records()[0].to_json()
    values["cell"]["width"] = 7
    path.write_text(json.dumps(values))
    with pytest.raises(LedgerError, match="the file was altered"):
        Record.read(path)
    values["cell"]["schedule"]["epochs"] = 0
    path.write_text(json.dumps(values))
    with pytest.raises(LedgerError, match=r"seed0\.train\.json: not a record \(epochs: 0"):
        Record.read(path)


@pytest.mark.parametrize("key", ["cell", "seed", "settings", "sources", "inputs", "figures", "imported", "curve"])
def test_a_key_missing_from_a_record_is_named(key: str) -> None:
    values = all_records()[0].to_json()
    del values[key]
    with pytest.raises(LedgerError, match=rf"here: key '{key}' is missing"):
        Record.from_json(values, "here")


@pytest.mark.parametrize("values", [None, [], [["step", "train"]], "record", 3])
def test_what_is_no_object_is_no_record(tmp_path: Path, values: object) -> None:
    path = tmp_path / "seed0.train.json"
    path.write_text(json.dumps(values))
    with pytest.raises(LedgerError, match=r"seed0\.train\.json: not a record"):
        Record.read(path)


# The ledger


def test_the_ledger_does_not_depend_on_the_order_of_the_records(tmp_path: Path) -> None:
    records = all_records()
    write_ledger(records, tmp_path / "a")
    random.Random(0).shuffle(records)
    write_ledger(records, tmp_path / "b")
    for name in ("ledger.csv", "records.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_ledger_has_one_row_a_figure_in_its_columns(tmp_path: Path) -> None:
    records = all_records(seeds=1)
    write_ledger(records, tmp_path)
    with (tmp_path / "ledger.csv").open(newline="") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    assert (
        *("dataset", "model", "width", "cell", "method", "layers", "epsilon", "seed", "step"),
        *("attack", "metric", "value", "n", "status", "scale", "slug"),
    ) == COLUMNS
    assert len(rows) == sum(len(record.figures) for record in records)
    row = next(r for r in rows if (r["cell"], r["scale"], r["step"]) == ("fc_4", "narrow", "attack"))
    assert (row["method"], row["layers"], row["epsilon"]) == ("layerwise", "fc4", "normal 0.1 per sample")
    assert (row["metric"], row["value"], row["n"], row["attack"]) == ("clean_accuracy", "0.5", "360", "")
    plain = next(r for r in rows if r["cell"] == "dnn" and r["metric"] == "wall_s")
    assert (plain["layers"], plain["epsilon"], plain["n"]) == ("", "", "")


def test_the_records_of_a_ledger_come_back(tmp_path: Path) -> None:
    records = all_records()
    write_ledger(records, tmp_path)
    assert {(r.path, r.name, r.scale): r for r in records} == {
        (r.path, r.name, r.scale): r for r in read_records(tmp_path / "records.jsonl")
    }


@pytest.mark.parametrize("spoilt", ["{", "[]", '{"step": "train"}', ""])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, spoilt: str) -> None:
    write_ledger(all_records(), tmp_path)
    path = tmp_path / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], spoilt, *lines[3:]]) + "\n")
    with pytest.raises(LedgerError, match=r"records\.jsonl, line 3: "):
        read_records(path)


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"records\.jsonl: not there; collect the run first"):
        read_records(tmp_path / "records.jsonl")

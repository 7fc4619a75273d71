"""What is kept of records made again: read back as it was written, and told only of the records as they stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_run import made_record, scale, small_run

from lat import rederived
from lat.collection import jobs
from lat.ledger import Figure, LedgerError, Record
from lat.rederived import Rederived, outcome_of


@pytest.fixture(scope="module")
def records() -> list[Record]:
    run = small_run(scales=[scale(seeds=2)])
    return [made_record(run, entry, seed, step) for entry, seed, step in jobs(run)]


@pytest.fixture(scope="module")
def entries(records: list[Record]) -> list[Rederived]:
    """Each record made again, by code of another digest, with the same outcome."""
    return [Rederived.of(old, replace(old, sources="b" * 64, finished="2026-12-01T00:00:00+00:00")) for old in records]


def test_entries_come_back_as_they_were_written_and_the_last_of_a_record_stands(
    entries: list[Rederived], tmp_path: Path
) -> None:
    assert len(entries) == 8
    altered = replace(entries[3], equal={"verdicts": False, "figures": True})
    rederived.write(tmp_path, [*reversed(entries), altered])
    assert rederived.read(tmp_path) == [*entries[:3], altered, *entries[4:]]


def test_a_folder_without_the_file_has_none_and_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    assert rederived.read(tmp_path) == []
    for content in ("{", "[]", "{}", '{"records": [{"name": "dnn"}]}', '{"records": [3]}'):
        (tmp_path / rederived.FILE).write_text(content)
        with pytest.raises(LedgerError, match=r"rederived\.json: not a list of records made again .*restore the file"):
            rederived.read(tmp_path)


def test_the_outcome_is_what_was_measured_and_left_but_not_how_fast_nor_by_which_code(records: list[Record]) -> None:
    old = next(record for record in records if record.step == "train")
    assert old.figures
    same = replace(
        old, figures=(*old.figures, Figure("step_ms", 7.0), Figure("wall_s", 7.0)), sources="c" * 64, wall_s=9.0
    )
    assert outcome_of(same) == outcome_of(old)
    others = [
        replace(old, figures=(*old.figures, Figure("skipped_batches", 7.0))),
        replace(old, status="diverged" if old.status == "ok" else "ok"),
        replace(old, inputs={**old.inputs, "weights": "d" * 64}),
        replace(old, curve=({"epoch": 1, "loss": 0.5},)),
    ]
    assert len({outcome_of(record) for record in (old, *others)}) == 5
    assert [Rederived.of(old, new).equal for new in others] == [
        {"weights": True, "figures": False},
        {"weights": True, "figures": False},
        {"weights": False, "figures": True},
        {"weights": True, "figures": False},
    ]


def test_figures_that_are_no_numbers_are_equal_to_themselves(records: list[Record]) -> None:
    attack = next(record for record in records if record.step == "attack")
    odd = replace(attack, figures=(Figure("mean_l2", float("nan"), attack="cw_l2"),))
    assert Rederived.of(odd, replace(odd, figures=(Figure("mean_l2", float("nan"), attack="cw_l2"),))).same


def test_the_summary_counts_steps_later_code_and_what_differs(records: list[Record], entries: list[Rederived]) -> None:
    own = replace(entries[0], sources=records[0].sources)
    differs = replace(entries[1], equal={"verdicts": True, "figures": False})
    present = {(entry.slug, entry.step): "b" * 64 for entry in entries}
    found = rederived.summary([own, differs, *entries[2:]], records, present)
    assert found is not None
    assert found["steps"] == [{"step": "train", "records": 4}, {"step": "attack", "records": 4}]
    assert (found["records"], found["later"], found["older"]) == (8, 7, 1)
    assert found["differ"] == [f"{differs.name}@{differs.scale}, seed 0, attack: verdicts equal, figures differ"]
    assert found["last"] == "2026-12-01T00:00:00+00:00"
    unasked = rederived.summary(entries, records, None)
    assert unasked is not None
    assert unasked["older"] is None


def test_what_was_found_of_a_record_that_has_changed_or_gone_is_not_told(
    records: list[Record], entries: list[Rederived]
) -> None:
    changed = replace(records[0], figures=(Figure("clean_accuracy", 0.123, n=360),))
    found = rederived.summary(entries, [changed, *records[2:]], None)
    assert found is not None
    assert found["records"] == 6
    assert rederived.summary(entries[:2], [changed, *records[2:]], None) is None
    assert rederived.summary([], records, None) is None

"""From records on disk to a ledger, to an export and back: nothing stale, altered or foreign gets through."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_run import contents, finished, made_record, scale, small_run

from lat import runs
from lat.collection import Digest, Folder, collect, data_changed, export, jobs, put_back, restore
from lat.ledger import LedgerError, Record, read_records
from lat.runs import Run


@pytest.fixture
def run() -> Run:
    return small_run(scales=[scale(seeds=2)])


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Folder:
    return finished(run, tmp_path / "run")


def alter(path: Path, change: Callable[[Record], Record]) -> None:
    change(Record.read(path)).write(path)


# Collecting


def test_a_finished_run_has_every_record_in_its_ledger(run: Run, folder: Folder) -> None:
    assert collect(run, folder, folder.root) == []
    found = read_records(folder.root / "records.jsonl")
    assert len(found) == len(list(jobs(run))) == 8
    assert {(r.name, r.seed, r.step) for r in found} == {(e.name, seed, step) for e, seed, step in jobs(run)}


def test_records_of_cells_that_the_run_does_not_ask_for_are_left_out(run: Run, folder: Folder) -> None:
    fewer = small_run(scales=[scale(cells=["dnn"])])
    collect(fewer, folder, folder.root)
    assert {(r.name, r.seed) for r in read_records(folder.root / "records.jsonl")} == {("dnn", 0)}


def test_a_part_of_a_run_is_collected_by_its_entries(run: Run, folder: Folder, tmp_path: Path) -> None:
    folder.record(run.entry("dnn"), 0, "train").unlink()
    assert collect(run, folder, tmp_path / "part", only=[run.entry("fc_4")]) == []
    assert {r.name for r in read_records(tmp_path / "part" / "records.jsonl")} == {"fc_4"}


def test_a_record_stands_in_the_ledger_under_the_names_of_this_run(run: Run, folder: Folder) -> None:
    renamed = small_run(scales=[scale(name="slim", seeds=2)])
    collect(renamed, folder, folder.root)
    assert {r.scale for r in read_records(folder.root / "records.jsonl")} == {"slim"}


def test_two_names_of_one_cell_both_stand_in_the_ledger(folder: Folder) -> None:
    best = {"name": "v", "suffix": "_best", "scales": ["narrow"], "bases": ["fc_4"], "axes": [[{"form": "closed"}]]}
    run = small_run(scales=[scale(seeds=2)], variants=[best])
    assert collect(run, folder, folder.root) == []
    assert {r.name for r in read_records(folder.root / "records.jsonl")} == {"dnn", "fc_4", "fc_4_best"}


@pytest.mark.parametrize(
    ("step", "change", "complaint"),
    [
        (
            "attack",
            lambda r: replace(r, settings={"part": "validation", "attacks": {}}),
            "'part': 'validation'",
        ),
        ("train", lambda r: replace(r, sources="0" * 64), "made by code with digest 00000000"),
        ("attack", lambda r: replace(r, sources="0" * 64), "made by code with digest 00000000"),
        ("attack", lambda r: replace(r, inputs={**r.inputs, "weights": "f" * 64}), "looked at weights ffffffff"),
        ("attack", lambda r: replace(r, inputs={"data": "d"}), "no digest of its weights"),
        ("train", lambda r: replace(r, inputs={"data": "d"}), "no digest of its weights"),
        ("train", lambda r: replace(r, seed=1), "seed 1, train"),
        ("train", lambda r: replace(r, step="attack"), "attack"),
        ("train", lambda r: replace(r, cell=replace(r.cell, width=7)), "-w7-"),
        ("attack", lambda r: replace(r, settings={}, imported=True), "settings {}"),
        ("attack", lambda r: replace(r, inputs={**r.inputs, "weights": "f" * 64}, imported=True), "looked at weights"),
    ],
)
def test_a_record_of_something_else_is_refused_with_file_and_mend(
    run: Run, folder: Folder, step: str, change: Callable[[Record], Record], complaint: str
) -> None:
    path = folder.record(run.entry("fc_4"), 0, step)
    alter(path, change)
    with pytest.raises(LedgerError) as raised:
        collect(run, folder, folder.root)
    assert str(raised.value).startswith(f"{path}: ")
    assert complaint in str(raised.value)
    assert f"delete {path} and run its job again" in str(raised.value)
    assert not (folder.root / "ledger.csv").exists()


def test_a_changed_attack_setting_refuses_every_attack_made_before(run: Run, folder: Folder) -> None:
    other = replace(run, attacks={"fgsm": {**run.attacks["fgsm"], "radius": 0.2}})
    with pytest.raises(LedgerError, match=r"seed0\.attack\.json: settings .*0\.1.*0\.2.* are asked for; delete"):
        collect(other, folder, folder.root)


def test_an_imported_record_may_be_of_older_code(run: Run, folder: Folder) -> None:
    for entry, seed, step in jobs(run):
        alter(folder.record(entry, seed, step), lambda r: replace(r, sources="0" * 64, imported=True))
    assert collect(run, folder, folder.root) == []
    assert {(r.sources, r.imported) for r in read_records(folder.root / "records.jsonl")} == {("0" * 64, True)}


def prepared(train: str, test: str) -> Digest:
    """Digests as if the digits were prepared from such images; nothing else is."""
    held = {("digits", "train", None): train, ("digits", "test", None): test}
    return lambda *asked: held.get(asked)


@pytest.mark.parametrize("found", [None, prepared("d" * 64, "d" * 64), lambda *asked: None])
def test_records_of_the_data_that_is_prepared_pass_and_so_they_do_where_none_is(
    run: Run, folder: Folder, tmp_path: Path, found: Digest | None
) -> None:
    assert collect(run, folder, folder.root, data=found) == []
    export(run, folder, tmp_path / "kept")
    assert restore(run, tmp_path / "kept", Folder(tmp_path / "again"), found) == (8, 0)


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (prepared("a" * 64, "d" * 64), r"seed0\.train\.json: data d{8} of digits, part train; prepared is a{8}"),
        (prepared("d" * 64, "a" * 64), r"seed0\.attack\.json: data d{8} of digits, part test; prepared is a{8}"),
    ],
)
def test_records_of_other_data_than_is_prepared_are_refused(
    run: Run, folder: Folder, tmp_path: Path, found: Digest, complaint: str
) -> None:
    with pytest.raises(LedgerError, match=complaint + r"; delete \S+ and run its job again"):
        collect(run, folder, folder.root, data=found)
    collect(run, folder, folder.root)
    export(run, folder, tmp_path / "kept")
    with pytest.raises(LedgerError, match=complaint + "; prepare the data that it was made from"):
        restore(run, tmp_path / "kept", Folder(tmp_path / "again"), found)


def test_a_training_is_of_the_images_too_on_which_its_accuracy_was_followed(run: Run, folder: Folder) -> None:
    entry, data = run.entry("dnn"), prepared("d" * 64, "a" * 64)
    job = (entry, 0, "train")
    assert not data_changed(run, folder, job, data)
    alter(folder.record(*job), lambda r: replace(r, inputs={**r.inputs, "tested": "b" * 64}))
    assert data_changed(run, folder, job, data)
    with pytest.raises(LedgerError, match="tested bbbbbbbb of digits, part test; prepared is aaaaaaaa"):
        collect(run, folder, folder.root, data=data)
    folder.record(*job).unlink()
    assert not data_changed(run, folder, job, data)


def test_a_gap_is_an_error_unless_gaps_are_asked_for(run: Run, folder: Folder) -> None:
    entry = run.entry("fc_4")
    folder.record(entry, 1, "attack").unlink()
    with pytest.raises(LedgerError, match=r"seed1\.attack\.json: no such record; run its job"):
        collect(run, folder, folder.root)
    assert not (folder.root / "ledger.csv").exists()
    assert collect(run, folder, folder.root, gaps=True) == [(entry, 1, "attack")]
    assert len(read_records(folder.root / "records.jsonl")) == 7


def test_an_attack_without_its_training_is_a_gap_too(run: Run, folder: Folder) -> None:
    """The training failed after an earlier one: the attack's record is of weights that nothing vouches for."""
    entry = run.entry("fc_4")
    folder.record(entry, 0, "train").unlink()
    assert collect(run, folder, folder.root, gaps=True) == [(entry, 0, "train"), (entry, 0, "attack")]


@pytest.mark.parametrize("kind", ["verdicts", "weights"])
def test_the_files_that_records_vouch_for_are_looked_at(run: Run, folder: Folder, kind: str) -> None:
    path = folder.verdicts(run.entry("fc_4"), 1) if kind == "verdicts" else folder.weights(run.entry("fc_4"), 1)
    path.write_bytes(b"")
    for gaps in (False, True):
        with pytest.raises(LedgerError) as raised:
            collect(run, folder, folder.root, gaps=gaps)
        assert str(raised.value).startswith(f"{path}: SHA-256 e3b0c44298fc; its record says ")
    path.unlink()
    if kind == "weights":
        assert collect(run, folder, folder.root) == [], "weights need not be kept"
    else:
        with pytest.raises(LedgerError, match=f"{path.name}: missing beside its record"):
            collect(run, folder, folder.root)


def test_gaps_excuse_no_stale_record(run: Run, folder: Folder) -> None:
    alter(folder.record(run.entry("dnn"), 0, "train"), lambda r: replace(r, sources="0" * 64))
    with pytest.raises(LedgerError, match="made by code"):
        collect(run, folder, folder.root, gaps=True)


# Exporting and putting back


def test_an_export_put_back_collects_to_the_same_ledger(run: Run, folder: Folder, tmp_path: Path) -> None:
    collect(run, folder, folder.root)
    assert export(run, folder, tmp_path / "kept") == 4
    assert runs.load(tmp_path / "kept" / "config.json") == run
    again = Folder(tmp_path / "again")
    assert restore(run, tmp_path / "kept", again) == (8, 0)
    collect(run, again, again.root)
    assert (again.root / "ledger.csv").read_bytes() == (folder.root / "ledger.csv").read_bytes()
    assert all(record.imported for record in read_records(again.root / "records.jsonl"))
    for entry, seed, _ in jobs(run):
        assert again.weights(entry, seed).read_bytes() == contents(entry, seed, "weights")
        assert again.verdicts(entry, seed).read_bytes() == contents(entry, seed, "verdicts")


@pytest.mark.parametrize(
    ("keep", "expected"),
    [("all", {("dnn", 0), ("dnn", 1), ("fc_4", 0), ("fc_4", 1)}), (["fc_4"], {("fc_4", 0)}), ([], set())],
)
def test_an_export_keeps_the_weights_that_its_scale_names(
    tmp_path: Path, keep: str | list[str], expected: set[tuple[str, int]]
) -> None:
    run = small_run(scales=[scale(seeds=2, keep=keep)])
    folder = finished(run, tmp_path / "run")
    collect(run, folder, folder.root)
    assert export(run, folder, tmp_path / "kept") == len(expected)
    out = Folder(tmp_path / "kept")
    found = {(entry.name, seed) for entry, seed, _ in jobs(run) if out.weights(entry, seed).exists()}
    assert found == expected
    assert all(out.verdicts(entry, seed).exists() for entry, seed, _ in jobs(run))


def test_the_kept_weights_are_those_of_the_name_that_is_kept(tmp_path: Path) -> None:
    """One cell under two names, of which the second one is kept."""
    best = {"name": "v", "suffix": "_best", "scales": ["narrow"], "bases": ["fc_4"], "axes": [[{"form": "closed"}]]}
    run = small_run(scales=[scale(keep=["fc_4_best"])], variants=[best])
    folder = finished(run, tmp_path / "run")
    collect(run, folder, folder.root)
    assert export(run, folder, tmp_path / "kept") == 1
    assert Folder(tmp_path / "kept").weights(run.entry("fc_4_best"), 0).exists()


def test_an_export_of_what_is_not_there_or_not_the_records_is_refused(run: Run, folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"records\.jsonl: not there; collect the run first"):
        export(run, folder, tmp_path / "kept")
    collect(run, folder, folder.root)
    weights = folder.weights(run.entry("dnn"), 1)
    weights.write_bytes(b"other")
    with pytest.raises(LedgerError, match=r"seed1\.safetensors: SHA-256 \w+; its record says"):
        export(run, folder, tmp_path / "kept")
    weights.unlink()
    with pytest.raises(LedgerError, match=r"seed1\.safetensors: missing beside its record"):
        export(run, folder, tmp_path / "kept")


@pytest.mark.parametrize("kind", ["weights", "verdicts"])
def test_altered_files_of_an_export_are_refused(run: Run, folder: Folder, tmp_path: Path, kind: str) -> None:
    collect(run, folder, folder.root)
    export(run, folder, tmp_path / "kept")
    exported, entry = Folder(tmp_path / "kept"), run.entry("fc_4")
    path = exported.weights(entry, 0) if kind == "weights" else exported.verdicts(entry, 0)
    path.write_bytes(path.read_bytes() + b" ")
    again = Folder(tmp_path / "again")
    with pytest.raises(LedgerError, match=rf"{path.name}: SHA-256 \w+; its record says \w+; restore the file"):
        restore(run, exported.root, again)
    step = "train" if kind == "weights" else "attack"
    assert not again.record(entry, 0, step).exists()


def test_missing_verdicts_of_an_export_are_refused_and_missing_weights_are_not(
    run: Run, folder: Folder, tmp_path: Path
) -> None:
    collect(run, folder, folder.root)
    export(run, folder, tmp_path / "kept")
    exported, entry = Folder(tmp_path / "kept"), run.entry("fc_4")
    exported.weights(entry, 0).unlink()
    assert restore(run, exported.root, Folder(tmp_path / "again")) == (8, 0)
    exported.verdicts(entry, 0).unlink()
    with pytest.raises(LedgerError, match=r"seed0\.npz: missing beside its record; restore the file"):
        restore(run, exported.root, Folder(tmp_path / "third"))


def test_only_what_the_run_asks_for_is_put_back(run: Run, folder: Folder, tmp_path: Path) -> None:
    collect(run, folder, folder.root)
    export(run, folder, tmp_path / "kept")
    fewer = small_run(scales=[scale(cells=["dnn"])])
    assert restore(fewer, tmp_path / "kept", Folder(tmp_path / "fewer")) == (2, 6)
    other = small_run(scales=[scale(seeds=2)], attacks={"file": "config/attacks.yaml", "names": ["fgsm", "ifgsm"]})
    assert restore(other, tmp_path / "kept", Folder(tmp_path / "other")) == (4, 4)


def test_an_export_of_which_the_run_asks_for_nothing_is_refused(run: Run, folder: Folder, tmp_path: Path) -> None:
    collect(run, folder, folder.root)
    export(run, folder, tmp_path / "kept")
    with pytest.raises(LedgerError, match=r"kept: run 'small' asks for none of its 8 records; name their run"):
        restore(small_run(scales=[scale(width=7)]), tmp_path / "kept", Folder(tmp_path / "other"))


def test_a_record_that_is_there_already_stays(run: Run, folder: Folder, tmp_path: Path) -> None:
    collect(run, folder, folder.root)
    export(run, folder, tmp_path / "kept")
    before = folder.record(run.entry("dnn"), 0, "train").read_bytes()
    assert restore(run, tmp_path / "kept", folder) == (0, 0)
    assert folder.record(run.entry("dnn"), 0, "train").read_bytes() == before


def test_every_record_put_back_is_newer_than_its_weights(run: Run, folder: Folder, tmp_path: Path) -> None:
    """Snakemake repeats an attack whose weights are newer than its record."""
    collect(run, folder, folder.root)
    export(run, folder, tmp_path / "kept")
    again = Folder(tmp_path / "again")
    restore(run, tmp_path / "kept", again)
    for entry, seed, step in jobs(run):
        assert again.record(entry, seed, step).stat().st_mtime_ns >= again.weights(entry, seed).stat().st_mtime_ns


# What needs no weights


def test_an_imported_record_that_is_what_the_run_asks_for_needs_no_weights(run: Run, folder: Folder) -> None:
    entry = run.entry("fc_4")
    job, path = (entry, 0, "attack"), folder.record(entry, 0, "attack")
    assert not put_back(run, folder, job), "a record of this project's own run can be made again"
    alter(path, lambda r: replace(r, imported=True))
    assert put_back(run, folder, job)
    assert not put_back(run, folder, (entry, 1, "attack"))
    assert put_back(run, folder, job, prepared("a" * 64, "d" * 64))
    assert not put_back(run, folder, job, prepared("d" * 64, "a" * 64)), "nor one of other data"
    alter(path, lambda r: replace(r, settings={}))
    assert not put_back(run, folder, job), "an imported record of other settings is no use"
    path.write_text(json.dumps({"cell": {}}))
    assert not put_back(run, folder, job), "nor is a damaged one"
    path.unlink()
    assert not put_back(run, folder, job)


def test_a_record_that_is_made_by_hand_is_the_jobs_own(run: Run) -> None:
    for entry, seed, step in jobs(run):
        record = made_record(run, entry, seed, step)
        assert Record.from_json(record.to_json()) == record

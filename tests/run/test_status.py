"""`lat status` shows what the files of a run say, whatever state they are in, and fits a terminal of 80 columns."""

from __future__ import annotations

import json
import os
import platform
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from small_run import finished, made_record, run_file, scale, small_run

from lat import heartbeats, status
from lat.collection import Folder
from lat.heartbeats import Heartbeat
from lat.runs import Entry, Run, load
from lat.status import Row, Status

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 60
"""Of a training that takes some seconds, so that it can be caught half way."""
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def run() -> Run:
    return small_run(scales=[scale(seeds=2), scale(name="wide", width=32)])


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Folder:
    return finished(run, tmp_path / "run")


def beat(folder: Folder, entry: Entry, seed: int, step: str, **changes: Any) -> None:
    """Leave a heartbeat as a job of another machine would have, a minute ago."""
    at = (NOW - timedelta(seconds=60)).isoformat()
    path = folder.heartbeat(entry, seed, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(vars(replace(Heartbeat(step, 7, "7", "elsewhere", at, at), **changes))))


def found(run: Run, folder: Folder) -> Status:
    return status.status(run, folder, NOW)


def row_of(run: Run, folder: Folder, entry: Entry, seed: int, step: str) -> Row:
    rows = [row for row in found(run, folder).rows if row.job == (entry.cell.slug, seed, step)]
    assert len(rows) == 1
    return rows[0]


def test_a_finished_run_is_done_and_an_empty_one_waits(run: Run, folder: Folder, tmp_path: Path) -> None:
    assert found(run, folder).counts == {"done": 12}
    assert found(run, folder).left() == (0, 0)
    assert found(run, Folder(tmp_path / "nothing")).counts == {"waiting": 12}
    assert found(run, Folder(tmp_path / "nothing")).left() == (0, 12)
    assert not (tmp_path / "nothing").exists()


def test_a_record_says_how_it_ended(run: Run, folder: Folder) -> None:
    entry = run.entry("fc_4@wide")
    hot = made_record(run, entry, 0, "train", status="diverged", curve=({"loss": 1.0}, {"loss": float("nan")}))
    hot.write(folder.record(entry, 0, "train"))
    row = row_of(run, folder, entry, 0, "train")
    assert (row.state, row.epoch, row.epochs, row.wall_s) == ("diverged", 2, 2, 1.5)
    assert (row.clean_accuracy, row.finished) == (0.5, "2026-01-01T00:00:00+00:00")
    replace(hot, imported=True, status="ok").write(folder.record(entry, 0, "train"))
    assert row_of(run, folder, entry, 0, "train").note == "imported"


@pytest.mark.parametrize(("prepared", "counts"), [("d", {"done": 12}), (None, {"done": 12}), ("e", {"refused": 12})])
def test_a_record_of_other_data_than_is_prepared_is_refused(
    run: Run, folder: Folder, prepared: str | None, counts: dict[str, int]
) -> None:
    now = status.status(run, folder, NOW, lambda name, part, count: prepared and prepared * 64)
    assert now.counts == counts
    said = "data dddddddd of digits, part test; prepared is eeeeeeee; delete "
    assert all(said in row.note for row in now.rows if (row.state, row.step) == ("refused", "attack"))


def test_a_heartbeat_says_that_a_job_runs_also_where_an_old_record_is(run: Run, folder: Folder) -> None:
    entry = run.entry("dnn@narrow")
    fields = {"done": 1.5, "total": 2.0, "epoch": 1.5, "epochs": 2, "loss": 0.25, "images_per_s": 900.0}
    beat(folder, entry, 1, "train", **fields, seconds_left=100.0)
    row = row_of(run, folder, entry, 1, "train")
    assert row.state == "running"
    assert {key: getattr(row, key) for key in fields} == fields
    assert row.seconds_left == 40  # a minute has passed since it said so
    assert row.wall_s == 60
    assert found(run, folder).counts == {"done": 11, "running": 1}


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"state": "failed", "note": "CellError: lr: too high"}, "CellError: lr: too high"),
        (
            {"updated": "2026-01-01T00:00:00+00:00"},
            "process 7 on elsewhere is gone, last heard of at 2026-01-01 00:00:00+00:00",
        ),
        ({"host": platform.node()}, f"process 7 on {platform.node()} is gone"),
    ],
)
def test_a_job_that_left_its_heartbeat_has_failed(run: Run, folder: Folder, changes: dict[str, str], note: str) -> None:
    entry = run.entry("dnn@narrow")
    folder.record(entry, 1, "train").unlink()
    beat(folder, entry, 1, "train", loss=0.5, seconds_left=3.0, **changes)
    row = row_of(run, folder, entry, 1, "train")
    assert row.state == "failed"
    assert row.note.startswith(note)
    assert (row.loss, row.seconds_left) == (0.5, None)  # how far it had come
    made_record(run, entry, 1, "train").write(folder.record(entry, 1, "train"))
    assert row_of(run, folder, entry, 1, "train").state == "done"  # another attempt went well


def test_a_damaged_file_is_said_in_its_row_and_stops_nothing(run: Run, folder: Folder) -> None:
    dnn, fc_4 = run.entry("dnn@narrow"), run.entry("fc_4@narrow")
    path = folder.record(dnn, 0, "train")
    path.write_text(path.read_text()[:100])
    folder.record(dnn, 1, "train").write_bytes(b"\xff\x00")
    made_record(run, fc_4, 0, "train", sources="0" * 64).write(folder.record(fc_4, 0, "train"))
    beat(folder, dnn, 0, "attack")
    folder.heartbeat(dnn, 0, "attack").write_text("{")
    folder.record(dnn, 0, "attack").unlink()
    beat(folder, dnn, 1, "attack")
    folder.heartbeat(dnn, 1, "attack").write_text("{")  # but its record is there
    assert found(run, folder).counts == {"done": 8, "failed": 1, "refused": 3}
    assert "not a record" in row_of(run, folder, dnn, 0, "train").note
    assert "not a heartbeat" in row_of(run, folder, dnn, 0, "attack").note
    assert "made by code with digest 00000000" in row_of(run, folder, fc_4, 0, "train").note


def test_a_record_cut_anywhere_is_never_a_crash(folder: Folder) -> None:
    run = small_run(scales=[scale(seeds=2, cells=["dnn"])])
    path = folder.record(run.entry("dnn"), 0, "train")
    whole = path.read_bytes()
    for end in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:end])
        assert found(run, folder).counts == {"done": 3, "refused": 1}


def test_a_cell_under_two_names_is_one_job_and_two_rows(folder: Folder) -> None:
    best = {"name": "v", "suffix": "_best", "scales": ["narrow"], "bases": ["fc_4"], "axes": [[{"form": "closed"}]]}
    twice = small_run(scales=[scale(seeds=2)], variants=[best])
    now = found(twice, folder)
    assert now.counts == {"done": 8}
    assert [row.cell for row in now.rows].count("fc_4_best") == 4
    assert now.to_json()["jobs"] == 8


def test_what_is_left_follows_from_the_jobs_that_are_done_or_run(run: Run, folder: Folder) -> None:
    dnn, fc_4, wide = run.entry("dnn@narrow"), run.entry("fc_4@narrow"), run.entry("dnn@wide")
    made_record(run, dnn, 0, "train", wall_s=30.0).write(folder.record(dnn, 0, "train"))
    made_record(run, dnn, 1, "train", wall_s=50.0).write(folder.record(dnn, 1, "train"))
    for seed in (0, 1):
        folder.record(fc_4, seed, "train").unlink()
    assert found(run, folder).left() == (80, 0)  # two of 40 s
    folder.record(wide, 0, "attack").unlink()
    folder.record(run.entry("fc_4@wide"), 0, "attack").unlink()
    assert found(run, folder).left() == (80, 2)  # no attack of that scale is done: nothing is guessed
    beat(folder, wide, 0, "attack", seconds_left=100.0)
    assert found(run, folder).left() == (80 + 40 + 100, 0)  # it runs for 60 s and has 40 to go
    beat(folder, fc_4, 0, "train")  # runs, and does not know for how long
    assert found(run, folder).left() == (40 + 40 + 100, 1)
    document = found(run, folder).to_json()
    assert (document["work_left_s"], document["seconds_left"], document["unknown"]) == (180, 90, 1)


def test_the_document_is_json_for_every_program(run: Run, folder: Folder) -> None:
    entry = run.entry("dnn@wide")
    nan = made_record(run, entry, 0, "train")
    nan = replace(nan, figures=(replace(nan.figures[0], metric="loss", value=float("nan")),))
    nan.write(folder.record(entry, 0, "train"))
    beat(folder, run.entry("dnn@narrow"), 0, "train", done=1.0, total=2.0)
    document = found(run, folder).to_json()
    text = json.dumps(document, allow_nan=False)
    described = status.__doc__ or ""
    assert json.loads(text) == document
    for key in (*document, *document["rows"][0], *status.STATES):
        assert f"`{key}`" in described, key
    assert sum(document["counts"].values()) == document["jobs"] == 12
    assert {row["state"] for row in document["rows"]} == set(document["counts"])


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=90)
NUMBERS = st.none() | st.floats(0, 1e9)


@example("c", "s", "broken \x1b[2J\x85\ud800", ["failed"], None, (None,) * 5)
@given(
    cell=WORDS,
    scale_name=WORDS,
    note=st.text(max_size=300),
    states=st.lists(st.sampled_from(status.STATES), min_size=1, max_size=40),
    epochs=st.none() | st.integers(1, 10**6),
    numbers=st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
)
def test_no_line_is_wider_than_a_terminal_of_80_columns(
    cell: str,
    scale_name: str,
    note: str,
    states: list[str],
    epochs: int | None,
    numbers: tuple[float | None, ...],
) -> None:
    keys = ("epoch", "loss", "clean_accuracy", "images_per_s", "seconds_left")
    known: dict[str, Any] = dict(zip(keys, numbers, strict=True)) | {
        "note": note,
        "epochs": epochs,
        "wall_s": numbers[0],
    }
    rows = tuple(
        Row(scale_name, cell, "slug", seed, step, state, done=3.0, total=1e7, **known)
        for step in ("train", "attack")
        for seed, state in enumerate(states)
    )
    run = Run({"name": scale_name, "dataset": "digits", "scales": [scale(name=scale_name)]}, (), {})
    lines = status.text(Status(scale_name, NOW.isoformat(), rows), run)
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() and line.isprintable() for line in lines)


def test_a_terminal_shows_the_counts_first_then_what_runs_then_every_cell(run: Run, folder: Folder) -> None:
    dnn, fc_4 = run.entry("dnn@narrow"), run.entry("fc_4@narrow")
    fields = {"done": 1.25, "total": 2.0, "epoch": 1.25, "epochs": 2, "loss": 0.25, "clean_accuracy": 0.875}
    beat(folder, dnn, 1, "train", **fields, images_per_s=12345.6, seconds_left=3660.0)
    beat(folder, fc_4, 0, "attack", done=300.0, total=720.0, note="pgd")
    folder.record(fc_4, 1, "attack").unlink()
    beat(folder, fc_4, 1, "attack", state="failed", note="OSError: disk full")
    folder.record(run.entry("fc_4@wide"), 0, "attack").unlink()
    assert status.text(found(run, folder), run) == [
        "small: 12 jobs: 8 done, 2 running, 1 failed, 1 waiting; about 30 min left with 2",
        "at a time and 1 job of unknown length",
        "",
        "running  train dnn@narrow, seed 1",
        "         epoch 1.25 of 2, loss 0.2500, clean 0.8750, 12,346 images/s, 1 h 0 min",
        "         left",
        "running  attack fc_4@narrow, seed 0",
        "         pgd, 300 of 720 images",
        "failed   attack fc_4@narrow, seed 1",
        "         OSError: disk full",
        "",
        "  cell               train                         attack",
        "narrow: 4fc on digits, width 6, 2 epochs",
        "  dnn                done 0, running 1             done",
        "  fc_4               done                          running 0, failed 1",
        "wide: 4fc on digits, width 32, 2 epochs",
        "  dnn                done                          done",
        "  fc_4               done                          waiting",
    ]


def test_durations_are_in_words() -> None:
    asked = (0, 59.4, 60, 3599, 3600, 12000, 86400, 190000)
    words = ["0 s", "59 s", "1 min", "1 h 0 min", "1 h 0 min", "3 h 20 min", "1 d 0 h", "2 d 4 h"]
    assert [status.duration(seconds) for seconds in asked] == words


# The command


@contextmanager
def process(*words: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "lat.cli", *words]
    started = subprocess.Popen(command, cwd=ROOT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_run_is_seen_running_then_killed_then_done(tmp_path: Path, digits_root: Path) -> None:
    config = tmp_path / "run.json"
    config.write_text(json.dumps(run_file(scales=[scale(width=12, epochs=EPOCHS, cells=["fc_4"])])))
    place = ["--config", str(config), "--results", str(tmp_path / "results")]
    words = ["train", *place, "--data", str(digits_root), "--cell", "fc_4", "--device", "cpu"]

    def state() -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "lat.cli", "status", "--json", *place], cwd=ROOT, capture_output=True, check=True
        )
        row = json.loads(done.stdout)["rows"][0]
        assert (row["cell"], row["step"]) == ("fc_4", "train")
        return row

    assert state()["state"] == "waiting"
    with process(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as training:
        beat = Folder(tmp_path / "results/small").heartbeat(load(config).entry("fc_4"), 0, "train")
        until(lambda: beat.exists() and json.loads(beat.read_text())["loss"] is not None)
        os.kill(training.pid, signal.SIGSTOP)  # so that it cannot end before it is looked at and killed
        row = state()
        assert (row["state"], row["epochs"]) == ("running", EPOCHS)
        assert 0 < row["epoch"] <= EPOCHS
        assert row["loss"] > 0
        training.kill()
        training.wait()
    row = state()
    assert row["state"] == "failed"
    assert f"process {training.pid} on {platform.node()} is gone" in row["note"]
    with process(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as training:
        assert training.wait() == 0
        assert training.stderr is not None
        assert training.stderr.read() == ""  # no bar where there is no terminal
    row = state()
    assert (row["state"], row["epoch"]) == ("done", EPOCHS)
    assert row["clean_accuracy"] > 0


def test_status_needs_neither_torch_nor_anything_else_that_is_slow(folder: Folder, tmp_path: Path) -> None:
    code = (
        "import sys; from lat import cli\n"
        "assert cli.main(sys.argv[1:]) == 0\n"
        "loaded = {'torch', 'numpy', 'pandas', 'tqdm', 'safetensors', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    config = json.dumps(run_file(name="run"))
    command = [sys.executable, "-c", code, "status", "--config", config, "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_watching_draws_again_until_interrupted(
    run: Run, folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(seconds: float) -> None:
        assert seconds == 2
        if folder.record(run.entry("dnn@wide"), 0, "attack").exists():
            folder.record(run.entry("dnn@wide"), 0, "attack").unlink()
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", wait)
    status.watch(run, folder)
    out = capsys.readouterr().out
    assert re.findall(r"small: 12 jobs: .*?;|small: 12 jobs: .*", out) == [
        "small: 12 jobs: 12 done",
        "small: 12 jobs: 11 done, 1 waiting;",
    ]
    assert "\x1b" not in out
    made_record(run, run.entry("dnn@wide"), 0, "attack").write(folder.record(run.entry("dnn@wide"), 0, "attack"))
    status.watch(run, folder, as_json=True)
    assert [json.loads(line)["counts"] for line in capsys.readouterr().out.splitlines()] == [
        {"done": 12},
        {"done": 11, "waiting": 1},
    ]


def test_watching_on_a_terminal_fits_its_height_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    config = json.dumps(run_file(scales=[scale(cells=["dnn", "fc_2", "fc_3", "fc_4", "fc_23", "fc_34"])]))
    ours, theirs = pty.openpty()
    options = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}

    def heed_interrupts() -> None:  # a shell's background job ignores them, and its children inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)

    size = {"LINES": "8", "COLUMNS": "80"}
    command = [sys.executable, "-m", "lat.cli", "status", "--watch", "--config", config, "--results", str(tmp_path)]
    watching = subprocess.Popen(command, cwd=ROOT, env=os.environ | size, preexec_fn=heed_interrupts, **options)
    os.close(theirs)
    shown = b""
    try:
        end = time.monotonic() + 30
        while b"more lines" not in shown:
            assert time.monotonic() < end, shown
            if select.select([ours], [], [], 0.5)[0]:
                shown += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=10) == 0
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
    assert shown.startswith(status.CLEAR.encode())
    assert len(shown.decode().splitlines()) == 7


def test_heartbeats_lie_beside_the_records(run: Run, folder: Folder) -> None:
    entry = run.entry("dnn@wide")
    path = folder.heartbeat(entry, 0, "train")
    assert path == folder.root / "heartbeats" / entry.cell.slug / "seed0.train.json"
    with heartbeats.beating(path, "train", total=2):
        assert status.status(run, folder).counts == {"done": 11, "running": 1}

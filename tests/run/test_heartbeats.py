"""Heartbeats say what a job is doing, go when it ends well, and tell a dead job from one that is alive."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from small_run import small_run

from lat import experiment, heartbeats
from lat.attacks import from_settings
from lat.collection import Folder
from lat.heartbeats import Heart, Heartbeat, HeartbeatError, beating
from lat.runs import Run
from lat.training import Progress

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the heartbeats, in seconds: its last entry."""
    times = [1000.0]
    monkeypatch.setattr(heartbeats.time, "monotonic", lambda: times[-1])
    return times


def there(path: Path) -> Heartbeat:
    beat = heartbeats.read(path)
    assert beat is not None
    return beat


def other_host(**changes: object) -> Heartbeat:
    at = NOW.isoformat()
    return replace(Heartbeat("train", 1, "1", "elsewhere", at, at), **changes)


def test_a_heartbeat_is_there_while_the_job_runs_and_gone_when_it_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "cell" / "seed0.train.json"
    with beating(path, "train", total=3, epochs=3):
        beat = there(path)
        assert (beat.step, beat.state, beat.pid, beat.host) == ("train", "running", os.getpid(), platform.node())
        assert (beat.done, beat.total, beat.epochs, beat.loss) == (0, 3, 3, None)
        assert beat.alive(datetime.now(UTC))
    assert heartbeats.read(path) is None
    assert list(path.parent.iterdir()) == []  # no draft is left either


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (ValueError("lr: too high\nand more"), "ValueError: lr: too high"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_a_job_that_fails_leaves_its_error(tmp_path: Path, error: BaseException, note: str) -> None:
    path = tmp_path / "seed0.train.json"
    with pytest.raises(type(error)), beating(path, "train", total=3):
        raise error
    beat = there(path)
    assert (beat.state, beat.note, beat.seconds_left) == ("failed", note, None)
    assert not beat.alive(datetime.now(UTC))


def test_beats_are_written_once_a_second_at_most(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "seed0.train.json"
    heart = Heart(path, "train", total=100)
    written = []
    for k in range(1, 35):
        clock.append(1000 + k / 10)
        heart.beat(done=k)
        written.append(there(path).done)
    assert written == [0] * 9 + [10] * 10 + [20] * 10 + [30] * 5


def test_the_time_left_follows_from_what_was_done_since_the_first_beat(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "seed0.train.json"
    heart = Heart(path, "train", total=10)

    def left(seconds: float, done: float, share: float | None = None) -> float | None:
        clock.append(1000 + seconds)
        heart.beat(done=done, share=share)
        return there(path).seconds_left

    assert left(2, 0) is None  # nothing is done
    assert left(6, 2) == pytest.approx(16)  # 2 in 4 s since the first beat, 8 to do
    assert left(10, 9, share=0.5) == pytest.approx(8)  # half the work in 8 s, whatever the count says
    resumed = Heart(path, "train", total=10)
    clock.append(1020)
    resumed.beat(done=8)  # it began in the middle, 10 s after it was started
    clock.append(1024)
    resumed.beat(done=9)
    assert there(path).seconds_left == pytest.approx(4)


def test_numbers_that_are_none_are_no_numbers_in_the_file(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "seed0.train.json"
    heart = Heart(path, "train", total=3)
    clock.append(1002)
    heart.beat(done=1, loss=math.nan, clean_accuracy=math.inf)
    assert (there(path).loss, there(path).clean_accuracy) == (None, None)
    assert "NaN" not in path.read_text()


def test_a_folder_that_cannot_be_written_stops_no_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with beating(tmp_path / "file" / "seed0.train.json", "train", total=3) as heart:
        heart.beat(done=1)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"step": "train"}'])
def test_a_damaged_heartbeat_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "seed0.train.json"
    path.write_text(content)
    with pytest.raises(HeartbeatError, match=r"seed0\.train\.json: not a heartbeat"):
        heartbeats.read(path)


def test_a_heartbeat_cut_short_or_with_another_time_is_never_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "seed0.train.json"
    Heart(path, "train", total=3)
    whole = path.read_text()
    for end in range(len(whole) - 2):
        path.write_text(whole[:end])
        with pytest.raises(HeartbeatError):
            heartbeats.read(path)
    values = json.loads(whole)
    for key, value in (("updated", "yesterday"), ("updated", 5), ("started", ""), ("updated", "2026-01-01T00:00:00")):
        path.write_text(json.dumps(values | {key: value}))
        with pytest.raises(HeartbeatError):
            heartbeats.read(path)


def test_a_job_on_another_machine_is_alive_while_it_is_heard_of() -> None:
    beat = other_host()
    assert beat.alive(NOW + timedelta(seconds=heartbeats.SILENT_S))
    assert not beat.alive(NOW + timedelta(seconds=heartbeats.SILENT_S + 1))
    assert not replace(beat, state="failed").alive(NOW)


def test_a_process_is_told_from_another_of_the_same_id_and_from_a_dead_one() -> None:
    here = other_host(host=platform.node(), pid=os.getpid(), process=heartbeats.process(os.getpid()))
    assert here.alive(NOW + timedelta(days=9))  # a long silence alone does not kill a process of this machine
    if Path("/proc/self/stat").exists():
        assert not replace(here, process=f"{os.getpid()} since 1").alive(NOW)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    beat = other_host(host=platform.node(), pid=child.pid, process=heartbeats.process(child.pid))
    assert beat.alive(NOW)
    child.kill()
    end = time.monotonic() + 10
    while beat.alive(NOW):  # dead, though nobody has asked for its status yet
        assert time.monotonic() < end
        time.sleep(0.01)
    child.wait()
    assert not beat.alive(NOW)


def test_the_progress_of_training_counts_epochs_in_fractions() -> None:
    fields = heartbeats.heartbeat_of(Progress(epoch=3, step=5, steps=20, loss=0.5, images_per_s=900.0))
    assert fields == {"done": 2.25, "epoch": 2.25, "loss": 0.5, "images_per_s": 900.0}
    Heart(None, "train", total=3).beat(**fields)  # and a heart takes them


@pytest.fixture(scope="module")
def run() -> Run:
    return small_run(attacks={"file": "config/attacks.yaml", "names": ["fgsm", "pgd"]})


def test_a_training_and_an_attack_beat_and_leave_nothing(run: Run, tmp_path: Path, digits_root: Path) -> None:
    entry, folder = run.entry("dnn"), Folder(tmp_path)
    seen: list[Heartbeat] = []

    def job(step: str) -> experiment.Job:
        path = folder.heartbeat(entry, 0, step)
        return experiment.Job(entry.cell, 0, "dnn", "narrow", "0", digits_root, heartbeat=path)

    def look(step: str) -> None:
        seen.append(there(folder.heartbeat(entry, 0, step)))

    weights = folder.weights(entry, 0)
    experiment.train(job("train"), weights, folder.record(entry, 0, "train"), lambda epoch: look("train"))
    attack_paths = weights, folder.record(entry, 0, "attack"), folder.verdicts(entry, 0)
    experiment.attack(job("attack"), run.attacks, run.part, *attack_paths, lambda *words: look("attack"))
    assert [beat.step for beat in seen] == ["train"] * 2 + ["attack"] * 4
    assert list((tmp_path / "heartbeats").rglob("*.json")) == []


def test_a_job_that_stops_half_way_says_so(run: Run, tmp_path: Path, digits_root: Path) -> None:
    entry, folder = run.entry("dnn"), Folder(tmp_path)
    path = folder.heartbeat(entry, 0, "attack")
    job = experiment.Job(entry.cell, 0, "dnn", "narrow", "0", digits_root, heartbeat=path)
    record, verdicts = folder.record(entry, 0, "attack"), folder.verdicts(entry, 0)
    with pytest.raises(ValueError, match="no weights there"):
        experiment.attack(job, run.attacks, run.part, folder.weights(entry, 0), record, verdicts)
    assert there(path).state == "failed"
    assert "no weights there" in there(path).note


def test_the_time_left_of_an_attack_weighs_what_is_left_to_do(run: Run, tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "seed0.attack.json"
    told: list[tuple[str, int, int]] = []
    chosen = from_settings(run.attacks)
    heart = Heart(path, "attack")
    tell = experiment.told(heart, chosen, 100, lambda *words: told.append(words))
    tell("fgsm", 0, 100)
    clock.append(1003)
    tell("fgsm", 100, 100)  # three passes an image, of 3 + 42
    beat = there(path)
    assert (beat.done, beat.total, beat.note) == (100, 200, "fgsm")
    assert beat.seconds_left == pytest.approx(3 * 42 / 3)
    assert beat.images_per_s is not None and beat.images_per_s > 0
    assert told == [("fgsm", 0, 100), ("fgsm", 100, 100)]


def test_a_beat_costs_a_training_step_nothing(tmp_path: Path) -> None:
    heart = Heart(tmp_path / "seed0.train.json", "train", total=10)
    started = time.process_time()
    for k in range(2000):
        heart.beat(done=k / 1000, loss=0.5)
    assert (time.process_time() - started) / 2000 < 100e-6  # a step of the smallest network takes 20 times as long

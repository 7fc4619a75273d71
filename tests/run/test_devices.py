"""Two jobs never share a GPU unless told to, whoever else runs and however a job ends; GPUs are pretended."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lat import devices
from lat.devices import DeviceError, Gpu

TWO = [Gpu("cuda:0", "a"), Gpu("cuda:1", "b")]
ROOT = Path(__file__).resolve().parents[2]
# A process with two pretended GPUs that says when it has one and when it gives it back.
JOB = """
import sys, time
from pathlib import Path
from lat import devices
log, request, seconds, share, *seen = sys.argv[1:]
devices.gpus = lambda: [devices.Gpu(f"cuda:{k}", identity) for k, identity in enumerate(seen)]
def say(*words):
    with Path(log).open("a") as stream:
        stream.write(" ".join(map(str, (time.monotonic_ns(), *words))) + "\\n")
with devices.lease(request, "a job", share=share == "share") as name:
    identity = dict(zip(("cuda:0", "cuda:1"), seen))[name]
    say("took", identity)
    time.sleep(float(seconds))
    say("left", identity)
"""


@pytest.fixture(autouse=True)
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAT_LEASES", str(tmp_path / "leases"))
    for name in ("LAT_DEVICE", "LAT_SHARE_GPU", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "gpus", lambda: TWO)
    return tmp_path / "leases"


@contextmanager
def job(
    log: Path, *, request: str = "auto", seconds: float = 0.0, share: bool = False, seen: tuple[str, ...] = ("a", "b")
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", JOB, str(log), request, str(seconds), "share" if share else "alone", *seen]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def events(log: Path) -> list[tuple[str, str]]:
    """What the jobs said, in the order of time: (took or left, which GPU)."""
    lines = sorted(log.read_text().splitlines(), key=lambda line: int(line.split()[0])) if log.exists() else []
    return [(word, identity) for _, word, identity in map(str.split, lines)]


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def most_at_once(happened: list[tuple[str, str]]) -> dict[str, int]:
    """How many jobs held each GPU at one time, at most."""
    holding, most = {"a": 0, "b": 0}, {"a": 0, "b": 0}
    for word, identity in happened:
        holding[identity] += 1 if word == "took" else -1
        most[identity] = max(most[identity], holding[identity])
    return most


def test_four_jobs_on_two_gpus_all_finish_and_never_two_hold_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with job(log, seconds=0.6) as a, job(log, seconds=0.6) as b, job(log, seconds=0.6) as c, job(log, seconds=0.6) as d:
        errors = [process.communicate(timeout=30)[1] for process in (a, b, c, d)]
        assert [process.returncode for process in (a, b, c, d)] == [0] * 4
    assert len(events(log)) == 8
    assert most_at_once(events(log)) == {"a": 1, "b": 1}  # both were used, and neither by two
    waited = [error for error in errors if error]
    assert len(waited) >= 2
    assert all(error.startswith("waiting for a GPU: ") and error.count("\n") == 1 for error in waited)


def test_a_gpu_is_free_as_soon_as_its_job_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with job(log, request="cuda:1", seconds=600) as holder:
        until(lambda: ("took", "b") in events(log))
        with job(log, request="cuda:1") as waiting:
            assert waiting.stderr is not None
            said = waiting.stderr.readline()
            assert said == f"waiting for a GPU: cuda:1 is held by pid {holder.pid}: a job\n"
            holder.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            until(lambda: events(log).count(("took", "b")) == 2)
            assert time.monotonic() - killed < 2
            assert waiting.wait(timeout=10) == 0


def test_two_masks_that_overlap_cannot_share_a_gpu(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with job(log, seen=("b",), seconds=600) as _:
        until(lambda: ("took", "b") in events(log))
        with job(log, seen=("b", "a")) as other:  # sees the same GPU under another index
            assert other.wait(timeout=20) == 0
        assert events(log)[1:] == [("took", "a"), ("left", "a")]


def test_jobs_that_may_share_wait_for_nobody_who_may_and_for_everybody_who_may_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with job(log, seconds=600, share=True), job(log, seconds=600, share=True), job(log, seconds=600, share=True):
        until(lambda: len(events(log)) == 3)
        most = most_at_once(events(log))
        assert sorted(most.values()) == [1, 2]  # a free one was taken first
        with pytest.raises(DeviceError, match="no GPU became free"), devices.lease("auto", "alone", limit=0):
            pass
    with devices.lease("auto", "alone") as first, devices.lease("auto", "alone") as second:
        assert {first, second} == {"cuda:0", "cuda:1"}
        with pytest.raises(DeviceError), devices.lease("auto", "sharing", share=True, limit=0):
            pass


def test_what_was_leased_is_free_after_the_block_also_when_it_fails() -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), devices.lease("cuda:0", "fails"):
            raise ZeroDivisionError
    with devices.lease("cuda", "one") as first, devices.lease("auto", "two") as second:
        assert {first, second} == {"cuda:0", "cuda:1"}


def test_whoever_waits_for_good_is_told_who_holds_what() -> None:
    with devices.lease("cuda:0", "lat train dnn"), devices.lease("cuda:1", "lat attack dnn"):
        complaint = rf"cuda:0 is held by pid {os.getpid()}: lat train dnn; cuda:1 .*: lat attack dnn.*wait longer"
        with pytest.raises(DeviceError, match=complaint), devices.lease("auto", "third", limit=0):
            pass


@pytest.mark.parametrize(
    ("request_", "seen", "complaint"),
    [
        ("gpu", TWO, "device: 'gpu' is not known; use auto, cpu, cuda or cuda:K"),
        ("cuda:", TWO, "device: 'cuda:' is not known"),
        ("cuda:2", TWO, "device: 'cuda:2', and torch sees 2 GPUs here"),
        ("cuda", [], "device: 'cuda', and torch sees 0 GPUs here"),
    ],
)
def test_a_device_that_is_not_there_is_refused_by_name(
    request_: str, seen: list[Gpu], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: seen)
    with pytest.raises(DeviceError) as caught, devices.lease(request_, "x"):
        pass
    assert str(caught.value).startswith(complaint)


def test_the_mask_that_hides_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES is '3,5'"), devices.lease("cuda:2", "x"):
        pass


def test_the_cpu_is_nobodys_own(leases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with devices.lease("cpu", "one") as first, devices.lease("cpu", "two") as second:
        assert first == second == "cpu"
    monkeypatch.setattr(devices, "gpus", list)
    with devices.lease("auto", "without a GPU") as name:
        assert name == "cpu"
    assert not leases.exists()


def test_the_lock_is_named_after_the_gpu_itself() -> None:
    uuid = "5f1b2a30-0000-1111-2222-333344445555"
    assert devices.identity(0, None, uuid) == devices.identity(1, "1,0", uuid) == f"GPU-{uuid}"
    assert devices.identity(1, "GPU-x,MIG-y", uuid) == "MIG-y"  # slices of one GPU are leased each
    assert (devices.identity(1, "4, 6", None), devices.identity(1, None, None)) == ("6", "1")


def test_torch_is_asked_for_what_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        def __init__(self, place: int) -> None:
            self.uuid = f"uuid-{place}"

    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    assert devices.gpus() == [Gpu("cuda:0", "GPU-uuid-0"), Gpu("cuda:1", "GPU-uuid-1")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.gpus() == []


@pytest.mark.parametrize(
    ("request_", "mask", "wanted"),
    [
        ("auto", "0", True),
        ("auto", "GPU-5f1b,1", True),
        ("auto", "MIG-5f1b", True),
        ("auto", "", False),
        ("auto", "-1", False),
        ("auto", "NoDevFiles", False),
        ("cuda:1", "", True),
        ("cpu", "0", False),
    ],
)
def test_whether_a_job_wants_a_gpu_is_told_by_the_mask(
    request_: str, mask: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert devices.expected(request_) == wanted


def test_without_a_mask_the_drivers_files_tell_whether_there_is_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "DRIVER_FILES", tmp_path)
    (tmp_path / "nvidiactl").touch()  # the driver alone is no GPU
    assert not devices.expected("auto")
    (tmp_path / "nvidia0").touch()
    assert devices.expected("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not devices.expected("auto")


def test_the_environment_asks_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (devices.requested(), devices.shared()) == ("auto", False)
    monkeypatch.setenv("LAT_DEVICE", "cuda:1")
    monkeypatch.setenv("LAT_SHARE_GPU", "1")
    assert (devices.requested(), devices.shared()) == ("cuda:1", True)


@pytest.mark.parametrize(
    ("word", "shared"),
    [("1", True), ("true", True), ("Yes", True), ("0", False), ("False", False), ("no", False), ("", False)],
)
def test_sharing_is_said_in_words(word: str, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAT_SHARE_GPU", word)
    assert devices.shared() is shared


def test_a_word_that_does_not_say_whether_to_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAT_SHARE_GPU", "perhaps")
    with pytest.raises(
        DeviceError, match="LAT_SHARE_GPU: 'perhaps' says neither yes nor no; use one of 1, true, yes, 0"
    ):
        devices.shared()


def test_a_folder_of_locks_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/leases"):
        monkeypatch.setenv("LAT_LEASES", str(place))
        with pytest.raises(DeviceError, match=rf"LAT_LEASES: '{place}' can hold no locks"), devices.lease("auto", "x"):
            pass


def test_the_locks_lie_in_a_folder_that_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAT_LEASES")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with devices.lease("cuda:0", "x"):
        (folder,) = tmp_path.iterdir()
        assert folder.name == f"lat-leases-{os.getuid()}"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [path.name for path in folder.iterdir()] == ["a.lock"]
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")  # what somebody else could have put there
    with pytest.raises(DeviceError, match="not a folder of this user's"), devices.lease("cuda:0", "x"):
        pass

"""The checkpoint file: what it holds comes back, what it cannot hold is named, and what it is not of is set aside."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from small_run import ROOT
from torch import Tensor

from lat import checkpoints
from lat.checkpoints import Checkpoint, CheckpointError
from lat.ledger import Record

IDENTITY = {"cell": "c" * 64, "seed": 3, "sources": "s" * 64, "data": "d" * 64}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return (9 * torch.randn(shape, generator=generator)).to(draw(st.sampled_from(DTYPES)))


numbers = st.booleans() | st.integers(-(2**70), 2**70) | st.floats()
names = st.text(alphabet="ab.'\\é", max_size=3)
nests = st.recursive(
    st.none() | numbers | names | tensors(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(names, inner),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value, bit for bit, and in type."""
    if isinstance(a, Tensor):
        bits = a.dtype == b.dtype and a.shape == b.shape
        return bits and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    if isinstance(a, Mapping):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


@given(st.dictionaries(names, nests))
@example({"a.b": torch.ones(2), "a": {"b": torch.zeros(3)}})
@example({"tensor": {"mapping": "tuple"}, "tuple": ({"tensor": "a"},)})
def test_a_state_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("state") / "seed3.safetensors"
    checkpoints.write(path, IDENTITY, state)
    identity, found = checkpoints.read(path)
    assert identity == IDENTITY
    assert same(state, found)


def test_tensors_that_share_memory_or_lie_otherwise_in_it_come_back_each_on_its_own(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"whole": base, "again": base, "turned": base.T, "row": base[1], "spread": base[:1].expand(5, 4)}
    checkpoints.write(tmp_path / "a.safetensors", {}, state)
    _, found = checkpoints.read(tmp_path / "a.safetensors")
    assert same(state, found)
    found["whole"].zero_()
    assert same({**state, "whole": torch.zeros(3, 4)}, found)
    assert all(values.data_ptr() % 64 == 0 for values in found.values())


def test_a_checkpoint_is_a_safetensors_file_with_its_tensors_by_dotted_path(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.write(path, IDENTITY, {"model": {"fc1.weight": torch.ones(2)}, "parts": [{"signs": torch.ones(1)}, 4]})
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == {"model.fc1.weight", "parts.0.signs"}
        header = json.loads(file.metadata()["lat.checkpoint"])
    assert header["identity"] == IDENTITY
    assert header["state"]["mapping"]["parts"] == [{"mapping": {"signs": {"tensor": "parts.0.signs"}}}, 4]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": [Path("x")]}}, r"^a\.b\.0: .* no PosixPath"),
        ({"a": {1: 2}}, r"^a\.1: a key .* not int"),
        ({"a": {"b": torch.float32}}, r"^a\.b: .* no dtype"),
        ({"a": {3, 4}}, r"^a: .* no set"),
    ],
)
def test_what_is_no_nest_of_tensors_and_plain_values_is_named(tmp_path: Path, state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        checkpoints.write(tmp_path / "a.safetensors", {}, state)
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    store = Checkpoint(tmp_path / "a.safetensors", IDENTITY)
    store.keep({"step": 1})
    with pytest.raises(TypeError):
        store.keep({"step": object()})
    assert store.kept() == {"step": 1}


# What is not gone on from --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    checkpoints.write(path, IDENTITY, STATE)
    return path.read_bytes()


STATE = {"step": 4, "total": torch.tensor(0.5), "model": {"w": torch.arange(6.0)}, "skipped": None}


@given(st.data())
def test_a_file_with_any_bit_turned_or_cut_short_anywhere_is_never_read_as_another_state(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(whole) - 1))
    turned = bytearray(whole)
    turned[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("damaged") / "a.safetensors"
    for content in (bytes(turned), whole[:place]):
        path.write_bytes(content)
        try:
            identity, found = checkpoints.read(path)
        except CheckpointError:
            continue
        assert identity == IDENTITY  # the padding of the header says nothing
        assert same(STATE, found)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", None], ids=["empty", "text", "weights"])
def test_a_damaged_checkpoint_is_set_aside_with_a_line_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "seed3.safetensors"
    if content is None:
        safetensors.torch.save_file({"w": torch.ones(2)}, path)
        content = path.read_bytes()
    store = Checkpoint(path, IDENTITY)
    for number in (1, 2):
        path.write_bytes(content)
        assert store.kept() is None
        assert not path.exists()
        assert (tmp_path / f"seed3.damaged-{number}.safetensors").read_bytes() == content
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{path}: not a")
        assert line.endswith(f"set aside as seed3.damaged-{number}.safetensors, and training starts anew")


@pytest.mark.parametrize("key", [*IDENTITY, "more", "format"])
def test_a_checkpoint_of_something_else_is_set_aside_and_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    path, written = tmp_path / "seed3.safetensors", checkpoints.FORMAT
    Checkpoint(path, IDENTITY).keep(STATE)
    if key == "format":
        monkeypatch.setattr(checkpoints, "FORMAT", written + 1)
    assert Checkpoint(path, IDENTITY if key == "format" else IDENTITY | {key: "another"}).kept() is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["seed3.other-1.safetensors"]
    identity, found = checkpoints.read(tmp_path / "seed3.other-1.safetensors")
    assert identity == IDENTITY | {"format": written}
    assert same(STATE, found)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{key}'" in line
    assert not any(f"'{other}'" in line for other in IDENTITY if other != key)


def test_no_checkpoint_is_none_also_where_there_is_no_folder(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "no/folder/seed0.safetensors", IDENTITY).kept() is None


def test_what_a_killed_writer_left_is_cleared_away_and_other_files_are_not(tmp_path: Path) -> None:
    for name in (
        ".seed1.safetensors.x1.safetensors",
        ".seed11.safetensors.x2.safetensors",
        "seed1.other-1.safetensors",
    ):
        (tmp_path / name).touch()
    store = Checkpoint(tmp_path / "seed1.safetensors", IDENTITY)
    store.keep({"step": 1})
    assert store.kept() == {"step": 1}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".seed11.safetensors.x2.safetensors", "seed1.other-1.safetensors", "seed1.safetensors"}
    store.remove()
    assert not store.path.exists()
    store.remove()


def test_nothing_is_written_under_another_name_than_what_is_cleared_away(tmp_path: Path) -> None:
    store, seen, over = Checkpoint(tmp_path / "seed1.safetensors", IDENTITY), set[str](), threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.update(path.name for path in tmp_path.iterdir())

    watcher = threading.Thread(target=watch)
    watcher.start()
    store.keep({"weight": torch.zeros(20_000_000)})
    over.set()
    watcher.join()
    cleared = {name for name in seen if name.startswith(".seed1.safetensors.")}
    assert cleared, "the writing was not seen"
    assert seen - cleared <= {"seed1.safetensors"}


# When ----------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_due_when_its_seconds_have_passed_since_the_last_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    store = Checkpoint(tmp_path / "a.safetensors", {}, every_s=30)
    assert not store.due()
    now = 129.9
    assert not store.due()
    now = 130.5
    assert store.due() and store.due()
    store.keep({})
    assert not store.due()
    now = 160.0
    assert not store.due()
    now = 160.5
    assert store.due()


@pytest.mark.parametrize("every_s", [-1.0, math.nan])
def test_an_interval_that_cannot_be_is_named(every_s: float) -> None:
    with pytest.raises(CheckpointError, match=f"interval: {every_s} s must be at least 0"):
        Checkpoint(Path("a"), {}, every_s)


# Killed --------------------------------------------------------------------------------------------------------------


def test_a_training_killed_ten_times_at_random_moments_ends_with_the_bits_of_one_left_alone(
    digits_root: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("killed_training.py")
    command = [sys.executable, str(script), str(digits_root), str(tmp_path), "10"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = json.loads(done.stdout)
    reached = [tuple(place) for place in said["kept"] if place]
    assert len(said["moments"]) == 10
    assert reached == sorted(reached), said  # no step is lost twice
    assert len(set(reached)) >= 3, said  # else nothing was gone on from
    alone, killed = (files(tmp_path / name) for name in ("alone", "killed"))
    assert [path.suffix for path in alone] == [path.suffix for path in killed] == [".json", ".safetensors"]
    for one, other in zip(alone, killed, strict=True):
        assert one.relative_to(tmp_path / "alone") == other.relative_to(tmp_path / "killed")
        if one.suffix == ".json":
            records = [Record.read(path) for path in (one, other)]
            assert records[0].curve == records[1].curve
            assert records[0].inputs == records[1].inputs
        else:
            assert one.read_bytes() == other.read_bytes()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())

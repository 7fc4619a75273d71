"""Heartbeats: what a running job is doing, in a small file beside its results that `lat status` reads.

A job writes its file at most once a second, takes it away when it ends well, and leaves it, with the error, when it
does not. One that was killed leaves a file that says `running`: whether its process is still there tells the two apart.
A file that cannot be written stops no job. No torch here.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lat.ledger import atomic

EVERY_S = 1.0
SILENT_S = 900.0
"""How long a job on another machine may be silent before it is taken for dead: one batch of a slow attack takes
minutes."""


class HeartbeatError(ValueError):
    """A heartbeat file that cannot be read; the message names it."""


@dataclass(frozen=True)
class Heartbeat:
    """What a job last said of itself.

    `process` is its id with the time of its start, as the system tells it, so that another process under the same id is
    another one. `done` of `total` counts epochs in training, and images over all attacks in an attack; `note` is the
    attack or, where the state is `failed`, the error. Times are UTC in ISO format; None is not known.
    """

    step: str
    pid: int
    process: str
    host: str
    started: str
    updated: str
    state: str = "running"
    done: float = 0.0
    total: float = 0.0
    epoch: float | None = None
    epochs: int | None = None
    loss: float | None = None
    clean_accuracy: float | None = None
    images_per_s: float | None = None
    seconds_left: float | None = None
    note: str = ""

    def alive(self, now: datetime) -> bool:
        """Whether the job goes on: its process is there or, on another machine, it was heard of lately."""
        if self.state != "running":
            return False
        if self.host == platform.node():
            return process(self.pid) == self.process
        return self.silent_s(now) <= SILENT_S

    def silent_s(self, now: datetime) -> float:
        """Seconds since the job last said something."""
        return (now - datetime.fromisoformat(self.updated)).total_seconds()


@runtime_checkable
class Progress(Protocol):
    """How far training is, as the training loop tells it: the epochs that are done, the running one in part."""

    @property
    def done(self) -> float: ...
    @property
    def loss(self) -> float: ...
    @property
    def images_per_s(self) -> float: ...


def heartbeat_of(progress: Progress) -> dict[str, Any]:
    """The fields of a training's heartbeat that follow from its progress, for `Heart.beat`."""
    return {"done": progress.done, "epoch": progress.done, "loss": progress.loss, "images_per_s": progress.images_per_s}


class Heart:
    """Writes a job's heartbeats to `path`, None for a job that has none."""

    def __init__(self, path: Path | None, step: str, **fields: Any) -> None:
        now, pid = _now(), os.getpid()
        self._path = path
        self._fields = asdict(Heartbeat(step, pid, process(pid), platform.node(), now, now, **fields))
        self._begun = self._written = time.monotonic()
        self._first: tuple[float, float] | None = None
        self._write()

    def beat(self, *, share: float | None = None, **fields: Any) -> None:
        """Take the fields over, and write them unless the last time was just now.

        `share` is how much of the work is done, from 0 to 1, where `done` / `total` does not say it: the time left
        follows from it, and from how fast it grew since the first beat (a resumed job starts in the middle).
        """
        if self._path is None:
            return
        self._fields |= fields
        now = time.monotonic()
        share = self._fields["done"] / (self._fields["total"] or 1) if share is None else share
        if self._first is None:
            self._first = (now, share)
        since, origin = self._first if share > self._first[1] else (self._begun, 0.0)
        self._fields["seconds_left"] = (now - since) * (1 - share) / (share - origin) if share > origin else None
        if now - self._written >= EVERY_S:
            self._written = now
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        self._fields["updated"] = _now()
        known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in self._fields.items()}
        with suppress(OSError), atomic(self._path) as temporary:
            temporary.write_text(json.dumps(known, indent=1) + "\n")

    def fail(self, error: BaseException) -> None:
        """Say at once that the job failed, with the first line of the error."""
        first = (str(error).splitlines() or [""])[0]
        self._fields |= {
            "state": "failed",
            "note": f"{type(error).__name__}: {first}".rstrip(": "),
            "seconds_left": None,
        }
        self._write()

    def stop(self) -> None:
        """The job is done: its file goes."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


@contextmanager
def beating(path: Path | None, step: str, **fields: Any) -> Iterator[Heart]:
    """A heart that beats while the block runs: its file is there from the beginning, goes when the block ends well, and
    stays with the error where it does not.
    """
    heart = Heart(path, step, **fields)
    try:
        yield heart
    except BaseException as error:
        heart.fail(error)
        raise
    heart.stop()


def read(path: Path) -> Heartbeat | None:
    """The heartbeat in `path`, None where there is no file. Raises HeartbeatError where it is not one."""
    try:
        beat = Heartbeat(**json.loads(path.read_text()))
        datetime.fromisoformat(beat.started)
        beat.silent_s(datetime.now(UTC))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise HeartbeatError(f"{path}: not a heartbeat ({error}); delete it") from error
    return beat


def process(pid: int) -> str:
    """What tells the process `pid` of this machine from an earlier or later one of the same id; empty where there is
    none, or it is dead and only not yet buried.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return str(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, start = fields[0], fields[19]  # fields 3 and 22 of proc(5): the command before them may hold blanks
    return "" if state in "ZX" else f"{pid} since {start}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

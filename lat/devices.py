"""Which device a job computes on, and the lease that keeps two jobs off one GPU.

A lease is a lock (flock) on a file that stands for one physical GPU, in a folder of the user on this machine. The
kernel releases it when the process ends, however it ends; the file stays and says who held it last. Only GPUs that
torch sees are leased, so what a scheduler put into CUDA_VISIBLE_DEVICES is respected; the lock is by the GPU itself, so
that two jobs with different masks that overlap cannot share one.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.25
DRIVER_FILES = Path("/dev")
SHARING = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


class DeviceError(RuntimeError):
    """A device that is not known, not there or not to be had; the message names the request and the mend."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use: torch's name for it, `cuda:K`, and which physical one it is."""

    name: str
    identity: str


def gpus() -> list[Gpu]:
    """The GPUs that torch sees, in its order; none where there is no CUDA."""
    import torch

    if not torch.cuda.is_available():
        return []
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    uuids = [getattr(torch.cuda.get_device_properties(k), "uuid", None) for k in range(torch.cuda.device_count())]
    return [Gpu(f"cuda:{k}", identity(k, mask, None if uuid is None else str(uuid))) for k, uuid in enumerate(uuids)]


def identity(place: int, mask: str | None, uuid: str | None) -> str:
    """What the lock of the GPU in `place` among the visible ones is called: its UUID, or else its entry in the mask
    CUDA_VISIBLE_DEVICES, or else its index.

    A slice of a GPU (MIG) stands in the mask by its own UUID, and can be leased beside other slices.
    """
    entries = (mask or "").split(",")
    entry = entries[place].strip() if place < len(entries) else ""
    if uuid is None or entry.startswith("MIG-"):
        return entry or str(place)
    return f"GPU-{uuid.removeprefix('GPU-')}"


def requested() -> str:
    """The device that LAT_DEVICE asks for, or `auto`."""
    return os.environ.get("LAT_DEVICE") or "auto"


def shared() -> bool:
    """Whether LAT_SHARE_GPU says that jobs may share a GPU. Raises DeviceError for a word that says neither."""
    word = os.environ.get("LAT_SHARE_GPU", "")
    if word.lower() not in SHARING:
        raise DeviceError(
            f"LAT_SHARE_GPU: {word!r} says neither yes nor no; use one of {', '.join(filter(None, SHARING))}"
        )
    return SHARING[word.lower()]


def expected(request: str) -> bool:
    """Whether a job with this request will want a GPU, told without torch.

    `auto` wants one where the machine has one: CUDA_VISIBLE_DEVICES decides where it is set, else the driver's device
    files. A guess: jobs are right either way, as they lease what torch sees.
    """
    if request != "auto":
        return request != "cpu"
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is not None:
        return re.match(r"\s*(\d|GPU-|MIG-)", mask) is not None
    return any(DRIVER_FILES.glob("nvidia[0-9]*"))


@contextmanager
def lease(request: str, what: str, *, share: bool = False, limit: float | None = None) -> Iterator[str]:
    """Torch's name of a device that is this process's own while the block runs: `cpu`, or `cuda:K`.

    `request` is `auto` (a GPU that is free, the CPU where the machine has no GPU), `cpu`, `cuda`, or `cuda:K`, the K-th
    of the visible GPUs from 0. Where every GPU that fits is leased, it waits and says so once on standard error, for
    `limit` seconds at most (None: for ever). With `share` it shares with other jobs that may share, on a GPU of its own
    if one is free. `what` is written into the lock's file for whoever waits.

    Raises DeviceError for another request, a GPU that is not there, or when the time is up.
    """
    wanted = _candidates(request)
    if not wanted:
        yield "cpu"
        return
    gpu, lock = _wait(wanted, f"pid {os.getpid()}: {what}\n", share, limit)
    try:
        yield gpu.name
    finally:
        os.close(lock)


def _candidates(request: str) -> Sequence[Gpu]:
    """The GPUs that fit the request; none means the CPU."""
    if request == "cpu":
        return ()
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", request)
    if match is None:
        raise DeviceError(f"device: {request!r} is not known; use auto, cpu, cuda or cuda:K")
    found = gpus()
    if request == "auto":
        return found
    place = int(match[1] or 0)
    if place >= len(found):
        mask = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise DeviceError(
            f"device: {request!r}, and torch sees {len(found)} GPUs here"
            + ("" if mask is None else f" (CUDA_VISIBLE_DEVICES is {mask!r})")
            + "; use auto, cpu or one that is there"
        )
    return found if match[1] is None else (found[place],)


def _wait(wanted: Sequence[Gpu], holder: str, share: bool, limit: float | None) -> tuple[Gpu, int]:
    folder = _folder()
    started = time.monotonic()
    told = False
    while True:
        taken = _take(folder, wanted, holder, share)
        if taken is not None:
            return taken
        if limit is not None and time.monotonic() - started >= limit:
            raise DeviceError(
                f"device: no GPU became free in {limit:g} s ({_held(folder, wanted)}); wait longer, or use cpu"
            )
        if not told:
            print(f"waiting for a GPU: {_held(folder, wanted)}", file=sys.stderr, flush=True)
            told = True
        time.sleep(POLL_S)


def _take(folder: Path, wanted: Sequence[Gpu], holder: str, share: bool) -> tuple[Gpu, int] | None:
    """A GPU with the open file that holds its lock, or None where all are leased."""
    turn = os.getpid() % len(wanted)
    passes = [(fcntl.LOCK_EX, wanted)]
    if share:  # on those that are not free, sharing jobs are spread by their ids
        passes.append((fcntl.LOCK_SH, [*wanted[turn:], *wanted[:turn]]))
    for kind, ordered in passes:
        for gpu in ordered:
            lock = os.open(folder / f"{gpu.identity}.lock", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            if _locked(lock, kind):
                if kind == fcntl.LOCK_EX:
                    os.ftruncate(lock, 0)
                os.write(lock, holder.encode())
                if not share or _locked(lock, fcntl.LOCK_SH):
                    return gpu, lock
            os.close(lock)
    return None


def _locked(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(folder: Path, wanted: Sequence[Gpu]) -> str:
    """Which GPU is held by whom, in words."""
    written = [(gpu.name, (folder / f"{gpu.identity}.lock").read_text().split("\n")) for gpu in wanted]
    return "; ".join(f"{name} is held by {', '.join(filter(None, lines))}" for name, lines in written)


def _folder() -> Path:
    """The folder of the locks: LAT_LEASES, or one of this user's own among the machine's temporary files.

    Raises DeviceError where that name belongs to somebody else, or LAT_LEASES names what can be no folder of locks.
    """
    if named := os.environ.get("LAT_LEASES"):
        try:
            Path(named).mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=named).close()
        except OSError as error:
            raise DeviceError(
                f"LAT_LEASES: {named!r} can hold no locks ({error.strerror}); name another folder"
            ) from error
        return Path(named)
    folder = Path(tempfile.gettempdir()) / f"lat-leases-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise DeviceError(f"{folder}: not a folder of this user's; remove it, or name another one in LAT_LEASES")
    return folder

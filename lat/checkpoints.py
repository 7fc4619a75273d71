"""The state of an unfinished training on disk: one safetensors file that a job which was killed goes on from.

A state is a nest of mappings, lists and tuples that holds tensors, numbers, text and None. Its tensors are the file's;
everything else, with the tensors' places in it, is JSON in the file's header, beside what the training is
(`identity`) and a SHA-256 over all of it. No pickle: reading a file that someone else wrote runs none of their code.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lat.ledger import atomic

FORMAT = 2
"""Goes up when a state of the same training is written otherwise; older files are then those of something else."""

HEADER = "lat.checkpoint"
EVERY_S = 300.0


class CheckpointError(ValueError):
    """A file that is no whole checkpoint, or an interval that cannot be; the message names it."""


class Checkpoint:
    """The one checkpoint of a training: kept in `path` every `every_s` seconds, and gone on from where it is there.

    identity: everything that says which training it is (digests of cell, code and data, seed): JSON values. A file of
    another one, or a damaged one, is never gone on from: it is set aside under another name, with a line on standard
    error. Raises CheckpointError for an interval below 0.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], every_s: float = EVERY_S) -> None:
        if not every_s >= 0:
            raise CheckpointError(f"checkpoint interval: {every_s!r} s must be at least 0")
        self.path = path
        self.identity = {"format": FORMAT, **identity}
        self.every_s = every_s
        self._next = time.monotonic() + every_s

    def due(self) -> bool:
        """Whether `every_s` seconds have passed since the last one was kept; cheap enough to ask at every step."""
        return time.monotonic() >= self._next

    def keep(self, state: Mapping[str, Any]) -> None:
        """Write the state in place of the last one: whatever happens, one of the two is whole on disk."""
        write(self.path, self.identity, state)
        self._next = time.monotonic() + self.every_s

    def kept(self) -> dict[str, Any] | None:
        """The state to go on from, its tensors on the CPU; None where there is none."""
        for cut_short in self.path.parent.glob(f".{escape(self.path.name)}.*"):
            cut_short.unlink(missing_ok=True)  # what a process left that was killed while it wrote
        if not self.path.exists():
            return None
        try:
            identity, state = read(self.path)
        except CheckpointError as error:
            self._set_aside("damaged", str(error))
            return None
        differing = sorted(key for key in {*identity, *self.identity} if identity.get(key) != self.identity.get(key))
        if differing:
            found, asked = ({key: values.get(key) for key in differing} for values in (identity, self.identity))
            self._set_aside("other", f"{self.path}: a checkpoint of {found}; {asked} is trained")
            return None
        return state

    def remove(self) -> None:
        """Delete the file, once what the training was for is written."""
        self.path.unlink(missing_ok=True)

    def _set_aside(self, kind: str, why: str) -> None:
        names = (f"{self.path.stem}.{kind}-{number}{self.path.suffix}" for number in count(1))
        target = next(self.path.with_name(name) for name in names if not self.path.with_name(name).exists())
        self.path.rename(target)
        print(f"{why}; set aside as {target.name}, and training starts anew", file=sys.stderr)


def write(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write one checkpoint, atomically, and see it on disk. Raises TypeError naming an entry that is neither a nest of
    mappings, lists and tuples nor a tensor, number, text or None.
    """
    tensors: dict[str, Tensor] = {}
    document = {"identity": dict(identity), "state": _encoded(state, "", tensors)}
    _set_apart(tensors)
    header = {**document, "sha256": _digest(document, tensors)}
    with atomic(path) as temporary:
        # Not save_file, which writes to a file of its own beside it, under a name that nothing clears away.
        temporary.write_bytes(safetensors.torch.save(tensors, metadata={HEADER: json.dumps(header)}))
        _sync(temporary)
    _sync(path.parent)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(identity, state) of one checkpoint, tensors on the CPU. Raises CheckpointError where it is not whole."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads(file.metadata()[HEADER])
            # Cloned, as what the file maps into memory is not aligned as torch's own memory is.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        whole = header.pop("sha256") == _digest(header, tensors)
    except (safetensors.SafetensorError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint ({error})") from error
    if not whole:
        raise CheckpointError(f"{path}: not as it was written: its SHA-256 is another one")
    return header["identity"], _decoded(header["state"], tensors)


def _encoded(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A nest as JSON; its tensors go to `tensors` on the CPU, by their dotted paths."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        name = path
        while name in tensors:  # names with dots in them: {"a.b": …, "a": {"b": …}}
            name += "'"
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, list | tuple):
        entries = [_encoded(entry, _below(path, number), tensors) for number, entry in enumerate(value)]
        return {"tuple": entries} if isinstance(value, tuple) else entries
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{_below(path, wrong[0])}: a key of a checkpoint is text, not {type(wrong[0]).__name__}")
        return {"mapping": {key: _encoded(entry, _below(path, key), tensors) for key, entry in value.items()}}
    raise TypeError(f"{path}: a checkpoint holds tensors, numbers, text and None, no {type(value).__name__}")


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nest that `_encoded` wrote."""
    if isinstance(value, list):
        return [_decoded(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decoded(entry, tensors) for entry in content)
    return {key: _decoded(entry, tensors) for key, entry in content.items()}


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _set_apart(tensors: dict[str, Tensor]) -> None:
    """Clones what is part of another tensor's memory: safetensors writes no memory twice."""
    seen: set[int] = set()
    for name, values in tensors.items():
        storage = values.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != values.nbytes:
            tensors[name] = values.clone()
        seen.add(storage.data_ptr())


def _digest(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the JSON and the tensors' names, types, shapes and bytes, as hexadecimal."""
    found = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name, values in sorted(tensors.items()):
        found.update(f"\n{name} {values.dtype} {tuple(values.shape)}\n".encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _sync(path: Path) -> None:
    """See on disk what was written to a file, or renamed in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

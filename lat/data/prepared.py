"""A prepared dataset on disk: uint8 arrays that every job maps into memory, and the record that vouches for them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lat.data.arrays import Arrays, DataError, Digests, Split, digests, image_shape, joint_digest, sha256_array
from lat.data.dataset import SPLITS
from lat.data.draw import stratified

RECORD = "prepared.json"
VALIDATION = "validation.npy"
PARTS = ("train", "fit", "validation", "test")


@dataclass(frozen=True)
class Prepared:
    """What ``prepared.json`` says.

    shape: (C, H, W) of an image. levels, classes: as in Arrays. counts: images in each part. digests: for each split
    the SHA-256 of its images and of its labels. validation: SHA-256 of the validation indices (int64). class_names:
    in the order of the labels, empty where the source has no names. source: where the splits came from. files:
    SHA-256 of the source's files, empty where it does not list them.
    """

    name: str
    shape: tuple[int, int, int]
    levels: int
    classes: int
    counts: Mapping[str, int]
    digests: Mapping[str, Digests]
    validation: str
    class_names: tuple[str, ...]
    source: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Origin:
    """Where splits come from and what their source says of them, to be recorded; fields as in Prepared."""

    name: str
    levels: int
    classes: int
    validation: int
    source: str
    class_names: tuple[str, ...] = ()
    files: Mapping[str, str] | None = None


def write(folder: Path, splits: Mapping[str, Split], found: Mapping[str, Digests], origin: Origin) -> Path:
    """Write canonical splits and the record into ``folder``, the record last.

    splits, found: for ``train`` and ``test`` the arrays and their digests. Everything is written beside the folder
    first and then moved, so that an error leaves nothing under the final names. Returns the folder.
    """
    train, test = (splits[split] for split in SPLITS)
    held_out = stratified(train.labels, origin.validation, f"{origin.name}: validation part")
    record = Prepared(
        name=origin.name,
        shape=image_shape(train.images),
        levels=origin.levels,
        classes=origin.classes,
        counts={
            "train": len(train.labels),
            "fit": len(train.labels) - len(held_out),
            "validation": len(held_out),
            "test": len(test.labels),
        },
        digests=dict(found),
        validation=sha256_array(held_out),
        class_names=origin.class_names,
        source=origin.source,
        files=dict(origin.files or {}),
    )
    draft = folder.with_name(f".{folder.name}.preparing")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            for kind, array in splits[split]._asdict().items():
                np.save(draft / f"{split}_{kind}.npy", array)
        np.save(draft / VALIDATION, held_out)
        (draft / RECORD).write_text(json.dumps(asdict(record) | _plain(record), indent=1) + "\n", "utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
        for name in (*_array_files(), RECORD):
            os.replace(draft / name, folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def read_record(folder: Path) -> Prepared:
    """The record of a prepared dataset. Raises DataError where it is missing or not readable."""
    path = folder / RECORD
    try:
        fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
        fields["digests"] = {split: Digests(**fields["digests"][split]) for split in SPLITS}
        fields["shape"] = tuple(fields["shape"])
        fields["class_names"] = tuple(fields["class_names"])
        return Prepared(**fields)
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing, so {folder.name} is not prepared there. {_mend(folder)}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected the record of a prepared dataset, found something else ({error!r}). {_mend(folder)}"
        ) from error


def open_split(folder: Path, record: Prepared, split: str) -> Split:
    """One split as read-only memory maps. Raises DataError where a file is not what the record says."""
    channels, height, width = record.shape
    count = record.counts[split]
    pixels = (height, width) if channels == 1 else (height, width, channels)
    said = record.digests[split]
    return Split(
        _mapped(folder / f"{split}_images.npy", "uint8", (count, *pixels), said.images),
        _mapped(folder / f"{split}_labels.npy", "uint8", (count,), said.labels),
    )


def open_validation(folder: Path, record: Prepared) -> NDArray[np.int64]:
    """Indices (int64) of the validation part in the train split. Raises DataError as ``open_split``."""
    rows: NDArray[np.int64] = _mapped(folder / VALIDATION, "int64", (record.counts["validation"],), record.validation)
    return rows


def check(folder: Path, record: Prepared) -> None:
    """Raise DataError where a file of the prepared dataset is missing or is not what the record says."""
    for split in SPLITS:
        open_split(folder, record, split)
    open_validation(folder, record)


def read_part(folder: Path, record: Prepared, part: str, count: int | None) -> Arrays:
    """One part of a prepared dataset, or a stratified draw of ``count`` of it; see ``lat.data.load``."""
    if part not in PARTS:
        raise DataError(f"part: {part!r} is not known. Choose one of {', '.join(PARTS)}.")
    split = open_split(folder, record, "test" if part == "test" else "train")
    said = record.digests["test" if part == "test" else "train"]
    rows = None
    if part in ("fit", "validation"):
        rows = open_validation(folder, record)
        if part == "fit":
            rows = np.delete(np.arange(record.counts["train"]), rows)
    if count is not None:
        labels = split.labels if rows is None else split.labels[rows]
        chosen = stratified(labels, count, f"count: {record.name}, part {part}")
        rows = chosen if rows is None else rows[chosen]
    if rows is not None:
        split = Split(split.images[rows], split.labels[rows])
        said = digests(split)
    return Arrays(split.images, split.labels, record.levels, record.classes, joint_digest(said))


def _mapped(path: Path, kind: str, shape: tuple[int, ...], sha256: str) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing, although {RECORD} beside it lists it. {_mend(path.parent)}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: expected {kind} {shape}, found {error}. {_mend(path.parent)}") from error
    if array.dtype != kind or array.shape != shape:
        raise DataError(f"{path}: expected {kind} {shape}, found {array.dtype} {array.shape}. {_mend(path.parent)}")
    state = path.stat()
    found = _sha256_of_array(path, state.st_size, state.st_mtime_ns)
    if found != sha256:
        raise DataError(f"{path}: altered; {RECORD} says SHA-256 {sha256}, found {found}. {_mend(path.parent)}")
    return array


@lru_cache(maxsize=64)
def _sha256_of_array(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a stored array, once a process as long as the file's size and time of change stay the same."""
    return sha256_array(np.load(path, mmap_mode="r", allow_pickle=False))


def _array_files() -> list[str]:
    return [f"{split}_{kind}.npy" for split in SPLITS for kind in Split._fields] + [VALIDATION]


def _plain(record: Prepared) -> dict[str, Any]:
    return {"digests": {split: pair._asdict() for split, pair in record.digests.items()}}


def _mend(folder: Path) -> str:
    return f"Prepare it (again): lat.data.prepare({folder.name!r}, {str(folder.parent)!r})."

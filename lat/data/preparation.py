"""Choose a dataset's source, read it, check it against what is pinned, and prepare it once."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lat.data import prepared
from lat.data.arrays import DataError, Digests, Split, canonical, digests, image_shape
from lat.data.dataset import SPLITS, Dataset, Splits
from lat.data.download import Patience, Unreachable
from lat.data.mirror import Mirror
from lat.data.prepared import Origin, Prepared
from lat.data.shards import read_folders

MOST_VALIDATION = 5000
VALIDATION_SHARE = 10


def prepare_known(dataset: Dataset, root: Path, address: str | None, patience: Patience | None) -> Path:
    """Prepare a dataset whose content is pinned; see ``lat.data.prepare``."""
    folder = root / dataset.name
    if _as_pinned(folder, dataset):  # also where the folder may only be read, which a lock does not allow
        return folder
    with _alone(root, dataset.name) as downloads:
        if _as_pinned(folder, dataset):
            return folder
        if dataset.mirrored is None:
            source, splits = "installed package", dataset.official(downloads)
        elif address is None:
            source, splits = "official host", dataset.official(downloads)
        else:
            source, splits = address, dataset.mirrored(Mirror(address, downloads, patience))
        ordered = _ordered(f"{dataset.name} from {source}", splits)
        found = {split: digests(ordered[split]) for split in SPLITS}
        for split in SPLITS:
            if found[split] != dataset.pinned[split]:
                raise DataError(_not_pinned(dataset, split, source, found[split], ordered[split]))
        origin = Origin(dataset.name, dataset.levels, dataset.classes, dataset.validation, source)
        return prepared.write(folder, ordered, found, origin)


def prepare_own(name: str, known: list[str], root: Path, address: str | None, patience: Patience | None) -> Path:
    """Prepare a dataset that a mirror holds as images in class folders; see ``lat.data.prepare``."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise DataError(f"dataset: {name!r} is no name; use letters, digits, '_' and '-'.")
    folder = root / name
    with _alone(root, name) as downloads:
        whole = _whole(folder)
        if address is None:
            if whole is not None:
                return folder
            raise DataError(f"{_unknown(name, known)} For a dataset of your own, set LAT_DATA_MIRROR to its mirror.")
        try:
            mirror = Mirror(address, downloads, patience)
        except Unreachable:
            if whole is not None:
                return folder
            raise
        if name not in mirror.datasets():
            if whole is not None:
                return folder
            held = ", ".join(mirror.datasets()) or "none"
            raise DataError(f"{_unknown(name, known)} Datasets in class folders on the mirror {address}: {held}.")
        files = {path: mirror.files[path].sha256 for split in SPLITS for path in mirror.shards(name, split)}
        if whole is not None and whole.files == files:
            return folder
        folders = read_folders(mirror, name)
        ordered = _ordered(f"{name} from {address}", folders.splits)
        found = {split: digests(ordered[split]) for split in SPLITS}
        _same_as_before(folder, address, found, tuple(folders.classes))
        if whole is not None:
            return folder
        classes = len(folders.classes)
        share = max(classes, min(MOST_VALIDATION, len(ordered["train"].labels) // VALIDATION_SHARE))
        origin = Origin(name, 255, classes, share, address, tuple(folders.classes), files)
        return prepared.write(folder, ordered, found, origin)


def _whole(folder: Path) -> Prepared | None:
    """The record of a prepared dataset whose files are all as the record says; None where it is not so."""
    try:
        record = prepared.read_record(folder)
        prepared.check(folder, record)
    except DataError:
        return None
    return record


def _as_pinned(folder: Path, dataset: Dataset) -> bool:
    record = _whole(folder)
    return record is not None and record.digests == dataset.pinned


def _ordered(what: str, splits: Splits) -> dict[str, Split]:
    """Both splits in canonical order. Raises DataError where they are no stacks of images with a label each."""
    for split in SPLITS:
        images, labels = splits[split]
        if images.ndim not in (3, 4) or labels.ndim != 1 or len(images) != len(labels) or images.size == 0:
            raise DataError(
                f"{what}, {split} split: expected N images and N labels, found arrays of shape {images.shape} and "
                f"{labels.shape}. Renew the files."
            )
    return {split: canonical(splits[split]) for split in SPLITS}


def _same_as_before(folder: Path, address: str, found: Mapping[str, Digests], classes: tuple[str, ...]) -> None:
    """Raise DataError where ``folder`` was prepared from other content than was found now."""
    try:
        before = prepared.read_record(folder)
    except DataError:
        return
    if before.digests == found and before.class_names == classes:
        return
    raise DataError(
        f"{folder}: was prepared from {before.source} with {_named(before.digests, before.class_names)}; {address} now "
        f"has {_named(found, classes)}. Give the new content another name, or remove {folder}."
    )


def _named(found: Mapping[str, Digests], classes: tuple[str, ...]) -> str:
    images = ", ".join(f"{split} images {found[split].images[:12]}" for split in SPLITS)
    return f"{images}, {len(classes)} classes {classes[0]} ... {classes[-1]}"


def _not_pinned(dataset: Dataset, split: str, source: str, found: Digests, arrays: Split) -> str:
    pinned = dataset.pinned[split]
    return (
        f"{dataset.name}, {split} split from {source}: expected SHA-256 {pinned.images} (images) and {pinned.labels} "
        f"(labels) in canonical order, found {found.images} and {found.labels} ({len(arrays.labels)} images of shape "
        f"{image_shape(arrays.images)}). It is not the published dataset; use another mirror, or the official host."
    )


def _unknown(name: str, known: list[str]) -> str:
    return f"dataset: {name!r} is not known. Known are {', '.join(known)}."


@contextmanager
def _alone(root: Path, name: str) -> Iterator[Path]:
    """Hold the lock of one dataset; yields the folder for its downloads, which is removed after success alone."""
    root.mkdir(parents=True, exist_ok=True)
    downloads = root / f".{name}.downloads"
    lock = os.open(root / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield downloads
        shutil.rmtree(downloads, ignore_errors=True)
    finally:
        os.close(lock)

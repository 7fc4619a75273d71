"""Datasets as uint8 arrays in canonical order, prepared once, and as tensors in [0, 1].

``prepare`` brings a dataset from its official host, from a mirror or from an installed package, checks its digests
and stores it; ``load`` maps a part of it into memory; ``tensors`` turns that into what a network sees, and
``byte_tensors`` into a quarter of it, for training to convert batch by batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from lat.data import prepared
from lat.data.arrays import Arrays, DataError, byte_tensors, tensors
from lat.data.cifar10 import CIFAR10
from lat.data.cifar100 import CIFAR100
from lat.data.dataset import Dataset
from lat.data.digits import DIGITS
from lat.data.download import Patience, Unreachable
from lat.data.mirror import Mirror
from lat.data.mnist import MNIST
from lat.data.preparation import prepare_known, prepare_own
from lat.data.prepared import PARTS, Prepared

__all__ = [
    "DATASETS",
    "PARTS",
    "Arrays",
    "DataError",
    "Dataset",
    "Mirror",
    "Patience",
    "Prepared",
    "Unreachable",
    "byte_tensors",
    "describe",
    "digests_under",
    "load",
    "prepare",
    "tensors",
]

DATASETS: Mapping[str, Dataset] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
}


def prepare(name: str, root: Path | str, mirror: str | None = None, patience: Patience | None = None) -> Path:
    """Prepare the dataset ``name`` under ``root / name``, once, and return that folder.

    name: one of DATASETS, whose digests are pinned, or any dataset of which the mirror's manifest lists
    ``<name>/train-*.zip`` and ``<name>/test-*.zip``; of such a one the digests found are recorded.
    mirror: a directory or an http(s) address; where it is None, the environment's LAT_DATA_MIRROR; where that is
    unset too, the official host. patience: how long to wait for an http(s) mirror.
    A folder that is whole is left as it is, a damaged one is prepared again. Processes that prepare the same dataset
    at once wait for each other. Raises DataError, after which nothing stands under the final names that was not
    there before.
    """
    address = mirror or os.environ.get("LAT_DATA_MIRROR") or None
    if name in DATASETS:
        return prepare_known(DATASETS[name], Path(root), address, patience)
    return prepare_own(name, list(DATASETS), Path(root), address, patience)


def describe(name: str, root: Path | str) -> Prepared:
    """The record of a prepared dataset: shape, classes, counts, digests, source.

    Raises DataError where ``name`` is not prepared under ``root`` or its digests are not those pinned.
    """
    folder = Path(root) / name
    if name not in DATASETS and not folder.is_dir():
        raise DataError(f"dataset: {name!r} is neither one of {', '.join(DATASETS)} nor prepared under {root}.")
    record = prepared.read_record(folder)
    if name in DATASETS and record.digests != DATASETS[name].pinned:
        raise DataError(
            f"{folder / prepared.RECORD}: expected the digests pinned for {name}, found others. "
            f"Prepare it again: lat.data.prepare({name!r}, {str(root)!r})."
        )
    return record


def load(name: str, part: str, root: Path | str, count: int | None = None) -> Arrays:
    """One part of a prepared dataset.

    part: ``train`` (everything but the test split), ``fit`` (train without validation), ``validation``, ``test``.
    count: take a stratified draw of so many images, the same in every run; None takes all.
    ``train`` and ``test`` are memory maps; ``fit``, ``validation`` and draws are copies. Raises DataError where the
    dataset is not prepared under ``root``, a file is damaged, or ``part`` or ``count`` cannot be had.
    """
    return prepared.read_part(Path(root) / name, describe(name, root), part, count)


def digests_under(root: Path | str) -> Callable[[str, str, int | None], str | None]:
    """The digest of what `load` gives under ``root`` as a function of (name, part, count), each worked out once; None
    where the dataset is not prepared there. Raises DataError as `load`.
    """

    @cache
    def digest(name: str, part: str, count: int | None) -> str | None:
        known = (Path(root) / name / prepared.RECORD).exists()
        return load(name, part, root, count).digest if known else None

    return digest

"""What the project knows of a dataset before it has seen a byte of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lat.data.arrays import Digests, Split
from lat.data.mirror import Mirror

Splits = Mapping[str, Split]
"""The splits ``train`` and ``test``, in any order of images."""

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Dataset:
    """A dataset with pinned content.

    name: its name in cells, run files and folders.
    levels: the image value that stands for 1.0.
    classes: number of classes.
    validation: how many training images the validation part holds.
    pinned: digests of both splits in canonical order.
    official: reads the splits from their official host, downloading into the folder it is given.
    mirrored: reads the splits from a mirror; None where the data ship with an installed package.
    """

    name: str
    levels: int
    classes: int
    validation: int
    pinned: Mapping[str, Digests]
    official: Callable[[Path], Splits]
    mirrored: Callable[[Mirror], Splits] | None

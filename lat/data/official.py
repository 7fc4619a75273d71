"""Official hosts, reached through torchvision: the only module that imports it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lat.data.arrays import DataError, Split

SILENCE = 60.0
"""Seconds without a byte after which a download from an official host is given up."""

_schemas: list[object] = []


def torchvision_datasets() -> Any:
    """The module ``torchvision.datasets``, also where torchvision was built for another torch than the one here.

    torchvision registers shapes for its operators ``nms`` and ``qnms`` when it is imported; where its compiled
    operators do not load (a CUDA build beside a CPU build of torch) that registration fails, although none of them
    is needed to read a dataset. After exactly that failure their schemas are declared, and it is imported again.
    """
    try:
        import torchvision.datasets
    except RuntimeError as error:
        if "operator torchvision::" not in str(error) or _schemas:
            raise
        _declare_operators()
        import torchvision.datasets
    return torchvision.datasets


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.append(library)  # the declarations last as long as this object


def read_official(kind: str, downloads: Path) -> dict[str, Split]:
    """Both splits of torchvision's dataset class ``kind`` (``MNIST``, ``CIFAR10``, ``CIFAR100``).

    Downloads into ``downloads`` what is not there yet. Raises DataError where the host cannot be reached or sends
    something else.
    """
    dataset = getattr(torchvision_datasets(), kind)
    downloads.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split in ("train", "test"):
        try:
            with _time_out(SILENCE):
                found = dataset(str(downloads), train=split == "train", download=True)
        except (OSError, EOFError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{kind}: cannot be had from its official host ({error}). Check the connection, or set "
                "LAT_DATA_MIRROR to a mirror (a directory or an http(s) address)."
            ) from error
        splits[split] = Split(np.asarray(found.data, dtype=np.uint8), np.asarray(found.targets, dtype=np.uint8))
    return splits


@contextmanager
def _time_out(seconds: float) -> Iterator[None]:
    """Give every socket opened inside a time-out; torchvision sets none of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

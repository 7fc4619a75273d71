"""MNIST (LeCun, Cortes and Burges): 60,000 + 10,000 grey images of digits, 28 x 28, ten classes."""

from __future__ import annotations

from functools import partial

from lat.data.arrays import Digests, Split
from lat.data.dataset import Dataset
from lat.data.idx import read_idx
from lat.data.mirror import Mirror
from lat.data.official import read_official


def _mirrored(mirror: Mirror) -> dict[str, Split]:
    files = {"train": "train", "test": "t10k"}
    return {
        split: Split(
            read_idx(mirror.fetch(f"MNIST/raw/{prefix}-images-idx3-ubyte.gz")),
            read_idx(mirror.fetch(f"MNIST/raw/{prefix}-labels-idx1-ubyte.gz")),
        )
        for split, prefix in files.items()
    }


MNIST = Dataset(
    name="mnist",
    levels=255,
    classes=10,
    validation=5000,
    pinned={
        "train": Digests(
            "2446541a2b94186dde68cf9c9c3fa99c32c7716c40470d9a591e8e0446884360",
            "b5c4bd231f54422cd0165032d2e8869929e8552fe3ef2bcfe53c39d1ae1e37f0",
        ),
        "test": Digests(
            "1941346b19edbcdb8805054e4e70e40c922a03b540d9d30e06949d3842d35b6b",
            "f7cd9d3a7438833ddaff2865a3ef3497a9479b8a1fc1e2dc2db0faf6648419c2",
        ),
    },
    official=partial(read_official, "MNIST"),
    mirrored=_mirrored,
)

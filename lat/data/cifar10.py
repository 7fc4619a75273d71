"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images, 32 x 32, ten classes."""

from __future__ import annotations

from functools import partial

from lat.data.arrays import Digests
from lat.data.dataset import Dataset
from lat.data.official import read_official
from lat.data.shards import read_folders

CIFAR10 = Dataset(
    name="cifar10",
    levels=255,
    classes=10,
    validation=5000,
    pinned={
        "train": Digests(
            "0d87276eba0d6ec98b5d229a3683166fec8f3ee6f10a4b330c1b5cd1f72ee601",
            "a29f2a5ffc141bb1c9e1af453e9a5ef8c316b2f675f8cea1d849d220d33a14fb",
        ),
        "test": Digests(
            "e89278b625b8eae433b016d86038647f933bdfc0f24ccf470a4a0a4fb35ea5f9",
            "a054c239a40ee7f2a5745e7e4bc11a51e9cb40c98134b602c1068e6a207487c6",
        ),
    },
    official=partial(read_official, "CIFAR10"),
    mirrored=lambda mirror: read_folders(mirror, "cifar10").splits,
)

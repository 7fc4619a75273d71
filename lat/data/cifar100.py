"""CIFAR-100 with its fine labels (Krizhevsky 2009): 50,000 + 10,000 colour images, 32 x 32, a hundred classes."""

from __future__ import annotations

from functools import partial

from lat.data.arrays import Digests
from lat.data.dataset import Dataset
from lat.data.official import read_official
from lat.data.shards import read_folders

CIFAR100 = Dataset(
    name="cifar100",
    levels=255,
    classes=100,
    validation=5000,
    pinned={
        "train": Digests(
            "7aff2dac74bf90f339a3f25a285f39b0a035ad170717368c16392c714366482e",
            "24e451cae1d0bb4af05bb556f43f7442043340bdc64d9e1896c2ad19efa810d1",
        ),
        "test": Digests(
            "160f6ca1befc7a270d6e0956b48a15f578bf6518bc82149d1095ba45e71dda98",
            "7335f3ca04ad4876c5479947470a13b869b8fe2143b1077bb51b95a0c23892b1",
        ),
    },
    official=partial(read_official, "CIFAR100"),
    mirrored=lambda mirror: read_folders(mirror, "cifar100").splits,
)

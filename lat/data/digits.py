"""scikit-learn's ``digits``: 1,797 grey images of digits, 8 x 8, values 0 to 16, ten classes; no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lat.data.arrays import Digests, Split, canonical
from lat.data.dataset import Dataset
from lat.data.draw import stratified

TEST_IMAGES = 360


def _embedded(downloads: Path) -> dict[str, Split]:
    """A stratified split into 1,437 training and 360 test images, fixed by seed; nothing is downloaded."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    everything = canonical(Split(loaded.images.astype(np.uint8), loaded.target.astype(np.uint8)))
    held_out = stratified(everything.labels, TEST_IMAGES, "digits test split")
    rest = np.setdiff1d(np.arange(len(everything.labels)), held_out)
    return {
        split: Split(*(array[rows] for array in everything)) for split, rows in (("train", rest), ("test", held_out))
    }


DIGITS = Dataset(
    name="digits",
    levels=16,
    classes=10,
    validation=200,
    pinned={
        "train": Digests(
            "cd1b87d13ab3cb99761812952759d21f7f8405d8604fcfcc80656d7efef4e40c",
            "c341203feecfac30bfe6f1a9cdb967c1829ec4f169b3a5ed23098385c4de3607",
        ),
        "test": Digests(
            "0606ca34e252f08139dd45909bcddc3dc66f3addd3994c54912986e7cc1ea2df",
            "abd5327fb16a6bfd62e1b73d5da8253c8a743b5ef3d1725c3638b61e127bcd91",
        ),
    },
    official=_embedded,
    mirrored=None,
)

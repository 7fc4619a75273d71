"""Stratified draws that are the same on every machine and in every run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lat.data.arrays import Bytes, DataError

SEED = 20190724


def stratified(labels: Bytes, count: int, purpose: str) -> NDArray[np.int64]:
    """Sorted indices of ``count`` examples that hold the classes in the proportions of ``labels`` (N), a fixed draw.

    Of fewer examples than classes, no two are of one class. Every class must have two examples, and what the draw
    leaves must have room for one of each class; a draw of all N examples is allowed. Raises DataError, naming
    ``purpose``, where that is not so.
    """
    if count == len(labels):
        return np.arange(len(labels))
    classes, sizes = np.unique(labels, return_counts=True)
    if not 1 <= count <= len(labels) - len(sizes) or sizes.min() < 2:
        raise DataError(
            f"{purpose}: {count} of {len(labels)} examples cannot be drawn in proportion from {len(sizes)} classes, "
            f"the smallest of which has {sizes.min()}. Ask for 1 to {len(labels) - len(sizes)}, or "
            "for all, and give every class two examples or more."
        )
    if count < len(classes):
        draw = np.random.RandomState(SEED)
        chosen = [draw.choice(np.flatnonzero(labels == label)) for label in draw.permutation(classes)[:count]]
        return np.sort(np.array(chosen, dtype=np.int64))
    from sklearn.model_selection import train_test_split

    chosen, _ = train_test_split(np.arange(len(labels)), train_size=count, stratify=labels, random_state=SEED)
    return np.sort(chosen)

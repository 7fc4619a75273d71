"""What several attacks found on the images that all of them saw: each on its own sample, or on all. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Found = TypeVar("Found", bound=np.generic)

ENOUGH = 500
"""On how many images an attack must have run to count in the worst case over all: an accuracy on fewer is known to no
better than four points. One that saw every image counts anyway."""


def on_shared(
    index: Mapping[str, NDArray[np.int64]], found: Mapping[str, NDArray[Found]], names: Sequence[str]
) -> tuple[NDArray[np.int64], dict[str, NDArray[Found]]]:
    """The numbers of the images that all attacks of `names` saw, ascending, and what each attack found on those.

    `index` holds the numbers of the images that each attack saw, ascending, `found` its verdicts or distances in that
    order.
    """
    shared = reduce(np.intersect1d, (index[name] for name in names))
    return shared, {name: found[name][np.searchsorted(index[name], shared)] for name in names}


def over_all(
    index: Mapping[str, NDArray[np.int64]],
    verdicts: Mapping[str, NDArray[np.bool_]],
    threats: Mapping[str, object],
    fixed: Sequence[str],
    images: int,
) -> tuple[int, dict[str, float]]:
    """The worst case over every attack in the threat model of the `fixed` ones that saw ENOUGH of the `images`, on
    those that all of them saw, as `worst_case`, and on the same images that over the fixed ones alone, as
    `fixed_attacks`; with how many images these are. Nothing where no fixed attack saw enough.
    """
    seen = [name for name in verdicts if len(index[name]) >= min(ENOUGH, images)]
    standard = [name for name in fixed if name in seen]
    if not standard:
        return 0, {}
    names = [name for name in seen if threats[name] == threats[standard[0]]]
    shared, on = on_shared(index, verdicts, names)
    parts = {"worst_case": names, "fixed_attacks": [name for name in standard if name in names]}
    return len(shared), {
        name: float(np.logical_and.reduce([on[attack] for attack in part]).mean()) for name, part in parts.items()
    }

"""What is drawn: which examples, and random numbers of one each, so that re-cutting the batches changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lat.cells import seed_for


def sample_index(n: int, examples: int | None) -> NDArray[np.int64]:
    """The images that an attack runs on, ascending: all n, or a random sample of `examples` of them.

    The sample follows from n alone, so that all cells and seeds are attacked on the same images; a smaller sample is
    part of a larger one.
    """
    if examples is None or examples >= n:
        return np.arange(n)
    ranked = sorted(range(n), key=lambda i: seed_for("attacked images", n, i))
    return np.array(sorted(ranked[:examples]), dtype=np.int64)


class Draws:
    """One stream of random numbers an example, on the CPU, whichever device the result is for.

    What example i gets depends on (seed, i, how many draws of which shape were made before) and on nothing else: not
    on the other examples of its batch, nor on their number or order. The streams of two examples are equal only by a
    chance of 2^-32, since torch's generator keeps 32 bits of a seed.
    """

    def __init__(self, seed: int, index: Sequence[int]) -> None:
        """`index` holds the number of each row's example in its dataset."""
        self._streams = [torch.Generator().manual_seed(seed_for(seed, "example", int(i))) for i in index]

    def __len__(self) -> int:
        return len(self._streams)

    def rows(self, rows: Sequence[int]) -> Draws:
        """The streams of some rows alone, shared with this object: they go on where they stand."""
        chosen = Draws(0, ())
        chosen._streams = [self._streams[row] for row in rows]
        return chosen

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers from [0, 1), of the shape (n, ...), dtype and device of `like`."""
        return self._fill(like, lambda row, stream: row.uniform_(generator=stream))

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers, of the shape (n, ...), dtype and device of `like`."""
        return self._fill(like, lambda row, stream: row.normal_(generator=stream))

    def _fill(self, like: Tensor, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        if len(like) != len(self):
            raise ValueError(
                f"draws for {len(like)} examples were asked of {len(self)} streams; give one index an example"
            )
        drawn = torch.empty(like.shape, dtype=like.dtype)
        for row, stream in zip(drawn.unbind(), self._streams, strict=True):
            fill(row, stream)
        return drawn.to(like.device)

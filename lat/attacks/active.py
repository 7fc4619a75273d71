"""The active set of an ascent: who still takes part in it, and what was found for those who do not."""

from __future__ import annotations

import torch
from torch import Tensor

from lat.types import Images, PerExample, Verdicts

RECUT_AT = 1 / 8
"""The share of a batch that has to be broken before an ascent goes on without them. At 0 each leaves at once; above 1
nobody ever does, and all steps are made on all examples.
"""


class ActiveSet:
    """For each example the first point seen that the model gets wrong, or else the last one, or that of highest loss.

    It is shown one point of each example of a batch after the other. Those that are broken may `leave`; from then on a
    batch holds the others alone. `keep` ("last" or "highest") says what is found for an example that stays unbroken.
    """

    def __init__(self, x: Images, keep: str) -> None:
        self._keep = keep
        self._found = torch.empty_like(x)
        self._rows = torch.arange(len(x), device=x.device)  # where in x the examples of the batch stand
        self._broken = torch.zeros_like(self._rows, dtype=torch.bool)
        self._count = 0
        self._best, self._highest = x, torch.full_like(x.flatten(1)[:, 0], -torch.inf)

    def see(self, point: Images, loss: PerExample, wrong: Verdicts) -> None:
        """Takes notice of a point of each example in the batch, its loss, and whether the model is wrong there."""
        first = torch.nonzero(wrong & ~self._broken).flatten()
        self._found[self._rows[first]] = point[first]
        self._broken[first] = True
        self._count += len(first)
        if self._keep == "highest":
            higher = loss > self._highest  # NaN is not
            self._best = torch.where(higher.view(-1, *[1] * (point.dim() - 1)), point, self._best)
            self._highest = torch.where(higher, loss, self._highest)

    def leave(self) -> Tensor | None:
        """Once a share of RECUT_AT is broken: the indices of those who stay in the batch, without them. None before."""
        if self._count == 0 or self._count < RECUT_AT * len(self._rows):
            return None
        stay = torch.nonzero(~self._broken).flatten()
        self._rows, self._broken, self._count = self._rows[stay], self._broken[stay], 0
        if self._keep == "highest":
            self._best, self._highest = self._best[stay], self._highest[stay]
        return stay

    def found(self, last: Tensor) -> Images:
        """What was found for each example of x; `last` is the last point (batch, ...) of those in the batch."""
        unbroken = torch.nonzero(~self._broken).flatten()
        self._found[self._rows[unbroken]] = (last if self._keep == "last" else self._best)[unbroken]
        return self._found

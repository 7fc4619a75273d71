"""Radii that do not depend on the data, kept as long as nothing that they are made of changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

Radii = dict[str, Tensor]


class Steps:
    """Counts the steps that the optimisers of torch.optim, all of this process, have made since the import."""

    def __init__(self) -> None:
        self.made = 0
        register_optimizer_step_post_hook(self._count)

    def _count(self, *given: object) -> None:
        self.made += 1


STEPS = Steps()


class Kept:
    """Gives the radii that were formed last, or forms them where they are made of anything else by a bit.

    After a step of an optimiser they are formed without a look at the weights. Asked for again before the next one,
    their parts are compared with copies, as nothing else tells what `.data`, or an optimiser that is not torch's, has
    changed: PyTorch's version counters do not. Copies are made only where radii have been asked for again, by this call
    or the one before, so that a loop with one update a step makes none, and one that gathers gradients over several
    updates forms radii once a step, but for once more at its start.
    """

    def __init__(self) -> None:
        self._sizes: Mapping[str, tuple[int, ...]] = {}
        self._parts: list[Tensor] | None = None
        self._radii: Radii = {}
        self._steps = -1
        self._again = False

    def __call__(
        self, sizes: Mapping[str, tuple[int, ...]], parts: Sequence[Tensor], form: Callable[[], Radii]
    ) -> Radii:
        """The radii that `form` gives from inputs of `sizes` and from the values of `parts`."""
        again, before = self._steps == STEPS.made, self._again
        self._steps, self._again = STEPS.made, again
        if not (again and sizes == self._sizes and self._unchanged(parts)):
            self._radii, self._sizes = form(), dict(sizes)
            self._parts = [part.detach().clone() for part in parts] if again or before else None
        return self._radii

    def _unchanged(self, parts: Sequence[Tensor]) -> bool:
        return self._parts is not None and len(parts) == len(self._parts) and all(map(_same, parts, self._parts))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)

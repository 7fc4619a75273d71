"""What to do where a device's memory runs out: smaller batches where the result does not depend on them, else words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


class EvaluationError(RuntimeError):
    """An evaluation that cannot be made with the memory there is; the message says what to do."""


@dataclass
class Batch:
    """How many images go through the model at once, and how often that was halved because memory ran out."""

    images: int
    halvings: int = 0

    def over(self, n: int, work: Callable[[slice], T], name: str) -> Iterator[tuple[slice, T]]:
        """The parts that n images are cut into, each with what `work` makes of it; from where memory runs out, on half
        as many at a time.

        Raises EvaluationError under `name` where one image alone does not fit.
        """
        first = 0
        while first < n:
            part = slice(first, min(first + self.images, n))
            try:
                done = work(part)
            except torch.OutOfMemoryError as error:
                if part.stop - first == 1:
                    raise EvaluationError(
                        f"{name}: memory ran out on a single image; end what else uses the device, or take another one "
                        "(--device cpu)"
                    ) from error
                self.images = (part.stop - first) // 2
                self.halvings += 1
                continue
            yield part, done
            first = part.stop


class TrainingError(RuntimeError):
    """A training that does not fit into the device's memory; the message says what to lower."""


@contextmanager
def needed_for(what: str, device: torch.device, mend: str) -> Iterator[None]:
    """A block in which running out of the device's memory becomes a TrainingError: `what` does not fit, do `mend`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"{what} do not fit into the memory of {str(device)!r} ({error}); {mend}") from error

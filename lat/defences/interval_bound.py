"""Training on interval bounds: the control whose predictions are proved to stay, where the other methods' are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.functional import cross_entropy

from lat.bounds.networks import traced
from lat.bounds.operations import BoundsError
from lat.bounds.scores import worst_scores
from lat.cells import Cell, CellError
from lat.defences.ascent import BOX
from lat.defences.base import Defence

WARM_UP = 1 / 30
RAMP = 1 / 6
"""Parts of all epochs, at the radius 0 and on the way from there to the full one: the 2,000 and 10,000 steps of Gowal
et al. on MNIST out of their 60,000. As parts of the training they do not depend on the size of a batch, and the ramp
ends at a fifth, well before the learning rate falls at a half."""
KAPPA = 1 / 2
"""The weight that the plain loss has left after the ramp, as there; before it, it has 1."""


class IntervalBound(Defence):
    """Interval-bound training (Gowal et al. 2018, section 3) at the radius of the cell's input law.

    The loss is kappa CE(z(x), y) + (1 - kappa) CE(worst scores over the ball and the box, y). Over the ramp the radius
    grows from 0 and kappa falls from 1, both linearly, batch by batch; warm-up and ramp take an epoch each at the
    least, as the first one tells how many batches an epoch has.
    """

    def __init__(self, model: nn.Module, cell: Cell, seed: int) -> None:
        super().__init__(model, cell, seed)
        if cell.input_law is None or cell.input_law.kind != "fixed":
            raise CellError(f"input_law: {cell.input_law} with method 'interval_bound'; give it law fixed and a radius")
        if cell.mix:
            raise CellError("mix: method 'interval_bound' has the clean images in its loss already; leave mix out")
        self.radius = cell.input_law.radius
        self._batches = 0
        self._in_epoch: int | None = None
        self._graph: fx.Graph | None = None

    def start_epoch(self, epoch: int) -> None:
        if epoch > 0:
            self._in_epoch = self._batches // epoch

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Raises CellError for a network that bounds cannot pass, before anything is trained."""
        part = self.ramped
        kappa = 1 - (1 - KAPPA) * part
        try:
            self._graph = self._graph or traced(self.model)
            worst = worst_scores(self.model, x, y, self.radius * part, BOX, self._graph)
        except BoundsError as error:
            raise CellError(
                f"method: 'interval_bound' cannot train {self.cell.model!r} ({error}); take a network without what "
                "bounds cannot pass in training, such as BatchNorm"
            ) from error
        return kappa * cross_entropy(self.model(x), y) + (1 - kappa) * cross_entropy(worst, y)

    def after_backward(self) -> None:
        self._batches += 1

    @property
    def ramped(self) -> float:
        """How much of the ramp lies behind: 0 until it begins, 1 from its end on."""
        if self._in_epoch is None:
            return 0.0
        epochs = self.cell.schedule.epochs
        since = self._batches / self._in_epoch - max(1, WARM_UP * epochs)
        return min(max(since / max(1, RAMP * epochs), 0.0), 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches, "in_epoch": self._in_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batches, self._in_epoch = state["batches"], state["in_epoch"]

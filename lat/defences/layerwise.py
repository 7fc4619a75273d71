"""The paper's method: Algorithm 1 around an ordinary loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat.cells import Cell, own_seed
from lat.defences.ascent import ascent, summed_margin
from lat.defences.base import Defence
from lat.models.layer_sets import layer_set
from lat.perturbation import LayerwiseAdversary
from lat.running_statistics import still


class Layerwise(Defence):
    """Layer-wise adversarial training (Algorithm 1) on the cell's layers, or its set of them, in the cell's reading.

    With source `cw` the perturbation of the inputs is found by an ascent of the margin loss of the plain network on the
    batch, in the ball of the law's radius, whose draws are then not taken; pairing `slot` pushes that of the batch
    before, at the weights that its loss was taken with. Passes that only look for R leave running statistics alone.
    """

    def __init__(self, model: nn.Module, cell: Cell, seed: int) -> None:
        super().__init__(model, cell, seed)
        assert cell.law is not None and cell.reading is not None
        self.reading = cell.reading
        self.radius = cell.law.radius
        self._starts: torch.Generator | None = None
        self._batch: tuple[Tensor, Tensor] | None = None
        self.adversary = LayerwiseAdversary(
            model, layer_set(model, cell.layers), cell.law, cell.reading, seed=own_seed(cell, seed, "epsilon")
        )

    def start_epoch(self, epoch: int) -> None:
        if epoch == 0 or self.reading.reset == "epoch":
            self.adversary.reset()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        if self.reading.source == "cw":
            self._batch = x, y
            if self.reading.pairing == "same":
                delta = self._delta(x, y)
                with still(self.model):
                    self.adversary.push(delta, x)
        elif self.reading.pairing == "same":
            with still(self.model):
                self.adversary.observe(lambda: cross_entropy(self.model(x), y))
        with self.adversary:
            return cross_entropy(self.model(x), y)

    def after_backward(self) -> None:
        if self.reading.pairing == "same":
            return
        if self.reading.source == "cw":
            assert self._batch is not None
            self.adversary.push(self._delta(*self._batch))
        else:
            self.adversary.update()

    def _delta(self, x: Tensor, y: Tensor) -> Tensor:
        """The perturbation of the inputs (n, C, H, W) that raises the margin loss of the plain network."""
        if self._starts is None:
            self._starts = self.generator("delta", x.device)
        return ascent(self.model, x, y, self.radius, summed_margin, self._starts) - x

    @property
    def skipped(self) -> int:
        return self.adversary.skipped

    def state_dict(self) -> dict[str, Any]:
        starts = None if self._starts is None else self._starts.get_state()
        return {"adversary": self.adversary.state_dict(), "starts": starts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.adversary.load_state_dict(state["adversary"])
        self._starts = None
        if state["starts"] is not None:
            self._starts = self.generator("delta", self.device)
            self._starts.set_state(state["starts"])

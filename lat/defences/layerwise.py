"""The paper's method: Algorithm 1 around an ordinary loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat.cells import Cell, CellError, own_seed
from lat.defences.base import Defence, placed
from lat.models.layer_sets import layer_set
from lat.perturbation import LayerwiseAdversary


class Layerwise(Defence):
    """Layer-wise adversarial training (Algorithm 1) on the cell's layers, or its set of them, in the cell's reading."""

    def __init__(self, model: nn.Module, cell: Cell, seed: int) -> None:
        super().__init__(model, cell, seed)
        assert cell.law is not None and cell.reading is not None
        if cell.methods[-1] != "layerwise":
            raise CellError(
                f"method: {cell.method!r} would take its loss from {cell.methods[-1]!r}; write 'layerwise' last"
            )
        self.reading = cell.reading
        self.adversary = LayerwiseAdversary(
            model, layer_set(model, cell.layers), cell.law, cell.reading, seed=own_seed(cell, seed, "epsilon")
        )

    def start_epoch(self, epoch: int) -> None:
        if epoch == 0 or self.reading.reset == "epoch":
            self.adversary.reset()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        if self.reading.pairing == "same":
            self.adversary.observe(lambda: cross_entropy(self.model(x), y))
        with self.adversary:
            return cross_entropy(self.model(x), y)

    def after_backward(self) -> None:
        if self.reading.pairing != "same":
            self.adversary.update()

    @property
    def skipped(self) -> int:
        return self.adversary.skipped

    def state_dict(self) -> dict[str, Any]:
        return {"adversary": self.adversary.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        adversary = placed(state["adversary"], self.device)
        if adversary["device"] is not None:  # a GPU may have another number here
            adversary["device"] = str(self.device)
        self.adversary.load_state_dict(adversary)

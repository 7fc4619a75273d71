"""Conventional adversarial training: the inputs of a batch are perturbed before the network is trained on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lat.cells import Cell, CellError
from lat.defences.ascent import BOX, ascent, gradient, summed_cross_entropy
from lat.defences.base import Defence, placed
from lat.laws import draw_epsilon


class InputDefence(Defence, ABC):
    """Perturbs each batch's inputs by at most |epsilon| and clips them to the box; mixes clean examples in where asked.

    With the mixture the batch doubles: clean examples first, the perturbed ones after them.
    """

    def __init__(self, model: nn.Module, cell: Cell, seed: int) -> None:
        super().__init__(model, cell, seed)
        if cell.input_law is None:
            raise CellError(f"input_law: method {cell.method!r} perturbs the inputs; give it a law and a radius")
        self.law = cell.input_law
        self.mix = cell.mix
        self._generator: torch.Generator | None = None

    def examples(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        perturbed = self.perturbed(x, y).clamp(*BOX)
        if self.mix:
            return torch.cat([x, perturbed]), torch.cat([y, y])
        return perturbed, y

    @abstractmethod
    def perturbed(self, x: Tensor, y: Tensor) -> Tensor:
        """The perturbed inputs before clipping, of the shape of x."""

    def epsilon(self, x: Tensor) -> Tensor | float:
        """Epsilon for the batch, a number or a tensor that broadcasts against x (n, C, H, W)."""
        return draw_epsilon(self.law, tuple(x.shape), x, self.own_generator(x))

    def own_generator(self, x: Tensor) -> torch.Generator:
        if self._generator is None:
            self._generator = self.generator("input epsilon", x.device)
        return self._generator

    def state_dict(self) -> dict[str, Any]:
        return {"generator": None if self._generator is None else self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._generator = None
        if state["generator"] is not None:
            self._generator = self.generator("input epsilon", self.device)
            self._generator.set_state(state["generator"])

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """dL/dx of the plain network, (n, C, H, W); nothing of the network moves."""
        return gradient(self.model, x, y, summed_cross_entropy)


class Fgsm(InputDefence):
    """FGSM on the same batch (eq. 1): x + eps sign(dL/dx)."""

    def perturbed(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.epsilon(x) * self.gradient(x, y).sign()


class FgsmPrevious(InputDefence):
    """FGSM with the previous batch's input gradients, slot by slot, as Algorithm 1 does it at the layers.

    The first batch of an epoch, and one of another size than the last, goes unperturbed; the latter are counted.
    """

    def __init__(self, model: nn.Module, cell: Cell, seed: int) -> None:
        super().__init__(model, cell, seed)
        self._signs: Tensor | None = None
        self._trained: Tensor | None = None
        self._skipped = 0

    def start_epoch(self, epoch: int) -> None:
        self._signs = None

    def examples(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = super().examples(x, y)
        self._trained = x.detach().requires_grad_()
        return self._trained, y

    def perturbed(self, x: Tensor, y: Tensor) -> Tensor:
        if self._signs is None:
            return x
        if self._signs.shape != x.shape:
            self._skipped += 1
            return x
        return x + self.epsilon(x) * self._signs

    def after_backward(self) -> None:
        assert self._trained is not None and self._trained.grad is not None
        g = self._trained.grad
        self._signs = (g.chunk(2)[1] if self.mix else g).sign()

    @property
    def skipped(self) -> int:
        return self._skipped

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"signs": self._signs, "skipped": self._skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._signs = placed(state["signs"], self.device)
        self._skipped = state["skipped"]


class Noise(InputDefence):
    """The undirected control: eps times a random sign a pixel, with the law of eps that FGSM training has."""

    def perturbed(self, x: Tensor, y: Tensor) -> Tensor:
        signs = torch.randint(0, 2, x.shape, generator=self.own_generator(x), device=x.device).to(x.dtype) * 2 - 1
        return x + self.epsilon(x) * signs


class Pgd(InputDefence):
    """PGD training (Madry et al. 2018): 7 steps of |eps| / 4 from a random start in the ball, each projected on
    ball and box.
    """

    def perturbed(self, x: Tensor, y: Tensor) -> Tensor:
        eps = self.epsilon(x)
        eps = eps.abs() if isinstance(eps, Tensor) else abs(eps)
        return ascent(self.model, x, y, eps, summed_cross_entropy, self.own_generator(x))

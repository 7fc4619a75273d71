"""A small network on real digits, and linear ones whose nearest adversarial example is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

SETTINGS = Path(__file__).resolve().parents[2] / "config" / "attacks.yaml"


@dataclass(frozen=True)
class Digits:
    """A trained network, and images (n, 1, 8, 8) in [0, 1] that it was not trained on."""

    model: nn.Module
    x: Tensor
    y: Tensor


class Linear(nn.Module):
    """Two scores, 0 and <w, x> + b: class 1 on the positive side. The margin of x is |<w, x> + b|."""

    def __init__(self, w: Tensor, b: Tensor | float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())
        self.b = nn.Parameter(torch.as_tensor(b, dtype=w.dtype))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(score), score], 1)

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


def linear_classes(seed: int, n: int, side: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    """Ten linear scores of grey images (n, 1, side, side) around 0.5, and the class each image has; float32."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 10))
    with torch.no_grad():
        model[1].weight.copy_(30 * torch.randn(10, side * side, generator=generator))  # one rival dominates the softmax
        model[1].bias.copy_(-0.5 * model[1].weight.sum(1))
        x = 0.5 + 0.6 * (torch.rand(n, 1, side, side, generator=generator) - 0.5)
        y = model(x).argmax(1)
    return model, x, y


def distances_of(model: nn.Module, x: Tensor, y: Tensor, dual: int) -> Tensor:
    """Distance of each image of `linear_classes` to the nearest other class: the least |margin| over the dual norm."""
    with torch.no_grad():
        scores, w = model(x), model[1].weight
        margins = scores.gather(1, y[:, None]) - scores
        lengths = (w[y][:, None] - w[None]).norm(p=dual, dim=2)
        return torch.where(lengths > 0, margins / lengths, torch.inf).amin(1)

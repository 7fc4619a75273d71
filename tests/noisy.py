"""A layer that makes any network random, for the tests of attacks and of the audit."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Noisy(nn.Module):
    """Gaussian noise on the images, when the network is tested too."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.deviation * torch.randn_like(x)

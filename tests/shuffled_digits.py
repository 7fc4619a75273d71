"""scikit-learn's digits for tests that train a network of their own on them."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def shuffled_digits() -> tuple[Tensor, Tensor]:
    """All 1,797 images (n, 1, 8, 8) in [0, 1] and their labels, in one random order."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


def dense(width: int) -> nn.Sequential:
    """A 64-width-width-10 network, from torch's global generator."""
    hidden = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))

"""Fully connected networks: the paper's 4FC in both readings of its layer count."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers with a ReLU between them; logits of shape (n, classes) for images (n, C, H, W).

    The layers are named fc<first>, fc<first + 1>, … and the activation after fc<i> is relu<i>, so that the name of a
    perturbable site is the paper's number of the layer.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, *, layers: int, first: int) -> None:
        super().__init__()
        sizes = [prod(shape), *[width] * (layers - 1), classes]
        self.flatten = nn.Flatten()
        last = first + layers - 1
        for number, (inside, outside) in enumerate(pairwise(sizes), start=first):
            self.add_module(f"fc{number}", nn.Linear(inside, outside))
            if number != last:
                self.add_module(f"relu{number}", nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def four_layers(shape: tuple[int, ...], classes: int, width: int) -> MLP:
    """4FC with four weight layers fc1 … fc4, fc1 being the input layer and fc4 the output layer (the default
    reading).
    """
    return MLP(shape, classes, width, layers=4, first=1)


def three_layers(shape: tuple[int, ...], classes: int, width: int) -> MLP:
    """4FC with the input counted as a layer: three weight layers fc2, fc3, fc4 (the alternative reading)."""
    return MLP(shape, classes, width, layers=3, first=2)

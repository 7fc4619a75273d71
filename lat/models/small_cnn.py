"""3Conv2FC: three convolutions and two fully connected layers, in the ways to shrink an image that the paper leaves
open.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import Tensor, nn

from lat.models.error import ModelError

KERNEL = 3
CONVOLUTIONS = 3


class SmallCNN(nn.Module):
    """conv1 … conv3 and fc1, each followed by a ReLU, and the output layer fc2; logits (n, classes) for images
    (n, C, H, W).

    The convolutions have width, 2 width and 4 width filters of 3×3 with a padding of 1, fc1 has 8 width units. Each
    convolution halves the image by its `stride` of 2, by the 2×2 window of the `pooling` behind it, or not at all
    (stride 1, no pooling). A stride rounds odd sizes up, a pool down. Weights start as PyTorch draws them, as those of
    4FC do.

    Raises ModelError for images that are too small to be pooled three times.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        width: int,
        *,
        stride: int = 1,
        pooling: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        channels, *size = shape
        if pooling is not None and min(size) < 2**CONVOLUTIONS:
            raise ModelError(
                f"shape: images of {size[0]} × {size[1]} cannot be halved {CONVOLUTIONS} times; give images of at "
                f"least {2**CONVOLUTIONS} × {2**CONVOLUTIONS}, or take a network without pooling"
            )
        for number in range(1, CONVOLUTIONS + 1):
            filters = width * 2 ** (number - 1)
            self.add_module(f"conv{number}", nn.Conv2d(channels, filters, KERNEL, stride, padding=KERNEL // 2))
            self.add_module(f"relu{number}", nn.ReLU())
            size = [-(-side // stride) for side in size]
            if pooling is not None:
                self.add_module(f"pool{number}", pooling(2))
                size = [side // 2 for side in size]
            channels = filters
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(channels * prod(size), 8 * width)
        self.relu4 = nn.ReLU()
        self.fc2 = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def max_pooled(shape: tuple[int, ...], classes: int, width: int) -> SmallCNN:
    """3Conv2FC with the maximum of 2×2 windows after each convolution (the default reading)."""
    return SmallCNN(shape, classes, width, pooling=nn.MaxPool2d)


def mean_pooled(shape: tuple[int, ...], classes: int, width: int) -> SmallCNN:
    """3Conv2FC with the mean of 2×2 windows after each convolution."""
    return SmallCNN(shape, classes, width, pooling=nn.AvgPool2d)


def strided(shape: tuple[int, ...], classes: int, width: int) -> SmallCNN:
    """3Conv2FC with a stride of 2 in each convolution, and no pooling."""
    return SmallCNN(shape, classes, width, stride=2)


def unpooled(shape: tuple[int, ...], classes: int, width: int) -> SmallCNN:
    """3Conv2FC with neither pooling nor strides: the image keeps its size up to fc1."""
    return SmallCNN(shape, classes, width)

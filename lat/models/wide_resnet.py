"""Wide residual networks, pre-activation, as Zagoruyko and Komodakis (2016) publish them, without dropout."""

from __future__ import annotations

from torch import Tensor, nn

STEM = 16
"""Filters of the first convolution; group k has STEM 2^(k-1) times the widening factor."""


class Block(nn.Module):
    """BatchNorm, ReLU, conv1, BatchNorm, ReLU, conv2, added to the block's input (n, inside, H, W).

    Where the number of channels changes, the 1×1 convolution `shortcut` takes the first ReLU's output to the sum in
    place of the block's input.
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.relu1 = nn.ReLU()
        self.conv1 = convolution(inside, outside, 3, stride)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu2 = nn.ReLU()
        self.conv2 = convolution(outside, outside, 3)
        self.shortcut = convolution(inside, outside, 1, stride) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(x))
        y = self.conv2(self.relu2(self.bn2(self.conv1(h))))
        return y + (x if self.shortcut is None else self.shortcut(h))


class WideResNet(nn.Module):
    """conv1, three groups of (depth - 4) / 6 blocks, BatchNorm, ReLU, the mean over the image, and the classifier fc1;
    logits (n, classes) for images (n, C, H, W).

    A block is `group<1 to 3>.block<from 0>`; its convolutions are conv1, conv2 and, where there is one, shortcut.
    Groups 2 and 3 halve the image, rounding up. `width` is the widening factor: 10 in the paper. Weights start as in
    the authors' code: convolutions, which have no bias, as N(0, 2 / fan-out), and the classifier without bias.

    Raises ValueError for a depth that is not 6 n + 4.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, *, depth: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth: {depth} is not 6 n + 4 for n blocks a group; use 10, 16, 22, 28, …")
        channels, height, across = shape
        self.conv1 = convolution(channels, STEM, 3)
        channels = STEM
        for group in (1, 2, 3):
            filters = STEM * width * 2 ** (group - 1)
            members = nn.Sequential()
            for place in range(blocks):
                members.add_module(f"block{place}", Block(channels, filters, 2 if group > 1 and place == 0 else 1))
                channels = filters
            self.add_module(f"group{group}", members)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        # The mean of the whole image; AdaptiveAvgPool2d(1) has no deterministic gradient on a GPU.
        self.pool = nn.AvgPool2d((-(-height // 4), -(-across // 4)))
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(channels, classes)
        nn.init.zeros_(self.fc1.bias)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def convolution(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size of the image at stride 1, its weights drawn from
    N(0, 2 / fan-out), where fan-out counts the filters and their places.
    """
    conv = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def wrn28(shape: tuple[int, ...], classes: int, width: int) -> WideResNet:
    """WRN-28-<width>; WRN-28-10 has 36.5 million weights for CIFAR-100."""
    return WideResNet(shape, classes, width, depth=28)


def wrn10(shape: tuple[int, ...], classes: int, width: int) -> WideResNet:
    """WRN-10-<width>: the same with one block a group."""
    return WideResNet(shape, classes, width, depth=10)

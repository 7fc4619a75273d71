"""VGG16 with BatchNorm for small images: thirteen convolutions and one linear classifier."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""The filters of each convolution, in widths; a pooling follows each stage."""


class VGG16(nn.Module):
    """conv1 … conv13, each followed by BatchNorm and a ReLU, with 2×2 max pooling after the 2nd, 4th, 7th, 10th and
    13th, and the classifier fc1; logits (n, classes) for images (n, C, H, W).

    The convolutions have width to 8 width filters of 3×3 with a padding of 1; width 64 is the full network, with 14.7
    million weights for CIFAR-10. They have no bias: BatchNorm subtracts the mean, and with it every constant that is
    added before it, and has a shift of its own. Pooling rounds up, so that images under 32×32 pass all five stages.
    The paper is silent on initial weights: convolutions start as N(0, 2 / fan-out), as in `wide_resnet`, and the
    classifier without bias.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        channels, *size = shape
        number = 0
        for place, stage in enumerate(STAGES, start=1):
            for widths in stage:
                number += 1
                conv = nn.Conv2d(channels, widths * width, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                self.add_module(f"conv{number}", conv)
                self.add_module(f"bn{number}", nn.BatchNorm2d(conv.out_channels))
                self.add_module(f"relu{number}", nn.ReLU())
                channels = conv.out_channels
            self.add_module(f"pool{place}", nn.MaxPool2d(2, ceil_mode=True))
            size = [-(-side // 2) for side in size]
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(channels * prod(size), classes)
        nn.init.zeros_(self.fc1.bias)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x

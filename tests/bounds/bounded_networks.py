"""Networks of every supported kind, and what their units really do: the oracle that bounds are held against."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lat import bounds

SIZE = (2, 8, 8)


class Block(nn.Module):
    """A residual block whose shortcut is a convolution, with BatchNorm, pooling and a second addition."""

    def __init__(self, channels: int, functions: bool) -> None:
        super().__init__()
        self.functions = functions
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels, channels, 1, bias=False)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.functions:
            return functional.relu(torch.add(h, self.shortcut(x))) + x
        h += self.shortcut(x)
        return self.relu2(h) + x


class Mixed(nn.Module):
    """Convolutions, both poolings, both kinds of block, functions and methods, and fully connected layers."""

    def __init__(self, kinds: Iterable[str] = ("block", "max", "functions", "average")) -> None:
        super().__init__()
        self.first = nn.Conv2d(SIZE[0], 3, 3, padding=1)
        self.kinds = list(kinds)
        stages: dict[str, Callable[[], nn.Module]] = {
            "block": lambda: Block(3, functions=False),
            "functions": lambda: Block(3, functions=True),
            "max": lambda: nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
            "average": lambda: nn.AvgPool2d(3, stride=2, padding=1),
            "bn": lambda: nn.BatchNorm2d(3),
            "relu": lambda: nn.ReLU(),
            "conv": lambda: nn.Conv2d(3, 3, 2, padding=1, stride=1),
        }
        self.stages = nn.ModuleList(stages[kind]() for kind in self.kinds)
        self.adaptive = nn.AdaptiveAvgPool2d(2)
        self.drop, self.same = nn.Dropout(0.5), nn.Identity()
        self.hidden, self.bn, self.out = nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        for stage in self.stages:
            x = stage(x)
        x = self.same(self.drop(self.adaptive(x))).flatten(1)
        return self.out(torch.relu(self.bn(self.hidden(x))))


def settled(model: nn.Module, seed: int, positive: bool = False) -> nn.Module:
    """The model in float64 and eval mode, with weights, biases and BatchNorm's statistics drawn from `seed`.

    positive: small whole weights >= 0 and positive biases, gammas and betas, running means <= 0, so that every unit
    rises with every input and no ReLU is off.
    """
    draws = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if "running_var" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=draws, dtype=tensor.dtype) + 0.25)
            elif positive and "running_mean" in name:
                tensor.copy_(-torch.rand(tensor.shape, generator=draws, dtype=tensor.dtype))
            elif positive and tensor.dim() > 1:
                tensor.copy_(torch.randint(0, 4, tensor.shape, generator=draws))
            elif positive:
                tensor.copy_(torch.rand(tensor.shape, generator=draws, dtype=tensor.dtype) + 0.5)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=draws, dtype=tensor.dtype))
    return model


def random_network(seed: int) -> nn.Module:
    """Up to four stages in a random order, with weights of both signs."""
    draws = random.Random(seed)
    kinds = [draws.choice(["block", "functions", "max", "average", "bn", "relu", "conv"]) for _ in range(4)]
    return settled(Mixed(kinds[: draws.randint(0, 4)]), seed)


def outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What the forward pass really gives at each of the model's modules, and at "", its own output."""
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, y, name=name: found.update({name: y.detach().clone()}))
        for name, module in model.named_modules()
    ]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def points(x: Tensor, eps: float, count: int, seed: int) -> list[Tensor]:
    """Points of the ball around x: all up, all down, random corners, random points inside."""
    draws = torch.Generator().manual_seed(seed)
    corners = [torch.randint(0, 2, x.shape, generator=draws).to(x.dtype) * 2 - 1 for _ in range(count)]
    inside = [torch.rand(x.shape, generator=draws, dtype=x.dtype) * 2 - 1 for _ in range(count)]
    return [x + eps * way for way in [torch.ones_like(x), -torch.ones_like(x), *corners, *inside]]


def beyond(value: Tensor, bound: Tensor) -> bool:
    """Whether a value is above its bound by more than rounding, or either is no number."""
    return not bool((value <= bound + 1e-9 * (1 + bound.abs())).all())


def broken_radii(model: nn.Module, x: Tensor, eps: float, moved: Iterable[Tensor]) -> list[str]:
    """The sites at which a unit moves further than its radius, for x (n, *size) moved to points of its ball."""
    radius, before = bounds.radii(model, x.shape[1:], eps), outputs(model, x)
    return [
        site
        for point in moved
        for site, after in outputs(model, point).items()
        if site in radius and beyond((after - before[site]).abs(), radius[site].expand_as(after))
    ]


def broken_intervals(model: nn.Module, x: Tensor, eps: float, moved: Iterable[Tensor]) -> list[str]:
    """The sites at which a unit leaves its interval, for points of the ball around x (n, *size)."""
    found = bounds.intervals(model, x - eps, x + eps)
    return [
        site
        for point in moved
        for site, after in outputs(model, point).items()
        if site in found and (beyond(found[site][0], after) or beyond(after, found[site][1]))
    ]

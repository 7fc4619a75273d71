"""Two narrow deep networks, and the same as dense matrices and plain loops: what R has to be in every scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import product

import torch
from plain_network import taps
from torch import Tensor, nn

from lat.equations import Geometry

CLASSES = 3
N = 4
SHAPE = (2, 6, 6)


class Vgg(nn.Module):
    """Convolutions, BatchNorm, ReLU, both kinds of pooling, dropout and two fully connected layers in a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3), nn.ReLU()
        self.pool2, self.drop, self.flatten = nn.AvgPool2d(2, stride=1, padding=1), nn.Dropout(0.0), nn.Flatten()
        self.fc1, self.relu3, self.fc2 = nn.Linear(27, 4), nn.ReLU(), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


class Residual(nn.Module):
    """A pre-activation block with a strided 1 x 1 shortcut, functions and methods among the modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.bn1 = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
        self.conv1, self.bn2 = nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.BatchNorm2d(2, affine=False)
        self.conv2, self.shortcut = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.Conv2d(2, 2, 1, stride=2, bias=False)
        self.bn3, self.pool, self.fc = nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv0(x)))
        h = self.conv2(self.bn2(self.conv1(h)).relu()) + self.shortcut(h)
        return self.fc(self.pool(torch.relu(self.bn3(h)) + h).flatten(1))


def network(kind: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The network in float64 with gammas of both signs, from its own seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model


def batch(seed: int, n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, *SHAPE), generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (n,), generator=generator)


class Watched:
    """What one forward and backward pass shows: the inputs of every module, and dL/dy at its output before R."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def gradient(self, name: str) -> Tensor:
        found = self.outputs[name].grad
        assert found is not None
        return found


@contextmanager
def watching(model: nn.Module) -> Iterator[Watched]:
    seen = Watched()

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor], y: Tensor) -> None:
            seen.inputs[name] = inputs[0].detach().clone()
            if isinstance(module, nn.Linear | nn.Conv2d) and y.requires_grad:
                y.retain_grad()
                seen.outputs[name] = y

        return hook

    handles = [module.register_forward_hook(note(name), prepend=True) for name, module in model.named_children()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@cache
def numbers(
    kernel: tuple[int, ...], channels: int, filters: int, stride: tuple[int, ...], padding: tuple[int, ...],
    size: tuple[int, ...],
) -> Tensor:  # fmt: skip
    return taps(kernel, channels, filters, Geometry(stride, padding, (1,) * len(size)), size)


def windows(length: int, kernel: int, stride: int, padding: int) -> list[list[int]]:
    """The places on one axis that each window of a pool covers, those of the padding left out."""
    starts = range(-padding, length + padding - kernel + 1, stride)
    return [[place for place in range(start, start + kernel) if 0 <= place < length] for start in starts]


class ByHand:
    """Carries values (m, *shape) through a network: by absolute weights, or by the weights with their sign.

    `starts` puts a value at the input of a layer, in the place of what has come there; `seen` is the pass whose batch
    statistics and maxima count. `found` holds what comes out of each layer.
    """

    def __init__(self, model: nn.Module, seen: Watched, starts: Mapping[str, Tensor], *, signed: bool) -> None:
        self.model, self.seen, self.starts, self.signed = model, seen, starts, signed
        self.found: dict[str, Tensor] = {}

    def layer(self, name: str, v: Tensor) -> Tensor:
        module = self.model.get_submodule(name)
        v = self.starts.get(name, v)
        w = module.weight
        if isinstance(module, nn.Linear):
            outputs: tuple[int, ...] = (module.out_features,)
        else:
            at = (module.kernel_size, module.in_channels, module.out_channels, module.stride, module.padding)
            w = torch.cat([w.new_zeros(1), w.flatten()])[numbers(*at, tuple(v.shape[2:]))]
            axes = zip(v.shape[2:], module.kernel_size, module.stride, module.padding, strict=True)
            outputs = (module.out_channels, *((whole + 2 * p - k) // s + 1 for whole, k, s, p in axes))
        w = w if self.signed else w.abs()
        self.found[name] = (v.flatten(1) @ w.T).view(len(v), *outputs)
        return self.found[name]

    def norm(self, name: str, v: Tensor) -> Tensor:
        module = self.model.get_submodule(name)
        x = self.seen.inputs[name]
        scales = []
        for channel in range(x.shape[1]):
            values = x[:, channel].flatten()
            mean = values.sum() / len(values)
            variance = ((values - mean) ** 2).sum() / len(values)
            if not module.training:
                variance = module.running_var[channel]
            gamma = module.weight[channel] if module.affine else 1.0
            scales.append(gamma / (variance + module.eps) ** 0.5)
        scale = torch.stack([torch.as_tensor(s) for s in scales])
        return v * (scale if self.signed else scale.abs()).view(1, -1, 1, 1)

    def maximum(self, name: str, v: Tensor) -> Tensor:
        pool, x = self.model.get_submodule(name), self.seen.inputs[name]
        rows, columns = (windows(length, pool.kernel_size, pool.stride, pool.padding) for length in x.shape[2:])
        n = len(x) if self.signed else len(v)
        out = torch.empty(n, v.shape[1], len(rows), len(columns), dtype=v.dtype)
        for s, c, i, j in product(range(n), range(v.shape[1]), range(len(rows)), range(len(columns))):
            places = [(a, b) for a in rows[i] for b in columns[j]]
            row = v[s % len(v), c]
            if self.signed:
                out[s, c, i, j] = row[max(places, key=lambda place: x[s, c][place].item())]
            else:
                out[s, c, i, j] = max(row[place] for place in places)
        return out

    def mean(self, v: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        rows, columns = (windows(length, kernel, stride, padding) for length in v.shape[2:])
        out = [[sum(v[:, :, a, b] for a in r for b in c) / kernel**2 for c in columns] for r in rows]
        return torch.stack([torch.stack(row, dim=-1) for row in out], dim=-2)  # type: ignore[arg-type]

    def carried(self, v: Tensor) -> dict[str, Tensor]:
        """What comes out of each layer for v (m, 2, 6, 6) at the network's input."""
        if isinstance(self.model, Vgg):
            v = self.maximum("pool1", self.norm("bn1", self.layer("conv1", v)))
            v = self.mean(self.norm("bn2", self.layer("conv2", v)), 2, 1, 1)
            self.layer("fc2", self.layer("fc1", v.flatten(1)))
        else:
            v = self.norm("bn1", self.layer("conv0", v))
            v = self.layer("conv2", self.norm("bn2", self.layer("conv1", v))) + self.layer("shortcut", v)
            v = self.norm("bn3", v) + v
            self.layer("fc", self.halves(v).flatten(1))
        return self.found

    @staticmethod
    def halves(v: Tensor) -> Tensor:
        """The mean over windows of two of three places, which overlap in the middle: adaptive pooling from 3 to 2."""
        parts = [slice(0, 2), slice(1, 3)]
        return torch.stack([torch.stack([v[:, :, a, b].mean((2, 3)) for b in parts], dim=-1) for a in parts], dim=-2)


def added(model: nn.Module, R: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and parameter gradients of a copy of the model with R on its layers' outputs; R may depend on its weights
    where `R` is made of the copy's own.
    """
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, r=r: out + r) for name, r in R.items()
    ]
    logits = model(x)
    for handle in handles:
        handle.remove()
    loss = nn.functional.cross_entropy(logits, y)
    found = torch.autograd.grad(loss, list(model.parameters()))
    return logits.detach(), dict(zip((name for name, _ in model.named_parameters()), found, strict=True))

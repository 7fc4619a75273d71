"""The independent model of the method: a network, its gradients and R written out by hand, without lat.sites and
lat.perturbation; and convolutions as the matrices that they are, window by window.

Everything is in float64 and small, so that a sum over units may be a Python loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat.cells import Cell, Law, Reading, Schedule
from lat.equations import Geometry
from lat.models import MLP

SHAPE = (1, 2, 3)
CLASSES = 3
LAYERS = ("fc1", "fc2", "fc3", "fc4")


def network(seed: int = 0, width: int = 5, dtype: torch.dtype = torch.float64) -> MLP:
    """Four weight layers fc1 … fc4, 6-5-5-5-3, from its own seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(SHAPE, CLASSES, width, layers=4, first=1).to(dtype)


def batch(seed: int, n: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 2, 3) in [0, 1] and labels (n)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, *SHAPE), generator=generator, dtype=dtype)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: model.get_submodule(name).weight.detach().clone() for name in LAYERS}


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass: logits and loss, dL/dy at the output and at the activation of every layer."""

    logits: Tensor
    loss: Tensor
    at_output: Mapping[str, np.ndarray]
    at_activation: Mapping[str, np.ndarray]
    inputs: Tensor


def run(model: nn.Module, x: Tensor, y: Tensor, added: Mapping[str, Tensor] | None = None) -> Pass:
    """The network of `model`'s parameters, layer by layer, with `added` put on the named layers' outputs."""
    x = x.detach().clone().requires_grad_()
    h = x.flatten(1)
    outputs, activations = {}, {}
    for name in LAYERS:
        module = model.get_submodule(name)
        z = h @ module.weight.detach().T + module.bias.detach()
        if added and name in added:
            z = z + added[name]
        outputs[name] = z
        h = z if name == LAYERS[-1] else z.clamp(min=0)
        activations[name] = h
    loss = cross_entropy(h, y)
    wanted = [*outputs.values(), *activations.values(), x]
    found = torch.autograd.grad(loss, wanted)
    count = len(LAYERS)
    return Pass(
        h.detach(),
        loss.detach(),
        {name: g.numpy() for name, g in zip(LAYERS, found[:count], strict=True)},
        {name: g.numpy() for name, g in zip(LAYERS, found[count : 2 * count], strict=True)},
        found[-1],
    )


class Epsilons:
    """The draws of epsilon that one adversary makes, from an equal generator: one array that fits (n, *units) each."""

    def __init__(self, law: Law, seed: int) -> None:
        self.law = law
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, n: int, *units: int) -> np.ndarray:
        ones = (1,) * len(units)
        if self.law.kind == "fixed":
            return np.full((1, *ones), self.law.radius)
        size = {"batch": (1, *ones), "sample": (n, *ones), "element": (n, *units)}[self.law.draw]
        eps = self.law.radius * torch.randn(size, generator=self.generator, dtype=torch.float64).numpy()
        return np.abs(eps) if self.law.kind == "abs_normal" else eps


@dataclass(frozen=True)
class Step:
    """What R is made of, one layer: signs and epsilons broadcast to (n, units), as the update leaves them."""

    path: tuple[str, ...]
    scaled_signs: np.ndarray


def steps(reading: Reading, layers: Sequence[str], epsilons: Epsilons, seen: Pass, w: Mapping[str, Tensor]) -> dict:
    """For each layer its path of weights and eps · sign, from the gradients of one pass, unit by unit."""
    found = {}
    shared: np.ndarray | None = None
    for name in layers:
        first = {"local": name, "layer_set": min(layers), "network": LAYERS[0]}[reading.scope]
        path = LAYERS[LAYERS.index(first) : LAYERS.index(name) + 1]
        site = name if reading.form == "closed" else first
        g = (seen.at_output if reading.at == "output" else seen.at_activation)[site]
        n = len(g)
        if reading.pairing == "mean":
            g = np.array([sum(g[s] for s in range(n)) / n] * n)
        if reading.form == "propagated":
            matrix = w[first].numpy()
            out, inside = matrix.shape
            g = np.array([[sum(g[s, i] * matrix[i, j] for i in range(out)) for j in range(inside)] for s in range(n)])
        if reading.scope == "local" or epsilons.law.draw == "element" or shared is None:
            shared = epsilons.draw(n, g.shape[1])
        found[name] = Step(path, np.sign(g) * shared)
    return found


def formed(reading: Reading, step: Step, w: Mapping[str, Tensor]) -> np.ndarray:
    """R (n, out) of one layer from its eps · sign and the weights `w`, as eqs. (6) and (7) sum it."""
    n = len(step.scaled_signs)
    if reading.form == "closed":
        radius = [1.0] * w[step.path[0]].shape[1]
        for name in step.path:
            radius = [sum(abs(float(v)) * q for v, q in zip(row, radius, strict=True)) for row in w[name]]
        return np.array([[radius[i] * step.scaled_signs[s, i] for i in range(len(radius))] for s in range(n)])
    rows = step.scaled_signs
    for name in step.path:
        rows = np.array([[sum(float(v) * q for v, q in zip(row, r, strict=True)) for row in w[name]] for r in rows])
    return rows


def moved(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], size: Sequence[int]
) -> tuple[int, ...]:
    """How many windows of the kernel fit on each axis of an input of `size`, counted one by one."""
    axes = zip(kernel, stride, padding, dilation, size, strict=True)
    return tuple(len(range(0, whole + 2 * p - d * (k - 1), s)) for k, s, p, d, whole in axes)


def taps(kernel: Sequence[int], channels: int, filters: int, at: Geometry, size: Sequence[int]) -> Tensor:
    """The matrix (outputs, inputs) of a convolution with the number of a weight in each entry, from 1; 0 for none.

    Found by feeding the unit vectors of the inputs (channels, *size) through the windows, one window after the other.
    """
    shape = (filters, channels // at.groups, *kernel)
    w = np.arange(1, prod(shape) + 1).reshape(shape)
    units = np.eye(channels * prod(size), dtype=np.int64).reshape(-1, channels, *size)
    padded = np.pad(units, [(0, 0), (0, 0), *[(p, p) for p in at.padding]])
    windows = moved(kernel, at.stride, at.padding, at.dilation, size)
    out = np.zeros((len(units), filters, *windows), dtype=np.int64)
    for f, c, place, k in product(range(filters), range(shape[1]), np.ndindex(windows), np.ndindex(*kernel)):
        channel = f // (filters // at.groups) * shape[1] + c
        seen = tuple(p * s + j * d for p, s, j, d in zip(place, at.stride, k, at.dilation, strict=True))
        out[(slice(None), f, *place)] += w[(f, c, *k)] * padded[(slice(None), channel, *seen)]
    return torch.from_numpy(out.reshape(len(units), -1).T.copy())


def dense(w: Tensor, at: Geometry, size: Sequence[int]) -> Tensor:
    """The matrix (outputs, inputs) of a convolution on inputs of `size`, differentiable by w."""
    numbers = taps(w.shape[2:], w.shape[1] * at.groups, w.shape[0], at, size)
    return torch.cat([w.new_zeros(1), w.flatten()])[numbers]


def lengthened(kernel: Sequence[int], at: Geometry, size: Sequence[int]) -> tuple[int, ...]:
    """The size to which a transposed convolution spreads inputs of `size`: the last tap of the last input is its last
    place but for the padding, which is cut off on both sides, and the output padding, which is put behind it.
    """
    extra = at.output_padding or (0,) * len(size)
    axes = zip(kernel, at.stride, at.padding, at.dilation, size, extra, strict=True)
    return tuple(s * (whole - 1) + d * (k - 1) + 1 - 2 * p + more for k, s, p, d, whole, more in axes)


def transposed_taps(kernel: Sequence[int], channels: int, filters: int, at: Geometry, size: Sequence[int]) -> Tensor:
    """The matrix (outputs, inputs) of a transposed convolution with the number of a weight in each entry, from 1; 0 for
    none. Found by spreading every input over the outputs, one tap of the kernel after the other.
    """
    outputs = lengthened(kernel, at, size)
    shape = (channels, filters // at.groups, *kernel)
    w = np.arange(1, prod(shape) + 1).reshape(shape)
    out = np.zeros((filters, *outputs, channels, *size), dtype=np.int64)
    for c, f, place, k in product(range(channels), range(shape[1]), np.ndindex(*size), np.ndindex(*kernel)):
        seen = tuple(
            i * s + j * d - p for i, s, j, d, p in zip(place, at.stride, k, at.dilation, at.padding, strict=True)
        )
        if all(0 <= i < whole for i, whole in zip(seen, outputs, strict=True)):
            out[(c // (channels // at.groups) * shape[1] + f, *seen, c, *place)] = w[(c, f, *k)]
    return torch.from_numpy(out.reshape(filters * prod(outputs), -1))


def transposed_dense(w: Tensor, at: Geometry, size: Sequence[int]) -> Tensor:
    """The matrix (outputs, inputs) of a transposed convolution on inputs of `size`, differentiable by w."""
    numbers = transposed_taps(w.shape[2:], w.shape[0], w.shape[1] * at.groups, at, size)
    return torch.cat([w.new_zeros(1), w.flatten()])[numbers]


def cell(
    method: str = "layerwise",
    layers: tuple[str, ...] = (),
    law: Law | None = None,
    reading: Reading | None = None,
    input_law: Law | None = None,
    *,
    mix: bool = False,
    epochs: int = 2,
    lr: float = 0.1,
) -> Cell:
    """A cell on the small images: width 5, batches of 8; layer-wise with the tables' default reading unless given."""
    parts = method.split("+")
    if "layerwise" in parts:
        layers, law, reading = layers or ("fc2", "fc4"), law or Law("normal", 0.1), reading or Reading()
    if set(parts) - {"standard", "layerwise"}:
        input_law = input_law or Law("fixed" if method == "interval_bound" else "normal", 0.1)
    plan = Schedule(epochs, batch=8, lr=lr)
    return Cell("small", "4fc", 5, method, layers, law, reading, input_law, mix, plan)

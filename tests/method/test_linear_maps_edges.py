"""`lat.linear_maps` beyond what the adversary asks of it: stacks of convolutions, and gradients that are no signs."""

from __future__ import annotations

import torch
from plain_network import dense
from torch import Tensor, nn

from lat.equations import Geometry
from lat.linear_maps import Convolved, linear_map

SIZES = ((5, 4), (5, 4), (2, 3))
"""The spatial axes before, between and after the two convolutions."""


def two_convolutions() -> list[nn.Conv2d]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return [
            nn.Conv2d(1, 2, 3, padding=1, bias=False).double(),
            nn.Conv2d(2, 2, 2, stride=(2, 1), bias=False).double(),
        ]


def matrices(modules: list[nn.Conv2d]) -> list[Tensor]:
    return [
        dense(module.weight.detach(), Geometry.of(module), size) for module, size in zip(modules, SIZES, strict=False)
    ]


def test_the_closed_r_of_two_convolutions_is_that_of_the_product_of_their_absolute_matrices() -> None:
    modules = two_convolutions()
    first, second = (matrix.abs() for matrix in matrices(modules))
    maps = [linear_map(module, (module.in_channels, *size)) for module, size in zip(modules, SIZES, strict=False)]
    assert all(isinstance(step, Convolved) for step in maps)
    expected = 0.5 * (second @ first).sum(1)
    found = 0.5 * maps[1].closed_radius(maps[0].closed_radius())
    assert torch.allclose(found.flatten(), expected, rtol=1e-12, atol=0)
    assert not torch.allclose(expected, 0.5 * second.sum(1), rtol=0.1)


def test_the_propagated_r_of_two_convolutions_is_that_of_the_product_of_their_matrices() -> None:
    modules = two_convolutions()
    first, second = matrices(modules)
    maps = [linear_map(module, (module.in_channels, *size)) for module, size in zip(modules, SIZES, strict=False)]
    r = torch.randn(3, 1, *SIZES[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = maps[1].change(maps[0].change(r))
    assert found.shape == (3, 2, *SIZES[-1])
    assert torch.allclose(found.flatten(1), r.flatten(1) @ (second @ first).T, rtol=1e-10, atol=1e-12)


def test_a_perturbation_passes_by_the_weights_or_by_their_absolute_values() -> None:
    w = torch.tensor([[1.0, -2.0], [0.5, 0.25], [3.0, 0.0]], dtype=torch.float64)
    fc = nn.Linear(2, 3, bias=False).double()
    conv, transposed = nn.Conv1d(2, 3, 1, bias=False).double(), nn.ConvTranspose1d(2, 3, 1, bias=False).double()
    with torch.no_grad():
        fc.weight.copy_(w)
        conv.weight.copy_(w[..., None])
        transposed.weight.copy_(w.T[..., None])
    r = torch.tensor([[1.0, 2.0], [-1.0, 1.0]], dtype=torch.float64)
    signed = torch.tensor([[-3.0, 1.0, 3.0], [-3.0, -0.25, -3.0]], dtype=torch.float64)
    absolute = torch.tensor([[5.0, 1.0, 3.0], [1.0, -0.25, -3.0]], dtype=torch.float64)
    for module, rows in ((fc, r), (conv, r[..., None]), (transposed, r[..., None])):
        step = linear_map(module, tuple(rows.shape[1:]))
        assert torch.equal(step.change(rows).flatten(1), signed)
        assert torch.equal(step.absolute_change(rows).flatten(1), absolute)

"""Radii through the paper's convolutional networks: attained where nothing cancels, and never exceeded.

Networks are in float64 and eval mode, with BatchNorm's scales, shifts and statistics drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from bounded_networks import broken_radii, outputs, points, settled
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat import bounds
from lat.models import MODELS, build

CIFAR = (3, 32, 32)
EPS = 0.1
NARROW = [("vgg16", 2), ("wrn10", 1), ("3conv2fc", 2)]
FULL = [("vgg16", 10, 64), ("wrn28", 100, 10)]


def trained_like(name: str, classes: int, width: int, seed: int = 0) -> nn.Module:
    """The network as it starts, but for what belongs to BatchNorm: scales and shifts of both signs, a mean and a
    variance far from 0 and 1.
    """
    model = build(name, CIFAR, classes, width, seed).double().eval().requires_grad_(False)
    draws = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            values = torch.randn(3, module.num_features, generator=draws, dtype=torch.float64)
            module.weight.copy_(values[0]), module.bias.copy_(values[1]), module.running_mean.copy_(values[2])
            module.running_var.copy_(torch.rand(module.num_features, generator=draws, dtype=torch.float64) + 0.25)
    return model


def images(count: int) -> Tensor:
    return torch.rand(count, *CIFAR, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def fgsm(model: nn.Module, x: Tensor, labels: int) -> Iterator[Tensor]:
    """Away from each label in turn: x + EPS sign(dL/dx), the corner of the ball that FGSM takes, for all x (n, …)."""
    x = x.clone().requires_grad_()
    logits = model(x)
    for label in range(labels):
        loss = cross_entropy(logits, torch.full((len(x),), label))
        (g,) = torch.autograd.grad(loss, x, retain_graph=True)
        yield (x + EPS * g.sign()).detach()


@pytest.mark.parametrize(("name", "width"), [(name, 1) for name in MODELS if not name.startswith("4fc")])
def test_radii_are_attained_at_every_site_of_a_non_negative_network(name: str, width: int) -> None:
    """At the corner of the ball where all inputs rise. All inputs are large and equal, so that the unit of a window
    that is largest is the one that moves most.
    """
    model = settled(build(name, CIFAR, 10, width, seed=0), 1, positive=True)
    x = torch.full((1, *CIFAR), 2.0**16, dtype=torch.float64)
    radius, before, after = bounds.radii(model, CIFAR), outputs(model, x), outputs(model, x + 1)
    assert set(radius) == {site for site in before if site == "" or not list(model.get_submodule(site).children())}
    for site, value in radius.items():
        torch.testing.assert_close(after[site][0] - before[site][0], value, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "width"), NARROW)
def test_a_thousand_random_and_fgsm_perturbations_move_no_unit_beyond_its_radius(name: str, width: int) -> None:
    model, x = trained_like(name, 10, width), images(50)
    moved = [*points(x, EPS, 5, 0), *fgsm(model, x, 8)]
    assert len(moved) * len(x) == 1000
    assert broken_radii(model, x, EPS, moved) == []


@pytest.mark.parametrize(("name", "classes", "width"), FULL)
def test_twenty_perturbations_move_no_unit_of_a_full_network_beyond_its_radius(
    name: str, classes: int, width: int
) -> None:
    model, x = trained_like(name, classes, width), images(1)
    moved = [*points(x, EPS, 7, 0), *fgsm(model, x, 4)]
    assert len(moved) == 20
    assert broken_radii(model, x, EPS, moved) == []


@pytest.mark.parametrize(("name", "width"), NARROW)
def test_one_convolution_s_radius_is_reached_at_the_corner_of_its_unit(name: str, width: int) -> None:
    """The perturbations above stay far inside at deep sites; at the first site a corner reaches the radius."""
    model, x = trained_like(name, 10, width), images(1)
    x.requires_grad_()
    y = model.conv1(x)
    place = (0, 1, 3, 4)
    (slope,) = torch.autograd.grad(y[place], x)
    moved = x + EPS * slope.sign()
    radius = bounds.radii(model, CIFAR, EPS)["conv1"][place[1:]]
    torch.testing.assert_close((model.conv1(moved)[place] - y[place]).detach(), radius)
    assert "conv1" in broken_radii(model, x.detach(), 0.99 * EPS, [moved.detach()])

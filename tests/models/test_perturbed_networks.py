"""Algorithm 1 on the convolutional networks: R is put on the named layers' outputs and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lat import LayerwiseAdversary, Normal, layer_set
from lat.models import MODELS, build
from lat.models.layer_sets import LAYER_SETS
from lat.sites import PERTURBABLE

SHAPE, CLASSES, BATCH = (3, 16, 16), 5, 6
WIDTHS = {name: 1 if name.startswith("wrn28") else 2 for name in MODELS if not name.startswith("4fc")}
CASES = [(name, members) for name in WIDTHS for members in LAYER_SETS]


def step(model: nn.Module, adversary: LayerwiseAdversary, optimizer: torch.optim.Optimizer, at: int) -> None:
    """One step of Algorithm 1 as a user writes it."""
    x, y = batch(at)
    with adversary:
        loss = cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    adversary.update()
    optimizer.step()


def batch(at: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(at)
    x = torch.rand(BATCH, *SHAPE, generator=draws, dtype=torch.float64)
    return x, torch.randint(CLASSES, (BATCH,), generator=draws)


@contextmanager
def excess(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """By how much the output of each perturbable layer differs from what the layer itself makes of its input."""
    found: dict[str, Tensor] = {}

    def compare(name: str, module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        found[name] = (y - module.forward(*inputs)).detach()

    handles = [
        module.register_forward_hook(lambda m, inputs, y, name=name: compare(name, m, inputs, y))
        for name, module in model.named_modules()
        if isinstance(module, PERTURBABLE)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("name", "members"), CASES)
def test_two_steps_put_r_on_exactly_the_layers_of_the_set_and_leave_the_network_plain(name: str, members: str) -> None:
    model = build(name, SHAPE, CLASSES, WIDTHS[name], seed=0).double().train()
    layers = layer_set(model, [members])
    adversary = LayerwiseAdversary(model, layers, Normal(0, 0.1), seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    step(model, adversary, optimizer, 0)

    expected = adversary.perturbations
    with adversary, excess(model) as added:  # the hooks that compare come after those that perturb
        cross_entropy(model(batch(1)[0]), batch(1)[1])
    others = set(added) - set(layers)
    assert others, "a set leaves out a layer"
    assert not any(added[other].any() for other in others)
    for layer in layers:
        assert bool(expected[layer].any()), layer
        torch.testing.assert_close(added[layer], expected[layer], rtol=1e-9, atol=1e-9)

    with excess(model) as added:
        model(batch(2)[0])
    assert len(added) == len(layers) + len(others)
    assert not any(change.any() for change in added.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    step(model, adversary, optimizer, 1)
    assert adversary.skipped == 0
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


@pytest.mark.parametrize("name", WIDTHS)
def test_the_first_step_is_that_of_plain_training_and_the_second_is_not(name: str) -> None:
    """t = 0 of Algorithm 1 is unperturbed; from then on R changes what every layer learns."""
    seen = []
    for radius in (0.1, 0.0):
        model = build(name, SHAPE, CLASSES, WIDTHS[name], seed=0).double().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        adversary = LayerwiseAdversary(model, layer_set(model, ["all"]), Normal(0, radius))
        for at in range(2):
            step(model, adversary, optimizer, at)
            seen.append([weight.detach().clone() for weight in model.parameters()])
    first, second, plain_first, plain_second = seen
    assert all(torch.equal(one, other) for one, other in zip(first, plain_first, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(second, plain_second, strict=True))

"""Statistics re-estimated once a network is trained: whose mean they are, and that nothing else differs."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from plain_network import CLASSES, SHAPE, cell
from torch import Tensor, nn
from unfinished_training import STEPS, fit, on, planned
from unfinished_training import images as bytes_of

from lat import training
from lat.cells import Cell
from lat.memory import Batch

BATCH = 8


def images() -> Tensor:
    """The training images of `unfinished_training.fit`, as many as are trained on, in their own order."""
    return bytes_of(30, 0)[0][: STEPS * BATCH].float() / 255


def asked(statistics: str) -> Cell:
    layerwise = on("wrn10", cell("fgsm+layerwise"), ("group1.block0.conv2", "group2.block0.shortcut", "fc1"))
    return replace(planned(layerwise, augmentation="flip_crop"), width=1, statistics=statistics)


@pytest.fixture(scope="module")
def both() -> tuple[training.Training, training.Training]:
    return fit(asked("running")), fit(asked("reestimated"))


def norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def test_they_are_the_mean_over_the_batches_of_the_plain_network_in_the_images_own_order(
    both: tuple[training.Training, training.Training],
) -> None:
    model = both[1].model
    plain = copy.deepcopy(model).train()
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in norms(plain)}
    for name, module in norms(plain).items():
        module.register_forward_pre_hook(
            lambda _, given, name=name: seen[name].append((given[0].mean((0, 2, 3)), given[0].var((0, 2, 3))))
        )
    with torch.no_grad():
        for x in images().split(BATCH):
            plain(x)
    for name, module in norms(model).items():
        means, variances = (torch.stack(list(part)).mean(0) for part in zip(*seen[name], strict=True))
        torch.testing.assert_close(module.running_mean, means)
        torch.testing.assert_close(module.running_var, variances)
        assert int(module.num_batches_tracked or 0) == STEPS
        assert module.momentum == nn.BatchNorm2d(1).momentum


def test_nothing_differs_but_the_statistics_and_the_last_accuracy(
    both: tuple[training.Training, training.Training],
) -> None:
    running, reestimated = both
    for (name, p), q in zip(running.model.named_parameters(), reestimated.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    one, two = norms(running.model), norms(reestimated.model)
    assert all(not torch.allclose(one[name].running_mean, two[name].running_mean) for name in one)  # type: ignore[arg-type]
    assert [epoch.loss for epoch in running.epochs] == [epoch.loss for epoch in reestimated.epochs]
    assert running.epochs[:-1] == reestimated.epochs[:-1]
    assert reestimated.model.training


def test_the_last_accuracy_is_that_of_the_statistics_that_serve() -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.rand(40, *SHAPE, generator=draws), torch.randint(CLASSES, (40,), generator=draws)
    done = training.fit(asked("reestimated"), 0, (x, y), (x, y), CLASSES)
    assert done.epochs[-1].clean_accuracy == training.accuracy(done.model, x, y, Batch(40))
    running = training.fit(asked("running"), 0, (x, y), (x, y), CLASSES)
    assert running.epochs[-1].clean_accuracy != done.epochs[-1].clean_accuracy

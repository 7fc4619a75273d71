"""Interval-bound training: its loss, its ramp, what it refuses, and that it makes predictions certifiable."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from plain_network import LAYERS, batch, cell, network
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from unfinished_training import fit, more_networks, on

from lat import Law, defences, training
from lat.bounds import certified, networks
from lat.cells import Cell, CellError, Schedule
from lat.defences.interval_bound import KAPPA, RAMP, WARM_UP, IntervalBound

__all__ = ["more_networks"]

CONTROL = cell("interval_bound", input_law=Law("fixed", 0.1), epochs=60)


def at(asked: Cell, epoch: int, step: int, in_epoch: int = 3, model: nn.Module | None = None) -> IntervalBound:
    """The method as it stands before a step (counted from 0) of an epoch of so many."""
    defence = IntervalBound(model or network(), asked, 0)
    for running in range(epoch + 1):
        defence.start_epoch(running)
        for _ in range(in_epoch if running < epoch else step):
            defence.after_backward()
    return defence


def worst_loss(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
    """The cross entropy of the worst scores over ball and box, image by image and unit by unit."""
    found = []
    for image, label in zip(x.flatten(1), y.tolist(), strict=True):
        low, high = (image - eps).clip(0, 1), (image + eps).clip(0, 1)
        for name in LAYERS[:-1]:
            module = model.get_submodule(name)
            w, up = module.weight, module.weight > 0
            low, high = (
                (torch.where(up, w * low, w * high).sum(1) + module.bias).clip(0),
                (torch.where(up, w * high, w * low).sum(1) + module.bias).clip(0),
            )
        last = model.get_submodule(LAYERS[-1])
        rows, shifts = last.weight - last.weight[label], last.bias - last.bias[label]
        worst = torch.where(rows > 0, rows * high, rows * low).sum(1) + shifts
        found.append(worst.exp().sum().log() - worst[label])
    return torch.stack(found).mean().item()


# The loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (1, 2), (2, 0), (30, 1), (59, 2)])
def test_at_radius_0_the_loss_is_the_standard_one(epoch: int, step: int) -> None:
    model, (x, y) = network(), batch(0, 8)
    defence = at(replace(CONTROL, input_law=Law("fixed", 0.0)), epoch, step, model=model)
    assert torch.allclose(defence.loss(x, y), cross_entropy(model(x), y), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("epoch", "step", "part"), [(1, 2, 0.0), (3, 0, 0.1), (6, 1, 13 / 30), (12, 0, 1), (50, 2, 1)])
def test_the_loss_weighs_the_plain_scores_with_kappa_and_the_worst_ones_with_the_rest(
    epoch: int, step: int, part: float
) -> None:
    model, (x, y) = network(), batch(0, 8)
    kappa = 1 - 0.5 * part
    expected = kappa * cross_entropy(model(x), y).item() + (1 - kappa) * worst_loss(model, x, y, 0.1 * part)
    assert at(CONTROL, epoch, step, model=model).loss(x, y).item() == pytest.approx(expected, rel=1e-9)


def test_the_examples_are_left_alone() -> None:
    x, y = batch(0, 8)
    images, labels = defences.build(network(), CONTROL, 0).examples(x, y)
    assert images is x and labels is y


# The ramp ------------------------------------------------------------------------------------------------------------


def ramp(epochs: int, in_epoch: int = 4) -> list[float]:
    defence, found = IntervalBound(network(), cell("interval_bound", epochs=epochs), 0), []
    for epoch in range(epochs):
        defence.start_epoch(epoch)
        for _ in range(in_epoch):
            found.append(defence.ramped)
            defence.after_backward()
    return found


@pytest.mark.parametrize("epochs", [60, 200])
def test_the_ramp_lies_where_the_paper_has_it_as_parts_of_the_training(epochs: int) -> None:
    """2,000 steps of warm-up and 10,000 of ramp out of 60,000: linear in between."""
    for done, part in enumerate(ramp(epochs)):
        step = done / (4 * epochs) * 60_000
        assert part == pytest.approx(min(max((step - 2000) / 10_000, 0), 1), abs=1e-9)
    assert (WARM_UP, RAMP, KAPPA) == (2000 / 60_000, 10_000 / 60_000, 0.5)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 20])
def test_a_short_training_has_an_epoch_of_warm_up_and_at_least_one_of_ramp(epochs: int) -> None:
    found = ramp(epochs)
    assert found[:5] == [0.0] * len(found[:5])
    assert all(0 <= later - earlier <= 1 / 4 + 1e-12 for earlier, later in pairwise(found))
    assert (found[-1] == 1) == (epochs > 2)


# What it refuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (replace(CONTROL, input_law=None), r"input_law: None with method 'interval_bound'; give it law fixed"),
        (replace(CONTROL, input_law=Law("normal", 0.1)), r"input_law: normal 0\.1 per sample with .* law fixed"),
        (replace(CONTROL, mix=True), r"mix: method 'interval_bound' has the clean images .* leave mix out"),
        (
            cell("interval_bound+layerwise", input_law=Law("fixed", 0.1)),
            r"method: 'interval_bound\+layerwise' would drop the loss of 'interval_bound'",
        ),
    ],
)
def test_what_the_method_has_no_meaning_for_is_an_error_by_name(asked: Cell, message: str) -> None:
    with pytest.raises(CellError, match=message):
        defences.build(network(), asked, 0)


@pytest.mark.usefixtures("more_networks")
@pytest.mark.parametrize(("model", "what"), [("dropping", "BatchNorm1d"), ("convolving", "BatchNorm2d")])
def test_a_network_that_bounds_cannot_pass_is_an_error_before_the_first_step(
    model: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(CellError, match=rf"method: 'interval_bound' cannot train '{model}' \('\d' is a {what} in"):
        fit(on(model, cell("interval_bound")))


# What it is for ------------------------------------------------------------------------------------------------------


def test_it_makes_predictions_certifiable_where_standard_training_makes_none() -> None:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    train, test = (x[:1400], y[:1400]), (x[1400:], y[1400:])
    shares = {}
    for method, law in [("standard", None), ("interval_bound", Law("fixed", 0.1))]:
        asked = Cell("digits", "4fc", 32, method, (), None, None, law, False, Schedule(30, batch=64))
        done = training.fit(asked, 0, train, test, 10)
        assert done.epochs[-1].clean_accuracy > 0.7
        shares[method] = certified(done.model, *test, 0.1).float().mean().item()
    assert shares["standard"] < 0.02
    assert shares["interval_bound"] > 0.5


def test_the_network_is_traced_once_and_the_weights_of_each_step_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace takes longer than a step."""
    traces, trace = [], networks.trace
    monkeypatch.setattr(networks, "trace", lambda model: traces.append(model) or trace(model))
    model, (x, y) = network(), batch(0, 8)
    defence = at(CONTROL, epoch=30, step=0, model=model)
    for _ in range(3):
        expected = KAPPA * cross_entropy(model(x), y).item() + (1 - KAPPA) * worst_loss(model, x, y, 0.1)
        assert defence.loss(x, y).item() == pytest.approx(expected, rel=1e-5)
        with torch.no_grad():
            for weights in model.parameters():
                weights.mul_(1.5)
    assert traces == [model]

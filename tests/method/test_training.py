"""The training loop: what it computes, what methods share, what it leaves alone, and when a seed has diverged."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from plain_network import CLASSES, SHAPE, cell
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, relu

from lat import Law, Reading, defences, models, training
from lat.cells import Cell, Schedule, own_seed, shared_seed
from lat.defences.base import Defence
from lat.memory import Batch

LAYERS = ("fc1", "fc2", "fc3", "fc4")
METHODS = ["standard", "fgsm", "fgsm_previous", "noise", "pgd", "interval_bound", "layerwise", "fgsm+layerwise"]


def images(n: int = 30, seed: int = 0, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, *SHAPE), generator=generator)
    return x, torch.randint(classes, (n,), generator=generator)


def fit(asked: Cell, seed: int = 0, n: int = 30) -> training.Training:
    return training.fit(asked, seed, images(n), images(20, 1), CLASSES)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("layers", [("fc4",), ("fc2", "fc3", "fc4")], ids=".".join)
@pytest.mark.parametrize("law", [Law("normal", 0.1), Law("fixed", 0.1)], ids=str)
def test_layer_wise_training_in_the_default_reading_is_algorithm_1_bit_for_bit(
    layers: tuple[str, ...], law: Law
) -> None:
    asked, seed = cell("layerwise", layers, law, epochs=4), 3
    found = fit(asked, seed)

    model = models.build("4fc", SHAPE, CLASSES, 5, shared_seed(asked, seed, "initialisation"))
    order = torch.Generator().manual_seed(shared_seed(asked, seed, "order"))
    epsilons = torch.Generator().manual_seed(own_seed(asked, seed, "epsilon"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    x, y = images()
    losses = []
    for epoch in range(4):
        for group in optimizer.param_groups:
            group["lr"] = {0: 0.1, 1: 0.1, 2: 0.1 * 0.1, 3: 0.1 * 0.1**2}[epoch]
        R: dict[str, Tensor] = {}  # t = 0
        total = 0.0
        indices = torch.randperm(30, generator=order)
        for t in range(3):
            batch = indices[8 * t : 8 * t + 8]
            h, outputs = x[batch].flatten(1), {}
            for name in LAYERS:
                module = model.get_submodule(name)
                z = linear(h, module.weight, module.bias)
                z = z + R[name] if name in R else z
                z.retain_grad()
                outputs[name] = z
                h = z if name == "fc4" else relu(z)
            loss = cross_entropy(h, y[batch])
            optimizer.zero_grad()
            loss.backward()
            for name in layers:
                eps = 0.1 if law.kind == "fixed" else 0.1 * torch.randn((8, 1), generator=epsilons)
                radius = model.get_submodule(name).weight.detach().abs().sum(dim=1)
                R[name] = eps * radius * outputs[name].grad.sign()
            optimizer.step()
            total += loss.item()
        losses.append(total / 3)

    assert equal(found.model, model)
    assert [e.loss for e in found.epochs] == pytest.approx(losses, rel=1e-6)
    assert found.skipped == 0


def test_the_perturbation_is_gone_after_training() -> None:
    x, _ = images()
    model = fit(cell("layerwise", LAYERS)).model
    for mode in (True, False):
        model.train(mode)
        h = x.flatten(1)
        for name in LAYERS:
            module = model.get_submodule(name)
            h = linear(h, module.weight, module.bias)
            h = h if name == "fc4" else relu(h)
        assert torch.equal(model(x), h)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_are_bit_identical_and_leave_the_global_generator_alone(method: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fit(cell(method))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = fit(cell(method))
    assert equal(first.model, second.model)
    assert [(e.loss, e.clean_accuracy) for e in first.epochs] == [(e.loss, e.clean_accuracy) for e in second.epochs]
    assert not equal(first.model, fit(cell(method), 1).model)


@pytest.mark.parametrize("pairing", ["slot", "mean", "same"])
@pytest.mark.parametrize("form", ["closed", "propagated"])
def test_every_reading_trains(form: str, pairing: str) -> None:
    weights = []
    for scope in ("local", "layer_set", "network"):
        for gradient in ("detached", "attached"):
            reading = Reading(form, scope, pairing, gradient, "activation" if scope == "network" else "output")
            done = fit(cell("layerwise", ("fc2", "fc4"), Law("fixed", 0.1), reading, epochs=1))
            assert math.isfinite(done.epochs[-1].loss)
            weights.append(done.model.fc2.weight)
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


class Spy:
    """Stands in for `defences.build` and keeps the initial weights and every batch."""

    def __init__(self) -> None:
        self.initial: list[Tensor] = []
        self.batches: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.build = defences.build

    def __call__(self, model: nn.Module, asked: Cell, seed: int) -> Defence:
        self.initial = [p.detach().clone() for p in model.parameters()]
        defence = self.build(model, asked, seed)
        examples = defence.examples

        def kept(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            self.batches.append(x)
            self.labels.append(y)
            return examples(x, y)

        defence.examples = kept  # type: ignore[method-assign]
        return defence


def spied(monkeypatch: pytest.MonkeyPatch, asked: Cell, seed: int = 0, n: int = 30) -> Spy:
    spy = Spy()
    with monkeypatch.context() as patch:
        patch.setattr(training.defences, "build", spy)
        fit(asked, seed, n)
    return spy


def test_all_methods_share_their_initial_weights_and_the_order_of_their_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, *others = [spied(monkeypatch, cell(method)) for method in METHODS]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first.initial, other.initial, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(first.batches, other.batches, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(first.labels, other.labels, strict=True))
    another = spied(monkeypatch, cell("standard"), seed=1)
    assert not torch.equal(first.initial[0], another.initial[0])
    assert not torch.equal(first.batches[0], another.batches[0])


def test_an_epoch_is_a_new_permutation_whose_short_last_batch_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = spied(monkeypatch, cell("standard", epochs=3), n=21)
    assert [len(b) for b in spy.batches] == [8, 8] * 3
    x, _ = images(21)
    known = {tuple(row.flatten().tolist()) for row in x}
    epochs = [torch.cat(spy.batches[i : i + 2]) for i in (0, 2, 4)]
    seen = [[tuple(row.flatten().tolist()) for row in epoch] for epoch in epochs]
    assert all(len(set(rows)) == 16 and set(rows) <= known for rows in seen)
    assert seen[0] != seen[1] != seen[2]


def test_a_batch_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"batch: 8 images in a batch and 7 to train on; lower batch"):
        fit(cell("standard"), n=7)
    assert len(fit(cell("standard"), n=8).epochs) == 2


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        ("steps", 8, [0.1] * 4 + [0.01] * 2 + [0.001] * 2),
        ("steps", 200, [0.1] * 100 + [0.01] * 50 + [0.001] * 50),
        ("steps", 5, [0.1] * 3 + [0.01] + [0.001]),  # epoch 3 begins past a half, epoch 4 past three quarters
        ("steps", 1, [0.1]),
        ("constant", 3, [0.1] * 3),
        ("cosine", 4, [0.1, 0.05 * (1 + 0.5**0.5), 0.05, 0.05 * (1 - 0.5**0.5)]),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule: str, epochs: int, expected: list[float]) -> None:
    plan = Schedule(epochs, lr=0.1, schedule=schedule)
    assert [training.learning_rate(plan, e) for e in range(epochs)] == pytest.approx(expected, rel=1e-12)


def test_the_history_holds_each_epochs_rate_loss_and_accuracy_and_is_reported() -> None:
    heard: list[training.Epoch] = []
    test = images(20, 1)
    done = training.fit(cell("standard", epochs=4), 0, images(), test, CLASSES, heard.append)
    assert tuple(heard) == done.epochs
    assert [e.epoch for e in heard] == [1, 2, 3, 4]
    assert [e.lr for e in heard] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    with torch.no_grad():
        right = (done.model.eval()(test[0]).argmax(1) == test[1]).float().mean().item()
    assert heard[-1].clean_accuracy == pytest.approx(right)
    assert done.step_ms > 0


def test_weight_decay_and_momentum_reach_the_optimiser() -> None:
    asked = cell("standard")
    plain = fit(asked).model
    for key in ("momentum", "weight_decay"):
        assert not equal(plain, fit(replace(asked, schedule=replace(asked.schedule, **{key: 0.0}))).model)


def test_the_accuracy_counts_every_image_in_eval_mode_and_restores_the_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(6, CLASSES))
    x, y = images(23)
    expected = (model.eval()(x).argmax(1) == y).float().mean().item()
    for mode in (True, False):
        model.train(mode)
        assert training.accuracy(model, x, y, Batch(7)) == pytest.approx(expected)
        assert model.training == mode


def test_training_goes_on_in_training_mode_after_the_accuracy_was_taken() -> None:
    assert fit(cell("layerwise", epochs=1)).model.training


# Divergence ----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_training_and_has_diverged() -> None:
    done = fit(cell("standard", epochs=6, lr=1e30))
    assert done.diverged
    assert len(done.epochs) < 6
    assert not math.isfinite(done.epochs[-1].loss)
    assert all(math.isfinite(e.loss) for e in done.epochs[:-1])


def test_a_constant_predictor_has_diverged() -> None:
    x = torch.zeros(40, *SHAPE)
    y = torch.arange(40) % 10
    done = training.fit(cell("standard"), 0, (x, y), (x, y), 10)
    assert math.isfinite(done.epochs[-1].loss)
    assert done.epochs[-1].clean_accuracy == pytest.approx(0.1)
    assert done.diverged


def test_divergence_begins_at_twice_chance_and_with_any_number_that_is_not_finite() -> None:
    model = nn.Linear(2, 2)
    assert not training.has_diverged(model, 1.0, 0.21, 10)
    assert training.has_diverged(model, 1.0, 0.2, 10)
    for classes, limit in ((2, 3 / 4), (3, 2 / 3), (4, 2 / 4)):  # two classes: all is twice chance
        assert training.has_diverged(model, 1.0, limit, classes)
        assert not training.has_diverged(model, 1.0, limit + 0.01, classes)
    assert training.has_diverged(model, math.nan, 0.9, 10)
    assert training.has_diverged(model, math.inf, 0.9, 10)
    with torch.no_grad():
        model.bias[1] = math.inf
    assert training.has_diverged(model, 1.0, 0.9, 10)

"""Certificates: exact where that can be known, never broken by an attack, and more than the closed chain's."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from typing import Any

import pytest
import torch
from bounded_networks import SIZE, random_network, settled
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from lat.bounds import BoundsError, certified, certified_by_chain

SEEDS = st.integers(0, 2**32 - 1)


def linear(w: list[list[float]], b: list[float]) -> nn.Linear:
    layer = nn.Linear(len(w[0]), len(w))
    layer.weight.data, layer.bias.data = torch.tensor(w), torch.tensor(b)
    return layer


def drawn(seed: int, count: int, size: tuple[int, ...]) -> Tensor:
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def attacked(model: nn.Module, x: Tensor, y: Tensor, eps: float, restarts: int, steps: int) -> Tensor:
    """Which images projected gradient descent on the margin leaves right, from several random starts."""
    stays = predicted(model, x) == y
    for restart in range(restarts):
        z = (x + eps * (2 * drawn(restart, len(x), tuple(x.shape[1:])) - 1)).clamp(0, 1)
        for step in range(steps):
            z = z.detach().requires_grad_()
            scores = model(z)
            own = functional.one_hot(y, scores.shape[1]).bool()
            margin = scores[own] - scores.masked_fill(own, -torch.inf).amax(1)
            (gradient,) = torch.autograd.grad(margin.sum(), z)
            z = z - eps * 0.4 * 0.95**step * gradient.sign()
            z = torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)
            stays = stays & (predicted(model, z) == y)
    return stays


# What is exact -------------------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from([0.01, 0.1, 0.3]))
def test_on_a_linear_network_the_certificate_is_exact(seed: int, eps: float) -> None:
    model = settled(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), seed)
    x = drawn(seed, 6, (1, 2, 2))
    y = predicted(model, x)
    w, b = model[1].weight.tolist(), model[1].bias.tolist()
    robust = []
    for image, label in zip(x.flatten(1).tolist(), y.tolist(), strict=True):
        least = []
        for k in {0, 1, 2} - {label}:
            margin = b[label] - b[k]
            for value, mine, other in zip(image, w[label], w[k], strict=True):
                lowest, highest = max(value - eps, 0.0), min(value + eps, 1.0)
                margin += min((mine - other) * lowest, (mine - other) * highest)
            least.append(margin)
        robust.append(min(least))
    found = certified(model, x, y, eps).tolist()
    assert all(stays == (least > 0) for stays, least in zip(found, robust, strict=True) if abs(least) > 1e-4)


@given(SEEDS)
def test_what_is_certified_holds_at_every_point_of_a_grid(seed: int) -> None:
    model = settled(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), seed)
    x, eps = drawn(seed, 5, (2,)), 0.1
    y = predicted(model, x)
    found = certified(model, x, y, eps)
    steps = torch.linspace(-eps, eps, 21, dtype=torch.float64).tolist()
    for way in product(steps, steps):
        z = (x + torch.tensor(way, dtype=x.dtype)).clamp(0, 1)
        assert bool((predicted(model, z) == y)[found].all())


HAND = nn.Sequential(linear([[1.0], [-1.0]], [-0.25, 0.25]), nn.ReLU(), linear([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]))
"""Scores ReLU(x - 1/4) and ReLU(1/4 - x): class 0 above 1/4, class 1 below it."""


@pytest.mark.parametrize(
    ("x", "y", "eps", "stays"),
    [
        (0.5, 0, 0.24, True), (0.5, 0, 0.25, False), (0.5, 0, 0.26, False), (0.5, 1, 0.01, False),
        (0.125, 1, 0.12, True), (0.125, 1, 0.125, False), (0.25, 0, 0.0, False), (0.25, 1, 0.0, False),
    ],
)  # fmt: skip
def test_the_certified_radius_of_a_network_by_hand(x: float, y: int, eps: float, stays: bool) -> None:
    assert certified(HAND, torch.tensor([[x]]), torch.tensor([y]), eps).tolist() == [stays]


def test_the_box_makes_the_ball_smaller() -> None:
    """Class 0 below 1.05: 1.0 can only leave it where pixels above 1 are allowed."""
    model = nn.Sequential(linear([[0.0], [1.0]], [1.05, 0.0]))
    x, y = torch.tensor([[1.0]]), torch.tensor([0])
    assert certified(model, x, y, 0.1).tolist() == [True]
    assert certified(model, x, y, 0.1, box=None).tolist() == [False]
    assert certified(model, x, y, 0.1, box=(0.0, 1.04)).tolist() == [True]
    assert certified_by_chain(model, x, y, 0.1).tolist() == [False]


def test_rows_are_subtracted_before_they_are_bounded() -> None:
    """Scores h + 1 and h: the first is larger whatever h is, though bounds on the two scores apart overlap."""
    model = nn.Sequential(linear([[5.0]], [0.0]), nn.ReLU(), linear([[1.0], [1.0]], [1.0, 0.0]))
    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    assert certified(model, x, y, 0.5).tolist() == [True]
    assert certified_by_chain(model, x, y, 0.5).tolist() == [True]


def test_ties_and_scores_that_are_not_finite_are_not_certified() -> None:
    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    for w, b in [([[1.0], [1.0]], [1.0, 1.0]), ([[0.0], [0.0]], [0.0, 0.0]), ([[1.0], [1.0]], [1.0, 1.0 - 1e-7])]:
        assert certified(nn.Sequential(linear(w, b)), x, y, 0.1).tolist() == [False]
    for value in (torch.nan, torch.inf):
        model = nn.Sequential(linear([[1.0], [0.0]], [value, 0.0]))
        assert certified(model, x, y, 0.1).tolist() == [False]
        assert certified_by_chain(model, x, y, 0.1).tolist() == [False]


# Order, and attacks --------------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from([1e-5, 1e-4, 1e-3, 1e-2]))
def test_the_chain_never_certifies_more_and_a_larger_ball_never_more_than_a_smaller(seed: int, eps: float) -> None:
    model, x = random_network(seed), drawn(seed, 8, SIZE)
    y = predicted(model, x)
    found = certified(model, x, y, eps)
    assert bool((found >= certified(model, x, y, eps, box=None)).all())
    assert bool((found >= certified_by_chain(model, x, y, eps)).all())
    assert bool((found >= certified(model, x, y, 2 * eps)).all())
    assert not certified(model, x, (y + 1) % 4, eps).any(), "a wrong prediction is not certified"


def test_the_chain_certifies_less_where_relus_are_off() -> None:
    model = nn.Sequential(linear([[1.0], [1.0]], [0.0, -9.0]), nn.ReLU(), linear([[1.0, 0.0], [0.0, 9.0]], [0.0, 0.0]))
    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    assert certified(model, x, y, 0.2).tolist() == [True]
    assert certified_by_chain(model, x, y, 0.2).tolist() == [False]


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small convolutional network trained on real digits, and 300 images that it has not seen."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16).view(-1, 1, 8, 8), torch.tensor(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(96, 16), nn.ReLU(), nn.Linear(16, 10),
        ).double()  # fmt: skip
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
        for _ in range(15):
            for rows in torch.randperm(1400).split(100):
                optimiser.zero_grad()
                functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
    return model.eval(), x[-300:], y[-300:]


@pytest.mark.parametrize("eps", [0.002, 0.01, 0.05])
def test_no_attack_breaks_what_is_certified(digits: tuple[nn.Module, Tensor, Tensor], eps: float) -> None:
    model, x, y = digits
    found = certified(model, x, y, eps)
    robust = attacked(model, x, y, eps, restarts=3, steps=20)
    assert bool((robust >= found).all())
    assert bool((found >= certified_by_chain(model, x, y, eps)).all())
    if eps == 0.002:
        assert found.double().mean() > 0.5, "there is something to break"
    if eps == 0.05:
        assert robust.double().mean() < 0.95, "the attack can break something"


def test_the_model_is_left_as_it_is_and_taken_in_eval_mode(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    wanted = certified(model, x, y, 0.002)
    model[1].train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    try:
        assert torch.equal(certified(model, x, y, 0.002), wanted)
        assert [module.training for module in model.children()] == [False, True, *[False] * 6]
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    finally:
        model.eval()


def test_batches_change_nothing(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    for certificate in (certified, certified_by_chain):
        whole = certificate(model, x, y, 0.002)
        assert torch.equal(certificate(model, x, y, 0.002, batch=7), whole)
        assert certificate(model, x[:0], y[:0], 0.002).shape == (0,)


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused() -> None:
    x, y = torch.zeros(1, 2), torch.tensor([0])
    for certificate in (certified, certified_by_chain):
        with pytest.raises(BoundsError, match=r"Sequential does not end in nn\.Linear"):
            certificate(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), x, y, 0.1)
        with pytest.raises(BoundsError, match="'0' is a Tanh"):
            certificate(nn.Sequential(nn.Tanh(), nn.Linear(2, 2)), x, y, 0.1)


@pytest.mark.parametrize(
    ("x", "y", "eps", "complaint"),
    [
        (1.5, 0, 0.1, r"x: an image leaves the box \(0\.0, 1\.0\)"),
        (float("nan"), 0, 0.1, "x: an image leaves the box"),
        (0.5, 2, 0.1, "y: labels from 2 to 2; the network has the classes 0 to 1"),
        (0.5, -1, 0.1, "y: labels from -1 to -1"),
        (0.5, 0, -0.1, "eps: -0.1 is no radius; give a finite number of at least 0"),
        (0.5, 0, float("nan"), "eps: nan is no radius"),
    ],
)
def test_an_argument_that_cannot_be_is_refused(x: float, y: int, eps: float, complaint: str) -> None:
    with pytest.raises(BoundsError, match=complaint):
        certified(HAND, torch.tensor([[x]]), torch.tensor([y]), eps)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"batch": 0}, "batch: 0 images at a time; give a number of at least 1"),
        ({"batch": -1}, "batch: -1 images at a time"),
        ({"box": (1.0, 0.0)}, r"box: \(1\.0, 0\.0\) is empty; give \(low, high\) with low <= high"),
    ],
)
def test_a_batch_or_a_box_that_cannot_be_is_refused(given: dict[str, Any], complaint: str) -> None:
    """Five images a batch of minus one would have been no answer at all."""
    with pytest.raises(BoundsError, match=complaint):
        certified(HAND, torch.full((5, 1), 0.5), torch.zeros(5, dtype=torch.long), 0.1, **given)


UNTYPED = """
import torch
from lat import bounds

model, x = torch.nn.Sequential(torch.nn.Linear(3, 2)), torch.full((5, 3), 0.5)
for call, message in [
    (lambda: bounds.certified(model, x, torch.zeros(4, dtype=torch.int64), 0.1), "y: shape (4,) beside 5 images"),
    (lambda: bounds.certified(model, x, torch.zeros(5, 1, dtype=torch.int64), 0.1), "y: shape (5, 1) beside 5 images"),
    (lambda: bounds.certified(model, x, torch.zeros(5), 0.1), "y: torch.float32 is no class; give whole numbers"),
    (lambda: bounds.radii(model, 3), "size: 3 is no shape; give that of one input without its batch"),
    (lambda: bounds.intervals(model, x, x[:2]), "low, high: shapes (5, 3) and (2, 3)"),
]:
    try:
        call()
    except bounds.BoundsError as error:
        assert str(error).startswith(message), error
    else:
        raise SystemExit(f"no error, where {message!r} was expected")
"""


def test_shapes_that_do_not_fit_are_refused_where_no_type_checker_speaks_first() -> None:
    done = subprocess.run([sys.executable, "-c", UNTYPED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The worst scores over a ball: exact on a linear network, never exceeded, in step with certificates and gradients."""

from __future__ import annotations

import pytest
import torch
from bounded_networks import SIZE, points, random_network, settled
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lat.bounds import BoundsError, certified
from lat.bounds.scores import worst_scores

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, count: int, size: tuple[int, ...] = SIZE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *size, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=generator)


def above(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """How far each score lies above that of y."""
    scores = model(x)
    return scores - scores.gather(1, y[:, None])


@given(SEEDS, st.sampled_from([0.0, 0.01, 0.3]), st.booleans())
def test_on_a_linear_network_the_worst_scores_move_by_eps_times_the_1_norm_of_the_rows_difference(
    seed: int, eps: float, bias: bool
) -> None:
    model = settled(nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=bias)), seed)
    x, y = drawn(seed, 6, (1, 2, 2))
    found = worst_scores(model, x, y, eps, box=None)
    w = model[1].weight.tolist()
    plain = above(model, x, y).tolist()
    for scores, before, label in zip(found.tolist(), plain, y.tolist(), strict=True):
        for k in range(3):
            moved = eps * sum(abs(mine - other) for mine, other in zip(w[label], w[k], strict=True))
            assert scores[k] == pytest.approx(before[k] + moved, rel=1e-9, abs=1e-9)


@given(SEEDS)
def test_on_a_linear_network_some_corner_of_ball_and_box_attains_each_worst_score(seed: int) -> None:
    model, eps = settled(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), seed), 0.3
    x, y = drawn(seed, 6, (1, 2, 2))
    found = worst_scores(model, x, y, eps)
    w = model[1].weight.detach()
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    for k in range(3):
        corner = torch.where((w[k] - w[y]).view_as(x) > 0, high, low)
        assert torch.allclose(found[:, k], above(model, corner, y)[:, k], rtol=1e-9, atol=1e-9)


@given(SEEDS, st.sampled_from([0.0, 1e-3, 0.05]))
def test_no_point_of_ball_and_box_has_a_worse_score(seed: int, eps: float) -> None:
    model = random_network(seed)
    x, _ = drawn(seed, 4)
    y = model(x).argmin(dim=1)
    worst = worst_scores(model, x, y, eps)
    slack = 1e-9 * (1 + worst.abs())
    for z in points(x, eps, 8, seed):
        assert bool((above(model, z.clamp(0, 1), y) <= worst + slack).all())
    assert bool((worst.gather(1, y[:, None]) == 0).all())


@given(SEEDS)
def test_a_class_is_certified_where_every_other_worst_score_is_negative(seed: int) -> None:
    model, eps = random_network(seed), 1e-4
    x, _ = drawn(seed, 8)
    y = model(x).argmax(dim=1)
    worst = worst_scores(model, x, y, eps)
    others = worst.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    sure = others.abs() > 1e-4 * worst.abs().amax()
    assert torch.equal(certified(model, x, y, eps)[sure], (others < 0)[sure])


def test_the_gradient_by_the_weights_is_that_of_central_differences() -> None:
    model = settled(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), 0)
    x, y = drawn(0, 6, (1, 2, 2))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    way = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in weights.items()}

    def loss(t: float) -> Tensor:
        model.load_state_dict({name: weights[name] + t * way[name] for name in weights})
        return torch.nn.functional.cross_entropy(worst_scores(model, x, y, 0.1), y)

    difference = (loss(1e-6) - loss(-1e-6)).item() / 2e-6
    model.zero_grad()
    loss(0.0).backward()
    slope = sum((p.grad * way[name]).sum().item() for name, p in model.named_parameters() if p.grad is not None)
    assert slope == pytest.approx(difference, rel=1e-5)


def test_what_has_no_worst_scores_is_an_error() -> None:
    x, y = drawn(0, 2, (4,))
    with pytest.raises(BoundsError, match=r"does not end in nn\.Linear"):
        worst_scores(settled(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 0), x, y, 0.1)
    with pytest.raises(BoundsError, match=r"eps: -0\.1 is no radius"):
        worst_scores(settled(nn.Sequential(nn.Linear(4, 3)), 0), x, y, -0.1)
    training = settled(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)), 0).train()
    with pytest.raises(BoundsError, match=r"'1' is a BatchNorm1d in train mode"):
        worst_scores(training, x, y, 0.1)

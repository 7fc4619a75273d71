"""Random draws belong to an example, not to the batch it happens to be in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from lat.attacks import Draws

SHAPE = st.sampled_from([(1,), (7,), (16,), (1, 3, 5), (10, 4, 4)])


def sequence(draws: Draws, n: int, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """What an attack asks for: a uniform start, then normal noise, then a start again."""
    like = torch.zeros(n, *shape, dtype=dtype)
    return [draws.uniform(like), draws.normal(like), draws.normal(like), draws.uniform(like)]


@given(st.integers(0, 2**62), st.lists(st.integers(0, 9999), min_size=1, max_size=30, unique=True), st.data(), SHAPE)
def test_the_draws_of_a_subset_are_the_rows_of_the_draws_of_all(
    seed: int, index: list[int], data: st.DataObject, shape: tuple[int, ...]
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(index) - 1), unique=True))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    alone = sequence(Draws(seed, [index[row] for row in rows]), len(rows), shape, dtype)
    together = sequence(Draws(seed, index), len(index), shape, dtype)
    for one, all_ in zip(alone, together, strict=True):
        assert torch.equal(one, all_[rows])


@given(st.integers(0, 2**62), st.lists(st.integers(0, 11), unique=True))
@example(seed=0, rows=[])
def test_rows_that_are_kept_go_on_with_their_own_draws(seed: int, rows: list[int]) -> None:
    whole, cut = Draws(seed, range(12)), Draws(seed, range(12))
    like = torch.zeros(12, 5)
    assert torch.equal(whole.normal(like), cut.normal(like))
    assert torch.equal(cut.rows(rows).normal(like[rows]), whole.normal(like)[rows])


def test_draws_differ_between_examples_seeds_and_calls() -> None:
    like = torch.zeros(50, 8)
    draws = Draws(3, range(50))
    first, second = draws.normal(like), draws.normal(like)
    other = Draws(4, range(50)).normal(like)
    assert len({tuple(row.tolist()) for row in torch.cat([first, second, other])}) == 150


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Draws(0, range(4)).normal(torch.zeros(4, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_have_the_laws_they_are_named_for() -> None:
    like = torch.zeros(2000, 20, dtype=torch.float64)
    draws = Draws(9, range(2000))
    uniform, normal = draws.uniform(like), draws.normal(like)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(uniform.var()) == pytest.approx(1 / 12, abs=0.002)
    assert float(normal.mean()) == pytest.approx(0, abs=0.02)
    assert float(normal.var()) == pytest.approx(1, abs=0.03)
    assert float((normal.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.01)
    across = torch.corrcoef(normal[:40].reshape(40, -1)).fill_diagonal_(0)  # examples beside each other are unrelated
    assert float(across.abs().mean()) < 0.25


def test_draws_for_another_number_of_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="3 examples were asked of 2"):
        Draws(0, [0, 1]).normal(torch.zeros(3, 2))

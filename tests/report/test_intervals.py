"""Intervals against SciPy's own answers, against tabulated quantiles, and against their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from lat.intervals import IntervalError, binomial, difference, newcombe, over_seeds, pooled, student_t, welch

ACCURACIES = st.lists(st.floats(0, 1, allow_subnormal=False).map(lambda v: round(v, 4)), min_size=2, max_size=8)


def test_student_t_of_three_values_by_hand() -> None:
    # mean 2, s = 1, t(2, 0.975) = 4.302653
    found = student_t([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302652729911275 / math.sqrt(3), rel=1e-9)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert (found.kind, found.seeds) == ("student_t", 3)


@given(ACCURACIES)
def test_student_t_is_scipys(values: list[float]) -> None:
    found = student_t(values)
    deviation = float(np.std(values, ddof=1))
    if min(values) == max(values):
        assert found.low == found.mean == found.high
        return
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=deviation / math.sqrt(len(values)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


@given(st.integers(1, 10000), st.data())
@example(10000, None)
def test_binomial_is_scipys_exact_interval(n: int, data: st.DataObject | None) -> None:
    counts = [0, n, n // 3] if data is None else [data.draw(st.integers(0, n))]
    for count in counts:
        found = binomial(count / n, n)
        expected = stats.binomtest(count, n).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert found.kind == "binomial"
        assert found.low <= count / n <= found.high


def test_one_seed_has_the_binomial_interval_and_several_have_students() -> None:
    assert over_seeds([0.25], 10000).kind == "binomial"
    assert over_seeds([0.25, 0.26], 10000).kind == "student_t"
    alone = over_seeds([12.5], None)
    assert (alone.kind, alone.low, alone.high) == ("point", 12.5, 12.5)


@given(ACCURACIES, ACCURACIES)
def test_welch_is_scipys(first: list[float], second: list[float]) -> None:
    found = welch(first, second)
    spreads = [float(np.std(side)) > 1e-9 for side in (first, second)]
    if all(spreads):
        expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-7)
    elif not any(spreads):
        assert found.low == found.mean == found.high
    else:  # a side without spread is a constant: one sample's interval, moved by it
        varying, constant, sign = (first, second[0], 1) if spreads[0] else (second, first[0], -1)
        alone = student_t(varying)
        expected = sorted([sign * (alone.low - constant), sign * (alone.high - constant)])
        assert [found.low, found.high] == pytest.approx(expected, abs=1e-7)


def test_newcombe_is_the_published_example() -> None:
    # Newcombe 1998, table II, case (a): 56/70 against 48/80, method 10.
    found = newcombe((56 / 70, 70), (48 / 80, 80))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_newcombe_does_not_collapse_at_the_ends() -> None:
    found = newcombe((0.0, 100), (0.0, 100))
    assert found.low < 0 < found.high


def test_one_seed_against_several_is_widened_by_their_spread() -> None:
    quiet = difference([0.50], [0.499, 0.500, 0.501], (10000, 10000))
    noisy = difference([0.50], [0.40, 0.50, 0.60], (10000, 10000))
    images_alone = newcombe((0.50, 10000), (0.50, 10000))
    assert quiet.high - quiet.low == pytest.approx(images_alone.high - images_alone.low, rel=0.1)
    assert noisy.high - noisy.low > 10 * (images_alone.high - images_alone.low)
    # s = 0.1, k = 3: the spread alone gives t(2) * s * sqrt(1 + 1/3)
    assert noisy.high == pytest.approx(4.302653 * 0.1 * math.sqrt(4 / 3), rel=0.01)


def test_one_seed_each_is_widened_by_twice_the_spread_of_other_cells() -> None:
    assert pooled([[0.3], [0.1, 0.1]]) == (0.0, 1)
    assert pooled([[0.3], []]) is None
    variance, freedom = spread = pooled([[0.1, 0.3], [0.5], [0.4, 0.4, 0.7]])
    assert freedom == 3
    assert variance == pytest.approx((0.02 + 0.06) / 3)
    found = difference([0.5], [0.5], (10**9, 10**9), spread)
    assert (found.mean, found.kind) == (0.0, "pooled_seeds_and_images")
    assert found.high == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(2 * variance), rel=1e-6)
    assert difference([0.5], [0.4], (100, 100), (0.0, 3)).high == pytest.approx(
        0.1 + stats.norm.ppf(0.975) * math.sqrt(0.25 / 100 + 0.24 / 100)
    )


@given(ACCURACIES, st.floats(0, 1).map(lambda v: round(v, 4)))
def test_difference_turns_round_with_its_sides(several: list[float], one: float) -> None:
    there, back = difference([one], several, (100, 200)), difference(several, [one], (200, 100))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: student_t([0.5]), "no spread"),
        (lambda: over_seeds([], 10), "at least one value"),
        (lambda: over_seeds([math.nan, 0.5], 10), "not finite"),
        (lambda: binomial(1.5, 10), "lie in"),
        (lambda: binomial(0.5, 0), "at least 1"),
        (lambda: student_t([0.1, 0.2], 95.0), "0.95 for instance"),
        (lambda: welch([0.1], [0.2, 0.3]), "one seed"),
    ],
)
def test_what_has_no_interval_is_refused(call: object, message: str) -> None:
    with pytest.raises(IntervalError, match=message):
        call()  # type: ignore[operator]

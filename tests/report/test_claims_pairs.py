"""One comparison in one column: two rows paired by seed, judged by hand."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lat.claims.measured import Row, against_number, paired
from lat.claims.rules import Rules

ROOT = Path(__file__).resolve().parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "config/claims.yaml").read_text())
RULES = Rules.of(FILE["rules"])
HIGHER = {"direction": "higher", "margin": 0}
WITHIN = {"direction": "within", "margin": 2}
COLUMN = "pgd"


def row(*points: float, lost: int = 0, label: str = "subject") -> Row:
    """A row with an accuracy (in points) for each seed from 0 on, and `lost` seeds that diverged."""
    return Row(label, {seed: value / 100 for seed, value in enumerate(points)}, lost)


REFERENCE = row(20.0, 20.0, 20.0, label="reference")


def test_the_interval_is_student_s_over_paired_differences() -> None:
    """Differences 1, 2, 3: mean 2, deviation 1, the quantile of two degrees of freedom 4.302653."""
    found = paired(HIGHER, COLUMN, row(21.0, 22.0, 23.0), REFERENCE, RULES)
    half = 4.302653 / 3**0.5
    assert (found.difference, found.pairs, found.verdict) == (pytest.approx(2.0), 3, "undecided")
    assert (found.low, found.high) == (pytest.approx(2 - half, abs=1e-5), pytest.approx(2 + half, abs=1e-5))


def test_pairs_are_made_by_seed() -> None:
    """The spread of either row is wide; seed by seed one is two points above the other."""
    found = paired(HIGHER, COLUMN, row(12.0, 52.1, 31.9), row(10.0, 50.0, 30.0), RULES)
    assert found.verdict == "holds"
    other = Row("other", {1: 0.1, 2: 0.5, 3: 0.3}, 0)
    assert paired(HIGHER, COLUMN, row(12.0, 52.1, 31.9), other, RULES).pairs == 2, "seeds 1 and 2"


@pytest.mark.parametrize(
    ("claim", "subject", "verdict"),
    [
        (HIGHER, row(22.0, 22.1, 21.9), "holds"),
        (HIGHER, row(18.0, 18.1, 17.9), "fails"),
        (HIGHER, row(20.0, 20.0, 20.0), "fails"),  # high <= m, on the limit itself
        ({"direction": "higher", "margin": 5}, row(22.0, 22.1, 21.9), "fails"),
        ({"direction": "not_lower", "margin": 5}, row(18.0, 18.1, 17.9), "holds"),
        (WITHIN, row(21.0, 21.1, 20.9), "holds"),
        (WITHIN, row(25.0, 25.1, 24.9), "fails"),
        (WITHIN, row(15.0, 15.1, 14.9), "fails"),
        (WITHIN, row(22.0, 22.1, 21.9), "undecided"),
    ],
)
def test_margins_and_directions(claim: Mapping[str, Any], subject: Row, verdict: str) -> None:
    assert paired(claim, COLUMN, subject, REFERENCE, RULES).verdict == verdict


def test_within_has_the_larger_p_to_hold_and_the_smaller_to_fail() -> None:
    found = paired(WITHIN, COLUMN, row(21.0, 21.5, 20.5), REFERENCE, RULES)
    above, below = (1 + 2) * 3**0.5 / 0.5, (2 - 1) * 3**0.5 / 0.5  # t at -2 and at 2

    def tail(t: float) -> float:
        return 0.5 - t / (2 * (2 + t * t) ** 0.5)

    assert found.p_holds == pytest.approx(2 * max(tail(above), tail(below)))
    assert found.p_fails == 1.0


@given(
    st.sampled_from(["higher", "not_lower", "within"]),
    st.sampled_from([0, 1, 5]),
    st.lists(st.integers(-100, 100), min_size=2, max_size=4).filter(lambda values: len(set(values)) > 1),
)
def test_a_verdict_by_the_interval_has_its_p_below_5_percent(direction: str, margin: int, tenths: list[int]) -> None:
    claim = {"direction": direction, "margin": margin}
    subject, reference = row(*(50 + tenth / 10 for tenth in tenths)), row(*(50.0 for _ in tenths))
    found = paired(claim, COLUMN, subject, reference, RULES)
    assert (found.verdict == "holds") == (found.p_holds < 0.05)
    assert (found.verdict == "fails") == (found.p_fails < 0.05)


def test_equal_counts_of_images_are_equal_differences() -> None:
    assert 0.3 - 0.1 != 0.7 - 0.5
    found = paired(HIGHER, COLUMN, row(30.0, 70.0), row(10.0, 50.0), RULES)
    assert (found.low, found.high, found.p_holds) == (20.0, 20.0, 0.0)


def test_equal_differences_decide_off_the_limit() -> None:
    found = paired(HIGHER, COLUMN, row(20.3, 20.3, 20.3), row(20.2, 20.2, 20.2), RULES)
    assert (found.verdict, found.p_holds, found.low, found.high) == (
        "holds",
        0.0,
        pytest.approx(0.1),
        pytest.approx(0.1),
    )
    on_it = paired(HIGHER, COLUMN, REFERENCE, REFERENCE, RULES)
    assert (on_it.verdict, on_it.p_holds, on_it.p_fails) == ("fails", 1.0, 1.0), "Holm's procedure takes it back"


def test_one_seed_is_undecided_however_large_the_difference() -> None:
    found = paired(HIGHER, COLUMN, row(90.0), REFERENCE, RULES)
    assert (found.verdict, found.p_holds, found.p_fails) == ("undecided", 1.0, 1.0)
    assert found.difference == pytest.approx(70.0)
    assert found.reason == "one seed"


@pytest.mark.parametrize(
    ("claim", "subject", "reference", "verdict"),
    [
        (HIGHER, row(90.0, 90.1, 90.2, lost=1), REFERENCE, "undecided"),  # wins all other seeds
        (HIGHER, row(1.0, 1.1, 1.2, lost=1), REFERENCE, "fails"),  # loses them
        (HIGHER, row(90.0, 90.1, lost=2), REFERENCE, "undecided"),  # half is not more than half
        (HIGHER, row(90.0, lost=2), REFERENCE, "fails"),
        (HIGHER, row(lost=3), REFERENCE, "fails"),
        (HIGHER, row(lost=1), REFERENCE, "undecided"),  # one seed
        (HIGHER, row(lost=3), row(lost=3), "fails"),
        (HIGHER, row(90.0, 90.1, 90.2), row(20.0, 20.0, lost=1), "holds"),
        (HIGHER, row(90.0, 90.1, 90.2), row(20.0, lost=2), "undecided"),  # nothing is won over what did not train
        (HIGHER, row(90.0, 90.1, 90.2), row(lost=3), "undecided"),
        (WITHIN, row(20.0, 20.1, 19.9), row(20.0, 20.0, 20.0, lost=1), "undecided"),  # either row counts
        (WITHIN, row(20.0, 20.1, 19.9), row(20.0, lost=2), "fails"),
    ],
)
def test_a_diverged_seed_wins_nothing(claim: Mapping[str, Any], subject: Row, reference: Row, verdict: str) -> None:
    found = paired(claim, COLUMN, subject, reference, RULES)
    assert found.verdict == verdict
    if subject.lost:
        assert found.p_holds == 1.0


def test_a_row_without_figures_is_not_judged() -> None:
    assert paired(HIGHER, COLUMN, row(), REFERENCE, RULES).verdict == "not_judged"
    assert paired(HIGHER, COLUMN, REFERENCE, row(label="absent"), RULES).missing == "absent"
    assert paired(HIGHER, COLUMN, row(lost=3), row(), RULES).verdict == "not_judged"


def test_a_printed_number_is_compared_with_each_seed() -> None:
    found = against_number(HIGHER, COLUMN, row(22.0, 22.1, 21.9), Decimal("0.2"), RULES)
    assert (found.verdict, found.pairs) == ("holds", 3)
    assert against_number(HIGHER, COLUMN, row(22.0, 22.1), None, RULES).verdict == "not_judged", "a slip"


def rows() -> st.SearchStrategy[Row]:
    accuracy = st.integers(0, 10).map(lambda value: value / 10)
    return st.builds(
        lambda values, lost: Row("row", dict(enumerate(values)), lost),
        st.lists(accuracy, max_size=4),
        st.integers(0, 3),
    )


@given(rows(), rows(), st.sampled_from([0, 1, 5]))
def test_no_two_rows_are_each_higher_than_the_other(one: Row, two: Row, margin: int) -> None:
    claim = {"direction": "higher", "margin": margin}
    there, back = (paired(claim, COLUMN, *pair, RULES) for pair in ((one, two), (two, one)))
    assert not (there.verdict == back.verdict == "holds")
    assert not (there.p_holds < 1 and back.p_holds < 1), "no evidence for both"


@given(rows(), rows())
def test_within_is_the_same_both_ways(one: Row, two: Row) -> None:
    there, back = (paired(WITHIN, COLUMN, *pair, RULES) for pair in ((one, two), (two, one)))
    assert there.verdict == back.verdict

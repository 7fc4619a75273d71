"""The rules of `config/claims.yaml`, each against the file's own words or an answer worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lat.claims import rules, significance
from lat.claims.rules import Part
from lat.intervals import student_t

ROOT = Path(__file__).resolve().parents[2]
WRITTEN: dict[str, Any] = yaml.safe_load((ROOT / "config/claims.yaml").read_text())["rules"]
DIRECTIONS = tuple(WRITTEN["directions"])
POINTS = st.integers(-40, 40).map(lambda quarter: quarter / 4)


@given(st.sampled_from(DIRECTIONS), st.sampled_from([0.0, 1.0, 5.0]), POINTS, st.integers(0, 20))
@example("higher", 1.0, 1.0, 0)
@example("within", 5.0, -5.0, 40)
def test_a_direction_is_what_the_file_says(direction: str, m: float, low: float, width: int) -> None:
    names = {"m": m, "low": low, "high": low + width / 4}
    holds, fails = (eval(WRITTEN["directions"][direction][key], {}, names) for key in ("holds", "fails"))
    expected = "holds" if holds else "fails" if fails else "undecided"
    assert rules.verdict(direction, m, names["low"], names["high"]) == expected


@pytest.mark.parametrize(
    ("quantifier", "parts", "expected"),
    [
        ("all", ["holds", "holds"], "holds"),
        ("all", ["holds", "undecided", "fails"], "fails"),
        ("all", ["holds", "undecided"], "undecided"),
        ("all", ["holds", "not_judged"], "undecided"),
        ("all", ["fails", "not_judged"], "fails"),
        ("some", ["fails", "undecided", "holds"], "holds"),
        ("some", ["fails", "fails"], "fails"),
        ("some", ["fails", "undecided"], "undecided"),
        ("some", ["fails", "not_judged"], "undecided"),
        ("some", ["holds", "not_judged"], "holds"),
        ("all", ["not_judged", "not_judged"], "not_judged"),
        ("some", ["not_judged"], "not_judged"),
    ],
)
def test_parts_are_joined_as_the_quantifier_says(quantifier: str, parts: list[str], expected: str) -> None:
    assert rules.join(quantifier, parts) == expected


def test_p_values_join_by_the_largest_or_by_bonferroni() -> None:
    assert rules.join_p("all", [0.01, 0.04], [0.2, 0.9]) == (0.04, 0.4)
    assert rules.join_p("some", [0.01, 0.04], [0.2, 0.9]) == (0.02, 0.9)
    assert rules.join_p("all", [1.0, 1.0], [0.7, 0.8]) == (1.0, 1.0)


def test_holm_is_a_hand_computation() -> None:
    # sorted: .005 * 4, .01 * 3, .03 * 2, .04 * 1 (not below the one before)
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.5, 0.6]) == [1.0, 1.0]
    assert significance.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_step_by_step(values: list[float], alpha: float) -> None:
    """The step-down procedure as Holm wrote it: from the smallest on, until the first that is too large."""
    rejected, rest = set(), sorted(range(len(values)), key=lambda index: values[index])
    while rest and values[rest[0]] * len(rest) <= alpha:
        rejected.add(rest.pop(0))
    assert {index for index, p in enumerate(significance.holm(values)) if p <= alpha} == rejected


def closed_form(t: float) -> float:
    """P(T > t) of Student's t with two degrees of freedom."""
    return 0.5 - t / (2 * math.sqrt(2 + t * t))


def test_the_p_of_three_seeds_is_the_closed_form_of_two_degrees_of_freedom() -> None:
    above, below = significance.beyond([1.0, 2.0, 3.0], 0.0)  # mean 2, deviation 1
    assert above == pytest.approx(2 * closed_form(2 * math.sqrt(3)))
    assert below == 1.0


def test_equal_differences_have_p_0_off_the_limit_and_1_on_it() -> None:
    assert significance.beyond([2.0, 2.0], 1.0) == (0.0, 1.0)
    assert significance.beyond([1.0, 1.0], 1.0) == (1.0, 1.0)
    assert significance.beyond([0.0, 0.0], 1.0) == (1.0, 0.0)


def test_one_value_has_no_p() -> None:
    with pytest.raises(ValueError, match=r"values: \[1\.0\] has no spread"):
        significance.beyond([1.0], 0.0)


@given(st.lists(POINTS, min_size=2, max_size=6), POINTS)
def test_p_is_below_5_percent_where_the_interval_lies_beyond_the_limit(values: list[float], limit: float) -> None:
    estimate, (above, below) = student_t(values, 0.95), significance.beyond(values, limit)
    for p, distance in ((above, estimate.low - limit), (below, limit - estimate.high)):
        if abs(distance) > 1e-9:
            assert (p < 0.05) == (distance > 0)


def test_mcnemar_is_a_fair_coin() -> None:
    assert significance.mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert significance.mcnemar(9, 1) == significance.mcnemar(1, 9)
    assert significance.mcnemar(0, 0) == significance.mcnemar(4, 4) == 1.0


def compared(subject: str, quantifier: str, *values: float) -> rules.Comparison:
    """A comparison of columns a, b, …: above 0 holds, else fails."""
    parts = [Part("abc"[i], "holds" if value > 0 else "fails", value) for i, value in enumerate(values)]
    return rules.compared(quantifier, subject, "it", parts)


@pytest.mark.parametrize(
    ("over", "verdict", "comparisons", "expected"),
    [
        ("all", "fails", [("x", 3.0, -2.0), ("y", -7.0, 1.0), ("z", 9.0, 8.0)], ("y", -7.0)),
        ("all", "holds", [("x", 3.0, 2.0), ("y", 7.0, 1.0)], ("y", 1.0)),
        ("some", "holds", [("x", 3.0, 2.0), ("y", 7.0, 1.0), ("z", -1.0, 50.0)], ("x", 2.0)),
        ("some", "fails", [("x", 3.0, -2.0), ("y", -7.0, 1.0)], ("x", -2.0)),
    ],
)
def test_the_deciding_figure_is_the_weakest_needed_or_the_strongest_that_is_enough(
    over: str, verdict: str, comparisons: list[tuple[str, float, float]], expected: tuple[str, float]
) -> None:
    claim = {"quantifier": "all", "over_comparisons": over, "direction": "higher"}
    found = rules.deciding(claim, verdict, [compared(name, "all", *values) for name, *values in comparisons])
    assert found is not None
    assert (found[0].subject, found[1].difference) == expected


def test_within_turns_on_the_figure_farthest_from_zero() -> None:
    claim = {"quantifier": "all", "over_comparisons": "all", "direction": "within"}
    comparison = rules.compared("all", "x", "it", [Part("a", "holds", 1.5), Part("b", "holds", -1.9)])
    found = rules.deciding(claim, "holds", [comparison])
    assert found is not None
    assert found[1].column == "b"

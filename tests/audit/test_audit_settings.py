"""config/audit.yaml says everything; a slip in it is an error that names check and key, and every result has words."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from subjects import SETTINGS

from lat.audit import CHECKS
from lat.findings import Result, check_words, chosen, words
from lat.run_files import RunError, check

CHEAP = {
    "worst_case",
    "single_step",
    "falls_with_radius",
    "large_ball",
    "zero_gradients",
    "repeated_passes",
    "ball_and_box",
}


def refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        check(settings, "audit")


def test_the_settings_are_valid_and_hold_every_check() -> None:
    check(SETTINGS, "audit")
    check_words(SETTINGS)
    assert list(SETTINGS) == list(CHECKS)


def test_the_thresholds_are_those_that_the_project_set_itself() -> None:
    points = {name: given["points"] for name, given in SETTINGS.items() if "points" in given}
    assert points == {
        "single_step": 0.5,
        "more_steps": 0.5,
        "more_restarts": 0.5,
        "margin_restarts": 0.5,
        "falls_with_radius": 0.2,
        "large_ball": 0.5,
        "gradient_free": 0.2,
        "scaled_logits": 1.0,
        "fresh_draws": 1.0,
    }
    shares = {name: given["share"] for name, given in SETTINGS.items() if "share" in given}
    assert shares == {"converged": 0.05, "smaller_distances": 0.05, "zero_gradients": 0.01, "breakable": 0.95}
    assert (SETTINGS["repeated_passes"]["difference"], SETTINGS["noise_alone"]["images"]) == (1e-4, 0)
    assert SETTINGS["fresh_draws"]["draws"] >= 20
    assert SETTINGS["scaled_logits"]["factors"] == [0.1, 10.0]


def test_a_run_asks_for_the_cheap_checks_or_for_all() -> None:
    assert set(chosen(SETTINGS, "cheap")) == CHEAP
    assert chosen(SETTINGS, "all") == SETTINGS
    with pytest.raises(ValueError, match="checks: 'some' is not known; use all or cheap"):
        chosen(SETTINGS, "some")


def test_a_key_left_out_or_too_many_is_an_error_that_names_it() -> None:
    for name, given in SETTINGS.items():
        for key in given:
            refused({name: {k: v for k, v in given.items() if k != key}}, rf"audit file, {name}: '{key}' is a required")
        refused({name: {**given, "limit": 1}}, rf"audit file, {name}: .*'limit' was unexpected")
        for status in given["words"]:
            fewer = {k: v for k, v in given["words"].items() if k != status}
            refused({name: {**given, "words": fewer}}, rf"audit file, {name}\.words: '{status}' is a required")
    refused({"worst": SETTINGS["worst_case"]}, "'worst' was unexpected")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("worst_case", "cost", "free"),
        ("worst_case", "attacks", []),
        ("worst_case", "attacks", ["pgd", "pgd"]),
        ("single_step", "single", ""),
        ("single_step", "points", -0.5),
        ("converged", "last_steps", 0),
        ("converged", "share", 1.5),
        ("converged", "examples", 0),
        ("falls_with_radius", "from", "0.05"),
        ("scaled_logits", "factors", [0.1, 0]),
        ("scaled_logits", "shift", 0),
        ("repeated_passes", "passes", 2.5),
        ("fresh_draws", "draws", True),
        ("breakable", "closeness", -1),
        ("certified", "radii", []),
        ("certified", "attacked", None),
    ],
)
def test_an_impossible_value_is_an_error_that_names_check_key_and_value(name: str, key: str, value: object) -> None:
    wrong = value[-1] if isinstance(value, list) and len(value) == 2 and value[-1] == 0 else value
    refused({name: SETTINGS[name] | {key: value}}, rf"audit file, {name}\.{key}.*: {re.escape(repr(wrong))}")


def test_every_result_has_a_sentence_that_can_be_filled_in() -> None:
    for name, given in SETTINGS.items():
        for status in given["words"]:
            said = words(Result(f"{name}@0.1", status, 0.25, 0.5, 1000), SETTINGS)
            assert said.endswith(".") and "{" not in said and "nan" not in said, said


def test_a_sentence_holds_the_figures() -> None:
    found = words(Result("single_step", "found", 1.5, 0.5, 1000), SETTINGS)
    assert "1.50 points above" in found and "limit 0.5 points, 1000 images" in found
    assert words(Result("certified@0.01", "noted", 25.7, float("nan"), 2570), SETTINGS) == (
        "Interval bounds certify 25.70 % of the images at radius 0.01 (2570 of them), and no attack breaks one."
    )


def test_a_reason_is_told() -> None:
    skipped = Result("more_steps", "skipped", float("nan"), float("nan"), None, "pgd_twice: no verdicts")
    assert words(skipped, SETTINGS) == "Not checked: pgd_twice: no verdicts."
    partly = words(Result("noise_alone", "passed", 0.0, 0.0, 200, "not run: fab_t"), SETTINGS)
    assert partly.endswith("(200 images). (not run: fab_t)")


def test_a_result_for_one_attack_names_it() -> None:
    said = words(Result("gradient_free@hopskipjump", "found", 10.0, 0.2, 20), SETTINGS)
    assert "(HopSkipJump) breaks 10.00 % of the images" in said and "limit 0.2 %, 20 images" in said
    assert "Square" in words(Result("gradient_free@square", "passed", 0.0, 0.2, 20), SETTINGS)
    assert "(later)" in words(Result("gradient_free@later", "passed", 0.0, 0.2, 20), SETTINGS)


def test_words_that_are_missing_or_cannot_be_filled_in_are_named() -> None:
    with pytest.raises(KeyError, match=r"add single_step\.words\.noted"):
        words(Result("single_step", "noted", 0.0, 0.0, 1), SETTINGS)
    for sentence in ("{excess}", "{value", "{value:.2q}"):
        wrong = copy.deepcopy(SETTINGS)
        wrong["single_step"]["words"]["found"] = sentence
        with pytest.raises(ValueError, match=r"^single_step\.words\.found: .*cannot be filled in"):
            check_words(wrong)

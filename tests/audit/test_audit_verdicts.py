"""Checks of verdicts: each fires past its threshold, and is silent at it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from subjects import ATTACKS, SETTINGS, counted, written

from lat.attacks import SettingError
from lat.audit import AuditError, Result, Subject, examine


def one(check: str, subject: Subject) -> Result:
    (result,) = examine(subject, {check: SETTINGS[check]})
    return result


def test_a_worst_case_that_keeps_an_image_which_an_attack_broke_is_an_error() -> None:
    verdicts = {"fgsm": counted(3, 4), "pgd": ([0, 1, 2, 3], [True, False, True, True])}
    honest = written(verdicts, 4)
    assert one("worst_case", honest) == Result("worst_case", "passed", 50.0, 75.0, 4)
    for said in (0.75, 0.25):
        with pytest.raises(AuditError, match=f"worst_case is reported as {said}, its verdicts have 0.5"):
            examine(replace(honest, reported={**honest.reported, "worst_case": said}), SETTINGS)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"pgd": 1.0}, r"pgd is reported as 1\.0, its verdicts have 0\.75"),
        ({"eot": 0.5}, r"eot is reported as 0\.5, its verdicts have None"),
        ({"worst_case": None}, r"worst_case is reported as None, its verdicts have 0\.75"),
        ({"all_attacks": 0.5, "fixed_attacks": 0.75}, r"all_attacks is reported as 0\.5, its verdicts have 0\.75"),
        ({"all_attacks": 0.75, "fixed_attacks": None}, r"fixed_attacks is reported as None, its verdicts have 0\.75"),
    ],
)
def test_an_accuracy_that_is_reported_otherwise_is_an_error(changes: dict[str, float | None], complaint: str) -> None:
    subject = written({"fgsm": counted(3, 4), "pgd": counted(3, 4)}, 4)
    with pytest.raises(AuditError, match=complaint):
        examine(replace(subject, reported=subject.reported | changes), SETTINGS)
    honest = subject.reported | {"all_attacks": 0.75, "fixed_attacks": 0.75}
    assert one("worst_case", replace(subject, reported=honest)).status == "passed"
    fewer = {name: value for name, value in subject.reported.items() if name != "fgsm"}
    with pytest.raises(AuditError, match="fgsm is reported as None"):
        examine(replace(subject, reported=fewer), SETTINGS)


def test_an_attack_on_a_sample_is_no_part_of_the_worst_case() -> None:
    result = one("worst_case", written({"fgsm": counted(4, 4), "pgd": ([1], [False])}, 4))
    assert (result.status, result.value, result.threshold) == ("passed", 100.0, 100.0)
    assert one("worst_case", written({"pgd": ([1], [False])}, 4)).status == "skipped"


@pytest.mark.parametrize(
    ("check", "higher", "lower"),
    [
        ("single_step", "pgd", "fgsm"),
        ("more_steps", "pgd", "pgd_twice"),
        ("more_restarts", "pgd", "pgd_restarts"),
        ("margin_restarts", "cw", "cw_restarts"),
    ],
)
def test_an_attack_may_be_weaker_by_half_a_point_and_no_more(check: str, higher: str, lower: str) -> None:
    at = one(check, written({higher: counted(505, 1000), lower: counted(500, 1000)}))
    assert (at.status, at.value, at.threshold, at.n) == ("passed", 0.5, 0.5, 1000)
    past = one(check, written({higher: counted(506, 1000), lower: counted(500, 1000)}))
    assert (past.status, past.value) == ("found", 0.6)
    other_way = one(check, written({higher: counted(100, 1000), lower: counted(900, 1000)}))
    assert (other_way.status, other_way.value) == ("passed", -80.0)


def test_attacks_are_compared_on_the_images_that_both_saw() -> None:
    verdicts = {"pgd": counted(10, 20), "fgsm": ([5, 12, 15], [True, False, False])}
    result = one("single_step", written(verdicts, 20))
    assert (result.status, result.value, result.n) == ("passed", 0.0, 3)
    apart = written({"pgd": counted(5, 10), "fgsm": counted(5, 10, first=10)}, 20)
    assert one("single_step", apart).status == "skipped"


def test_attacks_of_different_threats_are_not_compared() -> None:
    wrong = {"single_step": SETTINGS["single_step"] | {"iterative": "pgd_curve@0.2"}}
    with pytest.raises(SettingError, match="compare attacks of one norm, radius and box"):
        examine(written({"pgd_curve@0.2": counted(1, 2), "fgsm": counted(1, 2)}, 2), wrong)


def test_accuracy_may_rise_with_the_radius_by_a_fifth_of_a_point_and_no_more() -> None:
    def curve(*robust: int) -> Subject:
        radii = ("0.02", "0.05", "0.1", "0.5", "1")
        return written({f"pgd_curve@{r}": counted(k, 1000) for r, k in zip(radii, robust, strict=True)})

    at = one("falls_with_radius", curve(900, 800, 500, 501, 502))
    assert (at.status, at.value) == ("passed", 0.2)
    past = one("falls_with_radius", curve(900, 800, 500, 501, 503))
    assert (past.status, past.value) == ("found", 0.3)
    below_the_least_radius = one("falls_with_radius", curve(100, 800, 500, 500, 500))
    assert (below_the_least_radius.status, below_the_least_radius.value) == ("passed", 0.0)
    assert one("falls_with_radius", written({"pgd_curve@0.5": counted(1, 2)}, 2)).status == "skipped"


def test_a_large_ball_leaves_one_class_and_the_largest_nothing_but_what_one_start_misses() -> None:
    def balls(half: int, whole: int, n: int = 1000) -> list[tuple[str, float]]:
        subject = written({"pgd_curve@0.5": counted(half, n), "pgd_curve@1": counted(whole, n)}, 1000)
        results = examine(subject, {"large_ball": SETTINGS["large_ball"]})
        assert [result.check for result in results] == ["large_ball@0.5", "large_ball@1"]
        return [(result.status, round(result.threshold, 6)) for result in results]

    assert balls(100, 0) == [("passed", 10), ("passed", 0)]
    assert balls(105, 5) == [("noted", 10), ("noted", 0)]
    assert balls(106, 0) == [("found", 10), ("passed", 0)]
    assert balls(100, 6) == [("passed", 10), ("found", 0)]
    assert balls(3, 0, n=15) == [("found", 13.333333), ("passed", 0)], "two of fifteen images are of class 0"


def outside(subject: Subject) -> dict[str, Result]:
    """The results of `gradient_free` by attack."""
    results = examine(subject, {"gradient_free": SETTINGS["gradient_free"]})
    return {result.check.partition("@")[2]: result for result in results}


def test_what_only_gradient_free_attacks_break_is_counted_image_by_image() -> None:
    strong = {"pgd_restarts": counted(500, 1000), "apgd_t": counted(400, 1000)}
    at = outside(written({**strong, "square": counted(398, 1000)}))["square"]
    assert (at.status, at.value) == ("passed", 0.2)
    past = outside(written({**strong, "square": counted(397, 1000)}))["square"]
    assert (past.status, past.value) == ("found", 0.3)
    higher = outside(written({**strong, "square": (range(1000), [k >= 3 for k in range(1000)])}))["square"]
    assert (higher.status, higher.value) == ("found", 0.3), "with a higher accuracy than the ensemble"
    with_one = {"pgd_restarts": counted(5, 9), "square": counted(5, 9)}
    for incomplete in (written(with_one, 9), written(strong)):
        assert one("gradient_free", incomplete).status == "skipped"


def test_each_gradient_free_attack_is_judged_on_its_own_images() -> None:
    """Two of twenty images are ten points of those twenty, whatever another attack leaves on a thousand."""
    strong = {"pgd_restarts": counted(500, 1000), "apgd_t": counted(400, 1000)}
    few = (range(20), [k >= 2 for k in range(20)])
    found = outside(written({**strong, "square": counted(399, 1000), "hopskipjump": few}))
    assert {name: (r.status, r.value, r.n) for name, r in found.items() if r.status != "skipped"} == {
        "square": ("passed", 0.1, 1000),
        "hopskipjump": ("found", 10.0, 20),
    }
    skipped = {name: r.reason for name, r in found.items() if r.status == "skipped"}
    assert skipped == {name: f"{name}: no verdicts" for name in ("noise", "transfer")}


def test_distances_that_another_attack_undercuts_are_found() -> None:
    """By more than a twentieth, for more than a twentieth of the images; one that C&W never found counts too."""

    def undercut(count: int, to: float = 0.94, of: float = 1.0, clean: int = 100) -> Result:
        """Boundary's distances are `to` on `count` of 100 images; C&W-L2's are `of`. The first `clean` are right."""
        distances = {"boundary": [to] * count + [2.0] * (100 - count), "cw_l2": [of] * 200}
        verdicts = {"boundary": counted(0, 100), "cw_l2": counted(0, 200)}
        subject = replace(written(verdicts, 200, distances), clean=np.arange(200) < clean)
        results = {r.check: r for r in examine(subject, {"smaller_distances": SETTINGS["smaller_distances"]})}
        assert {name for name, r in results.items() if r.status == "skipped"} >= {
            "smaller_distances@zoo",
            "smaller_distances@lbfgs",
        }
        return results["smaller_distances@boundary"]

    assert [(r.status, r.value, r.n) for r in (undercut(5), undercut(6))] == [
        ("passed", 0.05, 100),
        ("found", 0.06, 100),
    ]
    assert undercut(100, to=0.96).value == 0, "a twentieth is within the search's reach"
    assert undercut(100, of=math.inf).value == 1
    assert undercut(100, to=math.inf, of=math.inf).value == 0, "neither found one"
    assert (undercut(6, clean=10).n, undercut(6, clean=10).value) == (10, pytest.approx(0.6))
    assert undercut(6, clean=0).status == "skipped"
    single = undercut(1, clean=10)
    assert (single.status, single.value) == ("passed", pytest.approx(0.1)), "one image may be chance"


def test_one_image_that_only_noise_breaks_is_a_finding() -> None:
    others = {"pgd": counted(500, 1000), "square": ([0, 1], [False, True])}
    assert one("noise_alone", written(others | {"noise": ([0, 1], [False, True])})).status == "passed"
    found = one("noise_alone", written(others | {"noise": ([0, 1, 2], [True, False, False])}))
    assert (found.status, found.value, found.n) == ("found", 2.0, 3), "Square has not seen the third"
    unseen = one("noise_alone", written({"pgd": ([0], [True]), "noise": ([0, 1], [False, False])}))
    assert (unseen.value, unseen.n) == (1.0, 1), "PGD has to have seen it"


def test_noise_alone_means_that_no_attack_in_its_ball_breaks_the_image() -> None:
    """Whatever its name: other balls say nothing."""
    alone = {"pgd": counted(4, 4), "noise": counted(0, 4)}
    assert one("noise_alone", written(alone, 4)).value == 4
    more = alone | {"pgd_curve@0.1": ([0, 1], [False, True]), "pgd_curve@0.15": ([2], [False]), "cw_l2": ([3], [False])}
    found = one("noise_alone", written(more, 4))
    assert (found.status, found.value, found.n) == ("found", 3.0, 4)
    transferred = written(more | {"transfer": counted(0, 4)}, 4)
    with_transfer = replace(transferred, attacks={**ATTACKS, "transfer": ATTACKS["pgd"]})
    assert (one("noise_alone", with_transfer).status, one("noise_alone", with_transfer).n) == ("passed", 4)


def test_without_verdicts_a_check_of_verdicts_is_skipped_with_a_reason() -> None:
    of_verdicts = ["worst_case", "single_step", "more_steps", "more_restarts", "margin_restarts", "falls_with_radius"]
    for check in [*of_verdicts, "large_ball", "gradient_free", "smaller_distances", "noise_alone"]:
        result = one(check, written({}))
        assert result.status == "skipped" and result.reason and math.isnan(result.value) and result.n is None


def test_every_attack_that_is_named_exists() -> None:
    known = {*ATTACKS, "transfer"}  # which needs networks of its own, and is built where there are some
    single = ("single", "iterative", "base", "stronger", "attack", "chance", "nothing", "noise")
    several = ("attacks", "white_box", "needed", "outside", "others")
    for name, given in SETTINGS.items():
        named = {given[key] for key in single if key in given} | {a for key in several for a in given.get(key, [])}
        assert named <= known, name

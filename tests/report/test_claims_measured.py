"""The rules for whole claims, on ledgers small enough to judge by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_claims import BARELY, FLAT, SURE, above, claim, conjunction, judge

from lat import claims
from lat.claims.examples import Examples
from lat.evaluation import Evaluation, save_verdicts
from lat.ledger import LedgerError


def test_a_claim_holds_with_its_figure_in_words(tmp_path: Path) -> None:
    found = judge(tmp_path, [claim("x", "AB")], {("a", "one"): above(*SURE), ("b", "one"): FLAT})["x"]
    assert found["verdict"] == "holds"
    assert found["by"][0]["text"] == "+2.0 points (95 % +1.8 to +2.2), 3 seeds: A − B, PGD"


def test_holm_takes_back_what_two_claims_of_a_family_cannot_both_bear(tmp_path: Path) -> None:
    values = {("a", "one"): above(*BARELY), ("b", "one"): FLAT, ("c", "one"): FLAT}
    pair = [claim("x", "AB"), claim("y", "AC")]
    together = judge(tmp_path, pair, values)
    for name in ("x", "y"):
        place = together[name]["by"][0]
        assert (place["by_intervals"], place["verdict"], place["family_size"]) == ("holds", "undecided", 2)
        assert place["p_adjusted"] == pytest.approx(0.06, abs=1e-3)
        assert place["reason"] == "holds by the intervals alone; Holm's p 0.06 over 2 claims"
    other = {side: {"table": "table_3", "row": row} for side, row in (("subject", "A"), ("reference", "C"))}
    apart = judge(tmp_path, [claim("x", "AB"), claim("y", comparisons=[other], family="table_3")], values)
    assert {entry["verdict"] for entry in apart.values()} == {"holds"}
    assert judge(tmp_path, [claim("x", "AB")], values)["x"]["verdict"] == "holds"


def test_the_family_has_the_paper_s_claims_and_the_project_s(tmp_path: Path) -> None:
    values = {("a", "one"): above(*BARELY), ("b", "one"): FLAT, ("c", "one"): FLAT}
    found = judge(tmp_path, [claim("x", "AB"), claim("y", "AC", origin="project")], values)
    assert [(entry["verdict"], entry["by"][0]["family_size"]) for entry in found.values()] == [("undecided", 2)] * 2


def test_a_claim_is_a_member_of_the_family_before_its_rows_are_measured(tmp_path: Path) -> None:
    """C is asked for and not measured yet: what x is worth does not change when it comes."""
    values = {("a", "one"): above(*BARELY), ("b", "one"): FLAT}
    pair = [claim("x", "AB"), claim("y", "AC")]
    before = judge(tmp_path, pair, values, slugs={("one", "c"): "c-one"})
    after = judge(tmp_path, pair, values | {("c", "one"): [19.0, 20.0, 99.0]})
    for found in (before, after):
        place = found["x"]["by"][0]
        assert (place["by_intervals"], place["verdict"], place["family_size"]) == ("holds", "undecided", 2)
    assert (before["y"]["verdict"], before["y"]["reason"]) == ("not_judged", "no figures of C")
    assert (before["y"]["by"][0]["family_size"], before["y"]["by"][0]["p_adjusted"]) == (2, 1.0)


def test_a_claim_that_the_run_does_not_ask_for_is_no_member_of_the_family(tmp_path: Path) -> None:
    values = {("a", "one"): above(*BARELY), ("b", "one"): FLAT}
    found = judge(tmp_path, [claim("x", "AB"), claim("y", "AC"), claim("z", "CB")], values)
    assert [found[name]["verdict"] for name in "xyz"] == ["holds", "not_judged", "not_judged"]
    assert [found[name]["by"][0]["family_size"] for name in "xyz"] == [1, 0, 0]
    partly = judge(tmp_path, [claim("x", "AB"), claim("y", "AC", "AB")], values)
    assert partly["y"]["by"][0]["family_size"] == 2, "one comparison can fail it"


def test_equality_on_the_limit_is_undecided_after_holm(tmp_path: Path) -> None:
    found = judge(tmp_path, [claim("x", "AB")], {("a", "one"): FLAT, ("b", "one"): FLAT})["x"]
    assert (found["by"][0]["by_intervals"], found["verdict"]) == ("fails", "undecided")


def test_divergence_fails_a_claim_whatever_holm_says(tmp_path: Path) -> None:
    values = {("a", "one"): [90.0, None, None], ("b", "one"): FLAT, ("c", "one"): [20.0, 21.0, 19.0]}
    found = judge(tmp_path, [claim("x", "AB"), claim("y", "AC"), claim("z", "BC")], values)
    assert [found[name]["verdict"] for name in "xyz"] == ["fails", "fails", "undecided"]
    assert found["x"]["by"][0]["comparisons"][0]["parts"][0]["reason"] == "A diverged (2 of 3 seeds)"


@pytest.mark.parametrize("first", [[None, None, None], [90.0, None, None]])
def test_what_fails_by_the_rule_on_diverged_seeds_says_so_and_shows_no_p_and_no_difference(
    tmp_path: Path, first: list[float | None]
) -> None:
    lost = sum(value is None for value in first)
    place = judge(
        tmp_path, [claim("x", "AB", "CB")], {("a", "one"): first, ("b", "one"): FLAT, ("c", "one"): above(*SURE)}
    )["x"]["by"][0]
    assert (place["verdict"], place["brief"]) == ("fails", "diverged")
    assert place["text"] == f"A diverged ({lost} of 3 seeds): A − B, PGD"
    assert place["reason"] == "of 2 figures 1 holds, 1 fails; by the rule on diverged seeds, not by a test"
    part = place["comparisons"][0]["parts"][0]
    assert (part["short"], part["below"]) == ("diverged", f"A diverged ({lost} of 3 seeds)")


def test_a_missing_row_leaves_some_to_hold_without_it(tmp_path: Path) -> None:
    values = {("a", "one"): above(*SURE), ("b", "one"): FLAT}
    found = judge(tmp_path, [claim("x", "AB", "AC"), claim("y", "AB", "AC", over_comparisons="some")], values)
    assert found["x"]["verdict"] == "undecided"
    assert "no figures of C" in found["x"]["by"][0]["reason"]
    assert found["y"]["verdict"] == "holds"


def test_two_rows_of_one_cell_are_not_compared(tmp_path: Path) -> None:
    values = {("a", "one"): above(*SURE), ("b", "one"): FLAT}
    found = judge(tmp_path, [claim("x", "AB")], values, slugs={("one", "b"): "a-one"})["x"]
    assert (found["verdict"], found["reason"]) == ("not_judged", "A and B are one cell")


def test_widths_are_judged_apart(tmp_path: Path) -> None:
    values = {("a", "one"): above(*SURE), ("b", "one"): FLAT, ("a", "two"): FLAT, ("b", "two"): above(*SURE)}
    found = judge(tmp_path, [claim("x", "AB"), claim("y", "AB", scales=["two"])], values)
    assert (found["x"]["verdict"], found["x"]["depends_on"]) == ("undecided", ["scale"])
    assert found["x"]["reason"] == "holds at one; fails at two"
    assert [place["scale"] for place in found["y"]["by"] if place["verdict"] != "not_judged"] == ["two"]
    assert found["y"]["verdict"] == "fails"


def test_the_favourable_reading_replaces_rows_that_have_one(tmp_path: Path) -> None:
    values = {("a", "one"): FLAT, ("a_best", "one"): above(4.0, 4.1, 3.9), ("b", "one"): above(*SURE)}
    found = judge(tmp_path, [claim("x", "AB"), claim("y", "BC"), claim("z", "AB", readings=["default"])], values)
    assert {(place["reading"], place["verdict"]) for place in found["x"]["by"]} == {
        ("default", "fails"),
        ("favourable", "holds"),
    }
    assert found["x"]["depends_on"] == ["reading"]
    assert [place["reading"] for place in found["y"]["by"]] == ["default"], "neither row has a favourable reading"
    assert found["z"]["verdict"] == "fails"


def test_a_favourable_reading_that_is_not_there_shows_no_dependence(tmp_path: Path) -> None:
    """A at its best beats B, but whether it beats C is not known."""
    values = {("a", "one"): FLAT, ("a_best", "one"): above(4.0, 4.1, 3.9), ("b", "one"): above(*SURE)}
    found = judge(tmp_path, [claim("x", "AB", "AC"), claim("y", "AB", "AB")], values)
    verdicts = {place["reading"]: place["verdict"] for place in found["x"]["by"]}
    assert verdicts == {"default": "fails", "favourable": "undecided"}
    assert (found["x"]["depends_on"], found["y"]["depends_on"]) == ([], ["reading"])


def test_a_conjunction_holds_by_all_members_and_stands_in_each_place(tmp_path: Path) -> None:
    values = {("a", "one"): above(*SURE), ("b", "one"): FLAT, ("c", "one"): above(4.0, 4.1, 3.9)}
    members = [claim("x", "AB"), claim("y", "CA"), claim("z", "AC")]
    members += [claim(name, "AB", scales=["elsewhere"]) for name in ("v", "w")]

    def joint(*names: str) -> dict[str, Any]:
        whole = conjunction("all", names)
        return judge(tmp_path, [whole, *members], values)["all"]

    assert joint("x", "y")["verdict"] == "holds"
    assert joint("x", "z")["verdict"] == "fails"
    assert joint("z", "w")["verdict"] == "fails"
    assert joint("x", "w")["verdict"] == "undecided"
    assert joint("v", "w")["verdict"] == "not_judged"
    assert [place["verdict"] for place in joint("x", "w")["by"] if place["reading"] == "default"] == ["undecided"]


def test_a_conjunction_does_not_fail_by_a_member_whose_verdict_holm_took_back(tmp_path: Path) -> None:
    values = {("b", "one"): above(*BARELY), ("a", "one"): FLAT, ("c", "one"): FLAT}
    whole = conjunction("all", ["x", "z"])
    members = [claim("x", "AB"), claim("z", "BA", scales=["elsewhere"])]
    assert judge(tmp_path, [whole, *members], values)["all"]["by"][0]["verdict"] == "fails"
    found = judge(tmp_path, [whole, *members, claim("y", "BC")], values)
    assert found["x"]["by"][0]["by_intervals"] == "fails"
    assert (found["all"]["by"][0]["verdict"], found["all"]["verdict"]) == ("undecided", "undecided")


def test_a_member_without_a_favourable_reading_enters_it_as_it_is(tmp_path: Path) -> None:
    values = {("a", "one"): FLAT, ("a_best", "one"): above(4.0, 4.1, 3.9), ("b", "one"): above(*SURE)}
    values |= {("c", "one"): FLAT}
    whole = conjunction("all", ["x", "y"])
    found = judge(tmp_path, [whole, claim("x", "AB"), claim("y", "BC")], values)["all"]
    assert {place["reading"]: place["verdict"] for place in found["by"]} == {"default": "fails", "favourable": "holds"}
    assert found["depends_on"] == ["reading"]


def test_no_claim_is_judged_on_another_dataset(tmp_path: Path) -> None:
    values = {("a", "one"): above(*SURE), ("b", "one"): FLAT}
    for dataset in ("digits", "cifar10"):
        assert judge(tmp_path, [claim("x", "AB")], values, dataset=dataset)["x"]["verdict"] == "not_judged"


# Verdicts by example


def kept(folder: Path, slug: str, pgd: Sequence[bool], seed: int = 0) -> None:
    verdicts = np.array(pgd)
    index = np.arange(len(verdicts))
    evaluation = Evaluation(np.ones(len(verdicts), bool), {"pgd": verdicts}, {"pgd": index}, {}, True)
    save_verdicts(folder / "verdicts" / slug / f"seed{seed}.npz", evaluation)


def test_mcnemar_stands_beside_one_seed_and_decides_nothing(tmp_path: Path) -> None:
    """On ten images only A keeps nine of them, only B one."""
    kept(tmp_path, "a-one", [True] * 9 + [False])
    kept(tmp_path, "b-one", [False] * 9 + [True])
    found = judge(tmp_path, [claim("x", "AB")], {("a", "one"): [90.0], ("b", "one"): [10.0]})["x"]
    assert found["verdict"] == "undecided"
    assert found["by"][0]["text"] == "+80.0 points, 1 seed, McNemar's p 0.021 (subject ahead): A − B, PGD"
    (beside,) = found["by"][0]["comparisons"][0]["parts"][0]["mcnemar"]
    assert (beside["subject_only"], beside["reference_only"], beside["ahead"]) == (9, 1, "subject")
    assert beside["p"] == pytest.approx(22 / 1024)
    back = judge(tmp_path, [claim("x", "BA")], {("a", "one"): [90.0], ("b", "one"): [10.0]})["x"]
    assert back["by"][0]["comparisons"][0]["parts"][0]["mcnemar"][0]["ahead"] == "reference"


def test_of_several_seeds_it_is_said_in_how_many_mcnemar_s_test_sees_one_ahead(tmp_path: Path) -> None:
    """Nine of ten images against one in two seeds, the other way in the third, and no difference in the fourth."""
    for seed, (mine, other) in enumerate([(9, 1), (9, 1), (1, 9), (5, 5)]):
        kept(tmp_path, "a-one", [True] * mine + [False] * other, seed)
        kept(tmp_path, "b-one", [False] * mine + [True] * other, seed)
    values = {("a", "one"): [90.0, 90.0, 10.0, 50.0], ("b", "one"): [10.0, 10.0, 90.0, 50.0]}
    place = judge(tmp_path, [claim("x", "AB")], values)["x"]["by"][0]
    assert place["text"].endswith("4 seeds, McNemar: subject ahead in 2 of 4, reference in 1: A − B, PGD")


def test_the_worst_case_of_an_image_is_its_worst_attack(tmp_path: Path) -> None:
    """Of four images the subject loses one to each of two attacks, the reference one to both."""
    for slug, fgsm in (("a", [True, False, True, True]), ("b", [False, True, True, True])):
        verdicts = {"fgsm": np.array(fgsm), "pgd": np.array([False, True, True, True])}
        index = dict.fromkeys(verdicts, np.arange(4))
        path = tmp_path / "verdicts" / slug / "seed0.npz"
        save_verdicts(path, Evaluation(np.ones(4, bool), verdicts, index, {}, True))
    examples = Examples(tmp_path, ("fgsm", "pgd"), 0.05)
    found = examples.compare("worst_case", 0, ("a", 0.5), ("b", 0.75))
    assert found is not None
    assert (found.subject_only, found.reference_only, found.ahead) == (0, 1, "")
    assert examples.compare("worst_case", 0, ("a", 0.25), ("b", 0.75)) is None, "the ledger's is over other attacks"
    assert examples.compare("pgd", 0, ("a", 0.75), ("absent", 0.75)) is None


def test_verdicts_that_are_not_the_ledger_s_are_refused(tmp_path: Path) -> None:
    kept(tmp_path, "a-one", [True] * 8 + [False] * 2)
    kept(tmp_path, "b-one", [True] * 10)
    with pytest.raises(LedgerError, match=r"seed0\.npz: pgd is 0\.8 by the verdicts and 0\.9 in the ledger"):
        judge(tmp_path, [claim("x", "AB")], {("a", "one"): [90.0], ("b", "one"): [100.0]})


def test_what_the_audit_found_against_gradients_stands_beside_a_verdict_and_decides_nothing(tmp_path: Path) -> None:
    values = {("a", "one"): above(*SURE), ("b", "one"): FLAT, ("c", "one"): [*FLAT[:2], None]}
    audited = {
        ("a", "one", 0, "large_ball@1"): "found",
        ("a", "one", 1, "large_ball@1"): "passed",
        ("a", "one", 2, "large_ball@1"): "skipped",
        ("a", "one", 0, "more_restarts"): "found",
        ("b", "one", 0, "zero_gradients"): "noted",
        ("c", "one", 0, "zero_gradients"): "found",
        ("c", "one", 2, "zero_gradients"): "found",
    }
    plain, doubted = (judge(tmp_path, [claim("x", "AB", "AC")], values, audited=given) for given in ({}, audited))
    before, after = plain["x"]["by"][0], doubted["x"]["by"][0]
    assert before["doubts"] == []
    assert after["doubts"] == ["A (large ball (1) in 1 of 2 seeds)", "C (zero gradients in 1 of 1 seed)"]
    assert [comparison["doubts"] for comparison in after["comparisons"]] == [
        ("A (large ball (1) in 1 of 2 seeds)",),
        ("A (large ball (1) in 1 of 2 seeds)", "C (zero gradients in 1 of 1 seed)"),
    ]
    told = claims.text.doubted(after["doubts"])
    assert told.startswith("the audit speaks against the gradients of A (large ball (1)")
    for told in (before, after, *before["comparisons"], *after["comparisons"]):
        del told["doubts"]
    assert before == after


def test_clean_accuracy_is_doubted_by_no_check_of_gradients(tmp_path: Path) -> None:
    values = {("a", "one"): above(*SURE), ("b", "one"): FLAT}
    found = judge(
        tmp_path, [claim("x", "AB", columns=["clean"])], values, audited={("a", "one", 0, "large_ball@1"): "found"}
    )
    assert found["x"]["by"][0]["doubts"] == []

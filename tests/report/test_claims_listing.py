"""What `lat claims` prints: a line a place in brief, and everything when asked."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from small_claims import BARELY, FLAT, SURE, Values, above, claim, conjunction, judged

from lat import claims
from lat.claims import listing

VALUES: Values = {("a", "one"): above(*SURE), ("b", "one"): FLAT, ("a", "two"): [21.0], ("b", "two"): [20.0]}


def test_a_line_a_place_has_verdict_difference_and_interval(tmp_path: Path) -> None:
    lines = claims.brief(judged(tmp_path, [claim("x", "AB", paraphrase="A is better than B.")], VALUES)).splitlines()
    assert lines == [
        "x",
        "  A is better than B.",
        "  reported                  holds      +10.00",
        "  measured                  undecided",
        "    one                     holds      +2.0 (+1.8 to +2.2)",
        "    two                     undecided  +1.0 (1 seed)",
        "",
        *textwrap.wrap(listing.TURNED, 80),
        "",
        "of the paper's claims about figures, on its printed numbers: 1 holds, 0 fails, 0",
        "  undecided, 0 not judged",
        "of the paper's claims about figures, measured: 0 holds, 0 fails, 1 undecided, 0",
        "  not judged",
    ]


def test_holm_s_p_stands_where_it_took_a_verdict_back(tmp_path: Path) -> None:
    values: Values = {("a", "one"): above(*BARELY), ("b", "one"): FLAT, ("c", "one"): FLAT}
    text = claims.brief(judged(tmp_path, [claim("x", "AB"), claim("y", "BC")], values))
    assert "    one                     undecided  +3.3 (+0.8 to +5.7), Holm's p 0.06\n" in text
    alone = claims.brief(judged(tmp_path, [claim("x", "AB")], values))
    assert "    one                     holds      +3.3 (+0.8 to +5.7)\n" in alone


def test_what_the_audit_says_is_a_mark_and_in_full_a_sentence(tmp_path: Path) -> None:
    found = judged(tmp_path, [claim("x", "AB")], VALUES, audited={("a", "one", 0, "large_ball@1"): "found"})
    brief, full = claims.brief(found), claims.full(found)
    assert "+2.0 (+1.8 to +2.2) †\n" in brief and "+1.0 (1 seed)\n" in brief
    assert "\n\n† A check of the audit, at the attacks' radius or a larger one" in brief
    assert "the audit speaks against the gradients of A (large ball (1) in 1 of 1 seed)" in " ".join(full.split())
    assert "†" not in full and "†" not in claims.brief(judged(tmp_path, [claim("x", "AB")], VALUES))


def test_pairs_that_are_missing_since_a_row_diverged_are_told(tmp_path: Path) -> None:
    """Of the row that is compared with too: the difference is then to its survivors."""
    values: Values = {("a", "one"): above(2.0, 2.1, 1.9), ("b", "one"): [20.0, 20.0, None]}
    found = judged(tmp_path, [claim("x", "AB"), claim("y", "BA")], values)
    brief, full = claims.brief(found), " ".join(claims.full(found).split())
    assert "    one                     holds      +2.0 (+1.4 to +2.7, 2 of 3 seeds)\n" in brief
    assert "    one                     fails      −2.0 (−2.7 to −1.4, 2 of 3 seeds)\n" in brief
    assert "+2.0 points (95 % +1.4 to +2.7), 2 of 3 seeds since B diverged (1 of 3 seeds): A − B, PGD" in full
    open_one = judged(tmp_path, [claim("x", "AB")], values | {("a", "one"): above(9.0, 2.1, 1.9)})
    full = " ".join(claims.full(open_one).split())
    assert "2 of 3 seeds: A − B, PGD; the interval reaches the limit; B diverged (1 of 3 seeds)" in full


def test_what_is_not_judged_has_its_reason(tmp_path: Path) -> None:
    listed = [claim("x", "AC"), claim("y", "BC"), conjunction("both", ["x", "y"])]
    lines = claims.brief(judged(tmp_path, listed, VALUES)).splitlines()
    assert lines.count("  measured                  not judged no figures of C") == 2
    assert lines[lines.index("both") + 2 :][:2] == [
        "  reported                  holds      of 2 claims 2 hold",
        "  measured                  not judged of 2 claims 2 not judged",
    ]


@pytest.mark.parametrize("printed", [claims.brief, claims.full])
def test_a_claim_that_came_later_says_so(tmp_path: Path, printed: Any) -> None:
    listed = [
        claim("x", "AB"),
        claim("y", "AB", added={"date": "2026-01-02", "measured": True}),
        claim("z", "AB", added={"date": "2026-01-02", "measured": False}),
    ]
    found = judged(tmp_path, listed, {})
    assert [entry["added"] and entry["added"]["measured"] for entry in found] == [None, True, False]
    lines = printed(found).splitlines()
    assert lines[lines.index("x") + 2].startswith("  reported")
    assert lines[lines.index("y") + 2] == "  added 2026-01-02, after its rows were measured"
    assert lines[lines.index("z") + 2] == "  added 2026-01-02, before its rows were measured"

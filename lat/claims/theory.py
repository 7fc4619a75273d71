"""A claim of theory judged by the equation ledger: it holds where every law that it asserts is true, and fails where
one is refuted. Which laws those are stands in `config/equations.yaml`; a claim that no law states is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lat.claims.rules import FAILS, HOLDS, NOT_JUDGED, UNDECIDED

TRUE = ("proved", "tested")
REFUTED = "refuted"


def judge(claim: Mapping[str, Any], equations: Mapping[str, Any] | None) -> dict[str, Any]:
    """The verdict with the laws named; `equations` is `found` of `lat.statements.read`, None where there is none.

    `laws` of the verdict lists those that the claim asserts, and `true_where` the laws of the same statements that
    say where a refuted one holds after all.
    """
    if equations is None:
        return _verdict(NOT_JUDGED, "no equation ledger is at hand")
    laws = {law["id"]: law for law in equations["laws"]}
    asserted = [laws[law] for law in equations["claims"][claim["id"]]]
    if not asserted:
        return _verdict(NOT_JUDGED, "none of the laws states it")
    refuted = [law for law in asserted if law["status"] == REFUTED]
    where = [
        condition
        for row in equations["rows"]
        if row["claim"]["id"] in {law["id"] for law in refuted}
        for condition in row["conditions"]
    ]
    if refuted:
        found, named = FAILS, refuted
    elif open_laws := [law for law in asserted if law["status"] not in TRUE]:
        found, named = UNDECIDED, open_laws
    else:
        found, named = HOLDS, asserted
    return _verdict(found, _named(named), asserted, where)


def _verdict(
    verdict: str, reason: str, laws: Sequence[Mapping[str, Any]] = (), where: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    brief = [{key: law[key] for key in ("id", "status", "domain")} for law in laws]
    true_where = [{key: law[key] for key in ("id", "status", "domain")} for law in where]
    return {
        "verdict": verdict,
        "text": "",
        "brief": reason,
        "reason": reason,
        "depends_on": [],
        "laws": brief,
        "true_where": true_where,
    }


def _named(laws: Sequence[Mapping[str, Any]]) -> str:
    """Laws by status: "refuted: 6.equality, 7.equality"."""
    statuses = dict.fromkeys(str(law["status"]) for law in laws)
    mine = [f"{status}: {', '.join(law['id'] for law in laws if law['status'] == status)}" for status in statuses]
    return "; ".join(mine)

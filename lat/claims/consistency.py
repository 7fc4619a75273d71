"""What a schema cannot say of `config/claims.yaml`: its names exist, and its keys agree with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lat.claims.printed import Printed, operands
from lat.measured import WORST_CASE
from lat.run_files import RunError

Claim = Mapping[str, Any]
REPORTED = "reported"


def check(content: Mapping[str, Any], printed: Printed, origin: str) -> None:
    """Raises RunError with the first claim, key and value of the file `origin` that cannot be judged as written.

    `content` fits the schema. Rows are those of `printed`; a claim's rows are of one network on one dataset, since a
    scale of a run has one.
    """
    claims = {claim["id"]: claim for claim in content["claims"]}
    for name, count in Counter(claim["id"] for claim in content["claims"]).items():
        if count > 1:
            raise RunError(f"{origin}: claim {name!r} stands {count} times; give each an id of its own")
    for claim in content["claims"]:
        for key, value, mend in _wrong(claim, claims, content["rules"]["wordings"], printed):
            raise RunError(f"{origin}, {claim['id']}.{key}: {value!r} {mend}")
    for question in content["questions"]:
        if unknown := [name for name in question["answers"] if name not in claims]:
            raise RunError(f"{origin}, questions: {unknown[0]!r} is no claim's id; name one of the file's claims")


def _wrong(
    claim: Claim, claims: Mapping[str, Claim], wordings: Mapping[str, float], printed: Printed
) -> Iterator[tuple[str, object, str]]:
    """Each key of a claim that does not fit, its value, and what to do about it."""
    for member in claim.get("members", []):
        if member not in claims:
            yield "members", member, "is no claim's id; name claims of the file"
        elif claims[member]["kind"] == "conjunction":
            yield "members", member, "is a conjunction itself; name its members"
    if claim["kind"] == "empirical":
        yield from _wrong_rows(claim, printed)
        yield from _wrong_rule(claim, wordings)


def _wrong_rows(claim: Claim, printed: Printed) -> Iterator[tuple[str, object, str]]:
    networks = set()
    for operand in operands(claim):
        table, row = operand["table"], operand["row"]
        if (table, row) not in printed.rows:
            rows = [label for name, label in printed.rows if name == table]
            yield "comparisons", row, f"is no row of {table}; it has {_listed(rows)}"
            return
        if operand.get("value") == REPORTED and REPORTED not in printed.row(operand):
            yield "comparisons", row, f"has no printed number in {table}, which its value asks for; compare another row"
        networks.add((printed.tables[table]["dataset"], printed.tables[table]["model"]))
        if REPORTED in claim["judged_on"] and REPORTED not in printed.row(operand):
            yield "judged_on", REPORTED, f"cannot be: {row!r} has no printed number in {table}; leave it out"
    if len(networks) > 1:
        yield "comparisons", sorted(networks), "are several networks, and no scale has them all; write a claim for each"
    tables = sorted({operand["table"] for operand in operands(claim)})
    if claim["family"] not in tables:
        yield "family", claim["family"], f"is the table of none of its rows; write {' or '.join(tables)}"


def _wrong_rule(claim: Claim, wordings: Mapping[str, float]) -> Iterator[tuple[str, object, str]]:
    if claim["wording"] not in wordings:
        yield "wording", claim["wording"], f"is not among the rules' wordings; use one of {_listed(wordings)}"
    elif claim["margin"] != wordings[claim["wording"]]:
        yield "margin", claim["margin"], f"is not that of {claim['wording']!r}; write {wordings[claim['wording']]}"
    against = any(operand.get("value") == REPORTED for operand in operands(claim))
    test = "one_sample_t" if against else "paired_t"
    if claim["test"] != test:
        yield "test", claim["test"], f"is not the test of these rows; write {test}"
    if (against or REPORTED in claim["judged_on"]) and WORST_CASE in claim["columns"]:
        yield "columns", WORST_CASE, "is a column that the paper does not print; judge it on measured figures alone"


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))

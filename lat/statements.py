"""The equations as the report lists them: what the paper says, the verdict, where it holds, and what is true instead.

Everything comes from `config/equations.yaml` (the paper's statements) and from the document that `lat verify` wrote.
Mathematics is Typst's. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lat import run_files
from lat.ledger import LedgerError

COMMAND = "make verify"
TRUE = ("proved", "tested")
NAMES = {"eps": "epsilon", "before": "g^(t - 1)"}
METHODS = ("proof", "induction", "tests", "counterexample")


def read(folder: Path, root: Path) -> dict[str, Any]:
    """The report's section: `found` with `rows`, `laws`, and `claims` (the laws that a claim of theory asserts, by its
    id), or None there and under `gap` why, with the command.

    The document is `equations.json` in `folder` (an exported run) or beside it (`results/`). Raises LedgerError where
    it lacks a law that `config/equations.yaml` names, RunError where that file is not of its schema.
    """
    places = [folder / "equations.json", folder.parent / "equations.json"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return {"found": None, "gap": f"{places[-1].name} is missing", "command": COMMAND}
    document = json.loads(path.read_text())
    laws = {law["id"]: law for law in document["laws"]}
    content = run_files.read(root / "config/equations.yaml", "laws", "equations")
    listed, claims = content["rows"], content["claims"]
    named = [law for row in listed for law in row["laws"]] + [law for asserted in claims.values() for law in asserted]
    if missing := [law for law in named if law not in laws]:
        raise LedgerError(f"{path}: has no law {missing[0]}; run {COMMAND} again")
    rows = [_row(row, laws) for row in listed]
    shown = [_shown(law) for law in laws.values()]
    counts = {
        status: sum(law["status"] == status for law in laws.values()) for status in ("proved", "tested", "refuted")
    }
    false = sum(row["kind"] == "false" for row in rows)
    found = {"profile": document["profile"], "rows": rows, "laws": shown, "counts": counts, "false": false}
    found["claims"] = claims
    return {"found": found, "gap": "", "command": COMMAND}


def _row(row: Mapping[str, Any], laws: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    claim, mine = laws[row["claim"]], [laws[law] for law in row["laws"]]

    def of(role: str) -> list[dict[str, str]]:
        return [_shown(law) for law in mine if law["role"] == role and law["status"] in TRUE]

    kind, verdict = _verdict(claim, bool(of("condition")))
    return {
        "equation": row["equation"],
        "part": row["part"] or "",
        "says": row["says"],
        "kind": kind,
        "verdict": verdict,
        "claim": _shown(claim),
        "counterexample": counterexample(claim),
        "also_refuted": [
            _shown(law) | {"counterexample": counterexample(law)}
            for law in mine
            if law["status"] == "refuted" and law is not claim
        ],
        "conditions": of("condition"),
        "instead": of("instead"),
    }


def _verdict(claim: Mapping[str, Any], conditions: bool) -> tuple[str, str]:
    """The verdict on a statement, `true`, `false`, `limited` or `open`, and its words."""
    status = claim["status"]
    if status in TRUE:
        return (
            ("limited", f"only where stated ({status})")
            if claim["role"] == "condition"
            else ("true", f"true ({status})")
        )
    if status == "refuted":
        return "false", "false in general" if conditions else "false"
    return "open", str(status)


def _shown(law: Mapping[str, Any]) -> dict[str, str]:
    return {
        "id": law["id"],
        "statement": law["statement"],
        "domain": law["domain"],
        "status": law["status"],
        "evidence": "; ".join(filter(None, (_evidence(law["evidence"], method) for method in METHODS))),
    }


def _evidence(evidence: list[Mapping[str, Any]], method: str) -> str:
    """One kind of evidence in a few words; empty where there is none of it."""
    mine = [entry for entry in evidence if entry["method"] == method]
    if not mine:
        return ""
    if method == "proof":
        count = sum(len(entry["shapes"]) for entry in mine)
        return f"{mine[0]['solver']}, {count} shape{'s' if count > 1 else ''}"
    if method == "induction":
        return f"induction over {len(mine[0]['lemmas'])} lemmas"
    if method == "counterexample":
        return f"smallest of {mine[0]['tried']} tried"
    error = mine[0].get("largest_relative_error")
    examples = f"{sum(entry['examples'] for entry in mine)} cases"
    return examples if error is None else f"{examples}, error {f'≤ {error:.0e}' if error else '0'}"


def counterexample(law: Mapping[str, Any]) -> str:
    """A refuted law's values and what its two sides come to, as Typst mathematics; empty where there is none."""
    for entry in law["evidence"]:
        if "values" in entry:
            values = ", ".join(f"{_named(name, value)} = {numbers(value)}" for name, value in entry["values"].items())
            return f"{values}: quad {numbers(entry['left'])} != {numbers(entry['right'])}"
    return ""


def _named(name: str, value: Any) -> str:
    """A variable's name in Typst: weights of one entry are small letters, matrices are capitals."""
    weight = name[0] in "wv" and isinstance(_squeezed(value), list)
    return NAMES.get(name, name.upper() if weight else name)


def _squeezed(value: Any) -> Any:
    """A nested list without its axes of length one in front."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def numbers(value: Any) -> str:
    """A number, vector or matrix as Typst mathematics; axes of length one in front are left out."""
    value = _squeezed(value)
    if not isinstance(value, list):
        return str(value)
    if not isinstance(value[0], list):
        return f"({', '.join(map(str, value))})"
    return f"mat({'; '.join(', '.join(numbers(entry) for entry in row) for row in value)})"

"""Every law decided from its evidence, as a document, and compared with the statuses that are expected of it."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from lat.proofs.law import FAILURES, PROFILES, Evidence, Finding, Law, LawError, Profile

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = "config/equations.yaml"


def profile(name: str) -> Profile:
    """The profile of that name. Raises LawError for another."""
    if name not in PROFILES:
        raise LawError(f"profile: {name!r} is not known; use one of {', '.join(PROFILES)}")
    return PROFILES[name]


def verify(
    laws: Iterable[Law], profile: Profile, report: Callable[[Mapping[str, Any]], None] = lambda entry: None
) -> dict[str, Any]:
    """Decide the laws in their order: `{"profile", "laws"}`, an entry a law as `schemas/equations.schema.yaml` has it.

    `report` hears of each entry. Raises LawError where two laws share an id.
    """
    found: dict[str, str] = {}
    entries = []
    for law in laws:
        if law.id in found:
            raise LawError(f"{law.id}: stands twice; give one of the laws another id")
        findings = [_gathered(law, evidence, profile, found) for evidence in law.evidence]
        found[law.id] = status(findings)
        entries.append(
            {
                "id": law.id,
                "equation": law.equation,
                "role": law.role,
                "statement": law.statement,
                "domain": law.domain,
                "status": found[law.id],
                "evidence": [dict(finding.figures) for finding in findings],
            }
        )
        report(entries[-1])
    return {"profile": profile.name, "laws": entries}


def status(findings: Iterable[Finding]) -> str:
    """What the evidence comes to together: its first failure, else refuted, proved or tested; `unsupported` for none.

    A law whose evidence says both that it is true and that it is false is contradicted.
    """
    each = [finding.status for finding in findings]
    if failures := [entry for entry in each if entry in FAILURES]:
        return failures[0]
    if "refuted" in each:
        return "refuted" if set(each) == {"refuted"} else "contradicted"
    return "proved" if "proved" in each else "tested" if each else "unsupported"


def _gathered(law: Law, evidence: Evidence, profile: Profile, found: Mapping[str, str]) -> Finding:
    """What a piece of evidence found. An equation that raises on what its law gives it is contradicted."""
    try:
        return evidence.gather(law, profile, found)
    except Exception as error:  # whatever the code of an equation raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        return Finding("contradicted", {"method": "error", "failure": f"{type(error).__name__}: {error} ({place})"})


def expected(path: Path | None = None) -> dict[str, str]:
    """The status expected of each law, by id, from `config/equations.yaml`. Raises LawError where it does not fit its
    schema or names a law twice.
    """
    path = path or ROOT / EXPECTED
    content = yaml.safe_load(path.read_text())
    complain(content, "laws", str(path.name))
    statuses: dict[str, str] = {}
    for row in content["rows"]:
        if twice := set(row["laws"]) & set(statuses):
            raise LawError(f"{path.name}: {min(twice)} stands twice; leave one out")
        statuses |= row["laws"]
    return statuses


def differences(document: Mapping[str, Any], expected: Mapping[str, str]) -> list[str]:
    """A sentence for each law whose status is not the expected one, in either direction, or that only one side has."""
    found = {entry["id"]: entry["status"] for entry in document["laws"]}
    wrong = [
        f"{law}: {found[law]}, but {expected[law]} is expected"
        for law in found
        if found[law] != expected.get(law, found[law])
    ]
    wrong += [
        f"{law}: {found[law]}, but {EXPECTED} does not name it; add it there" for law in found if law not in expected
    ]
    return wrong + [f"{law}: {EXPECTED} names it, but there is no such law" for law in expected if law not in found]


def complain(content: Any, schema: str, name: str) -> None:
    """Raises LawError where `content` does not fit `workflow/schemas/<schema>.schema.yaml`, naming the key."""
    errors = sorted(_validator(schema).iter_errors(content), key=lambda error: error.json_path)
    if errors:
        raise LawError(f"{name}: {errors[0].json_path}: {errors[0].message}")


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(yaml.safe_load((ROOT / f"workflow/schemas/{name}.schema.yaml").read_text()))

"""A claims file that contradicts the tables or itself is refused by claim, key and value, before anything is judged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lat.claims import consistency
from lat.claims.printed import Printed
from lat.run_files import RunError
from lat.tables import load_tables

ROOT = Path(__file__).resolve().parents[2]
CONTENT: dict[str, Any] = yaml.safe_load((ROOT / "config/claims.yaml").read_text())
PRINTED = Printed.of(load_tables(ROOT / "config/tables.yaml"))
ONE, LATER = "single_layer_beats_undefended_4fc", "noise_gives_reported_adv_input"


def claim(content: dict[str, Any], name: str = ONE) -> dict[str, Any]:
    return next(entry for entry in content["claims"] if entry["id"] == name)


def row(content: dict[str, Any], table: str, label: str, name: str = ONE) -> None:
    claim(content, name)["comparisons"][0]["reference"].update(table=table, row=label)


SPOILT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "row": (lambda c: row(c, "table_2", "FC Layer-9"), f"{ONE}.comparisons: 'FC Layer-9' is no row of table_2; it has"),
    "other network": (lambda c: row(c, "table_8", "All-o"), f"{ONE}.comparisons: .* are several networks"),
    "printed": (
        lambda c: row(c, "table_2", "Undirected noise", LATER),
        f"{LATER}.comparisons: 'Undirected noise' has no printed number",
    ),
    "judged on": (lambda c: row(c, "table_2", "Undirected noise"), f"{ONE}.judged_on: 'reported' cannot be"),
    "family": (lambda c: claim(c).update(family="table_3"), f"{ONE}.family: 'table_3' is the table of none .* table_2"),
    "margin": (lambda c: claim(c).update(margin=9), f"{ONE}.margin: 9 is not that of"),
    "wording": (lambda c: claim(c).update(wording="mild"), f"{ONE}.wording: 'mild' is not among .* 'plain'"),
    "test": (lambda c: claim(c).update(test="one_sample_t"), f"{ONE}.test: 'one_sample_t' .* write paired_t"),
    "other test": (lambda c: claim(c, LATER).update(test="paired_t"), f"{LATER}.test: .* write one_sample_t"),
    "column": (lambda c: claim(c)["columns"].append("worst_case"), f"{ONE}.columns: 'worst_case' is a column"),
    "member": (
        lambda c: claim(c, "combination_is_excellent")["members"].append("nosuch"),
        "combination_is_excellent.members: 'nosuch' is no claim's id",
    ),
    "conjunction": (
        lambda c: claim(c, "combination_is_excellent")["members"].append("random_eps_helps_both"),
        "combination_is_excellent.members: 'random_eps_helps_both' is a conjunction itself",
    ),
    "question": (lambda c: c["questions"][0]["answers"].update(nosuch="so"), "questions: 'nosuch' is no claim's id"),
    "twice": (lambda c: c["claims"].append(copy.deepcopy(claim(c))), f"claim '{ONE}' stands 2 times"),
}


def test_the_claims_of_the_project_are_consistent() -> None:
    consistency.check(CONTENT, PRINTED, "claims.yaml")


@pytest.mark.parametrize("name", SPOILT)
def test_a_slip_is_named_by_claim_key_and_value(name: str) -> None:
    spoil, message = SPOILT[name]
    content = copy.deepcopy(CONTENT)
    spoil(content)
    with pytest.raises(RunError, match=f"claims.yaml.*{message}"):
        consistency.check(content, PRINTED, "claims.yaml")

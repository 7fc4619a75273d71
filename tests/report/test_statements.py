"""The section "The equations": verdicts, counterexamples and evidence as `lat verify` found them, and its gap."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lat import proofs, report, statements
from lat.ledger import LedgerError
from lat.measured import Plan

ROOT = Path(report.ROOT)
ROWS = yaml.safe_load((ROOT / "config/equations.yaml").read_text())["rows"]


@pytest.fixture
def folder(verified: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "equations.json").write_text(json.dumps(verified))
    return tmp_path


def rows(folder: Path) -> dict[tuple[int, str], dict[str, Any]]:
    return {(row["equation"], row["part"]): row for row in statements.read(folder, ROOT)["found"]["rows"]}


def test_every_statement_of_the_paper_has_the_verdict_of_its_law(folder: Path) -> None:
    found = statements.read(folder, ROOT)["found"]
    assert [(row["equation"], row["says"]) for row in found["rows"]] == [(row["equation"], row["says"]) for row in ROWS]
    for row, listed in zip(found["rows"], ROWS, strict=True):
        refuted = listed["laws"][listed["claim"]] == "refuted"
        assert (row["kind"] == "false") == refuted == bool(row["counterexample"])
    assert found["false"] == sum(row["laws"][row["claim"]] == "refuted" for row in ROWS)
    assert sum(found["counts"].values()) == len(found["laws"]) == len(proofs.LAWS)


def test_conditions_make_a_false_statement_false_in_general_only(folder: Path) -> None:
    found = rows(folder)
    assert found[6, ""]["verdict"] == "false in general"
    assert found[6, "regularisation"]["verdict"] == "false"
    assert found[5, ""]["verdict"] == "true (proved)"
    assert found[5, "training"]["verdict"] == "only where stated (tested)"
    assert [law["status"] for law in found[6, ""]["conditions"]] == ["proved"] * 4
    assert {law["domain"] for law in found[14, "conclusion"]["instead"]} == {
        law.domain for law in proofs.LAWS if law.id == "14.unflipped"
    }


def test_a_counterexample_is_printed_with_both_sides(folder: Path) -> None:
    found = rows(folder)
    assert found[6, ""]["counterexample"] == "W = mat(-1; 1), g = (1, 2), epsilon = 1: quad (-1, 1) != (1, 1)"
    assert found[14, ""]["counterexample"] == "w_1 = 1, b_1 = 0, w_2 = 1, x = 0, r = 1: quad 1 != 0"


def test_evidence_is_counted(folder: Path) -> None:
    found = rows(folder)
    bound = r"Z3 [\d.]+, 5 shapes; 25 cases, error (0|≤ \de-\d\d)"
    assert re.fullmatch(bound, found[6, ""]["instead"][0]["evidence"])
    assert re.fullmatch(r"10 cases, error (0|≤ \de-\d\d)", found[5, "training"]["claim"]["evidence"])
    assert re.fullmatch(r"smallest of \d+ tried", found[6, ""]["claim"]["evidence"])
    assert "induction over 6 lemmas; 10 cases" in found[7, ""]["instead"][3]["evidence"]


def test_a_law_that_failed_is_neither_true_nor_false(verified: dict[str, Any], tmp_path: Path) -> None:
    laws = [
        law | ({"status": "undecided", "evidence": []} if law["id"] == "10.definition" else {})
        for law in verified["laws"]
    ]
    (tmp_path / "equations.json").write_text(json.dumps(verified | {"laws": laws}))
    assert (rows(tmp_path)[10, ""]["kind"], rows(tmp_path)[10, ""]["verdict"]) == ("open", "undecided")


def test_the_document_lies_in_an_exported_run_or_beside_the_runs(folder: Path) -> None:
    assert statements.read(folder / "a_run", ROOT) == statements.read(folder, ROOT)


def test_a_missing_document_is_a_gap_with_its_command(tmp_path: Path) -> None:
    found = statements.read(tmp_path / "none" / "run", ROOT)
    assert found == {"found": None, "gap": "equations.json is missing", "command": "make verify"}


def test_a_document_that_lacks_a_law_is_an_error(verified: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "equations.json").write_text(json.dumps(verified | {"laws": verified["laws"][1:]}))
    with pytest.raises(LedgerError, match=r"has no law 5\.identity; run make verify again"):
        statements.read(tmp_path, ROOT)


def test_the_report_sets_every_law(
    made: Callable[..., Any], written: Callable[..., Plan], folder: Path, tmp_path: Path
) -> None:
    """Typst refuses mathematics that it cannot read, so every statement and counterexample has been set."""
    plan = written(made(cells=("dnn",), scales=(("wide", 256, 1),)), folder)
    output = report.build(plan, folder, tmp_path / "made.pdf")
    assert output.read_bytes().startswith(b"%PDF")
    content = json.loads((tmp_path / "build/made/report.json").read_text())
    assert content["equations"] == statements.read(folder, ROOT)

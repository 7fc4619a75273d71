"""Claims of theory follow the equation ledger, law by law."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lat import claims, statements, tables
from lat.ledger import COLUMNS
from lat.measured import Ledger, Plan

ROOT = Path(__file__).resolve().parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "config/claims.yaml").read_text())


def theory(verified: dict[str, Any], folder: Path, **statuses: str) -> dict[str, dict[str, Any]]:
    """The verdicts of theory by the ledger with some laws' statuses changed."""
    laws = [law | {"status": statuses.get(law["id"].replace(".", "_"), law["status"])} for law in verified["laws"]]
    (folder / "equations.json").write_text(json.dumps(verified | {"laws": laws}))
    equations = statements.read(folder, ROOT)["found"]
    empty = Ledger.of(pd.DataFrame(columns=list(COLUMNS)))
    described = tables.load_tables(ROOT / "config/tables.yaml")
    only = [entry for entry in FILE["claims"] if entry["kind"] == "theory"]
    (folder / "claims.yaml").write_text(yaml.safe_dump(FILE | {"claims": only, "questions": []}))
    found = claims.judge(folder / "claims.yaml", described, empty, Plan("none", {}, (), {}), folder, equations)
    return {entry["id"]: entry["measured"] for entry in found}


def test_theory_follows_the_equation_ledger(verified: dict[str, Any], tmp_path: Path) -> None:
    found = theory(verified, tmp_path)
    assert found["linear_layer_shifts_by_wr"]["verdict"] == "holds"
    assert found["perturbation_is_l0_regulariser"]["reason"] == "refuted: 6.l_0"
    assert found["optimisation_attacks_alike"]["verdict"] == "not_judged"
    weight = found["weight_moves_inside_relu"]
    assert (weight["verdict"], "11.scalar" in {law["id"] for law in weight["true_where"]}) == ("fails", True)
    changed = theory(verified, tmp_path, **{"5_identity": "refuted", "6_l_0": "proved", "8_equality": "undecided"})
    assert changed["linear_layer_shifts_by_wr"]["verdict"] == "fails"
    assert changed["perturbation_is_l0_regulariser"]["verdict"] == "holds"
    assert changed["single_convolution_form"]["verdict"] == "undecided"


def test_every_claim_of_theory_names_its_laws_among_its_equations() -> None:
    asserted = yaml.safe_load((ROOT / "config/equations.yaml").read_text())["claims"]
    claimed = {entry["id"]: entry["equations"] for entry in FILE["claims"] if entry["kind"] == "theory"}
    assert list(asserted) == list(claimed)
    for name, laws in asserted.items():
        assert {int(law.split(".")[0]) for law in laws} <= set(claimed[name]), name

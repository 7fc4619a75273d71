"""The paper's claims on its own printed numbers: against an independent derivation, and by the page's own words."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from lat import claims, tables
from lat.ledger import COLUMNS
from lat.measured import Ledger, Plan

ROOT = Path(__file__).resolve().parents[2]
CONTENT: dict[str, Any] = yaml.safe_load((ROOT / "config/claims.yaml").read_text())
EMPIRICAL = {claim["id"]: claim for claim in CONTENT["claims"] if "reported" in claim.get("judged_on", [])}
SLIP = ("9", "Conv-all", "cw")


@cache
def judged() -> dict[str, dict[str, Any]]:
    """Every claim judged without a ledger."""
    described = tables.load_tables(ROOT / "config/tables.yaml")
    ledger, plan = Ledger.of(pd.DataFrame(columns=list(COLUMNS))), Plan("none", {}, (), {})
    found = claims.judge(ROOT / "config/claims.yaml", described, ledger, plan, ROOT / "nowhere", None)
    return {claim["id"]: claim for claim in found}


@cache
def printed() -> dict[tuple[str, str, str], int]:
    """The second transcription, in images of 10,000, by (table, row without blanks, column)."""
    with (ROOT / "tests/config/reported.tsv").open(newline="") as file:
        return {
            (row["table"].removeprefix("table_"), row["row"].replace(" ", ""), column): round(10_000 * float(value))
            for row in csv.DictReader(file, delimiter="\t")
            for column, value in row.items()
            if column not in ("table", "row")
        }


def derived(claim: dict[str, Any]) -> str:
    """The verdict by whole images and the file's own expressions: margin and resolution times 100."""
    margin, resolution = 100 * claim["margin"], round(100 * CONTENT["rules"]["reported"]["resolution"])
    expressions = CONTENT["rules"]["directions"][claim["direction"]]

    def one(subject: dict[str, str], reference: dict[str, str], column: str) -> str:
        keys = [
            (side["table"].removeprefix("table_"), side["row"].replace(" ", ""), column)
            for side in (subject, reference)
        ]
        if SLIP in keys:
            return "left out"
        difference = printed()[keys[0]] - printed()[keys[1]]
        if abs(abs(difference) - margin) <= resolution:
            return "undecided"  # every limit of the file is the margin or minus it; no claim's difference is near both
        names = {"low": difference, "high": difference, "m": margin}
        return next(verdict for verdict, text in expressions.items() if eval(text, {}, names))

    def join(quantifier: str, parts: list[str]) -> str:
        enough, needed = ("fails", "holds") if quantifier == "all" else ("holds", "fails")
        return enough if enough in parts else needed if set(parts) == {needed} else "undecided"

    rows = []
    for pair in claim["comparisons"]:
        parts = [one(pair["subject"], pair["reference"], column) for column in claim["columns"]]
        rows.append(join(claim["quantifier"], [part for part in parts if part != "left out"]))
    return join(claim["over_comparisons"], rows)


@pytest.mark.parametrize("name", EMPIRICAL)
def test_the_verdict_on_printed_numbers_is_an_independent_derivation_s(name: str) -> None:
    assert judged()[name]["reported"]["verdict"] == derived(EMPIRICAL[name])


@pytest.mark.parametrize(
    ("name", "verdict", "figure"),
    [
        ("all_layers_with_input_best_3conv2fc", "fails", "All-w − All-o"),  # Table VII: All-o wins on all five
        ("all_layers_with_input_best_4fc", "fails", "MLPw − FC-3&4, PGD"),
        ("three_layers_beat_two_4fc", "fails", "MLPo − FC-3&4"),
        ("all_layers_with_input_best_vgg16", "fails", "All-w − All-o, EoT"),
        ("several_layers_beat_one_4fc", "fails", "FC-2&3 − FC Layer-4"),
        ("closer_conv_layer_better_3conv2fc", "fails", "Conv-3 − Conv-2"),
        ("conv_layer_beats_conventional_3conv2fc", "fails", "Conv-3 − Adv-input, FGSM"),
        ("constant_eps_layerwise_beats_conventional", "fails", "one layer-f − Adv-input, FGSM"),
        ("all_layers_with_input_best_wrn28_10", "undecided", "+0.05 points: All-w − All-o, EoT"),  # five images
        ("random_eps_helps_conventional_4fc", "not_judged", ""),  # no row shows it
        ("layerwise_beats_conventional_wrn28_10", "holds", ""),
    ],
)
def test_the_tables_contradict_the_text_where_a_reader_found_it(name: str, verdict: str, figure: str) -> None:
    found = judged()[name]["reported"]
    assert found["verdict"] == verdict
    assert figure in found["text"]


def test_a_slip_counts_neither_way() -> None:
    comparisons = judged()["layerwise_beats_conventional_wrn28_10"]["reported"]["comparisons"]
    columns = {entry["subject"]: [part["column"] for part in entry["parts"]] for entry in comparisons}
    assert columns["Conv-all"] == ["fgsm", "ifgsm", "pgd", "eot"]
    assert columns["All-o"] == ["fgsm", "ifgsm", "pgd", "eot", "cw"]


def test_a_conjunction_fails_by_one_member_and_waits_for_one_that_is_not_judged() -> None:
    found = {name: claim["reported"] for name, claim in judged().items() if claim["kind"] == "conjunction"}
    assert found["all_layers_with_input_best"]["verdict"] == "fails"
    assert found["layerwise_defends_against_every_attack"]["verdict"] == "holds"
    assert found["random_eps_helps_both"]["verdict"] == "undecided"  # two of three have no printed figures
    assert found["layerwise_survives_proper_baselines"]["verdict"] == "not_judged"


def test_without_a_run_nothing_is_judged_on_measured_figures() -> None:
    assert {claim["measured"]["verdict"] for claim in judged().values()} == {"not_judged"}
    assert all(claim["measured"]["reason"] for claim in judged().values() if claim["kind"] != "conjunction")

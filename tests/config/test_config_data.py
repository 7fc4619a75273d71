"""The paper's tables, the grid, the claims and the assumptions: each is well formed, and they agree with each other."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from lat.cells import Cell, Law, Reading, Schedule
from lat.models import MODELS, build
from lat.models.layer_sets import layer_set
from lat.sites import PERTURBABLE

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("clean", "fgsm", "ifgsm", "pgd", "eot", "cw")
READING = ("form", "scope", "pairing", "gradient", "at", "reset", "source")
NAMES = ("cells", "tables", "claims", "assumptions")


def read(name: str) -> Any:
    """The parsed file of that name: the rows of cells.tsv as dictionaries of strings, the others as YAML gives them."""
    if name == "cells":
        with (ROOT / "config" / "cells.tsv").open(newline="") as file:
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())


@cache
def validator(name: str) -> Draft202012Validator:
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / f"{name}.schema.yaml").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def complaints(name: str, content: Any) -> list[str]:
    """What the schema of that name has against the content, as messages."""
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(content)]


CELLS: dict[str, dict[str, str]] = {row["cell"]: row for row in read("cells")}
TABLES: dict[str, dict[str, Any]] = {table["id"]: table for table in read("tables")["tables"]}
CLAIMS: dict[str, dict[str, Any]] = {claim["id"]: claim for claim in read("claims")["claims"]}
RULES: dict[str, Any] = read("claims")["rules"]
ASSUMPTIONS: list[dict[str, Any]] = read("assumptions")["assumptions"]
PRINTED = {(table["id"], row["row"]): row for table in TABLES.values() for row in table["rows"]}
EVERY = PRINTED | {(table["id"], row["row"]): row for table in TABLES.values() for row in table["extra"]}
SLIPS = {
    (table["id"], note["row"], note["column"])
    for table in TABLES.values()
    for note in table["notes"]
    if note["kind"] == "slip"
}
DEFAULT = {name: row for name, row in CELLS.items() if not name.endswith("_best")}
EMPIRICAL = {name: claim for name, claim in CLAIMS.items() if claim["kind"] == "empirical"}


def operands(claim: dict[str, Any]) -> list[dict[str, str]]:
    return [side for pair in claim["comparisons"] for side in (pair["subject"], pair["reference"])]


def key(operand: dict[str, str]) -> tuple[str, str]:
    return operand["table"], operand["row"]


# The schemas


@pytest.mark.parametrize("name", NAMES)
def test_the_file_fits_its_schema(name: str) -> None:
    assert complaints(name, read(name)) == []


def anywhere(content: Any) -> list[dict[str, Any]]:
    """Every mapping inside the content, itself included."""
    if isinstance(content, dict):
        return [content, *(found for value in content.values() for found in anywhere(value))]
    return [found for value in content for found in anywhere(value)] if isinstance(content, list) else []


def one_of_each_shape(content: Any) -> Any:
    """The content with its lists cut down to one mapping of each set of keys."""
    if isinstance(content, dict):
        return {name: one_of_each_shape(value) for name, value in content.items()}
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return [one_of_each_shape(value) for value in {tuple(value): value for value in content}.values()]
    return content


@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_no_schema_knows_is_named_at_every_depth(name: str) -> None:
    sample = one_of_each_shape(read(name))
    assert complaints(name, sample) == []
    for mapping in anywhere(sample):
        mapping["Epsilom"] = "0.1"
        assert any("Epsilom" in message for message in complaints(name, sample)), mapping
        del mapping["Epsilom"]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("tables", lambda content: content["tables"][0]["rows"][0]["reported"].update(pgd=1.2)),
        ("tables", lambda content: content["tables"][0]["rows"][0]["reported"].pop("cw")),
        ("cells", lambda content: content[0].update(form="closed")),
        ("cells", lambda content: next(row for row in content if row["cell"] == "fc_2").update(layers="-")),
        ("cells", lambda content: content[1].update(input_law="-")),
        ("cells", lambda content: content[0].update(method="fgsm+pgd")),
        ("cells", lambda content: content[0].update(statistics="-")),
        ("claims", lambda content: next(c for c in content["claims"] if c["kind"] == "empirical").pop("margin")),
        ("claims", lambda content: content["rules"]["measured"].update(level=95)),
        ("claims", lambda content: content["claims"][0].update(added={"date": "24 November", "measured": True})),
        ("claims", lambda content: content["questions"][0].update(answers={})),
        ("assumptions", lambda content: content["assumptions"][1].pop("not_run")),
        ("assumptions", lambda content: content["assumptions"][0].update(not_run="although it is run")),
    ],
)
def test_the_schema_rejects(name: str, spoil: Callable[[Any], Any]) -> None:
    content = copy.deepcopy(read(name))
    spoil(content)
    assert complaints(name, content)


def test_a_method_whose_name_holds_another_s_needs_nothing_of_it() -> None:
    content = copy.deepcopy(read("cells"))
    plain = next(row for row in content if row["cell"] == "dnn")
    for method in ("layerwise_own", "fgsm_own", "pgd_own"):
        plain["method"] = method
        assert complaints("cells", content) == []
    plain["method"] = "fgsm_own+layerwise"
    assert complaints("cells", content)


# The tables


def test_the_tables_are_the_papers_nine_in_order() -> None:
    assert list(TABLES) == [f"table_{number}" for number in range(1, 10)]
    assert [table["roman"] for table in TABLES.values()] == ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"]


@pytest.mark.parametrize("table", TABLES)
def test_row_labels_are_unique_and_notes_point_at_rows(table: str) -> None:
    labels = [row["row"] for row in (*TABLES[table]["rows"], *TABLES[table]["extra"])]
    assert len(labels) == len(set(labels))
    assert {note["row"] for note in TABLES[table]["notes"]} <= {row["row"] for row in TABLES[table]["rows"]}


def test_the_transcription_equals_an_independent_one() -> None:
    with (ROOT / "tests" / "config" / "reported.tsv").open(newline="") as file:
        second = list(csv.DictReader(file, delimiter="\t"))
    theirs = {
        (f"table_{row['table'].removeprefix('table_')}", row["row"].replace(" ", ""), column): float(row[column])
        for row in second
        for column in COLUMNS
    }
    assert len(theirs) == len(second) * len(COLUMNS), "the second transcription names a row twice"
    ours = {
        (table, row.replace(" ", ""), column): float(entry["reported"][column])
        for (table, row), entry in PRINTED.items()
        for column in COLUMNS
    }
    both = sorted(ours.keys() | theirs.keys())
    differing = {cell: (ours.get(cell), theirs.get(cell)) for cell in both if ours.get(cell) != theirs.get(cell)}
    assert differing == {}, "cells whose two transcriptions (config/tables.yaml, reported.tsv) differ"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("table_1", "one layer-r"), ("table_2", "FC Layer-2")),
        (("table_1", "two layers-r"), ("table_3", "FC-2&3")),
        (("table_6", "Conv-2&3"), ("table_7", "Conv-o")),
        (("table_6", "Conv-2&3+FC-1&2"), ("table_7", "All-o")),
    ],
)
def test_rows_that_the_paper_prints_twice_agree_and_share_a_cell(one: tuple[str, str], other: tuple[str, str]) -> None:
    for field in ("reported", "cell", "best"):
        assert PRINTED[one][field] == PRINTED[other][field]


def test_no_attack_raises_accuracy_above_clean_but_in_a_noted_slip() -> None:
    above = {
        (*row, column)
        for row, entry in PRINTED.items()
        for column in COLUMNS
        if entry["reported"][column] > entry["reported"]["clean"]
    }
    assert above == SLIPS == {("table_9", "Conv-all", "cw")}


def test_eot_above_pgd_is_remarked_on_in_tables_iii_to_vii() -> None:
    remarked = {(t["id"], note["row"]) for t in TABLES.values() for note in t["notes"] if note["kind"] == "remark"}
    odd = {row for row, entry in PRINTED.items() if entry["reported"]["eot"] > entry["reported"]["pgd"]}
    assert {row for row in odd if row[0] in {"table_3", "table_4", "table_6", "table_7"}} <= remarked
    assert remarked <= odd


# The grid


def test_every_row_of_every_table_has_a_cell() -> None:
    for (table, row), entry in EVERY.items():
        assert entry["cell"] in CELLS, (table, row, entry["cell"])


def test_rows_that_the_paper_prints_with_equal_numbers_are_one_cell() -> None:
    """Conv-2&3 = Conv-o, Conv-2&3+FC-1&2 = All-o, and so on: within one network equal lines are one training."""
    for (table, row), entry in PRINTED.items():
        for (other_table, other_row), other in PRINTED.items():
            if TABLES[table]["model"] == TABLES[other_table]["model"]:
                same = entry["reported"] == other["reported"]
                assert (entry["cell"] == other["cell"]) == same, (row, other_row)


def test_every_cell_is_shown_in_some_table_or_named_in_a_run_file() -> None:
    shown = {entry[field] for entry in EVERY.values() for field in ("cell", "best")}
    scales = [
        scale
        for path in (ROOT / "config").glob("*.yaml")
        for scale in (yaml.safe_load(path.read_text()) or {}).get("scales", [])
    ]
    named = {cell for scale in scales if isinstance(scale["cells"], list) for cell in scale["cells"]}
    assert set(CELLS) <= shown | named


def test_the_favourable_rows_are_named_after_their_cells_and_come_all_or_none() -> None:
    best = {entry["cell"]: entry["best"] for entry in EVERY.values() if entry["best"]}
    assert best == {cell: f"{cell}_best" for cell in best}
    printed = {entry["cell"] for entry in PRINTED.values()}
    assert {name for name in printed if "layerwise" in CELLS[name]["method"]} <= set(best)
    for model in {table["model"] for table in TABLES.values()}:
        rows = [entry for (table, _), entry in EVERY.items() if TABLES[table]["model"] == model and entry["best"]]
        layerwise = {entry["best"] for entry in rows if "layerwise" in CELLS[entry["cell"]]["method"]}
        assert not layerwise & set(CELLS) or layerwise <= set(CELLS)


def test_cell_names_are_unique() -> None:
    names = [row["cell"] for row in read("cells")]
    assert len(names) == len(set(names))


def resolved(row: dict[str, str]) -> Cell:
    def law(prefix: str) -> Law | None:
        kind = row[f"{prefix}law"]
        return None if kind == "-" else Law(kind, float(row[f"{prefix}radius"]), row[f"{prefix}draw"])

    layers = () if row["layers"] == "-" else tuple(row["layers"].split(","))
    reading = None if row["form"] == "-" else Reading(*(row[axis] for axis in READING))
    mix = row["mix"] == "yes"
    made = Cell("mnist", "vgg16", 10, row["method"], layers, law(""), reading, law("input_"), mix, Schedule(200))
    return replace(made, statistics=row["statistics"])


@pytest.mark.parametrize(("table", "row"), EVERY)
def test_the_layers_of_a_row_are_layers_or_sets_of_its_table_s_network(table: str, row: str) -> None:
    model = build(TABLES[table]["model"], (1, 28, 28), 10, 2, seed=0)
    layers = resolved(CELLS[EVERY[table, row]["cell"]]).layers
    assert all(isinstance(module, PERTURBABLE) for module in map(model.get_submodule, layer_set(model, layers)))


def test_no_two_rows_of_the_default_reading_are_one_cell() -> None:
    digests = [resolved(row).digest for row in DEFAULT.values()]
    assert len(digests) == len(set(digests))


def test_the_defaults_of_the_layerwise_rows_are_the_papers_algorithm() -> None:
    for name, row in DEFAULT.items():
        if "layerwise" in row["method"]:
            assert resolved(row).reading == Reading("closed", "local", "slot", "detached", "output", "epoch")
            assert resolved(row).law == Law("fixed" if name.endswith("_fixed") else "normal", 0.1, "sample")


# The claims


def test_claim_ids_are_unique() -> None:
    names = [claim["id"] for claim in read("claims")["claims"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", EMPIRICAL)
def test_every_row_that_a_claim_names_exists(name: str) -> None:
    for operand in operands(EMPIRICAL[name]):
        assert key(operand) in EVERY, operand


@pytest.mark.parametrize("name", EMPIRICAL)
def test_a_claim_compares_two_different_rows_of_one_network(name: str) -> None:
    for pair in EMPIRICAL[name]["comparisons"]:
        subject, reference = pair["subject"], pair["reference"]
        assert "value" not in subject
        cells = EVERY[key(subject)]["cell"], EVERY[key(reference)]["cell"]
        assert key(subject) != key(reference) or "value" in reference
        assert cells == (None, None) or cells[0] != cells[1] or "value" in reference
        assert TABLES[subject["table"]]["model"] == TABLES[reference["table"]]["model"]
        assert TABLES[subject["table"]]["dataset"] == TABLES[reference["table"]]["dataset"]


@pytest.mark.parametrize("name", EMPIRICAL)
def test_a_claim_judged_on_printed_numbers_has_them(name: str) -> None:
    claim = EMPIRICAL[name]
    if "reported" in claim["judged_on"]:
        assert all(key(operand) in PRINTED for operand in operands(claim))
        assert "worst_case" not in claim["columns"]
        assert claim["direction"] != "within"
    printed = [pair["reference"] for pair in claim["comparisons"] if "value" in pair["reference"]]
    assert all(key(operand) in PRINTED for operand in printed)
    assert (claim["test"] == "one_sample_t") == bool(printed)
    assert len(printed) in {0, len(claim["comparisons"])}
    assert not printed or "worst_case" not in claim["columns"]


@pytest.mark.parametrize("name", EMPIRICAL)
def test_margin_family_and_source_are_consistent(name: str) -> None:
    claim = EMPIRICAL[name]
    assert claim["margin"] == RULES["wordings"][claim["wording"]]
    assert claim["family"] in TABLES
    named = {TABLES[operand["table"]]["roman"] for operand in operands(claim)}
    assert not claim["source"]["tables"] or named <= set(claim["source"]["tables"])
    assert set(claim.get("readings", ["default", "favourable"])) <= set(RULES["measured"]["readings"])
    assert set(claim.get("scales", [])) <= {"calibrated", "wide"}


def test_a_conjunction_joins_claims_that_are_no_conjunctions() -> None:
    for claim in CLAIMS.values():
        for member in claim.get("members", []):
            assert CLAIMS[member]["kind"] in {"empirical", "unreported"}, member
            assert claim["origin"] == CLAIMS[member]["origin"]


def test_the_questions_are_answered_by_claims_of_this_project() -> None:
    answers = [name for entry in read("claims")["questions"] for name in entry["answers"]]
    assert {CLAIMS[name]["origin"] for name in answers} == {"project"}
    survives = CLAIMS["layerwise_survives_proper_baselines"]
    assert {survives["id"], *survives["members"]} <= set(answers)


def test_the_claims_that_came_later_say_so() -> None:
    added = {name: claim["added"]["measured"] for name, claim in CLAIMS.items() if "added" in claim}
    deep = [f"layerwise_beats_{baseline}_3conv2fc" for baseline in ("fgsm_fixed", "pgd_training", "undirected_noise")]
    for name in ("statistics_without_r_raise_clean_accuracy", "first_convolution_changes_little"):
        deep += [f"{name}_vgg16", f"{name}_wrn28_10"]
    assert added == {"layerwise_beats_interval_bound_training": True} | dict.fromkeys(deep, False)


def test_every_table_and_every_equation_has_a_claim() -> None:
    claims = [claim for claim in EMPIRICAL.values() if claim["origin"] == "paper"]
    assert {operand["table"] for claim in claims for operand in operands(claim)} == set(TABLES)
    equations = {number for claim in CLAIMS.values() for number in claim.get("equations", [])}
    assert equations == set(range(5, 15))


def test_every_row_beside_the_papers_is_compared_with_something() -> None:
    compared = {key(operand) for claim in EMPIRICAL.values() for operand in operands(claim)}
    assert EVERY.keys() - PRINTED.keys() <= compared


# The assumptions


def test_assumption_and_change_ids_are_unique() -> None:
    names = [entry["id"] for entry in ASSUMPTIONS]
    changes = [change["id"] for entry in ASSUMPTIONS for change in entry["sensitivity"] or []]
    assert len(names) == len(set(names))
    assert len(changes) == len(set(changes))


def test_every_change_of_the_sensitivity_study_changes_a_row_of_the_grid() -> None:
    run = {"model": "4fc", "batch": 128, "schedule": "steps"}
    grid = [CELLS[name] for name in ("dnn", "adv_input", "fc_4", "fc_34")]
    for entry in ASSUMPTIONS:
        for change in entry["sensitivity"] or []:
            for field, value in change["set"].items():
                if field in run:
                    assert value != run[field], change
                else:
                    assert any(row[field] not in {"-", str(value)} for row in grid), change
            assert change["set"].get("model", "4fc") in MODELS


def test_the_register_covers_every_axis_of_the_reading() -> None:
    changed = {field for entry in ASSUMPTIONS for change in entry["sensitivity"] or [] for field in change["set"]}
    assert {*READING, "law", "radius", "draw", "schedule"} <= changed


def test_tables_that_an_assumption_bites_exist() -> None:
    for entry in ASSUMPTIONS:
        assert {place for place in entry["bites"] if place.startswith("table_")} <= set(TABLES), entry["id"]

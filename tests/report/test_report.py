"""The PDF: complete, traced to the ledger, the same twice, and honest about what it lacks."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typst
import yaml

from lat import cli, rederived, report
from lat.audit_settings import FIXED_ATTACKS
from lat.cells import Compute
from lat.ledger import COLUMNS, LedgerError, Record, read_records, write_ledger
from lat.measured import Plan
from lat.rederived import Rederived

ROOT = Path(__file__).resolve().parents[2]
CELLS = ("dnn", "adv_input", "fc_2", "fc_4")
SCALES = (("calibrated", 10, 2), ("wide", 256, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def built(folder: Path, made: Callable[..., Any], written: Callable[..., Plan]) -> tuple[Path, Plan]:
    """A report on digits, with a diverged seed, an unfinished cell and no study."""
    run = made("digits", CELLS, SCALES)
    plan = written(run, folder, diverged=[("fc_4", "calibrated", 0)], skipped=["adv_input"])
    report.build(plan, folder, folder / "out.pdf")
    return folder, plan


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "build/out/report.json").read_text())


def placed(work: Path, selector: str) -> list[Any]:
    """What Typst finds in the report whose build folder is `work`."""
    return json.loads(typst.query(str(work / "report.typ"), selector, root=str(work), ignore_system_fonts=True))


def test_the_pdf_is_there_and_nothing_is_left_beside_it(built: tuple[Path, Plan]) -> None:
    assert (built[0] / "out.pdf").read_bytes().startswith(b"%PDF-")
    assert sorted(path.name for path in built[0].iterdir()) == ["build", "ledger.csv", "out.pdf", "records.jsonl"]


def test_equal_inputs_give_equal_bytes(built: tuple[Path, Plan], tmp_path: Path) -> None:
    again = report.build(built[1], built[0], tmp_path / "out.pdf")
    assert again.read_bytes() == (built[0] / "out.pdf").read_bytes()


def test_only_tables_with_measured_lines_are_drawn_as_dots(built: tuple[Path, Plan]) -> None:
    files = content(built[0])["figures"]["files"]
    assert [name for name in files if name.startswith("dots_")] == [f"dots_table_{n}.svg" for n in (1, 2)]
    shown = {image["source"] for image in placed(built[0] / "build/out", "image")}
    assert shown == {f"figures/{name}" for name in files}


def test_every_part_of_a_figure_of_curves_is_shown(built: tuple[Path, Plan], tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(built[0] / "build/out", work)
    shutil.copyfile(work / "figures/epsilon_1.svg", work / "figures/epsilon_2.svg")
    changed = content(built[0])
    changed["figures"]["files"] = sorted([*changed["figures"]["files"], "epsilon_2.svg"])
    (work / "report.json").write_text(json.dumps(changed))
    shown = [image["source"] for image in placed(work, "image")]
    assert [name for name in shown if "epsilon" in name] == ["figures/epsilon_1.svg", "figures/epsilon_2.svg"]


def test_a_family_of_readings_without_a_ranked_point_has_no_table(built: tuple[Path, Plan], tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(built[0] / "build/out", work)
    point = {"base": "adv_pgd", "changes": "", "rank": None, "text": {}}
    group = {"family": "pgd", "scale": "wide", "width": 256, "measured": 1, "asked": 10, "diverged": 1, "winner": None}
    counts = []
    for rank in (None, 1):
        changed = content(built[0])
        groups = [group | {"points": [point | {"rank": rank}]}]
        changed["studies"]["readings"]["found"] = {"columns": ["clean"], "images": None, "groups": groups}
        (work / "report.json").write_text(json.dumps(changed))
        counts.append(len(placed(work, "table")))
    assert counts[1] == counts[0] + 1


def test_assumptions_name_the_papers_tables_by_their_numbers(built: tuple[Path, Plan]) -> None:
    cells = json.dumps([table["children"] for table in placed(built[0] / "build/out", "table")])
    assert "VIII" in cells
    assert "table 8" not in cells


def test_the_report_says_that_intervals_are_not_cut(built: tuple[Path, Plan]) -> None:
    assert "is not cut at 0 or 100" in json.dumps(placed(built[0] / "build/out", "par"), ensure_ascii=False)


def plain(body: Any) -> str:
    """The text of what Typst has found."""
    if body.get("func") == "space":
        return " "
    inner = body.get("children") or [body[key] for key in ("child", "body") if key in body]
    return body["text"] if "text" in body else "".join(plain(part) for part in inner)


def headings(work: Path) -> list[str]:
    return [plain(heading["body"]) for heading in placed(work, "heading.where(level: 1)")]


def text_of(work: Path) -> str:
    return "\n".join(plain(paragraph["body"]) for paragraph in placed(work, "par"))


def test_every_section_is_there_in_order(built: tuple[Path, Plan]) -> None:
    assert [heading.split()[0] for heading in headings(built[0] / "build/out")] == [
        "What", "The", "The", "The", "How", "Calibration", "Calibration", "The", "Sensitivity", "Accuracy", "Training",
        "The", "Claims", "Assumptions", "Tables", "Provenance",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "smoke", "notice"),
    [
        ("digits", {}, "Data: digits."),
        ("mnist", {}, ""),
        ("mnist", {"smoke": "two steps."}, "Smoke test: two steps."),
    ],
)
def test_every_page_of_a_run_on_digits_or_for_smoke_says_that_no_claim_is_judged(
    built: tuple[Path, Plan], tmp_path: Path, dataset: str, smoke: dict[str, str], notice: str
) -> None:
    work = tmp_path / "work"
    shutil.copytree(built[0] / "build/out", work)
    changed = content(built[0])
    scales = tuple(dataclasses.replace(scale, dataset=dataset) for scale in built[1].scales)
    plan = dataclasses.replace(built[1], scales=scales, config={**built[1].config, **smoke})
    changed["run"]["notice"] = report.notice(plan)
    (work / "report.json").write_text(json.dumps(changed))
    pages = typst.compile(str(work / "report.typ"), root=str(work), format="svg", ignore_system_fonts=True)
    assert isinstance(pages, list)
    assert len(pages) > 5
    found = [entry["value"] for entry in placed(work, "<notice>")]
    assert found == ([notice] * len(pages) if notice else [])


def test_numbers_of_the_report_are_the_ledgers(built: tuple[Path, Plan], tmp_path: Path) -> None:
    folder, plan = built
    other = tmp_path / "run"
    other.mkdir()
    (other / "records.jsonl").write_bytes((folder / "records.jsonl").read_bytes())
    lines = []
    for line in (folder / "ledger.csv").read_text().splitlines():
        cells = line.split(",")
        if (cells[3], cells[14], cells[9], cells[10]) == ("dnn", "wide", "eot", "robust_accuracy"):
            cells[11] = "0.3141"
        lines.append(",".join(cells))
    (other / "ledger.csv").write_text("\n".join(lines) + "\n")
    before = content(folder)
    pdf = report.build(plan, other, tmp_path / "out.pdf", figures=folder / "build/out/figures")
    after = json.loads((tmp_path / "build/out/report.json").read_text())
    differences = list(changes(before, after))
    assert {place.split("/")[0] for place in differences} == {"tables"}
    assert any(place.endswith("/columns/eot/text") for place in differences)
    assert all("/columns/eot/" in place for place in differences)
    assert "31.4" in json.dumps(after["tables"])
    assert pdf.read_bytes() != (folder / "out.pdf").read_bytes()


def changes(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Places at which two JSON values differ."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        for key in before:
            yield from changes(before[key], after[key], f"{place}/{key}" if place else key)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, two) in enumerate(zip(before, after, strict=True)):
            yield from changes(one, two, f"{place}/{number}")
    elif before != after:
        yield place


@pytest.mark.parametrize("path", sorted((ROOT / "reports").glob("*.typ")), ids=lambda path: path.name)
def test_no_measured_number_is_typed_into_the_templates(path: Path) -> None:
    prose = re.sub(r"//.*", "", path.read_text())
    prose = re.sub(r"\d+(\.\d+)?(pt|cm|mm|em|in|fr|%)", "", prose)  # lengths
    prose = re.sub(r"rgb\([^)]*\)|\"\d\.\d\"", "", prose)  # colours, the numbering of headings
    found = re.findall(r"(?<![\w.])\d*\.\d+|\b\d+\s*(?:%|per cent|points|seeds|images|epochs)", prose)
    assert found == []


def test_the_search_for_typed_numbers_finds_one() -> None:
    assert re.findall(r"(?<![\w.])\d*\.\d+|\b\d+\s*(?:%|per cent)", "about 94.3 and 12 per cent") == [
        "94.3",
        "12 per cent",
    ]


def test_the_build_folder_can_lie_elsewhere(built: tuple[Path, Plan], tmp_path: Path) -> None:
    report.build(
        built[1], built[0], tmp_path / "a/out.pdf", folder=tmp_path / "b", figures=built[0] / "build/out/figures"
    )
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out.pdf"]
    assert (tmp_path / "b/report.json").is_file()


def test_a_run_without_tables_still_has_a_report(
    tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    run = made(cells=("dnn",), scales=[("width_8", 8, 1)])
    run.config["tables"]["show"].clear()
    report.build(written(run, tmp_path / "run"), tmp_path / "run", tmp_path / "out.pdf")
    assert content(tmp_path)["tables"] == []


def test_what_a_shorter_training_means_is_said_of_the_scales_that_are_shorter(
    built: tuple[Path, Plan], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(built[0] / "build/out", work)
    assert content(built[0])["run"]["paper_epochs"] == 200
    said = text_of(work)
    assert "calibrated has 4, 2 % of them; wide has 4, 2 % of them" in said
    data = content(built[0])
    for scale in data["run"]["scales"]:
        scale["epochs"] = 200
    (work / "report.json").write_text(json.dumps(data))
    assert "The paper trains for" not in text_of(work)


def test_tables_of_networks_with_batchnorm_say_which_statistics_serve(
    tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    run = made(cells=("dnn",), scales=[("width_8", 8, 1)])
    for shown, expected in (["table_2"], False), (["table_2", "table_8"], True):
        run.config["tables"]["show"][:] = shown
        report.build(written(run, tmp_path / "run"), tmp_path / "run", tmp_path / "out.pdf")
        assert ("re-estimated over the training images without R" in text_of(tmp_path / "build/out")) == expected


def test_the_table_of_scales_says_on_how_many_images_each_is_trained_and_attacked(
    tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    run = made(cells=("dnn",), scales=[("width_8", 8, 1), ("width_9", 9, 1)])
    run.config["scales"][0] |= {"train": 2345, "images": 678}
    report.build(written(run, tmp_path / "run"), tmp_path / "run", tmp_path / "out.pdf")
    tables = [
        [plain(cell["body"]) for cell in table["children"] if cell["func"] == "cell"]
        for table in placed(tmp_path / "build/out", "table")
    ]
    (cells,) = (cells for cells in tables if cells[:1] == ["width_8"] and len(cells) == 22)
    assert cells[:11] == ["width_8", "mnist", "4fc", "8", "2345", "678", "128", "4", "1", "1", "1"]
    assert cells[15:17] == ["all", "all"]


def test_the_threat_model_is_told_as_the_attacks_settings_have_it(built: tuple[Path, Plan], tmp_path: Path) -> None:
    one = {"norm": "linf", "radius": 0.1, "box": [0.0, 1.0], "attacks": [*FIXED_ATTACKS]}
    assert content(built[0])["run"]["threats"] == [one], "a curve has many radii, and cw_l2 has none"
    assert "distance 0.1 (fgsm, ifgsm, pgd, eot, cw) of it" in text_of(built[0] / "build/out")
    work = tmp_path / "work"
    shutil.copytree(built[0] / "build/out", work)
    changed = content(built[0])
    changed["run"]["threats"] = [one | {"attacks": ["fgsm"]}, one | {"radius": 0.25, "attacks": ["pgd"]}]
    (work / "report.json").write_text(json.dumps(changed))
    assert "distance 0.1 (fgsm) and distance 0.25 (pgd) of it" in re.sub(r"\s+", " ", text_of(work))


def test_an_absent_study_is_a_gap_that_names_its_command(built: tuple[Path, Plan]) -> None:
    for name, study in content(built[0])["studies"].items():
        assert study["found"] is None
        assert study["gap"]
        assert study["command"] == f"snakemake --cores all --configfile config/{name}.yaml"


def test_the_studies_are_read_from_the_ledgers_that_the_run_names(
    built: tuple[Path, Plan], tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    root = tmp_path / "root"
    (root / "study").mkdir(parents=True)
    (root / "config").symlink_to(ROOT / "config")
    (root / "reports").symlink_to(ROOT / "reports")
    written(made(cells=("dnn",), scales=[("width_8", 8, 2), ("width_10", 10, 2)]), root / "study/calibration")
    names = ("fc_34 law=fixed", "fc_34 law=normal", "adv_fixed mix=no")
    reading_plan = written(made(cells=names, scales=[("wide", 256, 1)]), root / "study/readings")
    changed = ("dnn", "fc_4", "dnn batch=64", "fc_4 batch=64")
    written(made(cells=changed, scales=[("calibrated", 10, 2)]), root / "study/sensitivity")
    written(made(cells=("dnn",), scales=[("max_1", 1, 2)]), root / "study/calibration_cnn")
    for deeper in ("readings_cnn", "readings_deep"):
        written(made(cells=("fc_4 statistics=reestimated",), scales=[("quarter", 16, 1)]), root / "study" / deeper)
    rates = ("dnn lr=0.1", "all_o lr=0.1", "all_o lr=0.03")
    diverged = [("all_o lr=0.1", "quarter", 0)]
    rate_plan = written(made(cells=rates, scales=[("quarter", 4, 2)]), root / "study/rates_cnn", diverged=diverged)
    config = {**built[1].config, "studies": {name: f"study/{name}" for name in report.STUDIES}}
    plan = replace(built[1], config=config)
    report.build(
        plan, built[0], tmp_path / "out.pdf", plans={"readings": reading_plan, "rates_cnn": rate_plan}, root=root
    )
    found = content(tmp_path)["studies"]
    assert [entry["width"] for entry in found["calibration"]["found"]["widths"]] == [8, 10]
    assert found["calibration_cnn"]["found"]["reported_text"]["clean"] == "97.94", "the undefended row of Table V"
    assert found["readings"]["found"]["groups"][0]["winner"].startswith("fc_34 law=")
    for deeper, heading in (("readings_cnn", "of 3Conv2FC"), ("readings_deep", "of the deep networks")):
        assert found[deeper]["found"]["groups"][0]["points"][0]["changes"] == "statistics=reestimated"
        assert f"The reading study {heading}" in headings(tmp_path / "build/out")
    points = found["rates_cnn"]["found"]["points"]
    assert [(p["changes"], p["seeds"], p["diverged"]) for p in points] == [
        ("lr=0.1", 2, 0),
        ("lr=0.1", 2, 1),
        ("lr=0.03", 2, 0),
    ]
    assert "The learning rate of 3Conv2FC" in headings(tmp_path / "build/out")
    rows = {row["id"]: row for row in found["sensitivity"]["found"]["alternatives"]}
    assert rows["batch_64"]["cells"]["fc_4"]["state"] == "ok"
    assert "calibration.svg" in content(tmp_path)["figures"]["files"]
    assert {name: study["made"]["seeds"] for name, study in found.items()} == {
        "calibration": [2],
        "calibration_cnn": [2],
        "readings": [1],
        "readings_cnn": [1],
        "readings_deep": [1],
        "rates_cnn": [2],
        "sensitivity": [2],
    }
    said = text_of(tmp_path / "build/out")
    assert said.count("Each point was trained for 4 epochs with") == len(found)
    assert (
        "with 1 seed on all training images, and scored on the test images, under FGSM and PGD; the tables have IFGSM"
        in said
    )


def _present(records: list[Record], **letters: str) -> dict[tuple[str, str], str]:
    """The present digests by (slug, step): a letter, 64 times, a step."""
    return {(record.cell.slug, record.step): letters[record.step] * 64 for record in records}


def test_provenance_says_which_rows_were_computed_how(built: tuple[Path, Plan]) -> None:
    records = read_records(built[0] / "records.jsonl")
    computed = report.provenance(records, built[1])["computed"]
    assert [(found["scale"], found["how"], found["all"]) for found in computed] == [
        ("calibrated", "float32, uncompiled", True),
        ("wide", "float32, uncompiled", True),
    ]
    light = Compute("bf16", True, "default")
    cells = {r.name: replace(r.cell, compute=light) if r.name == "dnn" else r.cell for r in records}
    changed = [replace(r, cell=cells[r.name]) for r in records if r.scale == "wide"]
    assert report.provenance(changed, built[1])["computed"] == [
        {"scale": "wide", "how": "bf16, channels last, compiled (default)", "cells": ["dnn"], "all": False},
        {"scale": "wide", "how": "float32, uncompiled", "cells": ["fc_2", "fc_4"], "all": False},
    ]


def test_provenance_counts_imported_and_older_records(built: tuple[Path, Plan]) -> None:
    records = read_records(built[0] / "records.jsonl")
    found = report.provenance(records, built[1], _present(records, train="a", attack="c"))
    assert found["records"] == len(records) == 2 * 3 * 3
    assert found["imported"] == 3  # seed 1's training, calibrated
    assert found["older"] == len(records) / 2
    assert found["older_cells"] == [
        f"{cell}@{scale}" for cell in ("dnn", "fc_2", "fc_4") for scale in ("calibrated", "wide")
    ]
    assert found["older_everywhere"]
    present = _present([r for r in records if r.name == "dnn"], train="a", attack="b") | _present(
        [r for r in records if r.name != "dnn"], train="a", attack="c"
    )
    fewer = report.provenance(records, built[1], present)
    assert (fewer["older_everywhere"], fewer["older_cells"][0]) == (False, "fc_2@calibrated")
    assert [(entry["step"], entry["current"]) for entry in found["sources"]] == [("attack", False), ("train", True)]
    assert report.provenance(records, built[1])["older"] is None
    train = next(s for s in found["steps"] if (s["scale"], s["step"]) == ("calibrated", "train"))
    assert (train["jobs"], train["asked"], train["diverged"]) == (6, 8, 1)
    steps = dict.fromkeys(built[1].steps, ("train", "attack", "harder", "audit"))
    (calibrated,) = (scale for scale in built[1].scales if scale.name == "calibrated")
    first = {("calibrated", cell): 1 for cell in calibrated.cells}
    audited = report.provenance(records, replace(built[1], steps=steps, harder=first))["steps"]
    asked = {(entry["scale"], entry["step"]): entry["asked"] for entry in audited}
    assert 2 * asked["calibrated", "harder"] == asked["calibrated", "train"] == asked["calibrated", "audit"]
    assert asked["wide", "harder"] == asked["wide", "train"]
    further = replace(built[1], steps=steps, harder=first | {("calibrated", calibrated.cells[0]): 2})
    (more,) = (
        s for s in report.provenance(records, further)["steps"] if (s["scale"], s["step"]) == ("calibrated", "harder")
    )
    assert more["asked"] == asked["calibrated", "harder"] + 1


def test_the_report_lists_every_claim_and_assumption(built: tuple[Path, Plan]) -> None:
    found = content(built[0])
    for name, listed in (("claims", found["claims"]["judged"]), ("assumptions", found["assumptions"])):
        ids = re.findall(r"^  - id: (\w+)$", (ROOT / f"config/{name}.yaml").read_text(), re.MULTILINE)
        assert [entry["id"] for entry in listed] == ids


def test_a_run_on_digits_judges_no_claim_by_its_figures(built: tuple[Path, Plan]) -> None:
    found = content(built[0])["claims"]
    measured = [claim["measured"] for claim in found["judged"] if claim["kind"] == "empirical"]
    assert {entry["verdict"] for entry in measured} == {"not_judged"}
    assert {entry["reason"] for entry in measured} == {"Data: digits."}
    assert found["counts"]["figures"]["reported"]["holds"] > 0, "printed numbers are judged all the same"


def test_the_first_page_of_a_run_on_the_papers_data_has_its_claims_judged(
    tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    plan = written(made(cells=("dnn", "adv_input", "fc_2", "fc_3", "fc_4"), scales=SCALES), tmp_path / "run")
    report.build(plan, tmp_path / "run", tmp_path / "out.pdf")
    heading, *_ = placed(tmp_path / "build/out", "heading.where(level: 1)")
    assert "judged" in json.dumps(heading["body"])
    found = {claim["id"]: claim["measured"] for claim in content(tmp_path)["claims"]["judged"]}
    places = {(place["scale"], place["verdict"]) for place in found["single_layer_beats_undefended_4fc"]["by"]}
    assert ("wide", "undecided") in places, "one seed"
    counts = content(tmp_path)["claims"]["counts"]["figures"]["measured"]
    mine = [c for c in content(tmp_path)["claims"]["judged"] if c["origin"] == "paper"]
    mine = [claim for claim in mine if claim["kind"] in ("empirical", "conjunction")]
    assert counts["holds"] == sum(claim["measured"]["verdict"] == "holds" for claim in mine)
    assert sum(counts.values()) == len(mine)
    at = {(p["scale"], p["reading"]): p["verdicts"] for p in content(tmp_path)["claims"]["places"]}
    assert list(at) == [("calibrated", "default"), ("wide", "default")]
    for (scale, reading), verdicts in at.items():
        here = [p for claim in mine for p in claim["measured"]["by"] if (p["scale"], p["reading"]) == (scale, reading)]
        assert verdicts == {name: sum(p["verdict"] == name for p in here) for name in verdicts}
        assert sum(verdicts.values()) == len(here) > 0
    said = text_of(tmp_path / "build/out")
    assert "At each alone: calibrated:" in said


def test_the_first_table_answers_the_project_s_questions(
    built: tuple[Path, Plan], tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    plan = written(made(cells=("dnn", "adv_input", "noise", "fc_2"), scales=SCALES), tmp_path / "run")
    report.build(plan, tmp_path / "run", tmp_path / "out.pdf", figures=built[0] / "build/out/figures")
    found = said(placed(tmp_path / "build/out", "table")[0])
    judged = {claim["id"]: claim for claim in content(tmp_path)["claims"]["judged"]}
    for entry in yaml.safe_load((ROOT / "config/claims.yaml").read_text())["questions"]:
        assert entry["question"] in found
        for name, label in entry["answers"].items():
            places = judged[name]["measured"]["by"]
            assert f"{label} {'calibrated' if places else 'not judged'}" in found, "the run has no 3Conv2FC"
    (place,) = judged["fgsm_exceeds_reported_adv_input"]["measured"]["by"]
    assert f"calibrated : {place['verdict']} {place['brief']}" in found
    marks = [said(mark) for mark in placed(tmp_path / "build/out", "<added>")]
    later = [claim["added"] for claim in judged.values() if claim["added"]]
    words = [f"{when['date']} , {'after' if when['measured'] else 'before'} its rows" for when in later]
    assert found.count("(added 2026-11-24 , before its rows were measured)") == len(marks) - len(later) == 2
    assert all(word in mark for word, mark in zip(words, marks[2:], strict=True)), "in the section on every claim"


def said(content: Any) -> str:
    """The words of what Typst finds, with a blank between its pieces."""
    pieces = list(content.values()) if isinstance(content, dict) else content
    own = [content["text"]] if isinstance(content, dict) and isinstance(content.get("text"), str) else []
    below = [said(piece) for piece in pieces if isinstance(piece, dict | list)]
    return " ".join(word.strip() for word in (*own, *below) if word.strip())


def audits(ledger: Path, plan: Plan, *found: tuple[str, int, Mapping[str, float], str]) -> None:
    """Adds audits at the calibrated scale: a cell, a seed, robust accuracies by attack, a status of `more_restarts`."""
    with ledger.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        for cell, seed, robust, status in found:
            own: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"cell": cell, "seed": seed}
            own |= {"scale": "calibrated", "slug": plan.slugs["calibrated", cell], "width": 10, "status": "ok"}
            for attack, value in robust.items():
                figure = {"step": "harder", "attack": attack, "metric": "robust_accuracy", "value": value, "n": 1000}
                writer.writerow(own | figure)
            writer.writerow(
                own | {"step": "audit", "attack": "more_restarts", "metric": status, "value": 1.0, "n": 1000}
            )


def test_the_first_page_says_what_the_audits_know_of_the_worst_case(
    built: tuple[Path, Plan], tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    plan, run = written(made(cells=("dnn", "fc_2", "fc_4"), scales=SCALES), tmp_path / "run"), tmp_path / "run"

    def first_page(plan: Plan) -> tuple[Any, str]:
        """What is known of the audits, and the paragraph on the worst case."""
        report.build(plan, run, tmp_path / "out.pdf", figures=built[0] / "build/out/figures")
        paragraphs = [said(par) for par in placed(tmp_path / "build/out", "par")]
        (found,) = [text for text in paragraphs if text.startswith("The worst case in these verdicts")]
        return content(tmp_path)["claims"]["audit"], found

    audit, paragraph = first_page(plan)
    assert audit is None
    assert paragraph.endswith("is over the 5 fixed attacks of the tables alone ( FGSM, IFGSM, PGD, EoT, C&W ).")
    audits(
        run / "ledger.csv",
        plan,
        ("dnn", 0, {"fixed_attacks": 0.5, "worst_case": 0.46, "apgd_t": 0.46}, "found"),
        ("fc_2", 0, {"fixed_attacks": 0.4, "worst_case": 0.39, "apgd_t": 0.39}, "passed"),
        ("fc_4", 0, {"fixed_attacks": 0.3, "worst_case": 0.1, "apgd_t": 0.2}, "found"),
        ("fc_4", 1, {"fixed_attacks": 0.3, "worst_case": 0.3}, "skipped"),  # no attack beyond the fixed ones
    )
    calibrated = replace(plan.scales[0], cells=(*plan.scales[0].cells, "again"))  # a second name for one network
    slugs = {**plan.slugs, ("calibrated", "again"): plan.slugs["calibrated", "dnn"]}
    audit, paragraph = first_page(replace(plan, scales=(calibrated, plan.scales[1]), slugs=slugs))
    assert audit == {"networks": 4, "attacked": 3, "restarted": 3, "weak": 2, "median": "4.0", "largest": "20.0"}
    assert "in 2 of 3 the check of more restarts found one start of PGD too" in paragraph
    assert "accuracy is lower by 4.0 points in the median and by 20.0 at most" in paragraph


def test_audits_that_are_asked_for_and_not_made_are_no_clean_bill(
    tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    plan = written(made(cells=("dnn",), scales=[("width_8", 8, 1)]), tmp_path / "run")
    plan = replace(plan, steps={"width_8": ("train", "attack", "harder", "audit")})
    report.build(plan, tmp_path / "run", tmp_path / "out.pdf")
    assert content(tmp_path)["audit"]["checks"] == []
    assert "No check speaks against any figure." not in text_of(tmp_path / "build/out")


def test_the_report_says_why_checks_were_skipped_where_their_records_do(
    built: tuple[Path, Plan], tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    run = tmp_path / "run"
    plan = written(made(cells=("dnn", "fc_4"), scales=SCALES), run)
    steps = {**plan.steps, "calibrated": ("train", "attack", "harder", "audit")}
    plan = replace(plan, steps=steps, audit_files=("config/audit.yaml",))
    audits(run / "ledger.csv", plan, ("dnn", 0, {}, "skipped"), ("fc_4", 0, {}, "skipped"))
    records = read_records(run / "records.jsonl")
    attacked = next(r for r in records if (r.name, r.scale, r.seed, r.step) == ("dnn", "calibrated", 0, "attack"))
    audited = replace(attacked, step="audit", reasons={"more_restarts": "a reason of its own"})
    with (run / "records.jsonl").open("a") as stream:
        stream.write(json.dumps(audited.to_json()) + "\n")
    report.build(plan, run, tmp_path / "out.pdf", figures=built[0] / "build/out/figures")
    told = re.sub(r"\s+", " ", text_of(tmp_path / "build/out"))
    assert (
        "Why checks were skipped: more restarts, 1 network: the record does not say; more restarts, 1 network: "
        "a reason of its own."
    ) in told


def test_reported_tables_beyond_the_run_are_listed(built: tuple[Path, Plan]) -> None:
    found = content(built[0])["reported_only"]
    assert [table["roman"] for table in found] == ["V", "VI", "VII", "VIII", "IX"]
    assert all(row["lines"] == [] and (row["reported"] or row["extra"]) for table in found for row in table["rows"])


def test_one_table_alone(built: tuple[Path, Plan], tmp_path: Path) -> None:
    pdf = report.build_table(built[1], built[0], "table_2", tmp_path)
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert {path.suffix for path in tmp_path.glob("table_2.*") if path.is_file()} == {".json", ".csv", ".md", ".pdf"}


def test_a_missing_ledger_is_an_error_that_names_it(built: tuple[Path, Plan], tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"nothing.ledger\.csv: no such ledger"):
        report.build(built[1], tmp_path / "nothing", tmp_path / "out.pdf")
    assert not (tmp_path / "out.pdf").exists()


@pytest.mark.parametrize(
    ("command", "key", "old", "new", "complaint"),
    [
        (
            "claims",
            "claims",
            "direction: higher",
            "direction: hihger",
            r"claims\.\w+\.direction: 'hihger' is not",
        ),
        ("report", "claims", "  quantifier: all", "  quantifire: all", r"claims\.\w+: .*'quantif"),
        ("report", "assumptions", "choice: ", "chioce: ", r"assumptions\.\w+: .*'ch[io]+ce'"),
    ],
)
def test_a_slip_in_the_claims_or_the_assumptions_is_one_line_with_file_entry_and_key(
    built: tuple[Path, Plan],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    key: str,
    old: str,
    new: str,
    complaint: str,
) -> None:
    text, path = (ROOT / f"config/{key}.yaml").read_text(), tmp_path / f"{key}.yaml"
    assert old in text
    path.write_text(text.replace(old, new, 1))
    run = yaml.safe_load((ROOT / "config/quick.yaml").read_text()) | {"name": "run", key: str(path)}
    (tmp_path / "run").symlink_to(built[0])
    assert cli.main([command, "--config", json.dumps(run), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.match(rf"lat {command}: {key}\.yaml, {complaint}", error), error
    assert error.count("\n") == 1


def test_a_template_that_does_not_fit_leaves_no_pdf(built: tuple[Path, Plan], tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "reports").mkdir(parents=True)
    (root / "config").symlink_to(ROOT / "config")
    (root / "reports/report.typ").write_text('#let data = json("report.json")\n#data.absent\n')
    with pytest.raises(LedgerError, match=r"report\.typ"):
        report.build(built[1], built[0], tmp_path / "out.pdf", figures=built[0] / "build/out/figures", root=root)
    assert not (tmp_path / "out.pdf").exists()


def test_provenance_says_which_records_were_made_again_and_which_came_out_different(
    built: tuple[Path, Plan], tmp_path: Path
) -> None:
    left = {"weights": "a" * 64, "verdicts": "a" * 64}
    records = [replace(r, inputs={**r.inputs, **left}) for r in read_records(built[0] / "records.jsonl")]
    write_ledger(records, tmp_path)
    again = [Rederived.of(record, replace(record, sources="d" * 64)) for record in records[:3]]
    rederived.write(tmp_path, again)
    present = {(record.cell.slug, record.step): "d" * 64 for record in records}
    report.build(built[1], tmp_path, tmp_path / "out.pdf", sources=present)
    said = text_of(tmp_path / "build/out")
    assert (
        "3 records (train 2, attack 1), chosen by a hash of their names (a later step only where its network is kept)"
        in said
    )
    assert "on cpu (a processor), 3 of them by other code than their own: all came out the same" in said
    assert ", weights and verdicts bit for bit and every figure but times and memory." in said
    assert "of them by code that is older" not in said
    rederived.write(tmp_path, [*again[1:], replace(again[0], equal={"weights": False, "figures": True})])
    present[records[0].cell.slug, records[0].step] = "e" * 64
    report.build(built[1], tmp_path, tmp_path / "out.pdf", sources=present)
    said = text_of(tmp_path / "build/out")
    assert "2 came out the same, bit for bit, 1 did not: " in said
    first = again[0]
    assert f"{first.name}@{first.scale}, seed {first.seed}, {first.step}: weights differ, figures equal." in said
    assert "of them by code that is older than the present." in said

"""The section "How far from equivalent": its numbers are those of `equivalence.csv`, and its gaps are marked."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import typst

from lat import report
from lat.equivalence import COLUMNS, LAYER, NETWORK, PAIRINGS, READING, READINGS
from lat.figures import equivalence as figures
from lat.ledger import LedgerError, read_records
from lat.measured import Plan

CELLS = ("dnn", "adv_input", "fc_2")
SCALES = (("calibrated", 10, 2), ("wide", 256, 1))
LAYERS = ("fc1", "fc2", "fc3", "fc4")
Rows = list[dict[str, Any]]


def number(*of: object) -> float:
    """A made-up figure between 0 and 1 that belongs to its place."""
    return int(hashlib.sha256(repr(of).encode()).hexdigest()[:6], 16) / 0xFFFFFF


def made_rows(plan: Plan) -> Rows:
    """Rows as the step writes them, of every network of the plan."""
    rows: Rows = []
    for scale in plan.scales:
        for cell in scale.cells:
            for seed in range(scale.seeds):
                names = {"scale": scale.name, "cell": cell, "seed": seed}
                of = (scale.name, cell, seed)
                rows.append(names | {key: number(*of, key) + 10 * (key == "loss_fgsm") for key in NETWORK})
                for layer in LAYERS:
                    hidden = [key for key in LAYER if key != "flips" or layer != LAYERS[-1]]
                    rows.append(names | {"layer": layer} | {key: number(*of, layer, key) for key in hidden})
                    for form, scope, pairing in READINGS:
                        given = [key for key in READING if key != "cosine_to_same" or pairing != "same"]
                        figures_of = {key: number(*of, layer, form, scope, pairing, key) for key in given}
                        where = {"layer": layer, "form": form, "scope": scope, "pairing": pairing}
                        rows.append(names | where | figures_of)
    return rows


def write(folder: Path, plan: Plan, rows: Rows, **changes: Any) -> None:
    """Both files of the step in `folder`; `changes` to the JSON."""
    with (folder / "equivalence.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    networks = [
        {"scale": s.name, "cell": cell, "seed": seed, "slug": plan.slugs[s.name, cell], "batch": 128, "finite": True}
        | {"weights": "e" * 64}
        for s in plan.scales
        for cell in s.cells
        for seed in range(s.seeds)
    ]
    origin = {"radius": 0.1, "part": "test", "images": 1234, "sources": "5" * 64, "networks": networks}
    (folder / "equivalence.json").write_text(json.dumps(origin | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, made: Callable[..., Any], written: Callable[..., Plan]) -> Any:
    """(folder, plan): a finished run with its figures, and its report as `out.pdf`; one seed diverged."""
    folder = tmp_path_factory.mktemp("equivalence")
    plan = written(made("digits", CELLS, SCALES), folder, diverged=[("fc_2", "calibrated", 1)])
    write(folder, plan, made_rows(plan))
    report.build(plan, folder, folder / "out.pdf")
    return folder, plan


@pytest.fixture
def copy(run: tuple[Path, Plan], tmp_path: Path) -> tuple[Path, Plan]:
    """The same, to be changed."""
    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "run", run[1]


def summary(run: tuple[Path, Plan], sources: Mapping[tuple[str, str], str] | None = None) -> dict[str, Any]:
    return figures.summary(run[0], run[1], read_records(run[0] / "records.jsonl"), sources)


def survivors(rows: Rows, scale: str = "") -> Rows:
    return [r for r in rows if (r["cell"], r["seed"]) != ("fc_2", 1) and scale in ("", r["scale"])]


def values(rows: Rows, column: str, reading: tuple[str, ...] = (), layer: str = "") -> list[float]:
    """The figures of a column, of one reading or of none, at one layer or at all, which the network rows are not."""
    return [
        row[column]
        for row in rows
        if tuple(row[key] for key in ("form", "scope", "pairing") if key in row) == reading
        and layer in ("", row.get("layer"))
        and column in row
    ]


def rounded(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


# Numbers


def test_the_numbers_of_the_prose_are_medians_over_the_networks_that_did_not_diverge(run: tuple[Path, Plan]) -> None:
    rows, found = survivors(made_rows(run[1])), summary(run)["found"]
    words = found["words"]
    assert (found["networks"], found["asked"], found["images"], found["radius"]) == (8, 9, 1234, 0.1)
    assert found["left_out"] == ["fc_2@calibrated, seed 1 (diverged)"]
    default, same, through = ("closed", "local", "slot"), ("closed", "local", "same"), ("propagated", "network", "same")
    assert words["default_cosine"] == f"{median(values(rows, 'cosine', default)):.2f}"
    assert words["default_signs"] == rounded(100 * median(values(rows, "sign_agreement", default)))
    assert words["default_to_same"] == f"{median(values(rows, 'cosine_to_same', default)):.2f}"
    assert words["same_cosine_first"] == f"{median(values(rows, 'cosine', same, 'fc1')):.2f}"
    assert words["same_size_last"] == rounded(median(values(rows, "norm_ratio", same, "fc4")))
    assert words["chained_size_last"] == rounded(
        median(values(rows, "norm_ratio", ("closed", "network", "same"), "fc4"))
    )
    assert words["through_cosine_last"] == f"{median(values(rows, 'cosine', through, 'fc4')):.2f}"
    assert words["zero"] == rounded(100 * median(values(rows, "zero_share", through, "fc1")))
    assert words["flips"] == rounded(100 * median(values(rows, "flips")))
    assert words["clip_cut"] == rounded(100 * median(values(rows, "clip_cut")))
    assert words["loss_fgsm"] == rounded(median(values(rows, "loss_fgsm")))


def test_the_table_has_a_row_for_each_scale_and_layer(run: tuple[Path, Plan]) -> None:
    found = summary(run)["found"]
    assert [(s["scale"], s["networks"], [r["layer"] for r in s["rows"]]) for s in found["scales"]] == [
        ("calibrated", 5, list(LAYERS)),
        ("wide", 3, list(LAYERS)),
    ]
    rows = survivors(made_rows(run[1]), "wide")
    row = found["scales"][1]["rows"][2]
    assert row["tightness_chain"] == rounded(100 * median(values(rows, "tightness_chain", (), "fc3")))
    assert found["scales"][1]["rows"][3]["flips"] == "–"
    for reading in (("closed", "local", "slot"), ("closed", "local", "same"), ("propagated", "network", "same")):
        clean, fgsm = values(rows, "loss_clean"), values(rows, "loss_fgsm")
        losses = values(rows, "loss", reading, "fc3")
        share = median((loss - a) / (b - a) for loss, a, b in zip(losses, clean, fgsm, strict=True))
        assert row["readings"][" ".join(reading)] == {
            "cosine": f"{median(values(rows, 'cosine', reading, 'fc3')):.2f}",
            "size": rounded(median(values(rows, "norm_ratio", reading, "fc3"))),
            "loss": rounded(100 * share).replace("-", "−"),
        }


def test_the_numbers_in_the_pdf_are_those_of_the_csv(copy: tuple[Path, Plan], tmp_path: Path) -> None:
    folder, plan = copy
    before = json.loads((folder / "build/out/report.json").read_text())
    changed = [row | ({"clip_cut": 0.777} if "clip_cut" in row else {}) for row in made_rows(plan)]
    write(folder, plan, changed)
    pdf = report.build(plan, folder, tmp_path / "out.pdf", figures=folder / "build/out/figures")
    after = json.loads((tmp_path / "build/out/report.json").read_text())
    assert {key for key in before if before[key] != after[key]} == {"equivalence"}
    assert after["equivalence"]["found"]["words"] == before["equivalence"]["found"]["words"] | {"clip_cut": "78"}
    assert pdf.read_bytes() != (folder / "out.pdf").read_bytes()


def test_the_section_shows_its_table_and_both_figures(run: tuple[Path, Plan]) -> None:
    work = run[0] / "build/out"
    assert {"tightness.svg", "cosine.svg"} <= {path.name for path in (work / "figures").glob("*.svg")}
    found = json.loads(typst.query(str(work / "report.typ"), "image", root=str(work), ignore_system_fonts=True))
    assert {"figures/tightness.svg", "figures/cosine.svg"} <= {image["source"] for image in found}
    drawn = json.loads((work / "figures/figures.json").read_text())
    rows = survivors(made_rows(run[1]), "calibrated")
    line = next(
        s for s in drawn["cosine"]
        if (s["scale"], s["form"], s["scope"], s["pairing"]) == ("calibrated", "propagated", "local", PAIRINGS[1])
    )  # fmt: skip
    given = values(rows, "cosine", ("propagated", "local", PAIRINGS[1]), "fc2")
    assert line["points"][1] == pytest.approx(
        {"layer": "fc2", "median": median(given), "low": min(given), "high": max(given)}
    )
    dots = next(s for s in drawn["tightness"] if (s["scale"], s["bound"], s["layer"]) == ("calibrated", "local", "fc4"))
    assert dots["values"] == pytest.approx(sorted(values(rows, "tightness_local", (), "fc4")))


# Gaps, and what is not of this run


@pytest.mark.parametrize("name", ["equivalence.csv", "equivalence.json"])
def test_a_missing_file_is_a_marked_gap_that_names_its_command(
    copy: tuple[Path, Plan], tmp_path: Path, name: str
) -> None:
    (copy[0] / name).unlink()
    report.build(copy[1], copy[0], tmp_path / "out.pdf")
    found = json.loads((tmp_path / "build/out/report.json").read_text())["equivalence"]
    assert found == {
        "found": None,
        "gap": f"{name} is missing",
        "command": "lat equivalence --config config/made.yaml",
    }
    assert not (tmp_path / "build/out/figures/cosine.svg").exists()


def test_networks_with_other_weights_than_the_records_are_left_out(copy: tuple[Path, Plan]) -> None:
    path = copy[0] / "equivalence.json"
    made = json.loads(path.read_text())
    for network in made["networks"]:
        if network["cell"] == "adv_input":
            network["weights"] = "f" * 64
        if (network["cell"], network["scale"]) == ("dnn", "wide"):
            network["slug"] = "another-cell"
        if (network["cell"], network["scale"], network["seed"]) == ("dnn", "calibrated", 0):
            network["finite"] = False
    path.write_text(json.dumps(made))
    found = summary(copy)["found"]
    assert found["left_out"] == [
        "dnn@calibrated, seed 0 (diverged)",
        "adv_input@calibrated, seed 0 (other weights than its record's)",
        "adv_input@calibrated, seed 1 (other weights than its record's)",
        "fc_2@calibrated, seed 1 (diverged)",
        "dnn@wide, seed 0 (other weights than its record's)",
        "adv_input@wide, seed 0 (other weights than its record's)",
    ]
    assert [(scale["scale"], scale["networks"]) for scale in found["scales"]] == [("calibrated", 2), ("wide", 1)]


def test_figures_of_another_part_or_of_no_network_are_a_gap(copy: tuple[Path, Plan]) -> None:
    folder, plan = copy
    write(folder, plan, made_rows(plan), part="validation")
    assert summary(copy)["gap"] == "equivalence.csv is of the validation part, not the run's"
    write(folder, plan, [], networks=[])
    assert summary(copy)["gap"] == "no network to show; left out: none"
    keepless = {**plan.config, "scales": [scale | {"keep": []} for scale in plan.config["scales"]]}
    nothing = Plan(plan.name, keepless, plan.scales, plan.slugs)
    assert summary((folder, nothing))["gap"] == "the run keeps no weights"


def test_named_weights_are_counted_by_their_names(copy: tuple[Path, Plan]) -> None:
    plan = copy[1]
    some = [plan.config["scales"][0] | {"keep": ["dnn", "absent"]}, plan.config["scales"][1]]
    named = Plan(plan.name, {**plan.config, "scales": some}, plan.scales, plan.slugs)
    assert summary((copy[0], named))["found"]["asked"] == 1 + 3


def test_figures_of_older_code_say_so(copy: tuple[Path, Plan]) -> None:
    assert not summary(copy)["found"]["older"], "not compared"
    assert not summary(copy, {("slug", "equivalence"): "5" * 64})["found"]["older"]
    assert summary(copy, {("slug", "equivalence"): "6" * 64})["found"]["older"]


def test_a_csv_without_a_column_is_an_error_that_names_it(copy: tuple[Path, Plan]) -> None:
    path = copy[0] / "equivalence.csv"
    path.write_text(path.read_text().replace("norm_ratio", "size"))
    with pytest.raises(LedgerError, match=r"equivalence\.csv: column 'norm_ratio' is missing; run `lat equivalence`"):
        summary(copy)

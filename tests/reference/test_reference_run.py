"""The committed reference runs: what they must show, and that their files are what their records say."""

from __future__ import annotations

import hashlib
import json
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from published import CONVOLUTIONAL, NARROW, PUBLISHED, REFERENCE, WIDE, accuracy, readme, undefended

from lat import cli, data, runs
from lat.collection import VERDICTS, Folder
from lat.evaluation import load_verdicts
from lat.experiment import attack_checkpoint, load_weights
from lat.ledger import read_records, write_ledger
from lat.measured import Plan, read_ledger
from lat.report import ROOT
from lat.studies import calibration, readings, split_name


def test_there_are_reference_runs_of_the_tables_and_of_their_baselines() -> None:
    assert {"baselines", "calibration", "mnist"} <= set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_ledger_is_what_its_records_say(name: str, tmp_path: Path) -> None:
    folder = REFERENCE / name
    write_ledger(read_records(folder / "records.jsonl"), tmp_path)
    assert (tmp_path / "ledger.csv").read_bytes() == (folder / "ledger.csv").read_bytes()


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_record_is_of_the_run_file_as_it_stands(name: str) -> None:
    run = runs.load(ROOT / f"config/{name}.yaml")
    asked = {entry.cell.slug for entry in run.entries}
    records = read_records(REFERENCE / name / "records.jsonl")
    assert {record.cell.slug for record in records} <= asked
    assert all(
        record.settings == run.settings(run.entry(record.cell.slug), record.seed, record.step) for record in records
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_verdicts_and_weights_have_the_digests_of_their_records(name: str) -> None:
    folder, run = Folder(REFERENCE / name), runs.load(ROOT / f"config/{name}.yaml")
    kept = {scale["name"]: scale["keep"] for scale in run.config["scales"]}
    for record in read_records(folder.root / "records.jsonl"):
        entry = run.entry(record.cell.slug)
        if record.step in VERDICTS:
            verdicts = folder.verdicts(entry, record.seed, record.step)
            assert hashlib.sha256(verdicts.read_bytes()).hexdigest() == record.inputs["verdicts"], verdicts
            weights, keep = folder.weights(entry, record.seed), kept[entry.scale]
            if keep == "all" or (entry.name in keep and record.seed == 0):
                assert hashlib.sha256(weights.read_bytes()).hexdigest() == record.inputs["weights"], weights


def test_nothing_that_the_run_asks_for_is_missing() -> None:
    run = runs.load(ROOT / "config/mnist.yaml")
    made = {(record.cell.slug, record.seed, record.step) for record in read_records(REFERENCE / "mnist/records.jsonl")}
    asked = {(e.cell.slug, seed, step) for e in run.entries for seed in range(e.seeds) for step in run.steps(e, seed)}
    assert asked == made
    assert {entry.scale: entry.seeds for entry in run.entries} == {NARROW: 5, WIDE: 3, CONVOLUTIONAL: 1}
    assert {step for _, _, step in asked} == {"train", "attack", "harder", "audit"}


def test_the_readme_says_how_many_seeds_are_attacked_harder() -> None:
    run = runs.load(ROOT / "config/mnist.yaml")
    harder = {
        (e.scale, e.name): [seed for seed in range(e.seeds) if "harder" in run.steps(e, seed)] for e in run.entries
    }
    status = {
        (r.scale, r.name, r.seed): r.status
        for r in read_records(REFERENCE / "mnist/records.jsonl")
        if r.step == "train"
    }
    first = {scale: {name for at, name, seed in status if (at, seed) == (scale, 0)} for scale in (NARROW, WIDE)}
    lost = {scale: {name for name in first[scale] if status[scale, name, 0] == "diverged"} for scale in first}
    living = {name for name in lost[NARROW] if any(status[NARROW, name, seed] == "ok" for seed in range(5))}
    assert lost[NARROW] - living == {"adv_pgd"}
    assert {name for (scale, name), seeds in harder.items() if scale == NARROW and seeds == [0, 1]} == living
    assert all(status[NARROW, name, 1] == "ok" for name in living)
    assert len(living) == len(lost[WIDE]) == 2
    others = [key for key in harder if key[0] in first and key not in {(NARROW, name) for name in living}]
    assert all(harder[key] == [0] for key in others)
    assert (
        "at the calibrated width with five seeds of every row, one seed of each attacked harder, and a second of the "
        "two of which that diverged and others did not (`audit.seeds_of`; PGD training diverged in all); at the wide "
        "one with three of every row, one seed of each attacked harder (diverged in two);" in readme()
    )
    assert "; the cheap checks of the audit made on every seed." in readme()


def test_the_calibrated_width_is_the_grid_s_nearest_to_the_undefended_row() -> None:
    found = calibration(read_ledger(REFERENCE / "calibration/ledger.csv"), undefended("table_2"))
    assert found["fits"]
    scales = yaml.safe_load((ROOT / "config/mnist.yaml").read_text())["scales"]
    assert next(scale["width"] for scale in scales if scale["name"] == NARROW) == found["chosen"]


def test_no_3conv2fc_of_the_grid_fits_the_undefended_row_and_so_the_tables_have_none_calibrated() -> None:
    found = calibration(read_ledger(REFERENCE / "calibration_cnn/ledger.csv"), undefended("table_5"))
    asked = runs.load(ROOT / "config/calibration_cnn.yaml")
    assert len(found["widths"]) == len(asked.entries) == 15, "the whole grid"
    assert all(point["seeds"] == 2 for point in found["widths"])
    assert not found["fits"]
    scales = yaml.safe_load((ROOT / "config/mnist.yaml").read_text())["scales"]
    assert [scale["name"] for scale in scales if scale["model"].startswith("3conv2fc")] == [CONVOLUTIONAL]
    said = readme()
    nearest = next(point for point in found["widths"] if point["chosen"])
    assert (nearest["model"], nearest["width"]) == ("3conv2fc_strided", 8)
    assert f"strides at width 8, {nearest['distance_text']} points off" in said
    assert "clean {clean}, FGSM {fgsm}, IFGSM {ifgsm}, PGD {pgd} %".format_map(nearest["text"]) in said
    paper = ", ".join(f"{100 * undefended('table_5')[column]:.1f}" for column in ("clean", "fgsm", "ifgsm", "pgd"))
    assert f"the paper {paper})" in said
    assert sum(point["diverged"] for point in found["widths"]) == 7
    assert "Seven of its 30 trainings diverged" in said


def test_fgsm_training_at_the_wide_width_is_not_crippled() -> None:
    assert np.mean(accuracy("adv_fixed", WIDE, "clean")) >= 0.98
    assert np.mean(accuracy("adv_fixed", WIDE, "pgd")) >= 0.88


def test_fgsm_training_with_random_epsilon_is_not_crippled_at_narrow_widths() -> None:
    assert np.mean(accuracy("adv_input", NARROW, "pgd")) >= 0.50
    at_ten = accuracy("adv_input", "width_10", "pgd", run="baselines")
    assert len(at_ten) == 3
    assert np.mean(at_ten) >= 0.50


@pytest.mark.parametrize(("attack", "points"), [("clean", 3), ("fgsm", 6), ("ifgsm", 6), ("pgd", 6)])
def test_the_calibrated_undefended_row_is_near_the_paper_s(attack: str, points: float) -> None:
    assert 100 * abs(np.mean(accuracy("dnn", NARROW, attack)) - undefended("table_2")[attack]) <= points


@pytest.mark.parametrize(("cell", "scale"), [("dnn", NARROW), ("adv_fixed", WIDE)])
def test_the_committed_weights_give_the_published_accuracy_under_pgd(cell: str, scale: str, data_root: Path) -> None:
    published = accuracy(cell, scale, "pgd")[0]
    run = runs.load(REFERENCE / "mnist/config.json")
    entry = run.entry(f"{cell}@{scale}")
    weights = Folder(REFERENCE / "mnist").weights(entry, 0)
    pgd = {"pgd": run.attacks["pgd"]}
    figures = attack_checkpoint(weights, (entry.cell.model, entry.cell.width), "mnist", "test", pgd, data_root, seed=0)
    found = next(figure for figure in figures if figure.metric == "robust_accuracy" and figure.attack == "pgd")
    assert found.n == 10_000
    assert abs(found.value - published) <= 0.005  # another random start, and perhaps another machine


def test_the_convolutional_networks_that_diverged_have_no_live_unit_left_in_their_hidden_layer(data_root: Path) -> None:
    """No gradient of a clean image passes it. They were at chance in every epoch; what more would do is open."""
    folder, run = Folder(REFERENCE / "mnist"), runs.load(ROOT / "config/mnist.yaml")
    trained = [r for r in read_records(folder.root / "records.jsonl") if (r.scale, r.step) == (CONVOLUTIONAL, "train")]
    images = data.load("mnist", "test", data_root, 1000)
    x, _ = data.tensors(images, "cpu")
    live, hidden = {}, list[torch.Tensor]()
    for record in trained:
        if record.status == "diverged":
            assert all(epoch["clean_accuracy"] < 0.12 for epoch in record.curve), record.name
            weights = folder.weights(run.entry(record.cell.slug), record.seed)
            network = (record.cell.model, record.cell.width)
            model = load_weights(network, weights, images.shape, images.classes)
            model.get_submodule("relu4").register_forward_hook(lambda _, given, out: hidden.append(out))
            model(x)
            live[record.name] = int((hidden[-1] > 0).any(0).sum())
    default = ("adv_pgd", "all_o", "all_w", "conv_23_fc_1", "conv_all", "conv_all_w")
    assert live == dict.fromkeys((*default, "conv_3_best", "conv_all_w_best", "adv_pgd_best"), 0)


def test_no_attack_beats_the_worst_case() -> None:
    frame = pd.read_csv(REFERENCE / "mnist/ledger.csv", keep_default_na=False)
    robust = frame[(frame["metric"] == "robust_accuracy") & ~frame["attack"].str.contains("@")]
    attacked = robust[robust["step"] == "attack"]
    lowest = attacked.groupby(["slug", "seed"])["value"].min()
    worst = attacked[attacked["attack"] == "worst_case"].set_index(["slug", "seed"])["value"]
    assert (worst <= lowest.loc[worst.index]).all()


def test_the_worst_case_after_harder_attacks_is_that_of_all_verdicts_on_the_images_they_share() -> None:
    folder, run = Folder(REFERENCE / "mnist"), runs.load(ROOT / "config/mnist.yaml")
    records = [r for r in read_records(folder.root / "records.jsonl") if r.step == "harder"]
    assert records
    for record in records:
        entry = run.entry(record.cell.slug)
        both = [load_verdicts(folder.verdicts(entry, record.seed, step)) for step in ("attack", "harder")]
        found = {name: (step.index[name], step.verdicts[name]) for step in both for name in step.verdicts}
        outside = {"cw_l2"} | {name for name in found if "@" in name and not name.endswith("@0.1")}
        counted = [pair for name, pair in found.items() if name not in outside and len(pair[0]) >= 500]
        shared = reduce(np.intersect1d, [index for index, _ in counted])
        robust = [verdict[np.searchsorted(index, shared)] for index, verdict in counted]
        value = next(f.value for f in record.figures if (f.attack, f.metric) == ("worst_case", "robust_accuracy"))
        assert np.logical_and.reduce(robust).mean() == value, record.path


def test_every_claim_has_its_verdicts_with_figures_or_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["claims", str(REFERENCE / "mnist"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["claims"]
    listed = yaml.safe_load((ROOT / "config/claims.yaml").read_text())["claims"]
    assert [claim["id"] for claim in found] == [claim["id"] for claim in listed]
    for claim in found:
        for verdict in (claim["reported"], claim["measured"], *claim["measured"]["by"]):
            assert verdict["verdict"] in ("holds", "fails", "undecided", "not_judged")
            assert verdict["text"] or verdict["reason"], claim["id"]
            assert claim["kind"] != "empirical" or verdict["verdict"] not in ("holds", "fails") or verdict["text"]


def test_one_measured_figure_is_never_enough_for_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["claims", str(REFERENCE / "mnist"), "--json"]) == 0
    places = [place for c in json.loads(capsys.readouterr().out)["claims"] for place in c["measured"]["by"]]
    parts = [part for place in places for pair in place["comparisons"] for part in pair["parts"]]
    assert {part["verdict"] for part in parts if part["pairs"] == 1} <= {"undecided", "fails"}
    decided = [part for part in parts if part["verdict"] in ("holds", "fails") and "diverged" not in part["reason"]]
    assert all(part["pairs"] >= 2 for part in decided)


@pytest.mark.parametrize("words", [[], ["--full"]])
def test_the_printed_claims_fit_a_terminal(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["claims", str(REFERENCE / "mnist"), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    ends = " ".join(lines[-10:])
    for group in (
        "of the paper's claims about figures, measured: ",
        "of its claims of theory, by the equation ledger: ",
    ):
        assert group in ends


def test_the_reference_s_configuration_is_its_run_file() -> None:
    for name in PUBLISHED:
        assert json.loads((REFERENCE / name / "config.json").read_text()) == yaml.safe_load(
            (ROOT / f"config/{name}.yaml").read_text()
        )


@pytest.mark.parametrize(
    ("study", "trained_at"),
    [("readings", {NARROW: NARROW, WIDE: WIDE}), ("readings_cnn", {"quarter": CONVOLUTIONAL})],
)
def test_the_favourable_rows_are_the_winners_of_the_reading_study(study: str, trained_at: dict[str, str]) -> None:
    plan = Plan.of(runs.load(ROOT / f"config/{study}.yaml"))
    groups = readings(read_ledger(REFERENCE / study / "ledger.csv"), plan)["groups"]
    run = runs.load(ROOT / "config/mnist.yaml")
    favourable = {(e.scale, e.name): e for e in run.entries if e.name.endswith("_best")}
    assert {(trained_at[g["scale"]], g["family"]) for g in groups if g["winner"]} == {
        (scale, family) for scale in trained_at.values() for family in ("layerwise", "fgsm", "pgd")
    }
    for group in groups:
        mine = {name: entry for (scale, name), entry in favourable.items() if scale == trained_at[group["scale"]]}
        base, changes = split_name(group["winner"])
        given = mine[f"{base}_best"].overrides
        assert {key: str(value) for key, value in given.items()} == changes, group["scale"]
        for entry in (e for e in mine.values() if group["family"] == "layerwise" and e.cell.layerwise):
            law = {"law": "fixed"} if entry.base.endswith("_fixed") else {}
            assert {key: str(value) for key, value in entry.overrides.items()} == changes | law, entry.name


def test_every_favourable_row_has_a_reading_study() -> None:
    run = runs.load(ROOT / "config/mnist.yaml")
    assert {e.scale for e in run.entries if e.name.endswith("_best")} == {NARROW, WIDE, CONVOLUTIONAL}

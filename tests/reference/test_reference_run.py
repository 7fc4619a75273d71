"""The committed reference runs: what they must show, and that their files are what their records say."""

from __future__ import annotations

import hashlib
import json
import re
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from lat import cli, data, runs
from lat.collection import VERDICTS, Folder
from lat.evaluation import load_verdicts
from lat.experiment import attack_checkpoint, load_weights
from lat.ledger import read_records, write_ledger
from lat.measured import Plan, read_ledger
from lat.report import ROOT
from lat.studies import calibration, rates, readings, split_name

REFERENCE = ROOT / "reports/reference"
PUBLISHED = sorted(path.parent.name for path in REFERENCE.glob("*/records.jsonl"))
NARROW, WIDE, CONVOLUTIONAL = "calibrated", "wide", "cnn_wide"


def accuracy(cell: str, scale: str, attack: str, run: str = "mnist", images: int = 10_000) -> list[float]:
    """The accuracies of a cell of a reference run, one a seed; fails where the reference has no such cell."""
    frame = pd.read_csv(REFERENCE / run / "ledger.csv", keep_default_na=False)
    rows = frame[(frame["cell"] == cell) & (frame["scale"] == scale) & (frame["step"] == "attack")]
    metric = ("", "clean_accuracy") if attack == "clean" else (attack, "robust_accuracy")
    found = rows[(rows["attack"] == metric[0]) & (rows["metric"] == metric[1])]
    assert not found.empty, f"the reference run {run} has no {cell}@{scale}"
    assert (found["n"].astype(float) == images).all()
    return [float(value) for value in found["value"]]


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


@pytest.mark.parametrize(("scale", "seeds"), [(NARROW, 5), (WIDE, 3)])
def test_every_seed_of_every_row_is_measured_and_the_readme_counts_those_attacked_harder(
    scale: str, seeds: int
) -> None:
    run = runs.load(ROOT / "config/mnist.yaml")
    made = {(record.cell.slug, record.seed, record.step) for record in read_records(REFERENCE / "mnist/records.jsonl")}
    entries = [entry for entry in run.entries if entry.scale == scale]
    assert {entry.seeds for entry in entries} == {seeds}
    asked = {(e.cell.slug, seed, step) for e in entries for seed in range(e.seeds) for step in run.steps(e, seed)}
    harder = {job for job in asked if job[2] == "harder"}
    assert {seed for _, seed, _ in harder} == {0}, "one seed of each row"
    waiting = {(slug, seed, "audit") for slug, seed, _ in harder - made}
    assert asked - made == (harder - made) | waiting, "the cheap checks of every other seed are made"
    counted = "each" if harder <= made else f"{len(harder & made)} of {len(harder)} rows"
    told = read_ledger(REFERENCE / "mnist/ledger.csv").frame
    frame = told[(told["scale"] == scale) & (told["step"] == "harder") & (told["status"] == "diverged")]
    lost = frame["cell"].nunique()
    but = f" (diverged in {['none', 'one', 'two', 'three', 'four', 'five'][lost]})" if lost else ""
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    place = {NARROW: "at the calibrated width with five seeds", WIDE: "at the wide one with three"}[scale]
    assert re.search(re.escape(f"{place} of every row, one seed of {counted} attacked harder{but}") + "[;.,]", said)
    assert "the cheap checks of the audit made on every seed" in said


def undefended(table: str) -> dict[str, float]:
    """What the paper reports of the network without a defence in one of its tables."""
    tables = yaml.safe_load((ROOT / "config/tables.yaml").read_text())["tables"]
    rows = next(entry["rows"] for entry in tables if entry["id"] == table)
    found: dict[str, float] = next(row["reported"] for row in rows if row["cell"] == "dnn")
    return found


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
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
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


def test_the_readme_s_figures_are_those_of_the_ledgers() -> None:
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    groups = readings(read_ledger(REFERENCE / "readings/ledger.csv"))["groups"]
    best = {(g["family"], g["scale"]): f"{100 * g['points'][0]['worst_case']:.1f}" for g in groups}
    layerwise, fgsm, pgd = ([best[name, scale] for scale in (NARROW, WIDE)] for name in ("layerwise", "fgsm", "pgd"))
    assert f"keeps {layerwise[0]} % at width 12 and {layerwise[1]} % at width 256" in said
    assert f"FGSM training {fgsm[0]} and {fgsm[1]}, the best of ten of PGD training {pgd[0]} and {pgd[1]}" in said
    frame = pd.read_csv(REFERENCE / "mnist/ledger.csv", keep_default_na=False)
    audits = frame[
        (frame["step"] == "harder") & (frame["attack"] == "worst_case") & (frame["metric"] == "robust_accuracy")
    ]
    wide = audits[audits["scale"] == WIDE]
    shared = {cell: f"{100 * float(value):.1f}" for cell, value in zip(wide["cell"], wide["value"], strict=True)}
    assert (
        f"keeps {shared['fc_4']} % when all attacks are counted, FC-3&4 {shared['fc_34']}, the undefended network "
        f"{shared['dnn']}, PGD training {shared['adv_pgd']}"
    ) in said
    (twice,) = At(WIDE).figures("fc_34_best", "pgd_twice", step="harder")["value"]
    assert (
        f"FC-3&4 in the most favourable reading keeps {100 * twice:.1f} % of all images under PGD with twice the steps"
        f", and {shared['fc_34_best']} % when all attacks are counted"
    ) in said


def test_the_readme_says_on_which_networks_a_large_ball_leaves_more_than_chance() -> None:
    """A network that two rows share is one."""
    frame = pd.read_csv(REFERENCE / "mnist/ledger.csv", keep_default_na=False)
    surviving = frame[(frame["step"] == "audit") & (frame["status"] == "ok") & frame["scale"].isin([NARROW, WIDE])]
    found = surviving[(surviving["attack"] == "large_ball@0.5") & (surviving["metric"] == "found")]
    values = found.drop_duplicates(["slug", "seed"])["value"].astype(float)
    assert found["slug"].str.contains("layerwise").all()
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"PGD leaves {values.min():.0f} to {values.max():.0f} % on {len(values)} of the 4FC networks, each" in said


ALONE = ("fc_2", "fc_3", "fc_4", "fc_23", "fc_34", "mlpo", "fc_2_fixed", "fc_23_fixed")
"""The rows of Tables I-IV that train with layer perturbations and nothing else."""


class At:
    """The figures of one scale of the MNIST run, in per cent."""

    def __init__(self, scale: str) -> None:
        frame = pd.read_csv(REFERENCE / "mnist/ledger.csv", keep_default_na=False)
        self.frame = frame[frame["scale"] == scale].astype({"value": float})

    def figures(self, cell: str, attack: str, metric: str = "robust_accuracy", step: str = "attack") -> pd.DataFrame:
        """A cell's figures, one a seed."""
        of = {"cell": cell, "attack": attack, "metric": metric, "step": step}
        found = self.frame[np.logical_and.reduce([self.frame[key] == value for key, value in of.items()])]
        assert not found.empty, f"no {cell} under {attack or metric}"
        return found

    def mean(self, cell: str, attack: str = "worst_case", metric: str = "robust_accuracy") -> str:
        found = self.figures(cell, attack, metric)
        return f"{100 * found[found['status'] != 'diverged']['value'].mean():.1f}"

    def lost(self, cell: str) -> int:
        """How many seeds diverged."""
        return int((self.figures(cell, "worst_case")["status"] == "diverged").sum())


def test_the_readme_s_figures_of_the_calibrated_width_are_those_of_the_ledger() -> None:
    said, at = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()), At(NARROW)
    default = sorted(float(at.mean(cell)) for cell in ALONE)
    favourable = {cell: at.mean(f"{cell}_best") for cell in ALONE}
    mlpo = favourable.pop("mlpo")
    others = sorted(map(float, favourable.values()))
    assert not any(
        at.lost(cell) for cell in (*ALONE, "dnn", "noise", "adv_input", "adv_previous", "adv_pgd_best", "ibp")
    )
    assert (at.lost("adv_pgd"), at.lost("mlpo_best")) == (5, 2)
    certified = at.figures("ibp", "certified@0.1", "noted", "audit")["value"].item()
    left = 100 * at.figures("ibp", "worst_case", step="harder")["value"].item()
    assert (
        f"the undefended network keeps {at.mean('dnn')} %, the rows of layer-wise training alone {default[0]} to "
        f"{default[-1]} in the default reading, undirected noise {at.mean('noise')}, FGSM training "
        f"{at.mean('adv_input')}, perturbations from the previous batch {at.mean('adv_previous')}, PGD training at the "
        f"radius of the reading study {at.mean('adv_pgd_best')} (at the attacks' own it diverges), interval-bound "
        f"training {at.mean('ibp')}." in said
    )
    clean = at.mean("mlpo_best", "", "clean_accuracy")
    assert (
        f"beside FGSM training, MLPw, keeps {at.mean('mlpw')} too. In the most favourable reading layer-wise training "
        f"alone keeps {others[0]} to {others[-1]}, and {mlpo} in the row MLPo, where two of five seeds diverged and "
        f"the others classify {clean} % of the clean images." in said
    )
    harder = {}
    for cell in ("fc_23_fixed_best", "fc_34_best", "mlpw_best"):
        figures = [at.figures(cell, name, step="harder") for name in ("fixed_attacks", "worst_case")]
        zero = at.figures(cell, "zero_gradients", "found", "audit")
        figures.append(zero[zero["seed"] == 0])
        assert [int(float(found["n"].item())) for found in figures] == [1000] * 3
        harder[cell] = [f"{100 * found['value'].item():.1f}" for found in figures]
    two, three_four, mlpw = harder.values()
    assert others[-1] == float(at.mean("fc_23_fixed_best"))
    assert (
        f"Harder attacks, on 1,000 images of one seed, bring the row at {others[-1]}, two layers at a fixed epsilon, "
        f"from {two[0]} to {two[1]} %, FC-3&4 from {three_four[0]} to {three_four[1]} and MLPw from {mlpw[0]} to "
        f"{mlpw[1]} in that reading: their gradients are zero on {two[2]}, {three_four[2]} and {mlpw[2]} % "
        "of the images." in said
    )
    assert (
        f"Interval bounds certify {certified:.1f} % of all images at radius 0.1 on the network trained for it, and all "
        f"attacks together leave {left:.1f} % of 1,000." in said
    )


def test_the_readme_s_figures_of_the_wide_width_are_those_of_the_ledger() -> None:
    said, at = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()), At(WIDE)
    default = sorted(float(at.mean(cell)) for cell in ALONE)
    trained = {cell: at.mean(f"{cell}_best") for cell in ALONE if not at.lost(f"{cell}_best")}
    favourable = sorted(map(float, trained.values()))
    lost = {cell: at.lost(f"{cell}_best") for cell in (*ALONE, "mlpw", "adv_fixed", "adv_pgd")}
    assert {cell: count for cell, count in lost.items() if count} == {"mlpo": 3, "mlpw": 3}
    others = ("dnn", "noise", "adv_previous", "adv_input", "adv_fixed", "adv_pgd", "mlpw", "ibp")
    assert not any(at.lost(cell) for cell in (*ALONE, *others))
    mean = {cell: at.mean(cell) for cell in others}
    assert (
        f"the undefended network keeps {mean['dnn']} %, the rows of layer-wise training alone {default[0]} to "
        f"{default[-1]} in the default reading and {favourable[0]} to {favourable[-1]} in the most favourable one, "
        f"undirected noise {mean['noise']}, perturbations from the previous batch {mean['adv_previous']}, "
        f"interval-bound training {mean['ibp']}, MLPw {mean['mlpw']}, FGSM training {mean['adv_input']} (random "
        f"epsilon) and {mean['adv_fixed']} (fixed), PGD training {mean['adv_pgd']}." in said
    )
    assert "MLPo and MLPw diverge in the most favourable reading, all three seeds of each." in said
    under = [at.mean("fc_34_best", attack) for attack in ("pgd", "cw")]
    assert f"{under[0]} % under PGD at width 256 and {under[1]} % under the margin loss, less than the" in said
    assert float(under[1]) < float(at.mean("dnn", "cw"))
    assert f"best PGD training keeps {at.mean('adv_pgd_best')} % in the worst" in said


def test_the_readme_s_figures_of_3conv2fc_are_those_of_the_ledgers() -> None:
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    worst = {
        cell: f"{100 * accuracy(cell, CONVOLUTIONAL, 'worst_case', images=2000)[0]:.1f}"
        for cell in ("dnn", "conv_2", "conv_3", "noise", "adv_input", "adv_fixed")
    }
    assert (
        "network keeps {dnn} %, Conv-2 {conv_2}, Conv-3 {conv_3}, undirected noise {noise}, FGSM training {adv_input} "
        "(random epsilon) and {adv_fixed} (fixed)".format_map(worst)
        in said
    )
    layerwise, fgsm, pgd = readings(read_ledger(REFERENCE / "readings_cnn/ledger.csv"))["groups"]
    assert [group["family"] for group in (layerwise, fgsm, pgd)] == ["layerwise", "fgsm", "pgd"]
    assert (
        f"{layerwise['diverged']} of {layerwise['measured']} readings of layer-wise training diverged, "
        f"{fgsm['diverged']} of {fgsm['measured']} settings of FGSM training and {pgd['diverged']} of "
        f"{pgd['measured']} of PGD training" in said
    )
    best = [f"{100 * group['points'][0]['worst_case']:.1f}" for group in (layerwise, fgsm, pgd)]
    assert "The best points of the reading study keep {} (layer-wise), {} and {} %.".format(*best) in said
    rated = rates(read_ledger(REFERENCE / "rates_cnn/ledger.csv"), Plan.of(runs.load(ROOT / "config/rates_cnn.yaml")))
    points = {point["cell"]: point for point in rated["points"]}
    assert len(points) == rated["asked"]
    assert all(point["seeds"] == 2 for point in points.values())
    assert all(point["diverged"] == 0 for cell, point in points.items() if not cell.endswith("lr=0.1"))
    at = {cell: points[f"{cell} lr=0.03"]["text"]["worst_case"] for cell in ("dnn", "all_o", "adv_fixed", "adv_pgd")}
    assert (
        "at 0.03 the undefended network keeps {dnn} % in the worst case, All-o {all_o}, FGSM training {adv_fixed}, PGD "
        "training {adv_pgd}.".format_map(at)
        in said
    )


def test_which_rows_of_3conv2fc_train_and_how_far_they_get_is_what_the_readme_says() -> None:
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())

    def worst(cell: str) -> float:
        return 100 * accuracy(cell, CONVOLUTIONAL, "worst_case", images=2000)[0]

    mine = {cell: worst(f"{cell}_best") for cell in ("all_o", "conv_23_fc_1", "all_w")}
    assert (
        "All-o to {all_o:.1f} % and Conv-2&3+FC-1 to {conv_23_fc_1:.1f}, less than undirected noise alone, and All-w "
        "to {all_w:.1f}, less than FGSM training alone; Conv-3 and Conv-w diverge in it.".format_map(mine)
        in said
    )
    assert max(mine["all_o"], mine["conv_23_fc_1"]) < worst("noise")
    assert mine["all_w"] < min(worst("adv_fixed"), worst("adv_input"))
    trained = [
        r for r in read_records(REFERENCE / "mnist/records.jsonl") if (r.scale, r.step) == (CONVOLUTIONAL, "train")
    ]
    accuracies = next([epoch["clean_accuracy"] for epoch in r.curve] for r in trained if r.name == "conv_3")
    assert "Conv-3 was at chance for two epochs and trained from the fourth." in said
    assert max(accuracies[:2]) < 0.12 and accuracies[3] > 0.9
    lost = {r.name for r in trained if r.status == "diverged" and r.name.endswith("_best")}
    assert lost == {"conv_3_best", "conv_all_w_best", "adv_pgd_best"}  # the last is the row itself


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
    assert lines[-2].startswith("reported: ")
    assert lines[-1].startswith("measured: ")


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

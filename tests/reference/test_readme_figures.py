"""Every figure of the README that a committed run gave, held to that run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import pandas as pd
import pytest
import yaml
from published import CONVOLUTIONAL, NARROW, REFERENCE, WIDE, At, accuracy, readme

from lat import cli, rederived, runs
from lat.experiment.rederivation import chosen
from lat.ledger import read_records
from lat.measured import Plan, read_ledger
from lat.report import ROOT
from lat.studies import rates, readings, sensitivity


def favourable(*cells: str) -> tuple[str, ...]:
    return tuple(f"{cell}_best" for cell in cells)


ALONE = ("fc_2", "fc_3", "fc_4", "fc_23", "fc_34", "mlpo", "fc_2_fixed", "fc_23_fixed")
"""The rows of Tables I-IV that train with layer perturbations and nothing else."""


CONV_ALONE = ("conv_2", "conv_3", "conv_all", "conv_23_fc_1", "all_o")
"""The same of Tables V-VII."""
RESULTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "nothing": (("dnn",), ("dnn",)),
    "undirected noise on the input": (("noise",), ("noise",)),
    "layer perturbations alone, default reading": (ALONE, CONV_ALONE),
    "layer perturbations alone, most favourable reading": (favourable(*ALONE), favourable(*CONV_ALONE)),
    "FGSM, from the previous batch": (("adv_previous",), ()),
    "FGSM, random epsilon": (("adv_input",), ("adv_input",)),
    "FGSM, fixed epsilon": (("adv_fixed",), ("adv_fixed",)),
    "FGSM, as tuned on validation data": (favourable("adv_fixed"), favourable("adv_fixed")),
    "FGSM and layer perturbations, default reading": (("mlpw",), ("conv_all_w", "all_w")),
    "FGSM and layer perturbations, most favourable reading": (favourable("mlpw"), favourable("conv_all_w", "all_w")),
    "PGD": (("adv_pgd",), ("adv_pgd",)),
    "PGD, as tuned on validation data": (favourable("adv_pgd"), favourable("adv_pgd")),
    "interval bounds": (("ibp",), ()),
}
"""The README's table of results: of each line the cells of 4FC, and of 3Conv2FC."""


def told(at: At, cells: Sequence[str]) -> str:
    """The worst case of some rows as the README's table has it: the span of those that are whole, and what diverged."""
    lost = {cell: at.lost(cell) for cell in cells}
    whole = sorted((at.mean(cell) for cell, (gone, _) in lost.items() if not gone), key=float)
    out = [span(whole)] if whole else []
    out += [f"{at.mean(cell)} with {k} of {n} seeds diverged" for cell, (k, n) in lost.items() if 0 < k < n]
    if gone := sum(k == n for k, n in lost.values()):
        out.append(f"{gone} of {len(cells)} row{'s' if len(cells) > 1 else ''} diverged")
    return "; ".join(out) or "not a row"


def printed(tables: Sequence[str], cells: Sequence[str]) -> str:
    """The lowest of the attacks' columns that the paper prints of some rows, as the README's table has it."""
    content = yaml.safe_load((ROOT / "config/tables.yaml").read_text())
    lowest = {
        row["cell"]: f"{100 * min(row['reported'][column] for column in content['columns'] if column != 'clean'):.1f}"
        for table in content["tables"]
        for row in table["rows"]
        if table["id"] in tables
    }
    return span(sorted((lowest[cell] for cell in cells if cell in lowest), key=float)) or "not a row"


def span(ascending: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys([*ascending[:1], *ascending[-1:]]))


def test_the_readme_s_table_of_results_is_that_of_the_ledger_and_of_the_paper() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    head = "| trained with | 4FC in the paper | width 12, 5 seeds | width 256, 3 seeds "
    head += "| 3Conv2FC in the paper | 3Conv2FC, 1 seed |\n| --- |" + " ---: |" * 5 + "\n"
    at = {scale: At(scale) for scale in (NARROW, WIDE, CONVOLUTIONAL)}
    connected, convolved = (f"table_{n}" for n in range(1, 5)), (f"table_{n}" for n in range(5, 8))
    four, three = tuple(connected), tuple(convolved)
    lines = [
        f"| {name} | {printed(four, full)} | {told(at[NARROW], full)} | {told(at[WIDE], full)} "
        f"| {printed(three, convolutional)} | {told(at[CONVOLUTIONAL], convolutional)} |\n"
        for name, (full, convolutional) in RESULTS.items()
    ]
    assert head + "".join(lines) + "\n" in text
    assert [at[scale].lost("dnn") for scale in at] == [(0, 5), (0, 3), (0, 1)]
    run = runs.load(ROOT / "config/mnist.yaml")
    cells: dict[bool, set[str]] = {False: set(), True: set()}
    for entry in run.entries:
        if entry.cell.layerwise:
            cells[entry.scale == CONVOLUTIONAL].add(entry.name)
    for convolutional, named in cells.items():
        listed = {cell for entry in RESULTS.values() for cell in entry[convolutional]}
        assert named <= listed, "every row with layer perturbations is in one of the table's lines"


def test_the_readme_s_words_on_verdicts_are_those_of_the_claims(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["claims", str(REFERENCE / "mnist"), "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)["claims"]
    first = next(claim for claim in judged if claim["id"] == "layerwise_outperforms_conventional")
    failed = {(place["scale"], place["reading"]) for place in first["measured"]["by"] if place["verdict"] == "fails"}
    assert failed == {(scale, reading) for scale in (NARROW, WIDE) for reading in ("default", "favourable")}
    single = [claim for claim in judged if claim["origin"] == "paper" and claim["kind"] == "empirical"]
    count = Counter(claim["measured"]["verdict"] for claim in single)
    assert count["holds"] == 0
    assert (
        f"Of the {len(single)} single claims about figures none holds here, {count['fails']} fail, "
        f"{count['undecided']} are undecided (too few seeds, or verdicts that differ between places: no evidence of no "
        f"effect) and {count['not_judged']} are not measured." in readme()
    )
    convolutional = [
        place["verdict"] for claim in single for place in claim["measured"]["by"] if place["scale"] == CONVOLUTIONAL
    ]
    assert set(convolutional) == {"undecided"}, "no claim on it is decided"


def test_the_readme_s_words_on_the_most_favourable_reading_are_those_of_the_ledger() -> None:
    at, rows = At(WIDE), (*ALONE, "mlpw")
    lost = [row for row in rows if at.lost(f"{row}_best")[0]]
    lower = [row for row in rows if row in lost or float(at.mean(f"{row}_best")) < float(at.mean(row))]
    assert lost == ["mlpo", "mlpw"] and all(at.lost(f"{row}_best") == (3, 3) for row in lost)
    assert f"trained in full, {len(lower)} of the {len(rows)} rows with layer perturbations keep less in it" in readme()


def test_the_readme_s_words_on_the_calibrated_width_are_those_of_the_ledger() -> None:
    said, at = readme(), At(NARROW)
    whole = sorted(float(at.mean(cell)) for cell in favourable(*ALONE) if not at.lost(cell)[0])
    certified = at.figures("ibp", "certified@0.1", "noted", "audit")["value"].item()
    left = 100 * at.figures("ibp", "worst_case", step="harder")["value"].item()
    assert (
        f"interval bounds certify {certified:.1f} % of all images at radius 0.1, and all attacks together leave "
        f"{left:.1f} % of 1,000." in said
    )
    harder = {}
    for cell, seed in (("mlpo_best", 1), ("fc_23_fixed_best", 0), ("fc_34_best", 0), ("mlpw_best", 0)):
        figures = [at.figures(cell, name, step="harder") for name in ("fixed_attacks", "worst_case")]
        figures.append(at.figures(cell, "zero_gradients", "found", "audit"))
        (before, after, zero) = (found[found["seed"] == seed] for found in figures)
        assert [int(float(found["n"].item())) for found in (before, after, zero)] == [1000] * 3
        harder[cell] = [f"{100 * found['value'].item():.1f}" for found in (before, after, zero)]
    mlpo, two, three_four, mlpw = harder.values()
    assert max(float(at.mean(cell)) for cell in favourable(*ALONE)) == float(at.mean("mlpo_best"))
    assert whole[-1] == float(at.mean("fc_23_fixed_best"))
    assert at.lost("mlpo_best") == (2, 5)
    assert (
        f"brings MLPo, the highest row ({at.mean('mlpo_best')} in the mean of three of five seeds, which classify "
        f"{at.mean('mlpo_best', '', 'clean_accuracy')} % of the clean images), from {mlpo[0]} to {mlpo[1]} %, the "
        f"highest one whose seeds all survive, two layers at a fixed epsilon ({whole[-1]}), from {two[0]} to {two[1]}, "
        f"FC-3&4 ({at.mean('fc_34_best')}) from {three_four[0]} to {three_four[1]} and MLPw ({at.mean('mlpw_best')}) "
        f"from {mlpw[0]} to {mlpw[1]}: their gradients are zero on {mlpo[2]}, {two[2]}, {three_four[2]} and "
        f"{mlpw[2]} % of the images." in said
    )


def test_the_readme_s_words_on_the_wide_width_are_those_of_the_ledger() -> None:
    said, at = readme(), At(WIDE)
    under = [at.mean("fc_34_best", attack) for attack in ("pgd", "cw")]
    assert f"{under[0]} % under PGD at width 256 and {under[1]} % under the margin loss, less than the" in said
    assert float(under[1]) < float(at.mean("dnn", "cw"))


def test_the_readme_s_words_on_the_assumptions_are_those_of_the_sensitivity_study() -> None:
    register = yaml.safe_load((ROOT / "config/assumptions.yaml").read_text())["assumptions"]
    plan = Plan.of(runs.load(ROOT / "config/sensitivity.yaml"))
    found = sensitivity(read_ledger(REFERENCE / "sensitivity/ledger.csv"), register, plan)
    rows = {(option["id"], base): cell for option in found["alternatives"] for base, cell in option["cells"].items()}
    layerwise = {key: cell for key, cell in rows.items() if key[1] in ("fc_4", "fc_34")}
    moved = {key: c["columns"]["worst_case"]["difference"] for key, c in layerwise.items() if c["state"] == "ok"}
    largest = max(moved, key=lambda key: abs(moved[key]))
    assert largest[0] == "batch_64"
    undefended = 100 * rows["batch_64", "dnn"]["columns"]["worst_case"]["difference"]
    at = At(NARROW, "sensitivity")
    default, changed = at.mean(largest[1]), at.mean(f"{largest[1]} batch=64")
    assert (
        f"none moves a layer-wise row's worst case by more than {100 * moved[largest]:.1f} points, from {default} to "
        f"{changed} % (batches of 64, which move the undefended network's by {undefended:.1f}); scope network "
        "and R from C&W diverge." in readme()
    )
    (scale,) = runs.load(ROOT / "config/sensitivity.yaml").config["scales"]
    assert (scale["width"], scale["epochs"], scale["seeds"]) == (12, 60, 2)
    assert "at width 12, in the worst case over the same four (60 epochs, two seeds, FC Layer-4 and FC-3&4" in readme()
    diverged = {option for (option, _), cell in layerwise.items() if cell["state"] == "diverged"}
    assert diverged == {"scope_network", "source_cw"}
    assert {cell["state"] for cell in layerwise.values()} == {"ok", "diverged"}


def test_the_readme_s_figures_of_3conv2fc_are_those_of_the_ledgers() -> None:
    said = readme()
    layerwise, fgsm, pgd = readings(read_ledger(REFERENCE / "readings_cnn/ledger.csv"))["groups"]
    assert [group["family"] for group in (layerwise, fgsm, pgd)] == ["layerwise", "fgsm", "pgd"]
    assert (
        f"{layerwise['diverged']} of {layerwise['measured']} readings of layer-wise training diverged, "
        f"{fgsm['diverged']} of {fgsm['measured']} settings of FGSM training and {pgd['diverged']} of "
        f"{pgd['measured']} of PGD training" in said
    )
    best = [f"{100 * group['points'][0]['worst_case']:.1f}" for group in (layerwise, fgsm, pgd)]
    nothing = At("quarter", "readings_cnn").mean("dnn")
    assert (
        "its best points keep {} (layer-wise), {} and {} %, the undefended network {}.".format(*best, nothing) in said
    )
    lost = Counter(
        r.status
        for r in {r.cell.slug: r for r in read_records(REFERENCE / "mnist/records.jsonl") if r.step == "train"}.values()
        if r.scale == CONVOLUTIONAL
    )
    assert f"{lost['diverged']} of {lost.total()} networks, one seed each" in said
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


def test_what_harder_attacks_leave_of_3conv2fc_is_what_the_readme_says() -> None:
    at, said = At(CONVOLUTIONAL), readme()
    living = at.frame[at.frame["status"] == "ok"]
    worst, fixed = (
        living[(living["step"] == "harder") & (living["attack"] == attack) & (living["metric"] == "robust_accuracy")]
        for attack in ("worst_case", "fixed_attacks")
    )
    assert set(worst["n"].astype(float)) == {1000}
    run = runs.load(ROOT / "config/mnist.yaml")
    entries = {e.name: e for e in run.entries if e.scale == CONVOLUTIONAL}
    assert all("harder" in run.steps(entry, 0) for entry in entries.values())
    assert f"of 3Conv2FC each of the {len({e.cell.slug for e in entries.values()})} networks on 1,000 images" in said

    def shown(frame: pd.DataFrame, *methods: str) -> str:
        found = frame[frame["method"].isin(methods)]["value"]
        return span([f"{100 * value:.1f}" for value in sorted(found)])

    assert shown(worst, "fgsm") == shown(fixed, "fgsm")
    assert (
        f"All attacks together leave {shown(worst, 'standard')} % of 1,000 images on the undefended network "
        f"({shown(fixed, 'standard')} under the tables' five), {shown(worst, 'layerwise')} on those trained with layer "
        f"perturbations alone ({shown(fixed, 'layerwise')}), {shown(worst, 'noise')} with undirected noise "
        f"({shown(fixed, 'noise')}) and {shown(worst, 'fgsm')} with FGSM training (the same)." in said
    )
    findings = living[(living["step"] == "audit") & (living["metric"] == "found")]
    weak = findings[findings["attack"] == "more_restarts"]["value"].max()
    assert f"one start of PGD is too weak there by up to {weak:.1f} points" in said
    checks = yaml.safe_load((ROOT / "config/audit.yaml").read_text())
    found = {name.partition("@")[0] for name in findings["attack"]}
    assert {checks[name]["against"] for name in found} == {"attack"}


def test_which_rows_of_3conv2fc_train_and_how_far_they_get_is_what_the_readme_says() -> None:
    said = readme()

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


def test_the_readme_s_figures_are_those_of_the_ledgers() -> None:
    said = readme()
    groups = readings(read_ledger(REFERENCE / "readings/ledger.csv"))["groups"]
    best = {(g["family"], g["scale"]): f"{100 * g['points'][0]['worst_case']:.1f}" for g in groups}
    layerwise, fgsm, pgd = ([best[name, scale] for scale in (NARROW, WIDE)] for name in ("layerwise", "fgsm", "pgd"))
    nothing = [At(scale, "readings").mean("dnn") for scale in (NARROW, WIDE)]
    study = runs.load(ROOT / "config/readings.yaml")
    assert {(e.seeds, e.cell.schedule.epochs) for e in study.entries} == {(1, 12)}
    assert {e.base for e in study.entries if e.cell.layerwise} == {"fc_34"}
    assert set(study.attacks) == {"fgsm", "ifgsm", "pgd", "cw"}
    assert (
        "On validation data, one seed, 12 epochs, FC-3&4, scope local, in the worst case over four attacks (EoT is not "
        "among them, so that the table's would be lower): the best of 60 readings of layer-wise training keeps "
        f"{layerwise[0]} % at width 12 and {layerwise[1]} % at width 256, the undefended network {nothing[0]} and "
        f"{nothing[1]}, the best of 60 settings of FGSM training {fgsm[0]} and {fgsm[1]}, the best of ten of PGD "
        f"training {pgd[0]} and {pgd[1]}." in said
    )
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


def test_the_readme_says_which_records_were_made_again_and_that_they_came_out_the_same() -> None:
    folder = REFERENCE / "mnist"
    entries, records = rederived.read(folder), read_records(folder / "records.jsonl")
    about = rederived.summary(entries, records, None)
    assert about is not None
    assert about["records"] == len(entries), "all are of records as they stand"
    first = chosen(runs.load(ROOT / "config/mnist.yaml"), folder, records, len(entries))
    assert {rederived.key_of(record) for record in first} == {entry.key for entry in entries}
    steps = {entry["step"]: entry["records"] for entry in about["steps"]}
    assert (
        f"Of `reports/reference/mnist` {len(entries)} records, the first by a hash of their names, were made again by "
        f"later code ({steps['train']} trainings, {steps['attack']} attacks, {steps['audit']} audits): all came out "
        "the same, weights and verdicts bit for bit." in readme()
    )
    assert (about["later"], about["differ"]) == (len(entries), [])


def test_the_readme_says_on_which_networks_a_large_ball_leaves_more_than_chance() -> None:
    """A network that two rows share is one."""
    frame = pd.read_csv(REFERENCE / "mnist/ledger.csv", keep_default_na=False)
    surviving = frame[(frame["step"] == "audit") & (frame["status"] == "ok") & frame["scale"].isin([NARROW, WIDE])]
    found = surviving[(surviving["attack"] == "large_ball@0.5") & (surviving["metric"] == "found")]
    values = found.drop_duplicates(["slug", "seed"])["value"].astype(float)
    assert found["slug"].str.contains("layerwise").all()
    said = readme()
    assert f"PGD leaves {values.min():.0f} to {values.max():.0f} % on {len(values)} of the 4FC networks, each" in said

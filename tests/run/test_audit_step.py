"""Harder attacks and the audit as steps of the grid: their records say what was attacked and found, and are held to
what they looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_run import made_record, scale, small_run

from lat import attacks, evaluation, experiment
from lat.audit import AuditError
from lat.collection import Folder, checked, collect, export, jobs, put_back, restore
from lat.experiment import Attacked, Audited, Job
from lat.experiment.harder_step import worst_figures
from lat.ledger import Figure, LedgerError, Record, read_records
from lat.measured import Plan
from lat.run_files import ROOT, RunError
from lat.runs import Entry, Run

AUDIT = {
    "file": "config/audit.yaml",
    "checks": "cheap",
    "attacks": ["mi_fgsm"],
    "transfer": {"attack": "ifgsm", "cells": ["dnn", "fc_4"]},
}
ATTACKS = {"file": "config/attacks.yaml", "names": ["fgsm", "ifgsm", "pgd"]}


def audited(**changes: Any) -> Run:
    given = {"audit": AUDIT, "attacks": ATTACKS, "scales": [scale(width=32, seeds=2, cells=["dnn", "fc_4"])]} | changes
    return small_run(**given)


@pytest.fixture(scope="module")
def run() -> Run:
    return audited()


@pytest.fixture(scope="module")
def done(run: Run, tmp_path_factory: pytest.TempPathFactory, digits_root: Path) -> Folder:
    """The whole run, collected."""
    folder = Folder(tmp_path_factory.mktemp("audited"))
    for step in ("train", "attack", "harder", "audit"):
        for entry, seed, _ in (job for job in jobs(run) if job[2] == step):
            job, record = Job.of(run, entry, seed, step, digits_root), folder.record(entry, seed, step)
            weights = folder.weights(entry, seed)
            if step == "train":
                experiment.train(job, weights, record)
            elif step == "attack":
                experiment.attack(job, run.attacks, run.part, weights, record, folder.verdicts(entry, seed))
            elif step == "harder":
                attack_harder(run, folder, digits_root, entry, seed, folder)
            else:
                experiment.audit_cell(job, run, entry, Audited.of(run, folder, entry, seed))
    collect(run, folder, folder.root)
    return folder


def attack_harder(run: Run, done: Folder, data_root: Path, entry: Entry, seed: int, to: Folder) -> Record:
    """The harder attacks on a network in `done`; what they leave lies in `to`."""
    return experiment.attack_harder(
        Job.of(run, entry, seed, "harder", data_root),
        run,
        entry,
        Attacked.of(done, entry, seed),
        {name: done.weights(*pair) for name, pair in run.surrogates(entry, seed).items()},
        to.record(entry, seed, "harder"),
        to.verdicts(entry, seed, "harder"),
    )


def test_an_audit_says_what_it_looked_at_and_what_it_found(run: Run, done: Folder) -> None:
    entry = run.entry("dnn")
    attacked, harder, record = (Record.read(done.record(entry, 0, step)) for step in ("attack", "harder", "audit"))
    assert record.settings == run.settings(entry, 0, "audit") and "attacks" not in record.settings
    assert record.inputs["attacked"] == harder.inputs["attacked"] == attacked.inputs["verdicts"]
    assert record.inputs["harder"] == harder.inputs["verdicts"]
    assert harder.settings == run.settings(entry, 0, "harder") and "checks" not in harder.settings
    for name in ("dnn", "fc_4"):
        trained = Record.read(done.record(run.entry(name), 1, "train"))
        assert harder.inputs[f"surrogate {name}"] == trained.inputs["weights"], "of the other seed"
    statuses = {f.attack: f.metric for f in record.figures if f.metric in ("passed", "noted", "found", "skipped")}
    assert statuses["worst_case"] == statuses["ball_and_box"] == statuses["repeated_passes"] == "passed"
    assert statuses["large_ball"] == "skipped", "this run has no PGD at several radii"
    assert "certified" not in statuses, "which is not cheap"
    assert record.reasons["large_ball"] == "pgd_curve@0.5: no verdicts"
    skipped = {check for check, status in statuses.items() if status == "skipped"}
    assert skipped <= record.reasons.keys() <= statuses.keys()


def test_the_worst_case_after_harder_attacks_is_over_all_attacks_of_both_steps(run: Run, done: Folder) -> None:
    entry = run.entry("fc_4")
    before = evaluation.load_verdicts(done.verdicts(entry, 0))
    found = evaluation.load_verdicts(done.verdicts(entry, 0, "harder"))
    assert set(found.verdicts) == {"mi_fgsm", "transfer"}
    figures = Record.read(done.record(entry, 0, "harder")).figures
    values = {f.attack: f.value for f in figures if f.metric == "robust_accuracy"}
    fixed = before.verdicts["fgsm"] & before.verdicts["ifgsm"] & before.verdicts["pgd"]
    assert values["fixed_attacks"] == fixed.mean()
    assert values["worst_case"] == (fixed & found.verdicts["mi_fgsm"] & found.verdicts["transfer"]).mean()
    assert values["transfer"] == found.verdicts["transfer"].mean()


def test_what_is_transferred_is_made_on_the_other_seeds_networks(run: Run, done: Folder, digits_root: Path) -> None:
    from lat import data

    entry = run.entry("dnn")
    images = data.load("digits", "test", digits_root)
    x, y = data.tensors(images, "cpu")

    def network(name: str, seed: int) -> Any:
        path = done.weights(run.entry(name), seed)
        return experiment.load_weights(("4fc", 32), path, images.shape, images.classes)

    model, inner = network("dnn", 0), attacks.from_settings(run.attacks)["ifgsm"]
    standing = attacks.right(model(x), y)
    for surrogate in (network("dnn", 1), network("fc_4", 1)):
        made = attacks.run_attack(attacks.protocol.Unjudged(surrogate), x, y, range(len(y)), inner, 0).adversarial
        standing &= attacks.right(model(made), y)
    found = evaluation.load_verdicts(done.verdicts(entry, 0, "harder"))
    np.testing.assert_array_equal(found.verdicts["transfer"], standing.numpy())


def test_harder_attacks_on_a_sample_see_the_same_images_of_every_network(
    done: Folder, tmp_path: Path, digits_root: Path
) -> None:
    sampled = audited(audit=AUDIT | {"examples": 40})
    settings = sampled.settings(sampled.entry("dnn"), 0, "harder")
    assert settings["attacks"]["mi_fgsm"]["examples"] == settings["transfer"]["examples"] == 40
    assert "examples" not in audited().settings(sampled.entry("dnn"), 0, "harder")["transfer"]
    seen = []
    for name in ("dnn", "fc_4"):
        entry = sampled.entry(name)
        attack_harder(sampled, done, digits_root, entry, 0, Folder(tmp_path))
        seen += evaluation.load_verdicts(Folder(tmp_path).verdicts(entry, 0, "harder")).index.values()
    assert len(seen) == 4, "MI-FGSM and the transfer, on two networks"
    for index in seen:
        np.testing.assert_array_equal(index, attacks.sample_index(360, 40))


def test_an_audited_run_is_exported_put_back_and_derived_again(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path
) -> None:
    assert export(run, done, tmp_path / "kept") == 4, "each network's weights once"
    found = list(experiment.rederive(run, tmp_path / "kept", digits_root, 99))
    assert len(found) == 16
    assert all(entry.same for entry in found)
    again = Folder(tmp_path / "again")
    assert restore(run, tmp_path / "kept", again) == (16, 0)
    assert collect(run, again, again.root) == []
    entry = run.entry("dnn")
    kept, back = (Record.read(place.record(entry, 1, "audit")) for place in (done, again))
    assert kept.reasons == back.reasons != {}
    assert again.verdicts(entry, 1, "harder").read_bytes() == done.verdicts(entry, 1, "harder").read_bytes()


def test_every_record_put_back_is_newer_than_all_that_its_step_looks_at(run: Run, done: Folder, tmp_path: Path) -> None:
    """Snakemake repeats harder attacks whose surrogates are newer than their record."""
    export(run, done, tmp_path / "kept")
    again = Folder(tmp_path / "again")
    restore(run, tmp_path / "kept", again)
    audits = [(entry, seed) for entry, seed, step in jobs(run) if step == "audit"]
    assert len(audits) == 4
    for entry, seed in audits:
        networks = [(entry, seed), *run.surrogates(entry, seed).values()]
        assert len(networks) == 3
        seen = [*(again.weights(*network) for network in networks), again.record(entry, seed, "attack")]
        for step in ("harder", "audit"):
            made = again.record(entry, seed, step).stat().st_mtime_ns
            assert all(path.stat().st_mtime_ns <= made for path in seen)
            seen.append(again.record(entry, seed, step))


def test_an_altered_figure_of_an_audit_comes_out_different(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path
) -> None:
    export(run, done, tmp_path)
    path = tmp_path / "records.jsonl"
    passed, found = (f'"attack": "ball_and_box", "metric": "{status}"' for status in ("passed", "found"))
    assert passed in path.read_text()
    path.write_text(path.read_text().replace(passed, found))
    made = list(experiment.rederive(run, tmp_path, digits_root, 99))
    assert [entry.same for entry in made] == [entry.step != "audit" for entry in made]
    assert len(made) == 16


@pytest.mark.parametrize(
    ("step", "change", "complaint"),
    [
        ("audit", lambda r: replace(r, inputs={**r.inputs, "attacked": "f" * 64}), "looked at attacked ffffffff"),
        ("audit", lambda r: replace(r, inputs={**r.inputs, "harder": "f" * 64}), "looked at harder ffffffff"),
        ("audit", lambda r: replace(r, inputs={**r.inputs, "weights": "f" * 64}), "looked at weights ffffffff"),
        ("audit", lambda r: replace(r, sources="0" * 64), "made by code with digest 00000000"),
        ("audit", lambda r: replace(r, settings={}), "settings {}"),
        (
            "audit",
            lambda r: replace(r, inputs={k: v for k, v in r.inputs.items() if k != "harder"}),
            "looked at other steps of attacks than the run has",
        ),
        ("harder", lambda r: replace(r, inputs={**r.inputs, "attacked": "f" * 64}), "looked at attacked ffffffff"),
        (
            "harder",
            lambda r: replace(r, inputs={**r.inputs, "surrogate fc_4": "f" * 64}),
            "looked at surrogate fc_4 ffffffff",
        ),
        ("harder", lambda r: replace(r, settings={}), "settings {}"),
    ],
)
def test_what_looked_at_something_else_is_refused(
    run: Run, done: Folder, tmp_path: Path, step: str, change: Callable[[Record], Record], complaint: str
) -> None:
    export(run, done, tmp_path)
    folder = Folder(tmp_path / "run")
    restore(run, tmp_path, folder)
    path = folder.record(run.entry("dnn"), 0, step)
    change(replace(Record.read(path), imported=False)).write(path)
    with pytest.raises(LedgerError, match=complaint) as raised:
        collect(run, folder, folder.root)
    assert f"delete {path} and run its job again" in str(raised.value)


@pytest.mark.parametrize("key", ["weights", "verdicts"])
def test_an_attack_step_that_does_not_fit_is_refused_before_anything_is_computed(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path, key: str
) -> None:
    entry, path = run.entry("dnn"), tmp_path / "attack.json"
    files = replace(Attacked.of(done, entry, 0), record=path)
    record = Record.read(done.record(entry, 0, "attack"))
    replace(record, inputs={**record.inputs, key: "f" * 64}).write(path)
    audited_files = replace(Audited.of(run, done, entry, 0), attacked=files, record=tmp_path / "r.json")
    for compute in (
        lambda: experiment.audit_cell(Job.of(run, entry, 0, "audit", digits_root), run, entry, audited_files),
        lambda: experiment.attack_harder(
            Job.of(run, entry, 0, "harder", digits_root), run, entry, files, {}, tmp_path / "r.json", tmp_path / "v.npz"
        ),
    ):
        with pytest.raises(LedgerError, match=f"of {key} ffffffff") as raised:
            compute()
        assert f"delete {path} and run its job again" in str(raised.value)
        assert sorted(place.name for place in tmp_path.iterdir()) == ["attack.json"], "nothing was computed"


@pytest.mark.parametrize(
    ("step", "attack", "said"),
    [
        ("attack", "worst_case", "worst_case"),
        ("attack", "pgd", "pgd"),
        ("harder", "mi_fgsm", "mi_fgsm"),
        ("harder", "worst_case", "all_attacks"),
        ("harder", "fixed_attacks", "fixed_attacks"),
    ],
)
def test_a_figure_that_is_not_that_of_the_verdicts_fails_the_audit(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path, step: str, attack: str, said: str
) -> None:
    """The record of the attacks says an image more than their verdicts do, or leaves it out."""
    entry, field = run.entry("dnn"), {"attack": "attacked", "harder": "harder"}[step]
    files = replace(Audited.of(run, done, entry, 0), record=tmp_path / "r.json")
    place = replace(getattr(files, field), record=tmp_path / "altered.json")
    record = Record.read(done.record(entry, 0, step))
    more = tuple(replace(f, value=f.value + 1 / 360) if f.attack == attack else f for f in record.figures)
    fewer = tuple(f for f in record.figures if f.attack != attack)
    for figures, figure in ((more, r"[\d.]+"), (fewer, "None")):
        replace(record, figures=figures).write(place.record)
        with pytest.raises(AuditError, match=rf"{said} is reported as {figure}, its verdicts have [\d.]+"):
            experiment.audit_cell(
                Job.of(run, entry, 0, "audit", digits_root), run, entry, replace(files, **{field: place})
            )
    assert not files.record.exists()


def test_fixed_attacks_on_few_images_have_no_worst_case_and_do_not_stop_the_audit() -> None:
    images = 600
    few, all_ = np.arange(20), np.arange(images)
    chosen = attacks.from_settings(audited().attacks)
    verdicts = {"fgsm": few >= 0, "ifgsm": all_ > 5}
    found = {"pgd": all_ > 8}

    def made(verdicts: dict[str, Any]) -> evaluation.Evaluation:
        index = {name: few if len(robust) == len(few) else all_ for name, robust in verdicts.items()}
        return evaluation.Evaluation(all_ >= 0, verdicts, index, {}, True)

    assert [(f.attack, f.value, f.n) for f in worst_figures(made(verdicts), made(found), chosen)] == [
        ("worst_case", (images - 9) / images, images),
        ("fixed_attacks", (images - 9) / images, images),
    ]
    assert worst_figures(made({"fgsm": few >= 0}), made({}), chosen) == []


def test_an_audit_without_its_attack_is_a_gap(run: Run, done: Folder, tmp_path: Path) -> None:
    export(run, done, tmp_path)
    folder, entry = Folder(tmp_path / "run"), run.entry("dnn")
    restore(run, tmp_path, folder)
    folder.record(entry, 0, "attack").unlink()
    assert collect(run, folder, folder.root, gaps=True) == [(entry, 0, s) for s in ("attack", "harder", "audit")]
    assert len(read_records(folder.root / "records.jsonl")) == 13


def test_surrogates_are_of_another_seed() -> None:
    many = audited(scales=[scale(seeds=3)])
    entry = many.entry("dnn")
    assert [(e.name, seed) for e, seed in many.surrogates(entry, 2).values()] == [("dnn", 0), ("fc_4", 0)]
    for seeds in (2, 3, 5):
        grown = audited(scales=[scale(seeds=seeds)])
        assert [seed for _, seed in grown.surrogates(grown.entry("dnn"), 0).values()] == [1, 1], (
            "more seeds change nothing"
        )
        assert [seed for _, seed in grown.surrogates(grown.entry("dnn"), 1).values()] == [0, 0]
    one = audited(scales=[scale(seeds=1)])
    assert one.surrogates(one.entry("dnn"), 0) == {}, "networks of one seed are not trained independently"
    without = small_run()
    assert without.surrogates(without.entry("dnn"), 0) == {}


def test_at_a_scale_with_one_seed_nothing_is_transferred_and_the_record_says_so(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path
) -> None:
    one = audited(scales=[scale(width=32, cells=["dnn", "fc_4"])])
    entry = one.entry("dnn")
    record = attack_harder(one, done, digits_root, entry, 0, Folder(tmp_path))
    assert set(evaluation.load_verdicts(Folder(tmp_path).verdicts(entry, 0, "harder")).verdicts) == {"mi_fgsm"}
    assert [f for f in record.figures if f.attack == "transfer"] == [Figure("surrogates", 0, attack="transfer")]
    assert not [key for key in record.inputs if key.startswith("surrogate")]
    with_two = Record.read(done.record(run.entry("dnn"), 0, "harder"))
    assert not [f for f in with_two.figures if f.metric == "surrogates"]


def test_what_was_transferred_to_one_seed_is_still_what_the_run_asks_for(done: Folder, tmp_path: Path) -> None:
    one = audited(scales=[scale(width=32, cells=["dnn", "fc_4"])])
    record = Record.read(done.record(one.entry("dnn"), 0, "harder"))
    assert "surrogate fc_4" in record.inputs
    assert collect(one, done, tmp_path) == []
    assert record in [replace(r, imported=False) for r in read_records(tmp_path / "records.jsonl")]


def test_a_scale_may_have_its_own_audit_or_none() -> None:
    run = audited(scales=[scale(), scale(name="wide", width=8, audit=None)])
    assert {entry.scale: run.steps(entry, 0) for entry in run.entries} == {
        "narrow": ("train", "attack", "harder", "audit"),
        "wide": ("train", "attack"),
    }
    assert all(step != "audit" for entry, _, step in jobs(run) if entry.scale == "wide")


def test_harder_attacks_and_all_checks_may_reach_the_first_seeds_alone(
    done: Folder, tmp_path: Path, digits_root: Path
) -> None:
    """The cheap checks are made on every seed."""
    one = audited(audit=AUDIT | {"seeds": 1, "checks": "all"})
    entry = one.entry("dnn")
    assert [one.steps(entry, seed) for seed in (0, 1)] == [
        ("train", "attack", "harder", "audit"),
        ("train", "attack", "audit"),
    ]
    assert [seed for _, seed in one.surrogates(entry, 0).values()] == [1, 1], "those need no audit of their own"
    whole, cheap = (one.settings(entry, seed, "audit")["checks"] for seed in (0, 1))
    assert cheap.keys() < whole.keys() and "certified" in whole.keys() - cheap.keys()
    assert cheap == audited().settings(entry, 1, "audit")["checks"]
    files = replace(Audited.of(one, done, entry, 1), record=tmp_path / "r.json")
    record = experiment.audit_cell(Job.of(one, entry, 1, "audit", digits_root), one, entry, files)
    assert files.harder is None and "harder" not in record.inputs
    made = {figure.attack.partition("@")[0] for figure in record.figures}
    assert made == cheap.keys()
    everyone = audited(audit=AUDIT | {"seeds": None})
    assert all(len(everyone.steps(e, 1)) == 4 for e in everyone.entries)


def test_more_seeds_of_a_named_cell_may_be_attacked_harder() -> None:
    """As of one whose first seed diverged; a network that goes by two names has the number of either."""
    given = AUDIT | {"seeds": 1, "checks": "all", "seeds_of": {"dnn@narrow": 2}}
    wide = scale(name="wide", width=8, seeds=2)
    run = audited(audit=given, scales=[scale(seeds=3), wide])
    harder = [(e.name, e.scale, seed) for e, seed, step in jobs(run) if step == "harder"]
    assert harder == [("dnn", "narrow", 0), ("dnn", "narrow", 1), ("fc_4", "narrow", 0)] + [
        (name, "wide", 0) for name in ("dnn", "fc_4")
    ]
    checks = {seed: run.settings(run.entry("dnn@narrow"), seed, "audit")["checks"].keys() for seed in range(3)}
    assert checks[0] == checks[1] > checks[2]
    plan = Plan.of(run)
    counted = {(at.name, cell): plan.seeds_of(at, cell, "harder") for at in plan.scales for cell in at.cells}
    assert counted == {("narrow", "dnn"): 2, ("narrow", "fc_4"): 1, ("wide", "dnn"): 1, ("wide", "fc_4"): 1}
    few = audited(audit=given | {"seeds_of": {"dnn@narrow": 2, "fc_4@narrow": 0}}, scales=[scale(seeds=3)])
    assert [(e.name, seed) for e, seed, step in jobs(few) if step == "harder"] == [("dnn", 0), ("dnn", 1)]
    assert Plan.of(few).steps == {"narrow": ("train", "attack", "harder", "audit")}
    same = {"name": "standard", "suffix": "_twin", "scales": ["narrow"], "bases": ["dnn"], "axes": [[{"radius": 0.1}]]}
    twins = audited(audit=given, scales=[scale(seeds=3)], variants=[same])
    assert [twins.steps(twins.entry(name), 1)[2] for name in ("dnn", "dnn_twin", "fc_4")] == [
        "harder",
        "harder",
        "audit",
    ]


@pytest.mark.parametrize(
    ("seeds_of", "said"),
    [
        ({"dnn": 2}, "audit.seeds_of: 'dnn' is no cell at a scale of this run; it has dnn@narrow, fc_4@narrow"),
        ({"dnn@narrow": 3}, "audit.seeds_of: 3 seeds of 'dnn@narrow'; it has 2"),
        ({"dnn@narrow": -1}, "run file, audit"),
        ({"dnn@wide": 1}, "audit.seeds_of: 'dnn@wide' is no cell at a scale of this run"),
    ],
)
def test_a_cell_or_a_seed_that_is_not_there_is_named(seeds_of: dict[str, int], said: str) -> None:
    with pytest.raises(RunError, match=re.escape(said)):
        audited(audit=AUDIT | {"seeds": 1, "seeds_of": seeds_of}, scales=[scale(seeds=2)])


def test_an_audit_without_attacks_of_its_own_has_no_harder_step_and_takes_no_record_that_saw_one(
    run: Run, done: Folder, tmp_path: Path
) -> None:
    quick = audited(audit=AUDIT | {"attacks": [], "transfer": None})
    entry = quick.entry("dnn")
    assert quick.steps(entry, 0) == ("train", "attack", "audit")
    with pytest.raises(LedgerError, match="looked at other steps of attacks than the run has"):
        checked(quick, (entry, 0, "audit"), done.record(entry, 0, "audit"))
    export(run, done, tmp_path)
    assert restore(quick, tmp_path, Folder(tmp_path / "quick")) == (8, 8), "neither harder attacks nor their audits"


def test_an_imported_record_stands_whenever_weights_beside_it_were_made(run: Run, done: Folder, tmp_path: Path) -> None:
    export(run, done, tmp_path)
    folder, entry = Folder(tmp_path / "run"), run.entry("dnn")
    restore(run, tmp_path, folder)
    for step in ("attack", "harder", "audit"):
        assert put_back(run, folder, (entry, 0, step))
        assert not put_back(run, done, (entry, 0, step)), "it was made here"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seeds": 0}, r"seeds"),
        ({"examples": 0}, r"examples"),
        ({"attacks": ["carlini"]}, r"audit\.attacks: 'carlini' is not in config/attacks\.yaml"),
        ({"attacks": ["eot"]}, r"audit\.attacks: 'eot' belongs to the tables' worst case"),
        ({"attacks": ["fgsm"]}, r"audit\.attacks: 'fgsm' is among the run's attacks already"),
        ({"transfer": {"attack": "eot", "cells": ["dnn"]}}, r"audit\.transfer\.attack: 'eot' is not at scale 'narrow'"),
        ({"transfer": {"attack": "pgd", "cells": ["mlpw"]}}, r"audit\.transfer\.cells: 'mlpw' is not at scale"),
        ({"checks": "some"}, "some"),
        ({"check": "all"}, "check"),
    ],
)
def test_a_wrong_audit_is_an_error_before_any_job(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RunError, match=complaint):
        audited(audit=AUDIT | change)


@pytest.mark.parametrize(
    ("check", "key", "value", "complaint"),
    [
        ("single_step", "iterative", "pdg", r"single_step\.iterative: 'pdg' is no attack; use one of fgsm,"),
        ("worst_case", "attacks", ["fgsm", "pdg@0.1"], r"worst_case\.attacks: 'pdg@0\.1' is no attack"),
        ("large_ball", "nothing", "pgd_curve@1.0", r"large_ball\.nothing: 'pgd_curve@1\.0' is no .* pgd_curve@1,"),
        ("falls_with_radius", "curve", "pgd", r"falls_with_radius\.curve: 'pgd' is no attack; use one of pgd_curve"),
        ("single_step", "iterative", "pgd_curve@0.2", r"single_step: 'pgd_curve@0\.2' and 'fgsm' differ in norm"),
        ("certified", "attacks", ["pgd", "cw_l2"], r"certified\.attacks: 'cw_l2' has no radius"),
        ("repeated_passes", "passes", 1, r"repeated_passes\.passes: 1 is less than the minimum of 2"),
        ("single_step", "words", {"found": "{excess}"}, r"single_step\.words\.found: '\{excess\}' cannot be filled in"),
    ],
)
def test_checks_that_cannot_be_made_or_told_are_an_error_before_any_job(
    check: str, key: str, value: Any, complaint: str, tmp_path: Path
) -> None:
    checks = yaml.safe_load((ROOT / AUDIT["file"]).read_text())
    checks[check][key] = checks[check][key] | value if isinstance(value, dict) else value
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(checks))
    with pytest.raises(RunError, match=complaint):
        audited(audit=AUDIT | {"file": str(tmp_path / "audit.yaml"), "checks": "all"})


def test_words_and_cost_of_a_check_change_no_record_and_its_limits_do(run: Run, done: Folder, tmp_path: Path) -> None:
    entry = run.entry("dnn")
    path = done.record(entry, 0, "audit")
    audit = run.audits["narrow"]

    def with_check(**changes: Any) -> Run:
        checks = {**audit.checks, "single_step": {**audit.checks["single_step"], **changes}}
        return replace(run, audits={"narrow": replace(audit, checks=checks)})

    assert checked(with_check(words={"passed": "Well."}, cost="full"), (entry, 0, "audit"), path)
    with pytest.raises(LedgerError, match="are asked for"):
        checked(with_check(points=0.4), (entry, 0, "audit"), path)


def test_a_run_without_audit_has_the_steps_it_had() -> None:
    run = small_run()
    entry = run.entry("dnn")
    assert [step for _, _, step in jobs(run)] == ["train", "attack"] * 2
    assert made_record(run, entry, 0, "attack").settings.keys() == {"part", "attacks"}

"""From a run file and the grid to named cells; whatever does not fit is an error that names the key."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_run import ROOT, run_file, scale, small_run

from lat import runs, sources
from lat.cells import CellError, Compute
from lat.run_files import RunError

RUN_FILES = sorted(
    path for path in (ROOT / "config").glob("*.yaml") if "scales" in yaml.safe_load(path.read_text(encoding="utf-8"))
)
GRID = (ROOT / "config/cells.tsv").read_text(encoding="utf-8")


def grid_file(folder: Path, text: str) -> str:
    path = folder / "grid.tsv"
    path.write_text(text, encoding="utf-8")
    return str(path)


# The project's own run files


def test_the_runs_of_the_readme_are_there() -> None:
    assert {"quick", "mnist", "paper", "calibration", "readings", "sensitivity"} <= {path.stem for path in RUN_FILES}


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_every_run_file_loads_and_gives_each_name_and_scale_once(path: Path) -> None:
    run = runs.load(path)
    assert run.name == path.stem
    assert run.entries
    names = Counter((entry.name, entry.scale) for entry in run.entries)
    assert max(names.values()) == 1
    assert set(run.datasets) == {given.get("dataset", run.config["dataset"]) for given in run.config["scales"]}


def test_a_run_holds_every_row_of_the_tables_that_it_shows() -> None:
    tables = {table["id"]: table for table in yaml.safe_load((ROOT / "config/tables.yaml").read_text())["tables"]}
    for name in ("quick", "mnist", "paper", "smoke-deep"):
        run = runs.load(ROOT / f"config/{name}.yaml")
        for shown in run.config["tables"]["show"]:
            whole = [s for s in run.config["scales"] if isinstance(s["cells"], dict)]
            scales = [s["name"] for s in whole if runs.belongs(s, shown)]
            rows = {row["cell"] for row in [*tables[shown]["rows"], *tables[shown]["extra"]]}
            assert scales, (name, shown)
            for scale_name in scales:
                assert rows <= {entry.name for entry in run.entries if entry.scale == scale_name}, (name, scale_name)


def test_each_method_has_its_equal_budget_of_readings() -> None:
    run = runs.load(ROOT / "config/readings.yaml")
    points = Counter((entry.scale, entry.base) for entry in run.entries if entry.overrides)
    for size in ("calibrated", "wide"):
        distinct = {entry.cell.digest for entry in run.entries if entry.scale == size}
        tuned = [entry for entry in run.entries if entry.scale == size and entry.base != "dnn"]
        by_base = Counter(entry.base for entry in tuned)
        assert by_base == {"fc_34": 60, "adv_fixed": 60, "adv_pgd": 10}
        assert len(distinct) == 131
    assert sum(points.values()) <= 260
    assert run.part == "validation"
    assert {entry.cell.part for entry in run.entries} == {"fit"}


def test_the_sensitivity_study_runs_the_alternatives_of_the_register_in_order() -> None:
    register = yaml.safe_load((ROOT / "config/assumptions.yaml").read_text(encoding="utf-8"))["assumptions"]
    listed = [change["set"] for assumption in register for change in assumption["sensitivity"] or ()]
    variants = runs.load(ROOT / "config/sensitivity.yaml").config["variants"]
    assert [axis for variant in variants for axis in variant["axes"]] == [listed]


def test_an_alternative_that_does_not_bite_a_row_is_not_run_again() -> None:
    run = runs.load(ROOT / "config/sensitivity.yaml")
    assert len({entry.cell for entry in run.entries}) == len(run.entries)
    undefended = {entry.name for entry in run.entries if entry.base == "dnn"}
    assert undefended == {
        "dnn",
        "dnn model=4fc_input_counted",
        "dnn schedule=constant",
        "dnn schedule=cosine",
        "dnn batch=64",
        "dnn batch=256",
    }
    assert "adv_input form=propagated" not in {entry.name for entry in run.entries}
    assert "fc_4 form=propagated" in {entry.name for entry in run.entries}


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_a_run_file_is_complete_and_inherits_nothing(path: Path) -> None:
    alone = yaml.safe_load(path.read_text(encoding="utf-8"))
    runs.load(run_file())
    assert runs.load(path).config == alone


@pytest.mark.parametrize("key", sorted(run_file()))
def test_a_key_left_out_of_a_run_file_is_named(key: str) -> None:
    values = run_file()
    del values[key]
    with pytest.raises(RunError, match=f"'{key}' is a required property"):
        runs.load(values)


def test_loading_leaves_the_run_file_alone() -> None:
    values = run_file(variants=[variant(suffix=None, axes=[[{"radius": 0.2}]])])
    before = copy.deepcopy(values)
    runs.load(values)
    assert values == before


def test_a_run_as_a_json_object_is_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_file()), encoding="utf-8")
    assert runs.load(json.dumps(run_file())) == runs.load(run_file()) == runs.load(path) == runs.load(str(path))


# Variants


def variant(**changes: Any) -> dict[str, Any]:
    return {"name": "v", "suffix": None, "scales": ["narrow"], "bases": ["fc_4"], "axes": [[{"radius": 0.3}]]} | changes


def test_a_variant_is_the_product_of_its_axes_and_named_by_its_overrides() -> None:
    axes = [[{"form": "closed"}, {"form": "propagated"}], [{"radius": 0.2}, {"radius": 0.3}]]
    run = small_run(variants=[variant(axes=axes)])
    assert [entry.name for entry in run.entries[2:]] == [
        "fc_4 form=closed radius=0.2",
        "fc_4 form=closed radius=0.3",
        "fc_4 form=propagated radius=0.2",
        "fc_4 form=propagated radius=0.3",
    ]
    assert run.entries[-1].cell.law is not None
    assert run.entries[-1].cell.law.radius == 0.3
    assert run.entries[-1].base == "fc_4"
    assert run.entries[-1].overrides == {"form": "propagated", "radius": 0.3}


def test_a_suffix_names_the_variants_of_all_its_bases_even_where_they_equal_the_base() -> None:
    best = variant(suffix="_best", bases=["fc_3", "fc_4"], axes=[[{"radius": 0.1}]])
    run = small_run(variants=[best])
    assert [entry.name for entry in run.entries] == ["dnn", "fc_4", "fc_3_best", "fc_4_best"]
    assert run.entry("fc_4_best").cell == run.entry("fc_4").cell


def test_an_override_spelt_as_text_is_the_cell_of_the_number() -> None:
    found = [small_run(variants=[variant(axes=[[{"radius": radius}]])]).entries[-1].cell for radius in (0.3, "0.3")]
    assert found[0].digest == found[1].digest


def test_entries_that_share_a_cell_are_found_by_its_slug_and_the_longer_one_counts() -> None:
    """Two names of one cell are trained once; the workflow asks for it by its slug."""
    run = small_run(scales=[scale(seeds=2), scale(name="again", seeds=3, cells=["dnn"])])
    assert run.entry("dnn@narrow").cell == run.entry("dnn@again").cell
    assert run.entry(run.entry("dnn@narrow").cell.slug).seeds == 3


def test_a_name_that_stands_at_several_scales_needs_its_scale() -> None:
    run = small_run(scales=[scale(), scale(name="wide", width=8)])
    with pytest.raises(RunError, match=r"'dnn' stands at several scales; write dnn@narrow or dnn@wide"):
        run.entry("dnn")
    assert run.entry("dnn@wide").cell.width == 8


def test_a_scale_of_tables_has_their_rows_and_extra_rows_each_once() -> None:
    run = small_run(scales=[scale(cells={"tables": ["table_1", "table_3"]})])
    assert [entry.name for entry in run.entries] == ["fc_2_fixed", "fc_2", "fc_23_fixed", "fc_23", "fc_34"]
    extra = [entry.name for entry in small_run(scales=[scale(cells={"tables": ["table_2"]})]).entries]
    assert {"adv_mix", "noise", "adv_pgd"} <= set(extra)


def test_entries_of_a_table_are_its_rows_in_any_reading_at_the_scales_that_belong_there() -> None:
    favourable = {"name": "best", "suffix": "_best", "scales": ["a"], "bases": ["fc_2"], "axes": [[{"radius": 0.3}]]}
    scales = [
        scale(name="a", cells={"tables": ["table_1"]}),
        scale(name="b", cells={"tables": ["table_2"]}),
        scale(name="c", cells=["fc_2", "dnn"]),
    ]
    run = small_run(scales=scales, variants=[favourable])
    found = [(entry.name, entry.scale) for entry in run.entries_of("table_1")]
    named = ["fc_2_fixed", "fc_2", "fc_23_fixed", "fc_23"]
    assert found == [*((name, "a") for name in named), ("fc_2", "c"), ("fc_2_best", "a")]
    assert [e.name for e in run.entries_of("table_1", "table_3") if e.scale == "c"] == ["fc_2"]
    assert run.entries_of() == []


def test_a_scale_may_say_dataset_images_and_schedule_for_itself() -> None:
    own = {"dataset": "cifar10", "train": 40, "batch": 8, "lr": 0.2, "schedule": "cosine"}
    run = small_run(scales=[scale(), scale(name="own", **own)])
    plain, other = (run.entry(f"dnn@{name}").cell for name in ("narrow", "own"))
    assert (other.dataset, other.train, other.schedule.batch, other.schedule.lr) == ("cifar10", 40, 8, 0.2)
    assert (plain.dataset, plain.train, plain.schedule.batch, plain.schedule.lr) == ("digits", None, 128, 0.1)
    assert other.schedule.schedule == "cosine" and other.schedule.momentum == plain.schedule.momentum
    assert run.datasets == ("digits", "cifar10")


def test_rows_that_cannot_be_compiled_are_not_and_the_others_are() -> None:
    light = {"precision": "bf16", "compile": "reduce-overhead"}
    run = small_run(scales=[scale(compute=light, cells=["dnn", "adv_pgd", "ibp", "fc_4", "mlpw"])])
    found = {entry.name: entry.cell.compute for entry in run.entries}
    plain, compiled = Compute("bf16"), Compute("bf16", compile="reduce-overhead")
    assert found == {"dnn": compiled, "adv_pgd": compiled, "ibp": plain, "fc_4": plain, "mlpw": plain}


def test_augmentation_and_compute_are_told_by_the_run_or_the_scale_and_need_not_be() -> None:
    fast = {"precision": "bf16", "channels_last": True}
    schedule = run_file()["schedule"] | {"augmentation": "flip_crop"}
    scales = [scale(), scale(name="own", augmentation="none", compute={"compile": "default"}, cells=["dnn"])]
    run = small_run(schedule=schedule, compute=fast, scales=scales)
    told, own, plain = run.entry("dnn@narrow").cell, run.entry("dnn@own").cell, small_run().entry("dnn").cell
    assert (told.schedule.augmentation, told.compute) == ("flip_crop", Compute("bf16", True))
    assert (own.schedule.augmentation, own.compute) == ("none", Compute(compile="default"))
    assert (plain.schedule.augmentation, plain.compute) == ("none", Compute())


def test_how_many_images_are_looked_at_decides_both_steps_and_is_left_out_where_it_is_all() -> None:
    def settings(step: str, **changes: Any) -> dict[str, Any]:
        run = small_run(**changes)
        return run.settings(run.entry("dnn"), 0, step)

    assert settings("train") == {} and "images" not in settings("attack")
    assert settings("train", images=None) == {}
    assert settings("train", images=16) == {"images": 16} and settings("attack", images=16)["images"] == 16
    assert settings("train", images=16, scales=[scale(images=20)]) == {"images": 20}
    assert settings("train", images=16, scales=[scale(images=None)]) == {}


# What does not fit


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"epsilom": 1}, "'epsilom' was unexpected"),
        ({"scales": [scale(cells="all")]}, "scales.0.cells: 'all' is not"),
        ({"scales": [scale(cells={"tables": ["table_0"]})]}, "'table_0'"),
        ({"scales": [scale(batch=0)]}, "scales.0.batch: 0 is less than"),
        ({"compute": {"precision": "float16"}}, "compute.precision: 'float16' is not one of"),
        ({"images": 0}, "images: 0 is less than"),
        ({"scales": [scale(epochs=0)]}, "scales.0.epochs: 0 is less than"),
        ({"scales": [scale(widht=3)]}, "'widht' was unexpected"),
        ({"scales": [scale(width=6.0)]}, "scales.0.width: 6.0 is not of type 'integer'"),
        ({"scales": [scale(seeds=1.0)]}, "scales.0.seeds: 1.0 is not of type 'integer'"),
        ({"train": 100.0}, "train: 100.0 is not of type"),
        ({"scales": [scale(), scale()]}, "scales: 'narrow' stands twice"),
        ({"scales": [scale(keep=["dnn", "nope"])]}, "keep: 'nope' is not at scale 'narrow'; it has dnn, fc_4"),
        ({"tables": {"file": "config/claims.yaml", "show": []}}, "claims.yaml, top level: "),
        ({"tables": {"file": "config/none.yaml", "show": []}}, "tables.file: "),
        ({"scales": [scale(cells=["dnn", "dnn"])]}, "non-unique"),
        ({"scales": [scale(cells=["fc_5"])]}, "cells: 'fc_5' is no row of config/cells.tsv; it has dnn, adv_input"),
        ({"scales": [scale(model="5fc")]}, "model: '5fc' is not known; use one of 4fc, "),
        ({"attacks": {"file": "config/attacks.yaml", "names": ["fsgm"]}}, "attacks: 'fsgm' is not in config/attacks"),
        ({"attacks": {"file": "config/none.yaml", "names": ["fgsm"]}}, "none.yaml cannot be read"),
        ({"grid": "config/none.tsv"}, "none.tsv cannot be read"),
        ({"dataset": "../mnist"}, "letters and digits"),
        ({"part": "test"}, "part: 'test' is not one of"),
        ({"variants": [variant(scales=["calm"])]}, "variants: scale 'calm' is not among the scales narrow"),
        ({"variants": [variant(bases=["fc_9"])]}, "cells: 'fc_9' is no row"),
        ({"variants": [variant(axes=[[{"raduis": 0.1}]])]}, "variants: 'raduis' cannot be overridden; use one of"),
        ({"variants": [variant(axes=[[{"radius": "much"}]])]}, "radius: 'much' is no number"),
        ({"variants": [variant(axes=[[{"radius": float("nan")}]])]}, "radius: nan is no finite number; give one"),
        ({"variants": [variant(axes=[[{"width": 6.0}]])]}, "width: 6.0 must be a whole number"),
        ({"variants": [variant(axes=[[{"layers": ["fc2"]}]])]}, "layers: ['fc2'] in an override"),
        ({"variants": [variant(bases=["adv_fixed"], axes=[[{"mix": "maybe"}]])]}, "mix: 'maybe' is neither yes nor no"),
        ({"variants": [variant(suffix="_x"), variant(suffix="_x")]}, "cells: 'fc_4_x' stands twice"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises((RunError, CellError)) as raised:
        small_run(**changes)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"form": "shut"}, "cell 'fc_4 form=shut': form: 'shut' is not known; use one of closed, propagated"),
        ({"method": "fgsm+pgd"}, "method: 'fgsm+pgd' joins more than one method"),
        ({"layers": "fc2,fc2"}, "names a layer twice"),
        ({"layers": "-"}, "name at least one layer"),
        ({"batch": 0}, "batch: 0 must be a whole number"),
    ],
)
def test_a_cell_that_cannot_be_is_named_with_its_field(overrides: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CellError) as raised:
        small_run(variants=[variant(axes=[[overrides]])])
    assert complaint in str(raised.value)


def test_an_unknown_method_is_named_with_the_known_ones(tmp_path: Path) -> None:
    grid = grid_file(tmp_path, GRID.replace("adv_pgd\tpgd", "adv_pgd\tpdg"))
    with pytest.raises(RunError, match=r"method: 'pdg' is not known; use one of standard, fgsm, .*lat\.defences"):
        small_run(grid=grid, scales=[scale(cells=["adv_pgd"])])


def test_an_unknown_key_of_an_attack_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    attacks = yaml.safe_load((ROOT / "config/attacks.yaml").read_text(encoding="utf-8"))
    attacks["pgd"]["setps"] = 40
    path = tmp_path / "attacks.yaml"
    path.write_text(yaml.safe_dump(attacks), encoding="utf-8")
    with pytest.raises(RunError, match="setps"):
        small_run(attacks={"file": str(path), "names": ["fgsm"]})


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("cw", {"radius": 0.2}, "attacks.yaml, cw: the tables' attacks (fgsm, pgd, cw) make one worst case; give them"),
        ("pgd", {"norm": "l2"}, "pgd: the tables' attacks (fgsm, pgd, cw) make one worst case; give them one norm"),
        ("pgd", {"examples": 50}, "pgd: the tables' attacks (fgsm, pgd, cw) make one worst case; give them one norm"),
        ("fgsm", {"radius": float("nan")}, "attacks.yaml, fgsm.radius: nan is no finite number; give one"),
        ("noise", {"radius": float("inf")}, "attacks.yaml, noise.radius: inf is no finite number; give one"),
        ("noise", {"radius": 25}, "attacks.yaml, noise.radius: 25 of pixels that lie in [0, 1]; give a part of 1"),
        ("pgd_curve", {"radii": [0.1, 8]}, "attacks.yaml, pgd_curve.radius: 8 of pixels that lie in [0, 1]"),
        ("noise", {"box": [0, 255]}, "attacks.yaml, noise.box: [0.0, 1.0] was expected"),
        ("fgsm", {"radii": [0.1]}, "attacks.yaml, fgsm.radius: 0.1 is not of type 'null'"),
    ],
)
def test_an_attack_out_of_its_threat_model_is_named_before_anything_is_trained(
    tmp_path: Path, name: str, change: dict[str, Any], complaint: str
) -> None:
    attacks = yaml.safe_load((ROOT / "config/attacks.yaml").read_text(encoding="utf-8"))
    attacks[name] |= change
    path = tmp_path / "attacks.yaml"
    path.write_text(yaml.safe_dump(attacks), encoding="utf-8")
    with pytest.raises(RunError, match=re.escape(complaint)):
        small_run(attacks={"file": str(path), "names": ["fgsm", "pgd", "cw", "pgd_curve", "noise"]})


def test_an_attack_without_a_radius_is_told_that_it_needs_one(tmp_path: Path) -> None:
    attacks = yaml.safe_load((ROOT / "config/attacks.yaml").read_text(encoding="utf-8"))
    del attacks["pgd_curve"]["radii"]
    path = tmp_path / "attacks.yaml"
    path.write_text(yaml.safe_dump(attacks), encoding="utf-8")
    with pytest.raises(RunError, match=r"attacks\.yaml, pgd_curve: 'radius' is a required property"):
        small_run(attacks={"file": str(path), "names": ["fgsm"]})


def test_a_cell_of_a_table_that_no_grid_has_is_named_with_the_nearest(tmp_path: Path) -> None:
    path, text = tmp_path / "tables.yaml", (ROOT / "config/tables.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("cell: fc_4,", "cell: fc_44,"), encoding="utf-8")
    small_run(tables={"file": str(path), "show": ["table_1"]})
    with pytest.raises(RunError, match=r"tables\.yaml: cell 'fc_44' is no row of a grid; the nearest are fc_4, "):
        small_run(tables={"file": str(path), "show": ["table_1", "table_2"]})


def test_an_attack_that_is_registered_nowhere_is_named_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = [kind for kind in sources.registered("lat.attacks") if kind != "pgd"]
    real = sources.registered
    monkeypatch.setattr(sources, "registered", lambda package: kinds if package == "lat.attacks" else real(package))
    small_run(attacks={"file": "config/attacks.yaml", "names": ["fgsm"]})
    audit = {"file": "config/audit.yaml", "checks": "cheap", "attacks": ["pgd_twice"], "transfer": None}
    for asked in ({"attacks": {"file": "config/attacks.yaml", "names": ["pgd"]}}, {"audit": audit}):
        with pytest.raises(RunError, match=r"\.kind: 'pgd' is not known; use one of fgsm, .* add it to lat\.attacks$"):
            small_run(**asked)


def test_a_key_that_stands_twice_is_an_error_and_not_its_last_value(tmp_path: Path) -> None:
    path = tmp_path / "attacks.yaml"
    text = (ROOT / "config/attacks.yaml").read_text(encoding="utf-8")
    path.write_text(text + "pgd: {kind: fgsm, norm: linf, radius: 0.1, box: [0.0, 1.0], examples: null}\n", "utf-8")
    with pytest.raises(RunError, match=r"attacks\.yaml: not YAML \(key 'pgd' stands twice .*\); mend that place"):
        small_run(attacks={"file": str(path), "names": ["fgsm"]})


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("tables.yaml", "best: ", "bset: ", "tables.yaml, tables.table_1.rows."),
        ("tables.yaml", "extra:", "extraa:", "tables.yaml, tables.table_1: "),
        ("tables.yaml", "cw: 0.", "cw: 53.", "cw: 53."),
        ("cells.tsv", "\tfixed\t0.1\tsample\tno\t", "\t-\t0.1\tsample\tno\t", "'-' was expected"),
        ("cells.tsv", "\tnormal\t0.1\tsample\tclosed", "\t-\t0.1\tsample\tclosed", "law: '-' where a value is needed"),
        ("cells.tsv", "\tnormal\t0.1\tsample\tclosed", "\tnromal\t0.1\tsample\tclosed", "law: 'nromal' is not one"),
    ],
)
def test_a_slip_in_the_tables_or_the_grid_is_named_by_file_row_and_key(
    tmp_path: Path, file: str, old: str, new: str, complaint: str
) -> None:
    text, path = (ROOT / "config" / file).read_text(encoding="utf-8"), tmp_path / file
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RunError) as raised:
        small_run(**({"grid": str(path)} if file == "cells.tsv" else {"tables": {"file": str(path), "show": []}}))
    assert complaint in str(raised.value)
    assert str(raised.value).startswith(f"{file}, ")
    assert "\n" not in str(raised.value)


def test_a_row_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    text = GRID + next(line for line in GRID.splitlines(keepends=True) if line.startswith("fc_2\t"))
    with pytest.raises(RunError, match=rf"grid.tsv, line {len(GRID.splitlines()) + 1}: cell 'fc_2' stands twice"):
        small_run(grid=grid_file(tmp_path, text))


@pytest.mark.parametrize(("old", "new"), [("radius", "raduis"), ("\tcomment", ""), ("form\tscope", "scope\tform")])
def test_a_wrong_header_names_a_column(tmp_path: Path, old: str, new: str) -> None:
    head, _, rest = GRID.partition("\n")
    with pytest.raises(RunError, match=r"column '\w+' is missing, unknown or displaced"):
        small_run(grid=grid_file(tmp_path, head.replace(old, new, 1) + "\n" + rest))


def test_a_row_with_a_tab_too_few_or_too_many_is_named_with_its_line(tmp_path: Path) -> None:
    lines = GRID.splitlines()
    for spoilt in (lines[2].replace("\t", " ", 1), lines[2] + "\tmore"):
        with pytest.raises(RunError, match=r"grid.tsv, line 3: 19 columns"):
            small_run(grid=grid_file(tmp_path, "\n".join([*lines[:2], spoilt, *lines[3:]]) + "\n"))


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("config/nothing.yaml", "nothing.yaml cannot be read"),
        ("config", "config cannot be read"),
        ('{"name": ', "no JSON object"),
    ],
)
def test_a_source_that_is_no_run_file_is_named(source: str, complaint: str) -> None:
    with pytest.raises(RunError, match=complaint):
        runs.load(source)


def test_a_file_that_is_no_yaml_or_no_mapping_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for text in ("name: [unclosed", "- a\n- list"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RunError, match=r"run\.yaml"):
            runs.load(path)

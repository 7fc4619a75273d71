"""The audits as the report tells them: every finding in words, means over seeds that did not diverge, gaps with why."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from lat import audit_tables
from lat.intervals import binomial, student_t
from lat.ledger import COLUMNS
from lat.measured import Plan, read_ledger

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = yaml.safe_load((ROOT / "config/audit.yaml").read_text())
LABELS = {("calibrated", "dnn"): "DNN", ("calibrated", "fc_4"): "FC Layer-4", ("calibrated", "fc_4_best"): "FC Layer-4"}


@pytest.fixture
def told(tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]) -> Callable[..., dict[str, Any]]:
    """The summary of a run of two cells and two seeds, with these rows of its audits; (cell, seed, attack, metric,
    value, n) each.
    """

    def tell(
        *rows: tuple[str, int, str, str, float, int | str],
        diverged: Any = (),
        more: Any = (),
        twin: str = "",
        harder: Mapping[str, int] = MappingProxyType({}),
        steps: tuple[str, ...] = ("train", "attack", "harder", "audit"),
        reasons: Mapping[tuple[str, int], Mapping[str, str]] = MappingProxyType({}),
    ) -> dict[str, Any]:
        run = made(cells=["dnn", "fc_4", *more], scales=[("calibrated", 12, 2)])
        plan = written(run, tmp_path, diverged=diverged)
        reached = {("calibrated", cell): seeds for cell, seeds in harder.items()}
        plan = replace(plan, steps={"calibrated": steps}, harder=reached)
        if twin:  # a second name of that cell
            scale = replace(plan.scales[0], cells=(*plan.scales[0].cells, "twin"))
            slugs = {**plan.slugs, ("calibrated", "twin"): plan.slugs["calibrated", twin]}
            plan = replace(plan, scales=(scale,), slugs=slugs)
        with (tmp_path / "ledger.csv").open("a", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            for cell, seed, attack, metric, value, n in rows:
                own: Mapping[str, Any] = {
                    "cell": cell, "seed": seed, "attack": attack, "metric": metric, "value": value, "n": n,
                    "scale": "calibrated", "slug": plan.slugs["calibrated", cell], "width": 12,
                    "step": "harder" if metric in ("robust_accuracy", "surrogates") else "audit",
                    "status": "diverged" if (cell, "calibrated", seed) in diverged else "ok", "model": "4fc",
                    "dataset": "mnist", "method": "", "layers": "", "epsilon": "",
                }  # fmt: skip
                writer.writerow(own)
        why = {(plan.slugs["calibrated", cell], seed): given for (cell, seed), given in reasons.items()}
        return audit_tables.summary(read_ledger(tmp_path / "ledger.csv"), plan, LABELS, SETTINGS, why)

    return tell


def test_a_finding_is_the_sentence_of_the_worst_seed(told: Callable[..., dict[str, Any]]) -> None:
    found = told(
        ("dnn", 0, "single_step", "found", 0.75, 10000),
        ("dnn", 0, "single_step", "threshold", 0.5, ""),
        ("dnn", 1, "single_step", "found", 2.5, 10000),
        ("dnn", 1, "single_step", "threshold", 0.5, ""),
        ("fc_4", 0, "single_step", "passed", -1.0, 10000),
        ("fc_4", 1, "single_step", "found", 0.6, 10000),
    )
    (finding,) = found["findings"]
    assert (finding["scale"], finding["check"], finding["against"]) == ("calibrated", "single_step", "gradients")
    assert finding["row"] == "DNN"
    assert "2.50 points above that under FGSM (limit 0.5 points, 10000 images)" in finding["words"]
    assert finding["cells"] == [
        {"row": "DNN", "seeds": 2, "of": 2, "value": "2.50"},
        {"row": "FC Layer-4", "seeds": 1, "of": 2, "value": "0.60"},
    ]
    assert found["checks"] == [{"check": "single_step", "passed": 1, "noted": 0, "found": 3, "skipped": 0}]


def test_a_network_that_two_rows_share_is_counted_once_and_told_of_both(told: Callable[..., dict[str, Any]]) -> None:
    rows = [("dnn", 0, "single_step", "found", 0.75, 10000), ("dnn", 0, "single_step", "threshold", 0.5, "")]
    found = told(*rows, twin="dnn")
    assert found["checks"] == [{"check": "single_step", "passed": 0, "noted": 0, "found": 1, "skipped": 0}]
    assert [cell["row"] for cell in found["findings"][0]["cells"]] == ["DNN", "twin"]


def test_accuracies_are_means_over_seeds_in_per_cent(told: Callable[..., dict[str, Any]]) -> None:
    found = told(
        *[("dnn", seed, name, "robust_accuracy", value - seed / 10, 1000)
          for seed in (0, 1) for name, value in (("apgd_t", 0.5), ("fixed_attacks", 0.6), ("worst_case", 0.4))],
        *[("dnn", seed, "certified@0.01", "noted", 20.0 + 10 * seed, 250) for seed in (0, 1)],
    )  # fmt: skip
    (scale,) = found["scales"]
    assert (scale["attacks"], scale["radii"]) == (["apgd_t"], ["certified@0.01"])
    line = scale["lines"][0]
    assert line["attacks"] == {"apgd_t": "45.0", "fixed_attacks": "55.0", "worst_case": "35.0"}
    assert line["certified"] == {"certified@0.01": "25.0"}
    assert scale["images"] == {"apgd_t": "1,000", "fixed_attacks": "1,000", "worst_case": "1,000"}
    assert (line["found"], line["made"]) == (0, 2)


def test_every_column_says_on_how_many_images_it_stands_and_which_saw_too_few_to_count(
    told: Callable[..., dict[str, Any]],
) -> None:
    """The attack step looked at 10,000 images."""
    found = told(
        ("dnn", 0, "noise", "robust_accuracy", 0.9, 200),
        ("dnn", 0, "square", "robust_accuracy", 0.6, 500),
        ("dnn", 0, "pgd_restarts", "robust_accuracy", 0.5, 10000),
        ("fc_4", 0, "pgd_restarts", "robust_accuracy", 0.5, 1000),
        ("dnn", 0, "worst_case", "robust_accuracy", 0.4, 500),
        ("dnn", 0, "transfer", "surrogates", 0, ""),
    )
    (scale,) = found["scales"]
    assert scale["images"]["pgd_restarts"] == "1,000 or 10,000"
    assert (scale["left_out"], scale["images"]["noise"], scale["enough"]) == (["noise"], "200", 500)
    assert "transfer" not in scale["attacks"]
    assert scale["untransferred"]


def test_the_worst_case_has_the_interval_of_its_images_or_of_its_seeds(told: Callable[..., dict[str, Any]]) -> None:
    rows = [("dnn", 0, 0.4), ("fc_4", 0, 0.4), ("fc_4", 1, 0.6)]
    found = told(*[(cell, seed, "worst_case", "robust_accuracy", value, 500) for cell, seed, value in rows])
    one, two = (line["interval"] for line in found["scales"][0]["lines"])
    for text, estimate in ((one, binomial(0.4, 500)), (two, student_t([0.4, 0.6]))):
        low, high = (float(end.replace("\N{MINUS SIGN}", "-")) for end in text.split(" to "))
        assert (low, high) == pytest.approx((100 * estimate.low, 100 * estimate.high), abs=0.05)
    assert not found["scales"][0]["untransferred"]


def test_a_share_of_nothing_certified_counts_and_a_network_without_bounds_does_not(
    told: Callable[..., dict[str, Any]],
) -> None:
    found = told(
        ("dnn", 0, "certified@0.1", "noted", 20.0, 2000),
        ("dnn", 1, "certified@0.1", "skipped", 0.0, 0),
        ("fc_4", 0, "certified", "skipped", float("nan"), ""),
    )
    first, second = found["scales"][0]["lines"]
    assert (first["certified"], second["certified"]) == ({"certified@0.1": "10.0"}, {"certified@0.1": ""})
    assert first["made"] == 1
    assert found["notes"] == [], "they stand in their table"


def test_why_a_check_was_skipped_is_told_and_what_one_that_was_made_lacks(told: Callable[..., dict[str, Any]]) -> None:
    found = told(
        ("dnn", 0, "certified@0.1", "skipped", 0.0, 0),
        ("dnn", 1, "certified@0.1", "skipped", 0.0, 0),
        ("fc_4", 0, "certified@0.1", "skipped", 0.0, 0),
        ("fc_4", 1, "gradient_free", "found", 2.0, 500),
        ("fc_4", 1, "gradient_free", "threshold", 0.5, ""),
        reasons={
            ("dnn", 0): {"certified@0.1": "no image of 9 is certified"},
            ("dnn", 1): {"certified@0.1": "no image of 9 is certified", "large_ball": "another"},
            ("fc_4", 1): {"gradient_free": "transfer: no verdicts"},
        },
    )
    assert found["skipped"] == [
        {"check": "certified@0.1", "reason": "", "networks": 1},
        {"check": "certified@0.1", "reason": "no image of 9 is certified", "networks": 2},
    ]
    assert found["findings"][0]["words"].endswith(" (transfer: no verdicts)")


def test_a_note_of_many_networks_is_one_sentence(told: Callable[..., dict[str, Any]]) -> None:
    found = told(
        ("dnn", 0, "zero_gradients", "noted", 0.002, 1000),
        ("dnn", 1, "zero_gradients", "noted", 0.004, 1000),
        ("fc_4", 0, "zero_gradients", "noted", 0.001, 1000),
        ("fc_4", 0, "zero_gradients", "threshold", 0.01, ""),
        ("fc_4", 1, "zero_gradients", "passed", 0.0, 1000),
    )
    (note,) = found["notes"]
    assert (note["scale"], note["rows"], note["networks"], note["largest"]) == (
        "calibrated", ["DNN", "FC Layer-4"], 3, "DNN"
    )  # fmt: skip
    assert "0.40% of 1000 images" in note["words"]
    assert found["findings"] == []


def test_a_row_and_its_most_favourable_reading_are_told_apart(told: Callable[..., dict[str, Any]]) -> None:
    found = told(
        ("fc_4", 0, "zero_gradients", "noted", 0.001, 1000),
        ("fc_4", 0, "single_step", "found", 0.75, 1000),
        ("fc_4_best", 1, "zero_gradients", "noted", 0.002, 1000),
        ("fc_4_best", 1, "single_step", "found", 0.75, 1000),
        more=["fc_4_best"],
    )
    assert found["notes"][0]["rows"] == ["FC Layer-4", "FC Layer-4, favourable"]
    assert [cell["row"] for cell in found["findings"][0]["cells"]] == ["FC Layer-4", "FC Layer-4, favourable"]
    assert found["checks"][1] == {"check": "zero_gradients", "passed": 0, "noted": 2, "found": 0, "skipped": 0}


def test_a_cell_without_an_audit_says_why(told: Callable[..., dict[str, Any]]) -> None:
    lost = {("dnn", "calibrated", 0), ("dnn", "calibrated", 1)}
    found = told(("dnn", 0, "zero_gradients", "found", 1.0, 1000), diverged=lost)
    lines = found["scales"][0]["lines"]
    reasons = {line["row"]: line["reason"] for line in lines}
    assert reasons == {"DNN": "diverged (2 of 2 seeds)", "FC Layer-4": "failed or unfinished"}
    assert found["findings"] == [], "nothing is claimed for a diverged seed, so nothing speaks against it"


def test_a_cell_whose_audited_seeds_diverged_says_so(told: Callable[..., dict[str, Any]]) -> None:
    lost = {("dnn", "calibrated", 0)}
    scale = told(("dnn", 0, "zero_gradients", "found", 1.0, 1000), diverged=lost)["scales"][0]
    assert [line["reason"] for line in scale["lines"]] == ["diverged (1 of 1 audited seeds)", "failed or unfinished"]
    assert [line["lacking"] for line in scale["lines"]] == [1, 2]


def test_a_scale_says_how_many_seeds_the_run_attacks_harder(told: Callable[..., dict[str, Any]]) -> None:
    """Whatever of them is there."""
    checked = [("dnn", seed, "zero_gradients", "passed", 0.0, 1000) for seed in (0, 1)]
    for reached, said, each in (
        ({"dnn": 1, "fc_4": 1}, 1, [1, 1]),
        ({"dnn": 0, "fc_4": 0}, 0, [0, 0]),
        ({}, 2, [2, 2]),
    ):
        scale = told(*checked, harder=reached)["scales"][0]
        assert (scale["harder"], scale["seeds"], scale["of_seeds"]) == (True, said, 2)
        assert [line["seeds"] for line in scale["lines"]] == each
    some = told(*checked, harder={"dnn": 0})["scales"][0]
    assert [line["seeds"] for line in some["lines"]] == [0, 2]
    three = told(*checked, more=["fc_2"], harder={"dnn": 1, "fc_2": 1})["scales"][0]
    assert (three["seeds"], [line["seeds"] for line in three["lines"]]) == (1, [1, 2, 1])
    assert [line["unattacked"] for line in some["lines"]] == ["", "failed or unfinished"], "what is asked for is missed"
    without = told(*checked, steps=("train", "attack", "audit"))["scales"][0]
    assert (without["harder"], without["seeds"]) == (False, 0)
    assert [line["unattacked"] for line in without["lines"]] == ["", ""]


def test_an_audit_that_is_missing_is_told_though_others_are_there(told: Callable[..., dict[str, Any]]) -> None:
    """One that failed must not leave what the harder attacks found standing as if it had been checked."""
    lines = told(
        ("dnn", 0, "square", "robust_accuracy", 0.5, 1000),
        ("dnn", 1, "zero_gradients", "passed", 0.0, 1000),
        ("fc_4", 0, "square", "robust_accuracy", 0.5, 1000),
    )["scales"][0]["lines"]
    assert [(line["reason"], line["lacking"]) for line in lines] == [("", 1), ("failed or unfinished", 2)]
    nothing = told(("dnn", 0, "zero_gradients", "passed", 0.0, 1000))["scales"][0]["lines"]
    assert [line["unattacked"] for line in nothing] == ["failed or unfinished"] * 2


def test_a_finding_counts_the_seeds_in_which_its_check_was_made(told: Callable[..., dict[str, Any]]) -> None:
    found = told(
        ("dnn", 0, "more_steps", "found", 0.75, 1000),
        *[("dnn", seed, "zero_gradients", "found", 0.125, 1000) for seed in (0, 1)],
        ("fc_4", 0, "more_steps", "found", 0.75, 1000),
        ("fc_4", 1, "more_steps", "skipped", float("nan"), ""),
    )
    told = [(f["check"], f["against"], [tuple(c.values()) for c in f["cells"]]) for f in found["findings"]]
    assert told == [
        ("zero_gradients", "gradients", [("DNN", 2, 2, "12.5%")]),
        ("more_steps", "attack", [("DNN", 1, 1, "0.75"), ("FC Layer-4", 1, 1, "0.75")]),
    ]


def test_a_row_whose_seed_for_harder_attacks_diverged_says_so(told: Callable[..., dict[str, Any]]) -> None:
    """Another seed went through the cheap checks."""
    lines = told(
        ("dnn", 0, "square", "robust_accuracy", 0.1, 1000),
        ("dnn", 1, "zero_gradients", "passed", 0.0, 1000),
        ("fc_4", 0, "square", "robust_accuracy", 0.5, 1000),
        ("fc_4", 0, "zero_gradients", "passed", 0.0, 1000),
        diverged={("dnn", "calibrated", 0)},
    )["scales"][0]["lines"]
    assert [(line["reason"], line["unattacked"]) for line in lines] == [
        ("", "diverged (1 of 1 such seeds)"),
        ("", ""),
    ]
    assert [line["attacks"]["square"] for line in lines] == ["", "50.0"]


def test_a_scale_without_cells_has_no_lines(
    tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]
) -> None:
    plan = written(made(cells=["dnn"], scales=[("calibrated", 12, 2)]), tmp_path)
    empty = replace(
        plan, scales=(replace(plan.scales[0], cells=()),), steps={"calibrated": ("train", "attack", "harder", "audit")}
    )
    (scale,) = audit_tables.summary(read_ledger(tmp_path / "ledger.csv"), empty, LABELS, SETTINGS)["scales"]
    assert scale["lines"] == []


def test_a_seed_that_diverged_in_another_step_is_out() -> None:
    rows = [
        {"seed": 0, "step": "audit", "status": "ok"},
        {"seed": 1, "step": "attack", "status": "diverged"},
        {"seed": 1, "step": "audit", "status": "ok"},
    ]
    assert audit_tables.audited(rows) == rows[:1]


def test_a_check_that_was_skipped_speaks_against_nothing(told: Callable[..., dict[str, Any]]) -> None:
    found = told(("dnn", 0, "more_steps", "skipped", float("nan"), ""))
    assert found["findings"] == []
    assert found["checks"] == [{"check": "more_steps", "passed": 0, "noted": 0, "found": 0, "skipped": 1}]
    assert found["scales"][0]["lines"][0]["made"] == 0

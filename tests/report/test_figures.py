"""Figures: their series are the ledger's, Fig. 1 is the equations', and equal input gives equal files."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE

from lat import tables
from lat.figures import curves, dots, relu, style
from lat.ledger import read_records
from lat.measured import Plan, Scale, read_ledger

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = st.floats(-2, 2).filter(lambda value: abs(value) > 1e-3)


@pytest.fixture
def run(tmp_path: Path, made: Callable[..., Any], written: Callable[..., Plan]) -> tuple[Path, Plan]:
    cells = ("dnn", "adv_input", "fc_2", "fc_2_best", "fc_3")
    every = [("fc_3", "calibrated", seed) for seed in range(3)]
    return tmp_path, written(made(cells=cells), tmp_path, diverged=[("fc_2", "calibrated", 2), *every])


def test_epsilon_series_start_at_clean_accuracy_and_follow_the_radii(run: tuple[Path, Plan]) -> None:
    ledger = read_ledger(run[0] / "ledger.csv")
    series = {(s["scale"], s["cell"]): s for s in curves.epsilon_series(ledger, run[1], {("calibrated", "dnn"): "DNN"})}
    found = series["calibrated", "dnn"]
    assert [point[0] for point in found["points"]] == [0.0, 0.05, 0.1, 0.2]
    frame = ledger.frame
    mine = frame[(frame["cell"] == "dnn") & (frame["scale"] == "calibrated") & (frame["attack"] == "pgd_curve@0.1")]
    assert found["points"][2][1] == pytest.approx(mine["value"].mean())
    assert found["label"] == "DNN"
    lost = series["calibrated", "fc_3"]
    assert (lost["points"], lost["reason"]) == ([], "diverged (3 of 3 seeds)")
    assert series["calibrated", "fc_2_best"]["group"] == "favourable"


def test_a_line_that_was_not_attacked_is_not_called_diverged(run: tuple[Path, Plan]) -> None:
    path = run[0] / "ledger.csv"
    rows = path.read_text().splitlines(True)
    path.write_text("".join(row for row in rows if not (",dnn," in row and ",attack," in row)))
    series = {(s["scale"], s["cell"]): s for s in curves.epsilon_series(read_ledger(path), run[1], {})}
    assert series["wide", "dnn"]["reason"] == "failed or unfinished"


def test_training_series_are_means_over_the_seeds_that_did_not_diverge(run: tuple[Path, Plan]) -> None:
    records = read_records(run[0] / "records.jsonl")
    series = {(s["scale"], s["cell"]): s for s in curves.training_series(records, run[1], {}, "clean_accuracy")}
    mine = [r for r in records if (r.name, r.scale, r.step, r.status) == ("fc_2", "calibrated", "train", "ok")]
    assert len(mine) == 2
    expected = [fmean(record.curve[epoch]["clean_accuracy"] for record in mine) for epoch in range(4)]
    assert [point[1] for point in series["calibrated", "fc_2"]["points"]] == pytest.approx(expected)


def test_equal_input_gives_equal_files(run: tuple[Path, Plan], tmp_path: Path) -> None:
    series = curves.epsilon_series(read_ledger(run[0] / "ledger.csv"), run[1], {})
    for name in ("a", "b"):
        curves.draw(series, curves.looks(series), tmp_path / f"{name}.svg", x="x", y="y", mark=0.1)
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert b"dc:date" not in first


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.floats(-3, 3))
def test_the_difference_of_fig_1_is_that_of_the_network(w1: float, b1: float, w2: float, r: float, x: float) -> None:
    example = relu.Example(w1=w1, b1=b1, w2=w2, r=r)

    def network(at: float) -> float:
        return w2 * max(w1 * at + b1, 0.0)

    assert relu.change(example, np.array([x]))[0] == pytest.approx(network(x + r) - network(x), abs=1e-9)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_eq_13_holds_for_positive_w1_and_is_swapped_for_negative(w1: float, b1: float, w2: float, r: float) -> None:
    example = relu.Example(w1=w1, b1=b1, w2=w2, r=r)
    reach = abs(r) * np.array([1.01, 1.5, 4.0])
    sides = example.kink + np.concatenate([-reach, reach])
    printed, true = relu.printed_change(example, sides), relu.change(example, sides)
    if w1 > 0:
        assert printed == pytest.approx(true, abs=1e-9)
    else:
        assert printed[::-1] == pytest.approx(true, abs=1e-9)
        assert np.abs(printed - true).max() > 0


def test_the_drawn_examples_show_both_signs() -> None:
    described = relu.describe()
    assert [example["w1"] > 0 for example in described] == [True, False]
    assert described[0]["distance"] == 0
    assert described[1]["distance"] == pytest.approx(abs(described[1]["w2"] * described[1]["w1"] * described[1]["r"]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_keep_their_order_and_do_not_overlap(heights: list[float]) -> None:
    gap = 0.05
    moved = style.spread(heights, gap, 0.0, 1.0)
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in moved)
    ordered = sorted(moved)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(ordered))
    for first, one in zip(heights, moved, strict=True):
        assert all(one <= two + 1e-9 for second, two in zip(heights, moved, strict=True) if first < second)


def test_lines_look_different() -> None:
    looks = [style.look(place) for place in range(81)]
    assert len({tuple(look.values()) for look in looks}) == 81
    for key in ("color", "marker"):
        assert len({look[key] for look in looks[:9]}) == 9


SIGHT = {
    "normal": np.eye(3),
    "no long cones": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "no medium cones": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "no short cones": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
"""Linear RGB as it is seen: Machado, Oliveira and Fernandes 2009, severity 1."""

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, sight: Any) -> Any:
    """CIELAB of a colour #rrggbb under D65, as it is seen."""
    linear = np.array([((int(colour[at : at + 2], 16) / 255 + 0.055) / 1.055) ** 2.4 for at in (1, 3, 5)])
    x, y, z = np.cbrt(XYZ @ np.clip(np.asarray(sight) @ linear, 0, 1) / XYZ.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_told_apart_with_any_colour_vision(sight: str) -> None:
    for one, two in itertools.combinations([*style.CYCLE, style.GREY], 2):
        assert np.linalg.norm(lab(one, SIGHT[sight]) - lab(two, SIGHT[sight])) > 10, (one, two)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is written."""
    found: list[Figure] = []
    write = Figure.savefig

    def keep(figure: Figure, *given: Any, **named: Any) -> None:
        found.append(figure)
        write(figure, *given, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    return found


def test_a_name_has_one_look_in_all_panels_and_figures_and_shares_it_in_none(
    run: tuple[Path, Plan], tmp_path: Path, figures: list[Figure]
) -> None:
    labels = {(scale, "fc_2_best"): "fc_2" for scale in ("calibrated", "wide")}
    loss = curves.training_series(read_records(run[0] / "records.jsonl"), run[1], labels, "loss")
    epsilon = [
        s for s in curves.epsilon_series(read_ledger(run[0] / "ledger.csv"), run[1], labels) if s["cell"] != "fc_2"
    ]
    looks = curves.looks([*epsilon, *loss])
    for series in (epsilon, loss):
        curves.draw(series, looks, tmp_path / "a.svg", x="x", y="y", log=True)
    found: dict[str, set[tuple[str, str]]] = {}
    for axes in (axes for figure in figures for axes in figure.axes):
        lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
        seen = {str(line.get_label()): (str(line.get_color()), str(line.get_marker())) for line in lines}
        assert len(set(seen.values())) == len(lines)
        for name, look in seen.items():
            found.setdefault(name, set()).add(look)
    assert found.keys() == {"dnn", "adv_input", "fc_2", "fc_3"}
    assert all(len(look) == 1 for look in found.values())


def test_one_epoch_is_seen_and_epochs_are_whole(tmp_path: Path, figures: list[Figure]) -> None:
    common = {"scale": "a", "model": "4fc", "width": 10, "group": "input", "standard": False, "reason": ""}
    series = [common | {"label": "one", "points": [[1.0, 30.0]]}]
    curves.draw(series, curves.looks(series), tmp_path / "a.svg", x="epoch", y="clean error, per cent", log=True)
    marked = (tmp_path / "a.svg").read_text().count(f'style="fill: {style.look(0)["color"].lower()};')
    assert marked == 2, "the point and its name"
    axes = figures[0].axes[0]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert "30" in [label.get_text() for label in axes.get_yticklabels()]
    assert not any(label.get_text() for label in axes.get_yticklabels(minor=True))


def test_a_figure_holds_at_most_two_scales_of_one_network(run: tuple[Path, Plan]) -> None:
    def series(scale: str, model: str, *points: list[float]) -> dict[str, Any]:
        return {"scale": scale, "model": model, "points": list(points)}

    point = [1.0, 0.5]
    given = [series("a", "4fc", point), series("a", "4fc"), series("b", "4fc", point), series("c", "4fc", point)]
    given += [series("d", "vgg16", point), series("e", "wrn28")]
    assert curves.parts(given) == [given[:3], given[3:4], given[4:5]]
    measured = curves.epsilon_series(read_ledger(run[0] / "ledger.csv"), run[1], {})
    assert curves.parts(measured) == [measured]


def test_errors_are_what_accuracy_lacks_in_per_cent() -> None:
    assert curves.errors([{"cell": "dnn", "points": [[1.0, 0.75]]}]) == [{"cell": "dnn", "points": [[1.0, 25.0]]}]


def table_of(run: tuple[Path, Plan]) -> dict[str, Any]:
    described = tables.named_table(tables.load_tables(ROOT / "config/tables.yaml"), "table_2")
    return tables.build(read_ledger(run[0] / "ledger.csv"), described, run[1])


def test_dots_at_the_ends_are_whole(run: tuple[Path, Plan], tmp_path: Path, figures: list[Figure]) -> None:
    dots.draw(table_of(run), tmp_path / "a.svg")
    marked = [line for axes in figures[0].axes for line in axes.get_lines()]
    assert {str(line.get_marker()) for line in marked} >= {"o", "s", "D"}
    assert not any(line.get_clip_on() for line in marked)


def test_an_interval_that_passes_0_or_100_ends_there_in_an_arrow(
    run: tuple[Path, Plan], tmp_path: Path, figures: list[Figure]
) -> None:
    table = table_of(run)
    for row in table["rows"]:
        for line in row["lines"]:
            for found in line["columns"].values():
                found["estimate"] = None
    line = table["rows"][0]["lines"][0]
    for column, low, high in (("clean", 0.8, 1.1), ("fgsm", -0.1, 1.0), ("pgd", 0.0, 0.5)):
        line["columns"][column]["estimate"] = {"mean": 0.5, "low": low, "high": high}
    dots.draw(table, tmp_path / "a.svg")
    panels = dict(zip([column["key"] for column in table["columns"]], figures[0].axes, strict=True))
    arrows = {
        (key, drawn.get_marker(), *np.asarray(drawn.get_xdata()))
        for key, axes in panels.items()
        for drawn in axes.get_lines()
        if drawn.get_marker() in (CARETLEFTBASE, CARETRIGHTBASE) and len(np.asarray(drawn.get_xdata()))
    }
    assert arrows == {("clean", CARETRIGHTBASE, 100), ("fgsm", CARETLEFTBASE, 0)}


def test_a_table_without_a_measured_line_is_not_drawn(run: tuple[Path, Plan]) -> None:
    table = table_of(run)
    assert dots.measured(table)
    unmeasured = [row for row in table["rows"] if not any(line["state"] == "ok" for line in row["lines"])]
    assert any(row["reported"] for row in unmeasured)
    assert not dots.measured(table | {"rows": unmeasured})


def test_figures_name_cells_as_the_tables_of_their_scale_do() -> None:
    scales = [
        Scale("a", "mnist", "4fc", 10, 4, 1, ("dnn",), ()),
        Scale("b", "cifar10", "vgg16", 4, 1, 1, (), ("table_8",)),
    ]
    labels = tables.labels_of(tables.load_tables(ROOT / "config/tables.yaml"), Plan("made", {}, tuple(scales), {}))
    assert [labels["a", cell] for cell in ("dnn", "fc_2", "fc_2_best")] == ["DNN", "FC Layer-2", "FC Layer-2"]
    assert (labels["b", "dnn"], labels["b", "all_o"]) == ("VGG16", "All-o")
    assert ("b", "fc_2") not in labels and ("a", "all_o") not in labels


def test_tables_load_no_drawing() -> None:
    code = "import sys, lat.report, lat.tables, lat.studies, lat.compare; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

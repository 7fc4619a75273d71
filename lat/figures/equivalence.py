"""How far from equivalent: `equivalence.csv` as the report's numbers, and as figures by layer.

True changes stand against their bounds, and R in every reading against the true change. Numbers are medians over
networks, as ratios spread over orders of magnitude.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lat.cells import FULLY_CONNECTED
from lat.figures.style import BLUE, GREY, MARKER, RED, canvas, look, margins
from lat.ledger import LedgerError, Record
from lat.measured import Plan

BOUNDS = {"chain": ("tightness_chain", BLUE, "o"), "local": ("tightness_local", RED, "s")}
BOUND_LABELS = {
    "chain": r"chain bound: $\varepsilon |W_l| \cdots |W_1| \mathbf{1}$, from the input",
    "local": r"local bound: $|W_l| |\Delta h|$, from the true change of the layer's input",
}
PAIRINGS = {"same": "same batch", "slot": "slot (Algorithm 1)", "mean": "batch mean"}
PAIRING_LOOKS = {pairing: look(place) for place, pairing in enumerate(PAIRINGS)}
SCOPES: dict[str, Any] = {"local": "-", "network": (0, (4, 1.5))}
COMPARED = (("closed", "local", "slot"), ("closed", "local", "same"), ("propagated", "network", "same"))
"""The readings (form, scope, pairing) in the table beside what FGSM truly does; the first is the tables' default."""
COMPARED_FIGURES = (
    *("norm_ratio", "cosine", "zero_share", "sign_agreement", "cosine_to_same", "loss"),
    *("flips", "off_share", "tightness_chain", "tightness_local"),
    *("clip_cut", "loss_clean", "loss_fgsm", "loss_fgsm_clipped"),
)


def read(run: Path, plan: Plan, records: Sequence[Record]) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """The rows of this run's networks in `equivalence.csv`, and what to say of them; None where there are no such rows.

    A network that diverged, or whose weights are not those of its training record, is left out and listed. Columns
    added: `place` counts the layers from 0, `places` is their number, and `loss_share` is the increase of the loss
    under R at that layer alone over the increase under FGSM. Raises LedgerError where a column is missing.
    """
    said: dict[str, Any] = {"gap": "", "asked": _kept_networks(plan), "left_out": []}
    csv_path, json_path = run / "equivalence.csv", run / "equivalence.json"
    if absent := [path.name for path in (csv_path, json_path) if not path.is_file()]:
        return None, said | {"gap": f"{absent[0]} is missing"}
    made = json.loads(json_path.read_text())
    if made["part"] != plan.config["evaluate"]:
        return None, said | {"gap": f"equivalence.csv is of the {made['part']} part, not the run's"}
    keys = ("scale", "cell", "layer", "form", "scope", "pairing")
    absent_number = {key: ["", "nan"] for key in COMPARED_FIGURES}
    frame = pd.read_csv(csv_path, dtype=dict.fromkeys(keys, str), keep_default_na=False, na_values=absent_number)
    if missing := sorted({*keys, "seed", *COMPARED_FIGURES} - set(frame.columns)):
        raise LedgerError(f"{csv_path}: column {missing[0]!r} is missing; run `lat equivalence` again")
    weights = {(r.cell.slug, r.seed): r.inputs.get("weights") for r in records if r.step == "train"}
    diverged = {(r.cell.slug, r.seed) for r in records if r.status == "diverged"}
    good = []
    for network in made["networks"]:
        of = (network["slug"], network["seed"])
        label = f"{network['cell']}@{network['scale']}, seed {network['seed']}"
        if plan.slugs.get((network["scale"], network["cell"])) != of[0] or weights.get(of) != network["weights"]:
            said["left_out"].append(f"{label} (other weights than its record's)")
        elif of in diverged or not network["finite"]:
            said["left_out"].append(f"{label} (diverged)")
        else:
            good.append((network["scale"], network["cell"], network["seed"]))
    frame = frame[pd.MultiIndex.from_frame(frame[["scale", "cell", "seed"]]).isin(good)].copy()
    said |= {"networks": len(good), **{key: made[key] for key in ("radius", "part", "images", "sources")}}
    if frame.empty:
        lost = f"no network to show; left out: {', '.join(said['left_out']) or 'none'}"
        return None, said | {"gap": lost if said["asked"] else "the run keeps no weights"}
    network = frame.groupby(["scale", "cell", "seed"])
    frame["place"] = network["layer"].transform(lambda of: pd.factorize(of)[0] - 1)
    frame["places"] = network["layer"].transform("nunique") - 1
    clean, fgsm = (network[name].transform("first") for name in ("loss_clean", "loss_fgsm"))
    frame["loss_share"] = (frame["loss"] - clean) / (fgsm - clean)
    return frame, said


def _kept_networks(plan: Plan) -> int:
    """How many fully connected networks' weights the run keeps, each of a scale once."""
    seeds = {scale.name: scale.seeds for scale in plan.scales if scale.model in FULLY_CONNECTED}
    count = 0
    for scale in (given for given in plan.config["scales"] if given["name"] in seeds):
        mine = {name: slug for (where, name), slug in plan.slugs.items() if where == scale["name"]}
        everything = scale["keep"] == "all"
        names = mine if everything else [name for name in scale["keep"] if name in mine]
        count += len({mine[name] for name in names}) * (seeds[scale["name"]] if everything else 1)
    return count


def summary(
    run: Path, plan: Plan, records: Sequence[Record], sources: Mapping[tuple[str, str], str] | None
) -> dict[str, Any]:
    """What the section "How far from equivalent" says, under `found`: medians over networks; or None and the gap."""
    command = f"lat equivalence --config config/{plan.name}.yaml"
    frame, said = read(run, plan, records)
    if frame is None:
        return {"found": None, "gap": said["gap"], "command": command}
    present = {digest for (_, step), digest in (sources or {}).items() if step == "equivalence"}
    own = frame[frame["layer"] == ""].set_index(["scale", "cell", "seed"])
    scales = [
        {
            "scale": scale,
            "networks": len(own.loc[[scale]]),
            "rows": [_layer(str(name), of) for name, of in mine[mine["layer"] != ""].groupby("layer", sort=False)],
        }
        for scale, mine in frame.groupby("scale", sort=False)
    ]
    found = {
        **said,
        "older": bool(present) and said["sources"] not in present,
        "words": _words(frame, own),
        "columns": [{"key": " ".join(reading), "label": ", ".join(reading)} for reading in COMPARED],
        "scales": scales,
    }
    return {"found": found, "gap": "", "command": command}


def _words(frame: pd.DataFrame, own: pd.DataFrame) -> dict[str, str]:
    """The numbers of the section's prose, as text: medians over networks (and layers where none is named)."""

    def of(column: str, reading: tuple[str, str, str] = ("", "", ""), place: int | None = None) -> float:
        rows = _in_reading(frame[frame["layer"] != ""], reading)
        if place is not None:
            rows = rows[rows["place"] == (place if place >= 0 else rows["places"] + place)]
        return float(rows[column].median())

    default, same, through = COMPARED
    chained = ("closed", "network", "same")
    return {
        "default_cosine": _signed(of("cosine", default)),
        "default_signs": _per_cent(of("sign_agreement", default)),
        "default_to_same": _signed(of("cosine_to_same", default)),
        "default_loss_first": _per_cent(of("loss_share", default, 0)),
        "default_loss_last": _per_cent(of("loss_share", default, -1)),
        "same_cosine_first": _signed(of("cosine", same, 0)),
        "same_cosine_last": _signed(of("cosine", same, -1)),
        "same_size_first": _rounded(of("norm_ratio", same, 0)),
        "same_size_last": _rounded(of("norm_ratio", same, -1)),
        "chained_size_last": _rounded(of("norm_ratio", chained, -1)),
        "through_cosine_first": _signed(of("cosine", through, 0)),
        "through_cosine_last": _signed(of("cosine", through, -1)),
        "flips": _per_cent(of("flips")),
        "zero": _per_cent(of("zero_share", through, 0)),
        "clip_cut": _per_cent(float(own["clip_cut"].median())),
        **{name: _rounded(float(own[name].median())) for name in ("loss_clean", "loss_fgsm", "loss_fgsm_clipped")},
    }


def _in_reading(rows: pd.DataFrame, reading: tuple[str, str, str]) -> pd.DataFrame:
    form, scope, pairing = reading
    return rows[(rows["form"] == form) & (rows["scope"] == scope) & (rows["pairing"] == pairing)]


def _layer(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    """A row of the section's table: medians over the networks of one scale, as text."""
    layer = rows[rows["form"] == ""]
    readings = {}
    for reading in COMPARED:
        mine = _in_reading(rows, reading)
        readings[" ".join(reading)] = {
            "cosine": _signed(float(mine["cosine"].median())),
            "size": _rounded(float(mine["norm_ratio"].median())),
            "loss": _per_cent(float(mine["loss_share"].median())),
        }
    text = {key: _per_cent(float(layer[key].median())) for key in ("flips", "off_share", "tightness_chain")}
    return {"layer": name, **text, "readings": readings}


def _rounded(value: float) -> str:
    """Two significant digits, written out; a dash where there is no number."""
    return f"{float(f'{value:.2g}'):g}".replace("-", "−") if math.isfinite(value) else "–"


def _per_cent(share: float) -> str:
    return _rounded(100 * share)


def _signed(cosine: float) -> str:
    text = f"{cosine:.2f}" if math.isfinite(cosine) else "–"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def tightness_series(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """For each scale, bound and layer in `equivalence.csv`: each network's |Δ| / bound, ascending, and the median."""
    layers = frame[(frame["layer"] != "") & (frame["form"] == "")]
    return [
        {"scale": scale, "bound": bound, "layer": layer, "values": sorted(values), "median": float(values.median())}
        for (scale, layer), rows in layers.groupby(["scale", "layer"], sort=False)
        for bound, (column, _, _) in BOUNDS.items()
        if len(values := rows[column].dropna())
    ]


def cosine_series(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """For each scale and reading: by layer the median over networks of cos(R, Δ), with the lowest and the highest."""
    readings = frame[frame["form"] != ""]
    found = []
    for (scale, form, scope, pairing), rows in readings.groupby(["scale", "form", "scope", "pairing"], sort=False):
        by_layer = rows.groupby("layer", sort=False)["cosine"]
        points = [
            {"layer": layer, "median": float(of.median()), "low": float(of.min()), "high": float(of.max())}
            for layer, of in by_layer
        ]
        found.append({"scale": scale, "form": form, "scope": scope, "pairing": pairing, "points": points})
    return found


def draw_tightness(series: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel a scale: each network a dot, the median a bar, on a logarithmic axis that ends at the bound itself."""
    scales = list(dict.fromkeys(entry["scale"] for entry in series))
    with canvas(path, 2.0) as fig:
        panels = fig.subplots(1, len(scales), squeeze=False, sharey=True)[0]
        for axes, scale in zip(panels, scales, strict=True):
            mine = [entry for entry in series if entry["scale"] == scale]
            layers = list(dict.fromkeys(entry["layer"] for entry in mine))
            for entry in mine:
                _, colour, marker = BOUNDS[entry["bound"]]
                at = layers.index(entry["layer"]) + (-0.14 if entry["bound"] == "chain" else 0.14)
                axes.plot([at] * len(entry["values"]), entry["values"], marker, color=colour, markersize=2.4, alpha=0.5)
                axes.plot([at - 0.11, at + 0.11], [entry["median"]] * 2, color=colour, linewidth=1.6)
            axes.axhline(1, color=GREY, linewidth=0.7, linestyle=(0, (1, 1.5)))
            axes.set_yscale("log")
            axes.set_xlim(-0.5, len(layers) - 0.5)
            axes.set_xticks(range(len(layers)), layers)
            axes.set_title(scale)
        panels[0].set_ylabel("|Δ| over its bound")
        handles = [
            Line2D([], [], color=colour, marker=marker, markersize=2.8, linewidth=1.6, label=BOUND_LABELS[bound])
            for bound, (_, colour, marker) in BOUNDS.items()
        ]
        fig.legend(handles=handles, loc="lower center", ncols=2)
        margins(fig, left=0.55, right=0.1, top=0.25, bottom=0.55, between=(0.2, 0))


def draw_cosines(series: Sequence[dict[str, Any]], path: Path) -> None:
    """A row of panels a scale, a panel a form; lines are medians over networks, bars reach from the lowest to the
    highest.
    """
    scales = list(dict.fromkeys(entry["scale"] for entry in series))
    forms = list(dict.fromkeys(entry["form"] for entry in series))
    with canvas(path, 0.75 + 1.4 * len(scales)) as fig:
        panels = fig.subplots(len(scales), len(forms), squeeze=False, sharey=True)
        for row, scale in zip(panels, scales, strict=True):
            for axes, form in zip(row, forms, strict=True):
                _lines(axes, [entry for entry in series if (entry["scale"], entry["form"]) == (scale, form)])
                axes.set_title(f"{scale}, {form} form")
            row[0].set_ylabel("cos(R, Δ)")
        fig.legend(handles=_legend(), loc="lower center", ncols=len(PAIRINGS) + len(SCOPES))
        margins(fig, left=0.55, right=0.1, top=0.25, bottom=0.5, between=(0.2, 0.45))


def _lines(axes: Axes, series: Sequence[dict[str, Any]]) -> None:
    for height in (0, 1):
        axes.axhline(height, color=GREY, linewidth=0.7, linestyle=(0, (1, 1.5)))
    for place, entry in enumerate(series):
        points = entry["points"]
        at = [layer + 0.05 * (place - (len(series) - 1) / 2) for layer in range(len(points))]
        medians = [point["median"] for point in points]
        bars = [[point["median"] - point["low"] for point in points], [p["high"] - p["median"] for p in points]]
        style = {"linestyle": SCOPES[entry["scope"]], "markersize": 2.4, **PAIRING_LOOKS[entry["pairing"]]}
        axes.errorbar(at, medians, yerr=bars, elinewidth=0.5, **style)
    layers = [point["layer"] for point in series[0]["points"]] if series else []
    axes.set_xticks(range(len(layers)), layers)
    axes.set_ylim(-0.3, 1.05)


def _legend() -> list[Line2D]:
    handles = []
    for pairing, label in PAIRINGS.items():
        style: dict[str, Any] = {"linestyle": "", "markersize": MARKER, **PAIRING_LOOKS[pairing]}
        handles.append(Line2D([], [], label=label, **style))
    for scope, dashes in SCOPES.items():
        handles.append(Line2D([], [], label=f"scope {scope}", color=GREY, linestyle=dashes))
    return handles

"""What the audits of a run found, cell by cell: what harder attacks leave, and each check that speaks against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median, mode
from types import MappingProxyType
from typing import Any

from lat.findings import STATUSES, Result, words
from lat.measured import WORST_CASE, Ledger, Plan, Rows, Scale, figure
from lat.shared_images import ENOUGH

STEP, HARDER = "audit", "harder"
FIXED = "fixed_attacks"
RESTARTS = "more_restarts"
CERTIFIED = "certified"


def summary(
    ledger: Ledger,
    plan: Plan,
    labels: Mapping[tuple[str, str], str],
    settings: Mapping[str, Mapping[str, Any]],
    reasons: Mapping[tuple[str, int], Mapping[str, str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The audits of every scale that has one: `scales` with a line a cell, `checks` with how many results had which
    status, a network that several rows share counted once, `skipped` why those that were not made were not, and
    `findings` and `notes`, each as the sentence that `settings` (config/audit.yaml) has for it. Of a scale, `seeds` is
    how many of most cells' `of_seeds` are attacked harder, and so go through all checks, of a line its own number.

    `labels` are the names that cells go by, by (scale, cell); `reasons` what the records say of a network's checks, by
    (slug, seed), where they say anything. Accuracies are means over seeds, in per cent.
    """
    scales, findings, notes, counts = [], [], [], {name: Counter[str]() for name in settings}
    skipped = Counter[tuple[str, str]]()
    for scale in (scale for scale in plan.scales if STEP in plan.steps.get(scale.name, ())):
        cells = {cell: audited(ledger.rows(scale.name, cell, plan.slugs)) for cell in scale.cells}
        names = {cell: labels.get((scale.name, cell), cell) for cell in scale.cells}
        by_cell = {cell: results(rows, reasons) for cell, rows in cells.items()}
        found = {names[cell] + ", favourable" * _favourable(cell): mine for cell, mine in by_cell.items()}
        for cell in {rows[0]["slug"]: cell for cell, rows in cells.items() if rows}.values():
            for result in (result for mine in by_cell[cell].values() for result in mine):
                counts[result.check.partition("@")[0]][result.status] += 1
                if result.status == "skipped":
                    skipped[result.check, result.reason] += 1
        findings += _findings(scale.name, found, settings)
        notes += list(_notes(scale.name, found, settings))
        scales.append(_scale(scale, cells, by_cell, names, ledger, plan))
    return {
        "scales": scales,
        "checks": [{"check": name} | {key: counts[name][key] for key in STATUSES} for name in settings if counts[name]],
        "statuses": list(STATUSES),
        "skipped": [
            {"check": check, "reason": reason, "networks": count} for (check, reason), count in sorted(skipped.items())
        ],
        "findings": findings,
        "notes": notes,
    }


def beside_fixed(ledger: Ledger, plan: Plan) -> dict[str, Any] | None:
    """What the audits say of the worst case over the fixed attacks, each network (a cell's seed) counted once; None
    where there is no audit.

    `networks` were audited, and `attacked` of them attacked again; in `restarted` of them the check RESTARTS was made,
    and in `weak` of those it found PGD from one start too weak. `median` and `largest`, in points, are how much lower
    the accuracy over all attacks is than that over the fixed ones, on the images that all of them saw; empty where no
    audit has attacks of its own.
    """
    networks: dict[tuple[str, int], dict[tuple[str, str], float]] = {}
    for scale in plan.scales:
        for cell in scale.cells:
            for row in audited(ledger.rows(scale.name, cell, plan.slugs)):
                figures = networks.setdefault((row["slug"], row["seed"]), {})
                figures[row["attack"], row["metric"]] = float(row["value"])
    if not networks:
        return None
    made = [found for found in networks.values() if any((RESTARTS, status) in found for status in ("passed", "found"))]
    drops = []
    for found in networks.values():
        robust = {attack: value for (attack, metric), value in found.items() if metric == "robust_accuracy"}
        if robust.keys() > {FIXED, WORST_CASE}:
            drops.append(100 * (robust[FIXED] - robust[WORST_CASE]))
    return {
        "networks": len(networks),
        "attacked": len(drops),
        "restarted": len(made),
        "weak": sum((RESTARTS, "found") in found for found in made),
        "median": f"{median(drops):.1f}" if drops else "",
        "largest": f"{max(drops):.1f}" if drops else "",
    }


def audited(rows: Rows) -> Rows:
    """Those rows of a cell that its audit and the harder attacks before it measured, without the seeds that diverged in
    any step: nothing is claimed for those.
    """
    lost = {row["seed"] for row in rows if row["status"] == "diverged"}
    return [row for row in rows if row["step"] in (HARDER, STEP) and row["seed"] not in lost]


def results(rows: Rows, reasons: Mapping[tuple[str, int], Mapping[str, str]]) -> dict[int, list[Result]]:
    """Seed -> the results of its checks, in the ledger's order, with what `reasons` has for (slug, seed)."""
    found: dict[int, list[Result]] = {}
    limits = {(row["seed"], row["attack"]): float(row["value"]) for row in rows if row["metric"] == "threshold"}
    for row in rows:
        if row["metric"] in STATUSES:
            n = None if row["n"] != row["n"] else int(row["n"])
            limit = limits.get((row["seed"], row["attack"]), float("nan"))
            why = reasons.get((row["slug"], int(row["seed"])), {}).get(row["attack"], "")
            result = Result(row["attack"], row["metric"], float(row["value"]), limit, n, why)
            found.setdefault(int(row["seed"]), []).append(result)
    return found


def _findings(
    scale: str, found: Mapping[str, Mapping[int, Sequence[Result]]], settings: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One entry a check that speaks against cells of a scale, those that speak against gradients first: `words` is the
    sentence of the worst result and `row` its row; `cells` has a line a row, the worst first, with in how many of the
    seeds in which the check was made it found something, and its worst value there.
    """
    by_check: dict[str, dict[str, list[Result]]] = {}
    for row, by_seed in found.items():
        for result in (result for seed in sorted(by_seed) for result in by_seed[seed] if result.status == "found"):
            by_check.setdefault(result.check, {}).setdefault(row, []).append(result)
    entries = []
    for check, by_row in by_check.items():
        given = settings[check.partition("@")[0]]
        worst = sorted(((max(mine, key=_excess), row) for row, mine in by_row.items()), key=lambda w: -_excess(w[0]))
        cells = [
            {
                "row": row,
                "seeds": len(by_row[row]),
                "of": sum(
                    any(r.check == check and r.status != "skipped" for r in results) for results in found[row].values()
                ),
                "value": f"{result.value:{_form(given)}}",
            }
            for result, row in worst
        ]
        result, row = worst[0]
        said = words(result, settings)
        entries.append(
            {"scale": scale, "check": check, "against": given["against"], "row": row, "words": said, "cells": cells}
        )
    return sorted(entries, key=lambda entry: (entry["against"] != "gradients", list(by_check).index(entry["check"])))


def _form(given: Mapping[str, Any]) -> str:
    """How a check's value is printed: a share in per cent, points and per cent with two places, others as they are."""
    return ".1%" if "share" in given else ".2f" if "points" in given else ".3g"


def _excess(result: Result) -> float:
    """How far a result lies from what it was compared with."""
    return abs(result.value - result.threshold)


def _notes(
    scale: str, found: Mapping[str, Mapping[int, Sequence[Result]]], settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """One entry a check with something to note at a scale: the rows that it is about, in how many of their networks,
    and the sentence of the largest value. What is certified has a table of its own.
    """
    by_check: dict[str, list[tuple[str, Result]]] = {}
    for row, by_seed in found.items():
        for result in (result for mine in by_seed.values() for result in mine if result.status == "noted"):
            if not result.check.startswith(f"{CERTIFIED}@"):
                by_check.setdefault(result.check, []).append((row, result))
    for check, mine in by_check.items():
        row, largest = max(mine, key=lambda pair: pair[1].value)
        yield {
            "scale": scale,
            "check": check,
            "rows": list(dict.fromkeys(name for name, _ in mine)),
            "networks": len(mine),
            "largest": row,
            "words": words(largest, settings),
        }


def _scale(
    scale: Scale,
    cells: Mapping[str, Rows],
    by_cell: Mapping[str, Mapping[int, Sequence[Result]]],
    names: Mapping[str, str],
    ledger: Ledger,
    plan: Plan,
) -> dict[str, Any]:
    """A scale's attacks beyond the tables', how many images they saw, its certified radii, and a line a cell.

    `left_out` are the attacks that saw too few images to count in the worst case; `untransferred` is whether an attack
    that was to be transferred was not, for want of an independent network. `harder` is whether the run has harder
    attacks there. A line's `reason` says why nothing is told of a cell, its `unattacked` why there is no harder attack
    though the run asks for some, and `lacking` of how many seeds the audit is not there.
    """
    attacks = list(
        dict.fromkeys(
            row["attack"]
            for rows in cells.values()
            for row in rows
            if row["metric"] == "robust_accuracy" and row["attack"] not in (WORST_CASE, FIXED)
        )
    )
    radii = list(
        dict.fromkeys(
            row["attack"] for rows in cells.values() for row in rows if row["attack"].startswith(f"{CERTIFIED}@")
        )
    )
    lines, asked = [], plan.steps[scale.name]
    reached = {cell: plan.seeds_of(scale, cell, HARDER) if HARDER in asked else 0 for cell in cells}
    for cell, rows in cells.items():
        every = ledger.rows(scale.name, cell, plan.slugs)
        found = [result for mine in by_cell[cell].values() for result in mine]
        lines.append(
            {
                "row": names[cell],
                "favourable": _favourable(cell),
                "reason": "" if _has(rows, STEP) else _reason(every, STEP),
                "unattacked": "" if not reached[cell] or _has(rows, HARDER) else _reason(every, HARDER),
                "seeds": reached[cell],
                "lacking": scale.seeds - len({row["seed"] for row in every if row["step"] == STEP}),
                "attacks": {name: _percent(rows, name) for name in (*attacks, FIXED, WORST_CASE)},
                "interval": _interval(rows),
                "certified": {name: _certified(rows, name) for name in radii},
                "found": sum(result.status == "found" for result in found),
                "made": sum(result.status != "skipped" for result in found),
            }
        )
    counts = {name: _images(cells.values(), name) for name in (*attacks, FIXED, WORST_CASE)}
    whole = max((n for cell in cells for n in _images([ledger.rows(scale.name, cell, plan.slugs)], "")), default=0)
    return {
        "scale": scale.name,
        "width": scale.width,
        "harder": HARDER in asked,
        "seeds": mode(reached.values()) if reached else 0,
        "of_seeds": scale.seeds,
        "attacks": attacks,
        "images": {name: " or ".join(f"{n:,}" for n in seen) for name, seen in counts.items()},
        "left_out": [name for name in attacks if max(counts[name]) < min(ENOUGH, whole)],
        "enough": ENOUGH,
        "untransferred": any(row["metric"] == "surrogates" for rows in cells.values() for row in rows),
        "radii": radii,
        "lines": lines,
    }


def _has(rows: Rows, step: str) -> bool:
    return any(row["step"] == step for row in rows)


def _reason(rows: Rows, step: str) -> str:
    """Why nothing is told of what a step of the audit found of a cell."""
    state = figure(rows, "clean")
    if state.state != "ok":
        return state.reason
    lost = {row["seed"] for row in rows if row["step"] == step}
    what = "audited" if step == STEP else "such"
    return f"diverged ({len(lost)} of {len(lost)} {what} seeds)" if lost else "failed or unfinished"


def _images(cells: Iterable[Rows], attack: str) -> list[int]:
    """On how many images accuracy under an attack was counted ("": clean accuracy), each number once, ascending."""
    metric = "robust_accuracy" if attack else "clean_accuracy"
    counted = {row["n"] for rows in cells for row in rows if (row["attack"], row["metric"]) == (attack, metric)}
    return sorted(int(n) for n in counted)


def _favourable(cell: str) -> bool:
    """Whether a cell is a row's most favourable reading, which has the row's name."""
    return cell.endswith("_best")


def _percent(rows: Rows, attack: str) -> str:
    found = figure(rows, attack, step=HARDER).estimate if rows else None
    return f"{100 * found.mean:.1f}" if found else ""


def _interval(rows: Rows) -> str:
    """Of the worst case over all attacks: Student's over seeds, or for one seed the binomial one over its images."""
    found = figure(rows, WORST_CASE, step=HARDER).estimate if rows else None
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}".replace("-", "\N{MINUS SIGN}") if found else ""


def _certified(rows: Rows, check: str) -> str:
    """The mean share, in per cent already, of those that are certified: 0 too, which is skipped as a check."""
    values = [float(row["value"]) for row in rows if row["attack"] == check and row["metric"] in STATUSES]
    return f"{sum(values) / len(values):.1f}" if values else ""

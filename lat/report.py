"""The report: a ledger and its records become tables, figures and a PDF; every number in it is read from a file.

Each function takes a `Plan` (what the run asks for) and the folder that holds `ledger.csv` and `records.jsonl`. Paths
in the run file are relative to `root`, the project.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lat import audit_tables, claims, rederived, statements, studies, tables
from lat.intervals import LEVEL
from lat.ledger import LedgerError, Record, atomic, read_records
from lat.measured import LABELS, Ledger, Plan, read_ledger
from lat.run_files import read

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = "reports"
STUDIES = ("calibration", "calibration_cnn", "readings", "readings_cnn", "rates_cnn", "readings_deep", "sensitivity")
ALWAYS = ("readings", "sensitivity")  # the studies of every report, a gap where they are not there
CALIBRATED = {
    "calibration": "table_2",
    "calibration_cnn": "table_5",
}  # the tables whose first row a study calibrates on


def build_table(plan: Plan, run: Path, name: str, folder: Path, root: Path = ROOT) -> Path:
    """One table alone as `<name>.json`, `.csv`, `.md` and `.pdf` in `folder`; returns the PDF."""
    ledger = read_ledger(run / "ledger.csv")
    table = tables.build(
        ledger, tables.named_table(tables.load_tables(root / plan.config["tables"]["file"]), name), plan
    )
    tables.write(table, folder)
    finished = _finished(read_records(run / "records.jsonl"))
    with TemporaryDirectory() as work:
        _write_json(Path(work) / "table.json", {"table": table, "run": _run(plan, ledger, root)})
        return _compile("table.typ", Path(work), folder / f"{name}.pdf", root, finished)


def build_figures(plan: Plan, run: Path, folder: Path, root: Path = ROOT) -> dict[str, Any]:
    """Every figure of the run as SVG in `folder`, with `figures.json` (their series, and the files' names)."""
    from lat import figures  # loads matplotlib

    ledger = read_ledger(run / "ledger.csv")
    described = tables.load_tables(root / plan.config["tables"]["file"])
    calibrated = _study("calibration", plan, described, root, None)["found"]
    built = _shown_tables(ledger, plan, root)
    records = read_records(run / "records.jsonl")
    for old in folder.glob("*.svg"):
        old.unlink()
    names, compared = tables.labels_of(described, plan), figures.equivalence.read(run, plan, records)[0]
    return figures.write(ledger, records, plan, names, built, calibrated, compared, folder)


def build(
    plan: Plan,
    run: Path,
    output: Path,
    *,
    folder: Path | None = None,
    figures: Path | None = None,
    plans: Mapping[str, Plan] | None = None,
    sources: Mapping[tuple[str, str], str] | None = None,
    root: Path = ROOT,
) -> Path:
    """The whole report as a PDF at `output`, written atomically; returns it.

    What Typst reads (`report.json`, figures, templates) is kept in `folder`, which is emptied first: `build/<name>`
    beside the PDF unless given. `figures` is a folder that
    `build_figures` filled; without it they are drawn here. `plans` are the studies' own plans by name, by which an
    unfinished study is told from a finished one. `sources` is the present code's digest by (slug, step): records with
    another one are counted as older. Raises LedgerError where the run's ledger or records are missing, RunError where a
    file that the run names does not fit its schema. The PDF's date is that of the last record, so equal inputs give
    equal bytes.
    """
    from lat.figures import equivalence  # loads matplotlib

    ledger = read_ledger(run / "ledger.csv")
    records = read_records(run / "records.jsonl")
    described = tables.load_tables(root / plan.config["tables"]["file"])
    about, assumptions = _run(plan, ledger, root), _assumptions(plan, root)
    folder = folder or output.parent / "build" / output.stem
    if folder.exists():
        shutil.rmtree(folder)
    drawn = folder / "figures"
    if figures is None:
        series = build_figures(plan, run, drawn, root)
    else:
        shutil.copytree(figures, drawn)
        series = json.loads((drawn / "figures.json").read_text())
    shown = _shown_tables(ledger, plan, root)
    equations = statements.read(run, root)
    content = {
        "run": about,
        "tables": shown,
        "reported_only": [
            tables.build(ledger, table, Plan(plan.name, plan.config, (), {}))
            for table in described
            if table["id"] not in plan.config["tables"]["show"]
        ],
        "costs": tables.costs(ledger, plan, tables.labels_of(described, plan)),
        "audit": audit_tables.summary(
            ledger,
            plan,
            tables.labels_of(described, plan),
            _checks(plan, root),
            {(record.cell.slug, record.seed): record.reasons for record in records if record.reasons},
        ),
        "labels": LABELS,
        "equations": equations,
        "equivalence": equivalence.summary(run, plan, records, sources),
        "studies": {
            name: _study(name, plan, described, root, (plans or {}).get(name))
            for name in STUDIES
            if name in plan.config["studies"] or name in ALWAYS
        },
        "figures": {"files": series["files"], "fig_1": series["fig_1"]},
        "claims": _claims(plan, ledger, run, described, equations, root),
        "assumptions": assumptions,
        "provenance": provenance(records, plan, sources, rederived.read(run)),
    }
    _write_json(folder / "report.json", content)
    return _compile("report.typ", folder, output, root, _finished(records))


def judge(plan: Plan, run: Path, root: Path = ROOT) -> list[dict[str, Any]]:
    """Every claim of the run's file, judged on printed numbers and on the ledger in the folder `run`, as `lat.claims`
    says. Raises LedgerError where there is no ledger.
    """
    described = tables.load_tables(root / plan.config["tables"]["file"])
    ledger = read_ledger(run / "ledger.csv")
    judged: list[dict[str, Any]] = _claims(plan, ledger, run, described, statements.read(run, root), root)["judged"]
    return judged


def provenance(
    records: Sequence[Record],
    plan: Plan,
    sources: Mapping[tuple[str, str], str] | None = None,
    made_again: Sequence[rederived.Rederived] = (),
) -> dict[str, Any]:
    """Where the figures come from: versions, digests, devices, seeds, dates, and the wall time of every step."""
    steps = []
    for scale in plan.scales:
        for step in plan.steps[scale.name]:
            mine = [record for record in records if record.scale == scale.name and record.step == step]
            total = sum(record.wall_s for record in mine)
            steps.append(
                {
                    "scale": scale.name,
                    "step": step,
                    "jobs": len(mine),
                    "asked": sum(plan.seeds_of(scale, cell, step) for cell in scale.cells),
                    "total_text": _duration(total),
                    "mean_text": _duration(total / len(mine)) if mine else "",
                    "imported": sum(record.imported for record in mine),
                    "diverged": sum(record.status == "diverged" for record in mine),
                }
            )
    older = [] if sources is None else [r for r in records if sources.get((r.cell.slug, r.step)) != r.sources]
    present = {(record.step, record.sources) for record in records if record not in older}
    digests = [
        {"step": step, "digest": digest, "records": count, "current": sources and (step, digest) in present}
        for (step, digest), count in sorted(Counter((record.step, record.sources) for record in records).items())
    ]
    computed: dict[tuple[str, str], set[str]] = {}
    for record in records:
        if record.step == "train":
            computed.setdefault((record.scale, str(record.cell.compute)), set()).add(record.name)
    versions: dict[str, set[str]] = {}
    for record in records:
        for name, version in record.versions.items():
            versions.setdefault(name, set()).add(version)
    return {
        "records": len(records),
        "imported": sum(record.imported for record in records),
        "older": None if sources is None else len(older),
        "older_cells": sorted(_cells_of(older)),
        "older_everywhere": _cells_of(older) == _cells_of(records),
        "rederived": rederived.summary(made_again, records, sources),
        "seeds": sorted({record.seed for record in records}),
        "computed": [
            {"scale": scale, "how": how, "cells": sorted(names), "all": [s for s, _ in computed].count(scale) == 1}
            for (scale, how), names in sorted(computed.items())
        ],
        "versions": [{"name": name, "versions": sorted(found)} for name, found in sorted(versions.items())],
        "sources": digests,
        "data": sorted({(record.step, record.inputs["data"]) for record in records if "data" in record.inputs}),
        "devices": sorted({record.device for record in records}),
        "threads": sorted({record.threads for record in records}),
        "first": min((record.finished for record in records), default=""),
        "last": max((record.finished for record in records), default=""),
        "steps": steps,
    }


def _cells_of(records: Iterable[Record]) -> set[str]:
    return {f"{record.name}@{record.scale}" for record in records}


def _run(plan: Plan, ledger: Ledger, root: Path) -> dict[str, Any]:
    """What was run and on what data, as the first page says it."""
    frame = ledger.frame
    examples = frame.loc[(frame["step"] == "attack") & (frame["metric"] == "clean_accuracy"), "n"].dropna()
    return {
        "name": plan.name,
        "title": plan.config["title"],
        "datasets": sorted({scale.dataset for scale in plan.scales}),
        "notice": notice(plan, root),
        "level_text": f"{100 * LEVEL:g}\u00a0%",
        "evaluated": plan.config["evaluate"],
        "images": sorted({int(n) for n in examples}),
        "schedule": plan.config["schedule"],
        "paper_epochs": read(root / plan.config["tables"]["file"], "tables", "tables.file")["epochs"],
        "attacks": list(plan.config["attacks"]["names"]),
        "threats": _threats(plan, root),
        "scales": [
            {
                "name": scale.name,
                "dataset": scale.dataset,
                "model": scale.model,
                "width": scale.width,
                "epochs": scale.epochs,
                "batch": given.get("batch", plan.config["schedule"]["batch"]),
                "train": given.get("train", plan.config["train"]),
                "images": given.get("images", plan.config.get("images")),
                "seeds": scale.seeds,
                "cells": len(scale.cells),
                "measured": sum(bool(ledger.rows(scale.name, cell, plan.slugs)) for cell in scale.cells),
            }
            for scale, given in zip(plan.scales, plan.config["scales"], strict=True)
        ],
    }


def _threats(plan: Plan, root: Path) -> list[dict[str, Any]]:
    """The threat models of the attacks that have one radius: norm, radius, box, and who has it."""
    described = read(root / plan.config["attacks"]["file"], "attacks", "attacks.file")
    found: dict[tuple[str, float, float, float], list[str]] = {}
    for name in plan.config["attacks"]["names"]:
        if (radius := described[name].get("radius")) is not None:
            found.setdefault((described[name]["norm"], radius, *described[name]["box"]), []).append(name)
    return [
        {"norm": norm, "radius": radius, "box": [low, high], "attacks": names}
        for (norm, radius, low, high), names in found.items()
    ]


def notice(plan: Plan, root: Path = ROOT) -> str:
    """Why no claim is judged on the run, as every page says it; empty where claims are judged.

    None is judged on a smoke test, nor on a dataset that the rules of the claims rule out.
    """
    if smoke := plan.config.get("smoke"):
        return f"Smoke test: {smoke}"
    never = read(root / plan.config["claims"], "claims", "claims")["rules"]["measured"]["datasets_never_judged"]
    shown = sorted({scale.dataset for scale in plan.scales} & set(never))
    return f"Data: {', '.join(shown)}." if shown else ""


def _shown_tables(ledger: Ledger, plan: Plan, root: Path) -> list[dict[str, Any]]:
    described = tables.load_tables(root / plan.config["tables"]["file"])
    return [tables.build(ledger, tables.named_table(described, name), plan) for name in plan.config["tables"]["show"]]


def _study(name: str, plan: Plan, described: Iterable[dict[str, Any]], root: Path, own: Plan | None) -> dict[str, Any]:
    """A study's result under `found` and how it was `made`, or None there and under `gap` why, with the command that
    makes it.
    """
    command = f"snakemake --cores all --configfile config/{name}.yaml"
    place = plan.config["studies"].get(name)
    path = root / place / "ledger.csv" if place else None
    if path is None or not path.is_file():
        where = f"{place}/ledger.csv is missing" if place else "the run file names no ledger for it"
        return {"found": None, "made": None, "gap": where, "command": command}
    ledger = read_ledger(path)
    found: dict[str, Any]
    if name in CALIBRATED:
        undefended = tables.named_table(described, CALIBRATED[name])["rows"][0]
        found = studies.calibration(ledger, undefended["reported"])
    elif name.startswith("readings"):
        found = studies.readings(ledger, own)
    elif name == "rates_cnn":
        found = studies.rates(ledger, own)
    else:
        found = studies.sensitivity(ledger, _assumptions(plan, root), own)
    made = studies.made(read_records(path.with_name("records.jsonl")), plan)
    return {"found": found, "made": made, "gap": "", "command": command}


def _checks(plan: Plan, root: Path) -> dict[str, Any]:
    """The settings of every check that the run's audits name."""
    return {
        name: check for file in plan.audit_files for name, check in read(root / file, "audit", "audit.file").items()
    }


def _claims(
    plan: Plan,
    ledger: Ledger,
    run: Path,
    described: Iterable[dict[str, Any]],
    equations: Mapping[str, Any],
    root: Path,
) -> dict[str, Any]:
    """Every claim judged, and how many have which verdict: of those on figures, of theory, of this project; beside them
    the project's questions, and which attacks the claims' worst case is over, with what the audits say of it.
    """
    file, described = root / plan.config["claims"], list(described)
    misleading = [name for name, check in _checks(plan, root).items() if check.get("against") == "gradients"]
    judged = claims.judge(file, described, ledger, plan, run, equations["found"], notice(plan, root), misleading)
    groups = claims.groups(judged)
    counts = {
        name: {side: claims.counts(group, side) for side in ("reported", "measured")} for name, group in groups.items()
    }
    return {
        "judged": judged,
        "counts": counts,
        "places": claims.counts_by_place(groups["figures"]),
        "questions": read(file, "claims", "claims")["questions"],
        "attacks": [LABELS[column] for column in described[0]["columns"] if column != "clean"],
        "audit": audit_tables.beside_fixed(ledger, plan),
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _finished(records: Sequence[Record]) -> int:
    """The time of the last record, in seconds since 1970; 0 where there are none."""
    return int(max((datetime.fromisoformat(record.finished).timestamp() for record in records), default=0))


def _assumptions(plan: Plan, root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read(root / plan.config["assumptions"], "assumptions", "assumptions")["assumptions"]
    return found


def _write_json(path: Path, content: object) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _compile(template: str, folder: Path, output: Path, root: Path, timestamp: int) -> Path:
    """`template` with the data in `folder` as a PDF at `output`; the templates are copied there.

    Raises LedgerError with Typst's message where the data do not fit the template.
    """
    import typst

    for part in sorted((root / TEMPLATES).glob("*.typ")):
        shutil.copyfile(part, folder / part.name)
    try:
        content = typst.compile(
            str(folder / template), root=str(folder), timestamp=timestamp, ignore_system_fonts=True, format="pdf"
        )
    except typst.TypstError as error:
        raise LedgerError(f"{folder / template}: {error}; rebuild the report from a complete ledger") from error
    with atomic(output) as temporary:
        temporary.write_bytes(content)
    return output

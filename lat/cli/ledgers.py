"""Subcommands that read, merge, move and show what the jobs left: records, ledgers, tables, the report."""

from __future__ import annotations

import argparse
from pathlib import Path

from lat.cli.asked import RUN_FILE, folder_of, prepared_of, run_of


def status(options: argparse.Namespace) -> int:
    from lat import status

    run = run_of(options)
    show = status.watch if options.watch else status.show
    show(run, folder_of(options, run), prepared_of(options), as_json=options.json)
    return 0


def collect(options: argparse.Namespace) -> int:
    from lat import collection

    run = run_of(options)
    folder = folder_of(options, run)
    missing = collection.collect(run, folder, folder.root, data=prepared_of(options), gaps=options.gaps)
    for entry, seed, step in missing:
        print(f"missing: {entry.name}@{entry.scale}, seed {seed}, {step}")
    return 0


def export(options: argparse.Namespace) -> int:
    from lat import collection

    run = run_of(options)
    kept = collection.export(run, folder_of(options, run), options.target)
    print(f"{options.target}: ledger, records, verdicts and {kept} networks' weights")
    return 0


def restore(options: argparse.Namespace) -> int:
    from lat import collection, data
    from lat.run_files import RunError

    if options.check < 0:
        raise RunError(f"check: {options.check} records; give a number of at least 0")
    run = run_of(options)
    for dataset in run.datasets:
        data.prepare(dataset, options.data, run.config["mirror"])
    folder = folder_of(options, run)
    put, left = collection.restore(run, options.source, folder, prepared_of(options))
    print(f"{put} records put back; {left} that the run does not ask for left out")
    if not options.check:
        return 0
    from lat import bars, experiment, rederived

    before, found = rederived.read(folder.root), []
    with bars.of_lines(options.check, "record") as say:
        for entry in experiment.rederive(run, options.source, options.data, options.check, before):
            say(entry.line + (f" (found {entry.finished})" if entry in before else ""))
            found.append(entry)
            rederived.write(folder.root, [*before, *found])  # one by one: a check that is stopped goes on
    print(f"{sum(entry.same for entry in found)} of {len(found)} made again came out the same")
    return 0 if all(entry.same for entry in found) else 1


def table(options: argparse.Namespace) -> int:
    from lat import collection, report
    from lat.measured import Plan

    run, name = run_of(options), options.table
    folder = folder_of(options, run)
    place = folder.root / "tables" / name
    collection.collect(
        run, folder, place, data=prepared_of(options), only=run.entries_of(name), without=["harder", "audit"]
    )
    print(report.build_table(Plan.of(run), place, name, place))
    return 0


def figures(options: argparse.Namespace) -> int:
    from lat import report
    from lat.measured import Plan

    run = run_of(options)
    root = folder_of(options, run).root
    report.build_figures(Plan.of(run), root, root / "figures")
    return 0


def claims(options: argparse.Namespace) -> int:
    import json
    from difflib import get_close_matches

    from lat import claims, report, runs
    from lat.measured import Plan
    from lat.run_files import RunError

    run = runs.load(options.config or (_kept_config(options.ledger) if options.ledger else RUN_FILE))
    judged = report.judge(Plan.of(run), options.ledger or folder_of(options, run).root)
    known = [claim["id"] for claim in judged]
    for name in options.only:
        if name not in known:
            near = ", ".join(get_close_matches(name, known, cutoff=0))
            raise RunError(f"only: {name!r} is no claim of {run.config['claims']}; the nearest are {near}")
    shown = [claim for claim in judged if not options.only or claim["id"] in options.only]
    if options.json:
        print(json.dumps({"claims": shown}, ensure_ascii=False, indent=1))
    else:
        print(claims.full(shown) if options.full else claims.brief(shown))
    return 0


def _kept_config(folder: Path) -> Path:
    """The run file that an exported run keeps. Raises RunError where the folder has none."""
    from lat.run_files import RunError

    kept = folder / "config.json"
    if not kept.is_file():
        raise RunError(f"{kept}: not there; name the folder of an exported run, or a ledger's run file with --config")
    return kept


def report(options: argparse.Namespace) -> int:
    from lat import report, runs
    from lat.measured import Plan
    from lat.run_files import RunError

    if options.reference and options.config:
        raise RunError(
            f"config: {options.config} beside --reference, which has its own config.json; leave one of them out"
        )
    if options.reference:
        run = runs.load(options.reference / "config.json")
        root, output, drawn = options.reference, options.reference / "report.pdf", None
    else:
        run = runs.load(options.config or RUN_FILE)
        root, output = folder_of(options, run).root, Path("reports") / f"{run.name}.pdf"
        series, shown = root / "figures/figures.json", [root / "ledger.csv", root / "equivalence.csv"]
        newest = max((path.stat().st_mtime_ns for path in shown if path.exists()), default=0)
        drawn = series.parent if series.exists() and series.stat().st_mtime_ns >= newest else None
    studies = {name: Plan.of(runs.load(f"config/{name}.yaml")) for name in report.STUDIES}
    folder = Path("reports/build") / run.name
    made = report.build(Plan.of(run), root, output, folder=folder, figures=drawn, plans=studies, sources=run.digests())
    print(made)
    return 0


def compare(options: argparse.Namespace) -> int:
    from lat import compare

    rows = compare.compare(options.run, options.reference)
    print(compare.text(rows), end="")
    return 1 if any(row.agree == "no" for row in rows) or not compare.judged(rows) else 0

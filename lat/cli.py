"""The `lat` command: every step of the workflow by hand. Each subcommand imports what it needs, when it runs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lat import devices

if TYPE_CHECKING:
    from lat.collection import Folder
    from lat.experiment import Job
    from lat.ledger import Figure
    from lat.runs import Entry, Run

Command = Callable[[argparse.Namespace], int]
# The mendable errors of modules that only some commands load.
MENDABLE = (
    ("lat.data", "DataError"),
    ("lat.intervals", "IntervalError"),
    ("lat.sites", "SiteError"),
    ("lat.checkpoints", "CheckpointError"),
    ("lat.resumption", "ResumptionError"),
    ("lat.training", "TrainingError"),
    ("lat.proofs", "LawError"),
    ("lat.equivalence", "EquivalenceError"),
    ("lat.evaluation", "EvaluationError"),
    ("lat.attacks", "SettingError"),
    ("lat.tables", "TableError"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status. What the user can mend is one line on standard error, and status 2."""
    options = parser().parse_args(argv)
    command: Command = options.command
    try:
        return command(options)
    except _mendable() as error:
        print(f"lat {options.name}: {error}", file=sys.stderr)
        return 2


def _mendable() -> tuple[type[Exception], ...]:
    """The errors that say what to mend; everything else is a defect and keeps its traceback."""
    from lat.cells import CellError
    from lat.ledger import LedgerError
    from lat.runs import RunError

    found: list[type[Exception]] = [CellError, LedgerError, RunError, devices.DeviceError]
    for module, name in MENDABLE:
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="lat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subcommands = top.add_subparsers(dest="name", required=True, metavar="command")

    def add(
        name: str, command: Command, summary: str, *, run: bool = True, job: bool = False, device: bool = False
    ) -> argparse.ArgumentParser:
        sub = subcommands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=command)
        if run:
            sub.add_argument("--config", default="config/quick.yaml", help="run file, or the run as a JSON object")
            sub.add_argument("--results", type=Path, default=Path("results"), help="folder of all runs' results")
            sub.add_argument("--data", type=Path, default=Path("data"), help="folder of the prepared datasets")
        if job:
            sub.add_argument("--cell", required=True, help="name, name@scale or slug of a cell of the run")
            sub.add_argument("--seed", type=int, default=0)
        if device:
            choice = "auto (a free GPU, else the CPU), cpu, cuda or cuda:K; default: LAT_DEVICE, or auto"
            sub.add_argument("--device", default=devices.requested(), help=choice)
            sharing = "share a GPU with other jobs that may (or LAT_SHARE_GPU=1)"
            sub.add_argument("--share-gpu", action="store_true", default=devices.shared(), help=sharing)
        return sub

    add("prepare", prepare, "bring the run's datasets into canonical order, once").add_argument(
        "--dataset", help="one dataset instead, of the run or not"
    )
    sub = add("train", train, "train one cell from one seed, or go on where it was killed", job=True, device=True)
    sub.add_argument(
        "--checkpoint-minutes", type=float, default=5.0, metavar="M", help="keep the unfinished state so often"
    )
    sub = add("attack", attack, "attack a trained cell, or a checkpoint of one's own (--weights)", device=True)
    sub.add_argument("--cell", help="name, name@scale or slug of a cell of the run")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--weights", type=Path, help="weights of a network of lat.models: safetensors or a torch file")
    sub.add_argument("--model", help="with --weights: its name in lat.models")
    sub.add_argument("--width", type=int, help="with --weights: its width")
    sub.add_argument("--dataset", help="with --weights: what it classifies")
    sub = add("collect", collect, "merge the run's records into its ledger")
    sub.add_argument("--gaps", action="store_true", help="go on where records are missing, and name them")
    sub = add(
        "equivalence", equivalence, "compare R with FGSM's true changes, on the weights that the run keeps", device=True
    )
    sub.add_argument("--gaps", action="store_true", help="go on where weights are missing, and name them")
    sub = add("status", status, "what of the run is done, running, waiting or failed")
    sub.add_argument("--watch", action="store_true", help="again every two seconds, until interrupted")
    sub.add_argument("--json", action="store_true", help="one JSON object, described in lat/status.py")
    sub = add("verify", verify, "prove, test or refute every equation, and compare with what is expected", run=False)
    sub.add_argument("--profile", default="ci", help="dev, ci or thorough: how much is tried")
    sub.add_argument("--output", type=Path, default=Path("results/equations.json"))
    sub = add("export", export, "copy a collected run's ledger, records, verdicts and kept weights")
    sub.add_argument("target", type=Path)
    sub = add("import", restore, "put the records of an exported run back, so that it is finished and not repeated")
    sub.add_argument("source", type=Path)
    sub.add_argument("--check", type=int, default=0, metavar="N", help="re-derive N of the records")
    sub = add("table", table, "make one table of the paper from the records of its cells")
    sub.add_argument("table", help="table_1 … table_9")
    sub = add("claims", claims, "judge every claim of the paper, on its printed numbers and on a ledger", run=False)
    sub.add_argument("ledger", nargs="?", type=Path, help="folder with ledger.csv; the run's own unless given")
    sub.add_argument("--config", help="run file; unless given config.json in the folder, or config/quick.yaml")
    sub.add_argument("--results", type=Path, default=Path("results"), help="folder of all runs' results")
    sub.add_argument("--json", action="store_true", help="for programs: every comparison with its figures")
    add("figures", figures, "draw the run's figures from its ledger")
    sub = add("report", report, "make the PDF from a ledger")
    sub.add_argument("--reference", type=Path, help="an exported run instead: its report.pdf, from its ledger alone")
    sub = add("compare", compare, "does a run agree with a reference within the intervals?", run=False)
    sub.add_argument("run", type=Path, help="folder with the run's ledger.csv")
    sub.add_argument("reference", type=Path, help="folder with the reference's")
    return top


def prepare(options: argparse.Namespace) -> int:
    from lat import data

    run = _run(options)
    for dataset in [options.dataset] if options.dataset else run.datasets:
        print(data.prepare(dataset, options.data, run.config["mirror"]))
    return 0


def train(options: argparse.Namespace) -> int:
    run = _run(options)
    entry, folder = run.entry(options.cell), _folder(options, run)
    job = _job(options, run, entry, "train")
    from lat import bars, experiment

    label, epochs = f"{entry.name}@{entry.scale}", entry.cell.schedule.epochs
    with _leased(options, f"train {label}, seed {options.seed}") as device, bars.of_epochs(epochs, label) as report:
        record = experiment.train(
            replace(job, device=device),
            folder.weights(entry, options.seed),
            folder.record(entry, options.seed, "train"),
            report,
            checkpoint=folder.checkpoint(entry, options.seed),
            every_s=60 * options.checkpoint_minutes,
        )
    _print_figures(record.figures)
    print(f"status {record.status}")
    return 0


def attack(options: argparse.Namespace) -> int:
    from lat.runs import RunError

    run = _run(options)
    if bool(options.cell) == bool(options.weights):
        raise RunError(
            "cell: give either --cell, for a cell of the run, or --weights with --model, --width and --dataset"
        )
    return _attack_checkpoint(options, run) if options.weights else _attack_cell(options, run)


def _attack_cell(options: argparse.Namespace, run: Run) -> int:
    entry, folder = run.entry(options.cell), _folder(options, run)
    from lat import bars, experiment

    job, what = _job(options, run, entry, "attack"), f"attack {entry.name}@{entry.scale}, seed {options.seed}"
    with _leased(options, what) as device, bars.of_attacks() as report:
        record = experiment.attack(
            replace(job, device=device),
            run.attacks,
            run.part,
            folder.weights(entry, options.seed),
            folder.record(entry, options.seed, "attack"),
            folder.verdicts(entry, options.seed),
            report,
        )
    _print_figures(record.figures)
    print(f"status {record.status}")
    return 0


def _attack_checkpoint(options: argparse.Namespace, run: Run) -> int:
    from lat.runs import RunError

    for key in ("model", "width", "dataset"):
        if getattr(options, key) is None:
            raise RunError(f"{key}: missing; --weights needs --model, --width and --dataset")
    from lat import bars, data, experiment

    data.prepare(options.dataset, options.data, run.config["mirror"])
    network = (options.model, options.width)
    with _leased(options, f"attack {options.weights.name}") as device, bars.of_attacks() as report:
        figures = experiment.attack_checkpoint(
            options.weights, network, options.dataset, run.part, run.attacks, options.data, options.seed, device, report
        )
    _print_figures(figures)
    return 0


def status(options: argparse.Namespace) -> int:
    from lat import status

    run = _run(options)
    show = status.watch if options.watch else status.show
    show(run, _folder(options, run), as_json=options.json)
    return 0


def collect(options: argparse.Namespace) -> int:
    from lat import collection

    run = _run(options)
    folder = _folder(options, run)
    missing = collection.collect(run, folder, folder.root, gaps=options.gaps)
    for entry, seed, step in missing:
        print(f"missing: {entry.name}@{entry.scale}, seed {seed}, {step}")
    return 0


def equivalence(options: argparse.Namespace) -> int:
    run = _run(options)
    with _leased(options, f"equivalence of {run.name}") as device:
        return _equivalence(options, run, device)


def _equivalence(options: argparse.Namespace, run: Run, device: str) -> int:
    from functools import partial

    from lat import bars, collection, data, equivalence, experiment, sources
    from lat.runs import RunError

    folder = _folder(options, run)
    experiment.prepare_torch(device)
    kept = collection.kept(run, folder)
    datasets = list(dict.fromkeys(entry.cell.dataset for entry, _ in kept)) or [run.config["dataset"]]
    if len(datasets) > 1:
        raise RunError(
            f"keep: fully connected networks of {' and '.join(datasets)}; keep those of one dataset, which are compared"
        )
    dataset = datasets[0]
    images = data.load(dataset, run.part, options.data, run.images(kept[0][0]) if kept else None)
    networks = []
    for entry, seed in kept:
        path, network = folder.weights(entry, seed), (entry.cell.model, entry.cell.width)
        if options.gaps and not path.is_file():
            print(f"missing: {entry.name}@{entry.scale}, seed {seed}")
            continue
        load = partial(experiment.load_weights, network, path, images.shape, images.classes, device)
        batch = entry.cell.schedule.batch
        networks.append(equivalence.Network(entry.scale, entry.name, entry.cell.slug, seed, batch, path, load))
    order = equivalence.order_seed(dataset, run.part, len(images.labels))
    with bars.of_lines(len(networks), "network") as say:
        rows, measured = equivalence.measure_all(
            networks, data.tensors(images, device), order, lambda n: say(f"{n.cell}@{n.scale}, seed {n.seed}")
        )
    origin = {
        "part": run.part,
        "images": len(images.labels),
        "data": images.digest,
        "sources": sources.digest("equivalence", ()),
        "versions": experiment.versions(),
        "networks": measured,
    }
    equivalence.write(folder.root, rows, origin)
    return 0


def verify(options: argparse.Namespace) -> int:
    import json

    from lat import bars, proofs
    from lat.ledger import atomic

    profile, expected = proofs.profile(options.profile), proofs.expected()
    with bars.of_lines(len(proofs.LAWS), "law") as say:
        document = proofs.verify(proofs.LAWS, profile, lambda entry: say(f"{entry['id']:<24} {entry['status']}"))
    proofs.complain(document, "equations", str(options.output))
    with atomic(options.output) as temporary:
        temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    wrong = proofs.differences(document, expected)
    for line in wrong:
        print(line, file=sys.stderr)
    counts = Counter(entry["status"] for entry in document["laws"])
    print(f"{options.output}: {', '.join(f'{count} {status}' for status, count in sorted(counts.items()))}")
    return 1 if wrong else 0


def export(options: argparse.Namespace) -> int:
    from lat import collection

    run = _run(options)
    kept = collection.export(run, _folder(options, run), options.target)
    print(f"{options.target}: ledger, records, verdicts and {kept} networks' weights")
    return 0


def restore(options: argparse.Namespace) -> int:
    from lat import collection, data

    run = _run(options)
    for dataset in run.datasets:
        data.prepare(dataset, options.data, run.config["mirror"])
    put, left = collection.restore(run, options.source, _folder(options, run))
    print(f"{put} records put back; {left} that the run does not ask for left out")
    if not options.check:
        return 0
    from lat import experiment

    differences = 0
    for line, equal in experiment.rederive(run, options.source, options.data, options.check):
        print(line, flush=True)
        differences += not equal
    return 1 if differences else 0


def table(options: argparse.Namespace) -> int:
    from lat import collection, report
    from lat.measured import Plan

    run, name = _run(options), options.table
    folder = _folder(options, run)
    place = folder.root / "tables" / name
    collection.collect(run, folder, place, only=run.entries_of(name))
    print(report.build_table(Plan.of(run), place, name, place))
    return 0


def figures(options: argparse.Namespace) -> int:
    from lat import report
    from lat.measured import Plan

    run = _run(options)
    root = _folder(options, run).root
    report.build_figures(Plan.of(run), root, root / "figures")
    return 0


def claims(options: argparse.Namespace) -> int:
    import json

    from lat import claims, report, runs
    from lat.measured import Plan

    kept = options.ledger / "config.json" if options.ledger else None
    run = runs.load(options.config or (kept if kept and kept.is_file() else "config/quick.yaml"))
    judged = report.judge(Plan.of(run), options.ledger or _folder(options, run).root)
    print(
        json.dumps({"claims": judged}, ensure_ascii=False, indent=1) if options.json else claims.table(judged), end=""
    )
    return 0


def report(options: argparse.Namespace) -> int:
    from lat import report, runs
    from lat.measured import Plan

    if options.reference:
        run = runs.load(options.reference / "config.json")
        root, output, drawn = options.reference, options.reference / "report.pdf", None
    else:
        run = _run(options)
        root, output = _folder(options, run).root, Path("reports") / f"{run.name}.pdf"
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
    return 1 if any(row.agree == "no" for row in rows) else 0


def _print_figures(figures: Iterable[Figure]) -> None:
    for figure in figures:
        over = "" if figure.n is None else f" (n = {figure.n})"
        print(f"{figure.attack or '-':<14} {figure.metric:<16} {figure.value:.6g}{over}")


def _run(options: argparse.Namespace) -> Run:
    from lat import runs

    return runs.load(options.config)


def _folder(options: argparse.Namespace, run: Run) -> Folder:
    from lat.collection import Folder

    return Folder(options.results / run.name)


def _job(options: argparse.Namespace, run: Run, entry: Entry, step: str) -> Job:
    from lat.experiment import Job
    from lat.runs import RunError

    if not 0 <= options.seed < entry.seeds:
        raise RunError(f"seed: {options.seed} of cell {entry.name!r}; {entry.scale!r} has seeds 0 to {entry.seeds - 1}")
    sources, heartbeat = run.sources(entry, step), _folder(options, run).heartbeat(entry, options.seed, step)
    job = Job(entry.cell, options.seed, entry.name, entry.scale, sources, options.data, run.images(entry))
    return replace(job, heartbeat=heartbeat)


def _leased(options: argparse.Namespace, what: str) -> AbstractContextManager[str]:
    return devices.lease(options.device, f"lat {what}", share=options.share_gpu)


if __name__ == "__main__":
    sys.exit(main())

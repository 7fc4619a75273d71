"""The `lat` command: every step of the workflow by hand. Each subcommand imports what it needs, when it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lat import devices
from lat.cli import ledgers, steps
from lat.cli.asked import RUN_FILE, ledger_folder

Command = Callable[[argparse.Namespace], int]
# The mendable errors of modules that only some commands load.
MENDABLE = (
    ("lat.data", "DataError"),
    ("lat.intervals", "IntervalError"),
    ("lat.sites", "SiteError"),
    ("lat.checkpoints", "CheckpointError"),
    ("lat.resumption", "ResumptionError"),
    ("lat.memory", "TrainingError"),
    ("lat.models", "ModelError"),
    ("lat.memory", "EvaluationError"),
    ("lat.proofs", "LawError"),
    ("lat.equivalence", "EquivalenceError"),
    ("lat.attacks", "SettingError"),
    ("lat.tables", "TableError"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status. What the user can mend is one line on standard error, and status 2. A reader
    of the output that has seen enough, as `head`, ends it with 141, as the shell tells a command that SIGPIPE ended.
    """
    options = parser().parse_args(argv)
    command: Command = options.command
    try:
        status = command(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush at exit has no reader
        return 128 + signal.SIGPIPE
    except _mendable() as error:
        print(f"lat {options.name}: {error}", file=sys.stderr)
        return 2


def _mendable() -> tuple[type[Exception], ...]:
    """The errors that say what to mend; everything else is a defect and keeps its traceback."""
    from lat.cells import CellError
    from lat.ledger import LedgerError
    from lat.run_files import RunError

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
            sub.add_argument("--config", default=RUN_FILE, help="run file, or the run as a JSON object")
            sub.add_argument("--results", type=Path, default=Path("results"), help="folder of all runs' results")
            sub.add_argument("--data", type=Path, default=Path("data"), help="folder of the prepared datasets")
        if job:
            sub.add_argument("--cell", required=True, help="name, name@scale or slug of a cell of the run")
            sub.add_argument("--seed", type=int, default=0)
        if device:
            choice = "auto (a free GPU, else the CPU), cpu, cuda or cuda:K; default: LAT_DEVICE, or auto"
            sub.add_argument("--device", default=devices.requested(), help=choice)
            sharing = "share a GPU with other jobs that may (or LAT_SHARE_GPU=1)"
            sub.add_argument("--share-gpu", action="store_true", help=sharing)
        return sub

    add("prepare", steps.prepare, "bring the run's datasets into canonical order, once").add_argument(
        "--dataset", help="one dataset instead, of the run or not"
    )
    sub = add("train", steps.train, "train one cell from one seed, or go on where it was killed", job=True, device=True)
    sub.add_argument(
        "--checkpoint-minutes", type=float, default=5.0, metavar="M", help="keep the unfinished state so often"
    )
    sub = add("attack", steps.attack, "attack a trained cell, or a checkpoint of one's own (--weights)", device=True)
    sub.add_argument("--cell", help="name, name@scale or slug of a cell of the run")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--weights", type=Path, help="weights of a network of lat.models: safetensors or a torch file")
    sub.add_argument("--model", help="with --weights: its name in lat.models")
    sub.add_argument("--width", type=int, help="with --weights: its width")
    sub.add_argument("--dataset", help="with --weights: what it classifies")
    add("harder", steps.harder, "attack an attacked cell with the further attacks of the audit", job=True, device=True)
    add("audit", steps.audit, "look into what the attacks on a cell found, check by check", job=True, device=True)
    sub = add("collect", ledgers.collect, "merge the run's records into its ledger")
    sub.add_argument("--gaps", action="store_true", help="go on where records are missing, and name them")
    sub = add(
        "equivalence",
        steps.equivalence,
        "compare R with FGSM's true changes, on the weights that the run keeps",
        device=True,
    )
    sub.add_argument("--gaps", action="store_true", help="go on where weights are missing, and name them")
    sub = add("status", ledgers.status, "what of the run is done, running, waiting or failed")
    sub.add_argument("--watch", action="store_true", help="again every two seconds, until interrupted")
    sub.add_argument("--json", action="store_true", help="one JSON object, described in lat/status.py")
    sub = add(
        "verify", steps.verify, "prove, test or refute every equation, and compare with what is expected", run=False
    )
    sub.add_argument("--profile", default="ci", help="dev, ci or thorough: how much is tried")
    sub.add_argument("--output", type=Path, default=Path("results/equations.json"))
    sub = add("export", ledgers.export, "copy a collected run's ledger, records, verdicts and kept weights")
    sub.add_argument("target", type=Path)
    sub = add(
        "import", ledgers.restore, "put the records of an exported run back, so that it is finished and not repeated"
    )
    sub.add_argument("source", type=Path)
    sub.add_argument("--check", type=int, default=0, metavar="N", help="make N of them again, and keep what came out")
    sub = add("table", ledgers.table, "make one table of the paper from the records of its cells")
    sub.add_argument("table", help="table_1 … table_9")
    sub = add(
        "claims", ledgers.claims, "judge every claim of the paper, on its printed numbers and on a ledger", run=False
    )
    sub.add_argument(
        "ledger", nargs="?", type=ledger_folder, help="ledger.csv, or the folder with it; the run's own unless given"
    )
    sub.add_argument("--config", help=f"run file; default: config.json beside the ledger, {RUN_FILE} without one")
    sub.add_argument("--results", type=Path, default=Path("results"), help="folder of all runs' results")
    sub.add_argument("--only", nargs="+", default=[], metavar="ID", help="these claims alone")
    shown = sub.add_mutually_exclusive_group()
    shown.add_argument("--full", action="store_true", help="rows, tests, what is missing and what the audit found")
    shown.add_argument("--json", action="store_true", help="for programs: every comparison with its figures")
    add("figures", ledgers.figures, "draw the run's figures from its ledger")
    sub = add("report", ledgers.report, "make the PDF from a ledger")
    sub.add_argument(
        "--reference", type=ledger_folder, help="an exported run instead: its report.pdf, from its ledger alone"
    )
    sub.set_defaults(config=None)
    sub = add("compare", ledgers.compare, "does a run agree with a reference within the intervals?", run=False)
    sub.add_argument("run", type=ledger_folder, help="the run's ledger.csv, or the folder with it")
    sub.add_argument("reference", type=ledger_folder, help="the reference's")
    return top

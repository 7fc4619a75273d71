"""What of a run is done, running, waiting or failed: `lat status`.

A job is one (cell, seed, step); cells of one slug share their jobs. Its state follows from the files in the run's
folder, in this order: `running` (its heartbeat says so, and its process is alive), `done` or `diverged` (there is the
record that the run asks for), `failed` (it left a heartbeat and no process), `refused` (there is a record, but damaged
or of other code, settings or data: the job has to run again), else `waiting`.

`lat status --json` prints one object: `run`, `at` (UTC), `jobs` (how many there are), `counts` (by state, those that
occur), `work_left_s` (of the jobs whose time is known, one after the other), `seconds_left` (with as many at a time as
run now), `unknown` (jobs to do whose time is not known), and `rows`. A row is `scale`, `cell`, `slug`, `seed`, `step`,
`state`; `done` of `total`, `epoch` of `epochs`, `loss`, `clean_accuracy`, `images_per_s`, `seconds_left` as a heartbeat
has them (a record fills in what it knows); `wall_s`; `finished` or `updated` (UTC); and `note`: the attack that runs,
what went wrong, or why a record is refused. What does not apply is null. No torch here.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from lat import heartbeats
from lat.collection import Digest, Folder, checked, jobs
from lat.heartbeats import Heartbeat, HeartbeatError
from lat.ledger import STEPS, LedgerError, Record
from lat.runs import Entry, Run

STATES = ("done", "diverged", "running", "failed", "refused", "waiting")
WIDTH, NAME = 80, 18
EVERY_S = 2.0
CLEAR = "\x1b[H\x1b[2J"


@dataclass(frozen=True)
class Row:
    """One job under one of its names, as the module's docstring says."""

    scale: str
    cell: str
    slug: str
    seed: int
    step: str
    state: str
    done: float | None = None
    total: float | None = None
    epoch: float | None = None
    epochs: int | None = None
    loss: float | None = None
    clean_accuracy: float | None = None
    images_per_s: float | None = None
    seconds_left: float | None = None
    wall_s: float | None = None
    finished: str | None = None
    updated: str | None = None
    note: str = ""

    @property
    def job(self) -> tuple[str, int, str]:
        return self.slug, self.seed, self.step


@dataclass(frozen=True)
class Status:
    """A run at one moment."""

    run: str
    at: str
    rows: tuple[Row, ...]

    @property
    def jobs(self) -> list[Row]:
        """Each job once."""
        return list({row.job: row for row in self.rows}.values())

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(row.state for row in self.jobs)
        return {state: found[state] for state in STATES if found[state]}

    def left(self) -> tuple[float, int]:
        """Seconds of work that is left, and of how many jobs to do the time is not known.

        A running job says it itself; another one takes as long as those of its scale and step do on average.
        """
        lengths = self._lengths()
        to_do = [row for row in self.jobs if row.state not in ("done", "diverged")]
        each = [row.seconds_left if row.state == "running" else lengths.get((row.scale, row.step)) for row in to_do]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known), len(each) - len(known)

    def _lengths(self) -> dict[tuple[str, str], float]:
        """Mean seconds of a job by scale and step: of those that are done, else of what the running ones will take."""
        whole: dict[str, dict[tuple[str, str], list[float]]] = {"running": {}, "done": {}}
        for row in self.jobs:
            seconds = row.wall_s if row.state == "done" else _sum(row.wall_s, row.seconds_left)
            if row.state in whole and seconds is not None:
                whole[row.state].setdefault((row.scale, row.step), []).append(seconds)
        return {key: fmean(seconds) for key, seconds in (whole["running"] | whole["done"]).items()}

    def to_json(self) -> dict[str, Any]:
        work, unknown = self.left()
        return {
            "run": self.run,
            "at": self.at,
            "jobs": len(self.jobs),
            "counts": self.counts,
            "work_left_s": work,
            "seconds_left": work / max(1, self.counts.get("running", 0)),
            "unknown": unknown,
            "rows": [asdict(row) for row in self.rows],
        }


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def status(run: Run, folder: Folder, now: datetime | None = None, data: Digest | None = None) -> Status:
    """Every job of the run, in the order of its entries, seeds and steps; `data` as `lat.collection.checked` has it."""
    now = now or datetime.now(UTC)
    rows = tuple(_row(run, folder, job, now, data) for job in jobs(run))
    return Status(run.name, now.isoformat(timespec="seconds"), rows)


def _row(run: Run, folder: Folder, job: tuple[Entry, int, str], now: datetime, data: Digest | None) -> Row:
    entry, seed, step = job
    names = (entry.scale, entry.name, entry.cell.slug, seed, step)
    beat, damaged, refused = None, "", ""
    try:
        beat = heartbeats.read(folder.heartbeat(entry, seed, step))
    except HeartbeatError as error:
        damaged = str(error)
    if beat is not None and beat.alive(now):
        return _running(names, beat, now)
    path = folder.record(entry, seed, step)
    if path.exists():
        try:
            return _finished(names, checked(run, job, path, data))
        except LedgerError as error:
            refused = str(error)
    if beat is not None:
        last = datetime.fromisoformat(beat.updated).isoformat(sep=" ", timespec="seconds")
        died = f"process {beat.pid} on {beat.host} is gone, last heard of at {last}"
        heard = _heard(beat) | {"seconds_left": None}
        return Row(*names, "failed", **heard, note=beat.note if beat.state == "failed" else died)
    return Row(*names, "failed" if damaged else "refused" if refused else "waiting", note=damaged or refused)


def _running(names: tuple[str, str, str, int, str], beat: Heartbeat, now: datetime) -> Row:
    spent = (now - datetime.fromisoformat(beat.started)).total_seconds()
    left = None if beat.seconds_left is None else max(0.0, beat.seconds_left - beat.silent_s(now))
    return Row(*names, "running", **_heard(beat) | {"seconds_left": left}, wall_s=spent, note=beat.note)


def _heard(beat: Heartbeat) -> dict[str, Any]:
    keys = ("done", "total", "epoch", "epochs", "loss", "clean_accuracy", "images_per_s", "seconds_left", "updated")
    return {key: getattr(beat, key) for key in keys}


def _finished(names: tuple[str, str, str, int, str], record: Record) -> Row:
    figures = {figure.metric: figure.value for figure in record.figures if not figure.attack}
    epochs = record.cell.schedule.epochs if record.step == "train" else None
    return Row(
        *names,
        "diverged" if record.status == "diverged" else "done",
        epoch=len(record.curve) if record.step == "train" else None,
        epochs=epochs,
        loss=_finite(figures.get("loss")),
        clean_accuracy=_finite(figures.get("clean_accuracy")),
        wall_s=record.wall_s,
        finished=record.finished,
        note="imported" if record.imported else "",
    )


def _finite(value: float | None) -> float | None:
    """The number, None where there is none: JSON has no other."""
    return value if value is not None and abs(value) < float("inf") else None


def text(found: Status, run: Run) -> list[str]:
    """The lines for a terminal, none wider than 80 columns: a summary, the jobs that run or went wrong, and each
    scale's cells with the states of their seeds.
    """
    lines = [*_wrapped(_summary(found)), ""]
    for row in found.jobs:
        if row.state in ("running", "failed", "refused"):
            lines.append(_cut(f"{row.state:<8} {row.step} {row.cell}@{row.scale}, seed {row.seed}"))
            lines += [f"         {line}" for line in _wrapped(_detail(row), WIDTH - 9)]
    if lines[-1]:
        lines.append("")
    steps = _steps(found)
    lines.append(_columns("cell", *steps))
    for scale in run.config["scales"]:
        rows = [row for row in found.rows if row.scale == scale["name"]]
        network = f"{scale['model']} on {scale.get('dataset', run.config['dataset'])}, width {scale['width']}"
        lines.append(_cut(f"{scale['name']}: {network}, {_many(scale['epochs'], 'epoch')}"))
        lines += _table(rows, steps)
    return lines


def _steps(found: Status) -> tuple[str, ...]:
    """The steps that there are jobs of, in order."""
    return tuple(step for step in STEPS if any(row.step == step for row in found.rows))


def _table(rows: Iterable[Row], steps: tuple[str, ...]) -> Iterator[str]:
    """A line a cell: its name, and for each step which seeds are in which state."""
    cells: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        cells.setdefault(row.cell, {step: [] for step in steps})[row.step].append(row)
    for name, states in cells.items():
        if len(name) > NAME:
            yield _cut(f"  {name}")
        yield _columns("" if len(name) > NAME else name, *(_seeds(states[step]) for step in steps))


def _columns(name: str, *states: str) -> str:
    """A name and the state of each step, in equal parts of the width that is left."""
    each = (WIDTH - NAME - 2) // max(1, len(states)) - 1
    return " ".join([f"  {_cut(name, NAME):<{NAME}}", *(f"{_cut(state, each):<{each}}" for state in states)]).rstrip()


def _seeds(rows: Iterable[Row]) -> str:
    """`done` where all seeds are, else each state with its seeds: `done 0-2, running 3`."""
    by_state: dict[str, list[int]] = {}
    for row in rows:
        by_state.setdefault(row.state, []).append(row.seed)
    if len(by_state) <= 1:
        return next(iter(by_state), "")
    return ", ".join(f"{state} {_ranges(by_state[state])}" for state in STATES if state in by_state)


def _ranges(seeds: list[int]) -> str:
    """Ascending numbers in few characters: `0-2,5`."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _summary(found: Status) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    words = f"{found.run}: {_many(len(found.jobs), 'job')}: {counts}"
    seconds, unknown = found.left()
    running = found.counts.get("running", 0)
    if seconds:
        words += f"; about {duration(seconds / max(1, running))} left"
        words += f" with {running} at a time" if running > 1 else "" if running else ", one job at a time"
    if unknown:
        words += f"{' and' if seconds else ';'} {_many(unknown, 'job')} of unknown length"
    return words


def _detail(row: Row) -> str:
    """What a running job does, or what went wrong with another one."""
    if row.state != "running":
        return row.note or "no reason is known"
    known = []
    if row.epochs is not None:
        known.append(f"epoch {row.epoch or 0:.4g} of {row.epochs}")
    elif row.total:
        known.append(f"{row.note}, {row.done:,.0f} of {row.total:,.0f} images")
    formats: Mapping[str, str] = {
        "loss": "loss {:.4f}",
        "clean_accuracy": "clean {:.4f}",
        "images_per_s": "{:,.0f} images/s",
    }
    known += [pattern.format(getattr(row, key)) for key, pattern in formats.items() if getattr(row, key) is not None]
    if row.seconds_left is not None:
        known.append(f"{duration(row.seconds_left)} left")
    return ", ".join(known) or "starting"


def duration(seconds: float) -> str:
    """Seconds in words of two units at most: `40 s`, `12 min`, `3 h 20 min`, `2 d 5 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _cut(line: str, width: int = WIDTH) -> str:
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _wrapped(words: str, width: int = WIDTH) -> list[str]:
    """At most three lines of the words, without what a terminal would obey; a longer word is broken."""
    words = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in words).split())
    return textwrap.wrap(words, width, max_lines=3, placeholder=" …")


def show(run: Run, folder: Folder, data: Digest | None = None, *, as_json: bool = False) -> None:
    """Print the status once: for people, or as JSON."""
    found = status(run, folder, data=data)
    print(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(text(found, run)))


def watch(run: Run, folder: Folder, data: Digest | None = None, *, as_json: bool = False) -> None:
    """Print the status every two seconds until interrupted: in place on a terminal, cut to its height; else one below
    the other, JSON a line each.
    """
    terminal = sys.stdout.isatty() and not as_json
    try:
        while True:
            found = status(run, folder, data=data)
            if as_json:
                print(json.dumps(found.to_json()), flush=True)
            else:
                lines = text(found, run)
                height = shutil.get_terminal_size().lines - 1
                if terminal and len(lines) > height:
                    lines = [*lines[: height - 1], f"… {len(lines) - height + 1} more lines"]
                print((CLEAR if terminal else "") + "\n".join(lines), flush=True)
            time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return

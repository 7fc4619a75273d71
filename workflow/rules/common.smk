"""The resolved run, and where its files lie. Everything wrong in the run file is an error here, before any job."""

import json
import sys

from lat import collection, data, devices, rederived, run_files, runs, sources
from lat.ledger import atomic

RUN = runs.load(config)
for _register in ("claims", "assumptions"):  # read at the end alone, and by no job before
    run_files.read(Path(RUN.config[_register]), _register, _register)
FOLDER = collection.Folder(Path("results") / RUN.name)
DATA = data.digests_under("data")
REPORT = f"reports/{RUN.name}.pdf"
LAT = Path(sys.executable).with_name("lat")

# A job that computes counts as one of `--resources gpu=N`, but only where it would take a GPU: on a machine without one
# that would be a limit to N jobs. It counts only: which GPU a job gets, its lease says (lat/devices.py).
GPU = int(devices.expected(devices.requested()))


def _keep_current(path, values):
    """Writes the values as JSON unless the file holds them already."""
    text = json.dumps(values, indent=1, sort_keys=True) + "\n"
    if not path.exists() or path.read_text() != text:
        with atomic(path) as temporary:
            temporary.write_text(text)


# The run as it was merged, for the jobs' commands: they can be copied from a log and run by hand.
CONFIG = FOLDER.root / "config.json"
_keep_current(CONFIG, config)


# Everything that the run asks for, in a file that changes when it does: by its age the ledger is known to be stale even
# where Snakemake's own memory, the folder .snakemake, is gone.
ASKED = FOLDER.root / "asked.json"
_keep_current(
    ASKED,
    {
        "config": config,
        "attacks": RUN.attacks,
        "cells": [
            [e.name, e.scale, e.cell.slug, e.seeds, RUN.images(e)]
            + [
                [RUN.sources(e, step), RUN.settings(e, seed, step)]
                for seed in range(e.seeds)
                for step in RUN.steps(e, seed)
            ]
            for e in RUN.entries
        ],
    },
)


wildcard_constraints:
    slug=r"[^/]+",
    seed=r"\d+",


def job_files(entries, without=()):
    """The records of the given entries: all seeds, all steps but those named."""
    return [
        FOLDER.record(entry, seed, step)
        for entry in entries
        for seed in range(entry.seeds)
        for step in RUN.steps(entry, seed)
        if step not in without
    ]


def prepared(dataset):
    """The file that says that a dataset is prepared."""
    return f"data/{dataset}/prepared.json"


def data_of(step):
    """The prepared data of a cell, as a function of a job's wildcards. They are newer than what was made from them only
    where the step's record is of other data: what prepares the same data again makes nothing old.
    """

    def found(wildcards):
        entry, seed = RUN.entry(wildcards.slug), int(wildcards.seed)
        path = prepared(entry.cell.dataset)
        return path if collection.data_changed(RUN, FOLDER, (entry, seed, step), DATA) else ancient(path)

    return found


def sources_of(step):
    """The digest of the code that decides a step of a cell, as a function of a job's wildcards."""
    return lambda wildcards: RUN.sources(RUN.entry(wildcards.slug), step)


def settings_of(step):
    """What else decides it, in writing."""

    def found(wildcards):
        return json.dumps(RUN.settings(RUN.entry(wildcards.slug), int(wildcards.seed), step), sort_keys=True)

    return found


def networks_of(step, others):
    """The weights that a step of a cell looks at, its own and those of `others`, as a function of a job's wildcards. An
    imported record that has what the run asks for needs none, and stands whenever those that are there were made.
    """

    def found(wildcards):
        entry, seed = RUN.entry(wildcards.slug), int(wildcards.seed)
        paths = [FOLDER.weights(*network) for network in others(entry, seed)]
        if collection.put_back(RUN, FOLDER, (entry, seed, step), DATA):
            return [ancient(str(path)) for path in paths if path.exists()]
        return paths

    return found


def weights_of(step):
    """The weights of the network that a step looks at."""
    return networks_of(step, lambda entry, seed: [(entry, seed)])


def surrogates_of(step):
    """The weights of the networks that a cell's transferred attacks are made on."""
    return networks_of(step, lambda entry, seed: RUN.surrogates(entry, seed).values())


def files_before_audit(wildcards):
    """The records and verdicts of all the attacks that an audit looks into."""
    entry, seed = RUN.entry(wildcards.slug), int(wildcards.seed)
    steps = [step for step in RUN.steps(entry, seed) if step in collection.VERDICTS]
    return [place(entry, seed, step) for step in steps for place in (FOLDER.record, FOLDER.verdicts)]

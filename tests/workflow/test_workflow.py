"""The workflow from end to end, with the real snakemake, on a copy of the project with a run of two tiny cells.

Every test works on a copy of its own of one finished run, so that they can be taken in any order.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lat import rederived

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COPIED = ("lat", "workflow", "config", "reports")
LEDGER = "results/tiny/ledger.csv"
RUN_FILE = {
    "name": "tiny",
    "title": "Two tiny cells",
    "dataset": "digits",
    "mirror": None,
    "train": 256,
    "part": "train",
    "evaluate": "test",
    "schedule": {"batch": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0001, "schedule": "constant"},
    "grid": "config/tiny_cells.tsv",
    "attacks": {"file": "config/tiny_attacks.yaml", "names": ["fgsm", "pgd"]},
    "scales": [
        {
            "name": "narrow",
            "model": "4fc",
            "width": 4,
            "epochs": 1,
            "seeds": 1,
            "cells": ["dnn", "fc_4"],
            "keep": ["dnn"],
        },
    ],
    "variants": [],
    "tables": {"file": "config/tables.yaml", "show": ["table_2"]},
    "claims": "config/claims.yaml",
    "assumptions": "config/assumptions.yaml",
    "studies": {"calibration": "reports/none", "readings": "reports/none", "sensitivity": "reports/none"},
}


@dataclass(frozen=True)
class Project:
    """A copy of the project, and the two commands in it."""

    root: Path

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of the environment with the copy's own `lat`."""
        environment = os.environ | {
            "PYTHONPATH": str(self.root),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def snakemake(self, *words: str, target: str = LEDGER, run: str = "config/tiny.yaml") -> str:
        """What a run prints; it must succeed."""
        done = self.call("snakemake", "--cores", "1", "--configfile", run, *words, "--", target)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def planned(self, target: str = LEDGER) -> Counter[str]:
        """How often each rule would run."""
        return Counter(re.findall(r"^(?:local)?rule (\w+):", self.snakemake("--dry-run", target=target), re.MULTILINE))

    def stamps(self, *kinds: str) -> dict[str, int]:
        """When each file of the given folders of the run was written."""
        folders = [self.root / "results/tiny" / kind for kind in kinds]
        return {
            str(path.relative_to(self.root)): path.stat().st_mtime_ns
            for folder in folders
            for path in folder.rglob("*.*")
            if path.is_file()
        }

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def forget(self) -> None:
        """Take Snakemake's own memory away, as a clean or a copy does."""
        shutil.rmtree(self.root / ".snakemake")

    def epsilons(self) -> dict[str, str]:
        with (self.root / LEDGER).open(newline="") as stream:
            return {row["cell"]: row["epsilon"] for row in csv.DictReader(stream)}


def copied(root: Path) -> Project:
    """The project's code and configuration under `root`, with a grid, attacks and a run file of the tests' own."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.pdf", "build", "reference")
            )
    lines = (root / "config/cells.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [line for line in lines if line.split("\t")[0] in ("cell", "dnn", "fc_4")]
    (root / "config/tiny_cells.tsv").write_text("".join(rows), encoding="utf-8")
    attacks = yaml.safe_load((root / "config/attacks.yaml").read_text(encoding="utf-8"))
    tiny = {"fgsm": attacks["fgsm"], "pgd": attacks["pgd"] | {"steps": 2}}
    (root / "config/tiny_attacks.yaml").write_text(yaml.safe_dump(tiny), encoding="utf-8")
    (root / "config/tiny.yaml").write_text(yaml.safe_dump(RUN_FILE), encoding="utf-8")
    project = Project(root)
    project.edit("workflow/rules/verify.smk", "{LAT:q} verify ", "{LAT:q} verify --profile dev ")
    return project


@pytest.fixture(scope="module")
def finished(once: Callable[..., Path]) -> Project:
    """A copy of the project whose run has come as far as its ledger."""
    return Project(once("workflow", lambda folder: copied(folder / "project").snakemake()) / "project")


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """The finished run, for one test alone; times of files are kept."""
    shutil.copytree(finished.root, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def test_a_second_run_does_nothing_also_after_an_edit_of_words(project: Project) -> None:
    assert project.epsilons() == {"dnn": "", "fc_4": "normal 0.1 per sample"}
    assert "Nothing to be done" in project.snakemake()
    project.edit("lat/training.py", '"""The learning rate of', '"""The rate of')
    project.edit("lat/attacks/pgd.py", "from __future__", "# a remark\nfrom __future__")
    assert "Nothing to be done" in project.snakemake()


def test_a_job_that_computes_counts_as_a_gpu_only_where_it_would_take_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device, count in (("cpu", "0"), ("cuda", "1")):
        monkeypatch.setenv("LAT_DEVICE", device)
        plan = project.snakemake("--dry-run", "--forceall")
        counted = re.findall(r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    resources:.*\bgpu=(\d+)", plan, re.MULTILINE)
        assert Counter(counted) == {("train", count): 2, ("attack", count): 2}


def test_a_changed_row_trains_and_attacks_that_cell_alone_and_nothing_stale_stays(project: Project) -> None:
    ledger = (project.root / LEDGER).read_bytes()
    before = project.stamps("records", "weights", "verdicts")
    project.edit("config/tiny_cells.tsv", "\tnormal\t0.1\t", "\tnormal\t0.2\t")
    project.forget()
    project.snakemake()
    after = project.stamps("records", "weights", "verdicts")
    assert {name: after[name] for name in before} == before
    assert len(after) - len(before) == 4
    assert all("-layerwise" in name for name in after.keys() - before.keys())
    assert project.epsilons() == {"dnn": "", "fc_4": "normal 0.2 per sample"}

    # Back to the old value: its records are older than the ledger, and nothing remembers how that was made.
    project.edit("config/tiny_cells.tsv", "\tnormal\t0.2\t", "\tnormal\t0.1\t")
    project.forget()
    project.snakemake()
    assert project.stamps("records", "weights", "verdicts") == after
    assert (project.root / LEDGER).read_bytes() == ledger


def test_an_edit_of_an_attack_attacks_again_and_trains_nothing(project: Project) -> None:
    project.edit(
        "lat/attacks/pgd.py", "from __future__ import annotations\n", "from __future__ import annotations\n\nX = 1\n"
    )
    assert project.planned() == {"attack": 2, "collect": 1}


def test_an_edit_of_a_method_trains_its_cells_alone(project: Project) -> None:
    project.edit(
        "lat/defences/layerwise.py",
        "from __future__ import annotations\n",
        "from __future__ import annotations\n\nX = 1\n",
    )
    assert project.planned() == {"train": 1, "attack": 1, "collect": 1}


def test_a_changed_attack_setting_attacks_again_or_is_refused(project: Project) -> None:
    project.edit("config/tiny_attacks.yaml", "steps: 2", "steps: 3")
    assert project.planned() == {"attack": 2, "collect": 1}
    project.forget()
    assert project.planned() == {"collect": 1}
    done = project.call("snakemake", "--cores", "1", "--configfile", "config/tiny.yaml", "--", LEDGER)
    assert done.returncode != 0
    log = (project.root / "results/tiny/logs/collect.log").read_text(encoding="utf-8")
    assert re.search(
        r"^lat collect: \S+seed0\.attack\.json: settings .* are asked for; delete \S+ and run its job", log
    )
    assert not (project.root / LEDGER).exists()


def test_an_audit_that_is_asked_for_later_attacks_and_trains_nothing_again(project: Project) -> None:
    shutil.copyfile(project.root / "config/audit.yaml", project.root / "config/tiny_audit.yaml")
    audit = {"file": "config/tiny_audit.yaml", "checks": "cheap", "attacks": []}
    transfer = {"attack": "pgd", "cells": ["dnn", "fc_4"]}
    (project.root / "config/tiny.yaml").write_text(
        yaml.safe_dump(RUN_FILE | {"audit": audit | {"transfer": transfer}}), encoding="utf-8"
    )
    assert project.planned() == {"harder": 2, "audit": 2, "collect": 1}
    for_a_table = project.snakemake("--dry-run", target="table_2")
    assert "rule harder" not in for_a_table and "rule audit" not in for_a_table, "no table shows an audit"
    project.snakemake()
    with (project.root / LEDGER).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {(row["step"], row["cell"], row["attack"], row["metric"]) for row in rows}
    assert found >= {("harder", "dnn", "transfer", "surrogates"), ("audit", "fc_4", "ball_and_box", "passed")}
    assert "Nothing to be done" in project.snakemake()
    project.edit("config/tiny_audit.yaml", "points: 0.5", "points: 0.25")
    assert project.planned() == {"audit": 2, "collect": 1}, "a changed check attacks nothing again"
    project.edit("config/tiny_audit.yaml", "points: 0.25", "points: 0.5")
    project.edit("config/tiny_audit.yaml", "Many steps are at least as strong", "Many steps are no weaker")
    assert not project.planned()


def test_another_run_file_inherits_nothing_from_the_default(project: Project) -> None:
    project.snakemake("--dry-run", "--quiet", target="results/mnist/ledger.csv", run="config/mnist.yaml")
    merged = json.loads((project.root / "results/mnist/config.json").read_text(encoding="utf-8"))
    assert merged == yaml.safe_load((project.root / "config/mnist.yaml").read_text(encoding="utf-8"))
    assert not (project.root / "results/quick").exists()


def test_a_run_file_that_lacks_a_key_is_not_completed_by_the_default(tmp_path: Path) -> None:
    project = copied(tmp_path / "project")

    def planned_with(given: dict[str, object]) -> subprocess.CompletedProcess[str]:
        (project.root / "config/mine.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
        return project.call("snakemake", "--dry-run", "--cores", "1", "--configfile", "config/mine.yaml")

    done = planned_with({"name": "mine", "dataset": "mnist", "train": 1000})
    assert done.returncode != 0
    assert "is a required property" in done.stdout + done.stderr
    assert not (project.root / "results").exists()
    done = planned_with({})
    assert done.returncode == 0, done.stderr
    assert (project.root / "results/quick/config.json").exists(), "no key of a run file: the default run"


def test_a_misspelt_key_is_named_before_any_job(project: Project) -> None:
    shutil.rmtree(project.root / "results")
    project.edit("config/tiny.yaml", "evaluate:", "evalaute:")
    done = project.call("snakemake", "--cores", "1", "--configfile", "config/tiny.yaml", "--", LEDGER)
    assert done.returncode != 0
    assert "RunError" in done.stderr
    assert "evalaute" in done.stderr
    assert not (project.root / "results").exists()


@pytest.mark.parametrize(
    ("register", "old", "slip"),
    [("claims", "kind: empirical", "kind: empircal"), ("assumptions", "default: ", "defualt: ")],
)
def test_a_slip_in_what_the_report_alone_reads_is_named_before_any_job(
    project: Project, register: str, old: str, slip: str
) -> None:
    project.edit(f"config/{register}.yaml", old, slip)
    done = project.call("snakemake", "--cores", "1", "--configfile", "config/tiny.yaml", "--dry-run", "--", LEDGER)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "RunError" in said
    assert re.search(rf"{register}\.yaml, .*(empircal|defualt)", said)


def test_an_imported_run_is_finished_with_and_without_its_weights(project: Project) -> None:
    run = ("--config", "config/tiny.yaml")
    ledger = (project.root / LEDGER).read_bytes()
    assert project.call("lat", "export", *run, "kept").returncode == 0
    kept = [path.parent.name for path in (project.root / "kept").rglob("*.safetensors")]
    assert [name.split("-")[3] for name in kept] == ["standard"], "the run file keeps the weights of dnn alone"
    shutil.rmtree(project.root / "results")
    project.forget()
    done = project.call("lat", "import", *run, "kept")
    assert done.returncode == 0, done.stderr
    assert project.planned() == {"collect": 1}
    planned = project.planned("all")
    assert planned["equivalence"] == 1, "of the weights that are kept, which came along"
    assert planned["train"] == planned["attack"] == 0
    project.snakemake()
    assert (project.root / LEDGER).read_bytes() == ledger
    assert "Nothing to be done" in project.snakemake()
    (weights,) = (project.root / "results/tiny/weights").rglob("*.safetensors")
    os.utime(weights)
    assert not project.planned(), "what was imported stands though another step needed the weights later"


def own_mirror(place: Path, seed: int) -> Path:
    """A mirror with the dataset `mine`: two classes of random images, eight of each to train on and four to test."""
    draws, files = np.random.default_rng(seed), {}
    for split, each in (("train", 8), ("test", 4)):
        path = place / f"mine/{split}-0.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for name in (f"{split}/{label}/{number}.png" for label in "ab" for number in range(each)):
                image = io.BytesIO()
                Image.fromarray(draws.integers(0, 256, (4, 4), dtype=np.uint8)).save(image, "PNG")
                archive.writestr(name, image.getvalue())
        content = path.read_bytes()
        files[f"mine/{path.name}"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (place / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")
    return place


def test_other_images_under_a_dataset_s_name_make_old_what_was_made_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run = copied(tmp_path / "project"), ("--config", "config/tiny.yaml")
    own = {"dataset": "mine", "train": None, "schedule": RUN_FILE["schedule"] | {"batch": 8}}  # type: ignore[operator]
    scales = [RUN_FILE["scales"][0] | {"cells": ["dnn"]}]  # type: ignore[index]
    (project.root / "config/tiny.yaml").write_text(yaml.safe_dump(RUN_FILE | own | {"scales": scales}))

    def prepared_from(seed: int) -> None:
        shutil.rmtree(project.root / "data", ignore_errors=True)
        monkeypatch.setenv("LAT_DATA_MIRROR", str(own_mirror(tmp_path / f"mirror{seed}", seed)))
        done = project.call("lat", "prepare", *run)
        assert done.returncode == 0, done.stderr

    monkeypatch.setenv("LAT_DATA_MIRROR", str(own_mirror(tmp_path / "mirror1", 1)))
    project.snakemake()
    first = (project.root / LEDGER).read_bytes()
    prepared_from(1)
    assert not project.planned(), "the same images, prepared again"
    prepared_from(2)
    refused = project.call("lat", "collect", *run)
    assert refused.returncode == 2
    assert re.search(r"train\.json: data \w+ of mine, part train; prepared is \w+; delete \S+ and run", refused.stderr)
    project.forget()
    assert project.planned() == {"train": 1, "attack": 1, "collect": 1}
    project.snakemake()
    assert (project.root / LEDGER).read_bytes() != first
    assert not project.planned()


def test_a_cell_that_fails_leaves_a_ledger_with_a_gap(project: Project) -> None:
    lines = (project.root / "config/tiny_cells.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    broken = lines[-1].replace("fc_4\t", "fc_9\t", 1).replace("\tfc4\t", "\tfc9\t", 1)
    (project.root / "config/tiny_cells.tsv").write_text("".join([*lines, broken]), encoding="utf-8")
    project.edit("config/tiny.yaml", "  - fc_4\n", "  - fc_4\n  - fc_9\n")
    done = project.call("snakemake", "--cores", "1", "--configfile", "config/tiny.yaml", "--", LEDGER)
    assert done.returncode != 0
    assert project.epsilons().keys() == {"dnn", "fc_4"}
    assert "missing: fc_9@narrow, seed 0, train" in done.stdout + done.stderr
    logs = [path.read_text(encoding="utf-8") for path in (project.root / "results/tiny/logs").glob("*fc9*.train.log")]
    assert len(logs) == 1
    assert "fc9" in logs[0]
    assert "Traceback" not in logs[0]


def test_the_report_is_made_and_made_again_only_where_something_changed(project: Project) -> None:
    project.snakemake(target="all")
    pdf = project.root / "reports/tiny.pdf"
    assert pdf.read_bytes().startswith(b"%PDF")
    assert "Nothing to be done" in project.snakemake(target="all")
    content = json.loads((project.root / "reports/build/tiny/report.json").read_text(encoding="utf-8"))
    rows = (project.root / "results/tiny/equivalence.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert {row.split(",")[1] for row in rows} == {"dnn"}, "its weights are kept"
    assert content["equivalence"]["gap"] == "no network to show; left out: dnn@narrow, seed 0 (diverged)"
    assert content["equations"]["found"]["profile"] == "dev"
    project.edit("lat/equivalence.py", "TOLERANCE = 1e-4", "TOLERANCE = 2e-4")
    assert "rule equivalence:" in project.snakemake("--dry-run", target="all")
    project.edit("lat/equivalence.py", "TOLERANCE = 2e-4", "TOLERANCE = 1e-4")
    rederived.write(project.root / "results/tiny", [])
    assert project.planned("all") == Counter(report=1, all=1), "records were made again"
    (project.root / "results/tiny" / rederived.FILE).unlink()
    before = project.stamps("weights", "verdicts")
    project.edit("config/claims.yaml", "paraphrase: ", "paraphrase:  ")
    again = project.snakemake(target="all")
    assert "rule report:" in again
    assert "rule train:" not in again
    assert project.stamps("weights", "verdicts") == before


def test_a_wrong_equation_fails_the_target_verify_and_leaves_no_document(project: Project) -> None:
    project.edit("lat/equations.py", "return w.abs().sum(dim=1)", "return w.sum(dim=1)")
    done = project.call("snakemake", "--cores", "1", "--configfile", "config/tiny.yaml", "--", "verify")
    assert done.returncode != 0
    assert not (project.root / "results/equations.json").exists()
    log = (project.root / "results/logs/verify.log").read_text(encoding="utf-8")
    assert "6.bound: contradicted, but proved is expected" in log


def test_a_failed_cell_leaves_a_report_with_a_marked_gap(project: Project) -> None:
    project.edit("config/tiny.yaml", "keep:\n  - dnn\n", "keep:\n  - dnn\n  - fc_4\n")
    project.edit("config/tiny_cells.tsv", "\tfc4\t", "\tfc9\t")
    done = project.call("snakemake", "--cores", "1", "--configfile", "config/tiny.yaml", "--", "all")
    assert done.returncode != 0
    assert (project.root / "reports/tiny.pdf").read_bytes().startswith(b"%PDF")
    content = json.loads((project.root / "reports/build/tiny/report.json").read_text(encoding="utf-8"))
    lines = {line["cell"]: line for row in content["tables"][0]["rows"] for line in row["lines"]}
    assert lines["dnn"]["state"] != "gap"
    assert (lines["fc_4"]["state"], lines["fc_4"]["reason"]) == ("gap", "failed or unfinished")
    command = "lat equivalence --config config/tiny.yaml"
    expected = {"found": None, "gap": "equivalence.csv is missing", "command": command}
    assert content["equivalence"] == expected, "the weights that failed are among those kept"
    assert "no layer of MLP" in "".join(
        path.read_text() for path in project.root.glob("results/tiny/logs/*fc9*train.log")
    )


def test_a_table_asks_for_its_own_cells_alone(project: Project) -> None:
    planned = project.snakemake("--dry-run", target="table_3", run="config/quick.yaml")
    trained = re.findall(r"^    wildcards: slug=(\S+), seed=\d+$", planned, re.MULTILINE)
    layers = {re.search(r"layerwise-([\w.]+)-", slug)[1] for slug in trained}  # type: ignore[index]
    assert layers == {"fc2.fc3", "fc3.fc4"}
    assert "rule table_3:" in planned
    assert "rule collect:" not in planned

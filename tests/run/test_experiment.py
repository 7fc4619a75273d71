"""The two steps on real images: equal runs give equal bytes, and the record says what was done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from small_run import scale, small_run

from lat import data, environment, evaluation, experiment, training
from lat.cells import Schedule
from lat.collection import Folder, collect, export, jobs
from lat.experiment import Attacked, Job
from lat.ledger import Figure, LedgerError, Record
from lat.memory import Batch, TrainingError
from lat.run_files import ROOT
from lat.runs import Entry, Run

ATTACKS = {"file": "config/attacks.yaml", "names": ["fgsm", "ifgsm"]}


@pytest.fixture(scope="module")
def run() -> Run:
    return small_run(attacks=ATTACKS, scales=[scale(width=32, cells=["dnn", "mlpw"])])


def do(run: Run, entry: Entry, folder: Folder, root: Path, seed: int = 0) -> tuple[Record, Record]:
    """Train and attack an entry; both records."""
    done = [
        Job(entry.cell, seed, entry.name, entry.scale, run.sources(entry, step), root) for step in ("train", "attack")
    ]
    weights = folder.weights(entry, seed)
    trained = experiment.train(done[0], weights, folder.record(entry, seed, "train"))
    attacked = experiment.attack(
        done[1], run.attacks, run.part, weights, folder.record(entry, seed, "attack"), folder.verdicts(entry, seed)
    )
    return trained, attacked


@pytest.fixture(scope="module")
def done(run: Run, tmp_path_factory: pytest.TempPathFactory, digits_root: Path) -> Folder:
    """The whole run, collected."""
    folder = Folder(tmp_path_factory.mktemp("done"))
    for entry in run.entries:
        do(run, entry, folder, digits_root)
    collect(run, folder, folder.root)
    return folder


def test_two_runs_give_the_same_weights_and_verdicts_bit_for_bit(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path
) -> None:
    torch.manual_seed(20261)  # what came before on the global generator does not matter
    torch.rand(7)
    again = Folder(tmp_path)
    for entry in run.entries:
        do(run, entry, again, digits_root)
        assert again.weights(entry, 0).read_bytes() == done.weights(entry, 0).read_bytes()
        assert again.verdicts(entry, 0).read_bytes() == done.verdicts(entry, 0).read_bytes()


def test_another_seed_is_another_network(run: Run, done: Folder, tmp_path: Path, digits_root: Path) -> None:
    entry = run.entry("dnn")
    do(run, entry, Folder(tmp_path), digits_root, seed=1)
    assert Folder(tmp_path).weights(entry, 1).read_bytes() != done.weights(entry, 0).read_bytes()


def test_a_training_record_says_what_was_trained_and_how_it_went(run: Run, done: Folder, digits_root: Path) -> None:
    entry, digest = run.entry("dnn"), data.digests_under(digits_root)
    assert digest("mnist", "train", None) is None
    record = Record.read(done.record(entry, 0, "train"))
    assert (record.cell, record.seed, record.name, record.scale) == (entry.cell, 0, "dnn", "narrow")
    assert (record.status, record.threads, record.settings, record.imported) == ("ok", 1, {}, False)
    assert record.sources == run.sources(entry, "train")
    assert record.inputs["weights"] == experiment.file_digest(done.weights(entry, 0))
    found = {key: record.inputs[key] for key in ("data", "tested")}
    assert found == {"data": digest("digits", "train", None), "tested": digest("digits", "test", None)}
    packages = {"lat", "torch", "numpy", "scipy", "scikit-learn", "safetensors", "foolbox", "pyautoattack"}
    assert set(record.versions) == {"python", *packages}
    figures = {figure.metric: figure for figure in record.figures}
    assert list(figures) == ["loss", "clean_accuracy", "step_ms", "skipped_batches"]
    assert figures["clean_accuracy"].n == 360
    assert [epoch["epoch"] for epoch in record.curve] == [1, 2]
    assert record.curve[-1]["clean_accuracy"] == figures["clean_accuracy"].value
    assert record.curve[0]["lr"] == 0.1


def test_an_attack_record_agrees_with_its_verdicts(run: Run, done: Folder) -> None:
    entry = run.entry("dnn")
    record = Record.read(done.record(entry, 0, "attack"))
    found = evaluation.load_verdicts(done.verdicts(entry, 0))
    assert record.settings == {"part": "test", "attacks": json.loads(json.dumps(run.attacks))}
    assert record.inputs["verdicts"] == experiment.file_digest(done.verdicts(entry, 0))
    trained = Record.read(done.record(entry, 0, "train"))
    assert record.inputs["weights"] == trained.inputs["weights"]
    values = {(f.attack, f.metric): (f.value, f.n) for f in record.figures}
    assert values["", "clean_accuracy"] == (found.clean.mean(), 360)
    assert values["", "clean_accuracy"][0] == next(f.value for f in trained.figures if f.metric == "clean_accuracy")
    for name in ("fgsm", "ifgsm"):
        assert values[name, "robust_accuracy"] == (found.verdicts[name].mean(), 360)
        assert values[name, "wall_s"][0] > 0
    both = found.verdicts["fgsm"] & found.verdicts["ifgsm"]
    assert values["worst_case", "robust_accuracy"] == (both.mean(), 360)


@pytest.fixture
def flags() -> Iterator[list[tuple[Any, str]]]:
    """Where torch keeps what makes a GPU's products quick and inexact, switched on."""
    found = [(torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")]
    found.append((torch.backends.cudnn, "benchmark"))
    before = [getattr(owner, name) for owner, name in found]
    for owner, name in found:
        setattr(owner, name, True)
    yield found
    for (owner, name), value in zip(found, before, strict=True):
        setattr(owner, name, value)


def test_on_a_gpu_kernels_are_deterministic_and_products_in_full_precision(
    flags: list[tuple[Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda:1": "A GPU"}.__getitem__)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is as before afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    environment.prepare_torch("cpu")
    assert [getattr(owner, name) for owner, name in flags] == [True] * 3
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert chosen == []
    environment.prepare_torch("cuda:1")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert [getattr(owner, name) for owner, name in flags] == [False] * 3
    assert torch.are_deterministic_algorithms_enabled()
    assert chosen == ["cuda:1"]
    assert environment.hardware("cuda:1") == "cuda (A GPU)"
    assert environment.hardware("cpu") == f"cpu ({environment.processor()})"


def test_a_record_says_where_memory_ran_out_and_else_nothing(run: Run, done: Folder) -> None:
    found = evaluation.load_verdicts(done.verdicts(run.entry("dnn"), 0))
    plain = experiment.attack_figures(replace(found, seconds=dict.fromkeys(found.verdicts, 1.0)))
    assert not {"batch", "batch_halvings"} & {figure.metric for figure in plain}
    cut = replace(found, seconds=dict.fromkeys(found.verdicts, 1.0), batch=Batch(250, 2))
    memory = [Figure("batch_halvings", 2), Figure("batch", 250)]
    assert experiment.attack_figures(cut) == [*memory, *plain]
    other, n = replace(cut, redrawn=("fgsm",)), len(found.verdicts["fgsm"])
    assert experiment.attack_figures(other) == [*memory, Figure("redrawn", n, attack="fgsm"), *plain]


def test_images_that_do_not_fit_into_memory_are_no_matter_of_the_batch(
    run: Run, tmp_path: Path, digits_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(data, "byte_tensors", full)
    with pytest.raises(TrainingError, match=r"train: 1437 images to train on and 360 .* of 'cpu' .*; train on fewer"):
        do(run, run.entry("dnn"), Folder(tmp_path), digits_root)


def test_an_evaluation_cuts_images_by_device_and_network_and_keeps_the_cells_layout(
    tmp_path: Path, digits_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int]] = []
    real = evaluation.evaluate

    def spied(model: torch.nn.Module, x: Any, y: Any, attacks: Any, seed: int, batch: int, *rest: Any) -> Any:
        weight = next(p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1)
        seen.append((weight.is_contiguous(memory_format=torch.channels_last), batch))
        return real(model, x, y, attacks, seed, batch, *rest)

    monkeypatch.setattr(evaluation, "evaluate", spied)
    compute = {"precision": "float32", "channels_last": True, "compile": "none"}
    convolutional = scale(name="last", model="3conv2fc", width=2, epochs=1, cells=["dnn"])
    audit = {"file": "config/audit.yaml", "checks": "cheap", "attacks": ["mi_fgsm"], "transfer": None}
    scales = [convolutional | {"compute": compute}, convolutional | {"name": "first"}]
    asked = small_run(scales=scales, attacks=ATTACKS | {"names": ["fgsm"]}, audit=audit)
    for entry in asked.entries:
        folder = Folder(tmp_path / entry.scale)
        do(asked, entry, folder, digits_root)
        job, left = Job.of(asked, entry, 0, "harder", digits_root), (folder.record, folder.verdicts)
        attacked = Attacked.of(folder, entry, 0)
        experiment.attack_harder(job, asked, entry, attacked, {}, *(place(entry, 0, "harder") for place in left))
    assert seen == [(True, 250)] * 2 + [(False, 250)] * 2


def test_images_at_once_are_multiples_of_the_batches_that_attacks_draw_for() -> None:
    assert [experiment.at_once(*given) for given in (("4fc", "cpu"), ("3conv2fc", "cuda:0"))] == [1000] * 2
    described = yaml.safe_load((ROOT / "config/attacks.yaml").read_text())
    own = {given["batch"] for given in described.values() if "batch" in given}
    assert own
    assert all(images % batch == 0 for images in (250, 1000) for batch in own)


def test_a_seed_that_diverges_is_recorded(run: Run, tmp_path: Path, digits_root: Path) -> None:
    entry = run.entry("dnn")
    hot = replace(entry, cell=replace(entry.cell, schedule=Schedule(epochs=2, lr=1e6, schedule="constant")))
    trained, attacked = do(run, hot, Folder(tmp_path), digits_root)
    assert (trained.status, attacked.status) == ("diverged", "diverged")
    again = Record.read(Folder(tmp_path).record(hot, 0, "train"))
    assert again.status == "diverged"
    assert {figure.metric for figure in again.figures} >= {"loss", "clean_accuracy"}


# Deriving again


def test_records_derived_again_come_out_equal(run: Run, done: Folder, tmp_path: Path, digits_root: Path) -> None:
    assert export(run, done, tmp_path / "kept") == 2
    found = list(experiment.rederive(run, tmp_path / "kept", digits_root, 9))
    assert len(found) == 4
    assert all(entry.same for entry in found)
    assert {entry.line for entry in found} >= {
        "dnn@narrow, seed 0, train: weights equal, figures equal",
        "mlpw@narrow, seed 0, attack: verdicts equal, figures equal",
    }
    assert {entry.sources for entry in found} == {
        run.sources(e, step) for e in run.entries for step in ("train", "attack")
    }
    assert len(list(experiment.rederive(run, tmp_path / "kept", digits_root, 1))) == 1


@pytest.mark.parametrize(
    ("change", "stands"),
    [
        ({}, True),
        ({"equal": {"weights": False, "figures": True}}, True),
        ({"outcome": "0" * 64}, False),
        ({"sources": "0" * 64}, False),
        ({"versions": {"torch": "0"}}, False),
        ({"device": "cpu (another)"}, False),
    ],
)
def test_what_was_made_again_stands_where_record_code_and_machine_are_the_same(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path, change: dict[str, Any], stands: bool
) -> None:
    export(run, done, tmp_path)
    (first,) = experiment.rederive(run, tmp_path, digits_root, 1)
    known = replace(first, finished="before", **change)
    (found,) = experiment.rederive(run, tmp_path, digits_root, 1, [known])
    assert (found == known) == stands
    assert found.same or stands


def figure(values: dict[str, Any], metric: str) -> dict[str, Any]:
    """The last figure of that metric in a record as JSON."""
    return next(found for found in reversed(values["figures"]) if found["metric"] == metric)


@pytest.mark.parametrize(
    ("step", "alter", "words"),
    [
        ("train", lambda r: r["inputs"].update(weights="0" * 64), "weights differ, figures equal"),
        ("train", lambda r: figure(r, "clean_accuracy").update(value=0.999), "weights equal, figures differ"),
        ("train", lambda r: r["curve"][0].update(loss=0.5), "weights equal, figures differ"),
        ("train", lambda r: r.update(status="diverged"), "weights equal, figures differ"),
        ("train", lambda r: figure(r, "step_ms").update(value=1e9), "weights equal, figures equal"),
        ("attack", lambda r: r["inputs"].update(verdicts="0" * 64), "verdicts differ, figures equal"),
        ("attack", lambda r: figure(r, "robust_accuracy").update(value=0.999), "verdicts equal, figures differ"),
        ("attack", lambda r: figure(r, "wall_s").update(value=1e9), "verdicts equal, figures equal"),
    ],
)
def test_a_record_that_was_altered_comes_out_different(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path, step: str, alter: Callable[[Any], None], words: str
) -> None:
    export(run, done, tmp_path)
    path = tmp_path / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    record = next(r for r in records if (r["name"], r["step"]) == ("dnn", step))
    alter(record)
    path.write_text(json.dumps(record) + "\n")
    (found,) = experiment.rederive(run, tmp_path, digits_root, 1)
    assert (found.line, found.same) == (f"dnn@narrow, seed 0, {step}: {words}", "differ" not in words)


def test_an_attack_whose_weights_were_not_exported_is_not_derived_again(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path
) -> None:
    export(run, done, tmp_path)
    for entry, seed, _ in jobs(run):
        Folder(tmp_path).weights(entry, seed).unlink(missing_ok=True)
    assert [entry.step for entry in experiment.rederive(run, tmp_path, digits_root, 9)] == ["train", "train"]


# A checkpoint of one's own


def test_a_checkpoint_has_the_figures_of_the_cell_it_comes_from(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path
) -> None:
    weights = done.weights(run.entry("dnn"), 0)
    torch.save(safetensors.torch.load_file(weights), tmp_path / "mine.pt")
    recorded = {
        (f.attack, f.metric): (f.value, f.n) for f in Record.read(done.record(run.entry("dnn"), 0, "attack")).figures
    }
    for path in (weights, tmp_path / "mine.pt"):
        figures = experiment.attack_checkpoint(path, ("4fc", 32), "digits", "test", run.attacks, digits_root, 0)
        assert figures[0].metric == "clean_accuracy"
        for figure in figures:  # FGSM and IFGSM draw nothing, so that the seed does not matter
            if figure.metric != "wall_s":
                assert recorded[figure.attack, figure.metric] == (figure.value, figure.n)


@pytest.mark.parametrize("kind", ["width", "missing", "text", "object"])
def test_a_checkpoint_that_is_not_the_networks_is_named(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path, kind: str
) -> None:
    path, width = done.weights(run.entry("dnn"), 0), 32
    if kind == "width":
        width = 7
    elif kind == "missing":
        path = tmp_path / "nothing.safetensors"
    elif kind == "text":
        path = tmp_path / "text.safetensors"
        path.write_text("no weights")
    else:
        path = tmp_path / "object.pt"
        torch.save({"model": Path("a")}, path)  # an object that only an unsafe load would build
    with pytest.raises(LedgerError, match=f"{path.name}: "):
        experiment.attack_checkpoint(path, ("4fc", width), "digits", "test", run.attacks, digits_root, 0)


# Going on


class Interrupted(Exception):
    """Stands in for a signal."""


def interrupted(job: Job, folder: Folder, entry: Entry) -> Path:
    """The checkpoint of a training that ends after its first epoch; nothing else of it is there."""
    path = folder.checkpoint(entry, 0)

    def report(epoch: training.Epoch) -> None:
        raise Interrupted

    weights, record = folder.weights(entry, 0), folder.record(entry, 0, "train")
    with pytest.raises(Interrupted):
        experiment.train(job, weights, record, report, checkpoint=path, every_s=0)
    assert [p for p in folder.root.rglob("*") if p.is_file()] == [path]
    return path


@pytest.mark.parametrize("other", ["nothing", "seed", "sources", "cell", "data", "test"])
def test_a_training_goes_on_from_its_own_checkpoint_and_from_no_other(
    run: Run, done: Folder, tmp_path: Path, digits_root: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, folder = run.entry("dnn"), Folder(tmp_path)
    job = Job(entry.cell, 0, entry.name, entry.scale, run.sources(entry, "train"), digits_root)
    changed = {
        "nothing": job,
        "seed": replace(job, seed=1),
        "sources": replace(job, sources="0" * 64),
        "cell": replace(job, cell=replace(entry.cell, width=31)),
        "data": replace(job, cell=replace(entry.cell, train=700)),
        "test": replace(job, images=100),
    }
    path = interrupted(changed[other], folder, entry)
    told: list[int] = []
    weights, record = folder.weights(entry, 0), folder.record(entry, 0, "train")
    made = experiment.train(job, weights, record, lambda e: told.append(e.epoch), checkpoint=path)
    assert weights.read_bytes() == done.weights(entry, 0).read_bytes()
    assert made.curve == Record.read(done.record(entry, 0, "train")).curve
    assert told == [1, 2]
    aside = [p.name for p in path.parent.iterdir()]
    assert aside == ([] if other == "nothing" else ["seed0.other-1.safetensors"])
    assert (other in capsys.readouterr().err) == (other != "nothing")


def test_what_says_which_training_a_checkpoint_is_of(run: Run, digits_root: Path) -> None:
    entry = run.entry("dnn")
    job = Job(entry.cell, 4, entry.name, entry.scale, "s", digits_root)
    asked = {"cell": entry.cell.digest, "seed": 4, "sources": "s", "data": "d", "test": "t"}
    assert experiment.checkpoint_identity(job, "d", "t") == asked

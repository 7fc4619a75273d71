"""The `lat` command: each step by hand, errors of one line, and a start without torch."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import yaml
from small_mirror import small_mirror
from small_run import ROOT, run_file, scale

from lat import bars, cli, data, rederived
from lat.collection import Folder
from lat.runs import load


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "run.json").write_text(json.dumps(run_file(scales=[scale(epochs=1)])), encoding="utf-8")
    return folder


def lat(place: Path, digits_root: Path, *words: str) -> int:
    """One command on the run of `place`, with the prepared digits."""
    name, *rest = words
    folders = ["--results", str(place / "results"), "--data", str(digits_root)]
    return cli.main([name, "--config", str(place / "run.json"), *folders, *rest])


@pytest.fixture(scope="module")
def done(place: Path, digits_root: Path) -> Folder:
    """Every step of the run by hand, up to its export in `place / kept`."""
    assert lat(place, digits_root, "prepare") == 0
    for cell in ("dnn", "fc_4@narrow"):
        assert lat(place, digits_root, "train", "--cell", cell) == 0
        assert lat(place, digits_root, "attack", "--cell", cell) == 0
    assert lat(place, digits_root, "collect") == 0
    assert lat(place, digits_root, "export", str(place / "kept")) == 0
    return Folder(place / "results/small")


def test_every_step_can_be_run_by_hand(place: Path, done: Folder) -> None:
    run = load(place / "run.json")
    assert all(done.record(entry, 0, step).exists() for entry in run.entries for step in ("train", "attack"))
    assert (done.root / "ledger.csv").read_bytes() == (place / "kept/ledger.csv").read_bytes()


def test_an_audit_says_in_words_what_each_check_found(
    place: Path, done: Folder, digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = {"file": "config/audit.yaml", "checks": "cheap", "attacks": ["mi_fgsm"], "transfer": None}
    (tmp_path / "run.json").write_text(json.dumps(run_file(scales=[scale(epochs=1)], audit=audit)), encoding="utf-8")
    folders = ["--results", str(place / "results"), "--data", str(digits_root)]
    assert cli.main(["harder", "--config", str(tmp_path / "run.json"), *folders, "--cell", "dnn"]) == 0
    assert "mi_fgsm        robust_accuracy" in capsys.readouterr().out
    assert cli.main(["audit", "--config", str(tmp_path / "run.json"), *folders, "--cell", "dnn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "single_step       skipped Not checked: pgd: no verdicts." in lines
    assert any(line.startswith("worst_case        passed  The reported worst case (") for line in lines)

    run = run_file(scales=[scale(epochs=1, seeds=2)], audit=audit | {"seeds": 1})
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    words = ["harder", "--config", str(tmp_path / "run.json"), *folders, "--cell", "dnn", "--seed", "1"]
    assert cli.main(words) == 2
    expected = "seed: 1 of 'dnn'; the audit's attacks reach 1 of its 2 seeds; raise `audit.seeds`, or name it in "
    expected += "`audit.seeds_of`"
    assert expected in capsys.readouterr().err
    without = run_file(scales=[scale(epochs=1)], audit=audit | {"attacks": []})
    (tmp_path / "run.json").write_text(json.dumps(without), encoding="utf-8")
    assert cli.main(words[:-2]) == 2
    assert "audit.attacks: none at scale 'narrow', and no transfer; name some" in capsys.readouterr().err


def test_an_export_is_imported_and_checked(
    place: Path, done: Folder, digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["import", "--config", str(place / "run.json"), "--results", str(tmp_path), "--data", str(digits_root)]
    assert cli.main([*words, str(place / "kept"), "--check", "1"]) == 0
    out = capsys.readouterr().out
    assert "4 records put back; 0 that the run does not ask for left out" in out
    assert re.search(r"figures equal\n1 of 1 made again came out the same\n$", out)
    (first,) = rederived.read(tmp_path / "small")
    assert cli.main([*words, str(place / "kept"), "--check", "2"]) == 0
    assert f"{first.line} (found {first.finished})\n" in capsys.readouterr().out, "not made twice"
    assert len(found := rederived.read(tmp_path / "small")) == 2
    assert first in found
    assert cli.main(["collect", *words[1:]]) == 0
    assert (tmp_path / "small/ledger.csv").read_bytes() == (done.root / "ledger.csv").read_bytes()
    assert cli.main(["export", *words[1:], str(tmp_path / "again")]) == 0
    assert rederived.read(tmp_path / "again") == found


def test_a_record_that_comes_out_different_is_kept_as_such_and_the_check_fails(
    place: Path, done: Folder, digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "kept", tmp_path / "kept")
    path = tmp_path / "kept/records.jsonl"
    path.write_text(path.read_text().replace('"clean_accuracy", "n": ', '"clean_accuracy", "n": 1'))
    words = ["import", "--config", str(place / "run.json"), "--results", str(tmp_path), "--data", str(digits_root)]
    assert cli.main([*words, str(tmp_path / "kept"), "--check", "1"]) == 1
    assert "0 of 1 made again came out the same" in capsys.readouterr().out
    assert [entry.same for entry in rederived.read(tmp_path / "small")] == [False]


def test_gaps_are_named(place: Path, done: Folder, digits_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = load(place / "run.json").entry("fc_4")
    path = done.record(entry, 0, "attack")
    content = path.read_bytes()
    path.unlink()
    try:
        assert lat(place, digits_root, "collect") == 2
        assert "no such record" in capsys.readouterr().err
        assert lat(place, digits_root, "collect", "--gaps") == 0
        assert capsys.readouterr().out == "missing: fc_4@narrow, seed 0, attack\n"
    finally:
        path.write_bytes(content)
        assert lat(place, digits_root, "collect") == 0


def test_the_status_holds_records_to_the_data_that_is_prepared(
    place: Path, done: Folder, digits_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = done.record(load(place / "run.json").entry("fc_4"), 0, "attack")
    content = path.read_text()
    digest = json.loads(content)["inputs"]["data"]
    try:
        path.write_text(content.replace(digest, "0" * 64))
        assert lat(place, digits_root, "status", "--json") == 0
        (refused,) = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["state"] == "refused"]
        assert refused["note"].startswith(f"{path}: data 00000000 of digits, part test; prepared is {digest[:8]}")
    finally:
        path.write_text(content)


def test_claims_are_judged_by_the_run_file_that_the_ledger_s_folder_keeps_or_that_is_named(
    place: Path, done: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["claims", str(done.root)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lat claims: {done.root / 'config.json'}: not there")
    assert "--config" in error
    said = []
    for words in ([done.root, "--config", place / "run.json"], [place / "kept"], [place / "kept/ledger.csv"]):
        assert cli.main(["claims", *map(str, words)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]
    assert said[0].endswith("judged\n")


def test_claims_are_shown_by_name(place: Path, done: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["claims", str(place / "kept")]
    listed = [claim["id"] for claim in yaml.safe_load((ROOT / "config/claims.yaml").read_text())["claims"]]
    two = [name for name in listed if name in (listed[3], listed[-1])]
    assert cli.main([*words, "--json", "--only", *reversed(two)]) == 0
    assert [claim["id"] for claim in json.loads(capsys.readouterr().out)["claims"]] == two
    assert cli.main([*words, "--only", two[0][:-1]]) == 2
    expected = f"lat claims: only: '{two[0][:-1]}' is no claim of config/claims.yaml; the nearest are {two[0]}, "
    assert capsys.readouterr().err.startswith(expected)


@pytest.mark.parametrize("words", [["status"], ["status", "--watch"], ["claims", "reports/reference/mnist"]])
def test_whoever_reads_only_the_first_lines_gets_no_traceback(words: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    where = ["--config", json.dumps(run_file()), "--results", str(tmp_path)]
    command = [sys.executable, "-m", "lat.cli", *words, *where]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_ledger_is_named_by_its_folder_or_by_its_file(
    place: Path, done: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(done.root), str(place / "kept")]) == 0
    said = capsys.readouterr().out
    assert cli.main(["compare", str(done.root / "ledger.csv"), str(place / "kept/ledger.csv")]) == 0
    assert capsys.readouterr().out == said
    words = ["report", "--reference", str(place / "kept/ledger.csv")]
    assert cli.parser().parse_args(words).reference == place / "kept"


def test_the_report_of_a_reference_takes_no_other_run_file(
    place: Path, done: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", "--reference", str(place / "kept"), "--config", "config/mnist.yaml"]) == 2
    assert "config: config/mnist.yaml beside --reference, which has its own config.json" in capsys.readouterr().err
    assert not (place / "kept/report.pdf").exists()


def test_a_checkpoint_is_attacked_by_its_file(
    place: Path, done: Folder, digits_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(done.weights(load(place / "run.json").entry("dnn"), 0))
    words = ["--weights", weights, "--model", "4fc", "--width", "6", "--dataset", "digits"]
    assert lat(place, digits_root, "attack", *words) == 0
    out = capsys.readouterr().out
    assert "clean_accuracy" in out
    assert "robust_accuracy" in out
    assert "(n = 360)" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["train", "--cell", "fc_9"], "cell: 'fc_9' is not in run 'small'; it has dnn@narrow, fc_4@narrow"),
        (["train", "--cell", "dnn", "--seed", "1"], "seed: 1 of cell 'dnn'; 'narrow' has seeds 0 to 0"),
        (["train", "--cell", "dnn", "--seed", "-1"], "seed: -1"),
        (["train", "--cell", "dnn", "--data", "nowhere"], "nowhere"),
        (["train", "--cell", "dnn", "--device", "gpu"], "device: 'gpu' is not known; use auto, cpu, cuda or cuda:K"),
        (["attack", "--cell", "dnn", "--device", "cuda:99"], "device: 'cuda:99', and torch sees "),
        (["equivalence", "--device", "cuda:99"], "device: 'cuda:99', and torch sees "),
        (["attack"], "cell: give either --cell"),
        (["attack", "--weights", "w.pt", "--model", "4fc"], "width: missing"),
        (
            ["attack", "--weights", "w.pt", "--model", "4fc", "--width", "3", "--dataset", "digits"],
            "w.pt: no weights there",
        ),
        (
            ["attack", "--weights", "w.pt", "--model", "resnet", "--width", "3", "--dataset", "digits"],
            "model: 'resnet' is not known; use one of 4fc, ",
        ),
        (["attack", "--cell", "dnn", "--results", "nowhere"], "seed0.safetensors: no weights there"),
        (["prepare", "--dataset", "digit", "--data", "nowhere"], "digit"),
        (["collect", "--results", "nowhere"], "no such record; run its job"),
        (["export", "--results", "nowhere", "target"], "records.jsonl: not there; collect the run first"),
        (["import", "nowhere"], "records.jsonl: not there"),
        (["import", "nowhere", "--check", "-3"], "check: -3 records; give a number of at least 0"),
        (["collect", "--config", "nowhere.yaml"], "config: nowhere.yaml cannot be read"),
        (["collect", "--config", '{"name": "small"}'], "is a required property"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(
    place: Path,
    digits_root: Path,
    words: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAT_DATA_MIRROR", raising=False)
    assert lat(place, digits_root, *words) == 2
    one_line(words[0], complaint, capsys.readouterr().err)


def test_images_that_are_too_small_for_a_network_are_named_with_it(
    tmp_path: Path, digits_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lat.models.small_cnn.CONVOLUTIONS", 4)  # halve digits' eight pixels once more
    asked = run_file(scales=[scale(model="3conv2fc", width=1, cells=["dnn"])])
    words = ["--config", json.dumps(asked), "--results", str(tmp_path), "--data", str(digits_root), "--cell", "dnn"]
    assert cli.main(["train", *words]) == 2
    one_line("train", "shape: images of 8 × 8 cannot be halved 4 times; give images", capsys.readouterr().err)


def test_a_word_of_the_environment_that_means_nothing_is_named(
    place: Path, digits_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAT_SHARE_GPU", "perhaps")
    assert lat(place, digits_root, "train", "--cell", "dnn") == 2
    one_line("train", "LAT_SHARE_GPU: 'perhaps'", capsys.readouterr().err)


def one_line(command: str, complaint: str, error: str) -> None:
    assert error.startswith(f"lat {command}: ")
    assert complaint in error
    assert error.count("\n") == 1, error


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["collect", "--results", "nowhere"]])
def test_the_command_starts_without_torch(words: list[str]) -> None:
    code = (
        "import sys; from lat import cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "loaded = {'torch', 'sklearn', 'pandas', 'matplotlib', 'safetensors', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_log_has_the_lines_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with bars.of_lines(2, "law") as say, bars.of_attacks() as report:
        say("one")
        assert capsys.readouterr().out == "one\n"  # at once, not when the command ends
        report("fgsm", 0, 10)
        report("fgsm", 10, 10)
    assert capsys.readouterr() == ("", "")


BARS = """
import sys
from lat import cli, training
training.PROGRESS_S = 0.0
for words in sys.stdin.read().splitlines():
    assert cli.main(words.split(" ")) == 0
"""


def on_a_terminal(*commands: str) -> str:
    """What the commands, one after the other in a process of their own, write to a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with subprocess.Popen(
        [sys.executable, "-c", BARS], cwd=ROOT, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        assert process.stdin is not None
        process.stdin.write("\n".join(commands))
        process.stdin.close()
        written = b""
        try:
            while part := os.read(ours, 1 << 16):
                written += part
        except OSError:  # the terminal's other side is closed
            pass
        os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


def test_on_a_terminal_the_long_commands_have_bars_that_move(
    place: Path, done: Folder, digits_root: Path, tmp_path: Path
) -> None:
    small_mirror(tmp_path / "mirror", "own", (8, 8))
    own = tmp_path / "own.json"
    own.write_text(json.dumps(run_file(dataset="own", mirror=str(tmp_path / "mirror"))))
    asked = f"--config {place / 'run.json'} --data {digits_root} --results {tmp_path}"
    written = on_a_terminal(
        f"prepare --config {own} --data {tmp_path / 'data'}",
        f"train {asked} --cell dnn",
        f"attack {asked} --cell dnn",
        f"import {asked}/again {place / 'kept'} --check 1",
    )
    for bar in ("own, train: 100%", "own, test: 100%", "fgsm: 100%"):
        assert bar in written, bar
    assert re.search(r"100%.* 1/1 \[.*record", written), "of import --check"
    steps = len(data.load("digits", "train", digits_root).labels) // 128
    moves = [float(done) for done in re.findall(r"dnn@narrow: .*?([0-9.]+)/1 epochs", written)]
    assert sorted({round(done * steps) for done in moves}) == list(range(steps + 1)), "step by step"


def test_every_command_has_a_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for name in ("prepare", "train", "attack", "collect", "export", "import", "status", "report", "compare"):
        assert f"\n    {name} " in out


def test_training_keeps_its_state_beside_the_results_while_it_is_not_finished(
    place: Path, digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, entry = Folder(tmp_path / "small"), load(place / "run.json").entry("dnn")
    path = folder.checkpoint(entry, 0)
    assert path == tmp_path / "small/checkpoints" / entry.cell.slug / "seed0.safetensors"
    path.parent.mkdir(parents=True)
    path.write_text("no checkpoint")
    words = ["train", "--config", str(place / "run.json"), "--results", str(tmp_path), "--data", str(digits_root)]
    assert cli.main([*words, "--cell", "dnn", "--checkpoint-minutes", "0"]) == 0
    assert "set aside as seed0.damaged-1.safetensors" in capsys.readouterr().err
    assert [p.name for p in path.parent.iterdir()] == ["seed0.damaged-1.safetensors"]
    assert folder.record(entry, 0, "train").exists()
    assert cli.main([*words, "--cell", "dnn", "--checkpoint-minutes", "-1"]) == 2
    assert capsys.readouterr().err == "lat train: checkpoint interval: -60.0 s must be at least 0\n"

"""The project's own files agree with one another, and name no machine."""

from __future__ import annotations

import copy
import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import type_checks
import yaml
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lat
from lat import models, norms
from lat.attacks import ascent
from lat.data import arrays

ROOT = Path(__file__).resolve().parent.parent

# A top folder of one machine; a folder of that name further down a path or in an address is none.
MACHINE_PATH = re.compile(r"(?<![\w.~$})-])/(?:work|opt|tmp|home|root|Users|mnt|scratch)/")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def requirements(lines: list[str]) -> dict[str, str]:
    """Package name -> version range, both in normal form."""
    parsed = [Requirement(line) for line in lines]
    found = {canonicalize_name(one.name): str(one.specifier) for one in parsed}
    assert len(found) == len(parsed), "a package is listed twice"
    return found


def declared() -> dict[str, str]:
    """Everything that pyproject.toml asks for, extras included."""
    extras = project()["optional-dependencies"].values()
    return requirements([*project()["dependencies"], *(line for extra in extras for line in extra)])


def listed(name: str) -> dict[str, str]:
    """The requirements of a file that holds one a line, comments left out."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return requirements([line for line in lines if line and not line.startswith("#")])


def tracked() -> list[Path]:
    """Every file that git tracks or would add."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the project is not known")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    # Inside a git hook the variables GIT_* name that hook's repository, not this one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    names = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_conda_and_pip_install_the_same_packages() -> None:
    environment = load("environment.yml")["dependencies"]
    plain = [entry for entry in environment if isinstance(entry, str)]
    (through_pip,) = [entry["pip"] for entry in environment if isinstance(entry, dict)]
    options = [line for line in through_pip if line.startswith("-")]
    assert options == ["-c constraints.txt", "-e ."]
    assert requirements([line for line in through_pip if line not in options]) == declared()
    assert requirements(plain)["python"] == project()["requires-python"]


def test_every_requirement_is_pinned_within_its_range() -> None:
    pins = listed("constraints.txt")
    assert all(re.fullmatch(r"==[^+*,]+", pin) for pin in pins.values()), "one exact version each, no build tag"
    wanted = [Requirement(f"{name}{versions}") for name, versions in {**declared(), **listed("oracles.txt")}.items()]
    unpinned = [one.name for one in wanted if one.name not in pins]
    assert unpinned == []
    outside = [str(one) for one in wanted if not one.specifier.contains(pins[one.name].removeprefix("=="))]
    assert outside == []
    assert pins["torch"] == "==2.13.0"
    assert canonicalize_name(project()["name"]) not in pins


def test_the_version_is_one() -> None:
    version = project()["version"]
    assert lat.__version__ == version
    assert load("CITATION.cff")["version"] == version
    assert importlib.metadata.version("lat") == version, "installed from other sources: run `make install`"


def test_the_citation_has_what_the_format_requires() -> None:
    citation = load("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type", "license"} <= set(citation)
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project()["authors"]]
    assert citation["license"] == project()["license"]


def test_ci_runs_the_readme_commands_here_and_there() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert [line for line in script if line.startswith("make ")] == ["make test", "make verify", "make lint"]
    assert "set -euo pipefail" in script
    jobs = load(".github/workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == ["bash .ci/run", "make report"]
    oldest = project()["requires-python"].removeprefix(">=")
    assert jobs["test"]["strategy"]["matrix"]["python"][0] == oldest


def test_every_make_command_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^\s*\$?\s*|`)make ([a-z][a-z-]*)", readme, re.MULTILINE))
    assert {"report", "test"} <= named
    assert named <= targets


def test_the_readmes_python_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small network of the fully connected kind, whose layers have the names that the README uses."""
    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    model = models.build("4fc", (1, 28, 28), 10, 8, seed=0)
    before = copy.deepcopy(model.state_dict())
    x, y = torch.rand(12, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10
    there: dict[str, Any] = {
        "model": model,
        "x": x,
        "y": y,
        "epochs": 2,
        "loader": [(x[:6], y[:6]), (x[6:], y[6:])],
        "criterion": torch.nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
    }
    for block in blocks:
        exec(block, there)
    assert there["adversary"].perturbations.keys() == {"fc2", "fc3"}
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert there["robust"].shape == (6,), "the last batch of the loop"
    assert len(blocks) == 3


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("data: /{}/someone/mnist", True),
        ("see '/{}/x'", True),
        ("PATH=/{}/bin", True),
        ("results/{}/x", False),
        ("https://example.org/{}/x", False),
        ("../{}/x", False),
        ("$OUT/{}/x", False),
    ],
)
@pytest.mark.parametrize("folder", ["home", "opt", "tmp", "work"])
def test_a_machine_path_is_recognised(line: str, folder: str, found: bool) -> None:
    assert bool(MACHINE_PATH.search(line.format(folder))) == found


def test_no_file_names_a_path_of_one_machine() -> None:
    named = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" in content:
            continue  # not text
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert named == []


def test_every_module_that_names_tensors_is_checked_while_the_tests_run() -> None:
    checked = set(type_checks.modules(ROOT / "lat"))
    for path in (ROOT / "lat").rglob("*.py"):
        if re.search(r"\bTensor\b|lat\.types", path.read_text(encoding="utf-8")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            assert any(f"{name}.".startswith(f"{other}.") for other in checked), name
    for function in (ascent.check_count, arrays.tensors, norms.size):
        assert hasattr(function, "__wrapped__"), "jaxtyping leaves the function that it checks there"


def test_shapes_are_checked_while_the_tests_run() -> None:
    images = torch.zeros(2, 3)
    assert norms.size(images, "linf").tolist() == [0.0, 0.0]
    with pytest.raises(TypeCheckError):
        norms.size(images.to(torch.int64), "linf")

"""Fixtures that several test folders share: the real data, and one prepared copy of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import type_checks
from filelock import FileLock
from hypothesis import HealthCheck, settings

type_checks.install(Path(__file__).resolve().parents[1] / "lat")

from lat import data  # noqa: E402  what is imported before the line above is not checked

# What the tests compare bit for bit, also between processes, is made on the CPU, on a machine with a GPU too.
os.environ.setdefault("LAT_DEVICE", "cpu")

settings.register_profile("dev", max_examples=25, deadline=None, print_blob=True)
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "thorough", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The directory that stands in for the download hosts: LAT_DATA_MIRROR, else ``../shared/data``."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    place = Path(os.environ.get("LAT_DATA_MIRROR") or beside)
    if not (place / "manifest.json").is_file():
        pytest.skip(f"NO REAL DATA: {place} holds no manifest.json; set LAT_DATA_MIRROR to a directory that does")
    return place


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder by its name that the session's workers share: the first that asks for it has it filled, others wait."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        place = shared / f"shared-{name}"
        with FileLock(shared / f"{name}.lock"):
            if not place.exists():
                unfinished = tmp_path_factory.mktemp(name)
                fill(unfinished)
                unfinished.rename(place)
        return place

    return made


@pytest.fixture(scope="session")
def data_root(mirror: Path, once: Callable[..., Path]) -> Path:
    """A folder in which MNIST is prepared, once for the whole session."""
    return once("data", lambda root: data.prepare("mnist", root, str(mirror)))


@pytest.fixture(scope="session")
def verified(once: Callable[..., Path]) -> dict[str, Any]:
    """What `lat verify` finds of the equations, by a process of its own: under the type checks of the tests, to which
    every call of an equation is subject, looking for counterexamples takes minutes.
    """

    def verify(folder: Path) -> None:
        output = str(folder / "equations.json")
        command = [sys.executable, "-m", "lat.cli", "verify", "--profile", "dev", "--output", output]
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
        assert done.returncode == 0, done.stdout + done.stderr

    return json.loads((once("verified", verify) / "equations.json").read_text())

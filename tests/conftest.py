"""Fixtures that several test folders share: the real data, and one prepared copy of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from lat import data

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
def data_root(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which MNIST is prepared, once for the whole session."""
    root = tmp_path_factory.mktemp("data")
    data.prepare("mnist", root, str(mirror))
    return root


@pytest.fixture(scope="session")
def verified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `lat verify` finds of the equations, by a process of its own: under the type checks of the tests, to which
    every call of an equation is subject, looking for counterexamples takes minutes.
    """
    output = tmp_path_factory.mktemp("verified") / "equations.json"
    command = [sys.executable, "-m", "lat.cli", "verify", "--profile", "dev", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())

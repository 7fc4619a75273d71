"""Fixtures of the run's tests: the prepared digits, and a torch that is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lat import data


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the digits are prepared, once for the whole session."""
    root = tmp_path_factory.mktemp("digits")
    data.prepare("digits", root)
    return root


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Training asks torch for one thread and deterministic kernels; the other tests get back what they had."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)

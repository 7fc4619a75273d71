"""Attacks of other packages: their random numbers come from a seed, and what they disturb is put back."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lat.attacks.draws import Draws


def batch_seed(draws: Draws, first: int) -> int:
    """The seed of the batch that begins at row `first`: 53 bits from the stream of that row's example."""
    drawn = draws.rows([first]).uniform(torch.empty(1, 1, dtype=torch.float64))
    return int(drawn.item() * 2**53)


@contextmanager
def undisturbed_settings(seed: int, silent: str) -> Iterator[None]:
    """Within, torch's global generators begin at `seed`, and the logger of the name `silent` says nothing.

    Kernels without a deterministic version may run: on a GPU, cumulative sums have none. Afterwards the generators,
    the mode of determinism, the logger and a debugger's trace function are as before.
    """
    trace, mode = sys.gettrace(), torch.get_deterministic_debug_mode()
    logger = logging.getLogger(silent)
    disabled = logger.disabled
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            torch.manual_seed(seed)
            torch.set_deterministic_debug_mode("default")
            logger.disabled = True
            yield
        finally:
            logger.disabled = disabled
            torch.set_deterministic_debug_mode(mode)
            sys.settrace(trace)

"""Networks by name. Adding one is one file here, one line in `MODELS`, and a row or scale in `config/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from lat.models.mlp import MLP, four_layers, three_layers

__all__ = ["MLP", "MODELS", "build"]

MODELS: Mapping[str, Callable[[tuple[int, ...], int, int], nn.Module]] = {
    "4fc": four_layers,
    "4fc_input_counted": three_layers,
}


def build(name: str, shape: tuple[int, ...], classes: int, width: int, seed: int) -> nn.Module:
    """The network `name` for images of `shape` (C, H, W), initialised from `seed` without touching the global
    generator.

    Raises ValueError naming the model where there is none of that name.
    """
    if name not in MODELS:
        raise ValueError(
            f"model: {name!r} is not known; use one of {', '.join(MODELS)}, or add it to lat/models/__init__.py"
        )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return MODELS[name](shape, classes, width)

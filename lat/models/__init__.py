"""Networks by name. Adding one is one file here, one line in `MODELS`, and a row or scale in `config/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from lat.models.error import ModelError
from lat.models.mlp import MLP, four_layers, three_layers
from lat.models.small_cnn import SmallCNN, max_pooled, mean_pooled, strided, unpooled
from lat.models.vgg import VGG16
from lat.models.wide_resnet import WideResNet, wrn10, wrn28

__all__ = ["MLP", "MODELS", "VGG16", "ModelError", "SmallCNN", "WideResNet", "build"]

MODELS: Mapping[str, Callable[[tuple[int, ...], int, int], nn.Module]] = {
    "4fc": four_layers,
    "4fc_input_counted": three_layers,
    "3conv2fc": max_pooled,
    "3conv2fc_average": mean_pooled,
    "3conv2fc_strided": strided,
    "3conv2fc_unpooled": unpooled,
    "vgg16": VGG16,
    "wrn28": wrn28,
    "wrn10": wrn10,
}


def build(name: str, shape: tuple[int, ...], classes: int, width: int, seed: int) -> nn.Module:
    """The network `name` for images of `shape` (C, H, W), initialised from `seed` without touching the global
    generator.

    Raises ModelError where there is none of that name, or it cannot take the images.
    """
    if name not in MODELS:
        raise ModelError(
            f"model: {name!r} is not known; use one of {', '.join(MODELS)}, or add it to lat/models/__init__.py"
        )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return MODELS[name](shape, classes, width)

"""BatchNorm's running statistics: held still while an attack looks for something, and taken anew once trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """A block whose passes leave running statistics as they are: in train mode BatchNorm takes the batch's, as ever."""
    tracking = [module for module in model.modules() if getattr(module, "track_running_stats", False)]
    for module in tracking:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True  # type: ignore[assignment]


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Running statistics of every BatchNorm anew: the mean, over the batches (n, C, H, W), of each batch's.

    All else is in eval mode meanwhile, and the weights stay; the model comes back in train mode, its momenta as before.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # each batch weighs the same
        norm.train()
    for x in batches:
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train()

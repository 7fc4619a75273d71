"""Attacks that see decisions alone, by foolbox: where they start, and how they are run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from lat.attacks.draws import Draws
from lat.attacks.foreign import batch_seed, undisturbed_settings
from lat.attacks.protocol import SettingError, Threat, right
from lat.types import Images, Labels, Verdicts


def check_box(threat: Threat) -> None:
    """Raises SettingError unless the box is (0, 1), to which foolbox clips whatever it is told."""
    if threat.box != (0.0, 1.0):
        raise SettingError(f"box: {threat.box!r} must be (0.0, 1.0); foolbox clips to that one")


def starting_points(model: nn.Module, x: Images, y: Labels) -> tuple[Images, Verdicts]:
    """For each example the nearest image of the batch that the model does not give its class, and whether there is one.

    Nearest in L2. Uniform noise, foolbox's own start, is of one class for most networks: images of that class, and with
    them their whole batch, could not be started.
    """
    with torch.no_grad():
        elsewhere = model(x).argmax(1)[None, :] != y[:, None]
    flat = x.flatten(1)
    distance = torch.cdist(flat, flat).masked_fill(~elsewhere, torch.inf)
    return x[distance.argmin(1)], elsewhere.any(1)


def by_foolbox(
    attack: str, settings: Mapping[str, object], batch: int, model: nn.Module, x: Images, y: Labels, draws: Draws
) -> Images:
    """What foolbox's attack of that name finds for each example: misclassified, and as near as it comes.

    `batch` images share a generator and their starting points. x itself where the model is wrong already, or where no
    image of the batch is of another class.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its import uses a name that SciPy 2 drops
        import foolbox  # takes a second, which attacks of other kinds need not wait
        from foolbox.models.pytorch import PyTorchModel

    found = x.clone()
    seen = PyTorchModel(model, bounds=(0, 1), device=x.device)
    for first in range(0, len(x), batch):
        images, labels = x[first : first + batch], y[first : first + batch]
        starts, reachable = starting_points(model, images, labels)
        with torch.no_grad():
            rows = torch.nonzero(reachable & right(model(images), labels)).flatten()
        if not len(rows):
            continue
        with undisturbed_settings(batch_seed(draws, first), silent="foolbox"):
            wanted = foolbox.criteria.Misclassification(labels[rows])
            run = getattr(foolbox.attacks, attack)(**settings).run
            found[first + rows] = run(seen, images[rows], wanted, starting_points=starts[rows])
    return found

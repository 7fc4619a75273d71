"""Attacks that see decisions alone, by foolbox: where they start, and how they are run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from lat import norms
from lat.attacks.draws import Draws
from lat.attacks.foreign import batch_seed, undisturbed_settings
from lat.attacks.protocol import SettingError, Threat, right
from lat.types import Images, Labels, Verdicts

NOISE = 20


def check_box(threat: Threat) -> None:
    """Raises SettingError unless the box is (0, 1), to which foolbox clips whatever it is told."""
    if threat.box != (0.0, 1.0):
        raise SettingError(f"box: {threat.box!r} must be (0.0, 1.0); foolbox clips to that one")


def starting_points(model: nn.Module, x: Images, y: Labels, draws: Draws) -> tuple[Images, Verdicts]:
    """For each example the nearest in L2 of some images that the model does not give its class, and whether one is.

    They are black, white, the example's negative and NOISE draws of uniform noise. Noise alone, foolbox's own start, is
    of one class for most networks, and the images of that class could not be started.
    """
    start, distance = x.clone(), torch.full_like(x.flatten(1)[:, 0], torch.inf)
    with torch.no_grad():
        for k in range(3 + NOISE):
            point = draws.uniform(x) if k >= 3 else (torch.zeros_like(x), torch.ones_like(x), 1 - x)[k]
            length = norms.size(point - x, "l2")
            closer = (model(point).argmax(1) != y) & (length < distance)
            start[closer], distance[closer] = point[closer], length[closer]
    return start, distance < torch.inf


def by_foolbox(
    attack: str, settings: Mapping[str, object], batch: int, model: nn.Module, x: Images, y: Labels, draws: Draws
) -> Images:
    """What foolbox's attack of that name finds for each example: misclassified, and as near as it comes.

    `batch` images share a generator. x itself where the model is wrong already, or where it has no starting point.
    NOISE uniform draws an example, and one more of each batch's first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its import uses a name that SciPy 2 drops
        import foolbox  # takes a second, which attacks of other kinds need not wait
        from foolbox.models.pytorch import PyTorchModel

    found = x.clone()
    seen = PyTorchModel(model, bounds=(0, 1), device=x.device)
    for first in range(0, len(x), batch):
        images, labels = x[first : first + batch], y[first : first + batch]
        streams = draws.rows(range(first, first + len(images)))
        starts, reachable = starting_points(model, images, labels, streams)
        with torch.no_grad():
            rows = torch.nonzero(reachable & right(model(images), labels)).flatten()
        if not len(rows):
            continue
        with undisturbed_settings(batch_seed(draws, first), silent="foolbox"):
            wanted = foolbox.criteria.Misclassification(labels[rows])
            run = getattr(foolbox.attacks, attack)(**settings).run
            found[first + rows] = run(seen, images[rows], wanted, starting_points=starts[rows])
    return found

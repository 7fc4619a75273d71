"""AutoAttack, standard version, by its authors' package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyautoattack
import torch
from torch import nn

from lat.attacks.ascent import check_count
from lat.attacks.draws import Draws
from lat.attacks.foreign import batch_seed, undisturbed_settings
from lat.attacks.protocol import SettingError, Threat
from lat.types import Images, Labels

MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square")
"""APGD on the cross-entropy, targeted APGD on the DLR loss, targeted FAB, Square with 5,000 queries, in this order."""
NORMS = {"linf": "Linf", "l2": "L2"}
CLASSES = 10  # the targeted attacks of the standard version aim at the nine most likely wrong classes


@dataclass(frozen=True)
class AutoAttack:
    """The attacks of MEMBERS named in `attacks`, one after the other on what is still right (Croce and Hein 2020).

    Steps, restarts, queries and target classes are those of the standard version of pyautoattack, whose point is that
    nobody chooses them. It draws from one generator for all images of a batch, so the verdict of an image depends on
    the others: `batch` images are attacked together, and batches of another size give other draws. Where the images of
    an evaluation are cut into multiples of `batch`, its verdicts do not depend on that cut.

    It attacks float32 images of shape (n, channels, height, width) in [0, 1], with at least CLASSES classes.
    """

    threat: Threat
    examples: int | None
    attacks: Sequence[str]
    batch: int

    def __post_init__(self) -> None:
        _ = self.threat.ball
        if self.threat.box != (0.0, 1.0):
            raise SettingError(f"box: {self.threat.box!r} must be (0.0, 1.0); pyautoattack clips to that one")
        names = self.attacks
        known = isinstance(names, list | tuple) and all(name in MEMBERS and names.count(name) == 1 for name in names)
        if not names or not known:
            raise SettingError(f"attacks: {names!r} must be a list, each name once, of {', '.join(MEMBERS)}")
        check_count("batch", self.batch)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """For each example the point that broke it, or else x. One uniform draw of each batch's first example seeds it.

        torch's global generators come back as they were. Raises ValueError for images or scores of another shape.
        """
        if x.dim() != 4 or x.dtype != torch.float32:
            raise ValueError(
                f"x: {x.dtype} {tuple(x.shape)}; AutoAttack needs float32 (n, channels, height, width); reshape it"
            )
        if self.threat.ball == 0:
            return x
        found = []
        for first in range(0, len(x), self.batch):
            rows = slice(first, first + self.batch)
            found.append(self._batch(model, x[rows], y[rows], batch_seed(draws, first)))
        return torch.cat(found)

    def _batch(self, model: nn.Module, x: Images, y: Labels, seed: int) -> Images:
        if (classes := model(x[:1]).shape[1]) < CLASSES:
            raise ValueError(f"scores: {classes} classes; the standard version of AutoAttack needs at least {CLASSES}")
        with undisturbed_settings(seed, silent="auto-attack"):  # it would log zero gradients at every restart
            ensemble = pyautoattack.AutoAttack(
                model,
                norm=NORMS[self.threat.norm],
                eps=self.threat.ball,
                seed=seed,
                version="standard",
                device=x.device,
            )
            ensemble.attacks_to_run = [name for name in MEMBERS if name in self.attacks]
            adversarial, _ = ensemble.run_standard_evaluation(x, y, batch_size=len(x))
        return adversarial

"""Projected gradient descent from several random points of the ball, on a loss that is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lat.attacks.ascent import ascend, check_choice, check_count, check_positive, start_at
from lat.attacks.draws import Draws
from lat.attacks.losses import Exact, Loss, cross_entropy, margin
from lat.attacks.protocol import Threat, broken
from lat.types import Images, Labels

LOSSES: Mapping[str, tuple[Loss, str]] = {"cross_entropy": (cross_entropy, "last"), "margin": (margin, "highest")}
"""Loss by name, and which point of an ascent that breaks nothing is kept: as `PGD` and as `CW` do it."""


@dataclass(frozen=True)
class PGDRestarts:
    """`restarts` ascents, each from its own uniform point of the ball; an example that breaks takes part in no more.

    With one restart this is `PGD` on the cross-entropy, and `CW` on the margin, from a uniform start. An example is
    broken if any restart breaks it, so more restarts never break fewer.
    """

    threat: Threat
    examples: int | None
    steps: int
    relative_step: float
    restarts: int
    loss: str

    def __post_init__(self) -> None:
        _ = self.threat.ball
        check_count("steps", self.steps)
        check_positive("relative_step", self.relative_step)
        check_count("restarts", self.restarts)
        check_choice("loss", self.loss, LOSSES)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """For each example the point that broke it, or else that of the largest loss; x where it was wrong already.

        One uniform draw an example for each restart that it takes part in.
        """
        loss, keep = LOSSES[self.loss]
        step = self.relative_step * self.threat.ball
        found = x.clone()
        highest = torch.full_like(x.flatten(1)[:, 0], -torch.inf)
        with torch.no_grad():
            standing = torch.nonzero(~broken(model, model(x), y)).flatten()
        for _ in range(self.restarts):
            if not len(standing):
                break
            images, labels = x[standing], y[standing]
            start = start_at(images, self.threat, "uniform", draws.rows(standing.tolist()))
            at = Exact(model, labels, loss)
            points = ascend(at, images, self.threat, steps=self.steps, step=step, start=start, keep=keep)
            with torch.no_grad():
                scores = model(points)
            over, losses = broken(model, scores, labels), loss(scores, labels)
            kept = over | ~(losses <= highest[standing])  # NaN is kept
            found[standing[kept]] = points[kept]
            highest[standing] = highest[standing].fmax(losses)
            standing = standing[~over]
        return found

"""HopSkipJump: gradients estimated from decisions alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lat import norms
from lat.attacks.ascent import check_count
from lat.attacks.decisions import by_foolbox, check_box
from lat.attacks.draws import Draws
from lat.attacks.protocol import SettingError, Threat
from lat.types import Images, Labels


@dataclass(frozen=True)
class HopSkipJump:
    """Chen et al. 2020, by foolbox: `steps` times an estimated gradient at the boundary, a step, a bisection back.

    It looks for the smallest distance, and an example is broken where that is at most the radius. The estimate of step
    t looks along directions * sqrt(t) random ones. Its draws belong to a batch, as those of `AutoAttack` do: `batch`
    images are attacked together, all their directions in memory at once.

    In L-infinity alone: foolbox divides the L2 estimates of a batch by their common length, so that steps are shorter
    the larger the batch.
    """

    threat: Threat
    examples: int | None
    steps: int
    directions: int
    batch: int

    def __post_init__(self) -> None:
        _ = self.threat.ball
        if self.threat.norm != "linf":
            raise SettingError(f"norm: {self.threat.norm!r}: hopskipjump needs linf; foolbox scales L2 steps by batch")
        check_box(self.threat)
        check_count("steps", self.steps)
        check_count("directions", self.directions)
        check_count("batch", self.batch)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """For each example the nearest misclassified point found, or else x where that lies outside the ball.

        Draws for the starting points, and one of each batch's first example that seeds it.
        """
        settings = {
            "steps": self.steps,
            "initial_gradient_eval_steps": self.directions,
            "constraint": self.threat.norm,
        }
        found = by_foolbox("HopSkipJumpAttack", settings, self.batch, model, x, y, draws)
        inside = norms.size(found - x, self.threat.norm) <= self.threat.ball
        return torch.where(inside.view(-1, *[1] * (x.dim() - 1)), found, x)

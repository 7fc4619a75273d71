"""Momentum iterated fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lat import norms
from lat.attacks.ascent import check_count, check_positive
from lat.attacks.draws import Draws
from lat.attacks.losses import cross_entropy, oracle
from lat.attacks.protocol import Threat
from lat.types import Images, Labels


@dataclass(frozen=True)
class MIFGSM:
    """`steps` steps of radius / steps along g <- decay * g + gradient / ||gradient||_1 (Dong et al. 2018, section 3.1).

    With decay = 0 this is IFGSM: dividing a gradient by its length turns no step.
    """

    threat: Threat
    examples: int | None
    steps: int
    decay: float

    def __post_init__(self) -> None:
        _ = self.threat.ball
        check_count("steps", self.steps)
        check_positive("decay", self.decay, zero=True)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """The last point of the ascent. Draws nothing. A gradient that is zero or not a number adds nothing."""
        at = oracle(model, y, cross_entropy)
        inside = norms.projector(x, self.threat.ball, self.threat.norm, self.threat.box)
        step = self.threat.ball / self.steps
        point, momentum = x, torch.zeros_like(x)
        for _ in range(self.steps):
            gradient = at(point)[1].nan_to_num_(nan=0.0)
            length = norms.size(gradient, "l1").clamp_(min=torch.finfo(x.dtype).tiny)
            gradient = gradient.div_(length.view(-1, *[1] * (x.dim() - 1)))
            momentum = momentum.mul_(self.decay).add_(gradient)
            point = inside(norms.steepest_direction(momentum, self.threat.norm).mul_(step).add_(point))
        return point

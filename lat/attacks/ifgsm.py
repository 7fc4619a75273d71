"""Iterated fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lat.attacks.ascent import ascend, check_count
from lat.attacks.draws import Draws
from lat.attacks.losses import Exact, cross_entropy
from lat.attacks.protocol import Threat
from lat.types import Images, Labels


@dataclass(frozen=True)
class IFGSM:
    """`steps` steps of radius / steps from the clean image (Kurakin et al. 2017, section 2.2)."""

    threat: Threat
    examples: int | None
    steps: int

    def __post_init__(self) -> None:
        _ = self.threat.ball
        check_count("steps", self.steps)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """For each example the first point of the ascent that breaks it, or else the last. Draws nothing."""
        step = self.threat.ball / self.steps
        return ascend(Exact(model, y, cross_entropy), x, self.threat, steps=self.steps, step=step)

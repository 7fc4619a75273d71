"""Projected gradient descent: the ascent on the cross-entropy from a random point of the ball."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lat.attacks.ascent import check_count, check_positive, check_start, search
from lat.attacks.draws import Draws
from lat.attacks.losses import Exact, cross_entropy
from lat.attacks.protocol import Threat
from lat.types import Images, Labels


@dataclass(frozen=True)
class PGD:
    """`steps` steps of relative_step * radius (Madry et al. 2018, section 2.1)."""

    threat: Threat
    examples: int | None
    steps: int
    relative_step: float
    start: str

    def __post_init__(self) -> None:
        _ = self.threat.ball
        check_count("steps", self.steps)
        check_positive("relative_step", self.relative_step)
        check_start(self.start)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """For each example the first point of the ascent that breaks it, or else the last.

        One uniform draw an example where the start is random.
        """
        return search(Exact(model, y, cross_entropy), x, self, draws)

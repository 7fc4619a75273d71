"""Fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lat.attacks.ascent import ascend
from lat.attacks.draws import Draws
from lat.attacks.losses import Exact, cross_entropy
from lat.attacks.protocol import Threat
from lat.types import Images, Labels


@dataclass(frozen=True)
class FGSM:
    """One steepest step to the edge of the ball on the cross-entropy (Goodfellow et al. 2015, section 4)."""

    threat: Threat
    examples: int | None

    def __post_init__(self) -> None:
        _ = self.threat.ball

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """x moved by radius * sign of the gradient (L2: along the gradient), clipped to the box; x where it was wrong.

        Draws nothing.
        """
        return ascend(Exact(model, y, cross_entropy), x, self.threat, steps=1, step=self.threat.ball)

"""Momentum iterated fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lat import norms
from lat.attacks.ascent import ascend, check_count, check_positive
from lat.attacks.draws import Draws
from lat.attacks.losses import Exact, Oracle, Seen, cross_entropy
from lat.attacks.protocol import Threat
from lat.types import Images, Labels


class Momentum:
    """An oracle whose gradients add up from step to step: g <- decay * g + gradient / ||gradient||_1, from g = 0.

    A gradient that is zero or not a number adds nothing.
    """

    def __init__(self, inner: Oracle, g: Images, decay: float) -> None:
        self._inner, self._g, self._decay = inner, g, decay

    def __call__(self, point: Images) -> Seen:
        loss, gradient, wrong = self._inner(point)
        gradient = gradient.nan_to_num_(nan=0.0)
        length = norms.size(gradient, "l1").clamp_(min=torch.finfo(gradient.dtype).tiny)
        gradient = gradient.div_(length.view(-1, *[1] * (gradient.dim() - 1)))
        self._g = self._g.mul_(self._decay).add_(gradient)
        return Seen(loss, self._g, wrong)

    def rows(self, rows: Tensor) -> Momentum:
        return Momentum(self._inner.rows(rows), self._g[rows], self._decay)


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
        """For each example the first point of the ascent that breaks it, or else the last. Draws nothing."""
        at = Momentum(Exact(model, y, cross_entropy), torch.zeros_like(x), self.decay)
        return ascend(at, x, self.threat, steps=self.steps, step=self.threat.ball / self.steps)

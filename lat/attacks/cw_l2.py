"""Carlini and Wagner's L2 attack: the smallest distance at which an image is misclassified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lat import norms
from lat.attacks.ascent import check_count, check_positive
from lat.attacks.draws import Draws
from lat.attacks.losses import margin
from lat.attacks.protocol import SettingError, Threat
from lat.types import Images, Labels, PerExample

INSIDE = 0.999999  # the box is mapped to (-1, 1) before atanh; its corners are pulled in by this factor


@dataclass(frozen=True)
class CWL2:
    """min over w of ||x'(w) - x||_2^2 + c * max(confidence - margin(x'(w)), 0), x'(w) = box of tanh(w).

    Carlini and Wagner 2017, sections V-B to VI-A: Adam with learning rate `lr` for `steps` iterations, from the image,
    for each of `search_steps` constants c. The first is `initial_constant`; c is bisected once it has succeeded, and
    multiplied by ten until then. Every example has its own c.
    """

    MINIMAL: ClassVar[bool] = True  # looks for the smallest distance: there is no radius to be given

    threat: Threat
    examples: int | None
    search_steps: int
    steps: int
    lr: float
    initial_constant: float
    confidence: float

    def __post_init__(self) -> None:
        if self.threat.norm != "l2" or self.threat.radius is not None:
            raise SettingError(f"norm: {self.threat.norm!r}, radius {self.threat.radius!r}: cw_l2 needs l2 and no radius")
        check_count("search_steps", self.search_steps)
        check_count("steps", self.steps)
        check_positive("lr", self.lr)
        check_positive("initial_constant", self.initial_constant)
        check_positive("confidence", self.confidence, zero=True)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """The closest misclassified point seen of each example, x itself where there is none. Draws nothing.

        An image that is misclassified as it is comes back unchanged: its distance is 0.
        """
        closest = x.clone()
        with torch.no_grad():
            distance = torch.where(margin(model(x), y) > 0, 0.0, torch.inf).to(x.dtype)
        lower = torch.zeros_like(distance)
        upper = torch.full_like(distance, torch.inf)
        constant = torch.full_like(distance, self.initial_constant)
        for _ in range(self.search_steps):
            succeeded = self._descend(model, x, y, constant, closest, distance)
            upper = torch.where(succeeded, torch.minimum(upper, constant), upper)
            lower = torch.where(succeeded, lower, torch.maximum(lower, constant))
            constant = torch.where(upper.isinf(), 10 * constant, (lower + upper) / 2)
        return closest

    def _descend(
        self, model: nn.Module, x: Images, y: Labels, constant: PerExample, closest: Images, distance: PerExample
    ) -> Tensor:
        """One run of Adam; updates `closest` and `distance` in place and says which examples it misclassified."""
        low, high = self.threat.box
        w = torch.atanh(((x - low) / (high - low) * 2 - 1) * INSIDE).requires_grad_()
        optimizer = torch.optim.Adam([w], lr=self.lr)
        succeeded = torch.zeros_like(y, dtype=torch.bool)
        for _ in range(self.steps):
            with torch.enable_grad():
                candidate = low + (high - low) * (torch.tanh(w) + 1) / 2
                margins = margin(model(candidate), y)
                penalty = constant * (self.confidence - margins).clamp(min=0)
                (w.grad,) = torch.autograd.grad((candidate - x).square().sum() + penalty.sum(), w)
            optimizer.step()
            with torch.no_grad():
                candidate = candidate.detach().clamp_(low, high)
                found = (margins > 0) & (margins >= self.confidence)
                succeeded |= found
                length = norms.size(candidate - x, "l2")
                closer = found & (length < distance)
                closest[closer] = candidate[closer]
                distance[closer] = length[closer]
        return succeeded

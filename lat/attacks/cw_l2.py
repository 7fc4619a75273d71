"""Carlini and Wagner's L2 attack: the smallest distance at which an image is misclassified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lat import norms
from lat.attacks.ascent import check_count, check_positive
from lat.attacks.draws import Draws
from lat.attacks.losses import Exact, margin
from lat.attacks.protocol import SettingError, Threat, right
from lat.types import Images, Labels, PerExample


@dataclass(frozen=True)
class CWL2:
    """min over w of ||x'(w) - x||_2^2 + c * max(confidence - margin(x'(w)), 0), x'(w) = box of tanh(w).

    Carlini and Wagner 2017, sections V-B to VI-A: Adam with learning rate `lr` for `steps` iterations, from the image,
    for each of `search_steps` constants c. The first is `initial_constant`; c is bisected once it has succeeded, and
    multiplied by ten until then. Every example has its own c.

    atanh of a pixel at the edge of the box is infinite, and near it tanh is so flat that Adam hardly moves the pixel:
    the start is shrunk towards the middle of the box by `shrink` < 1. Distances are measured from the image itself.
    """

    MINIMAL: ClassVar[bool] = True  # looks for the smallest distance: there is no radius to be given

    threat: Threat
    examples: int | None
    search_steps: int
    steps: int
    lr: float
    shrink: float
    initial_constant: float
    confidence: float

    def __post_init__(self) -> None:
        if self.threat.norm != "l2" or self.threat.radius is not None:
            raise SettingError(
                f"norm: {self.threat.norm!r}, radius {self.threat.radius!r}: cw_l2 needs l2 and no radius"
            )
        check_count("search_steps", self.search_steps)
        check_count("steps", self.steps)
        check_positive("lr", self.lr)
        check_positive("shrink", self.shrink)
        if self.shrink >= 1:
            raise SettingError(f"shrink: {self.shrink!r} must be below 1; atanh is infinite at the edge of the box")
        check_positive("initial_constant", self.initial_constant)
        check_positive("confidence", self.confidence, zero=True)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """The closest misclassified point seen of each example, x itself where there is none. Draws nothing.

        An image that is misclassified as it is comes back unchanged: its distance is 0.
        """
        found = x.clone()
        with torch.no_grad():
            standing = torch.nonzero(right(model(x), y)).flatten()
        if len(standing):
            found[standing] = self._search(model, x[standing], y[standing])
        return found

    def _search(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """The closest misclassified point of examples that the model has right."""
        closest, distance = x.clone(), torch.full_like(x.flatten(1)[:, 0], torch.inf)
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
        half = (high - low) / 2
        at = Exact(model, y, margin)
        w = torch.atanh(((x - low) / half - 1) * self.shrink)
        optimizer = torch.optim.Adam([w], lr=self.lr)
        succeeded = torch.zeros_like(y, dtype=torch.bool)
        for _ in range(self.steps):
            t = torch.tanh(w)
            candidate = (low + half * (t + 1)).clamp_(low, high)
            shift = candidate - x
            margins, gradient, _ = at(candidate)
            found = (margins > 0) & (margins >= self.confidence)
            succeeded |= found
            length = norms.size(shift, "l2")
            closer = found & (length < distance)
            if bool(closer.any()):
                closest[closer] = candidate[closer]
                distance[closer] = length[closer]
            pull = torch.where(margins < self.confidence, constant, 0.0)  # the penalty's slope, 0 once it is met
            rows = pull.view(-1, *[1] * (x.dim() - 1))
            slope = shift.mul_(2).sub_(gradient.mul_(rows))  # by x'; the chain rule through x'(w) follows
            w.grad = slope.mul_(t.square_().neg_().add_(1)).mul_(half)
            optimizer.step()
        return succeeded

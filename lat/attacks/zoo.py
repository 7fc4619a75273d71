"""Zeroth-order optimisation: Carlini and Wagner's L2 attack without gradients, coordinate by coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lat import norms
from lat.attacks.ascent import check_count, check_positive
from lat.attacks.draws import Draws
from lat.attacks.losses import margin
from lat.attacks.protocol import SettingError, Threat, right
from lat.types import Images, Labels, PerExample

ROWS = 4096  # images in one forward pass


@dataclass(frozen=True)
class ZOO:
    """min over x' in the box of ||x' - x||_2^2 + c * max(-margin(x'), 0), seeing scores alone.

    Chen et al. 2017, algorithms 1 and 2 (ZOO-ADAM): in each of `steps` iterations `coordinates` random elements of an
    image have their slope estimated, as (f(x' + h e_i) - f(x' - h e_i)) / 2h with h = `difference`, and take a step of
    Adam with learning rate `lr`. The first of `search_steps` constants c is `initial_constant`; c is bisected once it
    has succeeded, and multiplied by ten until then. Every example has its own c. The margin of the scores is that of
    the log-probabilities, which the paper uses.
    """

    MINIMAL: ClassVar[bool] = True  # looks for the smallest distance: there is no radius to be given

    threat: Threat
    examples: int | None
    search_steps: int
    steps: int
    coordinates: int
    difference: float
    lr: float
    initial_constant: float

    def __post_init__(self) -> None:
        if self.threat.norm != "l2" or self.threat.radius is not None:
            raise SettingError(f"norm: {self.threat.norm!r}, radius {self.threat.radius!r}: zoo needs l2 and no radius")
        for key in ("search_steps", "steps", "coordinates"):
            check_count(key, getattr(self, key))
        for key in ("difference", "lr", "initial_constant"):
            check_positive(key, getattr(self, key))

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """The closest misclassified point seen of each example, x itself where there is none.

        An image that is misclassified as it is comes back unchanged: its distance is 0. One uniform draw an iteration
        and coordinate for each other one.
        """
        found = x.clone()
        with torch.no_grad():
            standing = torch.nonzero(right(model(x), y)).flatten()
            if len(standing):
                found[standing] = self._search(model, x[standing], y[standing], draws.rows(standing.tolist()))
        return found

    def _search(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """The closest misclassified point of examples that the model has right."""
        closest, distance = x.clone(), torch.full_like(x.flatten(1)[:, 0], torch.inf)
        lower, upper = torch.zeros_like(distance), torch.full_like(distance, torch.inf)
        constant = torch.full_like(distance, self.initial_constant)
        for _ in range(self.search_steps):
            succeeded = self._descend(model, x, y, constant, draws, closest, distance)
            upper = torch.where(succeeded, torch.minimum(upper, constant), upper)
            lower = torch.where(succeeded, lower, torch.maximum(lower, constant))
            constant = torch.where(upper.isinf(), 10 * constant, (lower + upper) / 2)
        return closest

    def _descend(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        constant: PerExample,
        draws: Draws,
        closest: Images,
        distance: PerExample,
    ) -> Tensor:
        """One run of Adam; updates `closest` and `distance` in place and says which examples it misclassified."""
        flat = x.flatten(1)
        point = flat.clone()
        first, second, count = (torch.zeros_like(point) for _ in range(3))
        succeeded = torch.zeros_like(y, dtype=torch.bool)
        few = flat[:, :1].expand(-1, self.coordinates)
        for _ in range(self.steps):
            chosen = draws.uniform(few).mul_(flat.shape[1]).long()  # one chosen twice takes one step, in both places
            slope = constant[:, None] * self._slopes(model, x, y, point, chosen)
            slope += 2 * (point - flat).gather(1, chosen)
            t = count.gather(1, chosen) + 1
            m = 0.9 * first.gather(1, chosen) + 0.1 * slope
            v = 0.999 * second.gather(1, chosen) + 0.001 * slope.square()
            step = self.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            moved = (point.gather(1, chosen) - step).clamp(*self.threat.box)
            for state, value in ((first, m), (second, v), (count, t), (point, moved)):
                state.scatter_(1, chosen, value)
            shaped = point.view_as(x)
            wrong = ~right(model(shaped), y)
            length = norms.size(shaped - x, "l2")
            closer = wrong & (length < distance)
            closest[closer], distance[closer] = shaped[closer], length[closer]
            succeeded |= wrong
        return succeeded

    def _slopes(self, model: nn.Module, x: Images, y: Labels, point: Tensor, chosen: Tensor) -> Tensor:
        """Slopes of max(-margin, 0) along the chosen coordinates, (n, coordinates), by central differences."""
        found = torch.empty_like(point[:, :1].expand(chosen.shape))
        k = chosen.shape[1]
        together = max(1, ROWS // (2 * k))
        for begin in range(0, len(point), together):
            rows = slice(begin, begin + together)
            n = len(point[rows])
            moved = point[rows][:, None, None].repeat(1, 2, k, 1)
            index = chosen[rows][:, None, :, None].expand(-1, 2, -1, -1)
            sides = torch.tensor([self.difference, -self.difference], dtype=point.dtype, device=point.device)
            moved.scatter_add_(3, index, sides[None, :, None, None].expand(n, 2, k, 1))
            labels = y[rows].repeat_interleave(2 * k)
            penalty = (-margin(model(moved.view(-1, *x.shape[1:])), labels)).clamp(min=0).view(n, 2, k)
            found[rows] = (penalty[:, 0] - penalty[:, 1]) / (2 * self.difference)
        return found

"""Szegedy et al.'s box-constrained L-BFGS: the first search for the smallest distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lat import norms
from lat.attacks.ascent import check_count, check_positive
from lat.attacks.draws import Draws
from lat.attacks.losses import Exact, cross_entropy
from lat.attacks.protocol import SettingError, Threat, right
from lat.types import Images, Labels, PerExample, Scores


@dataclass(frozen=True)
class LBFGS:
    """min over x' in the box of ||x' - x||_2^2 + c * CE(x', t), t the most likely wrong class of x.

    Szegedy et al. 2014, section 4.1 (there c stands before the distance). At most `steps` iterations of SciPy's
    L-BFGS-B from the image, one image after the other, for each of `search_steps` constants c. The first is
    `initial_constant`; c is bisected once it has succeeded, and multiplied by ten until then.
    """

    MINIMAL: ClassVar[bool] = True  # looks for the smallest distance: there is no radius to be given

    threat: Threat
    examples: int | None
    search_steps: int
    steps: int
    initial_constant: float

    def __post_init__(self) -> None:
        if self.threat.norm != "l2" or self.threat.radius is not None:
            raise SettingError(
                f"norm: {self.threat.norm!r}, radius {self.threat.radius!r}: lbfgs needs l2 and no radius"
            )
        check_count("search_steps", self.search_steps)
        check_count("steps", self.steps)
        check_positive("initial_constant", self.initial_constant)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """The closest misclassified point seen of each example, x itself where there is none. Draws nothing.

        An image that is misclassified as it is comes back unchanged: its distance is 0.
        """
        with torch.no_grad():
            scores = model(x)
        target = scores.scatter(1, y[:, None], -torch.inf).argmax(1)
        closest = x.clone()
        for row in torch.nonzero(right(scores, y)).flatten().tolist():
            one = slice(row, row + 1)
            closest[one] = self._search(model, x[one], y[one], target[one])
        return closest

    def _search(self, model: nn.Module, image: Images, label: Labels, target: Labels) -> Images:
        """The closest misclassified point of one image (1, ...)."""
        closest, distance = image, math.inf
        lower, upper, constant = 0.0, math.inf, self.initial_constant
        for _ in range(self.search_steps):
            found = self._descend(model, image, label, target, constant)
            if found is None:
                lower = constant
            else:
                upper = constant
                if (length := float(norms.size(found - image, "l2"))) < distance:
                    closest, distance = found, length
            constant = 10 * constant if math.isinf(upper) else (lower + upper) / 2
        return closest

    def _descend(
        self, model: nn.Module, image: Images, label: Labels, target: Labels, constant: float
    ) -> Images | None:
        """The closest misclassified point that one run of L-BFGS-B has met; None where it has met none."""
        import scipy.optimize  # not above: it takes a sixth of the time in which a job's code is imported

        closest, distance = None, math.inf

        def towards(scores: Scores, _: Labels) -> PerExample:
            return cross_entropy(scores, target)

        at = Exact(model, label, towards)

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            nonlocal closest, distance
            point = torch.from_numpy(flat).to(image).view_as(image).clamp(*self.threat.box)
            loss, gradient, wrong = at(point)
            shift = point - image
            if bool(wrong) and (length := float(norms.size(shift, "l2"))) < distance:
                closest, distance = point, length
            slope = shift.mul_(2).add_(gradient, alpha=constant)
            squared = float((point - image).double().square().sum())
            return squared + constant * float(loss), slope.flatten().double().cpu().numpy()

        scipy.optimize.minimize(
            objective,
            image.flatten().double().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(*self.threat.box),
            options={"maxiter": self.steps},
        )
        return closest

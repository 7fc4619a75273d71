"""Carlini and Wagner's margin loss, ascended inside the ball."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lat.attacks.ascent import check_count, check_positive, check_start, search
from lat.attacks.draws import Draws
from lat.attacks.losses import Exact, margin
from lat.attacks.protocol import Threat
from lat.types import Images, Labels


@dataclass(frozen=True)
class CW:
    """PGD on the margin max_{j != y} z_j - z_y in place of the cross-entropy, which saturates on confident networks.

    "C&W at radius 0.1" is read so (Carlini and Wagner 2017, f_6, with the constraint of Madry et al. 2018); the search
    for the smallest distance is `CWL2`. The margin goes up and down on the way, so the best point seen is kept.
    """

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
        """For each example the first point of the ascent that breaks it, or else that of the largest margin.

        One uniform draw an example where the start is random.
        """
        return search(Exact(model, y, margin), x, self, draws, keep="highest")

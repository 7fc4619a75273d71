"""Expectation over transformation: PGD on a gradient averaged over input noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lat.attacks.ascent import check_count, check_positive, check_start, search
from lat.attacks.draws import Draws
from lat.attacks.losses import Exact, Smoothed, cross_entropy
from lat.attacks.protocol import Threat
from lat.types import Images, Labels


@dataclass(frozen=True)
class EoT:
    """PGD whose gradient is the mean over `noise_draws` fresh draws of Gaussian input noise (Athalye et al. 2018).

    The noise has deviation relative_noise * radius. With relative_noise = 0 this is PGD: a network that is
    deterministic at test time has no randomness of its own to average over.
    """

    threat: Threat
    examples: int | None
    steps: int
    relative_step: float
    start: str
    noise_draws: int
    relative_noise: float

    def __post_init__(self) -> None:
        _ = self.threat.ball
        check_count("steps", self.steps)
        check_positive("relative_step", self.relative_step)
        check_start(self.start)
        check_count("noise_draws", self.noise_draws)
        check_positive("relative_noise", self.relative_noise, zero=True)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """For each example the first point of the ascent that breaks it, or else the last.

        noise_draws normal draws an example and step, after the start's, and none once it has left the batch.
        """
        deviation = self.relative_noise * self.threat.ball
        mean = Smoothed(Exact(model, y, cross_entropy), draws, deviation, self.noise_draws)
        return search(mean, x, self, draws)

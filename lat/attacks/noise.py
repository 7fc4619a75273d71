"""Random noise: what an adversary reaches without looking at the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lat import norms
from lat.attacks.ascent import check_choice, check_count
from lat.attacks.draws import Draws
from lat.attacks.protocol import Threat, broken
from lat.types import Images, Labels


def _uniform(like: Images, threat: Threat, draws: Draws) -> Images:
    """A point of the ball, uniform in volume."""
    return norms.sample_ball(like, threat.ball, threat.norm, draws)


def _sign(like: Images, threat: Threat, draws: Draws) -> Images:
    """A point of the edge of the ball that moves every element by the same amount, up or down with equal chance."""
    signs = draws.uniform(like).mul_(2).floor_().mul_(2).sub_(1)
    return norms.steepest_direction(signs, threat.norm).mul_(threat.ball)


DISTRIBUTIONS: Mapping[str, Callable[[Images, Threat, Draws], Tensor]] = {"uniform": _uniform, "sign": _sign}


@dataclass(frozen=True)
class Noise:
    """`noise_draws` random points of the ball an example, added one by one until one of them breaks it.

    "uniform" draws from the whole ball, "sign" from the points of its edge that move every pixel by the same amount. An
    example that noise alone breaks shows that gradients mislead the other attacks (Carlini et al. 2019).
    """

    threat: Threat
    examples: int | None
    noise_draws: int
    distribution: str

    def __post_init__(self) -> None:
        _ = self.threat.ball
        check_count("noise_draws", self.noise_draws)
        check_choice("distribution", self.distribution, DISTRIBUTIONS)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """For each example the first point that breaks it, or else the last one drawn; x where it was wrong already.

        At most `noise_draws` draws an example, and none after the one that breaks it.
        """
        draw = DISTRIBUTIONS[self.distribution]
        found = x.clone()
        with torch.no_grad():
            standing = torch.nonzero(~broken(model, model(x), y)).flatten()
            for _ in range(self.noise_draws):
                if not len(standing):
                    break
                images = x[standing]
                shift = draw(images, self.threat, draws.rows(standing.tolist()))
                points = norms.project(images + shift, images, self.threat.ball, self.threat.norm, self.threat.box)
                found[standing] = points
                standing = standing[~broken(model, model(points), y[standing])]
        return found

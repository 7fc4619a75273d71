"""The boundary attack: a random walk along the boundary of a class, towards the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lat.attacks.ascent import check_count, check_positive
from lat.attacks.decisions import by_foolbox, check_box
from lat.attacks.draws import Draws
from lat.attacks.protocol import SettingError, Threat
from lat.types import Images, Labels


@dataclass(frozen=True)
class Boundary:
    """Brendel et al. 2018, by foolbox: the smallest L2 distance that `steps` random steps find.

    A step goes round the image by `spherical_step` and towards it by `source_step`, both in distances to it and adapted
    on the way. Its draws belong to a batch, as those of `AutoAttack` do: `batch` images are attacked together.
    """

    MINIMAL: ClassVar[bool] = True  # looks for the smallest distance: there is no radius to be given

    threat: Threat
    examples: int | None
    steps: int
    spherical_step: float
    source_step: float
    batch: int

    def __post_init__(self) -> None:
        if self.threat.norm != "l2" or self.threat.radius is not None:
            raise SettingError(
                f"norm: {self.threat.norm!r}, radius {self.threat.radius!r}: boundary needs l2 and no radius"
            )
        check_box(self.threat)
        check_count("steps", self.steps)
        check_positive("spherical_step", self.spherical_step)
        check_positive("source_step", self.source_step)
        check_count("batch", self.batch)

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """The closest misclassified point found of each example, x itself where there is none.

        An image that is misclassified as it is comes back unchanged: its distance is 0. Draws for
        the starting points, and one of each batch's first example that seeds it.
        """
        settings = {
            "steps": self.steps,
            "spherical_step": self.spherical_step,
            "source_step": self.source_step,
        }
        return by_foolbox("BoundaryAttack", settings, self.batch, model, x, y, draws)

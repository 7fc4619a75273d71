"""Algorithm 1 of the paper for any training loop: the layer perturbations R^t, their update and their reset.

`adversary` holds R, puts it on the layers and updates it. `gradients` says what a pass's gradients ask for, `forming`
makes R of that, and `kept` its radii again only where something changed. `routes` says through which operations of a
network R of a layer is formed where its scope starts before the layer, and `passing` carries radii and perturbations
along them.
"""

from __future__ import annotations

from lat.perturbation.adversary import LayerwiseAdversary
from lat.perturbation.error import PerturbationError

__all__ = ["LayerwiseAdversary", "PerturbationError"]

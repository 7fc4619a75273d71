"""Transfer: candidates made on other networks, judged on this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lat.attacks.draws import Draws
from lat.attacks.protocol import Attack, SettingError, Threat, Unjudged, broken, undisturbed
from lat.types import Images, Labels


@dataclass(frozen=True)
class Transfer:
    """`inner` attacks each of the surrogates, by name, until a candidate breaks the target too (Papernot et al. 2017).

    A search on a surrogate goes on to its last step: the first point that breaks the surrogate seldom transfers.
    The target is asked for scores and never for a gradient. What transfer breaks and the attacks on the target itself
    do not, shows that the target's gradients mislead. A surrogate must be trained independently of the target: on a
    copy of it this is the inner attack.
    """

    inner: Attack
    surrogates: Mapping[str, nn.Module]

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise SettingError("surrogates: none is given; name at least one network")

    @property
    def threat(self) -> Threat:
        """That of the inner attack."""
        return self.inner.threat

    @property
    def examples(self) -> int | None:
        """As many as the inner attack's."""
        return self.inner.examples

    def perturb(self, model: nn.Module, x: Images, y: Labels, draws: Draws) -> Images:
        """For each example the candidate that broke it, or else the last surrogate's; x where it was wrong already.

        The draws of the inner attack on each surrogate in turn, for the examples that the ones before left over.
        """
        found = x.clone()
        with torch.no_grad():
            standing = torch.nonzero(~broken(model, model(x), y)).flatten()
            for surrogate in self.surrogates.values():
                if not len(standing):
                    break
                with undisturbed(surrogate):
                    labels, streams = y[standing], draws.rows(standing.tolist())
                    candidates = self.inner.perturb(Unjudged(surrogate), x[standing], labels, streams)
                found[standing] = candidates
                standing = standing[~broken(model, model(candidates), labels)]
        return found

"""What a check looks at: one trained network, the images it was evaluated on, and the verdicts of the attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lat.attacks import Attack, SettingError, sample_index
from lat.shared_images import on_shared
from lat.types import Images, Labels

Indices = NDArray[np.int64]
Booleans = NDArray[np.bool_]

NOT_FINITE = "the network's scores or its loss are not all finite"
BATCH = 250
"""Images that a check sends through the network at once."""


class AuditError(RuntimeError):
    """What can only be a mistake of this program, so that no number of the run is to be trusted: the run must fail."""


class Skipped(Exception):
    """A check that cannot be made on this subject; the message says why."""


@dataclass(frozen=True)
class Subject:
    """One trained network and what is known about it.

    model: on the device of x. x, y: all n images of the evaluated part, (n, C, H, W), and their labels. verdicts: for
    each attack the numbers of the images attacked, ascending, and for each of them whether it was robust. clean: right
    on the image itself, all n. attacks: every attack of `verdicts`, and those that checks run themselves. seed: from
    which the draws of the checks' own attacks derive. reported: accuracies by attack as they are reported, None where
    one is missing; `worst_case` is the tables', and `all_attacks` that over every attack, beside `fixed_attacks`, that
    over the tables' on the same images. distances: for each attack of `verdicts` that looks for the smallest distance,
    what it found, in that order, in the norm of its threat; inf where nothing.
    """

    model: nn.Module
    x: Images
    y: Labels
    verdicts: Mapping[str, tuple[Indices, Booleans]]
    clean: Booleans
    attacks: Mapping[str, Attack]
    seed: int
    reported: Mapping[str, float | None] = field(default_factory=dict)
    distances: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def sample(self, examples: int | None) -> Indices:
        """The numbers of the images that a check looks at, ascending: all n, or `examples` of them (None: all).

        They are those that an attack on as many images sees.
        """
        return sample_index(len(self.x), examples)

    def parts(self, index: Indices) -> Iterator[tuple[Indices, Images, Labels]]:
        """The images of these numbers and their labels, BATCH at a time."""
        for first in range(0, len(index), BATCH):
            part = index[first : first + BATCH]
            rows = torch.from_numpy(part).to(self.x.device)
            yield part, self.x[rows], self.y[rows]

    def attack(self, name: str) -> Attack:
        """The attack of that name. Raises Skipped where there is none."""
        if name not in self.attacks:
            raise Skipped(f"{name}: this run has no such attack")
        return self.attacks[name]

    @property
    def index(self) -> dict[str, Indices]:
        """The numbers of the images that each attack of `verdicts` saw."""
        return {name: index for name, (index, _) in self.verdicts.items()}

    @property
    def robust(self) -> dict[str, Booleans]:
        """What came of them."""
        return {name: robust for name, (_, robust) in self.verdicts.items()}

    def present(self, names: Sequence[str]) -> list[str]:
        """Those of the attacks that have verdicts."""
        return [name for name in names if name in self.verdicts]

    def common(self, names: Sequence[str], *, alike: bool = True) -> tuple[Indices, dict[str, Booleans]]:
        """The numbers of the images that all of these attacks saw, ascending, and each attack's verdicts on them.

        Raises Skipped where an attack has no verdicts, or no image was seen by all, and SettingError where `alike`
        attacks differ in their threat, so that one may break more than the other for that alone.
        """
        if missing := [name for name in names if name not in self.verdicts]:
            raise Skipped(f"{', '.join(missing)}: no verdicts")
        if alike and len({self.attack(name).threat for name in names}) > 1:
            threats = ", ".join(f"{name}: {self.attack(name).threat}" for name in names)
            raise SettingError(f"{threats}; compare attacks of one norm, radius and box")
        seen, on = on_shared(self.index, self.robust, names)
        if not len(seen):
            raise Skipped(f"{', '.join(names)}: no image was attacked by all of them")
        return seen, on


def points(verdicts: Booleans) -> float:
    """The accuracy that verdicts come to, in points of a hundred."""
    return 100 * int(verdicts.sum()) / len(verdicts)

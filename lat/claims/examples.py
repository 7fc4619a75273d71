"""The verdict files of a run, image by image, as far as they are at hand: read with numpy alone, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lat.claims.rules import McNemar
from lat.claims.significance import mcnemar
from lat.ledger import LedgerError
from lat.measured import WORST_CASE

Kept = NDArray[np.bool_]
Figure = tuple[str, float]  # a cell's slug and its accuracy in the ledger
COUNTED = 1e-9  # a share of images is a count over n: shares further apart than rounding are different counts


@dataclass(frozen=True)
class Examples:
    """The verdicts in `folder` (`verdicts/<slug>/seed<k>.npz`), each file read once.

    `attacks` are those whose conjunction is the worst case, where that gives the ledger's worst-case figure. `alpha` is
    the level at which McNemar's test indicates which of two cells is ahead.
    """

    folder: Path
    attacks: Sequence[str]
    alpha: float
    _read: dict[tuple[str, int], Mapping[str, Kept]] = field(default_factory=dict)

    def compare(
        self, column: str, seed: int, subject: tuple[str, float], reference: tuple[str, float]
    ) -> McNemar | None:
        """McNemar's test of two cells of one seed on the same images; None where verdicts are not at hand.

        Raises LedgerError where a file's verdicts do not give the ledger's figure.
        """
        one, two = (self._kept(slug, seed, column, value) for slug, value in (subject, reference))
        if one is None or two is None or len(one) != len(two):
            return None
        first, second = int(np.sum(one & ~two)), int(np.sum(two & ~one))
        p = mcnemar(first, second)
        ahead = "" if p > self.alpha else "subject" if first > second else "reference"
        return McNemar(seed, first, second, p, ahead)

    def _kept(self, slug: str, seed: int, column: str, value: float) -> Kept | None:
        """Which images the cell still classifies rightly under an attack, or with none ("clean")."""
        found = self._of(slug, seed)
        if column == WORST_CASE:
            whole = [found[name] for name in self.attacks if name in found]
            worst = np.logical_and.reduce(whole) if whole else None
            return worst if worst is not None and abs(float(worst.mean()) - value) < COUNTED else None
        kept = found.get(column)
        if kept is not None and abs(float(kept.mean()) - value) >= COUNTED:
            raise LedgerError(
                f"{self._path(slug, seed)}: {column} is {float(kept.mean())!r} by the verdicts and {value!r} in the "
                "ledger; restore the file, or collect the run again"
            )
        return kept

    def _path(self, slug: str, seed: int) -> Path:
        return self.folder / "verdicts" / slug / f"seed{seed}.npz"

    def _of(self, slug: str, seed: int) -> Mapping[str, Kept]:
        """By attack the verdicts that are of all images; nothing where there is no file."""
        if (slug, seed) not in self._read:
            path = self._path(slug, seed)
            self._read[slug, seed] = _load(path) if path.is_file() else {}
        return self._read[slug, seed]


def _load(path: Path) -> dict[str, Kept]:
    with np.load(path, allow_pickle=False) as stored:
        head = json.loads(stored["head"].tobytes())
        n = int(head["n"])
        arrays = {"clean": stored["clean"]}
        arrays |= {name: stored[f"verdict {name}"] for name, count in head["attacked"].items() if count == n}
    return {name: np.unpackbits(bits, count=n).astype(np.bool_) for name, bits in arrays.items()}

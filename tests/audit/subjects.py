"""Subjects for the audit: verdicts written by hand, and networks whose answers are known or masked on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from lat.attacks import Attack, from_settings
from lat.audit import Subject
from lat.evaluation import evaluate, worst_case

CONFIG = Path(__file__).resolve().parents[2] / "config"
SETTINGS: dict[str, dict[str, Any]] = yaml.safe_load((CONFIG / "audit.yaml").read_text())
ATTACKS: Mapping[str, Attack] = from_settings(yaml.safe_load((CONFIG / "attacks.yaml").read_text()))
Verdict = tuple[Sequence[int], Sequence[bool]]


def counted(robust: int, n: int, first: int = 0) -> Verdict:
    """Verdicts on the images first … first + n - 1, of which the leading ones are robust."""
    return range(first, first + n), [k < robust for k in range(n)]


def written(
    verdicts: Mapping[str, Verdict], n: int = 1000, distances: Mapping[str, Sequence[float]] | None = None
) -> Subject:
    """A subject with these verdicts on n images, reported as they are, and these distances; its network is never asked.

    An attack with distances has broken every image that it saw for which it has one.
    """
    return Subject(
        model=nn.Flatten(),
        x=torch.zeros(n, 1, 1, 2),
        y=torch.arange(n) % 10,
        verdicts={
            name: (np.array(i, dtype=np.int64), np.array(v, dtype=np.bool_)) for name, (i, v) in verdicts.items()
        },
        clean=np.ones(n, dtype=np.bool_),
        attacks=ATTACKS,
        seed=0,
        reported=reported({name: np.array(v, dtype=np.bool_) for name, (_, v) in verdicts.items()}, n),
        distances={name: np.array(d, dtype=np.float32) for name, d in (distances or {}).items()},
    )


def reported(verdicts: Mapping[str, np.ndarray], n: int) -> dict[str, float]:
    """What an honest record reports of verdicts on n images, the worst case over the attacks that saw them all."""
    found = {name: float(robust.mean()) for name, robust in verdicts.items()}
    whole = [name for name in SETTINGS["worst_case"]["attacks"] if name in verdicts and len(verdicts[name]) == n]
    return found | ({"worst_case": float(worst_case(verdicts, whole).mean())} if whole else {})


def asked(model: nn.Module, x: Tensor, y: Tensor, attacks: Mapping[str, Attack] | None = None) -> Subject:
    """A subject without verdicts, whose network the checks ask."""
    with torch.no_grad():
        clean = (model(x).argmax(1) == y).numpy()
    return Subject(model, x, y, {}, clean, ATTACKS if attacks is None else attacks, 0)


def evaluated(model: nn.Module, x: Tensor, y: Tensor, names: Sequence[str]) -> Subject:
    """A subject with the verdicts of these attacks of config/attacks.yaml."""
    attacks = {name: attack for name, attack in ATTACKS.items() if name.partition("@")[0] in names}
    found = evaluate(model, x, y, attacks, seed=0)
    verdicts = {name: (found.index[name], robust) for name, robust in found.verdicts.items()}
    told = reported({name: v for name, v in found.verdicts.items() if name not in found.distances}, len(x))
    return Subject(model, x, y, verdicts, found.clean, attacks, 0, told, found.distances)


def two_scores(score: Tensor) -> Tensor:
    """Logits of two classes from the score of the second."""
    return torch.stack([torch.zeros_like(score), score], 1)


class Quantised(nn.Module):
    """Images on a staircase of `levels` steps: nothing differentiable is left."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.levels).round() / self.levels


class Times(nn.Module):
    """Logits times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

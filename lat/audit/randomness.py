"""Checks of networks that are random when they are tested: whether they are, and what that does to an accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lat.attacks import right, run_attack, undisturbed
from lat.attacks.protocol import directions
from lat.audit.subject import Subject
from lat.audit.verdicts import judged
from lat.cells import seed_for
from lat.findings import Result


def repeated_passes(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Five forward passes agree; finding (EoT required) when normalised logits differ by > 1e-4.

    Logits are scaled to an L2 length of 1; entries that are not finite count as 0, and are no pass. value: the largest
    L2 distance between two passes on an image of the sample. (Croce and Hein's AutoAttack, its check of randomised
    defences.)
    """
    index = subject.sample(given["examples"])
    largest, finite = 0.0, True
    with undisturbed(subject.model), torch.no_grad():
        for _, x, _ in subject.parts(index):
            scores = torch.stack([subject.model(x) for _ in range(given["passes"])])
            unit = directions(scores)
            apart = (unit[:, None] - unit[None]).norm(dim=3)
            largest, finite = max(largest, float(apart.max())), finite and bool(scores.isfinite().all())
    return judged(check, largest, given["difference"], len(index), found=largest > given["difference"], finite=finite)


def fresh_draws(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Stochastic models rescored on ≥ 20 fresh draws; finding when accuracy differs by > 1 point.

    `attack` runs on a sample, and the accuracy that its wrapper counted is held against the mean accuracy, on the same
    images and adversarial examples, of `draws` further passes. A network that is not random has a difference of 0,
    which is measured too. value: the difference, in points. Scores that are not finite are no pass.
    """
    attack = subject.attack(given["attack"])
    index = subject.sample(given["examples"])
    counted, again, finite = 0, 0, True
    for part, x, y in subject.parts(index):
        outcome = run_attack(subject.model, x, y, part.tolist(), attack, seed_for(subject.seed, check), check)
        counted, finite = counted + int(outcome.robust.sum()), finite and outcome.finite
        with undisturbed(subject.model), torch.no_grad():
            for _ in range(given["draws"]):
                still = right(subject.model(x), y) & right(subject.model(outcome.adversarial), y)
                again += int(still.sum())
    value = 100 * abs(counted * given["draws"] - again) / (len(index) * given["draws"])
    return judged(check, value, given["points"], len(index), found=value > given["points"], finite=finite)

"""Certified accuracy beside the attacks: what interval bounds prove, no attack may break."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lat import bounds
from lat.attacks import Attack, Threat, run_attack
from lat.audit.subject import AuditError, Booleans, Indices, Skipped, Subject, points
from lat.cells import seed_for
from lat.findings import Result

BOX = (0.0, 1.0)


def certified(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """No attack may break a certified example; it counts only with a number of certified examples above zero.

    One result for each of `radii`: value: the share of `examples` images that `lat.bounds.certified` proves in
    L-infinity, in points; n: how many these are. It is noted, and skipped where there are none. Held against them are
    the network's own class of the image, every verdict of the run's attacks at that radius or a smaller one, every
    distance of at most that radius, and `attacks`, run at that radius on the first `attacked` of the certified images.

    Raises AuditError where one of them breaks a certified image.
    """
    index = subject.sample(given["examples"])
    rows = torch.from_numpy(index).to(subject.x.device)
    x, y = subject.x[rows], subject.y[rows]
    results = []
    for radius in given["radii"]:
        try:
            proved = bounds.certified(subject.model, x, y, radius, BOX).cpu().numpy()
        except bounds.BoundsError as error:
            raise Skipped(str(error)) from error
        name = f"{check}@{radius:g}"
        sure = index[proved]
        _hold(name, "the network on the clean image", sure, sure[~subject.clean[sure]])
        for attack in subject.verdicts:
            _hold(name, attack, sure, np.intersect1d(sure, _broken(subject, attack, radius)))
        for attack in given["attacks"]:
            tried = sure[: given["attacked"]]
            robust = _robust(name, subject, _at(subject.attack(attack), radius), tried)
            _hold(name, f"{attack} at radius {radius:g}", sure, tried[~robust])
        status, reason = ("noted", "") if len(sure) else ("skipped", f"no image of {len(index)} is certified")
        results.append(Result(name, status, points(proved), float("nan"), len(sure), reason))
    return results


def _broken(subject: Subject, attack: str, radius: float) -> Indices:
    """The images that the attack broke by a point of the certified set: the L-infinity ball of that radius, within BOX.

    The balls of both norms count, since no norm of a shift is smaller than its largest element.
    """
    threat, (index, robust) = subject.attack(attack).threat, subject.verdicts[attack]
    if threat.box[0] < BOX[0] or BOX[1] < threat.box[1]:
        return index[:0]
    if threat.radius is None:
        return index[subject.distances[attack] <= radius]
    return index[~robust & (threat.radius <= radius)]


def _at(attack: Attack, radius: float) -> Attack:
    """The attack in the certified set."""
    moved: Attack = dataclasses.replace(attack, threat=Threat("linf", radius, BOX))  # type: ignore[type-var]
    return moved


def _robust(check: str, subject: Subject, attack: Attack, index: Indices) -> Booleans:
    """Whether each image withstands the attack, run anew."""
    found = [np.empty(0, dtype=np.bool_)]
    seed = seed_for(subject.seed, check, type(attack).__name__)
    for part, x, y in subject.parts(index):
        found.append(run_attack(subject.model, x, y, part.tolist(), attack, seed, check).robust.cpu().numpy())
    return np.concatenate(found)


def _hold(check: str, attack: str, sure: Indices, broken: Indices) -> None:
    """Raises AuditError where there are broken images among those that are proved."""
    if len(broken):
        raise AuditError(
            f"{check}: {attack} breaks {len(broken)} of {len(sure)} certified images, number {broken[0]} first; either "
            "the bounds or the attack is wrong"
        )

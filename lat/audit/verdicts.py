"""Checks that need the verdicts of the attacks alone: which attack ought to be no weaker than which."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lat.audit.subject import NOT_FINITE, AuditError, Booleans, Skipped, Subject, points
from lat.findings import Result
from lat.shared_images import on_shared, over_all


def judged(check: str, value: float, threshold: float, n: int, *, found: bool, finite: bool = True) -> list[Result]:
    """The one result of a check that either finds something or passes.

    Raises Skipped where it would pass and not all that it measured is `finite`: that says nothing of the network.
    """
    if not (found or finite):
        raise Skipped(NOT_FINITE)
    return [Result(check, "found" if found else "passed", value, threshold, n)]


def worst_case(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """The reported worst case per example is the AND over attacks; reported above any single attack: error.

    Every accuracy that is reported is held against the verdicts: under each attack, in the worst case over those of
    `attacks` that saw every image, and, where harder attacks were run, in that over all attacks (`lat.shared_images`).
    value: the reported worst case, threshold: the lowest reported accuracy under one of `attacks`, in points. Raises
    AuditError where one is not that of its verdicts, or is missing.
    """
    counted = {name: robust for name, robust in subject.robust.items() if name not in subject.distances}
    whole = [name for name in given["attacks"] if name in counted and len(counted[name]) == len(subject.x)]
    if not whole:
        raise Skipped(f"{', '.join(given['attacks'])}: none of them saw every image")
    expected = {name: float(robust.mean()) for name, robust in counted.items()}
    expected["worst_case"] = float(np.logical_and.reduce([counted[name] for name in whole]).mean())
    if "all_attacks" in subject.reported:
        threats = {name: subject.attack(name).threat for name in subject.verdicts}
        _, found = over_all(subject.index, subject.robust, threats, given["attacks"], len(subject.x))
        expected |= {"all_attacks": found["worst_case"], "fixed_attacks": found["fixed_attacks"]}
    for name in sorted({*expected, *subject.reported}):
        if (said := subject.reported.get(name)) != expected.get(name):
            raise AuditError(f"{check}: {name} is reported as {said}, its verdicts have {expected.get(name)}")
    lowest = 100 * min(expected[name] for name in whole)
    return judged(check, 100 * expected["worst_case"], lowest, len(subject.x), found=False)


def single_step(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Iterative at least as strong as single-step; finding when PGD accuracy > FGSM accuracy + 0.5 points.

    On the images that both saw. value: accuracy under `iterative` minus accuracy under `single`.
    """
    return _less_robust(check, subject, given["iterative"], given["single"], given["points"])


def stronger(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Twice the steps; 10 restarts (PGD/APGD, not IFGSM with alpha = eps/T); finding when accuracy drops > 0.5 points.

    On the images that both saw. value: accuracy under `base` minus accuracy under `stronger`.
    """
    return _less_robust(check, subject, given["base"], given["stronger"], given["points"])


def _less_robust(check: str, subject: Subject, higher: str, lower: str, limit: float) -> list[Result]:
    """Finds that accuracy under `higher` lies more than `limit` points above that under `lower`."""
    seen, on = subject.common([higher, lower])
    difference = 100 * (int(on[higher].sum()) - int(on[lower].sum())) / len(seen)
    return judged(check, difference, limit, len(seen), found=difference > limit)


def falls_with_radius(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """PGD accuracy falls as eps grows (.05 … 1.0), alpha = eps / 10; finding when it rises > 0.2 points.

    For the attacks of `curve` at radii of at least `from`, on the images that all of them saw. value: the largest rise
    from a radius to any larger one, 0 where there is none.
    """
    radii = {
        name: radius
        for name in subject.verdicts
        if name.startswith(f"{given['curve']}@") and (radius := subject.attack(name).threat.ball) >= given["from"]
    }
    if len(radii) < 2:
        raise Skipped(f"{given['curve']}: fewer than two radii of at least {given['from']}")
    seen, on = subject.common(sorted(radii, key=lambda name: radii[name]), alike=False)
    counts = np.array([robust.sum() for robust in on.values()])
    rise = 100 * int((counts - np.minimum.accumulate(counts)).max()) / len(seen)
    return judged(check, rise, given["points"], len(seen), found=rise > given["points"])


def large_ball(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """A large ball breaks everything (PGD, alpha = eps / 10); finding when accuracy > chance at eps .5, > 0 at eps 1.

    All balls of radius 0.5 hold the grey image, and all of radius 1 every image: at `chance` a network keeps no more
    than the images of one class, and at `nothing` none, as long as it has two. One result for each, on the images that
    the attack saw. value: the accuracy, threshold: at `chance` the share of the most frequent class among them. It is
    noted where it is above that by no more than `points`, which one start of an attack may miss.
    """
    results = []
    for name, most in ((given["chance"], 1), (given["nothing"], 0)):
        seen, on = subject.common([name])
        rows = torch.from_numpy(seen).to(subject.y.device)
        limit = most * 100 * int(subject.y[rows].bincount().max()) / len(seen)
        left = points(on[name])
        status = "found" if left > limit + given["points"] else "noted" if left > limit else "passed"
        radius = f"{subject.attack(name).threat.ball:g}"
        results.append(Result(f"{check}@{radius}", status, left, limit, len(seen)))
    return results


def gradient_free(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Gradient-free and transfer attacks do not beat the white-box ensemble, per example; finding when > 0.2 points.

    The ensemble is whatever was run of `white_box`, `needed` included. One result for each attack of `outside`, on the
    images that it and all of the ensemble saw. value: the share of these that it breaks and the ensemble does not, in
    points.
    """
    if missing := [name for name in given["needed"] if name not in subject.verdicts]:
        raise Skipped(f"{', '.join(missing)}: no verdicts")
    if not subject.present(given["outside"]):
        raise Skipped(f"{', '.join(given['outside'])}: no verdicts")
    ensemble = subject.present(list(dict.fromkeys([*given["needed"], *given["white_box"]])))
    results = []
    for name in given["outside"]:
        own = f"{check}@{name}"
        if name not in subject.verdicts:
            results.append(_skipped(own, f"{name}: no verdicts"))
            continue
        seen, on = subject.common([name, *ensemble])
        alone: Booleans = ~on[name] & np.logical_and.reduce([on[other] for other in ensemble])
        results += judged(own, points(alone), given["points"], len(seen), found=points(alone) > given["points"])
    return results


def noise_alone(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Random noise, 10,000 draws an example (on a sample); finding when there is a point that only noise breaks.

    On the images that `noise` and all of `needed` saw, against every other attack in the same ball that saw the image.
    value: how many images only noise breaks; `images` (0) is the most that passes; reason: those of `others` that were
    not run.
    """
    noise = given["noise"]
    seen, on = subject.common([noise, *given["needed"]])
    alone = seen[~on[noise]]
    for name, (index, robust) in subject.verdicts.items():
        if name != noise and subject.attack(name).threat == subject.attack(noise).threat:
            alone = np.setdiff1d(alone, index[~robust])
    (result,) = judged(check, len(alone), given["images"], len(seen), found=len(alone) > given["images"])
    return [replace(result, reason=lacking(given["others"], subject.verdicts))]


def smaller_distances(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Attacks that look for the smallest distance in other ways do not find smaller ones; finding when they do for
    more than one image and > 5 % of them.

    One result for each attack of `others`, on the images that it and `attack` saw and that are right as they are.
    value: the share of these for which it finds a distance smaller than that of `attack` by more than the share
    `closer` of it, or any where `attack` found none; of at least `images` images for a finding. (This project's own:
    what another search undercuts is no smallest distance.)
    """
    name, results = given["attack"], []
    if name not in subject.distances or not any(other in subject.distances for other in given["others"]):
        raise Skipped(f"{name}, and one of {', '.join(given['others'])}: no distances to compare")
    for other in given["others"]:
        own = f"{check}@{other}"
        if other not in subject.distances:
            results.append(_skipped(own, f"{other}: no distances"))
            continue
        seen, _ = subject.common((name, other))
        _, on = on_shared(subject.index, subject.distances, (name, other))
        right = subject.clean[seen]
        if not right.any():
            results.append(_skipped(own, f"no image of {len(seen)} is right as it is"))
            continue
        closer = on[other][right] < (1 - given["closer"]) * on[name][right]
        value = float(closer.mean())
        found = value > given["share"] and int(closer.sum()) >= given["images"]
        results += judged(own, value, given["share"], int(right.sum()), found=found)
    return results


def _skipped(check: str, reason: str) -> Result:
    return Result(check, "skipped", math.nan, math.nan, None, reason)


def lacking(names: Sequence[str], known: Collection[str]) -> str:
    """Which of the attacks were not run, `known` being those that were, in words; empty where all were."""
    absent = [name for name in names if name not in known]
    return f"not run: {', '.join(absent)}" if absent else ""

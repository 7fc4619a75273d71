"""Checks that need the verdicts of the attacks alone: which attack ought to be no weaker than which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lat.audit.subject import AuditError, Booleans, Indices, Skipped, Subject, points
from lat.findings import Result


def judged(check: str, value: float, threshold: float, n: int, *, found: bool, finite: bool = True) -> list[Result]:
    """The one result of a check that either finds something or passes.

    Raises Skipped where it would pass and not all that it measured is `finite`: that says nothing of the network.
    """
    if not (found or finite):
        raise Skipped("the network's scores or its loss are not all finite")
    return [Result(check, "found" if found else "passed", value, threshold, n)]


def worst_case(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """The reported worst case per example is the AND over attacks; reported above any single attack: error.

    Image by image, for those of `attacks` that saw every image. value: its accuracy, threshold: the lowest accuracy
    under one of them, in points. Raises AuditError where it counts an image as robust that one of them broke.
    """
    worst = subject.worst
    if worst is None:
        raise Skipped("no worst case is reported")
    whole = [name for name in subject.present(given["attacks"]) if len(subject.verdicts[name][0]) == len(worst)]
    if not whole:
        raise Skipped(f"{', '.join(given['attacks'])}: none of them saw every image")
    for name in whole:
        if broken := int((worst & ~subject.verdicts[name][1]).sum()):
            raise AuditError(f"{check}: the worst case counts {broken} images as robust that {name} broke")
    lowest = min(points(subject.verdicts[name][1]) for name in whole)
    return judged(check, points(worst), lowest, len(worst), found=False)


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

    One result for the attack `chance` and one for `nothing`, on the images that each saw. value: the accuracy.
    """
    results = []
    for name, limit in ((given["chance"], 100 / subject.classes), (given["nothing"], 0.0)):
        seen, on = subject.common([name])
        left = points(on[name])
        radius = f"{subject.attack(name).threat.ball:g}"
        results += judged(f"{check}@{radius}", left, limit, len(seen), found=left > limit)
    return results


def gradient_free(check: str, subject: Subject, given: Mapping[str, Any]) -> list[Result]:
    """Gradient-free and transfer attacks do not beat the white-box ensemble, per example; finding when > 0.2 points.

    The ensemble is whatever was run of `white_box`, `needed` included. Each attack of `outside` is held against it on
    the images that it and all of the ensemble saw. value: the largest share of images that one of them breaks and the
    ensemble does not, in points; n: the most images that one of them was judged on; reason: those of `outside` that
    were not run.
    """
    if not (outside := subject.present(given["outside"])):
        raise Skipped(f"{', '.join(given['outside'])}: no verdicts")
    ensemble = _ensemble(subject, given["needed"], given["white_box"])
    alone = {name: _alone(subject, name, ensemble) for name in outside}
    value = max(100 * len(broken) / len(seen) for seen, broken in alone.values())
    most = max(len(seen) for seen, _ in alone.values())
    (result,) = judged(check, value, given["points"], most, found=value > given["points"])
    return [replace(result, reason=_lacking(subject, given["outside"]))]


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
    return [replace(result, reason=_lacking(subject, given["others"]))]


def _lacking(subject: Subject, names: Sequence[str]) -> str:
    """Which of the attacks were not run, in words; empty where all were."""
    absent = [name for name in names if name not in subject.verdicts]
    return f"not run: {', '.join(absent)}" if absent else ""


def _ensemble(subject: Subject, needed: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the names that were run. Raises Skipped where one that is needed was not."""
    if missing := [name for name in needed if name not in subject.verdicts]:
        raise Skipped(f"{', '.join(missing)}: no verdicts")
    return subject.present(list(dict.fromkeys([*needed, *names])))


def _alone(subject: Subject, name: str, ensemble: Sequence[str]) -> tuple[Indices, Indices]:
    """The images that the attack and all of the ensemble saw, and those of them that the attack alone broke."""
    seen, on = subject.common([name, *ensemble])
    standing: Booleans = np.logical_and.reduce([on[other] for other in ensemble])
    return seen, seen[standing & ~on[name]]

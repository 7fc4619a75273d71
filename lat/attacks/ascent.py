"""The one ascent of all attacks by gradients in a ball: steepest steps, projected on ball and box, until one breaks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from lat import norms
from lat.attacks.active import ActiveSet
from lat.attacks.draws import Draws
from lat.attacks.losses import Oracle
from lat.attacks.protocol import SettingError, Threat, is_number
from lat.types import Images

STARTS = ("clean", "uniform")


@runtime_checkable
class Search(Protocol):
    """The settings of a many-step ascent: threat, number of steps, step size in radii, start."""

    @property
    def threat(self) -> Threat: ...

    @property
    def steps(self) -> int: ...

    @property
    def relative_step(self) -> float: ...

    @property
    def start(self) -> str: ...


def start_at(x: Images, threat: Threat, start: str, draws: Draws) -> Images:
    """Where the ascent begins: at the images, or at a uniform point of the ball, projected on the box."""
    if start == "clean":
        return x
    ball = threat.ball
    return norms.project(x + norms.sample_ball(x, ball, threat.norm, draws), x, ball, threat.norm, threat.box)


def ascend(
    oracle: Oracle,
    x: Images,
    threat: Threat,
    *,
    steps: int,
    step: float,
    start: Images | None = None,
    keep: str = "last",
) -> Images:
    """`steps` steps z <- project(z + step * steepest direction of the loss at z), from `start` (x if not given).

    An adversary who finds a point that the model gets wrong is done. Returned is for each example the first such point,
    the start and the last one included; for an example that has none the last point (keep = "last") or that of the
    largest loss (keep = "highest", one more look at the model). Who is done leaves the batch as `lat.attacks.active`
    says. A gradient that is not a number moves nothing.
    """
    point = x if start is None else start
    inside = norms.projector(x, threat.ball, threat.norm, threat.box)
    active = ActiveSet(x, keep)
    for _ in range(steps):
        loss, gradient, wrong = oracle(point)
        active.see(point, loss, wrong)
        stay = active.leave()
        if stay is not None:
            if not len(stay):
                return active.found(point)
            x, point, gradient, oracle = x[stay], point[stay], gradient[stay], oracle.rows(stay)
            inside = norms.projector(x, threat.ball, threat.norm, threat.box)
        point = inside(norms.steepest_direction(gradient, threat.norm).mul_(step).add_(point))
    if keep == "highest":
        loss, _, wrong = oracle(point)
        active.see(point, loss, wrong)
    return active.found(point)


def search(oracle: Oracle, x: Images, settings: Search, draws: Draws, keep: str = "last") -> Images:
    """The ascent with the settings of an attack: its start first, then its steps."""
    threat = settings.threat
    start = start_at(x, threat, settings.start, draws)
    step = settings.relative_step * threat.ball
    return ascend(oracle, x, threat, steps=settings.steps, step=step, start=start, keep=keep)


def check_count(key: str, value: object) -> None:
    """Raises SettingError unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingError(f"{key}: {value!r} must be a whole number of at least 1")


def check_positive(key: str, value: object, *, zero: bool = False) -> None:
    """Raises SettingError unless `value` is a number above 0 (or 0 itself, where `zero` says so)."""
    if not isinstance(value, int | float) or not is_number(value) or value < 0 or (value == 0 and not zero):
        raise SettingError(f"{key}: {value!r} must be a number {'of at least' if zero else 'above'} 0")


def check_start(start: object) -> None:
    """Raises SettingError unless `start` is one of STARTS."""
    check_choice("start", start, STARTS)


def check_choice(key: str, value: object, known: Collection[str]) -> None:
    """Raises SettingError unless `value` is one of the `known` names."""
    if not isinstance(value, str) or value not in known:
        raise SettingError(f"{key}: {value!r} is not known; use one of {', '.join(known)}")

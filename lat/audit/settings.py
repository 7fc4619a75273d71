"""From `config/audit.yaml` to checks: every setting is given there, none has a default here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lat.attacks.protocol import SettingError, is_number
from lat.findings import COSTS, Result, words


def _name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _names(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_name, value)) and len(set(value)) == len(value)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _examples(value: object) -> bool:
    return value is None or _count(value)


def _limit(value: object) -> bool:
    return is_number(value) and isinstance(value, int | float) and value >= 0


def _positive(value: object) -> bool:
    return _limit(value) and value != 0


def _positives(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_positive, value))


def _share(value: object) -> bool:
    return _limit(value) and isinstance(value, int | float) and value <= 1


Kind = tuple[Callable[[object], bool], str]
NAME: Kind = (_name, "the name of an attack")
NAMES: Kind = (_names, "a list of attacks, each once")
COUNT: Kind = (_count, "a whole number of at least 1")
EXAMPLES: Kind = (_examples, "a whole number of at least 1, or null for all images")
LIMIT: Kind = (_limit, "a number of at least 0")
POSITIVE: Kind = (_positive, "a number above 0")
POSITIVES: Kind = (_positives, "a list of numbers above 0")
SHARE: Kind = (_share, "a number from 0 to 1")

KEYS: Mapping[str, tuple[Mapping[str, Kind], tuple[str, ...]]] = {
    "worst_case": ({"attacks": NAMES}, ("passed", "skipped")),
    "single_step": ({"single": NAME, "iterative": NAME, "points": LIMIT}, ("passed", "found", "skipped")),
    "more_steps": ({"base": NAME, "stronger": NAME, "points": LIMIT}, ("passed", "found", "skipped")),
    "more_restarts": ({"base": NAME, "stronger": NAME, "points": LIMIT}, ("passed", "found", "skipped")),
    "converged": (
        {"attack": NAME, "last_steps": COUNT, "share": SHARE, "examples": EXAMPLES},
        ("passed", "found", "skipped"),
    ),
    "falls_with_radius": ({"curve": NAME, "from": LIMIT, "points": LIMIT}, ("passed", "found", "skipped")),
    "large_ball": ({"chance": NAME, "nothing": NAME}, ("passed", "found", "skipped")),
    "gradient_free": (
        {"white_box": NAMES, "needed": NAMES, "outside": NAMES, "points": LIMIT},
        ("passed", "found", "skipped"),
    ),
    "noise_alone": (
        {"noise": NAME, "needed": NAMES, "others": NAMES, "images": LIMIT},
        ("passed", "found", "skipped"),
    ),
    "zero_gradients": ({"examples": EXAMPLES, "share": SHARE}, ("passed", "noted", "found")),
    "scaled_logits": (
        {"attack": NAME, "factors": POSITIVES, "shift": POSITIVE, "points": LIMIT, "examples": EXAMPLES},
        ("passed", "found", "skipped"),
    ),
    "repeated_passes": ({"passes": COUNT, "difference": LIMIT, "examples": EXAMPLES}, ("passed", "found")),
    "fresh_draws": (
        {"attack": NAME, "draws": COUNT, "points": LIMIT, "examples": EXAMPLES},
        ("passed", "found", "skipped"),
    ),
    "breakable": (
        {
            "attack": NAME,
            "examples": EXAMPLES,
            "inner_points": COUNT,
            "tries": COUNT,
            "closeness": SHARE,
            "share": SHARE,
        },
        ("passed", "found", "skipped"),
    ),
    "ball_and_box": ({"attack": NAME, "tolerance": LIMIT, "examples": EXAMPLES}, ("passed", "skipped")),
    "certified": (
        {"radii": POSITIVES, "examples": EXAMPLES, "attacks": NAMES, "attacked": COUNT},
        ("noted", "skipped"),
    ),
}
"""For each check its own keys, and the statuses that it can have, each of which needs words."""


def check_settings(settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises SettingError naming check, key and value for anything unknown, missing or impossible in the settings."""
    for name, given in settings.items():
        if name not in KEYS:
            raise SettingError(f"{name}: no such check; use one of {', '.join(KEYS)}")
        own, statuses = KEYS[name]
        wanted = ("cost", *own, "words")
        if unknown := [key for key in given if key not in wanted]:
            raise SettingError(f"{name}: {unknown[0]}: unknown to this check; its keys are {', '.join(wanted)}")
        if missing := [key for key in wanted if key not in given]:
            raise SettingError(f"{name}: {missing[0]}: missing; this check needs {', '.join(wanted)}")
        if given["cost"] not in COSTS:
            raise SettingError(f"{name}: cost: {given['cost']!r} is not known; use one of {', '.join(COSTS)}")
        for key, (fits, what) in own.items():
            if not fits(given[key]):
                raise SettingError(f"{name}: {key}: {given[key]!r} must be {what}")
        _check_words(name, given["words"], statuses, settings)


def _check_words(
    name: str, given: object, statuses: tuple[str, ...], settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raises SettingError unless there is one sentence a status, which takes the fields of a result."""
    if not isinstance(given, Mapping) or set(given) != set(statuses):
        raise SettingError(f"{name}: words: {given!r} must have one sentence for each of {', '.join(statuses)}")
    for status in statuses:
        some = Result(f"{name}@0.1", status, 0.5, 0.5, 10)
        try:
            words(some.check, status, some.value, some.threshold, some.n, settings)
        except (KeyError, IndexError, ValueError) as error:
            raise SettingError(
                f"{name}: words.{status}: {given[status]!r} cannot be filled in ({error}); it may use {{value}}, "
                "{threshold}, {n} and {radius}, with formats of numbers"
            ) from error

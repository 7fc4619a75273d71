"""What the audit of a network found, and the plain sentence that each result reads as. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ATTACKS = {
    "boundary": "Boundary",
    "hopskipjump": "HopSkipJump",
    "lbfgs": "L-BFGS",
    "noise": "random noise",
    "square": "Square",
    "transfer": "transferred from other networks",
    "zoo": "ZOO",
}
"""How a sentence spells an attack."""
STATUSES = ("passed", "noted", "found", "skipped")


@dataclass(frozen=True)
class Result:
    """What one check measured.

    check: its name in config/audit.yaml, with an @ and a radius or the name of an attack where it has a result for
    each. status: one of STATUSES; `found` is what speaks against the reported accuracy, `noted` what a reader should
    know. value: the figure that was compared (nan: none), threshold: with what (nan: with nothing), both in the unit of
    the check's words.
    n: how many images it is about (None: none). reason: why it was skipped or what it lacks, in words.
    """

    check: str
    status: str
    value: float
    threshold: float
    n: int | None
    reason: str = ""


def words(result: Result, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """The sentence for a result: its reason where it was skipped, or else the template that `settings`
    (config/audit.yaml) has for its check and status, with the reason where there is one.

    A template may use {value}, {threshold}, {n}, and {radius} or {attack} for what follows the @ of the check's name.
    Raises KeyError naming the check where the settings have no such check or no words for the status.
    """
    if result.status == "skipped":
        return f"Not checked: {result.reason}."
    name, _, radius = result.check.partition("@")
    attack = ATTACKS.get(radius, radius)
    try:
        template = str(settings[name]["words"][result.status])
    except KeyError as error:
        raise KeyError(
            f"{result.check}: config/audit.yaml has no words for {result.status!r}; add {name}.words.{result.status}"
        ) from error
    said = template.format(value=result.value, threshold=result.threshold, n=result.n, radius=radius, attack=attack)
    return f"{said} ({result.reason})" if result.reason else said


def check_words(settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError naming check and status where a sentence of `settings` does not take a result's figures."""
    for name, given in settings.items():
        for status, sentence in given["words"].items():
            try:
                words(Result(f"{name}@0.1", status, 0.5, 0.5, 10), settings)
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(
                    f"{name}.words.{status}: {sentence!r} cannot be filled in ({error}); it may use {{value}}, "
                    "{threshold}, {n}, {radius} and {attack}, with formats of numbers"
                ) from error


def chosen(settings: Mapping[str, Mapping[str, Any]], checks: str) -> dict[str, Mapping[str, Any]]:
    """The settings of the checks that a run asks for: "all" of them, or those that are "cheap".

    Raises ValueError for any other word.
    """
    if checks not in ("all", "cheap"):
        raise ValueError(f"checks: {checks!r} is not known; use all or cheap")
    return {name: given for name, given in settings.items() if checks == "all" or given["cost"] == checks}

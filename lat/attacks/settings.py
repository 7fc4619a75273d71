"""From `config/attacks.yaml` to attacks: every setting is given there, none has a default here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from lat.attacks.ascent import check_choice
from lat.attacks.protocol import Attack, SettingError, Threat, is_number


def build(kinds: Mapping[str, type], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Attack]:
    """Name -> attack. An attack with `radii` in place of `radius` becomes one a radius, called name@radius.

    Raises SettingError naming the attack and the key for a kind or key that is unknown, missing or impossible.
    """
    attacks: dict[str, Attack] = {}
    for name, given in settings.items():
        if not isinstance(given, Mapping):
            raise SettingError(f"{name}: {given!r} must be a mapping of keys to values, kind among them")
        if "@" in name:
            raise SettingError(f"{name}: a name with an @ belongs to an attack with radii; leave it out")
        for full_name, single in _by_radius(name, given):
            try:
                attacks[full_name] = _one(kinds, single)
            except SettingError as error:
                raise SettingError(f"{full_name}: {error}") from error
    return attacks


def _by_radius(name: str, given: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The attack itself, or one a radius where there are several."""
    single = dict(given)
    if "radii" not in single:
        yield name, single
        return
    radii = single.pop("radii")
    if "radius" in single:
        raise SettingError(f"{name}: radius and radii are both given; keep one")
    if not isinstance(radii, list | tuple) or not radii or not all(is_number(radius) for radius in radii):
        raise SettingError(f"{name}: radii: {radii!r} must be a list of numbers")
    names = [f"{name}@{radius:g}" for radius in radii]
    if len(set(names)) != len(names):
        raise SettingError(f"{name}: radii: {radii!r} holds a radius twice; keep one of them")
    for full_name, radius in zip(names, radii, strict=True):
        yield full_name, {**single, "radius": radius}


def _one(kinds: Mapping[str, type], given: dict[str, Any]) -> Attack:
    """The attack of one set of keys: the keys of the threat, and one for each other field of its class."""
    if "kind" not in given:
        raise SettingError(f"kind: missing; give one of {', '.join(kinds)}")
    check_choice("kind", given["kind"], kinds)
    wanted = keys(kinds[given["kind"]])
    if unknown := [key for key in given if key not in wanted]:
        raise SettingError(f"{unknown[0]}: unknown to {given['kind']}; its keys are {', '.join(wanted)}")
    if missing := [key for key in wanted if key not in given]:
        raise SettingError(f"{missing[0]}: missing; {given['kind']} needs {', '.join(wanted)}")
    examples = given["examples"]
    if examples is not None and (isinstance(examples, bool) or not isinstance(examples, int) or examples < 1):
        raise SettingError(f"examples: {examples!r} must be a whole number of at least 1, or null for all images")
    box = given["box"]
    if not isinstance(box, list | tuple):
        raise SettingError(f"box: {box!r} must be two numbers, the lower one first")
    threat = Threat(given["norm"], given.get("radius"), tuple(box))
    own = {key: value for key, value in given.items() if key not in ("kind", "norm", "radius", "box")}
    attack: Attack = kinds[given["kind"]](threat=threat, **own)
    return attack


def keys(kind: type) -> tuple[str, ...]:
    """The keys that an attack of this class must be given, in order."""
    own = [field.name for field in fields(kind) if field.name != "threat"]
    radius = () if getattr(kind, "MINIMAL", False) else ("radius",)
    return ("kind", "norm", *radius, "box", *own)

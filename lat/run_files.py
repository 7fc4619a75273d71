"""The files that a run is written in: opened, parsed, and checked against their schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

ROOT = Path(__file__).resolve().parents[1]


class RunError(ValueError):
    """A run file, grid or name in them that does not fit; the message names the key, the value and the mend."""


def opened(path: Path, key: str) -> TextIO:
    """The file that `key` of the run file names, opened. Raises RunError where it is not there."""
    try:
        return path.open(newline="")
    except OSError as error:
        raise RunError(f"{key}: {path} cannot be read ({error.strerror}); name a file of the project") from error


def parsed(text: str, origin: str) -> Any:
    """The YAML in `text`. Raises RunError naming `origin` where it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunError(f"{origin}: not YAML ({' '.join(str(error).split())}); mend that place") from error


def whole(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The run file that a path, a JSON object in a string, or a mapping holds, not checked yet."""
    if isinstance(source, Mapping):
        return dict(source)
    text = str(source)
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise RunError(f"config: no JSON object ({error}); give one, or the path of a run file") from error
    try:
        found = parsed(Path(text).read_text(), text)
    except OSError as error:
        raise RunError(
            f"config: {text} cannot be read ({error.strerror}); give a run file such as config/quick.yaml"
        ) from error
    if not isinstance(found, dict):
        raise RunError(f"config: {text} is no mapping of keys; see config/quick.yaml")
    return found


def check(values: object, schema: str) -> None:
    """Raises RunError with the plainest violation of workflow/schemas/<schema>.schema.yaml, by its key."""
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import best_match

    whole = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict = validators.extend(Draft202012Validator, type_checker=whole)  # 10.0 would be another cell than 10
    validator = strict(yaml.safe_load((ROOT / f"workflow/schemas/{schema}.schema.yaml").read_text()))
    if error := best_match(validator.iter_errors(values)):
        place = ".".join(map(str, error.absolute_path)) or "top level"
        raise RunError(f"{schema} file, {place}: {error.message}; see workflow/schemas/{schema}.schema.yaml")


def described(file: str, schema: str) -> Mapping[str, Mapping[str, Any]]:
    """The settings by name that a file of the project holds, checked against their schema."""
    path = ROOT / file
    with opened(path, f"{schema}.file") as stream:
        settings = parsed(stream.read(), path.name)
    check(settings, schema)
    found: Mapping[str, Mapping[str, Any]] = settings.get(schema, settings)
    return found


def chosen(file: str, schema: str, names: Sequence[str], key: str = "") -> dict[str, Mapping[str, Any]]:
    """Those of them that are named. Raises RunError under `key` (the schema's name unless given) for an unknown one."""
    available = described(file, schema)
    if missing := [name for name in names if name not in available]:
        raise RunError(f"{key or schema}: {missing[0]!r} is not in {file}; it has {', '.join(available)}")
    return {name: available[name] for name in names}

"""The files that a run is written in: opened, parsed, and checked against their schemas."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
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


class _EachKeyOnce(yaml.SafeLoader):
    """YAML in which a key that stands twice in a mapping is an error, where PyYAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)


def parsed(text: str, origin: str) -> Any:
    """The YAML in `text`. Raises RunError naming `origin` where it is none."""
    try:
        return yaml.load(text, _EachKeyOnce)
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


def check(values: object, schema: str, origin: str = "") -> None:
    """Raises RunError with the plainest violation of workflow/schemas/<schema>.schema.yaml, by its file and key."""
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import best_match

    whole = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict = validators.extend(Draft202012Validator, type_checker=whole)  # 10.0 would be another cell than 10
    if error := best_match(strict(_schema(schema)).iter_errors(values)):
        place = ".".join(_named(values, error.absolute_path)) or "top level"
        origin = origin or f"{schema} file"
        given = error.validator == "not" and error.validator_value == {"const": "-"}
        message = "'-' where a value is needed" if given else error.message
        raise RunError(f"{origin}, {place}: {message}; see workflow/schemas/{schema}.schema.yaml")
    for path, value in _infinite(values):
        raise RunError(f"{origin or f'{schema} file'}, {'.'.join(path)}: {value} is no finite number; give one")


def _infinite(values: object) -> Iterator[tuple[tuple[str, ...], float]]:
    """The places and values of numbers that are none, or endless, which no schema rules out."""
    if isinstance(values, float) and not math.isfinite(values):
        yield (), values
    entries = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in entries:
        for place, odd in _infinite(value):
            yield (str(key), *place), odd


@cache
def _schema(name: str) -> Any:
    return yaml.safe_load((ROOT / f"workflow/schemas/{name}.schema.yaml").read_text())


def _named(values: Any, path: Iterable[str | int]) -> Iterator[str]:
    """The parts of a path into the values; an entry of a list by its id, row or cell where it has one."""
    for part in path:
        values = values[part]
        entry = values if isinstance(part, int) and isinstance(values, Mapping) else {}
        yield str(next((entry[key] for key in ("id", "row", "cell") if key in entry), part))


def keys(schema: str) -> set[str]:
    """The keys that a file of that schema may have."""
    return set(_schema(schema)["properties"])


def read(path: Path, schema: str, key: str) -> Any:
    """The YAML in the file that `key` names, checked against its schema; to be left as it is. Raises RunError."""
    with opened(path, key) as stream:
        return _valid(stream.read(), schema, path.name)


@cache
def _valid(text: str, schema: str, origin: str) -> Any:
    """The values of a text, which many parts of a command ask for."""
    values = parsed(text, origin)
    check(values, schema, origin)
    return values


def described(file: str, schema: str) -> Mapping[str, Mapping[str, Any]]:
    """The settings by name that a file of the project holds, checked against their schema."""
    settings = read(ROOT / file, schema, f"{schema}.file")
    found: Mapping[str, Mapping[str, Any]] = settings.get(schema, settings)
    return found


def chosen(file: str, schema: str, names: Sequence[str], key: str = "") -> dict[str, Mapping[str, Any]]:
    """Those of them that are named. Raises RunError under `key` (the schema's name unless given) for an unknown one."""
    available = described(file, schema)
    if missing := [name for name in names if name not in available]:
        raise RunError(f"{key or schema}: {missing[0]!r} is not in {file}; it has {', '.join(available)}")
    return {name: available[name] for name in names}

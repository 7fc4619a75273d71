"""What a module's mutants must reach, and the list of those that may live."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mutants
from mutants import Mutant

SURVIVORS = Path(__file__).with_name("survivors.toml")
BAR = 0.95


class MutationError(RuntimeError):
    """The tests do not run, or do not pass, on the module as it is; or the list of survivors is not one."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `killed`, `timeout`, `crashed` (all three noticed) or `survived`."""

    mutant: Mutant
    outcome: str
    seconds: float


def listed(path: Path = SURVIVORS) -> dict[str, dict[tuple[str, str, str], str]]:
    """Module -> (function, before, after) of a survivor that is explained -> its kind, `equivalent` or `accepted`."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("survivor", []) if path.exists() else []
    found: dict[str, dict[tuple[str, str, str], str]] = {}
    for entry in entries:
        if entry["kind"] not in ("equivalent", "accepted") or not entry["why"].strip():
            raise MutationError(f"{path.name}: {entry}; give its kind, equivalent or accepted, and why")
        for after in [entry["after"]] if isinstance(entry["after"], str) else entry["after"]:
            found.setdefault(entry["module"], {})[entry["function"], entry["before"], after] = entry["kind"]
    return found


def complaints(
    module: str, source: str, verdicts: Sequence[Verdict], explained: Mapping[tuple[str, str, str], str]
) -> tuple[float, list[str]]:
    """The module's score, equivalent mutants left out, and whatever keeps it from passing."""
    survived = {verdict.mutant.key for verdict in verdicts if verdict.outcome == "survived"}
    equivalent = {key for key in survived if explained.get(key) == "equivalent"}
    counted = [verdict for verdict in verdicts if verdict.mutant.key not in equivalent]
    score = sum(verdict.outcome != "survived" for verdict in counted) / max(1, len(counted))
    found = [] if score >= BAR else [f"{module}: {score:.1%} of the mutants are noticed; {BAR:.0%} are asked for"]
    counts = mutants.per_function(source, [verdict.mutant for verdict in verdicts])
    found += [f"{module}.{name}: no mutant was made of it" for name, count in counts.items() if count == 0]
    for function, before, after in sorted(survived - set(explained)):
        found.append(f"{module}.{function}: survived and is not listed\n  - {before}\n  + {after}")
    for function, before, after in sorted(set(explained) - survived):
        found.append(f"{module}.{function}: listed, but it is killed or no longer made\n  - {before}\n  + {after}")
    return score, found

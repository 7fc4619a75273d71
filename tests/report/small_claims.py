"""Claims and ledgers small enough to judge by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import yaml

from lat import claims
from lat.ledger import COLUMNS
from lat.measured import Ledger, Plan, Scale

ROOT = Path(__file__).resolve().parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "config/claims.yaml").read_text())
TABLE: dict[str, Any] = {
    "id": "table_2",
    "roman": "II",
    "title": "made up",
    "dataset": "mnist",
    "model": "4fc",
    "columns": ["clean", "pgd"],
    "rows": [
        {"row": "A", "cell": "a", "best": "a_best", "reported": {"clean": 0.9, "pgd": 0.5}},
        {"row": "B", "cell": "b", "best": None, "reported": {"clean": 0.9, "pgd": 0.4}},
        {"row": "C", "cell": "c", "best": None, "reported": {"clean": 0.9, "pgd": 0.3}},
    ],
    "extra": [],
    "notes": [],
}
Audited = Mapping[tuple[str, str, int, str], str]
Values = Mapping[tuple[str, str], Sequence[float | None]]
SURE, BARELY = (2.0, 2.1, 1.9), (2.258, 3.258, 4.258)  # p of BARELY: t = 3.258 * sqrt 3, so 0.03


def claim(name: str, *pairs: str, **changes: Any) -> dict[str, Any]:
    """A claim that A is higher than B, and so on, for pairs "AB"; under PGD alone."""
    return {
        "id": name,
        "kind": "empirical",
        "origin": "paper",
        "paraphrase": name,
        "source": {"sections": ["I"], "tables": ["II"]},
        "comparisons": [
            {"subject": {"table": "table_2", "row": one}, "reference": {"table": "table_2", "row": two}}
            for one, two in pairs
        ],
        "over_comparisons": "all",
        "columns": ["pgd"],
        "quantifier": "all",
        "direction": "higher",
        "wording": "plain",
        "margin": 0,
        "test": "paired_t",
        "family": "table_2",
        "judged_on": ["reported", "measured"],
        **changes,
    }


def conjunction(name: str, members: Sequence[str]) -> dict[str, Any]:
    """The claim that all of `members` hold."""
    kept = {key: value for key, value in claim(name).items() if key not in ("comparisons", "columns")}
    return kept | {"kind": "conjunction", "members": list(members)}


def ledger(values: Values, audited: Audited) -> Ledger:
    """Accuracies under PGD in points, by (cell, scale); None is a seed that diverged. And statuses of checks by (cell,
    scale, seed, check).
    """
    common = {"dataset": "mnist", "model": "4fc", "width": 10, "step": "attack", "attack": "pgd", "n": 10000}
    lines = [
        dict.fromkeys(COLUMNS, "")
        | common
        | {"cell": cell, "scale": scale, "slug": f"{cell}-{scale}", "seed": seed, "metric": "robust_accuracy"}
        | {"value": 0.1 if value is None else value / 100, "status": "diverged" if value is None else "ok"}
        for (cell, scale), seeds in values.items()
        for seed, value in enumerate(seeds)
    ]
    lines += [
        next(line for line in lines if (line["cell"], line["scale"], line["seed"]) == (cell, scale, seed))
        | {"step": "audit", "attack": check, "metric": status, "value": 1.0}
        for (cell, scale, seed, check), status in audited.items()
    ]
    return Ledger.of(pd.DataFrame(lines, columns=list(COLUMNS)))


def judged(
    tmp_path: Path,
    listed: Sequence[Mapping[str, Any]],
    values: Values,
    *,
    slugs: Mapping[tuple[str, str], str] | None = None,
    dataset: str = "mnist",
    audited: Audited = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """The claims with their verdicts; every cell with values is in the plan."""
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(FILE | {"claims": list(listed), "questions": []}))
    names = dict.fromkeys(scale for _, scale in values)
    scales = tuple(Scale(name, dataset, "4fc", 10, 1, 3, ("a", "b", "c"), ("table_2", "table_3")) for name in names)
    known = {(scale, cell): f"{cell}-{scale}" for cell, scale in values}
    plan = Plan("made", {}, scales, known | dict(slugs or {}))
    tables = [TABLE, TABLE | {"id": "table_3", "roman": "III"}]
    return claims.judge(tmp_path / "claims.yaml", tables, ledger(values, audited), plan, tmp_path, None, "", MISLEADING)


def judge(
    tmp_path: Path, listed: Sequence[Mapping[str, Any]], values: Values, **given: Any
) -> dict[str, dict[str, Any]]:
    """Their measured verdicts, by id."""
    return {entry["id"]: entry["measured"] for entry in judged(tmp_path, listed, values, **given)}


MISLEADING = ["large_ball", "zero_gradients"]


def above(*differences: float) -> list[float]:
    return [20 + difference for difference in differences]


FLAT = [20.0, 20.0, 20.0]

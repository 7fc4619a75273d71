"""The floors: a module imports only from floors below its own, and what builds the report needs no torch.

The table is `FLOORS`; a module that is not on it fails the test, so that every new one is placed on purpose.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS: dict[str, int] = {
    name: floor
    for floor, names in enumerate(
        [
            ["cells", "types", "sources", "devices", "findings", "run_files", "shared_images"],
            [
                "norms",
                "ledger",
                "intervals",
                "grid",
                "audit_settings",
                "runs",
                "equations",
                "sites",
                "laws",
                "environment",
                "memory",
                "running_statistics",
            ],
            [
                "data",
                "models",
                "linear_maps",
                "bounds",
                "measured",
                "collection",
                "rederived",
                "batches",
                "checkpoints",
                "resumption",
                "heartbeats",
            ],
            ["proofs", "perturbation", "attacks", "defences", "status"],
            ["training", "evaluation", "equivalence", "audit"],
            ["experiment", "bars"],
            ["tables", "figures", "claims", "compare", "studies", "statements", "audit_tables"],
            ["report"],
            ["cli"],
        ]
    )
    for name in names
}

# Two modules of one floor, the first of which may import the second.
NEIGHBOURS = {
    ("collection", "rederived"): "an export takes along what was made again",
    ("runs", "audit_settings"): "a run file says what its audits ask, of its own cells and attacks",
    ("runs", "grid"): "a run file says which rows of the grid it resolves, and how",
    ("defences", "perturbation"): "layer-wise training is one defence among others, and wraps the adversary",
    ("proofs", "perturbation"): "a law about trained networks trains them by the method itself",
}

# The report's side of the ledger: below its own floors it sees these alone.
REPORT_FLOORS = range(6, 8)
BELOW_REPORT = {"cells", "ledger", "intervals", "measured", "findings", "rederived", "run_files", "shared_images"}
# What has to start fast: no torch, at the top of a file or inside a function (`cli` may load it, in a command).
WITHOUT_TORCH = (
    {"runs", "grid", "sources", "collection", "heartbeats", "status"}
    | BELOW_REPORT
    | {name for name, floor in FLOORS.items() if floor in REPORT_FLOORS}
)
TORCH = {"torch", "torchvision", "safetensors"}


@dataclass(frozen=True)
class Import:
    """One imported module: where it stands and its full dotted name (`lat.models.mlp`, `torch.nn`)."""

    path: Path
    line: int
    importer: str
    target: str


def unit(module: str) -> str:
    """The entry of the table that a module belongs to: `lat.models.mlp` -> `models`, `lat` -> `lat`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the package `lat` under `root`."""
    for path in sorted((root / "lat").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(root: Path) -> Iterator[Import]:
    """Every import statement of the package, those inside functions included; relative ones resolved.

    `from lat import sites` is an import of `lat.sites`; `from lat import Cell` is one of `lat` itself.
    """
    found = dict(modules(root))
    for importer, path in found.items():
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    above = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join([*above, base] if base else above)
                within = [f"{base}.{alias.name}" for alias in node.names]
                targets = [full if full in found else base for full in within]
            else:
                continue
            for target in dict.fromkeys(targets):
                yield Import(path.relative_to(root), node.lineno, importer, target)


def violations(root: Path) -> list[str]:
    """What breaks the floors in the package `lat` under `root`, one sentence each; empty where nothing does."""
    wrong = [
        f"{path.relative_to(root)}: {unit(name)} is on no floor; add it to FLOORS in tests/test_floors.py"
        for name, path in modules(root)
        if name != "lat" and unit(name) not in FLOORS
    ]
    for found in imports(root):
        importer, target = unit(found.importer), unit(found.target)
        place = f"{found.path}:{found.line}: {importer}"
        if importer in WITHOUT_TORCH and found.target.split(".")[0] in TORCH:
            wrong.append(f"{place} imports {found.target}, but has to work without torch")
        if found.target.split(".")[0] != "lat" or importer in (target, "lat"):
            continue
        if importer not in FLOORS or target not in FLOORS:
            wrong.append(f"{place} imports {found.target}, which is on no floor below it")
            continue
        here, there = FLOORS[importer], FLOORS[target]
        if there > here or (there == here and (importer, target) not in NEIGHBOURS):
            wrong.append(f"{place} (floor {here}) imports {found.target} (floor {there}); imports go downwards only")
        elif here in REPORT_FLOORS and there < REPORT_FLOORS.start and target not in BELOW_REPORT:
            wrong.append(f"{place} imports {found.target}; below floor 6 it may see {', '.join(sorted(BELOW_REPORT))}")
    return wrong


def test_imports_go_downwards_only() -> None:
    found = violations(ROOT)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("cells", "import lat.ledger", "cells (floor 0) imports lat.ledger (floor 1)"),
        ("sites", "from lat import equations", "sites (floor 1) imports lat.equations (floor 1)"),
        ("sites", "from .training import fit", "sites (floor 1) imports lat.training (floor 4)"),
        ("models/mlp", "from ..training import fit", "models (floor 2) imports lat.training (floor 4)"),
        ("models/__init__", "from ..training import fit", "models (floor 2) imports lat.training (floor 4)"),
        ("norms", "def f():\n    from lat.sites import Tap", "norms (floor 1) imports lat.sites (floor 1)"),
        ("training", "class A:\n    import lat.cli as top", "training (floor 4) imports lat.cli (floor 8)"),
        ("tables", "from lat.norms import project", "tables imports lat.norms; below floor 6"),
        ("report", "from lat.experiment import run", "report imports lat.experiment; below floor 6"),
        ("figures", "def f():\n    from torch import nn", "figures imports torch, but"),
        ("ledger", "import torch.nn as nn", "ledger imports torch.nn, but"),
        ("training", "from lat import LayerwiseAdversary", "training imports lat, which is on no floor"),
        ("shortcuts", "", "shortcuts is on no floor"),
    ],
)
def test_the_floors_can_be_broken(tmp_path: Path, module: str, source: str, complaint: str) -> None:
    names = ["cells", "ledger", "norms", "sites", "equations", "training", "experiment", "cli", "models/__init__"]
    for name in ["__init__", *names, module]:
        path = tmp_path / "lat" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source if name == module else "", encoding="utf-8")
    found = violations(tmp_path)
    assert len(found) == 1
    assert complaint in found[0]


def test_downward_imports_are_allowed(tmp_path: Path) -> None:
    sources = {
        "__init__": "from lat.cells import Cell",
        "cells": "import json",
        "sites": "import torch\nfrom lat import cells",
        "models/__init__": "from .mlp import Mlp",
        "models/mlp": "from ..cells import Cell",
        "tables": "from lat import cells\nfrom lat.ledger import read",
        "ledger": "from lat.cells import Cell",
        "report": "from lat.tables import table",
        "cli": "def main():\n    from lat import models, report",
    }
    for name, source in sources.items():
        path = tmp_path / "lat" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    assert violations(tmp_path) == []


IMPORT_EACH = """
import importlib, sys
torch, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)
    loaded = set(torch.split(",")) & set(sys.modules)
    if loaded:
        sys.exit(f"importing {module} loads {', '.join(sorted(loaded))}")
print(len(modules))
"""


def import_each(root: Path, names: list[str]) -> subprocess.CompletedProcess[str]:
    """Imports the modules one after the other in a fresh interpreter, which stops at the first that loads torch."""
    command = [sys.executable, "-c", IMPORT_EACH, ",".join(sorted(TORCH)), *names]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_what_starts_fast_does_not_load_torch() -> None:
    names = [name for name, _ in modules(ROOT) if name == "lat" or unit(name) in {*WITHOUT_TORCH, "cli"}]
    done = import_each(ROOT, names)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(names)


def test_loading_torch_is_noticed(tmp_path: Path) -> None:
    for name, source in {"quiet": "", "loud": "import torch"}.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    (tmp_path / "torch.py").write_text("", encoding="utf-8")  # a stand-in: the real one takes seconds
    done = import_each(tmp_path, ["quiet", "loud"])
    assert done.returncode == 1
    assert done.stderr.strip() == "importing loud loads torch"

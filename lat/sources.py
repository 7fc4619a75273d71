"""Which code decides a step's result, as one digest: an edit that can change a result changes it, a comment does not.

A step names its entry modules; everything of the package that they import, at any depth, belongs to it. Of a registry
(the mapping of names to methods, models or attacks) only what the cell, or a module of the step, uses belongs to it, so
that adding one of them makes no result old. The digest is over the syntax trees without docstrings, comments and
signatures' annotations, which nothing evaluates but the tests' type checks. No torch here.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ENTRIES: Mapping[str, tuple[str, ...]] = {
    "train": ("lat.training",),
    "attack": ("lat.evaluation",),
    "harder": ("lat.evaluation", "lat.attacks.transfer", "lat.shared_images"),
    "audit": ("lat.evaluation", "lat.audit"),
    "equivalence": ("lat.equivalence",),
    "verify": ("lat.proofs",),
}
REGISTRIES: Mapping[str, str] = {"lat.attacks": "ATTACKS", "lat.defences": "DEFENCES", "lat.models": "MODELS"}

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def digest(step: str, used: Collection[str], package: Path = PACKAGE) -> str:
    """SHA-256 over the code that decides the step for a cell which uses the registered names `used`, as hexadecimal."""
    return _digest(step, tuple(sorted(used)), package)


@cache
def _digest(step: str, used: tuple[str, ...], package: Path) -> str:
    found = hashlib.sha256()
    for name, tree in modules(step, used, package).items():
        found.update(f"{name}\n{_spelled(tree)}\n".encode())
    return found.hexdigest()


def modules(step: str, used: Collection[str], package: Path = PACKAGE) -> dict[str, ast.Module]:
    """The modules that decide the step, by name in order, as trees: its entries and all that they import."""
    waiting, found = list(ENTRIES[step]), {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = _meaning(_path(name, package), name, used)
        waiting += _imports(found[name], name, package)
    return dict(sorted(found.items()))


def registered(name: str, package: Path = PACKAGE) -> list[str]:
    """The names that a registry holds, read from its source."""
    tree = ast.parse(_path(name, package).read_text())
    mapping = next(node.value for node in tree.body if _assigns(node, REGISTRIES[name]))  # type: ignore[attr-defined]
    return [ast.literal_eval(key) for key in mapping.keys]


def _spelled(value: object) -> str:
    """A tree in one spelling for all versions of Python: `ast.dump` as 3.11 writes it, without what was added since."""
    if isinstance(value, list):
        return f"[{', '.join(map(_spelled, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    given = [
        f"{name}={_spelled(entry)}"
        for name, entry in ast.iter_fields(value)
        if not (entry is None and getattr(type(value), name, ...) is None) and not (name == "type_params" and not entry)
    ]
    return f"{type(value).__name__}({', '.join(given)})"


def _meaning(path: Path, name: str, used: Collection[str]) -> ast.Module:
    """The module's tree without docstrings and the annotations of signatures; a registry's also without the entries
    that are not used, and their imports.
    """
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return _used_part(tree, REGISTRIES[name], used) if name in REGISTRIES else tree


def _used_part(tree: ast.Module, mapping: str, used: Collection[str]) -> ast.Module:
    body = [node for node in tree.body if not _assigns(node, "__all__")]
    for node in body:
        if _assigns(node, mapping):
            entries = node.value  # type: ignore[attr-defined]
            kept = [
                (key, value)
                for key, value in zip(entries.keys, entries.values, strict=True)
                if ast.literal_eval(key) in used
            ]
            entries.keys, entries.values = [key for key, _ in kept], [value for _, value in kept]
    needed = {node.id for top in body for node in ast.walk(top) if isinstance(node, ast.Name)}
    for node in body:
        if isinstance(node, ast.ImportFrom):
            node.names = [alias for alias in node.names if (alias.asname or alias.name) in needed]
    tree.body = [node for node in body if not (isinstance(node, ast.ImportFrom) and not node.names)]
    return tree


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _imports(tree: ast.Module, name: str, package: Path) -> set[str]:
    """The modules of the package that a tree imports anywhere in it, with the packages they lie in."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(
                f"{name}, line {node.lineno}: a relative import cannot be followed; write it from {package.name}"
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for registry in REGISTRIES:
        if registry != name and (asked := _asked_of(tree, registry)):
            origins = _origins(registry, package)
            names |= {origins[asked_for] for asked_for in asked if asked_for in origins}
    found = set()
    for entry in names:
        parts = entry.split(".")
        if parts[0] == package.name:
            found |= {".".join(parts[:k]) for k in range(2, len(parts) + 1)}
    return {entry for entry in found if _path(entry, package).exists()}


def _asked_of(tree: ast.Module, registry: str) -> set[str]:
    """The names that a module takes from a registry's package: `from lat.attacks import PGD`, or `attacks.PGD`."""
    above, _, last = registry.rpartition(".")
    asked: set[str] = set()
    aliases = {registry}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == registry:
            asked |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == above:
            aliases |= {alias.asname or alias.name for alias in node.names if alias.name == last}
        elif isinstance(node, ast.Import):
            aliases |= {alias.asname for alias in node.names if alias.name == registry and alias.asname}
    return asked | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _dotted(node.value) in aliases
    }


def _dotted(node: ast.expr) -> str:
    """A name, or names with dots between; empty for any other expression."""
    if isinstance(node, ast.Attribute):
        return f"{before}.{node.attr}" if (before := _dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


@cache
def _origins(registry: str, package: Path) -> Mapping[str, str]:
    """The module that each name in a registry's package is imported from."""
    body = ast.parse(_path(registry, package).read_text()).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in imports for alias in node.names}


def _path(name: str, package: Path) -> Path:
    path = package.parent.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

"""Shapes and types, checked while the tests run: those of every annotated function and dataclass of the modules that
import torch or names of shapes, at their top or where they need them. Modules without tensors are left to mypy, since
the checks cost more time than the tests themselves.

As for mypy, an int passes where a float is asked for. A Protocol of those modules has to be @runtime_checkable for
this, and a method returns its class by name (not Self).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
TENSORS = re.compile(r"^ *(?:import|from) (?:torch|jaxtyping|lat\.types)\b", re.MULTILINE)


def modules(package: Path) -> Iterator[str]:
    """The names of a package's modules that know tensors."""
    for path in sorted(package.rglob("*.py")):
        if TENSORS.search(path.read_text(encoding="utf-8")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def install(package: Path) -> AbstractContextManager[Any]:
    """From now on, or in a `with` block while it lasts, what is imported of a package is checked."""
    return install_import_hook(list(modules(package)), CHECKER)  # type: ignore[no-any-return]

"""mutmut's operators: the standard mutants of functions that no decorator changes."""

from __future__ import annotations

from collections.abc import Iterator

import libcst
from mutmut.mutation.file_mutation import create_mutations


def edited(source: str) -> Iterator[str]:
    """What mutmut's operators make of the source, but for those on strings: ours make one of each, messages left
    out.
    """
    module, mutations, *_ = create_mutations("module.py", source)
    for mutation in mutations:
        if not isinstance(mutation.original_node, libcst.BaseString | libcst.FormattedString):
            yield module.deep_replace(mutation.original_node, mutation.mutated_node).code

"""Every claim of `config/claims.yaml` judged: on the paper's printed numbers, and on a ledger.

The rules stand in that file, and `lat.claims.rules` has them as functions. How intervals and Holm's procedure go
together: all intervals shown are the plain 95 % ones, uncorrected. They give each claim a verdict; the p-values of the
same t statistics, joined over columns and comparisons, are corrected by Holm's procedure over all claims of one table
that the run asks for at one scale and in one reading, judged or not, and a verdict whose corrected p is above alpha
becomes undecided. Both are written: `by_intervals` and `verdict`. McNemar's exact test within each seed stands beside
and decides nothing.

What the file leaves open is decided here: the joint verdict over scales and readings is the one that all judged places
share, and undecided where they differ; `depends_on` says on what. A conjunction's joint verdict joins those of its
members. Cases of single figures are listed in `lat.claims.measured`, theory in `lat.claims.theory`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from lat.claims import consistency, judgement, listing, text
from lat.claims.examples import Examples
from lat.claims.measured import Source
from lat.claims.printed import Printed
from lat.claims.rules import Rules
from lat.measured import Ledger, Plan
from lat.run_files import read


def judge(
    file: Path,
    tables: Iterable[Mapping[str, Any]],
    ledger: Ledger,
    plan: Plan,
    folder: Path,
    equations: Mapping[str, Any] | None,
    notice: str = "",
    misleading: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Every claim of `file` in its order, with its verdicts as plain values.

    `tables` are those of `lat.tables.load_tables`; `folder` holds the verdicts by example of the run, as far as they
    are at hand; `equations` is `found` of `lat.statements.read`; `notice` is why the run's own figures judge nothing,
    where they do not; `misleading` are the checks of the audit that speak against gradients. Each entry has `id`,
    `claim` (our paraphrase), `kind`, `origin`, `added` (None for what was there from the start), `source`, `rule`,
    `reported` and `measured`, either with `verdict`, `text` (the figure that decided) and `reason`; `measured` also
    `depends_on` and `by`: a verdict a scale and reading, with all comparisons, and `doubts`, what the audit found
    against their rows, which decides nothing. Differences are points. Raises RunError where the file is not of its
    schema, or contradicts the tables or itself.
    """
    content = read(file, "claims", "claims")
    tables = list(tables)
    attacks = [column for column in tables[0]["columns"] if column != "clean"]
    rules, printed = Rules.of(content["rules"]), Printed.of(tables)
    consistency.check(content, printed, file.name)
    source = Source(ledger, plan, printed, rules, Examples(folder, attacks, rules.one_seed_alpha), misleading)
    return judgement.judge(content["claims"], source, equations, notice)


groups, counts, counts_by_place = text.groups, text.counts, text.counts_by_place
brief, full = listing.brief, listing.full

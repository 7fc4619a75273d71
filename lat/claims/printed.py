"""The rows of `config/tables.yaml` by table and label: the cell behind a row, and its printed numbers as decimals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from lat.claims.rules import FAVOURABLE

Operand = Mapping[str, str]


@dataclass(frozen=True)
class Printed:
    """The tables by id, their rows by (table, label), and the slips by (table, label, column)."""

    tables: Mapping[str, Mapping[str, Any]]
    rows: Mapping[tuple[str, str], Mapping[str, Any]]
    slips: frozenset[tuple[str, str, str]]

    @classmethod
    def of(cls, tables: Iterable[Mapping[str, Any]]) -> Printed:
        """From the entries of `lat.tables.load_tables`."""
        by_id = {str(table["id"]): table for table in tables}
        rows = {(name, row["row"]): row for name, table in by_id.items() for row in _rows(table)}
        slips = {
            (name, note["row"], note["column"])
            for name, table in by_id.items()
            for note in table["notes"]
            if note["kind"] == "slip"
        }
        return cls(by_id, rows, frozenset(slips))

    def row(self, operand: Operand) -> Mapping[str, Any]:
        return self.rows[operand["table"], operand["row"]]

    def number(self, operand: Operand, column: str) -> Decimal | None:
        """The printed fraction, exactly; None where it is a slip."""
        if (operand["table"], operand["row"], column) in self.slips:
            return None
        return Decimal(str(self.row(operand)["reported"][column]))

    def cell(self, operand: Operand, reading: str) -> str:
        """The cell behind a row in a reading: the row's `best` in the favourable one, where it has one."""
        row = self.row(operand)
        return str((row.get("best") if reading == FAVOURABLE else None) or row["cell"])

    def has_favourable(self, claim: Mapping[str, Any]) -> bool:
        """Whether some row that a claim compares has a favourable reading of its own."""
        return any(self.row(side).get("best") for side in operands(claim) if "value" not in side)


def operands(claim: Mapping[str, Any]) -> list[Operand]:
    """Every row that a claim names, as often as it names it."""
    return [pair[side] for pair in claim["comparisons"] for side in ("subject", "reference")]


def _rows(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*table["rows"], *(table.get("extra") or [])]

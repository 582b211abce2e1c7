"""
The proof that both sides are equal, and that every transaction was applied once.

The idea: it trusts nothing of the engine's. Counts come from plain SQL through the databases'
ordinary clients, and what they must be is what the shop's writer says it has committed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from engine.demo.shop import row_counts
from engine.demo.writer import WriterCounts

__all__ = ["Proof", "count_both"]

STATEMENT_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Proof:
    """Rows by table on both sides, of the tables that are there, and the ledger against the writer.

    ``ledger`` counts its rows in the target, ``numbers`` the different transactions in it.
    """

    source: dict[str, int]
    target: dict[str, int]
    transactions: int
    ledger: int
    numbers: int
    faults: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """All rows of the source."""
        return sum(self.source.values())


def count_both(source_url: str, target_url: str, written: WriterCounts) -> Proof:
    """Count every table of the shop at ``source_url`` and of the schema of its name in the target;
    ``faults`` says in words what is not as it must be.
    """
    schema = source_url.rpartition("/")[2]
    source = row_counts(source_url)
    options = f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s"
    with psycopg.connect(target_url, options=options) as connection:
        target = _target_counts(connection, schema)
        ledger, numbers = _ledger(connection, schema) if "ledger" in target else (0, 0)
    proof = Proof(source, target, written.transactions, ledger, numbers)
    for name in sorted(source.keys() | target.keys()):
        if source.get(name) != target.get(name):
            proof.faults.append(f"{name}: {source.get(name)} rows, mirrored {target.get(name)}")
    if not proof.transactions == ledger == numbers:
        proof.faults.append(
            f"ledger: {proof.transactions} transactions written, {ledger} applied,"
            f" {numbers} of them different"
        )
    return proof


def _ledger(connection: psycopg.Connection[tuple[Any, ...]], schema: str) -> tuple[int, int]:
    question = sql.SQL("SELECT count(*), count(DISTINCT number) FROM {}")
    table = sql.Identifier(schema, "ledger")
    count, numbers = connection.execute(question.format(table)).fetchone() or (0, 0)
    return count, numbers


def _target_counts(connection: psycopg.Connection[tuple[Any, ...]], schema: str) -> dict[str, int]:
    tables = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename", (schema,)
    ).fetchall()
    counts = {}
    for (name,) in tables:
        table = sql.Identifier(schema, name)
        question = sql.SQL("SELECT count(*) FROM {}").format(table)
        (count,) = connection.execute(question).fetchone() or (0,)
        counts[name] = count
    return counts

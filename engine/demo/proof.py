"""
Row counts on both sides, compared with each other and with the transactions of the shop's writer.
After a cutover the target also has what the writer has written there.

The counts use plain SQL through the databases' ordinary clients and none of the engine's code. The
table ``ledger`` has one row for each transaction that the writer has committed, so a transaction
that is lost or applied twice shows there.
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
    """The rows of each table on both sides, and the transactions written and applied.

    ``written`` counts those on the new side, too. ``applied`` is the number of rows of ``ledger``
    in the target. ``distinct`` is the number of different transactions among them. ``differences``
    is empty if all numbers agree.
    """

    source: dict[str, int]
    target: dict[str, int]
    written: int
    applied: int
    distinct: int
    differences: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The number of rows in the source."""
        return sum(self.source.values())


def count_both(source_url: str, target_url: str, written: WriterCounts) -> Proof:
    """Count every table of the shop at ``source_url``, and of the schema of that name in the
    target. ``written`` is what the shop's writer has committed, on both sides.
    """
    schema = source_url.rpartition("/")[2]
    source = row_counts(source_url)
    options = f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s"
    with psycopg.connect(target_url, options=options) as connection:
        target = _target_counts(connection, schema)
        applied, distinct = _ledger(connection, schema) if "ledger" in target else (0, 0)
    proof = Proof(source, target, written.transactions + written.new, applied, distinct)
    for name in sorted(source.keys() | target.keys()):
        new = written.rows.get(name, 0)
        if name not in source or source[name] + new != target.get(name):
            more = f" and {new} written there" if new else ""
            proof.differences.append(
                f"{name}: rows in the source {source.get(name, 'no table')}{more},"
                f" in the target {target.get(name, 'no table')}"
            )
    if source.get("ledger") != written.transactions:
        proof.differences.append(
            f"ledger: {written.transactions} transactions written on the source,"
            f" {source.get('ledger')} there"
        )
    if not proof.written == applied == distinct:
        proof.differences.append(
            f"ledger: {proof.written} transactions written, {applied} applied, {distinct} distinct"
        )
    return proof


def _ledger(connection: psycopg.Connection[tuple[Any, ...]], schema: str) -> tuple[int, int]:
    """The number of rows of the ledger in the target, and of different transactions in it."""
    query = sql.SQL("SELECT count(*), count(DISTINCT number) FROM {}")
    table = sql.Identifier(schema, "ledger")
    count, distinct = connection.execute(query.format(table)).fetchone() or (0, 0)
    return count, distinct


def _target_counts(connection: psycopg.Connection[tuple[Any, ...]], schema: str) -> dict[str, int]:
    tables = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename", (schema,)
    ).fetchall()
    counts = {}
    for (name,) in tables:
        table = sql.Identifier(schema, name)
        query = sql.SQL("SELECT count(*) FROM {}").format(table)
        (count,) = connection.execute(query).fetchone() or (0,)
        counts[name] = count
    return counts

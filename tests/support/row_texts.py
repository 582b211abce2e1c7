"""
Compares the row texts that source and target compute (``engine.toolkit.checksums``), value by
value.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any, NamedTuple

import msgspec
import psycopg

from engine.databases.mysql import row_text as of_mysql
from engine.databases.mysql.connect import connect, query
from engine.databases.mysql.identifiers import quote_name, quote_table
from engine.databases.mysql.row_reader import MySQLRowReader
from engine.databases.postgres import row_text as of_postgres
from engine.databases.postgres.identifiers import Naming, quote
from engine.databases.postgres.row_reader import PostgresRowReader
from engine.databases.postgres.session_settings import set_statements
from engine.databases.postgres.stored import Storage
from engine.databases.postgres.types import TEMPORAL
from engine.schema import Table
from engine.toolkit.checksums import EVERYTHING
from engine.verify.reader import SourceReader, comparable_rows
from sinks.postgres.settings import PostgresSettings
from sources.mysql.settings import MySQLSettings

__all__ = ["unequal_texts"]


class Value(NamedTuple):
    """A value of one column: the text that the database computes, and the canonical text."""

    computed: bytes
    canonical: str | None


def unequal_texts(source_url: str, target_url: str, table: Table) -> list[tuple[str, str | None]]:
    """The columns and values whose computed texts differ although the target is right. ``id`` is
    the key of the table. None on a server without SHA-256, which computes no texts.

    Fails if two values have one text, or a value none, or if the checksums differ although all
    texts are equal.
    """
    assert of_mysql.why_no_text(table) == of_postgres.why_no_text(table, table) == ""
    with (
        closing(MySQLRowReader(MySQLSettings(url=source_url))) as source_reader,
        closing(PostgresRowReader(PostgresSettings(url=target_url), Naming())) as target_reader,
    ):
        stored = SourceReader(source_reader, target_reader).comparable_rows(table)
        source_rows = stored([row for rows in source_reader.scan(table) for row in rows])
        comparable = comparable_rows(table)
        target_rows = [comparable(row) for rows in target_reader.scan(table) for row in rows]
        if source_reader.why_not_summed(table):
            return []
        sums = [it.sum_range(table, EVERYTHING) for it in (source_reader, target_reader)]
        parts = [it.sum_parts(table) for it in (source_reader, target_reader)]
    source = _values(table, _of_source(source_url, table), source_rows)
    target = _values(table, _of_target(target_url, table), target_rows)
    assert source.keys() == target.keys()
    unequal = []
    for n, column in enumerate(table.columns):
        texts: dict[bytes, str | None] = {}
        for row in source:
            pair = source[row][n], target[row][n]
            for computed, canonical in pair:
                assert computed.endswith(b","), (column, row)
                assert texts.setdefault(computed, canonical) == canonical, (column, row)
            assert pair[0].canonical == pair[1].canonical, (column, row)
            if pair[0].computed != pair[1].computed:
                unequal.append((column.source_type, pair[0].canonical))
    if not unequal:
        assert sums[0] == sums[1]
        assert parts[0] == parts[1]
    return unequal


def _values(table: Table, texts: dict[str, Any], rows: list[Any]) -> dict[str, list[Value]]:
    """By row: the value of each column."""
    place = table.ordinal("id")
    found = {}
    for row in rows:
        computed = [
            text.encode() if isinstance(text, str) else bytes(text) for text in texts[row[place]]
        ]
        found[row[place]] = [Value(*pair) for pair in zip(computed, row, strict=True)]
    return found


def _alone(table: Table) -> list[Table]:
    """A table for each column, which has that column alone."""
    return [
        msgspec.structs.replace(table, columns=(column,), key=(), indexes=())
        for column in table.columns
    ]


def _of_source(url: str, table: Table) -> dict[str, Any]:
    nulled = [(0,) if each.columns[0].type.kind in TEMPORAL else () for each in _alone(table)]
    texts = map(of_mysql.row_text, _alone(table), nulled)
    with closing(connect(MySQLSettings(url=url), timeout_seconds=30)) as connection:
        names = f"{quote_name('id')}, {', '.join(texts)}"
        rows = query(connection, f"SELECT {names} FROM {quote_table(table)}")
    return {str(row[0]): row[1:] for row in rows}


def _of_target(url: str, table: Table) -> dict[str, Any]:
    texts = map(of_postgres.row_text, _alone(Storage().table(table)))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(set_statements(connection.info.server_version, {}).encode())
        names = f"t.{quote('id')}, {', '.join(texts)}"
        sql = f"SELECT {names} FROM {Naming().sql(table.id)} AS t"
        return {str(row[0]): row[1:] for row in connection.execute(sql.encode()).fetchall()}

"""
Debezium's envelope around a change, as its connectors send it without schemas.

The idea: the envelope is theirs, the values are ours. They agree with a connector configured by
``decimal.handling.mode=string``, ``binary.handling.mode=base64`` and
``time.precision.mode=isostring``; see "Debezium's envelope" in docs/records.md.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import UnsetType

from engine.schema import Table, TableId

__all__ = ["Envelope", "SchemaEnvelope", "SourceBlock", "TransactionBlock", "source_block"]

LETTERS = {"insert": "c", "update": "u", "delete": "d", "read": "r", "truncate": "t"}


class SourceBlock(msgspec.Struct, frozen=True, gc=False):
    """Where a change comes from. ``ts_ms`` is the commit's time, ``gtid`` the transaction's id."""

    version: str
    connector: str
    name: str
    ts_ms: int
    snapshot: str
    db: str
    table: str
    gtid: str | None


class TransactionBlock(msgspec.Struct, frozen=True, gc=False):
    """The place within the transaction; both ordinals count from 1."""

    id: str
    total_order: int
    data_collection_order: int

    @classmethod
    def of(cls, id: str | None, order: int | None, ordinal: int) -> TransactionBlock | None:
        """The block, from ordinals that count from 0; None outside a transaction."""
        return None if id is None or order is None else cls(id, order + 1, ordinal + 1)


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The change of one row: ``op`` is c, u, d, r or t; ``ts_ms`` is when it was written."""

    before: dict[str, Any] | None
    after: dict[str, Any] | None
    source: SourceBlock
    op: str
    ts_ms: int
    transaction: TransactionBlock | None

    @classmethod
    def of(
        cls,
        op: str,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
        source: SourceBlock,
        ts_ms: int,
        transaction: TransactionBlock | None,
    ) -> Envelope:
        """The envelope of a change of our kind ``op``."""
        if op == "read":
            source = msgspec.structs.replace(source, snapshot="true")
        return cls(before, after, source, LETTERS[op], ts_ms, transaction)


class ColumnBlock(msgspec.Struct, frozen=True, rename="camel"):
    """One column of a changed table."""

    name: str
    type_expression: str
    position: int
    optional: bool
    generated: bool


class TableBlock(msgspec.Struct, frozen=True, rename="camel"):
    """The columns of a changed table."""

    primary_key_column_names: tuple[str, ...]
    columns: tuple[ColumnBlock, ...]


class TableChange(msgspec.Struct, frozen=True):
    """What happened to one table: CREATE, ALTER or DROP."""

    type: str
    id: str
    table: TableBlock | None


class SchemaEnvelope(msgspec.Struct, frozen=True):
    """The change of one table's schema, as on Debezium's schema change topic."""

    source: SourceBlock
    ts_ms: int
    database_name: str = msgspec.field(name="databaseName")
    ddl: str
    table_changes: tuple[TableChange, ...] = msgspec.field(name="tableChanges")

    @classmethod
    def of(
        cls,
        table: Table,
        after: Table | None,
        statement: str | UnsetType,
        source: SourceBlock,
        ts_ms: int,
    ) -> SchemaEnvelope:
        """The envelope of a change that made ``after`` of the table, or dropped ``table``."""
        kind = "DROP" if after is None else "CREATE" if after.version == 1 else "ALTER"
        block = None if after is None else _table_block(after)
        change = TableChange(kind, f'"{table.id.schema}"."{table.id.name}"', block)
        text = statement if isinstance(statement, str) else ""
        return cls(source, ts_ms, table.id.schema, text, (change,))


def source_block(
    name: str, table: TableId, transaction: str | None, committed_at: float
) -> SourceBlock:
    """The source block of a table's changes in one transaction."""
    milliseconds = int(committed_at * 1000)
    return SourceBlock(
        *(VERSION, "tailrace", name, milliseconds, "false"),
        *(table.schema, table.name, transaction),
    )


def _table_block(table: Table) -> TableBlock:
    return TableBlock(
        tuple(table.columns[ordinal].name for ordinal in table.key),
        tuple(
            ColumnBlock(column.name, column.source_type, number, column.nullable, column.generated)
            for number, column in enumerate(table.columns, 1)
        ),
    )


VERSION = version("tailrace")

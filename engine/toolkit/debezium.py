"""
Debezium's envelope of a change, as its connectors send it without schemas.

The envelope is Debezium's. The values are those of ``engine.toolkit.record``, and they agree with a
connector that has ``decimal.handling.mode=string``, ``binary.handling.mode=base64`` and
``time.precision.mode=isostring``. See "Debezium's envelope" in docs/records.md.
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
    """The origin of a change. ``ts_ms`` is the commit time in milliseconds, 0 if it is unknown.
    ``gtid`` is the source's id of the transaction."""

    version: str
    connector: str
    name: str
    ts_ms: int
    snapshot: str
    db: str
    table: str
    gtid: str | None


class TransactionBlock(msgspec.Struct, frozen=True, gc=False):
    """The place of a change in its transaction: among all its changes, and among those of its
    table. Both ordinals count from 1."""

    id: str
    total_order: int
    data_collection_order: int

    @classmethod
    def of(cls, id: str | None, order: int | None, ordinal: int) -> TransactionBlock | None:
        """Make the block from ordinals that count from 0; None outside a transaction."""
        return None if id is None or order is None else cls(id, order + 1, ordinal + 1)


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The change of one row, or a truncate. ``op`` is c, u, d, r or t. ``ts_ms`` is the time at
    which the envelope was made."""

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
        """Make the envelope; ``op`` is that of a ``Record``."""
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
    """A change of one table. ``type`` is CREATE, ALTER or DROP; ``table`` is None for DROP."""

    type: str
    id: str
    table: TableBlock | None


class SchemaEnvelope(msgspec.Struct, frozen=True):
    """The change of one table's schema, as in Debezium's schema change topic."""

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
        """Make the envelope of a change to ``after``; None if ``table`` was dropped."""
        kind = "DROP" if after is None else "CREATE" if after.version == 1 else "ALTER"
        block = None if after is None else _table_block(after)
        change = TableChange(kind, f'"{table.id.schema}"."{table.id.name}"', block)
        text = statement if isinstance(statement, str) else ""
        return cls(source, ts_ms, table.id.schema, text, (change,))


def source_block(
    name: str, table: TableId, transaction: str | None, committed_at: float
) -> SourceBlock:
    """Make the source block for the changes of a table in one transaction."""
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

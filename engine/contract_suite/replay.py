"""
The rows that a reader of change records has after it has applied them.

A sink that stores each change as a record (``engine.toolkit.record``) has no rows to compare. Its
``Target.rows`` returns those of such a reader:

    def rows(self, table):
        return replay(self.path.read_bytes().splitlines(), table)
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.change import Row, Rows
from engine.schema import Table
from engine.toolkit.memory_table import MemoryTable
from engine.toolkit.record import Record, decode_image, decode_record

__all__ = ["replay"]


def replay(lines: Iterable[bytes], table: Table) -> list[Row]:
    """Apply records in the plain envelope, in order, and return the rows of ``table``.

    Rows are applied by key, so a row that comes twice is there once. Raises KeyError if the records
    have not created the table, or have dropped it.
    """
    tables: dict[tuple[str, str], MemoryTable] = {}
    for line in lines:
        _apply(decode_record(line), tables)
    return list(tables[table.id.schema, table.id.name])


def _apply(record: Record, tables: dict[tuple[str, str], MemoryTable]) -> None:
    name = (record.schema, record.table)
    if isinstance(record.definition, msgspec.UnsetType):
        contents = tables[name]
        if record.op == "truncate":
            contents.clear()
        else:
            contents.apply(_rows_of(record, contents.table))
        return
    definition = record.definition
    previous, after = definition.previous, definition.table
    old = tables.pop((previous.schema, previous.name) if previous else name, None)
    if after is not None and old is not None:
        values = zip(after.names, decode_image(after, definition.filled), strict=True)
        filled = [(column, value) for column, value in values if column in definition.filled]
        tables[name] = old.altered(after, definition.renamed, filled)
    elif after is not None:
        tables[name] = MemoryTable(after)


def _rows_of(record: Record, table: Table) -> Rows:
    """The change that the record was made from."""
    images = [
        None if image is None else [decode_image(table, image)]
        for image in (record.before, record.after)
    ]
    masks = [
        None
        if image is None or len(image) == len(table.columns)
        else sum(1 << table.ordinal(name) for name in image)
        for image in (record.before, record.after)
    ]
    assert record.op in ("insert", "update", "delete", "read")
    return Rows(table, record.op, *images, *masks)  # type: ignore[arg-type]

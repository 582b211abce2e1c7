"""
The backfill in place: rows take the place of older ones by the table's key. Pure.

Rows that the source does not have are removed range by range of the key, as its chunks are read. If
the target may sort the key otherwise, they are removed at the end, by a twin with all keys of the
source (``engine.pipeline.keys``).
"""

from __future__ import annotations

from typing import Final

from engine.change import Chunk, DeleteRange
from engine.contract import ComparesKeys, Sink
from engine.errors import SchemaError
from engine.mapping.changes import Mapping
from engine.remedies import BACKFILL
from engine.schema import Table
from engine.toolkit.key_order import is_ordered

__all__ = ["others_of", "why_not_in_place"]

_MAPPED: Final = (
    "the table is mapped, and the target may sort the columns of its key otherwise than the source"
)


def why_not_in_place(before: Table, after: Table, sink: Sink, mapping: Mapping) -> str:
    """Why the rows of a table, which the target has as those of the version ``before``, cannot be
    replaced in place by those of ``after``; empty if they can.
    """
    if not (before.key and after.key):
        return "the table has no key"
    if not sink.capabilities.in_place:
        return "this target cannot do that"
    by_range = is_ordered(before) and is_ordered(after)
    keys = [
        [(it.columns[n].name, by_range or it.columns[n].type) for n in it.key]
        for it in (before, after)
    ]
    if keys[0] != keys[1]:
        return "the key of the table has changed"
    reason = mapping.why_not_in_place(before, after)
    if reason:
        return reason
    if not by_range:
        return "" if mapping.of(after) is None else _MAPPED
    return sink.why_not_by_range(mapping.target(after)) if isinstance(sink, ComparesKeys) else ""


def others_of(chunk: Chunk) -> DeleteRange:
    """The removal of the rows that the target has in the range of a chunk, and the chunk not."""
    table = chunk.table
    if chunk.range is None:
        raise SchemaError(
            "the source does not tell the ranges that it reads, so the table cannot be backfilled"
            " in place",
            hint=BACKFILL,
            table=table.id,
        )
    columns = tuple(table.columns[ordinal].name for ordinal in table.key)
    return DeleteRange(table, columns, chunk.range, chunk.rows)

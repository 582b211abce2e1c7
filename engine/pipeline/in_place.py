"""
The backfill in place: rows take the place of older ones by ranges of the table's key. Pure.
"""

from __future__ import annotations

from engine.change import Chunk, DeleteRange
from engine.contract import ComparesKeys, Sink
from engine.errors import SchemaError
from engine.mapping.changes import Mapping
from engine.remedies import BACKFILL
from engine.schema import Table
from engine.toolkit.key_order import why_not_by_range

__all__ = ["others_of", "why_not_in_place"]


def why_not_in_place(before: Table, after: Table, sink: Sink, mapping: Mapping) -> str:
    """Why the rows of a table, which the target has as those of the version ``before``, cannot be
    replaced in place by those of ``after``; empty if they can.
    """
    if reason := why_not_by_range(before) or why_not_by_range(after):
        return reason
    if not sink.capabilities.in_place:
        return "this target cannot do that"
    keys = [[it.columns[n].name for n in it.key] for it in (before, after)]
    if keys[0] != keys[1]:
        return "the key of the table has changed"
    reason = mapping.why_not_in_place(before, after)
    if reason or not isinstance(sink, ComparesKeys):
        return reason
    return sink.why_not_by_range(mapping.target(after))


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

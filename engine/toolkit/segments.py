"""
A batch, cut where the schema changes. Pure.

A sink that applies whole sets of rows does not need the order of rows of different tables, and of
one table it needs only the net changes (``engine.toolkit.compaction``). A schema change, and the
removal of all rows, take effect exactly at their place: the rows before and after them belong to
different versions or contents of the table. So ``segments`` collects rows by table up to the next
such change.

The actions of foreign keys (``Cascade``) take effect at their place, too. But rows of other tables
than those that they change may be applied before them, so the actions after single-row deletes are
collected and applied together.

New tables that follow each other are one segment, and so are tables that have caught up: a sink can
then create or index many tables in a few round trips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import get_args

import msgspec

from engine.change import (
    Cascade,
    CaughtUp,
    Change,
    DeletePart,
    DeleteRange,
    InPlace,
    KeepKeys,
    Replace,
    ReplaceColumns,
    ReplacePart,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.schema import Table, TableId

__all__ = ["CaughtUpTables", "NewTables", "RowRuns", "SchemaSegment", "Segment", "segments"]


class RowRuns(msgspec.Struct, frozen=True, gc=False):
    """Runs of rows by table, in order within each table. All runs of a table have one version."""

    by_table: dict[TableId, list[Rows]]


class NewTables(msgspec.Struct, frozen=True, gc=False):
    """Tables to be created, in order."""

    tables: list[Table]


class CaughtUpTables(msgspec.Struct, frozen=True, gc=False):
    """Tables to be indexed, in order: those of ``CaughtUp``."""

    tables: list[Table]


#: Changes of one table of the target that are segments as they are.
_TableChange = (
    SchemaChange
    | Truncate
    | DeletePart
    | Replace
    | ReplacePart
    | ReplaceColumns
    | InPlace
    | KeepKeys
    | DeleteRange
)
#: The changes that take effect exactly at their place.
_Cut = _TableChange | CaughtUp
_CUTS = frozenset(get_args(_Cut))

#: Changes of the target's tables. A ``SchemaChange`` alters, renames or drops a table.
SchemaSegment = NewTables | CaughtUpTables | _TableChange
Segment = RowRuns | Cascade | SchemaSegment


def segments(changes: Iterable[Change]) -> Iterator[Segment]:
    """Cut ``changes`` into segments, to be applied in this order; none of them is empty.

    ``Begin``, ``Commit`` and ``Heartbeat`` are left out.
    """
    runs: dict[TableId, list[Rows]] = {}
    cascades: list[Cascade] = []
    touched: set[TableId] = set()
    others: list[_Cut] = []
    for change in changes:
        # Exact types: isinstance with a union would take much of the time of a small transaction.
        if type(change) is Rows:
            if others:
                yield from _grouped(others)
                others = []
            if cascades and change.table.id in touched:
                if runs:
                    yield RowRuns(runs)
                    runs = {}
                yield from _joined(cascades)
                cascades, touched = [], set()
            runs.setdefault(change.table.id, []).append(change)
        elif type(change) is Cascade:
            if others:
                yield from _grouped(others)
                others = []
            cascades.append(change)
            touched.update(table.id for table in change.tables)
        elif type(change) in _CUTS:
            if runs:
                yield RowRuns(runs)
                runs = {}
            yield from _joined(cascades)
            cascades, touched = [], set()
            others.append(change)  # type: ignore[arg-type]  # its type is one of _CUTS
    if runs:
        yield RowRuns(runs)
    yield from _joined(cascades)
    if others:
        yield from _grouped(others)


def _joined(cascades: list[Cascade]) -> Iterator[Cascade]:
    """The same cascades, those of neighbouring deletes from one table as one."""
    start = 0
    for end, change in enumerate(cascades, 1):
        following = cascades[end] if end < len(cascades) else None
        if following is None or not _can_join(change, following):
            rows = [row for each in cascades[start:end] for row in each.before]
            yield msgspec.structs.replace(change, before=rows) if end - start > 1 else change
            start = end


def _can_join(one: Cascade, other: Cascade) -> bool:
    return (
        one.after is None
        and other.after is None
        and (one.parent, one.columns, one.tables) == (other.parent, other.columns, other.tables)
    )


def _grouped(changes: Iterable[_Cut]) -> list[Segment]:
    """The same changes, with neighbours joined where several tables make one segment."""
    grouped: list[Segment] = []
    for change in changes:
        last = grouped[-1] if grouped else None
        match change:
            case CaughtUp(table):
                if isinstance(last, CaughtUpTables):
                    last.tables.append(table)
                else:
                    grouped.append(CaughtUpTables([table]))
            case SchemaChange(before=None, after=Table() as table):
                if isinstance(last, NewTables):
                    last.tables.append(table)
                else:
                    grouped.append(NewTables([table]))
            case _:
                grouped.append(change)
    return grouped

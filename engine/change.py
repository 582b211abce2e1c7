"""
What travels from a source to a sink, in the order of the source's log.

A transaction is one ``Begin``, its changes, one ``Commit``. Positions arise only in ``Commit`` (and
``Heartbeat``), so nothing can be recorded as done that ends in the middle of a transaction.
Everything is immutable once it is handed on, and shared freely between threads; the only objects
made per row are the row tuples.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from engine.schema import Table

__all__ = [
    "Begin",
    "Change",
    "Chunk",
    "Commit",
    "Heartbeat",
    "Operation",
    "Position",
    "Row",
    "Rows",
    "SchemaChange",
    "CaughtUp",
    "Truncate",
]

Row = tuple[Any, ...]
Operation = Literal["insert", "update", "delete", "read"]


class Position(Protocol):
    """A place in a source's log.

    Opaque: ``str(position)`` is its durable text, which only its source can read and order. A plain
    ``str`` is a position. The text may be costly to make, so take it once per batch.
    """

    def __str__(self) -> str: ...


class Rows(msgspec.Struct, gc=False):
    """A run of row changes of one kind on one table, in order. Only its maker may change it, and
    only until it is handed on.

    ``before`` (update, delete) and ``after`` (insert, update, read) are lists of equal length of
    row tuples, each as wide as ``table.columns``; the list that does not apply is None. ``read`` is
    a row seen by the snapshot.

    ``before_present`` and ``after_present`` are bit masks (bit n: column n) where the log holds
    only part of the row image; None where all columns are there. An absent column holds None in the
    tuple, and absent is not NULL. The columns of the key are always present in both images; a key
    column that the log leaves out of an after image is filled from the before image.

    ``size`` is the number of bytes that the rows took in the log or on the wire.
    """

    table: Table
    op: Operation
    before: list[Row] | None
    after: list[Row] | None
    before_present: int | None = None
    after_present: int | None = None
    size: int = 0

    def __len__(self) -> int:
        rows = self.after if self.after is not None else self.before
        return len(rows) if rows is not None else 0

    def join(self, more: Rows) -> bool:
        """Take the rows that come next into our lists; False, with nothing done, if they are of
        another kind.
        """
        if (
            self.table is not more.table
            or self.op != more.op
            or self.before_present != more.before_present
            or self.after_present != more.after_present
        ):
            return False
        if self.before is not None:
            self.before += more.before or ()
        if self.after is not None:
            self.after += more.after or ()
        self.size += more.size
        return True


class SchemaChange(msgspec.Struct, frozen=True, gc=False):
    """One table before and after a schema change, effective exactly here.

    ``before`` is None for a new table, ``after`` is None for a dropped one; ids differ for a
    renamed one. ``renamed`` maps the old names of columns to new ones: what the two versions cannot
    tell. ``statement`` is the source's text, for people.
    """

    statement: str
    before: Table | None
    after: Table | None
    renamed: tuple[tuple[str, str], ...] = ()


class Truncate(msgspec.Struct, frozen=True, gc=False):
    """All rows of the table go, exactly here."""

    table: Table


class CaughtUp(msgspec.Struct, frozen=True, gc=False):
    """The stream has passed all that the table's snapshot has shown: from here on the table is
    right at each commit, so secondary indexes and constraints may be built. Made by the
    pipeline.
    """

    table: Table


class Begin(msgspec.Struct, frozen=True, gc=False):
    """The start of a transaction.

    ``transaction`` is the source's id of it, ``position`` where it starts, ``committed_at`` the
    source's commit time in Unix seconds (0.0 if the log has none).
    """

    transaction: str
    position: Position
    committed_at: float


class Commit(msgspec.Struct, frozen=True, gc=False):
    """The end of a transaction: a stream started at ``position`` goes on right after it."""

    position: Position
    committed_at: float


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """Outside a transaction: the log has reached ``position`` without a change to a followed table.

    ``at``, in Unix seconds, is up to when the log has been read: the source's time of the newest
    event passed over, now if there is nothing more, 0.0 where that is not known.
    """

    position: Position
    at: float


Change = Begin | Rows | SchemaChange | Truncate | CaughtUp | Commit | Heartbeat


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A part of a table as one read of the snapshot saw it.

    ``cursor`` is the durable text of the last key read, from which the next chunk goes on; None
    when this is the table's last chunk. ``seen`` is an upper bound: no change after it is visible
    in ``rows``. For a table without a key it is exact, the same for all its chunks. ``size`` is
    about the number of bytes that the rows took on the wire.
    """

    table: Table
    rows: list[Row]
    cursor: str | None
    high_watermark: Position
    size: int = 0

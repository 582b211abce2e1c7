"""
The changes that travel from a source to a sink, in the order of the source's log.

A transaction is one ``Begin``, its changes, and one ``Commit``. Only ``Commit`` and ``Heartbeat``
carry a position to resume from, so a checkpoint cannot end in the middle of a transaction. Changes
are immutable once they are handed on, and threads may share them. The only object made per row is
the row tuple.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from engine.schema import Part, Table, TableId

__all__ = [
    "JOINED_BYTES",
    "TWIN_PREFIX",
    "Begin",
    "Cascade",
    "CaughtUp",
    "Change",
    "Chunk",
    "Commit",
    "DeletePart",
    "DeleteRange",
    "Folding",
    "Heartbeat",
    "InPlace",
    "KeepKeys",
    "KeyRange",
    "Operation",
    "Position",
    "Replace",
    "ReplaceColumns",
    "ReplacePart",
    "Row",
    "Rows",
    "SchemaChange",
    "Truncate",
    "without_twin_prefix",
    "UnloggedPart",
]

#: Rows of consecutive events are joined up to this size.
JOINED_BYTES: Final = 64 << 10

Row = tuple[Any, ...]
Operation = Literal["insert", "update", "delete", "read"]


class Position(Protocol):
    """A place in a source's log.

    It is opaque: ``str(position)`` is its durable text, which only its source can parse and order.
    A plain ``str`` is a position. Making the text may be expensive, so call ``str`` once per batch.
    """

    def __str__(self) -> str: ...


class Rows(msgspec.Struct, gc=False):
    """Consecutive row changes of one operation on one table, in order. Only the source that builds
    it may change it, and only until it hands it on.

    ``before`` (update, delete) and ``after`` (insert, update, read) are lists of row tuples, of
    equal length where both are set; each tuple is as wide as ``table.columns``. The list that does
    not apply is None. The operation ``read`` stands for rows that a backfill has read.

    ``before_present`` and ``after_present`` are bit masks of the columns that the log contains
    (bit n: column n), or None if it contains all. A column that is absent holds None in the tuple;
    absent is not NULL. The columns of the key are always present in both images: a key column that
    the log leaves out of an after image is filled from the before image.

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
        """Append the rows that follow. Returns False and does nothing if table, operation or
        present columns differ, or if these rows have ``JOINED_BYTES`` or more.
        """
        if (
            self.size >= JOINED_BYTES
            or self.table is not more.table
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
    """The version of a table before and after a schema change, which takes effect at this place.

    ``before`` is None for a new table and ``after`` is None for a dropped one. The ids differ for a
    renamed table. ``renamed`` holds pairs of old and new column names, because the two versions do
    not tell a renamed column from a new one. ``filled`` names new columns with the value that
    existing rows have got in them, in the form of a row tuple; rows of a new column that is not
    among them have its constant default. ``computed`` names generated columns whose values existing
    rows have got from an expression of the new version, and existing columns that number their rows
    now: those with 0 or NULL may have got a number. ``statement`` is the source's SQL, for people.

    ``unlogged`` names new columns of which the log does not hold the values that existing rows have
    got, and ``reason`` says why. The pipeline reads these columns, or takes the change for an
    ``UnloggedChange`` of the table. A sink is never given such names.
    """

    statement: str
    before: Table | None
    after: Table | None
    renamed: tuple[tuple[str, str], ...] = ()
    filled: tuple[tuple[str, str], ...] = ()
    computed: tuple[str, ...] = ()
    unlogged: tuple[str, ...] = ()
    reason: str = ""


class Truncate(msgspec.Struct, frozen=True, gc=False):
    """All rows of the table are removed at this place."""

    table: Table


class Folding(NamedTuple):
    """Which texts of printable ASCII characters a foreign key takes for equal: those that differ
    only in ``case``, or in ``spaces`` at the end. Of other texts it is not known.
    """

    case: bool
    spaces: bool


class Cascade(msgspec.Struct, frozen=True, gc=False):
    """Foreign keys act at this place, because rows of ``parent`` were deleted or changed, and the
    log does not contain the rows that they delete or change.

    ``before`` and ``after`` hold the values of the parent's ``columns``, which foreign keys refer
    to; ``after`` is None for deleted rows. ``tables`` are those whose foreign keys may act, also
    indirectly. They may include tables that are not followed, which have no columns; a sink is
    given only those that it has to change. ``inexact`` says why a target cannot do what a foreign
    key does, by its table and name. ``folded`` says how a foreign key compares texts, by columns;
    the others compare all values exactly.
    """

    parent: TableId
    columns: tuple[str, ...]
    before: list[Row]
    after: list[Row] | None
    tables: tuple[Table, ...]
    inexact: Mapping[tuple[TableId, str], str] = {}
    folded: Mapping[tuple[TableId, str], tuple[Folding | None, ...]] = {}

    @property
    def images(self) -> int:
        """The number of tuples in ``before`` and ``after``."""
        return len(self.before) + len(self.after or ())


class DeletePart(msgspec.Struct, frozen=True, gc=False):
    """All rows of a part of the table are removed at this place. The log does not hold them."""

    table: Table
    part: Part


class UnloggedPart(msgspec.Struct, frozen=True, gc=False):
    """Rows of a part of the table are other ones from this place on, and the log does not hold
    them. The other rows are as they were, and so is the shape of the table. ``reason`` says what
    has happened.

    The pipeline backfills the part again, or takes it for an ``UnloggedChange`` of the table. A
    sink is never given it. ``statement`` is the logged statement without its values.
    """

    table: Table
    part: Part
    reason: str
    statement: str = ""


class CaughtUp(msgspec.Struct, frozen=True, gc=False):
    """The stream has passed the high watermark of the table's backfill. From here on the table is
    consistent at each commit, so the sink may build secondary indexes. The pipeline makes this
    change, not the source.
    """

    table: Table


#: The beginning of the name of a twin.
TWIN_PREFIX: Final = "tailrace_twin_"
#: The same, with the mark of a source's table among those that are merged.
_TWIN: Final = re.compile(rf"{TWIN_PREFIX}(?:@[0-9a-f]{{8}}@)?")


def without_twin_prefix(name: str) -> str:
    """The name of the table whose twin has the name ``name``; ``name`` if it is no twin's."""
    return _TWIN.sub("", name, count=1) if name.startswith(TWIN_PREFIX) else name


class Replace(msgspec.Struct, frozen=True, gc=False):
    """The table ``twin`` takes the place of ``before`` and becomes ``after``, in one step: readers
    of the target see all rows of the one or all rows of the other. ``twin`` and ``after`` differ
    only in their id: the twin's name is ``TWIN_PREFIX`` and the table's name. The pipeline makes
    this change, not the source.
    """

    before: Table
    twin: Table
    after: Table

    @property
    def steps(self) -> tuple[SchemaChange, SchemaChange]:
        """The same as two changes, for a sink whose readers do not see what is between them."""
        return SchemaChange("", self.before, None), SchemaChange("", self.twin, self.after)


class ReplacePart(msgspec.Struct, frozen=True, gc=False):
    """All rows of the table ``twin`` take the place of the rows of a part of ``table``, in one
    step, and the twin is dropped. Both tables differ only in their id. The pipeline makes this
    change, not the source.
    """

    table: Table
    twin: Table
    part: Part


class ReplaceColumns(msgspec.Struct, frozen=True, gc=False):
    """The rows of ``before`` get the values that ``twin`` has for their keys in ``columns``, the
    table becomes ``after``, and the twin is dropped, in one step. In ``before`` these columns hold
    NULL in all rows; ``twin`` has the key and these columns. Rows of the twin whose key the table
    does not have are left out. The pipeline makes this change, not the source.
    """

    before: Table
    twin: Table
    after: Table
    columns: tuple[str, ...]


class InPlace(msgspec.Struct, frozen=True, gc=False):
    """The table ``before`` gets the shape of ``after`` and keeps its rows, which are replaced from
    here on. Rows that the source does not have are removed by ranges of the key (``DeleteRange``),
    or by all keys at the end (``KeepKeys``). Unique values may be there twice until ``CaughtUp``,
    so a sink drops the secondary unique indexes until then. Both have the same id and key. The
    pipeline makes this change, not the source.
    """

    before: Table
    after: Table


class KeyRange(NamedTuple):
    """Keys above ``after`` and up to ``last``; None is no bound. A key is a tuple of the values of
    the key's columns, in the key's order and the forms of ``engine.schema``.
    """

    after: Row | None
    last: Row | None


class KeepKeys(msgspec.Struct, frozen=True, gc=False):
    """All rows of ``table`` whose keys the table ``twin`` does not have are removed. The twin has
    the columns of the key alone. The pipeline makes this change, not the source.
    """

    table: Table
    twin: Table


class DeleteRange(msgspec.Struct, frozen=True, gc=False):
    """All rows whose values of ``columns`` are in ``range`` are removed, but for those with the
    keys of the rows ``kept``. With ``share``, only rows of this part. The pipeline makes this
    change before it writes ``kept``; the columns have types that are sorted alike everywhere.
    """

    table: Table
    columns: tuple[str, ...]
    range: KeyRange
    kept: list[Row]
    share: Part | None = None


class Begin(msgspec.Struct, frozen=True, gc=False):
    """The start of a transaction.

    ``transaction`` is its id on the source and ``position`` is where it starts. ``committed_at`` is
    the source's commit time in Unix seconds, 0.0 if the log has none.
    """

    transaction: str
    position: Position
    committed_at: float


class Commit(msgspec.Struct, frozen=True, gc=False):
    """The end of a transaction. A stream that starts at ``position`` begins right after it."""

    position: Position
    committed_at: float


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """The log has reached ``position`` without a change to a followed table. It never stands inside
    a transaction.

    ``at`` is the time up to which the log has been read, by the source's clock, in Unix seconds:
    that of the newest event, the time now if the log holds nothing more, 0.0 if it is not known.
    """

    position: Position
    at: float


Change = (
    Begin
    | Rows
    | SchemaChange
    | Truncate
    | DeletePart
    | UnloggedPart
    | Cascade
    | CaughtUp
    | Replace
    | ReplacePart
    | ReplaceColumns
    | InPlace
    | KeepKeys
    | DeleteRange
    | Commit
    | Heartbeat
)


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A range of a table's rows, as one read shows it.

    ``cursor`` is the durable text of the last key in it, and the next chunk starts after that key;
    None marks the table's last chunk. ``high_watermark`` is an upper bound of the read: ``rows``
    show no change after it. For a keyless table it is exact, and the same for all chunks. ``size``
    is about the number of bytes that the rows took on the wire. ``range`` has the keys that were
    read, in which there are no other rows; the ranges of a table's chunks adjoin. It is None if the
    source does not tell: then the table cannot be backfilled in place.
    """

    table: Table
    rows: list[Row]
    cursor: str | None
    high_watermark: Position
    size: int = 0
    range: KeyRange | None = None

"""
What a source and a sink owe the pipeline. One contract test suite runs against every one of them.

Data flows source → pipeline → sink. Nothing flows back but ``Source.acknowledge``. A source blocks
and is called from worker threads; a sink is asynchronous and lives on the event loop. Both get all
they need in their constructor, which neither connects nor reads anything.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, Protocol

import msgspec

from engine.change import Begin, Change, Chunk
from engine.checkpoint import Checkpoint
from engine.schema import Table, TableId

__all__ = ["Applied", "Finding", "RowReader", "Sink", "Source", "State"]


class Finding(msgspec.Struct, frozen=True):
    """One result of a preflight check: ``action`` says what to type, empty where nothing is
    needed.
    """

    level: Literal["ok", "warning", "error"]
    subject: str
    message: str
    action: str = ""


class State(msgspec.Struct, frozen=True):
    """What a sink remembers of a pipeline: its checkpoint (None: never run) and the tables at
    it.
    """

    epoch: int
    checkpoint: Checkpoint | None
    tables: tuple[Table, ...]


class Applied(msgspec.Struct):
    """What one ``apply`` did, for metrics: counts only.

    ``rows`` counts row changes received, by table and operation. ``drift`` counts updates and
    deletes that hit no row and inserts that hit one, outside a snapshot. ``replaced`` counts values
    that the target cannot hold and a policy replaced, by table, column and reason.
    """

    rows: dict[tuple[TableId, str], int] = msgspec.field(default_factory=dict)
    drift: dict[TableId, int] = msgspec.field(default_factory=dict)
    replaced: dict[tuple[TableId, str, str], int] = msgspec.field(default_factory=dict)


class Source(Protocol):
    """A database, or its log, to be followed.

    Every method may block, is called from a thread, raises only ``TailraceError``, and has a
    deadline on each of its waits (a stalled connection is ``SourceLost``). ``stream`` runs on one
    thread while the others may run on another at the same time.
    """

    #: Whether the source can be read besides its log; False for log files.
    can_snapshot: ClassVar[bool]
    #: The struct that decodes the source's part of the configuration.
    Settings: ClassVar[type[msgspec.Struct]]

    def check(self) -> list[Finding]:
        """Preflight: connects, looks, changes nothing. Every finding says what to type."""
        ...

    def catalog(self, known: Collection[TableId] = ()) -> list[Table]:
        """The followed tables as they are now, ordered by id, without those that are ``known``;
        empty if the source knows only its log.
        """
        ...

    def estimates(self, tables: Sequence[Table]) -> Mapping[TableId, int]:
        """About how many rows each table holds; never a full scan. What is not known is left out,
        or 0.
        """
        ...

    def position(self) -> str:
        """The end of the log now: every transaction committed before the call is at or before
        it.
        """
        ...

    def reached(self, position: str, target: str) -> bool:
        """Whether a stream at ``position`` has seen everything that ``target`` stands for."""
        ...

    def includes(self, position: str, begin: Begin) -> bool:
        """Whether the transaction that ``begin`` starts is part of what ``position`` stands for."""
        ...

    def backlog(self, position: str) -> int | None:
        """Bytes of log after ``position``; None where the source cannot tell."""
        ...

    def stream(
        self, position: str | None, tables: Iterable[Table], waiting: Iterable[Table] = ()
    ) -> Iterator[list[Change]]:
        """Every change to a followed table after ``position`` (None: from the log's beginning).

        ``tables`` are the versions that hold at ``position``. ``waiting`` ones are there and will
        be copied later: a statement that may have found its table there does not make it followed,
        for its rows are not in the log. Each list is what one read of the log
        brought and is never empty; an idle source yields a ``Heartbeat`` at least every few
        seconds. Ends when ``stop`` is called, or when a finite log ends. A transaction starts with
        ``Begin`` and ends with ``Commit``; a list may hold parts of transactions. Raises
        ``SourceLost``, ``SourceError`` (purged log, incident), ``DecodeError``, ``SchemaError``.
        """
        ...

    def chunks(
        self, table: Table, cursor: str | None, low_watermark: str, *, rows: int, readers: int
    ) -> Generator[Chunk, None, None]:
        """The rows of ``table`` after ``cursor`` in key order, in chunks of about ``rows`` rows.

        Up to ``readers`` connections read ahead; the chunks come in order all the same.

        Each chunk shows the source at a moment not before ``low_watermark`` was visible to readers,
        which the source proves (``low_watermark`` is a position). ``rows`` have the columns of
        ``table``. The last chunk has no cursor; an empty table gives one empty chunk. A table
        without a key is read whole at one position. Raises ``ShapeChanged`` if the live table has
        another shape than ``table``. Closing the iterator stops the reading; ``close`` frees the
        connections.
        """
        ...

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        """Of those of ``tables`` that hold no row, the chunk that ``chunks`` would give.

        For many tables at a small part of its price; all of them have a key. A table that is left
        out may be empty all the same, or have another shape.
        """
        ...

    def row_reader(self) -> RowReader:
        """Plain reads for parity, over a connection of its own; ParityError if there is no such."""
        ...

    def acknowledge(self, position: str) -> None:
        """Everything up to ``position`` is durable in the target; the source may forget it."""
        ...

    def stop(self) -> None:
        """Make ``stream`` and ``chunks`` end soon; from any thread, any number of times."""
        ...

    def close(self) -> None:
        """Free all connections; idempotent. The source can be used again afterwards."""
        ...


class Sink(Protocol):
    """A target that takes changes and keeps the checkpoint with them.

    All methods but ``open`` are called by one task, in order. Raises only ``TailraceError``; a
    broken connection is ``SinkLost`` and leaves nothing of the open transaction behind.
    """

    Settings: ClassVar[type[msgspec.Struct]]

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        """Preflight: rights, version, and what of ``tables`` the target cannot hold."""
        ...

    async def open(self, epoch: int | None = None) -> State:
        """Connect and take over the pipeline.

        Without ``epoch`` a new, higher epoch is taken, which fences every older engine. With it
        (after a lost connection) the epoch must still be the newest, else ``Fenced``.
        """
        ...

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        """Apply in order, inside the open target transaction (one is opened if there is none).

        ``changes`` may be a part of a transaction, and may hold several. Only the net effect per
        key counts. Rows of a table in ``in_backfill`` may already be there or be gone: they are
        applied idempotently and are no drift. Rows of op ``read`` replace a row with their key.
        ``Begin``, ``Commit`` and ``Heartbeat`` carry no data. ``SchemaChange`` also records the
        table's version.
        """
        ...

    async def commit(self, checkpoint: Checkpoint) -> None:
        """Make everything applied and ``checkpoint`` durable together.

        Raises ``Fenced``, with nothing changed, if a newer epoch exists. After ``SinkLost`` the
        outcome is unknown and ``open`` tells it.
        """
        ...

    async def rollback(self) -> None:
        """Forget the open transaction; does nothing if there is none."""
        ...

    async def state(self) -> State | None:
        """What is stored, without taking the pipeline over or creating anything; None if nothing
        is.
        """
        ...

    def row_reader(self) -> RowReader:
        """Plain reads for parity, over a connection of its own; ParityError if there is no such."""
        ...

    async def close(self) -> None:
        """Free the connection; what was not committed is gone. Idempotent."""
        ...


class RowReader(Protocol):
    """Plain reads of a table for parity, through the database's ordinary client.

    It shares nothing with the codecs of the stream. Values come as text in one canonical form per
    neutral type (``toolkit.canonical``), so the two sides can be compared as they are. A key is
    the canonical text of the key's columns, in the key's order. Blocking; one call at a time.
    """

    def chunk(
        self,
        table: Table,
        after: tuple[str | None, ...] | None,
        limit: int,
        *,
        keys_only: bool = False,
    ) -> list[tuple[str | None, ...]]:
        """Up to ``limit`` whole rows, or keys, in the side's own key order, after the key
        ``after``; fewer only at the end."""
        ...

    def by_keys(
        self, table: Table, keys: Sequence[tuple[str | None, ...]], *, keys_only: bool = False
    ) -> list[tuple[str | None, ...]]:
        """The rows that have one of these keys, or their keys, in any order; also such whose key is
        only alike in the side's collation."""
        ...

    def scan(self, table: Table) -> Iterator[list[tuple[str | None, ...]]]:
        """All rows as one moment shows them, in lists, in any order; to be read to the end."""
        ...

    def count(self, table: Table) -> int:
        """The exact number of rows now."""
        ...

    def close(self) -> None:
        """Free the connection; idempotent."""
        ...

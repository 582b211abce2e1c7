"""
What a source and a sink provide to the pipeline.

Data flows source → pipeline → sink. Nothing flows back except ``Source.acknowledge``. A source
blocks, and is called from worker threads (``Source`` names the exceptions). A sink is asynchronous
and runs on the event loop. A constructor takes the settings, and neither connects nor reads
anything.

``Source`` is a log. ``SnapshotSource`` is a source whose tables can be read too, so they can be
backfilled. ``Readable`` is a source or a sink whose tables can be compared. A sink declares what it
can do in ``capabilities``. ``engine.contract_suite`` holds the tests that every source and sink
must pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from engine.change import Begin, Change, Chunk
from engine.checkpoint import Checkpoint
from engine.errors import SchemaError
from engine.schema import Part, Table, TableId

__all__ = [
    "Applied",
    "Capabilities",
    "ChecksPosition",
    "ComparesKeys",
    "FiltersRows",
    "Finding",
    "Interruptible",
    "NamesServer",
    "Reachable",
    "Readable",
    "ReadsByPolicy",
    "RefusesTables",
    "RowFilter",
    "RowReader",
    "SelectsTables",
    "Sink",
    "SnapshotSource",
    "Source",
    "State",
    "StoredText",
]


class Finding(msgspec.Struct, frozen=True):
    """One result of a preflight check. ``action`` says what to type; it is empty if nothing is to
    be done. ``code`` identifies the kind of finding for good, such as ``MY012``: docs/findings.md
    has the cause and the remedy of each. It is empty if the level is ``ok``.
    """

    level: Literal["ok", "warning", "error"]
    subject: str
    message: str
    action: str = ""
    code: str = ""


class State(msgspec.Struct, frozen=True):
    """What a sink stores for a pipeline: its epoch, its checkpoint (None before the first one), and
    the version of each followed table at that checkpoint.

    ``outdated`` has the tables whose rows are stored in another form than the sink's settings say,
    each with the reason. The pipeline treats them as after a change that the log does not show.

    ``generations`` has a number for each table, another one whenever the table is not live any
    more: what was found of its rows under one number says nothing of those under another.

    ``running`` says whether an engine is connected to the target for this pipeline; None if that
    is unknown. ``Sink.open`` need not set it.
    """

    epoch: int
    checkpoint: Checkpoint | None
    tables: tuple[Table, ...]
    outdated: Mapping[TableId, str] = {}
    running: bool | None = None
    generations: Mapping[TableId, int] = {}


class Applied(msgspec.Struct):
    """Counts of what one ``Sink.apply`` found.

    ``drift`` counts, by table, updates and deletes that hit no row and inserts that hit one; the
    tables of ``in_backfill`` have none. ``replaced`` counts values that the target cannot store
    and that a policy replaced, by table, column and reason; the pipeline adds those of the source
    (``ReadsByPolicy``).
    """

    drift: dict[TableId, int] = msgspec.field(default_factory=dict)
    replaced: dict[tuple[TableId, str, str], int] = msgspec.field(default_factory=dict)

    def joined(self, other: Applied) -> Applied:
        """The sums of both."""
        if not (self.drift or self.replaced):
            return other
        return Applied(
            dict(Counter(self.drift) + Counter(other.drift)),
            dict(Counter(self.replaced) + Counter(other.replaced)),
        )


class StoredText(NamedTuple):
    """How a target stores the values of one column, as canonical texts.

    ``store`` makes the text on the target from the source's; None is NULL. ``restore`` is its
    inverse for the texts of values that were replaced. ``policy`` is the setting that does so, and
    ``changed`` says what it changes, such as ``zero dates that became NULL``.
    """

    store: Callable[[str], str | None]
    restore: Callable[[str], str] = str
    policy: str = ""
    changed: str = ""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink can do.

    ``guarantee`` says how often a change is applied if the engine crashes. ``transactional``:
    ``rollback`` undoes everything since the last commit. ``upsert``: rows of a table in backfill
    are applied idempotently by key; a sink without it stores each change, and its reader applies
    them. ``schema_changes``: an altered, renamed, dropped or replaced table is followed; without it
    the pipeline stops at such a change. ``cascades``: a ``Cascade`` is applied; without it, a table
    that a foreign key changes is followed no more (``UnloggedChange``). ``parts``: ``DeletePart``
    and ``ReplacePart`` are applied; without it, there is an ``UnloggedChange``, too, and tables
    cannot be merged. ``computes``:
    the sink takes a ``SchemaChange`` with ``computed`` columns, which it computes, or refuses
    itself. ``in_place``: ``InPlace``, ``DeleteRange`` and ``KeepKeys`` are applied; without it, a
    table is backfilled again into a second one only. ``columns``: ``ReplaceColumns`` is applied;
    without it, a table is backfilled as a whole if the log lacks the values of new columns.
    """

    guarantee: Literal["exactly once", "at least once"]
    transactional: bool
    upsert: bool
    schema_changes: bool
    cascades: bool = False
    parts: bool = False
    computes: bool = False
    in_place: bool = False
    columns: bool = False


class Source(Protocol):
    """The log of a database.

    ``check``, ``stream``, ``position``, ``backlog``, ``close`` and the methods that read tables may
    block, and are called from worker threads; ``stream`` has a thread of its own, so the others may
    run at the same time. ``reached``, ``includes``, ``acknowledge`` and ``stop`` are called on the
    event loop and return at once. Methods raise only ``TailraceError``, and have a deadline on each
    of their waits (a stalled connection is ``SourceLost``).
    """

    #: The struct that decodes the source's part of the configuration.
    Settings: ClassVar[type[msgspec.Struct]]

    def check(self) -> list[Finding]:
        """Preflight: connect, inspect, change nothing. Findings that are not ok say what to do."""

    def stream(
        self,
        position: str | None,
        tables: Iterable[Table],
        discovered: Iterable[Table] = (),
        ignored: Collection[TableId] = (),
    ) -> Iterator[list[Change]]:
        """Yield every change to a followed table after ``position`` (None: the log's beginning).

        ``tables`` are the versions that are valid at ``position``. The tables of ``discovered``
        exist on the source and are not followed yet: they are backfilled later, so a
        ``CREATE TABLE IF NOT EXISTS`` in the log does not make the stream follow them. About the
        tables of ``ignored`` the stream reports nothing: they wait for their discovery, or are
        quarantined. Only a DROP is reported, as a ``SchemaChange`` from a table that may have no
        columns; so is a table that has lost its name.

        Each list is what one read of the log returned, is never empty, and may hold parts of
        transactions. A transaction starts with ``Begin`` and ends with ``Commit``. An idle source
        yields a ``Heartbeat`` at least every few seconds. The iterator ends when ``stop`` is called
        or a finite log ends. Raises ``SourceLost``, ``SourceError`` (purged log, incident),
        ``DecodeError``, ``SchemaError``, and ``UnloggedChange`` for a change of a followed table
        that the log does not show exactly.
        """

    def position(self) -> str:
        """The end of the log now. Transactions committed before the call are at or before it."""

    def reached(self, position: str, goal: str) -> bool:
        """Whether a stream at ``position`` has passed everything up to ``goal``."""

    def includes(self, position: str, begin: Begin) -> bool:
        """Whether ``position`` includes the transaction that ``begin`` starts."""

    def backlog(self, position: str) -> int | None:
        """The number of bytes of log after ``position``, or None if the source cannot tell."""

    def acknowledge(self, position: str) -> None:
        """The target has everything up to ``position`` durably, so the source may discard it."""

    def stop(self) -> None:
        """Make ``stream`` and ``chunks`` end soon. May be called from any thread, repeatedly."""

    def close(self) -> None:
        """Close all connections. Idempotent. The source can be used again afterwards."""


@runtime_checkable
class SnapshotSource(Source, Protocol):
    """A source whose tables can be read, so that they can be discovered and backfilled."""

    def catalog(self, known: Collection[TableId] = ()) -> list[Table]:
        """The tables that match the configuration, as they are now, ordered by id, without those
        in ``known``.
        """

    def estimates(self, tables: Sequence[Table]) -> Mapping[TableId, int]:
        """The approximate number of rows of each table, without a full scan. A table whose number
        is unknown is left out or 0.
        """

    def chunks(
        self,
        table: Table,
        cursor: str | None,
        low_watermark: str,
        *,
        rows: int,
        readers: int,
        part: Part | None = None,
        columns: Collection[str] = (),
    ) -> Generator[Chunk, None, None]:
        """Yield the rows of ``table`` after ``cursor`` in key order, about ``rows`` per chunk. With
        ``part``, only the rows of that part of a table with a key. With ``columns``, only these
        columns and the key, as rows of ``table.narrowed(columns)``.

        Each chunk shows at least everything up to the position ``low_watermark``; the source proves
        that for each read. Up to ``readers`` connections read ahead; chunks still come in order.
        Rows have the columns of ``table``. The last chunk has no cursor, and an empty table yields
        one empty chunk. A keyless table is read whole at one position. Raises ``ShapeChanged`` if
        the live table has another shape than ``table``, and ``TableRecreated`` if it was created
        anew during the read, such as by TRUNCATE, so that its shape may be the same. Each wait for
        the source's server has a deadline, because the chunks before may be in a transaction of the
        target that is open until the next one is there. Closing the iterator stops the reading;
        ``close`` closes the connections.
        """

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        """For each of ``tables`` that has no rows, the chunk that ``chunks`` would yield.

        This is much cheaper than ``chunks`` for many tables. All of them have a key. A table that
        is left out may still be empty, or have another shape.
        """


class RowFilter(msgspec.Struct, frozen=True):
    """A condition on the rows of a table: ``sql`` in the source's dialect, over ``columns``."""

    sql: str
    columns: tuple[str, ...]


@runtime_checkable
class FiltersRows(Protocol):
    """A source, or a reader of its rows, whose server can leave out rows that a mapping leaves out
    anyway, so that they need not be sent.
    """

    def filter(self, table: Table, rows: RowFilter) -> None:
        """From now on, ``SnapshotSource.chunks``, or ``RowReader.chunk`` and ``by_keys``, may leave
        out rows of this version of a table for which the condition is not true. A chunk of a
        ``RowReader`` then may have fewer rows than its limit, and only the end of the table has
        none.
        """


@runtime_checkable
class ChecksPosition(Protocol):
    """A source that can tell whether a stream can resume, without opening one."""

    def check_position(self, position: str, tables: Iterable[Table]) -> None:
        """Raise ``SourceError`` if a stream of ``tables`` cannot resume at ``position``: the log
        was purged or reset, or belongs to another server. May block.
        """


@runtime_checkable
class RefusesTables(SnapshotSource, Protocol):
    """A source that may have tables which match the configuration and cannot be followed."""

    def refused(self) -> Mapping[TableId, SchemaError]:
        """The tables that the last call of ``catalog`` has left out, each with the reason. They are
        quarantined, and the others are followed (``on_error``).
        """


@runtime_checkable
class PreparesTransactions(Protocol):
    """A source whose transactions may be prepared, and so be in the log before they take effect."""

    def unresolved(self, position: str) -> list[str]:
        """The transactions that are prepared at ``position``, which ``Source.position`` returned. A
        stream from there does not have their rows. Called on the event loop.
        """


@runtime_checkable
class SelectsTables(Protocol):
    """A source whose configuration selects tables by their names."""

    def selected(self, ids: Collection[TableId]) -> set[TableId]:
        """Those of ``ids`` that the configuration selects. May block."""


@runtime_checkable
class ReadsByPolicy(Protocol):
    """A source that reads some values by policies of its settings, and counts these values."""

    def outdated(self, tables: Iterable[Table]) -> Mapping[TableId, str]:
        """Those of ``tables``, which are stored versions, whose rows were read by other policies
        than those of today, each with the reason. They are treated as ``State.outdated``. Called on
        the event loop.
        """

    def take_replaced(self) -> Mapping[tuple[TableId, str, str], int]:
        """The number of values that a policy changed since the last call, by table, column and
        reason. Called on the event loop.
        """


class Sink(Protocol):
    """A target that stores changes, and the checkpoint with them.

    A pipeline calls all methods from one task, one at a time. They raise only ``TailraceError``. A
    broken connection is ``SinkLost`` and leaves nothing of the open transaction behind.
    """

    #: The struct that decodes the sink's part of the configuration.
    Settings: ClassVar[type[msgspec.Struct]]

    @property
    def capabilities(self) -> Capabilities:
        """What this sink can do, known without a connection."""

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        """Preflight: rights, version, and what the target cannot store of ``tables``."""

    async def open(self, epoch: int | None = None) -> State:
        """Connect and take the pipeline over.

        Without ``epoch``, take a new and higher epoch, which fences every older engine. With
        ``epoch`` (after a lost connection), raise ``Fenced`` unless it is still the newest.
        """

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        """Apply changes in order, inside the open target transaction; open one if there is none.

        ``changes`` may be part of a transaction, and may hold several. A sink with ``upsert`` may
        apply only the net change of each key. Rows of a table in ``in_backfill`` may already exist
        or be gone: they are applied idempotently and are no drift. Rows of operation ``read``
        replace the row with their key. ``Begin``, ``Commit`` and ``Heartbeat`` carry no data.
        ``SchemaChange`` also records the version of the table, and ``Replace`` that of ``after``.
        ``Cascade`` deletes or changes the rows that refer to the given values, then those that
        refer to these rows, and so on, until there are none (``engine.toolkit.cascades``).
        Raises ``UnloggedChange`` for a schema change that the target cannot do exactly.
        """

    async def commit(self, checkpoint: Checkpoint) -> None:
        """Make everything applied and ``checkpoint`` durable together.

        Raises ``Fenced`` and changes nothing if a newer epoch exists. After ``SinkLost`` the
        outcome is unknown, and ``open`` reads it.
        """

    async def rollback(self) -> None:
        """Undo the open transaction. Does nothing if there is none."""

    async def state(self) -> State | None:
        """What is stored, or None. Neither takes the pipeline over nor creates anything."""

    async def close(self) -> None:
        """Close the connection. Uncommitted changes are lost. Idempotent."""


@runtime_checkable
class ComparesKeys(Protocol):
    """A sink that may store keys in an order of its own, where a policy changes a type."""

    def why_not_by_range(self, table: Table) -> str:
        """Why the rows of a table cannot be replaced by ranges of its key, whose own types are
        sorted alike everywhere; empty if they can.
        """
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A sink whose waits can be ended, so that a pipeline stops soon whatever its target does."""

    def interrupt(self) -> None:
        """Make the method that waits for the target fail at once with ``SinkLost``.

        Called on the event loop while another task waits. The sink is closed afterwards.
        """


@runtime_checkable
class Reachable(Protocol):
    """A source or a sink that can tell whether its server accepts connections again."""

    def reachable(self) -> bool:
        """Whether a connection can be made now, within a few seconds. Called on a worker thread."""


@runtime_checkable
class NamesServer(Protocol):
    """A ``RowReader`` that tells which server it reads."""

    def server(self) -> str:
        """The name and the version of the server. May block."""


@runtime_checkable
class Readable(Protocol):
    """A source or a sink whose tables can be compared."""

    def row_reader(self) -> RowReader:
        """Plain reads over a connection of their own."""


class RowReader(Protocol):
    """Plain reads of a table through the database's ordinary client, to compare both sides.

    It shares no code with the codecs of the stream. Values are text in one canonical form per
    neutral type (``engine.toolkit.canonical``), so both sides can be compared as they are. A key is
    the canonical text of the key's columns, in the key's order. Methods block; one call at a time.
    """

    def chunk(
        self,
        table: Table,
        after: tuple[str | None, ...] | None,
        limit: int,
        *,
        keys_only: bool = False,
    ) -> list[tuple[str | None, ...]]:
        """Up to ``limit`` whole rows, or keys, after the key ``after``, in this side's own key
        order. They are fewer if they are large; none means the end of the table.
        """

    def by_keys(
        self, table: Table, keys: Sequence[tuple[str | None, ...]], *, keys_only: bool = False
    ) -> list[tuple[str | None, ...]]:
        """The rows with one of these keys, or their keys, in any order. May include rows whose key
        only compares equal in this side's collation.
        """

    def scan(self, table: Table) -> Iterator[list[tuple[str | None, ...]]]:
        """All rows at one moment, in lists, in any order. The caller reads to the end."""

    def count(self, table: Table) -> int:
        """The exact number of rows now."""

    def stored(self, table: Table) -> Sequence[StoredText | None]:
        """What this side, as a target, makes of the source's canonical texts by its policies, for
        each column; None for a column whose texts stay as they are.
        """

    def close(self) -> None:
        """Close the connection for good. Idempotent. Any thread may call it: a read on another one
        fails soon.
        """

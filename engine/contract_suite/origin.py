"""
What an author of a source provides to the contract suite (``Origin``), and what its tests share.

The tests know a source only by ``engine.contract.Source``. ``Origin.execute`` commits transactions
where the source finds them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from engine.change import Begin, Change, Chunk, Commit, Heartbeat, Row, Rows
from engine.contract import SnapshotSource, Source
from engine.schema import Table

__all__ = [
    "COLUMNS",
    "DEADLINE_SECONDS",
    "HEARTBEAT_SECONDS",
    "HISTORY",
    "Name",
    "Origin",
    "PROMPT_SECONDS",
    "RowChange",
    "Step",
    "Transaction",
    "catalog_of",
    "delete",
    "expected",
    "follow",
    "framed",
    "insert",
    "read_all",
    "snapshot_of",
    "steps",
    "tables_of",
    "update",
    "watched",
]

#: How long one source may be used; it is stopped then, and the test fails.
DEADLINE_SECONDS = 20.0
#: How often a source of these tests should show a heartbeat.
HEARTBEAT_SECONDS = 0.5
#: How soon ``stop`` has to work.
PROMPT_SECONDS = 3.0

Name = Literal["item", "remark"]
RowChange = tuple[str, Row | None, Row | None]

#: The columns of the tests' tables.
COLUMNS: Mapping[Name, tuple[str, ...]] = {
    "item": ("id", "code", "note"),
    "remark": ("code", "note"),
}


class Step(NamedTuple):
    """One change to one row of a table: ``old`` is None for an insert, ``new`` for a delete."""

    table: Name
    old: Row | None
    new: Row | None


def insert(table: Name, *rows: Row) -> list[Step]:
    """Insert rows."""
    return [Step(table, None, row) for row in rows]


def update(table: Name, old: Row, new: Row) -> list[Step]:
    """Update one row."""
    return [Step(table, old, new)]


def delete(table: Name, *rows: Row) -> list[Step]:
    """Delete rows."""
    return [Step(table, row, None) for row in rows]


class Origin(ABC):
    """A place with two empty tables, whose log the source follows. Each test gets a new one.

    The tables are ``item`` (``id`` int, the key; ``code`` and ``note``, text or NULL) and
    ``remark`` (``code`` and ``note``, keyless), of any schema. A source that has no catalog shows
    each of them when it first changes.
    """

    @abstractmethod
    def execute(self, *transactions: Sequence[Step]) -> None:
        """Commit these transactions, one after the other."""

    @abstractmethod
    def source(self) -> Source:
        """A new source that follows the two tables. An idle one should show a heartbeat every
        ``HEARTBEAT_SECONDS``.
        """

    def start(self) -> str | None:
        """The position from which a stream shows all transactions of ``execute``."""
        return None


HISTORY = (
    insert("item", (1, "a", "first"), (2, "b", None)),
    [
        *insert("remark", ("x", None), ("x", None)),
        *update("item", (1, "a", "first"), (1, "a", "2nd")),
    ],
    update("item", (2, "b", None), (20, "b", None)),
    [*delete("item", (20, "b", None)), *insert("item", (20, "c", "häß ☃"))],
    delete("remark", ("x", None)),
)


class Transaction(NamedTuple):
    """One transaction as it was streamed: its frame, and each row change in order."""

    begin: Begin
    steps: list[RowChange]
    commit: Commit

    @property
    def end(self) -> str:
        """The text of the position after it."""
        return str(self.commit.position)


def expected(*transactions: Sequence[Step]) -> list[list[RowChange]]:
    """The row changes of what was executed, by transaction."""
    return [list(transaction) for transaction in transactions]


def steps(transactions: Sequence[Transaction]) -> list[list[RowChange]]:
    """The row changes of what was streamed, by transaction."""
    return [transaction.steps for transaction in transactions]


@contextmanager
def watched(source: Source) -> Iterator[Source]:
    """Close the source at the end, and stop it at the deadline, so that no test hangs."""
    timer = threading.Timer(DEADLINE_SECONDS, source.stop)
    timer.start()
    try:
        yield source
    finally:
        timer.cancel()
        source.stop()
        source.close()


@contextmanager
def snapshot_of(origin: Origin) -> Iterator[SnapshotSource]:
    """As ``watched``, for a source whose tables can be read."""
    with watched(origin.source()) as source:
        assert isinstance(source, SnapshotSource)
        yield source


def catalog_of(source: Source) -> list[Table]:
    """The tables to stream with: those of the catalog, or none if the source has no catalog."""
    return source.catalog() if isinstance(source, SnapshotSource) else []


def tables_of(source: SnapshotSource) -> Mapping[str, Table]:
    """The tables of the catalog by name."""
    return {table.id.name: table for table in source.catalog()}


def follow(
    origin: Origin, position: str | None, count: int, tables: Sequence[Table] | None = None
) -> tuple[list[Transaction], list[Change]]:
    """The first ``count`` transactions after ``position``, and all changes that came until then.

    ``tables`` are the versions at ``position``; by default, those of the catalog.
    """
    changes: list[Change] = []
    with watched(origin.source()) as source:
        stream = source.stream(position, catalog_of(source) if tables is None else tables)
        while sum(isinstance(change, Commit) for change in changes) < count:
            piece = next(stream, None)
            assert piece is not None, f"the stream ended after {len(changes)} changes"
            assert piece, "a list is never empty"
            changes += piece
    return framed(changes)[:count], changes


def framed(changes: Sequence[Change]) -> list[Transaction]:
    """The transactions in ``changes``. Fails if a frame is broken."""
    found: list[Transaction] = []
    begin: Begin | None = None
    row_changes: list[RowChange] = []
    for change in changes:
        if isinstance(change, Begin):
            assert begin is None, "a transaction begins in another"
            begin, row_changes = change, []
        elif isinstance(change, Commit):
            assert begin is not None, "a commit without a begin"
            found.append(Transaction(begin, row_changes, change))
            begin = None
        elif isinstance(change, Heartbeat):
            assert begin is None, "a heartbeat inside a transaction"
        elif isinstance(change, Rows):
            assert begin is not None, "rows outside a transaction"
            row_changes += _each_row(change)
    return found


def _each_row(change: Rows) -> list[RowChange]:
    befores = change.before if change.before is not None else [None] * len(change)
    afters = change.after if change.after is not None else [None] * len(change)
    assert (change.before is None) == (change.op in ("insert", "read"))
    assert (change.after is None) == (change.op == "delete")
    name = change.table.id.name
    return [(name, old, new) for old, new in zip(befores, afters, strict=True)]


def read_all(chunks: Iterator[Chunk]) -> list[Chunk]:
    """All chunks. Fails unless exactly the last one has no cursor."""
    found = list(chunks)
    assert [chunk.cursor is None for chunk in found] == [False] * (len(found) - 1) + [True]
    return found

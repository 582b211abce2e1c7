"""
What an author of a sink provides to the contract suite (``Target``), and what its tests share.

The tests know a sink only by ``engine.contract.Sink``. ``Target.rows`` shows them the result.
"""

from __future__ import annotations

import asyncio
import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal, TypeVar

import msgspec
import pytest

from engine.change import Begin, CaughtUp, Change, Commit, Row, Rows, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Applied, Sink, State
from engine.schema import Column, Index, Table, TableId, Type

__all__ = [
    "A",
    "B",
    "C",
    "CODE",
    "DEADLINE_SECONDS",
    "Engine",
    "ID",
    "INT",
    "KEYLESS",
    "NOTE",
    "PIPELINE",
    "TABLE",
    "TEXT",
    "Target",
    "altered",
    "create",
    "delete",
    "insert",
    "read",
    "rows_of",
    "rule",
    "update",
]

#: The name of the pipeline: ``Target.sink`` passes it to the sink.
PIPELINE = "contract"
#: How long one test may take.
DEADLINE_SECONDS = 60

INT = Type("int32")
TEXT = Type("text")
ID = Column("id", INT, "int", nullable=False)
CODE = Column("code", TEXT, "varchar(20)")
NOTE = Column("note", TEXT, "text")
#: The table of most tests, with a secondary unique index.
TABLE = Table(
    TableId("contract_shop", "item"),
    (ID, CODE, NOTE),
    key=(0,),
    indexes=(Index("by_code", (1,), unique=True),),
)
KEYLESS = Table(TableId("contract_shop", "remark"), (CODE, NOTE))
#: Rows of ``TABLE``.
A, B, C = (1, "a", "first"), (2, "b", None), (3, "c", "häß ☃ 'x' \\ \t")

Capability = Literal[
    "transactional", "upsert", "schema changes", "cascades", "parts", "in place", "columns"
]
S = TypeVar("S")


class Target(ABC):
    """One empty place to write to. Each test gets a new one.

    ``counts_drift`` says whether ``Sink.apply`` counts drift. ``replays`` says whether ``rows``
    applies stored changes by key, as the readers of a sink without upsert do. If neither ``rows``
    nor the sink does that, the tests of backfilled tables are skipped.
    """

    counts_drift: bool = True
    replays: bool = False

    @abstractmethod
    def sink(self) -> Sink:
        """A new sink on this place for the pipeline ``PIPELINE``, as a restarted engine makes it.

        Several sinks may be open at the same time.
        """

    @abstractmethod
    def rows(self, table: Table) -> Iterable[Row]:
        """The committed rows in any order, in the value forms of ``engine.schema``; NULL is None.

        Raises KeyError if there is no such table. Must not use the sink.
        """

    def can(self, capability: Capability) -> bool:
        """Whether the tests of a capability apply."""
        declared = self.sink().capabilities
        if capability == "transactional":
            return declared.transactional
        if capability == "upsert":
            return declared.upsert or self.replays
        if capability == "cascades":
            return declared.cascades
        if capability == "in place":
            return declared.in_place
        if capability == "columns":
            return declared.columns
        return declared.schema_changes if capability == "schema changes" else declared.parts


def rule(
    *needs: Capability,
) -> Callable[[Callable[[S, Target], Awaitable[None]]], Callable[[S, Target], None]]:
    """Make a test of an asynchronous method. It has a deadline, and is skipped for a target that
    lacks one of the capabilities ``needs``.
    """

    def decorate(method: Callable[[S, Target], Awaitable[None]]) -> Callable[[S, Target], None]:
        @functools.wraps(method)
        def run(self: S, target: Target) -> None:
            for capability in needs:
                if not target.can(capability):
                    pytest.skip(f"the sink does not declare this capability: {capability}")

            async def bounded() -> None:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    await method(self, target)

            asyncio.run(bounded())

        return run

    return decorate


class Engine:
    """An engine that writes to a target. It counts positions: each commit is the next number."""

    def __init__(self, target: Target, sink: Sink | None = None) -> None:
        self.sink = sink or target.sink()
        self.epoch = 0
        self.position = 0

    async def __aenter__(self) -> Engine:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sink.close()

    async def open(self, epoch: int | None = None) -> State:
        """Open the sink, and resume from its checkpoint."""
        state = await self.sink.open(epoch)
        self.epoch = state.epoch
        self.position = int(state.checkpoint.position) if state.checkpoint else 0
        return state

    async def apply(self, *changes: Change, in_backfill: Sequence[Table] = ()) -> Applied:
        """Apply changes without a commit."""
        return await self.sink.apply(list(changes), {table.id for table in in_backfill})

    async def commit(self, **progress: TableProgress) -> None:
        """Commit at the next position, with the progress of tables by name."""
        self.position += 1
        by_id = {TableId("contract_shop", name): value for name, value in progress.items()}
        await self.sink.commit(Checkpoint(PIPELINE, self.epoch, str(self.position), 1.5, by_id))

    async def write(self, *changes: Change, in_backfill: Sequence[Table] = ()) -> Applied:
        """Write one source transaction in one target transaction."""
        begin = Begin(str(self.position + 1), str(self.position), 1.5)
        end = Commit(str(self.position + 1), 1.5)
        applied = await self.apply(begin, *changes, end, in_backfill=in_backfill)
        await self.commit()
        return applied


def rows_of(target: Target, table: Table) -> list[Row]:
    """The committed rows of a table, sorted, nulls last."""
    rows = map(tuple, target.rows(table))
    return sorted(rows, key=lambda row: [(value is None, value) for value in row])


def create(table: Table) -> list[Change]:
    """The log creates a table, which is live at once."""
    return [SchemaChange("CREATE", None, table), CaughtUp(table)]


def insert(*rows: Row, table: Table = TABLE) -> Rows:
    """The stream inserts rows."""
    return Rows(table, "insert", None, list(rows))


def read(*rows: Row, table: Table = TABLE) -> Rows:
    """A backfill has read rows."""
    return Rows(table, "read", None, list(rows))


def delete(*rows: Row, table: Table = TABLE) -> Rows:
    """The stream deletes rows."""
    return Rows(table, "delete", list(rows), None)


def update(*pairs: tuple[Row, Row], table: Table = TABLE) -> Rows:
    """The stream updates rows: pairs of the row before and after."""
    return Rows(table, "update", [old for old, _ in pairs], [new for _, new in pairs])


def altered(columns: tuple[Column, ...], *, indexes: tuple[Index, ...] = TABLE.indexes) -> Table:
    """The second version of ``TABLE``."""
    return msgspec.structs.replace(TABLE, columns=columns, indexes=indexes, version=2)

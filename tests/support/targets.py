"""
A PostgreSQL sink and its target, for tests.

A test applies changes through the sink and reads the target with an independent client. Each call
of a ``Target`` method runs the event loop until it is done, so tests are ordinary functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest

from engine.change import CaughtUp, Change, Row, Rows, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Applied, State
from engine.errors import TailraceError
from engine.schema import Table, TableId
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.support.servers import AnyServer

T = TypeVar("T")


class Target:
    """An open sink with an event loop, and an independent client that reads the target."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.url = url
        self.pipeline = "test"
        self.loop = asyncio.new_event_loop()
        self.sink = PostgresSink(PostgresSettings(url, **settings), self.pipeline)
        self.epoch = 0
        self.commits = 0

    def run(self, work: Awaitable[T]) -> T:
        async def bounded() -> T:
            return await asyncio.wait_for(work, 60)

        return self.loop.run_until_complete(bounded())

    def open(self, epoch: int | None = None) -> State:
        state = self.run(self.sink.open(epoch))
        self.epoch = state.epoch
        return state

    def create(self, *tables: Table, caught_up: bool = True) -> None:
        for table in tables:
            changes: list[Change] = [SchemaChange("", None, table)]
            self.apply(*changes, *([CaughtUp(table)] if caught_up else []))
        self.commit()

    def apply(self, *changes: Change, in_backfill: Collection[TableId] = ()) -> Applied:
        return self.run(self.sink.apply(changes, in_backfill))

    async def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and leave the transaction open."""
        session = self.sink._session
        async with session.translate_errors(), session.connection.pipeline():
            await session.begin_in_pipeline()
            await self.sink._state.save(checkpoint)

    def commit(self, progress: dict[TableId, TableProgress] | None = None) -> None:
        self.commits += 1
        self.run(
            self.sink.commit(
                Checkpoint(self.pipeline, self.epoch, str(self.commits), 1.5, progress or {})
            )
        )

    def do(self, *changes: Change, in_backfill: Collection[TableId] = ()) -> Applied:
        applied = self.apply(*changes, in_backfill=in_backfill)
        self.commit()
        return applied

    def refuses(self, *changes: Change) -> TailraceError:
        with pytest.raises(TailraceError) as raised:
            self.apply(*changes)
        self.run(self.sink.rollback())
        return raised.value

    def query(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET timezone = 'UTC'")
            cursor = connection.execute(query)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def rows(self, table: Table) -> list[tuple[Any, ...]]:
        names = ", ".join(f'"{name}"' for name in table.names)
        return sorted(
            self.query(f'SELECT {names} FROM "{table.id.schema}"."{table.id.name}"'), key=repr
        )

    def close(self) -> None:
        self.run(self.sink.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


@contextmanager
def opened(url: str, **settings: Any) -> Iterator[Target]:
    target = Target(url, **settings)
    try:
        target.open()
        yield target
    finally:
        target.close()


@contextmanager
def opened_database(server: AnyServer) -> Iterator[Target]:
    """A target in a new database, for all tests of a module."""
    name = f"t_{uuid4().hex[:12]}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        with opened(f"{server.url.rpartition('/')[0]}/{name}") as target:
            yield target
    finally:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def insert(table: Table, *rows: Row, present: int | None = None) -> Rows:
    return Rows(table, "insert", None, list(rows), after_present=present)


def read(table: Table, *rows: Row) -> Rows:
    return Rows(table, "read", None, list(rows))


def update(table: Table, *pairs: tuple[Row, Row]) -> Rows:
    return Rows(table, "update", [old for old, _ in pairs], [new for _, new in pairs])


def delete(table: Table, *rows: Row) -> Rows:
    return Rows(table, "delete", list(rows), None)


Fresh = Callable[[Any], str]

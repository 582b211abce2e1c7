"""
Rows of a backfill are applied while more of them are read, by as few COPYs as possible.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest

from engine.change import Row, Rows
from engine.contract import Applied
from engine.errors import ApplyError, SinkLost, SourceLost
from engine.sandbox.proxy import Proxy
from engine.schema import Table, TableId
from sinks.postgres import apply
from sinks.postgres.apply import Applier
from sinks.postgres.session import Session
from sinks.postgres.settings import PostgresSettings
from tests.support.histories import number, text
from tests.support.servers import AnyServer
from tests.support.targets import Target, read


@pytest.fixture
def table(shared: Target, request: pytest.FixtureRequest) -> Table:
    """A table that is backfilled."""
    name = request.node.name.replace("[", "_").rstrip("]")
    table = Table(TableId("shop", name[:63]), (number("id"), text("v")), key=(0,))
    shared.create(table, caught_up=False)
    return table


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The COPYs of the sink."""
    found: list[str] = []
    copy_from = Session.copy_from

    async def noted(self: Session, query: str, *arguments: Any, **more: Any) -> int:
        found.append(query)
        return await copy_from(self, query, *arguments, **more)

    monkeypatch.setattr(Session, "copy_from", noted)
    return found


def rows(*ids: int) -> list[Row]:
    return [(id, f"v{id}") for id in ids]


async def each(runs: Sequence[Rows]) -> AsyncIterator[Rows]:
    for run in runs:
        yield run


def apply_reads(target: Target, *runs: Rows) -> Applied:
    return target.run(target.sink.apply_reads(each(runs)))


def runs_of(table: Table, count: int) -> list[Rows]:
    return [read(table, *rows(n, n + 1)) for n in range(0, 2 * count, 2)]


def test_all_runs_are_one_copy(shared: Target, table: Table, copies: list[str]) -> None:
    keyless = Table(TableId("shop", "keyless_reads"), table.columns, key=())
    shared.create(keyless)
    assert apply_reads(shared, *runs_of(table, 10)) == Applied()
    assert apply_reads(shared, *(read(keyless, (n % 2, "x")) for n in range(4))) == Applied()
    assert apply_reads(shared) == Applied()
    shared.commit()
    assert shared.rows(table) == sorted(rows(*range(20)), key=repr)
    assert shared.rows(keyless) == [(0, "x"), (0, "x"), (1, "x"), (1, "x")]
    assert len(copies) == 2


@pytest.mark.parametrize("place", [0, 3, 9])
def test_rows_that_exist_are_replaced(
    shared: Target, table: Table, copies: list[str], place: int
) -> None:
    """Then all rows of the COPY are merged, and the next ones are not copied."""
    shared.query(f"INSERT INTO {table.id} VALUES ({2 * place}, 'old'), (1000, 'other')")
    assert apply_reads(shared, *runs_of(table, 10)) == Applied()
    assert len(copies) == 2
    assert apply_reads(shared, read(table, *rows(20)), read(table, *rows(21))) == Applied()
    assert len(copies) == 2
    shared.commit()
    assert shared.rows(table) == sorted([*rows(*range(22)), (1000, "other")], key=repr)


def test_a_copy_is_tried_again_after_some_runs(
    shared: Target, table: Table, copies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a COPY that has met a row that exists THEN as many runs as are set are staged."""
    monkeypatch.setattr(apply, "STAGED_INSERTS", 3)
    monkeypatch.setattr(shared.sink._session, "single_rows", 0)
    shared.query(f"INSERT INTO {table.id} VALUES (0, 'old')")
    apply_reads(shared, read(table, *rows(0)))
    copies.clear()
    apply_reads(shared, *runs_of(table, 6))
    assert ["pg_temp" in query for query in copies] == [True, True, True, False]
    shared.run(shared.sink.rollback())
    shared.open(shared.epoch)


def test_equal_keys_in_one_copy_are_refused_with_a_remedy(shared: Target, table: Table) -> None:
    """And not tried row by row, because one would replace the other in silence."""
    with pytest.raises(ApplyError, match="a second time") as raised:
        apply_reads(shared, read(table, (1, "a")), read(table, (1, "b")))
    assert not raised.value.of_rows
    assert raised.value.table == str(table.id)
    assert "Two rows of the source have the same key" in raised.value.hint
    shared.run(shared.sink.rollback())
    shared.open(shared.epoch)


def test_what_is_kept_of_a_copy_is_bounded(
    shared: Target, table: Table, copies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "KEPT_BYTES", 40)
    shared.query(f"INSERT INTO {table.id} VALUES (5, 'old')")
    runs = [read(table, (n, "x" * 18)) for n in range(8)]
    runs[6].size = 41
    assert apply_reads(shared, *runs) == Applied()
    shared.commit()
    assert shared.rows(table) == [(n, "x" * 18) for n in range(8)]
    # Two runs each, and one that is too large alone. The third COPY meets the row.
    assert ["pg_temp" in query for query in copies] == [False, False, False, True]


def test_nothing_is_applied_of_a_copy_that_fails(shared: Target, table: Table) -> None:
    async def broken() -> AsyncIterator[Rows]:
        yield read(table, *rows(1))
        raise SourceLost("the source is gone")

    with pytest.raises(SourceLost):
        shared.run(shared.sink.apply_reads(broken()))
    shared.run(shared.sink.rollback())
    shared.open(shared.epoch)
    with pytest.raises(ApplyError) as raised:
        apply_reads(shared, read(table, *rows(1)), read(table, (99999999999, "x")))
    assert raised.value.table == str(table.id)
    assert raised.value.of_rows
    shared.run(shared.sink.rollback())
    assert shared.rows(table) == []


def test_a_wait_for_the_source_is_no_wait_for_the_target(shared: Target, table: Table) -> None:
    """GIVEN a COPY that waits for the source THEN it may last as long as it likes, and fails if its
    process is gone afterwards."""
    session, waits = shared.sink._session, list[float | None]()

    async def slow(*, end: bool) -> AsyncIterator[Rows]:
        yield read(table, *rows(1))
        await asyncio.sleep(0)
        waits.append(session.waits_since)
        if end:
            pid = session.connection.info.backend_pid
            with psycopg.connect(shared.url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        yield read(table, *rows(2))

    shared.run(shared.sink.apply_reads(slow(end=False)))
    shared.commit()
    assert waits == [None]
    with pytest.raises(SinkLost):
        shared.run(shared.sink.apply_reads(slow(end=True)))
    shared.run(shared.sink.rollback())
    shared.open(shared.epoch)
    assert shared.rows(table) == rows(1, 2)


def test_many_chunks_take_two_round_trips(
    postgres: AnyServer, shared: Target, table: Table
) -> None:
    """BEGIN, SAVEPOINT and COPY are one, the data and its end another."""
    seconds, sink = 0.15, shared.sink

    async def times(url: str) -> float:
        session = Session(PostgresSettings(url))
        await session.connect()
        applier = Applier(session, sink._naming, sink._storage)
        started = time.monotonic()
        await applier.apply_reads(each(runs_of(table, 50)), Applied())
        elapsed = time.monotonic() - started
        await session.commit()
        await session.close()
        return elapsed

    with Proxy(postgres.host, postgres.port, delay_seconds=seconds / 2) as proxy:
        url = shared.url.replace(f":{postgres.port}/", f":{proxy.port}/")
        assert asyncio.run(times(url)) < 3 * seconds
    assert len(shared.rows(table)) == 100

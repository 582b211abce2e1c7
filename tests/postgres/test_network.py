"""
Connections to PostgreSQL that are lost without a sign: every wait ends in seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest
from psycopg.errors import UniqueViolation

from engine.errors import SinkLost, TailraceError
from engine.sandbox.proxy import Proxy
from engine.settings.loader import BatchSettings
from sinks.memory import MemoryStore
from sinks.postgres.session import Session
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sinks.postgres.watch import Watch
from sources.memory import MemoryDatabase, MemorySettings, MemorySource
from tests.support.memory_pipeline import (
    KEYED,
    all_live,
    insert,
    make_pipeline,
    many_tables,
    update,
)
from tests.support.servers import AnyServer
from tests.support.targets import Fresh
from tests.support.waiting import wait_until, wait_until_async


@pytest.fixture
def url(postgres: AnyServer, fresh_postgres_database: Fresh) -> str:
    return fresh_postgres_database(postgres)


@pytest.fixture
def proxy(postgres: AnyServer) -> Iterator[Proxy]:
    with Proxy(postgres.host, postgres.port) as proxy:
        yield proxy


def through(proxy: Proxy, url: str, port: int) -> str:
    return url.replace(f":{port}/", f":{proxy.port}/")


async def watched(url: str, *, timeout_seconds: float = 30.0) -> tuple[Session, Watch]:
    settings = PostgresSettings(url, timeout_seconds=timeout_seconds)
    session = Session(settings)
    await session.connect()
    watch = Watch(session, settings)
    await watch.start()
    return session, watch


def processes(url: str) -> int:
    """How many of the sink's processes execute a statement."""
    with psycopg.connect(url) as connection:
        ((count,),) = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tailrace'"
            " AND state = 'active' AND datname = current_database()"
        )
        return int(count)


def lost_while_waiting(
    url: str, seconds: float, disturb: Callable[[], object], **settings: float
) -> tuple[TailraceError, float]:
    """The error of a long statement that is disturbed, and how long it took to come."""

    async def scenario() -> tuple[TailraceError, float]:
        session, watch = await watched(url, **settings)
        waiting = asyncio.create_task(session.execute_bulk(f"SELECT pg_sleep({seconds})"))
        await wait_until_async(lambda: session.waits_since is not None)
        await asyncio.to_thread(disturb)
        started = time.monotonic()
        with pytest.raises(SinkLost) as raised:
            async with asyncio.timeout(60):
                await waiting
        took = time.monotonic() - started
        await watch.close()
        await session.close()
        return raised.value, took

    return asyncio.run(scenario())


def test_a_process_that_is_gone_ends_the_wait(postgres: AnyServer, proxy: Proxy, url: str) -> None:
    """The server's side is closed while a statement runs. The server looks for its client every few
    seconds, or ends when it answers.
    """
    error, took = lost_while_waiting(through(proxy, url, postgres.port), 4, proxy.half_open)
    assert "the server has ended its process" in str(error)
    assert took < 15
    assert processes(url) == 0


def test_a_process_that_waits_ends_the_wait(
    postgres: AnyServer, proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement's answer was lost."""
    monkeypatch.setattr("sinks.postgres.watch.QUIET_SECONDS", 1.0)
    error, took = lost_while_waiting(through(proxy, url, postgres.port), 1, proxy.lose)
    assert "waits for a statement that was sent already" in str(error)
    assert took < 10


def test_a_server_that_cannot_be_reached_ends_the_wait(
    postgres: AnyServer, proxy: Proxy, url: str
) -> None:
    far = through(proxy, url, postgres.port)
    error, took = lost_while_waiting(far, 3, proxy.freeze, timeout_seconds=1.0)
    assert "the server cannot be reached" in str(error)
    assert took < 15


def test_a_statement_that_works_is_waited_for(url: str) -> None:
    async def scenario() -> None:
        session, watch = await watched(url)
        assert await session.execute_bulk("SELECT pg_sleep(4)") == 1
        assert await watch.ask("SELECT $1::int", (7,)) == [(7,)]
        await watch.close()
        await session.close()

    asyncio.run(scenario())


def test_a_far_target_keeps_up(postgres: AnyServer, url: str) -> None:
    """100 transactions per second over five tables, with 200 ms to the target and 200 ms back."""
    tables = many_tables(5)
    database = MemoryDatabase()
    for table in tables:
        database.load(table, [(n, "a") for n in range(100)])
    near = make_pipeline(database, MemoryStore(), sink=PostgresSink(PostgresSettings(url), "test"))
    asyncio.run(near.run(until_caught_up=True))
    with Proxy(postgres.host, postgres.port, delay_seconds=0.2) as proxy:
        far = PostgresSettings(through(proxy, url, postgres.port))
        pipeline = make_pipeline(
            *(database, MemoryStore()),
            sink=PostgresSink(far, "test"),
            source=MemorySource(MemorySettings("memory:test"), database),
            batch=BatchSettings(),
        )
        lags: list[float] = []

        async def scenario() -> None:
            running = asyncio.create_task(pipeline.run())
            await wait_until_async(lambda: pipeline.status().lag_seconds == 0.0)
            started = asyncio.get_running_loop().time()
            for number in range(300):
                table = tables[number % 5]
                row = (number % 100, f"v{number}")
                database.commit(insert(table, (1000 + number, "b")), update(table, row, row))
                lags.append(pipeline.status().lag_seconds or 0.0)
                await asyncio.sleep(max(0.0, started + 0.01 * number - time.monotonic()))
            await wait_until_async(lambda: pipeline.status().position == "300")
            pipeline.stop()
            await running

        asyncio.run(scenario())
    assert max(lags) < 2.0
    with psycopg.connect(url) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {t.id}".encode()) for t in tables]
        assert [cursor.fetchone() for cursor in counts] == [(160,)] * 5


def test_what_waits_is_sent_with_a_copy(postgres: AnyServer, url: str) -> None:
    """BEGIN, SAVEPOINT and COPY take one round trip, the data and its end another one."""

    async def scenario(session: Session) -> list[float]:
        loop, times = asyncio.get_running_loop(), []
        await session.execute("CREATE TABLE public.t (id int PRIMARY KEY)")
        for text in (b"1\n2\n", b"3\n", b"2\n"):
            started = loop.time()
            await session.begin()
            copying = partial(session.copy, "COPY public.t FROM STDIN", [text])
            assert await session.in_savepoint(copying, (UniqueViolation,)) == (text != b"2\n")
            times.append(loop.time() - started)
        await session.commit()
        cursor = await session.execute("SELECT array_agg(id ORDER BY id) FROM public.t")
        assert await cursor.fetchone() == ([1, 2, 3],)
        await session.close()
        return times

    async def run(url: str) -> list[float]:
        session = Session(PostgresSettings(url))
        await session.connect()
        return await scenario(session)

    with Proxy(postgres.host, postgres.port, delay_seconds=0.1) as proxy:
        times = asyncio.run(run(through(proxy, url, postgres.port)))
    assert min(times) < 0.6, "more than two round trips of 0.2 s"


def make_inserts_wait(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION shop.wait() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_sleep(3600); RETURN NULL; END';"
            " CREATE TRIGGER wait AFTER INSERT ON shop.keyed EXECUTE FUNCTION shop.wait();"
            " ALTER TABLE shop.keyed ENABLE ALWAYS TRIGGER wait"
        )


def test_a_stop_is_obeyed_while_the_target_does_not_answer(
    postgres: AnyServer, proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline waits for a large statement over a connection that carries nothing."""
    monkeypatch.setattr("engine.pipeline.loop.STOP_SECONDS", 1.0)
    settings = PostgresSettings(through(proxy, url, postgres.port))
    database, target = MemoryDatabase(), PostgresSink(settings, "test")
    database.load(KEYED, [(1, "a")])
    pipeline = make_pipeline(database, MemoryStore(), sink=target)

    async def scenario() -> float:
        running = asyncio.create_task(pipeline.run())
        await wait_until_async(lambda: all_live(pipeline))
        await asyncio.to_thread(make_inserts_wait, url)
        database.commit(*(insert(KEYED, (n, "b")) for n in range(2, 200)))
        await asyncio.to_thread(wait_until, lambda: processes(url) == 1)
        proxy.freeze()
        started = time.monotonic()
        pipeline.stop()
        await running
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 8
    assert pipeline.status().state == "stopped"
    proxy.thaw()

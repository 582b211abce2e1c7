"""
Failures of the PostgreSQL sink: errors name their cause and never show a row value or a secret, and
nothing hangs.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import string
from typing import Any

import pytest

from engine.change import Row, SchemaChange
from engine.checkpoint import Checkpoint
from engine.errors import ApplyError, ConfigError, Fenced, SinkLost, TailraceError
from engine.sandbox import Server
from engine.schema import Column, Index, Table, TableId, Type
from engine.toolkit.policies import StoragePolicies
from sinks.postgres.session import Session
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sinks.postgres.staging import KEPT_TABLES
from tests.support.histories import KEYED, KEYLESS, number
from tests.support.servers import AnyServer
from tests.support.targets import Fresh, Target, delete, insert, opened, update
from tests.support.waiting import wait_until

MANY = 200
NAMES = Table(
    TableId("shop", "names"),
    (Column("name", Type("text"), "text", nullable=False), number("n")),
    key=(0,),
)


@pytest.mark.parametrize("count", [1, MANY], ids=["few", "many"])
def test_u0000_in_a_key_keeps_two_rows_apart(target: Target, count: int) -> None:
    target.create(NAMES)
    rows: list[Row] = [(f"a{n}", n) for n in range(count)]
    applied = target.do(insert(NAMES, *rows, ("a0\0", -1)))
    assert applied.replaced == {(NAMES.id, "name", "nul_byte"): 1}
    assert sorted(target.rows(NAMES)) == sorted([*rows, ("a0\U000f0000", -1)])
    assert target.do(delete(NAMES, *rows, ("a0\0", -1))).drift == {}
    assert target.rows(NAMES) == []


@pytest.mark.parametrize("count", [1, MANY], ids=["few", "many"])
def test_u0000_is_refused_by_policy(url: str, count: int) -> None:
    with opened(url, values=StoragePolicies(nul_byte="error")) as target:
        target.create(NAMES)
        rows: list[Row] = [(f"a{n}", n) for n in range(count)]
        error = target.refuses(insert(NAMES, *rows, ("a0\0", -1)))
        assert isinstance(error, ApplyError)
        assert "column name" in error.message
        assert error.table == "shop.names"
        assert "nul_byte" in error.hint


@pytest.mark.parametrize("count", [1, MANY], ids=["few", "many"])
def test_a_row_too_large_for_an_index_is_refused_for_good(target: Target, count: int) -> None:
    target.create(NAMES)
    wide = "".join(random.Random(1).choices(string.ascii_letters, k=8000))
    error = target.refuses(insert(NAMES, *((f"{n}{wide}", n) for n in range(count))))
    assert isinstance(error, ApplyError)
    assert error.table == "shop.names"
    assert "too long" in error.hint
    assert wide[:20] not in f"{error} {error.hint}"


def test_the_preflight_warns_of_indexes_whose_rows_may_be_too_large(target: Target) -> None:
    short = Column("s", Type("text", length=190), "varchar(190)")
    long = Column("l", Type("text", length=700), "varchar(700)")
    columns = (number("id"), short, long, Column("k", Type("enum", members=("x", "y")), "enum"))
    indexes = (
        Index("fits", (1, 3), unique=True),
        Index("wide", (2, 1), unique=True),
        Index("part", (2,), unique=True, prefix=True),
    )
    table = Table(TableId("shop", "t"), columns, key=(0,), indexes=indexes)
    findings = target.run(target.sink.check([table, NAMES]))
    warnings = [(its.subject, its.message) for its in findings if "2704" in its.message]
    assert [subject for subject, _ in warnings] == ["shop.t", "shop.names"]
    assert "index wide" in warnings[0][1]
    assert "key" in warnings[1][1]


def test_a_server_that_has_become_a_standby_is_a_lost_sink(target: Target) -> None:
    session = target.sink._session
    target.run(session.begin())
    target.run(session.execute("SET TRANSACTION READ ONLY"))
    error = target.refuses(SchemaChange("", None, KEYED))
    assert isinstance(error, SinkLost)
    assert "primary" in error.hint


def test_a_session_that_the_server_ended_for_being_idle_is_lost(target: Target) -> None:
    session = target.sink._session
    target.run(session.execute("SET idle_in_transaction_session_timeout = '10ms'"))
    target.run(session.begin())
    for _ in range(2):  # the first goes out in a pipeline, after which PostgreSQL starts no timeout
        target.run(session.execute("SELECT 1"))
    ended = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'tailrace'"
    wait_until(lambda: not target.query(ended), 20, "the session to end")
    assert isinstance(target.refuses(SchemaChange("", None, KEYED)), SinkLost)


def test_no_timeout_of_the_database_ends_a_session(url: str, target: Target) -> None:
    database = url.rpartition("/")[2]
    ((version,),) = target.query("SELECT current_setting('server_version_num')::int / 10000")
    names = ["idle_in_transaction_session_timeout", "statement_timeout", "idle_session_timeout"]
    names += ["transaction_timeout"] if version >= 17 else []
    for name in names:
        target.query(f"ALTER DATABASE {database} SET {name} = '1h'")
    target.open()

    async def shown() -> list[Any]:
        cursors = [await target.sink._session.execute(f"SHOW {name}") for name in names]
        return [await cursor.fetchone() for cursor in cursors]

    assert target.run(shown()) == [("0",)] * len(names)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tailrace:s3cr%ret@host/db",
        "postgresql:tailrace:s3cret@host/db",
        "postgresql://tailrace:s3cr/et@host/db",
        "postgresql://tailrace:12/s3cr@host/db",
        "postgresql://tailrace:p@s3cr@host/db",
        "postgresql://tailrace:s3cr@host:port/db",
        "password='s3cr",
    ],
)
def test_a_url_that_cannot_be_parsed_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        PostgresSettings(url)
    error = raised.value
    assert "s3cr" not in f"{error!r} {error} {error.hint}"
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert "%40" in error.hint


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tailrace:s3c%40et@host:5432/db?sslmode=require",
        "postgresql://tailrace:s3c:t@[::1]/db",
        "postgresql:///db?host=/tmp",
        "postgresql://one:1,two:2/db",
        "postgresql://u@%40abstract/db",
        "host=/tmp port=5433 dbname=a@b user=me",
        "",
    ],
)
def test_a_url_that_libpq_understands_is_accepted(url: str) -> None:
    assert PostgresSettings(url).url == url


@pytest.mark.parametrize("culprit", range(3))
def test_in_a_batch_of_several_tables_an_error_names_its_table(
    target: Target, culprit: int
) -> None:
    tables = [
        Table(TableId("shop", f"t{n}"), (number("id"), number("v")), key=(0,)) for n in range(3)
    ]
    target.create(*tables)
    target.do(*(insert(table, (1, 1)) for table in tables))
    changes = [
        update(table, ((1, 1), (1, 99999999999 if n == culprit else 2)))
        for n, table in enumerate(tables)
    ]
    error = target.refuses(*changes)
    assert isinstance(error, ApplyError)
    assert error.table == str(tables[culprit].id)
    assert "99999" not in f"{error} {error.hint}"
    target.query(f"ALTER TABLE shop.t{culprit} ADD CHECK (v < 5) NOT VALID")
    error = target.refuses(*(update(table, ((1, 1), (1, 7))) for table in tables))
    assert error.table == str(tables[culprit].id)
    assert not target.do(*(update(table, ((1, 1), (1, 3))) for table in tables)).drift


def test_a_server_process_that_hangs_in_a_copy_is_lost_soon(
    postgres: AnyServer, fresh_postgres_database: Fresh
) -> None:
    if not isinstance(postgres, Server):
        pytest.skip("only a private server's processes can be stopped")
    with opened(fresh_postgres_database(postgres), timeout_seconds=1.0) as target:
        target.create(KEYLESS, NAMES)
        target.apply(insert(KEYLESS, (1, "x")))
        process = target.sink._session.connection.info.backend_pid
        rows: list[Row] = [(f"{n}", n) for n in range(MANY)]
        rows += [("x" * 400_000, n) for n in range(MANY)]
        os.kill(process, signal.SIGSTOP)
        try:
            assert isinstance(target.refuses(insert(NAMES, *rows)), SinkLost)
        finally:
            os.kill(process, signal.SIGCONT)


def test_the_message_of_a_user_s_trigger_is_not_shown(target: Target) -> None:
    target.create(KEYED)
    target.query(
        "CREATE FUNCTION shop.no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'secret %', NEW.a; END $$;"
        " CREATE TRIGGER no BEFORE INSERT ON shop.things FOR EACH ROW EXECUTE FUNCTION shop.no();"
        " ALTER TABLE shop.things ENABLE ALWAYS TRIGGER no"
    )
    error = target.refuses(insert(KEYED, (1, 1, "value", "")))
    assert "value" not in f"{error} {error.hint}"
    assert "RaiseException" in str(error)


def test_an_older_engine_that_hangs_keeps_no_locks(target: Target, url: str) -> None:
    """It hangs in the middle of a batch."""
    target.create(KEYED, KEYLESS)
    target.apply(insert(KEYED, *((n, n, "", "") for n in range(MANY))), insert(KEYLESS, (1, "x")))
    with opened(url, timeout_seconds=5.0) as newer:
        newer.do(SchemaChange("", KEYED, None))
        newer.do(SchemaChange("", KEYLESS, None))
        with pytest.raises(Fenced):
            target.commit()


def test_an_older_engine_that_hangs_in_its_commit_is_ended(target: Target, url: str) -> None:
    target.create(KEYLESS)
    target.run(target.save(Checkpoint("test", target.epoch, "9")))
    with pytest.raises(SinkLost, match="cannot be taken over yet"):
        asyncio.run(PostgresSink(PostgresSettings(url, timeout_seconds=0.2), "test").open())
    with opened(url) as newer:
        assert newer.epoch == target.epoch + 1


def test_an_engine_that_reconnects_ends_its_old_session(target: Target, url: str) -> None:
    target.create(KEYLESS)
    target.apply(insert(KEYLESS, (1, "x")))
    again = Target(url)
    again.open(target.epoch)
    again.do(SchemaChange("", KEYLESS, None))
    again.close()


def test_a_session_that_is_no_longer_the_owner_s_is_not_ended(target: Target, url: str) -> None:
    target.create(KEYLESS)
    target.query("UPDATE tailrace.checkpoint SET owner_started = owner_started - interval '1 s'")
    target.apply(insert(KEYLESS, (1, "x")))
    with opened(url):
        assert target.run(target.sink._session.execute("SELECT 1")).rowcount == 1


def test_only_some_staging_tables_are_kept(target: Target) -> None:
    tables = [
        Table(TableId("shop", f"t{n}"), (number("id"),), key=(0,)) for n in range(KEPT_TABLES + 8)
    ]
    target.create(*tables)
    staged: list[Row] = [(n,) for n in range(MANY)]

    def kept() -> int:
        ((kept,),) = target.query(
            "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'"
        )
        return int(kept)

    for table in tables:
        target.do(insert(table, *staged), in_backfill={table.id})
    assert kept() == KEPT_TABLES
    target.apply(*(delete(table, *staged) for table in tables))
    target.run(target.sink.rollback())
    assert kept() == KEPT_TABLES
    for _ in range(2):
        target.do(*(insert(table, *staged) for table in tables), in_backfill={t.id for t in tables})
    assert not target.do(*(delete(table, *staged) for table in tables)).drift
    target.do(insert(tables[0], *staged), in_backfill={tables[0].id})
    assert [len(target.rows(table)) for table in tables] == [MANY] + [0] * (len(tables) - 1)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_nothing_is_executed_if_the_savepoint_fails(url: str) -> None:
    async def run() -> None:
        session = Session(PostgresSettings(url))
        await session.connect()
        await session.execute("CREATE TABLE public.t (id int)")

        async def insert() -> int:
            return await session.execute_bulk("INSERT INTO public.t VALUES (1)")

        async def copy() -> int:
            return await session.copy("COPY public.t FROM STDIN", [b"2\n"])

        for execute in (insert, copy):
            with pytest.raises(TailraceError):
                await session.in_savepoint(execute, ())  # no transaction is open
        assert await (await session.execute("SELECT * FROM public.t")).fetchall() == []
        await session.close()

    asyncio.run(run())

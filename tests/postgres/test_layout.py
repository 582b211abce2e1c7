"""
The upgrade of a stored state of layout 1, written by version 0.1.0 (``tests/fixtures/state``).

It keeps the state, it stops the engines of older versions, and it happens as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import errors as pg

from engine.checkpoint import Checkpoint
from engine.contract import State
from engine.errors import SinkError, SinkLost
from sinks.postgres.session import Session
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.conftest import AnyServer
from tests.support.commands import run_tailrace
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import connect_mysql, drop_mysql_database
from tests.support.stored_state import (
    CUSTOMER,
    EMPTY,
    FOLDER,
    ORDERS,
    POSITION,
    POSTGRES_PROGRESS,
    TABLES,
    VISIT,
    statements,
)
from tests.support.targets import Fresh

#: The statements of version 0.1.0 for pipeline %s.
OLD_TAKE = (
    "INSERT INTO tailrace.checkpoint (pipeline, epoch) VALUES (%s, 1)"
    " ON CONFLICT (pipeline) DO UPDATE SET epoch = checkpoint.epoch + 1 RETURNING epoch"
)
OLD_READ = "SELECT state, seen FROM tailrace.progress WHERE pipeline = %s"
OLD_SAVE = "UPDATE tailrace.checkpoint SET position = 'old' WHERE pipeline = %s AND epoch = 1"
OLD_SAVE_PROGRESS = "UPDATE tailrace.progress SET state = 'live' WHERE pipeline = %s"
OLD_SAVE_TABLES = "UPDATE tailrace.tables SET indexed = true WHERE pipeline = %s"
OLD = (OLD_TAKE, OLD_READ, OLD_SAVE, OLD_SAVE_PROGRESS, OLD_SAVE_TABLES)

#: A table version with an escaped U+0000, and with a field that no version knows.
STRANGE = (
    r'{"id":{"schema":"s","name":"t"},"columns":[{"name":"c","type":{"kind":"text"},"native":'
    r'"text","default":"\u0000native"},{"name":"native","type":{"kind":"int8"},"native":"tinyint"}],'
    r'"more":[1.50]}'
)


@pytest.fixture
def url(postgres_family: AnyServer, fresh_postgres_database: Fresh) -> str:
    """A database with the state of pipeline ``legacy``, and of ``other``, which has one table."""
    url = fresh_postgres_database(postgres_family)
    load(url)
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO tailrace.checkpoint (pipeline, epoch, position) VALUES ('other', 1, 'p')"
        )
        connection.execute(
            "INSERT INTO tailrace.progress VALUES ('other', 's', 't', 'live', NULL, 7, 8, NULL)"
        )
        connection.execute(
            "INSERT INTO tailrace.tables VALUES ('other', 's', 't', 's', 't', true, %s)", (STRANGE,)
        )
    return url


def load(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute((FOLDER / "postgres-layout-1.sql").read_bytes())


def query(url: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(text).fetchall()  # type: ignore[call-overload,no-any-return]


def layout(url: str) -> int:
    ((version,),) = query(url, "SELECT version FROM tailrace.layout")
    return int(version)


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the schema ``tailrace``, by table."""
    names = query(
        url,
        "SELECT relname FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'tailrace'::regnamespace",
    )
    return {name: sorted(query(url, f"TABLE tailrace.{name}"), key=repr) for (name,) in names}


def shape(url: str) -> list[tuple[Any, ...]]:
    """Columns and constraints of the schema ``tailrace``. PostgreSQL 18 names the constraints NOT
    NULL, too; their names are left out, because nothing refers to them."""
    columns = query(
        url,
        "SELECT c.relname, attname, format_type(atttypid, atttypmod), attnotnull,"
        " pg_get_expr(adbin, adrelid) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
        " LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)"
        " WHERE relnamespace = 'tailrace'::regnamespace AND attnum > 0 AND NOT attisdropped"
        " ORDER BY relname, attnum",
    )
    constraints = query(
        url,
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'tailrace'::regnamespace AND contype <> 'n' ORDER BY 1, 2",
    )
    return columns + constraints


def sink(url: str, pipeline: str = "legacy", **settings: Any) -> PostgresSink:
    return PostgresSink(PostgresSettings(url, **settings), pipeline)


def opened(url: str, pipeline: str = "legacy", **settings: Any) -> State:
    async def run() -> State:
        target = sink(url, pipeline, **settings)
        try:
            return await target.open()
        finally:
            await target.close()

    return asyncio.run(run())


def expected(epoch: int) -> State:
    checkpoint = Checkpoint("legacy", epoch, POSITION, 1795286364.7084239, POSTGRES_PROGRESS)
    return State(epoch, checkpoint, TABLES, generations=dict.fromkeys(POSTGRES_PROGRESS, 0))


def test_the_first_open_upgrades(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tailrace"):
        first, second = opened(url), opened(url)
    assert (first, second) == (expected(3), expected(4))
    assert layout(url) == 2
    (line,) = [record for record in caplog.records if record.name == "tailrace.state"]
    assert "upgraded" in line.getMessage()
    assert vars(line).items() >= {"from_layout": 1, "to_layout": 2, "tables": 5}.items()
    found = everything(url)
    tables = ["checkpoint", "command", "comparison", "cutover", "dead_letter", "layout", "proof"]
    assert sorted(found) == [*tables, "repair_key", "table_progress", "table_version"]
    other = ("other", "s", "t", "live", None, 7, 8, None, False, None, None, False, [], 0.0, 0)
    assert other in found["table_progress"]


def test_an_upgraded_schema_is_like_a_new_one(
    url: str, postgres_family: AnyServer, fresh_postgres_database: Fresh
) -> None:
    opened(url)
    new = fresh_postgres_database(postgres_family)
    opened(new)
    assert shape(url) == shape(new)


def test_columns_and_tables_that_layout_2_lacks_are_added(url: str) -> None:
    """GIVEN a state of layout 2 from before its release WHEN it is opened THEN it is like a new
    one, with its rows; when it is opened again, nothing is locked."""
    opened(url)
    new, rows = shape(url), everything(url)["table_progress"]
    with psycopg.connect(url) as connection:
        connection.execute("ALTER TABLE tailrace.checkpoint DROP COLUMN paused")
        connection.execute(
            "ALTER TABLE tailrace.table_progress DROP COLUMN in_place, DROP COLUMN columns,"
            " DROP COLUMN changed_at, DROP COLUMN generation"
        )
        connection.execute("ALTER TABLE tailrace.table_version ALTER indexed SET NOT NULL")
        connection.execute("DROP TABLE tailrace.command, tailrace.dead_letter, tailrace.proof")
        connection.execute("DROP TABLE tailrace.cutover, tailrace.comparison")
    with pytest.raises(SinkError, match="lacks columns") as raised:
        asyncio.run(sink(url).state())
    assert "tailrace run CONFIG" in raised.value.hint
    assert opened(url) == expected(4)
    assert shape(url) == new
    assert everything(url)["table_progress"] == rows
    with psycopg.connect(url) as connection:
        connection.execute("SELECT count(*) FROM tailrace.table_progress")
        assert opened(url, timeout_seconds=5.0) == expected(5)


def test_definitions_change_in_one_word_only(url: str) -> None:
    """GIVEN a definition with U+0000, which jsonb cannot hold, and with ``native`` elsewhere."""
    opened(url)
    ((definition,),) = query(
        url, "SELECT definition FROM tailrace.table_version WHERE pipeline = 'other'"
    )
    assert definition == STRANGE.replace('"native":', '"source_type":')
    state = opened(url, "other")
    assert state.tables[0].columns[0].default == "\0native"


def test_several_engines_upgrade_at_once(url: str) -> None:
    async def run() -> list[State]:
        targets = [sink(url, name) for name in ("legacy", "other", "legacy", "third")]
        try:
            return await asyncio.gather(*(target.open() for target in targets))
        finally:
            for target in targets:
                await target.close()

    states = asyncio.run(run())
    assert sorted((states[0].epoch, states[2].epoch)) == [3, 4]
    assert [state.epoch for state in states[1::2]] == [3, 1]
    assert states[0].tables == states[2].tables == TABLES


def test_several_engines_create_the_tables_at_once(
    postgres_family: AnyServer, fresh_postgres_database: Fresh
) -> None:
    url = fresh_postgres_database(postgres_family)

    async def run() -> list[State]:
        targets = [sink(url, f"p{number}") for number in range(8)]
        try:
            return await asyncio.gather(*(target.open() for target in targets))
        finally:
            for target in targets:
                await target.close()

    assert asyncio.run(run()) == [State(1, None, ())] * 8


@contextmanager
def old_engine(url: str, pipeline: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of version 0.1.0 that has prepared its statements and owns the pipeline."""
    with psycopg.connect(url, application_name="tailrace") as connection:
        for statement in OLD:
            connection.execute(statement, (pipeline,), prepare=True)
        connection.rollback()
        connection.execute(
            "UPDATE tailrace.checkpoint SET owner_pid = pg_backend_pid(), owner_started = ("
            "SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())"
            " WHERE pipeline = %s",
            (pipeline,),
        )
        connection.commit()
        yield connection


@pytest.mark.parametrize("pipeline", ["legacy", "other"])
def test_an_engine_of_version_0_1_0_cannot_commit_any_more(url: str, pipeline: str) -> None:
    """GIVEN a running engine of this pipeline, or of another one in the same database
    WHEN one pipeline is upgraded THEN that engine can write no state: nothing is corrupted."""
    with old_engine(url, pipeline) as old:
        opened(url)
        before = everything(url)
        assert old.execute(OLD_SAVE, (pipeline,), prepare=True).rowcount == 0
        for statement in (OLD_SAVE_PROGRESS, OLD_SAVE_TABLES):
            with pytest.raises(pg.UndefinedTable):
                old.execute(statement, (pipeline,), prepare=True)
            old.rollback()
        old.execute(OLD_TAKE, (pipeline,), prepare=True)
        with pytest.raises(pg.UndefinedTable):
            old.execute(OLD_READ, (pipeline,), prepare=True)
        old.rollback()
        assert everything(url) == before


def test_the_upgrade_ends_the_older_engine_s_own_transaction(url: str) -> None:
    """GIVEN an engine of this pipeline that stands still between its last write and its COMMIT."""
    with old_engine(url, "legacy") as old:
        old.execute(OLD_SAVE, ("legacy",), prepare=True)
        with pytest.raises(SinkLost, match="cannot be taken over yet"):
            opened(url, timeout_seconds=0.5)
        assert opened(url) == expected(3)
        with pytest.raises(psycopg.OperationalError):
            old.commit()


def test_the_upgrade_waits_for_another_pipeline_s_transaction(url: str) -> None:
    with old_engine(url, "other") as old:
        old.execute(OLD_SAVE_PROGRESS, ("other",), prepare=True)
        with pytest.raises(SinkLost, match="cannot be taken over yet"):
            opened(url, timeout_seconds=0.5)
        assert layout(url) == 1
        old.commit()
        assert opened(url) == expected(3)


def test_a_crash_in_the_upgrade_leaves_layout_1(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a session that dies right before the COMMIT of the upgrade, as after SIGKILL."""
    before = everything(url)
    with monkeypatch.context() as patched:
        commit = Session.commit

        async def die(self: Session) -> None:
            cursor = await self.execute(
                "SELECT pg_backend_pid(), max(version) FROM tailrace.layout"
            )
            ((pid, version),) = await cursor.fetchall()
            assert version == 2
            query(url, f"SELECT pg_terminate_backend({pid})")
            await commit(self)

        patched.setattr(Session, "commit", die)
        with pytest.raises(SinkLost):
            opened(url)
    assert everything(url) == before
    assert opened(url) == expected(3)


def test_a_definition_that_cannot_be_read_stops_the_upgrade(url: str) -> None:
    query(url, "UPDATE tailrace.tables SET definition = '{}' WHERE source_name = 't' RETURNING 1")
    before = everything(url)
    with pytest.raises(SinkError, match=r"cannot be read.*\[table s\.t\]") as raised:
        opened(url)
    assert raised.value.hint
    assert everything(url) == before


def test_a_newer_layout_is_refused(url: str) -> None:
    opened(url)
    query(url, "UPDATE tailrace.layout SET version = 3 RETURNING 1")
    before = everything(url)
    target = sink(url)
    for work in (target.open(), target.open(3), target.state(), target.check(TABLES)):
        with pytest.raises(SinkError, match="layout 3, this version knows 2") as raised:
            asyncio.run(work)
        assert "newer" in raised.value.hint
    assert everything(url) == before


def test_reading_leaves_layout_1_as_it_is(url: str) -> None:
    before = everything(url)
    before_upgrade = msgspec.structs.replace(expected(1), generations={})
    assert asyncio.run(sink(url).state()) == before_upgrade
    assert asyncio.run(sink(url, "unknown").state()) is None
    findings = asyncio.run(sink(url).check(TABLES))
    assert not [finding for finding in findings if finding.level == "error"]
    assert not [finding for finding in findings if "a relation of this name" in finding.message]
    assert everything(url) == before


# -- End to end ------------------------------------------------------------------------------------


@pytest.fixture
def source(mysql: AnyServer) -> Iterator[AnyServer]:
    """The source that the fixture was written from, at the place where 0.1.0 was killed."""
    drop_mysql_database(mysql, "legacy_shop")
    try:
        execute(
            mysql,
            *statements("source.sql"),
            "UPDATE legacy_shop.customer SET note = 'changed' WHERE id <= 50",
        )
        yield mysql
    finally:
        drop_mysql_database(mysql, "legacy_shop")


def execute(server: AnyServer, *texts: str) -> None:
    with connect_mysql(server) as connection, connection.cursor() as cursor:
        for text in texts:
            cursor.execute(text)


def test_a_pipeline_of_version_0_1_0_goes_on(
    source: AnyServer, postgres: AnyServer, fresh_postgres_database: Fresh, tmp_path: Path
) -> None:
    """GIVEN a target that 0.1.0 left in the middle of the backfill WHEN this version looks at it
    and runs THEN the backfill goes on at its cursor, and both sides are equal in the end."""
    url = fresh_postgres_database(postgres)
    load(url)
    follower = MySQLSource(MySQLSettings(url=source.url, tables=("legacy_shop.*",)))
    position = follower.position()
    follower.close()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE tailrace.checkpoint SET position = %s", (position,))
        connection.execute(
            "UPDATE tailrace.progress SET seen = %s WHERE seen IS NOT NULL", (position,)
        )
    config = write_config(tmp_path, source.url, url, "legacy_shop.*", name="legacy")
    look_at_layout_1(config, url)
    execute(
        source,
        "UPDATE legacy_shop.customer SET name = concat('new ', id) WHERE id IN (10, 150)",
        "DELETE FROM legacy_shop.customer WHERE id IN (20, 160)",
        "INSERT INTO legacy_shop.orders VALUES (901, 1, 0.01, '2021-01-01')",
        "DELETE FROM legacy_shop.orders WHERE id <= 3",
        "INSERT INTO legacy_shop.empty VALUES (1)",
        "DELETE FROM legacy_shop.visit LIMIT 1",
    )
    with EngineProcess(config) as engine:
        status = engine.wait_status(lambda it: {t["state"] for t in it["tables"]} == {"live"})
        assert status["backfilled_rows"] == 149 + 2 + 1  # customers after 50, visits, empty
        assert engine.terminate() == 0
        assert engine.log.read_text().count("the stored state is upgraded") == 1
    with EngineProcess(config, "--until-caught-up") as engine:
        assert engine.wait() == 0, engine.tail()
    with connect_mysql(source) as left, psycopg.connect(url, autocommit=True) as right:
        assert_equal(left, right, "legacy_shop")
    verified = run_tailrace("verify", config)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def look_at_layout_1(config: Path, url: str) -> None:
    """The commands that only read understand layout 1, and leave it."""
    before = everything(url)
    status = run_tailrace("status", config, "--json")
    assert status.returncode == 0, status.stderr
    states = {table["table"]: table["state"] for table in json.loads(status.stdout)["tables"]}
    assert states == {
        str(CUSTOMER.id): "backfilling",
        str(EMPTY.id): "pending",
        str(ORDERS.id): "catching_up",
        str(VISIT.id): "pending",
    }
    verified = run_tailrace("verify", config, "--table", str(ORDERS.id))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    checked = run_tailrace("check", config)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert everything(url) == before

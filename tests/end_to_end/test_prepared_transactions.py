"""
XA transactions that are prepared while the tables that they change begin to be followed.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec
import psycopg
import pytest

from engine.commands import BackfillTables
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sources.mysql.position import parse_position
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline, running
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

ROWS = 250
MARIADB = ("mariadb_10", "mariadb_11")


def test_a_table_is_added_while_a_transaction_on_it_is_prepared(
    mysql_family: AnyServer, fresh_mysql_database: FreshDatabase, target_database: str
) -> None:
    source = mysql_family
    writer = Writer(source, fresh_mysql_database(source))
    name, xid = writer.database, f"'{writer.database}'"
    for table in ("t", "n"):
        writer(f"CREATE TABLE {table} (id INT PRIMARY KEY, v INT)")
        rows = ", ".join(f"({id}, 0)" for id in range(ROWS))
        writer(f"INSERT INTO {table} VALUES {rows}")
    catch_up(make_pipeline(source.url, target_database, [f"{name}.t"]))
    writer(
        f"XA START {xid}", f"INSERT INTO n VALUES ({ROWS}, 1)", "UPDATE n SET v = 2 WHERE id < 9"
    )
    writer("DELETE FROM n WHERE id = 100", f"XA END {xid}", f"XA PREPARE {xid}")
    writer.reconnect()
    catch_up(make_pipeline(source.url, target_database, [f"{name}.t"]))
    both = [f"{name}.t", f"{name}.n"]
    catch_up(make_pipeline(source.url, target_database, both))
    writer(f"XA COMMIT {xid}", "INSERT INTO t VALUES (-1, -1)")
    catch_up(make_pipeline(source.url, target_database, both))
    with psycopg.connect(target_database) as target:
        assert_equal(writer.connection, target, name)
        ((position,),) = target.execute("SELECT position FROM tailrace.checkpoint").fetchall()
    assert not parse_position(str(position)).prepared


@pytest.mark.parametrize("committed", ["after", pytest.param("before", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "server", ["mysql", *(pytest.param(it, marks=pytest.mark.slow) for it in MARIADB)]
)
def test_a_table_is_backfilled_again_while_a_transaction_on_it_is_prepared(
    server: str,
    committed: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
) -> None:
    """The log lacks a change of the table after XA PREPARE. XA COMMIT comes ``before`` the backfill
    or ``after`` it."""
    source: AnyServer = request.getfixturevalue(server)
    writer = Writer(source, fresh_mysql_database(source))
    name, xid = writer.database, f"'{writer.database}'"
    rows = ", ".join(f"({id}, 0)" for id in range(ROWS))
    for table in ("t", "u"):
        writer(f"CREATE TABLE {table} (id INT PRIMARY KEY, v INT)")
        writer(f"INSERT INTO {table} VALUES {rows}")
    tables = [f"{name}.t", f"{name}.u"]
    catch_up(make_pipeline(source.url, target_database, tables))
    writer(
        f"XA START {xid}", f"INSERT INTO t VALUES ({ROWS}, 1)", "UPDATE t SET v = 2 WHERE id < 9"
    )
    writer("UPDATE u SET v = 3 WHERE id = 4", f"XA END {xid}", f"XA PREPARE {xid}")
    writer.reconnect()
    catch_up(make_pipeline(source.url, target_database, tables))
    writer(
        "SET SESSION binlog_format = 'STATEMENT'",
        "UPDATE t SET v = 5 WHERE id = 50",
        "SET SESSION binlog_format = 'ROW'",
        "UPDATE u SET v = 6 WHERE id = 60",
    )
    if committed == "before":
        writer(f"XA COMMIT {xid}")
    run = make_pipeline(source.url, target_database, tables)
    catch_up(run)
    assert run.counters.backfilled_rows == ROWS + (committed == "before")
    if committed == "after":
        writer(f"XA COMMIT {xid}", "INSERT INTO t VALUES (-1, -1)")
        catch_up(make_pipeline(source.url, target_database, tables))
    with psycopg.connect(target_database) as target:
        assert_equal(writer.connection, target, name)


def give(target: str, *tables: str) -> None:
    """Have tables backfilled again; all of them if none is named."""

    async def submit() -> None:
        async with PostgresSink(PostgresSettings(target), "mirror").command_client() as client:
            await client.submit(
                msgspec.json.encode(BackfillTables(tables, all=not tables)).decode(), "ann"
            )

    asyncio.run(submit())


def test_backfills_while_a_transaction_is_prepared(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stream from the log's end lacks the rows of the prepared transaction, so the command to
    read all tables again is refused. A backfill of a keyless table waits for it, and says so."""
    writer = Writer(mysql, fresh_mysql_database(mysql))
    name, xid = writer.database, f"'{writer.database}'"
    writer("CREATE TABLE t (id INT PRIMARY KEY)", "CREATE TABLE k (v INT)")
    writer("INSERT INTO t VALUES (1)", "INSERT INTO k VALUES (1)")
    tables = [f"{name}.*"]
    catch_up(make_pipeline(mysql.url, target_database, tables))
    writer(f"XA START {xid}", "INSERT INTO k VALUES (2)", f"XA END {xid}", f"XA PREPARE {xid}")
    writer.reconnect()
    give(target_database)
    catch_up(make_pipeline(mysql.url, target_database, tables))
    with psycopg.connect(target_database, autocommit=True) as target:
        query = "SELECT outcome, refused FROM tailrace.command ORDER BY id DESC LIMIT 1"
        outcome, refused = target.execute(query).fetchone() or ("", None)
        assert refused
        assert "XA COMMIT or XA ROLLBACK" in outcome

        give(target_database, f"{name}.k")
        with running(make_pipeline(mysql.url, target_database, tables)):

            def waits() -> bool:
                said = [it for it in caplog.records if "waits for a lock" in it.message]
                return any("XA RECOVER" in str(getattr(it, "hint", "")) for it in said)

            with caplog.at_level(logging.WARNING):
                wait_until(waits, what="the message")
            writer(f"XA COMMIT {xid}")
        catch_up(make_pipeline(mysql.url, target_database, tables))
        assert_equal(writer.connection, target, name)

        give(target_database)
        catch_up(make_pipeline(mysql.url, target_database, tables))
        assert target.execute(query).fetchone() == (
            "all tables (2) are read again, and the stream goes on at the log's end",
            False,
        )
        assert_equal(writer.connection, target, name)

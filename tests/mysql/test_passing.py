"""
``tailrace skip``: an event, or a transaction, is passed over once, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import psycopg
import pytest

from engine.change import Commit
from engine.errors import ConfigError, TailraceError
from engine.schema import Table
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.stream import Stream
from sources.mysql.gtid import GtidSet
from sources.mysql.position import MySQLPosition, parse_position, place_of
from tests.support.commands import run_tailrace
from tests.support.engine_process import write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.written_log import START, UUID, Log, fed, inserted, stream_at

STOP = '[errors]\non_error = "stop"\n[backfill]\nunlogged_change = "stop"\n'


def test_a_place_is_part_of_the_position() -> None:
    start = MySQLPosition("s", "bin.000002", 100)
    end = MySQLPosition("s", "bin.000004", 500)
    passing = start.pass_over("bin.000002:900", whole=False, end=end).pass_over(
        "bin.000003:4", whole=True, end=end
    )
    assert passing.passing == {"bin.000002:900", "bin.000003:4+"}
    assert parse_position(str(passing)) == passing
    assert "passing" not in str(start)
    assert start.pass_over("bin.000002:100", whole=True, end=end).passing
    assert place_of(str(start)) == place_of("bin.000002:100") == "bin.000002:100"
    assert start.pass_over("bin.000004:500", whole=False, end=end).passing
    for place, whole in (
        ("bin.000002:100", False),
        ("bin.000001:900", True),
        ("900", False),
        ("bin.000004:501", False),
        ("bin.000004:500", True),
    ):
        with pytest.raises(ConfigError):
            start.pass_over(place, whole=whole, end=end)


def passing_stream(*places: str, tables: Sequence[Table] = ()) -> Stream:
    return stream_at(msgspec.structs.replace(START, passing=frozenset(places)), *tables)


def test_events_are_passed_over_alone() -> None:
    log = Log().gtid(10).query("BEGIN").table().insert(1, last=False)
    place = f"binlog.000001:{log.insert(2, last=False).offset}"
    log.insert(3).xid().gtid(11).query("BEGIN").table().insert(4).xid()
    stream = passing_stream(place)
    changes = fed(stream, log)
    assert inserted(changes) == [1, 3, 4]
    assert isinstance(changes[-1], Commit)
    (first, second) = [change for change in changes if isinstance(change, Commit)]
    assert parse_position(str(first.position)).passing == frozenset()
    assert parse_position(str(second.position)).gtids == GtidSet.parse(f"{UUID}:1-11")


def test_a_table_map_is_passed_over_with_its_rows() -> None:
    log = Log().gtid(10).query("BEGIN").table().insert(1)
    place = f"binlog.000001:{log.table().offset}"
    log.insert(2, last=False).insert(3).table().insert(4).xid()
    assert inserted(fed(passing_stream(place), log)) == [1, 4]


def test_a_transaction_is_passed_over_and_counts_as_executed() -> None:
    log = Log().gtid(10).query("BEGIN").table().insert(1).xid()
    place = f"binlog.000001:{log.offset}+"
    log.gtid(11).query("BEGIN").table().insert(2).query("UPDATE item SET id = 9").xid()
    log.gtid(12).query("BEGIN").table().insert(3).xid()
    changes = fed(passing_stream(place), log)
    assert inserted(changes) == [1, 3]
    last = changes[-1]
    assert isinstance(last, Commit)
    position = parse_position(str(last.position))
    assert (position.gtids, position.passing) == (GtidSet.parse(f"{UUID}:1-12"), frozenset())


@pytest.mark.parametrize("mark", ["", "+"])
def test_a_place_that_never_comes_is_dropped_with_a_warning(
    mark: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log().gtid(10).query("BEGIN").table().insert(1).xid()
    place = f"binlog.000001:{log.offset - 1}{mark}"
    log.gtid(11).query("BEGIN").table().insert(2).xid()
    stream = passing_stream(place, "binlog.000001:999999")
    changes = fed(stream, log)
    assert inserted(changes) == [1, 2]
    last = changes[-1]
    assert isinstance(last, Commit)
    assert parse_position(str(last.position)).passing == {"binlog.000001:999999"}
    assert "nothing was passed over" in caplog.text


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "between"])
@pytest.mark.parametrize("kind", [ev.INCIDENT, 99], ids=["incident", "unknown"])
def test_what_names_no_table_is_passed_over(kind: int, inside: bool) -> None:
    body = b"\x01\0\x04lost"
    log = Log().gtid(10).query("BEGIN").table().insert(1)
    if inside:
        place = f"binlog.000001:{log.add(kind, body).offset}"
    log.xid()
    if not inside:
        place = f"binlog.000001:{log.add(kind, body).offset}"
    log.gtid(11).query("BEGIN").table().insert(2).xid()
    with pytest.raises(TailraceError) as caught:
        fed(stream_at(START), log)
    assert caught.value.position == place
    assert inserted(fed(passing_stream(place), log)) == [1, 2]


@pytest.mark.parametrize(
    "server", ["mysql", "mariadb_11", pytest.param("mariadb_10", marks=pytest.mark.slow)]
)
def test_a_statement_or_a_transaction_is_passed_over(
    request: pytest.FixtureRequest,
    server: str,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    there_is: AnyServer = request.getfixturevalue(server)
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(there_is)
    config = write_config(tmp_path, there_is.url, target, f"{database}.*", more=STOP)

    def skip(option: str, lost: str) -> None:
        stopped = run_tailrace("run", config, "--until-caught-up")
        assert stopped.returncode == 1
        command = f"tailrace skip {config} {option}"
        (line,) = [line for line in stopped.stderr.split("`") if command in line]
        asked = run_tailrace(*line.split()[1:])
        assert asked.returncode == 2
        assert "will not be applied" in asked.stdout
        assert lost in asked.stdout
        assert "no engine" in run_tailrace(*line.split()[1:], "--yes").stdout

    with (
        connect_mysql(there_is, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT)")
        cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
        source.commit()
        assert run_tailrace("run", config, "--until-caught-up").returncode == 0
        with connect_mysql(there_is, database) as session, session.cursor() as loose:
            loose.execute("SET SESSION binlog_format = 'STATEMENT'")
            loose.execute("UPDATE t SET a = 77 WHERE id = 1")
            session.commit()
            cursor.execute("INSERT INTO other VALUES (1)")
            source.commit()
            loose.execute("BEGIN")
            loose.execute("UPDATE t SET a = 88 WHERE id = 2")
            loose.execute("INSERT INTO t VALUES (3, 3)")
            session.commit()
        cursor.execute("INSERT INTO other VALUES (2)")
        cursor.execute("INSERT INTO t VALUES (4, 4)")
        source.commit()
        skip("--statement", "the statement UPDATE t SET …\n")
        skip("--transaction", "the statement UPDATE t SET …\n  the statement INSERT INTO t …\n")
        done = run_tailrace("run", config, "--until-caught-up")
        assert done.returncode == 0, done.stderr
        rows = there.execute(f'SELECT id, a FROM "{database}".t ORDER BY 1'.encode()).fetchall()
        assert rows == [(1, 1), (2, 2), (4, 4)]
        others = there.execute(f'SELECT count(*) FROM "{database}".other'.encode()).fetchone()
        assert others == (2,)
        position = there.execute("SELECT position FROM tailrace.checkpoint").fetchone()
        assert position is not None
        assert "passing" not in position[0]
        commands = there.execute("SELECT count(*) FROM tailrace.command WHERE NOT refused")
        assert commands.fetchone() == (2,)
        assert run_tailrace("verify", config, "--deadline-seconds", "3").returncode == 3


@pytest.mark.parametrize(
    "server", ["mysql", "mariadb_11", pytest.param("mariadb_10", marks=pytest.mark.slow)]
)
def test_the_command_of_a_stop_inside_a_transaction(
    request: pytest.FixtureRequest,
    server: str,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN transactions with rows before and after a statement-format write, and before and after
    rows that do not fit their table WHEN what the message of the stop names is passed over THEN all
    other rows are applied. MariaDB 11.8 writes no end position inside of a transaction."""
    there_is: AnyServer = request.getfixturevalue(server)
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(there_is)
    config = write_config(tmp_path, there_is.url, target, f"{database}.*", more=STOP)

    def skip(lost: str) -> None:
        stopped = run_tailrace("run", config, "--until-caught-up")
        assert stopped.returncode == 1, stopped.stderr
        command = f"tailrace skip {config} --statement"
        (line,) = {line for line in stopped.stderr.split("`") if command in line}
        done = run_tailrace(*line.split()[1:], "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert lost in done.stdout

    with (
        connect_mysql(there_is, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT)")
        cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES (1, 1)")
        source.commit()
        assert run_tailrace("run", config, "--until-caught-up").returncode == 0
        cursor.execute("SET SESSION binlog_format = 'MIXED'")
        for text in (
            "INSERT INTO t VALUES (10, length(uuid()))",
            "UPDATE t SET a = 99 WHERE id = 1",
            "INSERT INTO t VALUES (11, length(uuid()))",
        ):
            cursor.execute(text)
        source.commit()
        cursor.execute("SET SESSION binlog_format = 'ROW'")
        cursor.execute("SET SESSION sql_log_bin = 0")
        cursor.execute("ALTER TABLE other ADD COLUMN b INT")
        cursor.execute("SET SESSION sql_log_bin = 1")
        cursor.execute("INSERT INTO t VALUES (12, 12)")
        cursor.execute("INSERT INTO other VALUES (1, 1), (2, 2)")
        cursor.execute("INSERT INTO t VALUES (13, 13)")
        source.commit()
        skip("the statement UPDATE t SET …\n")
        skip(f"{database}.other: 2 rows inserted\n")
        done = run_tailrace("run", config, "--until-caught-up")
        assert done.returncode == 0, done.stderr
        rows = there.execute(f'SELECT id, a FROM "{database}".t ORDER BY 1'.encode()).fetchall()
        assert rows == [(1, 1), (10, 36), (11, 36), (12, 12), (13, 13)]
        others = there.execute(f'SELECT count(*) FROM "{database}".other'.encode()).fetchone()
        assert others == (0,)

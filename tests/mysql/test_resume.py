"""The resume position: a stream resumes only on the log that it has read before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from pymysql.connections import Connection

from engine.errors import SourceError, SourceLost
from engine.sandbox import Server, start_mariadb, start_mysql
from sources.mysql.binlog.stream_position import StreamPosition
from sources.mysql.log_watch import LogWatch
from sources.mysql.position import MySQLPosition
from sources.mysql.resume import confirm_log, resume_at
from sources.mysql.server_info import ServerInfo, log_end, read_server_info
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.following import Following
from tests.support.servers import connect_mysql, obtain

LONG = "'" + "x" * 300 + "'"


@pytest.fixture(scope="module", params=["mysql", "mysql without GTIDs", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this module, because its log is reset."""
    with obtain(lambda: _start(request.param)) as server:
        yield server


def _start(kind: str) -> Server:
    if kind == "mariadb":
        return start_mariadb("11.8")
    plain = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]
    return start_mysql(options=plain if "without" in kind else [])


class Log:
    """The log of a server, with methods that write to it."""

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        self.info: ServerInfo = read_server_info(connection)

    def run(self, *statements: str) -> None:
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def write(self, rows: int, value: str = "'x'") -> None:
        for _ in range(rows):
            self.run(f"INSERT INTO resume_test.t (v) VALUES ({value})")

    def reset(self) -> None:
        self.run("RESET MASTER" if self.info.mariadb else "RESET BINARY LOGS AND GTIDS")

    @property
    def end(self) -> MySQLPosition:
        return log_end(self.connection, self.info)

    def resume(self, position: MySQLPosition) -> MySQLPosition:
        return resume_at(self.connection, self.info, position)[0]


@pytest.fixture
def log(server: Server) -> Iterator[Log]:
    """The log after a reset, with a few transactions in its first file."""
    with connect_mysql(server) as connection:
        log = Log(connection)
        log.run(
            "DROP DATABASE IF EXISTS resume_test",
            "CREATE DATABASE resume_test",
            "CREATE TABLE resume_test.t (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT)",
        )
        log.reset()
        log.write(5)
        yield log


def test_a_stream_can_resume_at_every_position_that_was_read(log: Log) -> None:
    places = []
    for _ in range(3):
        places.append(log.end)
        log.write(1)
        places.append(log.end)
        log.run("FLUSH BINARY LOGS")
    assert [log.resume(place) for place in places] == places


def test_a_log_that_is_shorter_than_before(log: Log) -> None:
    place = log.end
    log.reset()
    with pytest.raises(SourceError, match="reset or restored"):
        log.resume(place)


def test_a_log_with_fewer_files_than_before(log: Log) -> None:
    log.run("FLUSH BINARY LOGS")
    place = log.end
    log.reset()
    log.write(50)
    with pytest.raises(SourceError, match="reset or restored") as stop:
        log.resume(place)
    assert "tailrace backfill CONFIG --all" in stop.value.hint


def test_a_log_without_an_event_at_the_position(log: Log) -> None:
    place = log.end
    log.reset()
    log.write(20, LONG)
    with pytest.raises(SourceError, match="reset or restored"):
        log.resume(place)


@pytest.mark.parametrize("fewer_before", [True, False])
def test_a_log_with_other_transactions_around_the_position(log: Log, fewer_before: bool) -> None:
    if not (log.info.gtids or log.info.mariadb):
        pytest.skip("without GTIDs only places tell one log from another")
    log.run("FLUSH BINARY LOGS")
    log.write(5)
    place = log.end
    log.reset()
    log.write(2 if fewer_before else 8)
    log.run("FLUSH BINARY LOGS")
    log.write(20)
    with pytest.raises(SourceError, match="reset or restored"):
        log.resume(place)


@pytest.mark.parametrize("written", [0, 30])
def test_a_log_that_is_reset_under_a_live_stream(
    log: Log, server: Server, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes on with its heartbeats, or ends the stream."""
    monkeypatch.setattr("sources.mysql.log_watch._COMPARE_SECONDS", 0.5)
    log.write(8)
    settings = MySQLSettings(url=server.url, tables=("resume_test.*",), heartbeat_seconds=0.5)
    source = MySQLSource(settings)
    tables = source.catalog()
    with Following(source, source.position(), tables) as following:
        log.write(1)
        following.wait()
        log.reset()
        log.write(written, LONG)
        error = following.failure()
    if isinstance(error, SourceLost):
        with pytest.raises(SourceError) as refused:
            source.check_position(following.position, tables)
        error = refused.value
    source.close()
    assert not error.retryable
    assert "tailrace backfill CONFIG --all" in error.hint


def test_an_idle_log_is_compared_without_a_complaint(log: Log) -> None:
    watch = LogWatch(lambda place: confirm_log(log.connection, log.info, place))
    place = log.end
    for _ in range(3):
        watch._due = 0.0
        watch.look(place, new=False)
    log.write(3)
    log.run("FLUSH BINARY LOGS")
    watch._due = 0.0
    watch.look(place, new=False)
    log.reset()
    watch._due = 0.0
    watch.look(place, new=False)
    assert watch.wait_seconds(5.0) == 1.0
    watch._due = 0.0
    with pytest.raises(SourceError):
        watch.look(place, new=False)


def test_on_another_server_of_the_group_only_gtids_count(log: Log) -> None:
    if not log.info.gtids:
        pytest.skip("without GTIDs there is no other server")
    place = msgspec.structs.replace(
        log.end, server="another", file="binlog.000077", passing=frozenset(("binlog.000077:900",))
    )
    start = log.resume(place)
    assert (start.server, start.file, start.gtids) == (log.info.identity, "", place.gtids)
    assert start.passing == frozenset()


def test_on_another_server_the_position_moves_at_the_first_new_transaction() -> None:
    start = MySQLPosition("server", "", 0)
    position = StreamPosition(start)
    position.file, position.offset = "binlog.000001", 4
    position.pass_over()
    assert position.resume_position == start
    position.offset = 100
    position.complete()
    assert position.resume_position == MySQLPosition("server", "binlog.000001", 100)

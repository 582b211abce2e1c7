"""
The stream of a live server: changes, large events, XA transactions and heartbeats.
"""

from __future__ import annotations

import time

import pytest

from engine.change import Commit, Heartbeat
from engine.databases.mysql.connect import query
from sources.mysql.position import parse_position
from sources.mysql.source import MySQLSource
from tests.support.changes import Replica
from tests.support.following import Following
from tests.support.mysql_sessions import MIB, FreshDatabase, Writer, prepare_xa, source_of
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until


def test_all_kinds_of_changes_arrive(writer: Writer, source: MySQLSource) -> None:
    with Following(source, source.position(), source.catalog()) as following:
        writer(
            "INSERT INTO t VALUES (1, 'one'), (2, 'two')",
            "UPDATE t SET id = 3 WHERE id = 2",
            "ALTER TABLE t ADD COLUMN more INT",
            "INSERT INTO t VALUES (4, 'four', 44)",
            "DELETE FROM t WHERE id = 1",
            "FLUSH BINARY LOGS",
            "INSERT INTO t VALUES (5, NULL, 55)",
        )
        following.wait()
    replica = Replica([following.rows[0].table])
    replica.apply(following.changes)
    assert sorted(replica.rows["t"]) == [(3, "two", None), (4, "four", 44), (5, None, 55)]


def test_the_position_of_a_commit_is_the_end_of_the_servers_log(
    writer: Writer, source: MySQLSource
) -> None:
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO t VALUES (1, 'one')")
        end = source.position()
        following.wait(end)
    (commit,) = (change for change in following.changes if isinstance(change, Commit))
    assert str(commit.position) == end
    assert source.backlog(end) == 0
    assert source.reached(end, str(commit.position))


def test_a_stream_can_resume_at_every_position(writer: Writer, source: MySQLSource) -> None:
    start, tables = source.position(), source.catalog()
    with Following(source, start, tables) as following:
        for id in range(1, 6):
            writer(f"INSERT INTO t VALUES ({id}, 'x')")
        following.wait()
    commits = [change for change in following.changes if isinstance(change, Commit)]
    for done, commit in enumerate(commits, start=1):
        with Following(source, str(commit.position), tables) as again:
            again.wait(str(commits[-1].position))
        assert again.inserted() == list(range(done + 1, 6))


def test_an_idle_server_sends_heartbeats(writer: Writer, source: MySQLSource) -> None:
    start = source.position()
    with Following(source, start, source.catalog()) as following:
        following.wait(start)
    assert not following.rows


def test_changes_of_other_tables_move_the_position(writer: Writer) -> None:
    source = source_of(writer.server, writer.database, exclude=("*.noise",))
    writer("CREATE TABLE noise (id INT PRIMARY KEY)")
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO noise VALUES (1)")
        following.wait()
    assert not following.rows


def test_stop_ends_a_waiting_stream(writer: Writer) -> None:
    source = source_of(writer.server, writer.database, heartbeat_seconds=30.0)
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO t VALUES (1, 'x')")
        following.wait()
    source.stop()
    assert list(source.stream(source.position(), ())) == []
    source.close()


@pytest.mark.parametrize("size", [16 * MIB - 40, 33 * MIB])
def test_rows_larger_than_a_packet(writer: Writer, source: MySQLSource, size: int) -> None:
    with Following(source, source.position(), source.catalog()) as following:
        writer(f"INSERT INTO t VALUES (1, REPEAT('y', {size}))", "INSERT INTO t VALUES (2, 'x')")
        following.wait()
    assert [len(rows.after[0][1]) for rows in following.rows if rows.after] == [size, 1]


def test_events_that_fill_a_packet_exactly(
    mysql: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    """An event that is 2^24 - 1 bytes long with its status byte is followed by an empty packet."""
    writer = Writer(mysql, fresh_mysql_database(mysql))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)")
    source = source_of(mysql, writer.database)
    probe = 1 * MIB
    with Following(source, source.position(), source.catalog()) as following:
        writer(f"INSERT INTO t VALUES (1, REPEAT('y', {probe}))")
        following.wait()
        overhead = _rows_event_size(writer) - probe
        for id, less in enumerate((1, 0, 2), start=2):
            length = (1 << 24) - 1 - overhead - less
            writer(f"INSERT INTO t VALUES ({id}, REPEAT('y', {length}))")
        following.wait()
    assert following.inserted() == [1, 2, 3, 4]


def _rows_event_size(writer: Writer) -> int:
    """The size of the newest rows event."""
    file = parse_position(source_of(writer.server, writer.database).position()).file
    sizes = [
        row[4] - row[1]
        for row in query(writer.connection, f"SHOW BINLOG EVENTS IN '{file}'")
        if row[2] == "Write_rows"
    ]
    return int(sizes[-1])


def test_heartbeats_have_the_commit_time_of_other_changes(writer: Writer) -> None:
    """During changes of other tables a heartbeat has their commit time, and on an idle server our
    own clock's time.
    """
    source = source_of(writer.server, writer.database, exclude=("*.noise",), heartbeat_seconds=0.1)
    writer("CREATE TABLE noise (id INT PRIMARY KEY)", "SET timestamp = 1000000000")
    if writer.server.kind == "mariadb":
        old = 1_000_000_000.0
    else:  # a session of MySQL cannot set the commit time in the log
        old = 0.0
    with Following(source, source.position(), source.catalog()) as following:
        following.wait()
        ids = iter(range(1_000_000))

        def passed() -> bool:
            for _ in range(50):
                writer(f"INSERT INTO noise VALUES ({next(ids)})")
            beats = [each.at for each in following.changes if isinstance(each, Heartbeat)]
            return any(abs(at - old) < 1 for at in beats) if old else len(beats) > 5

        wait_until(passed)
        following.changes.clear()
        goal = source.position()
        following.wait(goal)
        wait_until(lambda: following.changes and _last_beat(following) > time.time() - 5)


def _last_beat(following: Following) -> float:
    last = following.changes[-1]
    return last.at if isinstance(last, Heartbeat) else 0.0


def test_prepared_transactions_are_kept_across_restarts(
    writer: Writer, source: MySQLSource
) -> None:
    kept, lost = f"'{writer.database}', 'kept', 3", f"'{writer.database}', 'lost'"
    tables = source.catalog()
    with Following(source, source.position(), tables) as first:
        prepare_xa(writer, kept, 1)
        prepare_xa(writer, lost, 2)
        writer("INSERT INTO t VALUES (3, 'between')")
        first.wait()
    assert first.inserted() == [3]
    with Following(source, first.position, tables) as second:
        writer("INSERT INTO t VALUES (4, 'still')", f"XA ROLLBACK {lost}")
        second.wait()
    assert second.inserted() == [4]
    with Following(source, second.position, tables) as third:
        writer(f"XA COMMIT {kept}", "INSERT INTO t VALUES (5, 'after')")
        third.wait()
    assert third.inserted() == [1, 5]
    assert not parse_position(third.position).prepared


def test_a_transaction_prepared_before_the_first_position_is_an_error(
    writer: Writer, source: MySQLSource
) -> None:
    xid = f"'{writer.database}', 'early'"
    prepare_xa(writer, xid, 1)
    with Following(source, source.position(), source.catalog()) as following:
        writer(f"XA COMMIT {xid}")
        assert "prepared before" in str(following.failure())
    writer("INSERT INTO t VALUES (2, 'x')")
    with Following(source, source.position(), source.catalog()) as following:
        writer("INSERT INTO t VALUES (3, 'x')")
        following.wait()
    assert following.inserted() == [3]


def test_rows_prepared_before_their_table_is_followed(writer: Writer, source: MySQLSource) -> None:
    """The log is read again only once the table is followed."""
    xid = f"'{writer.database}', 'new'"
    writer("CREATE TABLE n (id INT PRIMARY KEY, v LONGTEXT)")
    first = source_of(writer.server, writer.database, tables=(f"{writer.database}.t",))
    with Following(first, first.position(), first.catalog()) as following:
        prepare_xa(writer, xid, 1, table="n")
        writer("INSERT INTO t VALUES (2, 'between')")
        following.wait()
    with Following(first, following.position, first.catalog()) as following:
        writer("INSERT INTO t VALUES (3, 'still')")
        following.wait()
    assert parse_position(following.position).skipped
    with Following(source, following.position, source.catalog()) as again:
        writer("INSERT INTO t VALUES (4, 'both')", f"XA COMMIT {xid}")
        again.wait()
    assert again.inserted() == [4, 1]
    assert not parse_position(again.position).prepared

"""
Watermarks: a read shows everything up to its low watermark and nothing after its high watermark.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from engine.change import Row
from engine.databases.mysql.connect import connect, query, translate_errors
from engine.errors import ShapeChanged, SourceError, SourceLost
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition, parse_position
from sources.mysql.server_info import log_end, read_server_info
from sources.mysql.settings import MySQLSettings
from sources.mysql.snapshot import watermarks
from tests.support.mysql_chunks import MakeReader, current_position, read_chunks, rows_of
from tests.support.mysql_log import live_table
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

Fresh = Callable[[AnyServer], str]


def _future(connection: Any) -> str:
    """The position after the next transaction of this server."""
    end = log_end(connection, read_server_info(connection))
    if isinstance(end.executed, GtidSet):
        last = end.executed.sources[end.server][-1][1]
        return str(
            MySQLPosition(end.server, "", 0, end.executed.add(end.server, last + 1, last + 1))
        )
    return str(MySQLPosition(end.server, end.file, end.offset + 1, DomainState()))


def test_a_read_waits_until_the_position_is_visible(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        table = live_table(connection, database, "t")
        low_watermark = _future(connection)
        reading = pool.submit(
            lambda: list(reader.chunks(table, None, low_watermark, rows=9, readers=1))
        )

        def waiting() -> bool:
            cursor.execute("SHOW FULL PROCESSLIST")
            # On MariaDB the reader polls with short queries, so only its connection is checked.
            wanted = "WAIT_FOR" if mysql_family.kind == "mysql" else ""
            return sum(wanted in str(row[7]) for row in cursor.fetchall()) > (wanted == "")

        wait_until(waiting)
        assert not reading.done()
        cursor.execute("INSERT INTO t VALUES (1)")
        [chunk] = reading.result(timeout=20)
    assert chunk.rows == [(1,)]


def check_that_a_read_waits_for_writers(
    server: AnyServer, database: str, make_reader: MakeReader, *, gtid: bool
) -> None:
    """A transaction of the table that is not committed yet may be in the log already."""
    reader = make_reader(server, gtid=gtid)
    connection = connect_mysql(server, database)
    with connection, connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES (0)")
        table = live_table(connection, database, "t")
        end = log_end(connection, read_server_info(connection))
        place = MySQLPosition(end.server, end.file, end.offset)
        low_watermark = str(end if gtid else place)
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (1)")
        reading = pool.submit(
            lambda: list(reader.chunks(table, None, low_watermark, rows=9, readers=1))
        )

        def waiting() -> bool:
            cursor.execute("SHOW FULL PROCESSLIST")
            return any("LOCK TABLES" in str(row[7]) for row in cursor.fetchall())

        wait_until(waiting)
        cursor.execute("COMMIT")
        [chunk] = reading.result(timeout=20)
    assert chunk.rows == [(0,), (1,)]


def test_without_gtids_a_read_waits_for_the_writers_of_the_table(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql)
    check_that_a_read_waits_for_writers(mysql, database, make_reader, gtid=False)


@pytest.mark.slow
def test_on_old_servers_a_read_waits_for_the_writers_of_the_table(
    old_server: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    """MySQL's own lock does not wait for transactions before 5.7.5. MySQL 5.6 counts a GTID as
    executed before its rows are visible.
    """
    with connect_mysql(old_server) as connection:
        info = read_server_info(connection)
    if info.lock_waits_for_commits:
        pytest.skip("the server waits as new ones do")
    database = fresh_mysql_database(old_server)
    check_that_a_read_waits_for_writers(old_server, database, make_reader, gtid=info.gtids)


@pytest.mark.parametrize("gtid", [True, False])
def test_a_table_that_is_dropped_during_the_check_for_empty_tables_is_left_out(
    mysql: AnyServer,
    fresh_mysql_database: Fresh,
    make_reader: MakeReader,
    gtid: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = fresh_mysql_database(mysql)
    reader = make_reader(mysql, gtid=gtid)
    connection = connect_mysql(mysql, database)
    begin = reader._watermarks.begin if gtid else reader._watermarks.wait_until_visible

    def late(*arguments: Any) -> Any:
        cursor.execute("DROP TABLE b")
        return begin(*arguments)

    with connection, connection.cursor() as cursor:
        for name in "ab":
            cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY)")
        a, b = (live_table(connection, database, name) for name in "ab")
        with monkeypatch.context() as patch:
            patch.setattr(reader._watermarks, "begin" if gtid else "wait_until_visible", late)
            assert reader.empty([a, b], current_position(connection)) == []
        [chunk] = reader.empty([a], current_position(connection))
        assert chunk.table == a
        with pytest.raises(ShapeChanged):
            read_chunks(reader, b, connection)


@pytest.mark.parametrize("engine", ["InnoDB", "MyISAM"])
@pytest.mark.parametrize("gtid", [True, False])
def test_a_table_is_not_empty_if_rows_up_to_the_low_watermark_become_visible(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader, gtid: bool, engine: str
) -> None:
    database = fresh_mysql_database(mysql)
    reader = make_reader(mysql, gtid=gtid)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        for name in "abc":
            cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY) ENGINE = {engine}")
        tables = [live_table(connection, database, name) for name in "abc"]
        low_watermark = _future(connection) if gtid else current_position(connection)
        if not gtid:
            cursor.execute("LOCK TABLES b WRITE" if engine == "MyISAM" else "BEGIN")
            cursor.execute("INSERT INTO b VALUES (1)")
        checking = pool.submit(lambda: reader.empty(tables, low_watermark))

        with connect_mysql(mysql, database) as other, other.cursor() as watching:

            def waiting() -> bool:
                watching.execute("SHOW FULL PROCESSLIST")
                wanted = "WAIT_FOR" if gtid else "LOCK TABLES"
                table = "SELECT EXISTS" if engine == "MyISAM" and not gtid else wanted
                found = [str(row[7]) for row in watching.fetchall()]
                return any(wanted in text or table in text for text in found)

            wait_until(waiting)
        assert not checking.done()
        if gtid:
            cursor.execute("INSERT INTO b VALUES (1)")
        cursor.execute("UNLOCK TABLES" if engine == "MyISAM" else "COMMIT")
        found = checking.result(timeout=20)
    assert [chunk.table.id.name for chunk in found] == ["a", "c"]


def test_the_error_names_the_missing_privilege(
    mysql: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT)")
        cursor.execute(f"CREATE USER '{database}' IDENTIFIED BY 'x'")
        cursor.execute(f"GRANT SELECT ON `{database}`.* TO '{database}'")
        url = f"mysql://{database}:x@{mysql.host}:{mysql.port}/"
        table = live_table(connection, database, "t")
        try:
            with pytest.raises(SourceError, match="may not lock") as caught:
                read_chunks(make_reader(mysql, url=url), table, connection)
        finally:
            cursor.execute(f"DROP USER '{database}'")
    assert "GRANT LOCK TABLES" in caught.value.hint


def test_chunks_under_a_writer_keep_to_their_watermarks(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    """Every row of a chunk was written at or before ``high_watermark``."""
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        for name, key in (("keyed", " PRIMARY KEY"), ("keyless", "")):
            cursor.execute(f"CREATE TABLE {name} (id INT{key})")
        tables = [live_table(connection, database, name) for name in ("keyed", "keyless")]
        with _Writer(mysql_family, database) as written:
            wait_until(lambda: len(written) > 5)
            for _ in range(10):
                low_watermark = current_position(connection)
                count = len(written)
                for table in tables:
                    found = list(reader.chunks(table, None, low_watermark, rows=10_000, readers=1))
                    assert len(rows_of(found)) >= count
                    high_watermark = parse_position(str(found[-1].high_watermark))
                    assert high_watermark.at_or_after(parse_position(low_watermark))
                    _wait_for_more(written, rows_of(found))
                    _check_high_watermark(
                        high_watermark, written, rows_of(found), exact=not table.key
                    )


class _Writer:
    """Writes the same row into both tables, again and again; lists the transaction number of each.

    Both inserts are one transaction, or two if the tables have no transactions.
    """

    def __init__(self, server: AnyServer, database: str, *, transactions: bool = True) -> None:
        self._transactions = transactions
        self._connection = connect_mysql(server, database)
        self._mariadb = server.kind == "mariadb"
        self._written: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        with self._connection.cursor() as cursor:
            while not self._stop.is_set():
                number = len(self._written)
                if self._transactions:
                    cursor.execute("BEGIN")
                cursor.execute("INSERT INTO keyed VALUES (%s)", (number,))
                cursor.execute("INSERT INTO keyless VALUES (%s)", (number,))
                if self._transactions:
                    cursor.execute("COMMIT")
                self._written.append(self._transaction(cursor))

    def _transaction(self, cursor: Any) -> int:
        if self._mariadb:
            cursor.execute("SELECT @@last_gtid")
            return int(cursor.fetchone()[0].split("-")[2])
        cursor.execute("SELECT @@GLOBAL.gtid_executed, @@server_uuid")
        executed, uuid = cursor.fetchone()
        return GtidSet.parse(executed).sources[uuid][-1][1]

    def __enter__(self) -> list[int]:
        self._thread.start()
        return self._written

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        self._connection.close()


def _wait_for_more(written: list[int], rows: list[Row]) -> None:
    wait_until(lambda: len(written) > len(rows))


def _check_high_watermark(
    high_watermark: MySQLPosition, written: list[int], rows: list[Row], *, exact: bool
) -> None:
    if isinstance(high_watermark.executed, GtidSet):
        last = high_watermark.executed.sources[high_watermark.server][-1][1]
    else:
        assert isinstance(high_watermark.executed, DomainState)
        last = max(int(part.split("-")[2]) for part in str(high_watermark.executed).split(","))
    inside = sum(number <= last for number in list(written)[: len(rows) + 1])
    if exact:
        assert inside == len(rows)
    else:
        assert inside >= len(rows)


@pytest.mark.parametrize("engine", ["MyISAM", "MEMORY", "Aria"])
def test_a_keyless_table_without_transactions_is_read_under_a_lock(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader, engine: str
) -> None:
    """A row that is written during the read is not in the chunks, and after their watermark."""
    if engine == "Aria" and mysql_family.kind == "mysql":
        pytest.skip("only MariaDB has this engine")
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    writer = connect_mysql(mysql_family, database)
    with connection, writer, connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute(f"CREATE TABLE t (n INT, v CHAR(200)) ENGINE={engine}")
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x" * 200) for n in range(9000)])
        table = live_table(connection, database, "t")
        low_watermark = current_position(connection)
        reading = make_reader(mysql_family).chunks(table, None, low_watermark, rows=1000, readers=2)
        found = [next(reading)]
        insert = pool.submit(writer.cursor().execute, "INSERT INTO t VALUES (9000, 'late')")

        def waiting() -> bool:
            cursor.execute("SHOW FULL PROCESSLIST")
            states = [str(row[6]).lower() for row in cursor.fetchall() if "'late'" in str(row[7])]
            return any("lock" in state for state in states)

        wait_until(waiting)
        before = current_position(connection)
        found += reading
        insert.result(timeout=20)
        after = current_position(connection)
    high_watermark = parse_position(str(found[0].high_watermark))
    assert sorted(row[0] for row in rows_of(found)) == list(range(9000))
    assert parse_position(before).at_or_after(high_watermark)
    assert not high_watermark.at_or_after(parse_position(after))


@pytest.mark.parametrize("engine", ["MyISAM", "Aria"])
def test_a_keyed_table_without_transactions_under_a_writer(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader, engine: str
) -> None:
    """A chunk shows everything logged before the read, and nothing after ``high_watermark``."""
    if engine == "Aria" and mysql_family.kind == "mysql":
        pytest.skip("only MariaDB has this engine")
    database = fresh_mysql_database(mysql_family)
    reader = make_reader(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE keyed (id INT PRIMARY KEY) ENGINE={engine}")
        cursor.execute(f"CREATE TABLE keyless (id INT) ENGINE={engine}")
        tables = [live_table(connection, database, name) for name in ("keyed", "keyless")]
        with _Writer(mysql_family, database, transactions=False) as written:
            wait_until(lambda: len(written) > 5)
            for _ in range(20):
                low_watermark = current_position(connection)
                count = len(written)
                for table in tables:
                    found = list(reader.chunks(table, None, low_watermark, rows=10_000, readers=1))
                    assert len(rows_of(found)) >= count
                    high_watermark = parse_position(str(found[-1].high_watermark))
                    # The table with a key is written one transaction before the other.
                    _wait_for_more(written, rows_of(found))
                    numbers = [number - bool(table.key) for number in list(written)]
                    _check_high_watermark(
                        high_watermark, numbers, rows_of(found), exact=not table.key
                    )


def test_a_suspended_reader_does_not_keep_the_momentary_lock(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watermarks, "_IDLE_LOCK_SECONDS", 1)
    database = fresh_mysql_database(mysql_family)
    suspended = connect_mysql(mysql_family, database)
    writer = connect_mysql(mysql_family, database)
    with writer, writer.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n INT)")
        cursor.execute("SET lock_wait_timeout = 30")
        table = live_table(writer, database, "t")
        lock = watermarks._TableLock(suspended, table)
        with pytest.raises(SourceLost), translate_errors(), lock:
            cursor.execute("INSERT INTO t VALUES (1)")


def test_the_momentary_lock_leaves_the_session_as_it_was(
    mysql_family: AnyServer, fresh_mysql_database: Fresh
) -> None:
    database = fresh_mysql_database(mysql_family)
    timeouts = "SELECT @@lock_wait_timeout, @@wait_timeout"
    with closing(connect(MySQLSettings(url=mysql_family.url))) as connection:
        query(connection, f"CREATE TABLE {database}.t (n INT)")
        before = query(connection, timeouts)
        with watermarks._TableLock(connection, live_table(connection, database, "t")):
            assert query(connection, timeouts) != before
        assert query(connection, timeouts) == before


def test_all_chunks_of_a_keyless_table_show_one_position(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, make_reader: MakeReader
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n INT, v CHAR(200))")
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x" * 200) for n in range(9000)])
        table = live_table(connection, database, "t")
        reading = make_reader(mysql_family).chunks(
            table, None, current_position(connection), rows=1000, readers=2
        )
        first = next(reading)
        cursor.execute("DELETE FROM t")
        found = [first, *reading]
    assert len(found) > 2
    assert sorted(row[0] for row in rows_of(found)) == list(range(9000))
    assert {str(chunk.high_watermark) for chunk in found} == {str(first.high_watermark)}
    assert [chunk.cursor is None for chunk in found] == [False] * (len(found) - 1) + [True]

"""
What ``tailrace skip`` says before it asks: the rows and statements at a place of the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.databases.mysql.connect import is_mariadb
from engine.errors import ConfigError
from engine.schema import TableId
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.inspection import Inspection
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.servers import AnyServer, connect_mysql
from tests.support.written_log import PLAIN, Log

ITEM = TableId("shop", "item")


def inspected(log: Log, place: int, *, whole: bool) -> Inspection:
    inspection = Inspection(PLAIN, f"binlog.000001:{place}", whole=whole, checksum=True)
    if not inspection.feed(log.events):
        inspection.end()
    return inspection


def written() -> tuple[Log, dict[str, int]]:
    log, at = Log(), {}
    log.gtid(10).query("BEGIN").table().insert(1).xid()
    at["transaction"] = log.offset
    at["map"] = log.gtid(11).query("BEGIN").table().offset
    log.insert(2, last=False).insert(3)
    at["rows"] = log.offset
    log.query("UPDATE item SET id = 'secret'").query("ROLLBACK TO x")
    at["unknown"] = log.add(99, b"12345").offset
    at["incident"] = log.add(ev.INCIDENT, b"\x01\0\x04lost").offset
    log.xid()
    at["last"] = log.offset
    log.gtid(12).query("DROP TABLE item")
    at["statement"] = log.offset
    return log, at


def test_a_transaction() -> None:
    log, at = written()
    lost = inspected(log, at["transaction"], whole=True).lost
    assert lost.rows == {(ITEM, "insert"): 2}
    assert lost.statements == ["UPDATE item SET"]
    assert lost.unreadable == [
        "an event of type 99 with 28 bytes",
        "an incident of the server with 30 bytes",
    ]
    assert inspected(log, at["last"], whole=True).lost.statements == ["DROP TABLE item"]


def test_one_event() -> None:
    log, at = written()
    assert inspected(log, at["rows"], whole=False).lost.rows == {(ITEM, "insert"): 1}
    assert inspected(log, at["statement"], whole=False).lost.statements == ["DROP TABLE item"]
    assert inspected(log, at["map"], whole=False).lost.rows == {(ITEM, "insert"): 2}
    unknown = inspected(log, at["unknown"], whole=False).lost
    assert (unknown.rows, len(unknown.unreadable)) == ({}, 1)


@pytest.mark.parametrize("whole", [True, False])
def test_a_place_where_nothing_begins_or_ends_is_an_error(whole: bool) -> None:
    log, at = written()
    for place in (at["transaction"] + 1, at["last"] - 1, log.offset + 7):
        with pytest.raises(ConfigError, match="of the source's log"):
            inspected(log, place, whole=whole)


def events_of(session: Any) -> list[tuple[str, int, str, int]]:
    """The file, beginning, type and end of each event of the newest file. MariaDB 11.8 writes no
    end (0) inside of a transaction; then the end is counted as the stream does, without the events
    that are not sent (Annotate_rows).
    """
    with session.cursor() as cursor:
        cursor.execute("SHOW BINARY LOGS")
        file = cursor.fetchall()[-1][0]
        cursor.execute(f"SHOW BINLOG EVENTS IN '{file}'")
        rows = [(int(row[1]), row[2], int(row[4])) for row in cursor.fetchall()]
    events, at = [], 0
    for (begin, kind, end), following in zip(rows, [*rows[1:], (0, "", 0)], strict=True):
        at = end or (at if kind == "Annotate_rows" else at + following[0] - begin)
        events.append((file, begin, kind, at))
    return events


def test_a_server_s_log(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    database = fresh_mysql_database(mysql_family)
    source = MySQLSource(MySQLSettings(url=mysql_family.url, tables=(f"{database}.*",)))
    with connect_mysql(mysql_family, database) as session, session.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a TEXT, b DECIMAL(9,2), c JSON)")
        cursor.execute("FLUSH BINARY LOGS")
        if not is_mariadb(session):
            cursor.execute("SET SESSION binlog_transaction_compression = OFF")
        before = source.position()
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t (id, a) VALUES (1, 'x'), (2, 'y'), (3, 'z')")
        cursor.execute("DELETE FROM t WHERE id = 2")
        session.commit()
        cursor.execute("CREATE TABLE u (id INT PRIMARY KEY)")
        events = events_of(session)
        (deletion,) = [it for it in events if it[2].lower().startswith("delete_rows")]
        begins = [it for it in events if it[2] in ("Gtid", "Anonymous_Gtid")]
        table = TableId(database, "t")
        one = source.lost(before, f"{deletion[0]}:{deletion[3]}", whole=False)
        assert (one.whole, one.rows) == (False, {(table, "delete"): 1})
        with pytest.raises(ConfigError, match="no event ends at"):
            source.lost(before, f"{deletion[0]}:{deletion[3] - 1}", whole=False)
        whole = source.lost(before, f"{begins[0][0]}:{begins[0][1]}", whole=True)
        assert whole.rows == {(table, "insert"): 3, (table, "delete"): 1}
        made = source.lost(before, f"{begins[1][0]}:{begins[1][1]}", whole=True)
        assert made.statements == ["CREATE TABLE u"]
        with pytest.raises(ConfigError, match="no transaction begins at"):
            source.lost(before, f"{deletion[0]}:{events[-1][3]}", whole=True)
    source.close()


def test_a_compressed_transaction_is_passed_over_as_a_whole(
    mysql: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    database = fresh_mysql_database(mysql)
    source = MySQLSource(MySQLSettings(url=mysql.url, tables=(f"{database}.*",)))
    with connect_mysql(mysql, database) as session, session.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        cursor.execute("SET SESSION binlog_transaction_compression = ON")
        before = source.position()
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (1), (2)")
        cursor.execute("UPDATE t SET id = 9 WHERE id = 1")
        session.commit()
        # The events in the payload, which are shown after it, have no end.
        file, _, _, end = [it for it in events_of(session) if it[2] == "Transaction_payload"][-1]
        lost = source.lost(before, f"{file}:{end}", whole=False)
    table = TableId(database, "t")
    assert (lost.whole, lost.rows) == (True, {(table, "insert"): 2, (table, "update"): 1})
    source.close()

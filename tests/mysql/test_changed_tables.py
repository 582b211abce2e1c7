"""
Which tables the log may have changed since a position: never one too few, and not all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

import pymysql
import pytest

from engine.databases.mysql.connect import is_mariadb, query
from engine.errors import SourceError
from engine.handover import Changed, Since
from engine.sandbox import start_mariadb, start_mysql
from engine.schema import Table, TableId
from sources.mysql.changed_tables import oldest
from sources.mysql.freeze import MySQLFreezer
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition, parse_position
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.servers import AnyServer, connect_mysql, obtain
from tests.support.waiting import wait_until

SECONDS = 20.0
NEWER = r"log may have been reset: \S+ was begun after the tables were compared"
CASCADE = "FOREIGN KEY (up) REFERENCES parent (id) ON DELETE CASCADE"
TABLES = (
    "CREATE TABLE quiet (id INT PRIMARY KEY)",
    "CREATE TABLE other (id INT PRIMARY KEY)",
    "CREATE TABLE parent (id INT PRIMARY KEY)",
    f"CREATE TABLE child (id INT PRIMARY KEY, up INT, {CASCADE})",
    "CREATE TABLE joined (id INT PRIMARY KEY) ENGINE = MyISAM",
    "CREATE TABLE `both` (id INT PRIMARY KEY) ENGINE = MERGE UNION = (joined) INSERT_METHOD = LAST",
    "INSERT INTO parent VALUES (1), (2)",
    "INSERT INTO child VALUES (1, 1), (2, 2)",
    "INSERT INTO other VALUES (1)",
)


def test_the_oldest_position_is_the_first_in_the_log() -> None:
    end = MySQLPosition("s", "bin.10", 4, DomainState.parse("0-1-5"))
    first = MySQLPosition("s", "bin.9", 400, DomainState.parse("0-1-4"))
    assert oldest([end, first], end) == first
    for other in (MySQLPosition("t", "bin.9", 4), MySQLPosition("s", "", 0)):
        with pytest.raises(SourceError, match="not one of this server"):
            oldest([first, other], end)
    with pytest.raises(SourceError, match="log, which was reset"):
        oldest([first, end], first)


UUID = "00000000-0000-0000-0000-000000000001"


def of_mysql(file: str, offset: int, last: int) -> MySQLPosition:
    return MySQLPosition("s", file, offset, GtidSet.parse(f"{UUID}:1-{last}"))


def test_a_position_that_only_the_gtids_have_passed() -> None:
    """GIVEN a table that was proven before a reset, and one after it WHEN the log has more GTIDs
    again THEN the first position is not taken for one of the log."""
    proven, end = of_mysql("bin.000001", 5000, 40), of_mysql("bin.000001", 9000, 60)
    assert oldest([proven], end) == proven
    for positions in ([of_mysql("bin.000005", 100, 30)], [of_mysql("bin.000001", 9001, 30)]):
        with pytest.raises(SourceError, match="log, which was reset"):
            oldest([*positions, proven], end)


def test_a_position_in_a_log_of_another_name() -> None:
    """GIVEN an edited log_bin: the files are numbered from 1 again."""
    proven, end = of_mysql("new.000003", 5000, 40), of_mysql("new.000003", 9000, 60)
    with pytest.raises(SourceError, match="another name"):
        oldest([of_mysql("old.000002", 100, 30), proven], end)


def assert_each_by_its_own(
    source: MySQLSource,
    freezer: MySQLFreezer,
    session: pymysql.Connection[Any],
    tables: Mapping[TableId, Table],
) -> None:
    """Each table has a position of its own."""
    before = Since(source.position())
    query(session, "INSERT INTO quiet VALUES (5)")
    after = Since(source.position())
    query(session, "INSERT INTO other VALUES (5)")
    (other, quiet) = (tables[it] for it in sorted(tables) if it.name in ("other", "quiet"))
    assert freezer.changed({quiet: before, other: after}, SECONDS).tables == {
        quiet.id,
        other.id,
    }
    assert freezer.changed({quiet: after, other: after}, SECONDS).tables == {other.id}


def test_a_position_beyond_a_log_that_was_reset(
    mariadb_10: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GIVEN positions of which one is not in the log WHEN the log is asked for changes since THEN
    that is an error, so every table is compared."""
    name = fresh_mysql_database(mariadb_10)
    settings = MySQLSettings(url=mariadb_10.url, tables=(f"{name}.*",))
    with (
        connect_mysql(mariadb_10, name) as session,
        closing(MySQLSource(settings)) as source,
        closing(source.freezer()) as freezer,
    ):
        for sql in TABLES[:2]:
            query(session, sql)
        one, other = source.catalog()
        before = parse_position(source.position())
        query(session, "INSERT INTO other VALUES (1)")
        beyond = Since(source.position())
        for proven in ({one: beyond}, {one: beyond, other: Since(str(before))}):
            assert freezer.changed(proven, SECONDS).reason == ""
        monkeypatch.setattr("sources.mysql.changed_tables.log_end", lambda *_: before)
        for proven in ({one: beyond}, {one: beyond, other: Since(str(before))}):
            with pytest.raises(SourceError, match="which was reset"):
                freezer.changed(proven, SECONDS)
        monkeypatch.undo()
        with pytest.raises(SourceError, match=NEWER):
            freezer.changed({one: beyond, other: beyond._replace(at=1.0)}, SECONDS)


RESETS = {"mysql": "RESET BINARY LOGS AND GTIDS", "mariadb": "RESET MASTER"}


def is_known(freezer: MySQLFreezer, proven: dict[Table, Since]) -> bool:
    """Whether the log is older than the positions."""
    with suppress(SourceError):
        return freezer.changed(proven, SECONDS).tables == frozenset()
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mysql", "mysql without GTIDs", "mariadb"])
def test_a_log_that_was_reset_and_has_grown(kind: str) -> None:
    """GIVEN a log that was reset WHEN it has the same places and GTIDs again, and more THEN the
    positions of before are not taken for positions of it."""
    off = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"] if "without" in kind else []
    start = start_mariadb if kind == "mariadb" else start_mysql
    with obtain(lambda: start(options=off)) as server, connect_mysql(server) as session:
        for sql in ("CREATE DATABASE shop", "USE shop", *TABLES[:2]):
            query(session, sql)
        settings = MySQLSettings(url=server.url, tables=("shop.*",))
        with closing(MySQLSource(settings)) as source, closing(source.freezer()) as freezer:
            tables = source.catalog()
            for number in range(3):
                query(session, f"INSERT INTO other VALUES ({number})")
            position = source.position()

            def since() -> dict[Table, Since]:
                return dict.fromkeys(tables, Since(position, time.time()))

            wait_until(lambda: is_known(freezer, since()), what="a second after the log's begin")
            proven = since()
            query(session, RESETS[server.kind])
            for number in range(300):
                query(session, f"INSERT INTO quiet VALUES ({number})")
            assert parse_position(source.position()).at_or_after(parse_position(position))
            with pytest.raises(SourceError, match=NEWER):
                freezer.changed(proven, SECONDS)


def hidden_changes(session: pymysql.Connection[Any]) -> list[str]:
    """Statements that the log has as such, in statement format where that is so."""
    found = ["ALTER TABLE quiet ADD note TEXT"]
    if is_mariadb(session):
        query(session, "SET binlog_format = STATEMENT")
        found += ["ANALYZE UPDATE other SET id = id + 100", "ANALYZE FORMAT=JSON DELETE FROM quiet"]
    return found


def about_users(session: pymysql.Connection[Any], user: str) -> list[str]:
    """Statements about a user and a role, which change no row of a table, and which the log has."""
    password = "PASSWORD('two')" if is_mariadb(session) else "'two'"
    role = f"{user}_role"
    default = f"'{role}' FOR" if is_mariadb(session) else f"'{role}' TO"
    return [
        f"CREATE USER {user}@'%' IDENTIFIED BY 'one'",
        f"CREATE ROLE {role}",
        f"GRANT {role} TO {user}@'%'",
        f"SET DEFAULT ROLE {default} {user}@'%'",
        *[f"ALTER USER {user}@'%' ACCOUNT LOCK"] * 2,
        f"ALTER USER {user}@'%' ACCOUNT UNLOCK",
        f"SET PASSWORD FOR {user}@'%' = {password}",
        f"RENAME USER {user}@'%' TO {user}_b@'%'",
        f"DROP ROLE {role}",
        f"DROP USER {user}_b@'%'",
    ]


def assert_users_change_none(
    source: MySQLSource,
    freezer: MySQLFreezer,
    session: pymysql.Connection[Any],
    tables: Mapping[TableId, Table],
) -> None:
    before = Since(source.position())
    for sql in about_users(session, next(iter(tables)).schema):
        query(session, sql)
    assert source.position() != before.position
    found = freezer.changed(dict.fromkeys(tables.values(), before), SECONDS)
    assert (found.tables, found.reason) == (set(), "")


def test_what_the_log_has_changed(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    """GIVEN tables that are proven at a position WHEN rows, a parent, compressed rows, a MERGE
    table, a prepared transaction, or a table as such are changed after it THEN the tables that this
    may concern are named, and no others. Statistics and rolled back rows concern none."""
    server = mysql_family
    name = fresh_mysql_database(server)
    settings = MySQLSettings(url=server.url, tables=(f"{name}.*",), exclude=(f"{name}.both",))
    with (
        connect_mysql(server, name) as session,
        closing(MySQLSource(settings)) as source,
        closing(source.freezer()) as freezer,
    ):
        for sql in TABLES:
            query(session, sql)
        tables: dict[TableId, Table] = {table.id: table for table in source.catalog()}
        assert len(tables) == 5
        start = Since(source.position())

        def changed(*statements: str) -> Changed:
            position = Since(source.position())
            for sql in statements:
                query(session, sql)
            return freezer.changed(dict.fromkeys(tables.values(), position), SECONDS)

        def names(*statements: str) -> list[str]:
            found = changed(*statements)
            assert found.reason == ""
            return sorted(id.name for id in found.tables)

        assert names() == []
        assert names("INSERT INTO other VALUES (2)") == ["other"]
        assert names("ANALYZE TABLE quiet", "FLUSH TABLES quiet") == []
        assert names("BEGIN", "INSERT INTO quiet VALUES (1)", "ROLLBACK") == []
        assert names("DELETE FROM parent WHERE id = 1") == ["child", "parent"]
        assert names("INSERT INTO `both` VALUES (1)") == ["joined"]
        if not is_mariadb(session):
            on = "SET SESSION binlog_transaction_compression = "
            many = "INSERT INTO quiet WITH RECURSIVE n (i) AS (SELECT 10 UNION SELECT i + 1 FROM n"
            assert names(f"{on}ON", f"{many} WHERE i < 99) SELECT i FROM n") == ["quiet"]
            query(session, f"{on}OFF")

        assert_users_change_none(source, freezer, session, tables)
        assert_each_by_its_own(source, freezer, session, tables)

        for sql in hidden_changes(session):
            found = changed(sql)
            assert found.tables == tables.keys()
            assert "a statement that may change any table" in found.reason
        query(session, "SET binlog_format = ROW")
        query(session, "XA START 'x'")
        query(session, "INSERT INTO quiet (id) VALUES (7)")
        query(session, "XA END 'x'")
        query(session, "XA PREPARE 'x'")
        found = changed("XA COMMIT 'x'")
        assert found.tables == tables.keys()
        query(session, "INSERT INTO other VALUES (6)")
        with pytest.raises(SourceError, match="not read within 0 seconds"):
            freezer.changed({tables[TableId(name, "other")]: start}, 0.0)

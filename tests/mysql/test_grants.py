"""
The rights that ``tailrace check --grants`` prints for a source: they are enough for ``check``,
which names each one that is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pymysql
import pytest

from engine.contract import Finding
from engine.databases.mysql.connect import query
from engine.errors import SourceLost
from engine.rights import Grant
from sources.mysql.rights import read_log_end, read_routines, rights
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of, with_user
from tests.support.servers import AnyServer, connect_mysql

USER = "granted_user"
NEEDED = ("SELECT ON", "REPLICATION SLAVE ON", "LOCK TABLES ON")


@pytest.fixture
def database(mysql_family: AnyServer, fresh_mysql_database: FreshDatabase) -> Iterator[Writer]:
    """A database with a table that has no key, so that its backfill locks it."""
    writer = Writer(mysql_family, fresh_mysql_database(mysql_family))
    writer("CREATE TABLE t (id INT PRIMARY KEY)", "CREATE TABLE log (a INT)")
    yield writer
    with suppress(pymysql.MySQLError):
        writer(f"DROP USER {USER}@'%'")
    writer.connection.close()


def recreate(writer: Writer, create: str, statements: list[str]) -> None:
    """Make the user with these rights and no others."""
    writer(f"DROP USER IF EXISTS {USER}@'%'", create.replace("…", "x"), *statements)


def about_rights(findings: list[Finding]) -> list[Finding]:
    return [each for each in findings if "GRANT" in each.action]


def test_the_printed_grants_are_enough_and_each_is_needed(database: Writer) -> None:
    settings = with_user(database.server, f"{USER}:x", tables=(f"{database.database}.*",))
    source = MySQLSource(settings)
    asked = source.grants()  # the user does not exist yet
    assert f"{database.server.host}:{database.server.port}" in asked.server
    statements = [grant.statement for grant in asked.grants]
    recreate(database, asked.create, statements)
    assert about_rights(source.check()) == []
    for position, left_out in enumerate(statements):
        recreate(database, asked.create, statements[:position] + statements[position + 1 :])
        right = left_out.removeprefix("GRANT ").partition(" ON ")[0]
        found = about_rights(fresh_check(settings))
        assert [it for it in found if right in it.action], (left_out, found)
        severe = any(each.level == "error" for each in found)
        needed = any(words in left_out for words in (*NEEDED, end(database)))
        assert severe == (needed and "proc" not in left_out), left_out
    source.close()


def fresh_check(settings: MySQLSettings) -> list[Finding]:
    source = MySQLSource(settings)
    try:
        return source.check()
    finally:
        source.close()


def end(writer: Writer) -> str:
    version = tuple(map(int, writer.server.version.split(".")))
    return read_log_end(writer.server.kind == "mariadb", version)


def test_rights_that_these_tables_do_not_need_are_left_out(database: Writer) -> None:
    """GIVEN a user that sees the tables WHEN all have keys THEN it need not lock tables."""

    def locks() -> list[Grant]:
        source = source_of(database.server, database.database)
        try:
            return [it for it in source.grants().grants if "LOCK TABLES" in it.statement]
        finally:
            source.close()

    assert len(locks()) == 1
    database("DROP TABLE log")
    assert locks() == []


def test_the_grants_do_not_reach_another_database(
    database: Writer, fresh_mysql_database: FreshDatabase
) -> None:
    """``_`` in the name of a database is a wildcard of GRANT."""
    name = database.database
    twin = name.replace("_", "X")
    database(f"CREATE DATABASE {twin}", f"CREATE TABLE {twin}.t (id INT)")
    try:
        settings = with_user(database.server, f"{USER}:x", tables=(f"{name}.*",))
        asked = MySQLSource(settings).grants()
        recreate(database, asked.create, [grant.statement for grant in asked.grants])
        with connect_mysql(database.server) as root:
            rows = query(root, f"SHOW GRANTS FOR {USER}@'%'")
        assert any(name.replace("_", "\\_") in row[0] for row in rows)
        user = pymysql.connect(
            host=database.server.host, port=database.server.port, user=USER, password="x"
        )
        with user, user.cursor() as cursor:
            cursor.execute(f"SELECT * FROM `{name}`.t")
            with pytest.raises(pymysql.MySQLError):
                cursor.execute(f"SELECT * FROM `{twin}`.t")
    finally:
        database(f"DROP DATABASE {twin}")


def test_a_server_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(SourceLost):
        MySQLSource(MySQLSettings(url="mysql://u:p@127.0.0.1:1/", timeout_seconds=1.0)).grants()


@pytest.mark.parametrize(
    ("tables", "read", "whole"),
    [
        (["shop.*"], ["`shop`.*"], ["`shop`.*"]),
        (["shop.ord*"], ["`shop`.*"], ["`shop`.*"]),
        (["shop_a.orders"], ["`shop_a`.`orders`"], ["`shop\\_a`.*"]),
        (["s.a", "s.b", "s.a"], ["`s`.`a`", "`s`.`b`"], ["`s`.*"]),
        (["*.*", "shop.a"], ["*.*"], ["*.*"]),
        (["*.orders"], ["*.*"], ["*.*"]),
        (["sh?p_*.t"], [r"`sh_p\_%`.*"], [r"`sh_p\_%`.*"]),
        # Of several grants on databases the server uses one, so each has all rights.
        (
            ["shop_a.orders", "shop*.t"],
            [r"`shop\_a`.*", "`shop%`.*"],
            [r"`shop\_a`.*", "`shop%`.*"],
        ),
        (["s[ab].t"], ["`s_`.*"], ["`s_`.*"]),
        (["s[]a]_[!]].t"], [r"`s_\__`.*"], [r"`s_\__`.*"]),
        (["s[!].t"], ["`s[!]`.*"], ["`s[!]`.*"]),
        (["s`x.t"], ["`s``x`.`t`"], ["`s``x`.*"]),
    ],
)
def test_scopes(tables: list[str], read: list[str], whole: list[str]) -> None:
    def scopes(right: str) -> list[str]:
        found = (it for it, _ in rights(False, (9, 7), tables))
        return [it.removeprefix(f"{right} ON ") for it in found if it.startswith(f"{right} ON ")]

    assert scopes("SELECT") == read
    for right in ("LOCK TABLES", "TRIGGER", "SHOW VIEW"):
        assert scopes(right) == whole


@pytest.mark.parametrize(
    ("tables", "wider"),
    [
        (["shop.*", "a.b"], False),
        (["sh?p_*.*"], False),
        (["*.*"], False),
        (["s[ab].*"], True),
        (["shop.ord*"], True),
        (["shop.order?"], True),
        (["*.orders"], True),
        (["shop_a.orders", "shop*.*"], True),
    ],
)
def test_a_grant_that_reaches_more_than_the_patterns_says_so(
    tables: list[str], wider: bool
) -> None:
    reasons = {why for it, why in rights(False, (9, 7), tables) if it.startswith("SELECT ON `s")}
    reasons |= {why for it, why in rights(True, (11, 8), tables) if it == "SELECT ON *.*"}
    assert {"it reaches more than they match" in why for why in reasons} == {wider}


@pytest.mark.parametrize(
    ("mariadb", "version", "names"),
    [
        (False, (5, 5, 9), {"REPLICATION CLIENT", "SELECT ON `mysql`.`proc`"}),
        (False, (5, 7, 29), {"REPLICATION CLIENT", "SELECT ON `mysql`.`proc`"}),
        (False, (8, 0, 19), {"REPLICATION CLIENT", "SELECT ON *.*", "XA_RECOVER_ADMIN"}),
        (False, (9, 7, 4), {"REPLICATION CLIENT", "SHOW_ROUTINE ON *.*", "XA_RECOVER_ADMIN"}),
        (True, (10, 1, 23), {"REPLICATION CLIENT", "SELECT ON `mysql`.`proc`"}),
        (True, (10, 5, 23), {"BINLOG MONITOR", "SLAVE MONITOR", "SELECT ON `mysql`.`proc`"}),
        (True, (11, 8, 6), {"BINLOG MONITOR", "SLAVE MONITOR", "SELECT ON `mysql`.`proc`"}),
    ],
)
def test_names_of_rights(mariadb: bool, version: tuple[int, ...], names: set[str]) -> None:
    special = ("MONITOR", "CLIENT", "XA_", "ROUTINE", "proc", "SELECT ON *")
    found = {it for it, _ in rights(mariadb, version, ["s.*"]) if any(one in it for one in special)}
    assert {it.removesuffix(" ON *.*") for it in found} == {
        it.removesuffix(" ON *.*") for it in names
    }
    assert read_routines(mariadb, version) in found

"""
Views, triggers and stored functions that a statement in statement format uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pymysql
import pytest

from engine.databases.mysql.connect import query
from engine.errors import SourceError, UnloggedChange
from engine.schema import TableId
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.statements import read_statement
from sources.mysql.ddl.stored_programs import (
    Program,
    Programs,
    may_change_programs,
    may_use_programs,
)
from tests.support.following import Following
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of, with_user
from tests.support.servers import AnyServer

FOLLOWED = {TableId("d", "orders")}


def view(name: str, body: str) -> Program:
    return Program("view", TableId("d", name), body)


def trigger(table: str, body: str) -> Program:
    return Program("trigger", TableId("d", f"on_{table}"), body, TableId("d", table))


def function(name: str, body: str) -> Program:
    return Program("function", TableId("d", name), body)


def procedure(name: str, body: str) -> Program:
    return Program("procedure", TableId("d", name), body)


WRITE = "INSERT INTO orders VALUES (1)"
PROGRAMS = Programs(
    [
        view("v", "select `d`.`orders`.`id` AS `id` from `d`.`orders`"),
        view("vv", "select `d`.`v`.`id` AS `id` from `d`.`v`"),
        view("w", "select `d`.`x`.`id` AS `orders` from `d`.`x`"),
        view("called", "select `total`() AS `n`"),
        trigger("t", f"BEGIN DECLARE n INT; IF NEW.id > 0 THEN {WRITE}; END IF; END"),
        trigger("u", "UPDATE t JOIN x ON t.id = x.id SET x.id = 1"),
        trigger("x", "SET NEW.note = (SELECT MAX(note) FROM orders)"),
        trigger("y", "BEGIN INSERT INTO x SELECT id FROM orders FOR UPDATE; DELETE FROM z; END"),
        trigger(
            "s", "INSERT INTO x VALUES (1) ON DUPLICATE KEY UPDATE id = REPLACE('a', 'b', 'c')"
        ),
        function("total", f"BEGIN {WRITE}; RETURN 1; END"),
        function("indirect", "BEGIN CALL p(1); RETURN 1; END"),
        function("harmless", "RETURN (SELECT COUNT(*) FROM orders)"),
        function(
            "many", "BEGIN DECLARE EXIT HANDLER FOR 1062 DELETE FROM orders WHERE id = 1; END"
        ),
        procedure("p", "DELETE orders FROM orders JOIN x USING (id)"),
    ]
)


def through(sql: str, programs: Programs = PROGRAMS) -> str:
    """The program through which a statement changes ``orders``; empty if it does not."""
    dialect = Dialect()
    statement = read_statement(sql, "d", dialect)
    with suppress(UnloggedChange):
        programs.check(sql, "d", statement, FOLLOWED, dialect=dialect)
        return ""
    with pytest.raises(UnloggedChange) as caught:
        programs.check(sql, "d", statement, FOLLOWED, dialect=dialect)
    assert str(caught.value.table) == "d.orders"
    return caught.value.message.split(" d.")[1].split(" ")[0]


@pytest.mark.parametrize(
    ("sql", "program"),
    [
        ("INSERT INTO v VALUES (1)", "v"),
        ("DELETE FROM d.vv", "v"),
        ("ANALYZE DELETE FROM d.vv", "v"),
        ("ANALYZE INSERT INTO x SELECT total()", "total"),
        ("UPDATE w SET orders = 1", ""),
        ("REPLACE INTO t VALUES (1)", "on_t"),
        ("INSERT INTO u VALUES (1)", "on_t"),
        ("UPDATE x, t SET x.id = t.id", "on_t"),
        ("LOAD DATA INFILE 'f' INTO TABLE t", "on_t"),
        ("INSERT INTO x VALUES (1)", ""),
        ("INSERT INTO y VALUES (1)", ""),
        ("INSERT INTO s VALUES (1)", ""),
        ("INSERT INTO other.t VALUES (1)", ""),
        ("INSERT INTO x SELECT total()", "total"),
        ("INSERT INTO x SELECT TOTAL ()", "total"),
        ("SELECT `d`.`total`()", "total"),
        ("DO indirect()", "p"),
        ("SET @a = harmless()", ""),
        ("INSERT INTO x VALUES ('total()', total)", ""),
        ("INSERT INTO x SELECT n FROM called", "total"),
        ("CREATE TABLE n AS SELECT many()", "many"),
        ("UPDATE x SET id = 1 WHERE id = d.indirect()", "p"),
    ],
)
def test_a_statement_reaches_a_table_through_programs(sql: str, program: str) -> None:
    assert through(sql) == program


def test_an_unreadable_body_writes_all_that_it_names() -> None:
    programs = Programs([trigger("t", "INSERT INTO (what) orders")])
    assert through("INSERT INTO t VALUES (1)", programs) == "on_t"


def test_programs_can_use_each_other_in_a_circle() -> None:
    programs = Programs([procedure("p", "CALL q()"), function("q", "BEGIN CALL p(); END")])
    assert through("SELECT q()", programs) == ""


@pytest.mark.parametrize(
    ("sql", "used"),
    [
        ("ANALYZE DELETE FROM t", True),
        ("SET STATEMENT max_statement_time = 1 FOR DELETE FROM t", True),
        ("SET STATEMENT max_statement_time = 1 FOR SELECT f()", True),
        ("ANALYZE TABLE t", False),
        ("TRUNCATE t", False),
    ],
)
def test_statements_that_may_use_programs(sql: str, used: bool) -> None:
    verb = Dialect().tokens(sql).peek().word
    assert may_use_programs(verb, read_statement(sql, "d")) is used


def test_what_the_user_may_not_see_stops_with_the_right_to_grant() -> None:
    hidden = Programs([Program("function", TableId("d", "f"), None)], ["d"])
    for sql, right in (("SELECT f()", "SHOW_ROUTINE"), ("INSERT INTO t VALUES (1)", "TRIGGER")):
        with pytest.raises(SourceError, match="may not see") as caught:
            through(sql, hidden)
        assert right in caught.value.hint
    assert through("INSERT INTO other.heartbeat VALUES (1)", hidden) == ""


@pytest.mark.parametrize(
    ("sql", "changes"),
    [
        ("CREATE DEFINER=`r`@`%` TRIGGER x BEFORE INSERT ON t FOR EACH ROW SET @a = 1", True),
        ("ALTER VIEW v AS SELECT 1", True),
        ("DROP FUNCTION f", True),
        ("RENAME TABLE t TO u", True),
        ("ALTER TABLE t RENAME u", True),
        ("DROP DATABASE d", True),
        ("CREATE TABLE t (id INT)", False),
        ("ALTER TABLE t ADD b INT", False),
        ("INSERT INTO t VALUES (1)", False),
    ],
)
def test_statements_after_which_the_catalog_is_read_again(sql: str, changes: bool) -> None:
    verb = Dialect().tokens(sql).peek().word
    assert may_change_programs(verb, read_statement(sql, "d")) is changes


# -- live servers ----------------------------------------------------------------------------------

OBJECTS = (
    "CREATE TABLE orders (id INT PRIMARY KEY)",
    "CREATE TABLE plain (id INT PRIMARY KEY)",
    "CREATE TABLE logged (id INT PRIMARY KEY)",
    "CREATE VIEW v AS SELECT id FROM orders",
    "CREATE TRIGGER tr AFTER INSERT ON logged FOR EACH ROW INSERT INTO orders VALUES (NEW.id)",
    (
        "CREATE FUNCTION f(n INT) RETURNS INT MODIFIES SQL DATA DETERMINISTIC"
        " BEGIN INSERT INTO orders VALUES (n); RETURN n; END"
    ),
    "CREATE PROCEDURE p() BEGIN INSERT INTO orders VALUES (9); END",
)
CHANGES = (
    ("INSERT INTO v VALUES (1)", "the view"),
    ("INSERT INTO logged VALUES (2)", "the trigger"),
    ("INSERT INTO plain SELECT f(3)", "the function"),
    ("SELECT f(4)", "the function"),
    ("DO f(5)", "the function"),
    ("CALL p()", "logged as a statement"),
    ("DELETE FROM v", "the view"),
)


@pytest.fixture
def database(mysql_family: AnyServer, fresh_mysql_database: FreshDatabase) -> Iterator[Writer]:
    """A session in statement format, in a database with programs."""
    writer = Writer(mysql_family, fresh_mysql_database(mysql_family))
    query(writer.connection, "SET @@GLOBAL.log_bin_trust_function_creators = 1")
    writer(*OBJECTS, "SET binlog_format = STATEMENT")
    yield writer
    writer.connection.close()


def test_changes_under_another_name_are_seen(database: Writer) -> None:
    source = source_of(database.server, database.database, tables=(f"{database.database}.orders",))
    tables = source.catalog()
    for sql, program in CHANGES:
        with Following(source, source.position(), tables) as following:
            database("INSERT INTO plain VALUES (100)", "DELETE FROM plain")
            following.wait()
            database(sql)
            error = following.failure()
        assert isinstance(error, UnloggedChange)
        assert str(error.table) == f"{database.database}.orders"
        assert program in error.message, sql
    with Following(source, source.position(), tables) as following:
        database("DROP TRIGGER tr", "INSERT INTO logged VALUES (10)")
        following.wait()
        database("CREATE TRIGGER tr AFTER DELETE ON plain FOR EACH ROW DELETE FROM orders")
        database("INSERT INTO plain VALUES (11)")
        assert "the trigger" in following.failure().message


#: Statements whose first word does not say that they change rows. MariaDB has all of them.
DISGUISED = (
    "ANALYZE UPDATE orders SET id = id + 10",
    "ANALYZE FORMAT = JSON DELETE FROM orders WHERE id < 0",
    "SET STATEMENT max_statement_time = 9 FOR UPDATE orders SET id = id + 10",
    "EXECUTE IMMEDIATE 'UPDATE orders SET id = id + 10'",
    "BEGIN NOT ATOMIC UPDATE orders SET id = id + 10; END",
    "ANALYZE SELECT f(1001)",
    "SHOW TABLES WHERE f(1002)",
    "VALUES (f(1003))",
)


def test_changes_behind_another_first_word_are_seen(
    mariadb_10: AnyServer, fresh_mysql_database: FreshDatabase
) -> None:
    writer = Writer(mariadb_10, fresh_mysql_database(mariadb_10))
    query(writer.connection, "SET @@GLOBAL.log_bin_trust_function_creators = 1")
    writer(*OBJECTS, "INSERT INTO orders VALUES (1)", "SET binlog_format = STATEMENT")
    source = source_of(writer.server, writer.database, tables=(f"{writer.database}.orders",))
    tables = source.catalog()
    for sql in DISGUISED:
        with Following(source, source.position(), tables) as following:
            writer("ANALYZE TABLE orders", sql)
            error = following.failure()
        assert isinstance(error, UnloggedChange), sql
        assert str(error.table) == f"{writer.database}.orders", sql
    source.close()
    writer.connection.close()


@pytest.fixture
def user(database: Writer) -> Iterator[Callable[[str], str]]:
    """A function that grants rights to a user and returns it as in a URL."""
    name = f"u{database.database[-10:]}"
    database(f"CREATE USER {name}@'%' IDENTIFIED BY 'x'")

    def grant(rights: str) -> str:
        database(f"GRANT {rights} TO {name}@'%'")
        return f"{name}:x"

    yield grant
    with suppress(pymysql.MySQLError):
        database(f"DROP USER {name}@'%'")


def test_the_preflight_names_the_rights_to_see_programs(
    database: Writer, user: Callable[[str], str]
) -> None:
    name = database.database
    user("REPLICATION SLAVE, REPLICATION CLIENT ON *.*")
    settings = with_user(database.server, user(f"SELECT ON `{name}`.*"), tables=(f"{name}.*",))
    source = type(source_of(database.server, name))(settings)
    try:
        wanted = {"triggers", "routines"}
        assert wanted <= {found.subject for found in source.check() if found.level == "warning"}
        escaped = name.replace("_", "\\_")
        user(f"TRIGGER ON `{escaped}`.*")
        user("SELECT ON *.*")
        source.close()
        assert not wanted & {found.subject for found in source.check()}
    finally:
        source.close()


def test_a_server_that_logs_statements_is_refused(mysql_family: AnyServer) -> None:
    source = source_of(mysql_family, "mysql", tables=("mysql.user",))
    writer = Writer(mysql_family, "mysql")
    position = source.position()
    for format in ("MIXED", "STATEMENT"):
        writer(f"SET GLOBAL binlog_format = {format}")
        try:
            with Following(source, position, ()) as following:
                error = following.failure()
            (found,) = (each for each in source.check() if each.subject == "binlog_format")
        finally:
            writer("SET GLOBAL binlog_format = ROW")
        assert (found.level, found.message, found.action) == ("error", error.message, error.hint)
        assert f"binlog_format is {format}" in error.message
    writer.connection.close()


def test_the_preflight_warns_of_merge_tables(database: Writer) -> None:
    """A change of a MERGE table is logged under its name only."""
    name = database.database
    for table in ("one", "two"):
        database(f"CREATE TABLE {table} (id INT PRIMARY KEY) ENGINE = MyISAM")
    database("CREATE TABLE both_ (id INT PRIMARY KEY) ENGINE = MERGE UNION = (one, two)")
    source = source_of(database.server, name, tables=(f"{name}.one", f"{name}.both_"))
    try:
        found = {each.subject: each for each in source.check() if "MERGE" in each.message}
    finally:
        source.close()
    assert set(found) == {f"{name}.one", f"{name}.both_"}
    assert found[f"{name}.one"].level == "warning"
    assert found[f"{name}.both_"].level == "error"
    assert all(each.action for each in found.values())

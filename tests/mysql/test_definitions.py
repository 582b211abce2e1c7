"""
What statements say about tables, where there is no server to ask.
"""

from __future__ import annotations

import pymysql
import pytest
from pymysql.cursors import Cursor

from engine.change import Change, Rows, SchemaChange
from engine.errors import SchemaError, UnloggedChange
from engine.schema import TableId
from sources.mysql.binlog.stream import Stream
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.ddl.definitions import Definitions
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.functions import NATIVE
from tests.support.servers import AnyServer, connect_mysql
from tests.support.written_log import PLAIN, Log, fed, inserted

T = TableId("shop", "t")


def definitions(*statements: str) -> Definitions:
    found = Definitions()
    for statement in statements:
        found.follow(statement, "shop", Dialect())
    return found


def columns(found: Definitions) -> list[str]:
    table = found.find(T)
    return [] if table is None else [f"{each.name} {each.source_type}" for each in table.columns]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t ADD COLUMN b VARCHAR(5)",
        "ALTER TABLE t CHANGE old_name a INT",
        "ALTER TABLE t DROP COLUMN gone",
        "ALTER TABLE t DROP PARTITION p0",
        "ALTER TABLE t ADD INDEX (a), FORCE",
    ],
)
def test_a_change_that_a_later_dump_contains_is_passed_over(statement: str) -> None:
    """So is one that changes only rows, because none are followed yet."""
    assert columns(definitions("CREATE TABLE t (a INT, b INT)", statement)) == ["a int", "b int"]


def test_changes_that_the_log_does_not_show_matter_only_to_followed_rows() -> None:
    found = definitions(
        "CREATE TABLE t (a INT, b INT)",
        "ALTER TABLE t ADD COLUMN c INT AS (a + 1) STORED, MODIFY b TINYINT",
        "ALTER IGNORE TABLE t ADD UNIQUE (a)",
        "ALTER TABLE t DROP COLUMN b, ADD COLUMN b DATE",
    )
    assert columns(found) == ["a int", "c int", "b date"]


def test_a_definition_that_cannot_be_derived_is_an_error_when_it_is_needed() -> None:
    found = definitions("CREATE TABLE t (a INT)", "ALTER TABLE t ADD SYSTEM VERSIONING")
    with pytest.raises(SchemaError, match="history"):
        found.find(T)
    assert found.known(T) is None
    assert found.is_known(T)
    found.follow("RENAME TABLE t TO u", "shop", Dialect())
    assert found.find(T) is None
    with pytest.raises(SchemaError, match="history"):
        found.find(TableId("shop", "u"))
    found.follow("DROP TABLE u", "shop", Dialect())
    assert found.find(TableId("shop", "u")) is None


def test_the_columns_of_a_table_with_a_history() -> None:
    start, end = "generated always as row start", "generated always as row end"
    found = definitions("CREATE TABLE t (a INT) ENGINE = InnoDB WITH SYSTEM VERSIONING COMMENT 'x'")
    assert columns(found) == [
        "a int",
        f"row_start timestamp(6) {start}",
        f"row_end timestamp(6) {end}",
    ]
    assert not any(column.nullable for column in found.tables[T].columns[1:])
    found.follow("ALTER TABLE t ADD b TIMESTAMP(6) FIRST", "shop", Dialect())
    assert columns(found)[0] == "b timestamp(6)"
    found.follow("ALTER TABLE t ADD c TIMESTAMP(6)", "shop", Dialect())
    with pytest.raises(SchemaError, match="history"):
        found.find(T)
    found = definitions(
        "CREATE TABLE t (s BIGINT UNSIGNED GENERATED ALWAYS AS ROW START INVISIBLE, a INT,"
        " e BIGINT UNSIGNED AS ROW END, PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING"
        " PARTITION BY SYSTEM_TIME INTERVAL 1 WEEK (PARTITION p HISTORY, PARTITION n CURRENT)"
    )
    assert columns(found) == [f"s bigint unsigned {start}", "a int", f"e bigint unsigned {end}"]


def test_names_of_tables_views_and_triggers() -> None:
    found = definitions(
        "CREATE TABLE t (a INT)",
        "CREATE DEFINER = `root`@`%` TRIGGER r BEFORE UPDATE ON t FOR EACH ROW SET @x = 1",
        "RENAME TABLE t TO u",
        "CREATE OR REPLACE ALGORITHM=MERGE SQL SECURITY INVOKER VIEW t AS SELECT 1 AS a",
        "CREATE TABLE other (a INT)",
    )
    names = ("t", "u", "other", "missing")
    known = {name: found.is_known(TableId("shop", name)) for name in names}
    assert known == {"t": True, "u": True, "other": True, "missing": False}
    found.follow("DROP DATABASE shop", "shop", Dialect())
    assert not found.is_known(TableId("shop", "u"))
    assert found.is_known(TableId("mysql", "user"))


CHANGES = (
    "UPDATE seen SET a = 1",
    "INSERT INTO audited VALUES (1)",
    "SELECT `shop`.`counted`(3)",
    "INSERT INTO apart SELECT counted(a) FROM apart",
    "REPLACE apart SET a = called(1)",
)
NO_CHANGES = (
    "INSERT INTO apart (a) VALUES (IF(NOW() > '2020-01-01', ABS(-1), 2)), (harmless(1))",
    "UPDATE apart SET a = CAST(a AS CHAR(5)) WHERE a IN (1, 2)",
    "DELETE FROM dropped WHERE a = 1",
)
PROGRAMS = (
    "CREATE TABLE t (a INT)",
    "CREATE TABLE apart (a INT)",
    "CREATE TABLE audited (a INT)",
    "CREATE TABLE dropped (a INT)",
    "CREATE VIEW seen AS SELECT a FROM t",
    "CREATE TRIGGER r1 AFTER INSERT ON audited FOR EACH ROW INSERT INTO t VALUES (NEW.a)",
    "CREATE TRIGGER r2 AFTER DELETE ON dropped FOR EACH ROW DELETE FROM t",
    "DROP TRIGGER r2",
    "CREATE FUNCTION counted(n INT) RETURNS INT BEGIN UPDATE t SET a = n; RETURN 1; END",
    "CREATE FUNCTION harmless(n INT) RETURNS INT RETURN n",
    "CREATE FUNCTION called(n INT) RETURNS INT BEGIN CALL indirect(); RETURN 1; END",
    "CREATE PROCEDURE indirect() INSERT INTO t VALUES (1)",
)


def read_statements(*statements: str) -> None:
    tracking = Tracking((), lambda id: id == T, definitions=Definitions())
    log = Log()
    for statement in (*PROGRAMS, *statements):
        log.query(statement)
    fed(Stream(PLAIN, tracking, checksum=True), log)


@pytest.mark.parametrize("statement", CHANGES)
def test_programs_that_change_a_selected_table(statement: str) -> None:
    with pytest.raises(UnloggedChange) as caught:
        read_statements(statement)
    assert caught.value.id == T


def test_programs_that_change_no_selected_table() -> None:
    read_statements(*NO_CHANGES)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT `shop`.`unknown`(1)",
        "DO unknown(1)",
        "INSERT INTO apart VALUES (unknown(1))",
        "INSERT INTO apart SELECT other.now(1)",
        "UPDATE apart SET a = (SELECT MAX(unknown (a)) FROM audited)",
    ],
)
def test_a_function_that_nothing_defines_is_in_doubt(statement: str) -> None:
    with pytest.raises(SchemaError, match="stored function") as caught:
        read_statements(statement)
    assert "--routines" in caught.value.hint


def test_the_list_of_native_functions(mysql: AnyServer, mariadb_10: AnyServer) -> None:
    """For an unknown function the servers have an error of their own (1305, or 1630)."""
    unknown = set(NATIVE)
    for server in (mysql, mariadb_10):
        with connect_mysql(server) as connection, connection.cursor() as cursor:
            for name in sorted(unknown):
                for arguments in ("", "1", "1, 1", "'a'"):
                    if _is_native(cursor, f"SELECT {name}({arguments})"):
                        unknown.discard(name)
                        break
    assert not unknown


def _is_native(cursor: Cursor, call: str) -> bool:
    try:
        cursor.execute(call)
    except pymysql.MySQLError as error:
        return error.args[0] not in (1046, 1054, 1064, 1305, 1630)
    return True


def test_the_default_charset_of_databases() -> None:
    found = definitions(
        "CREATE DATABASE IF NOT EXISTS shop DEFAULT CHARACTER SET = latin1",
        "CREATE SCHEMA `a b` COLLATE cp1251_bin",
        "CREATE DATABASE IF NOT EXISTS shop CHARACTER SET greek",
    )
    assert (found.databases.find("shop"), found.databases.find("a b")) == ("latin1", "cp1251_bin")
    found.follow("ALTER DATABASE CHARACTER SET koi8r", "shop", Dialect())
    found.follow("DROP DATABASE `a b`", "shop", Dialect())
    assert (found.databases.find("shop"), found.databases.find("a b")) == ("koi8r", "")


def test_a_table_like_an_unknown_one_is_followed_from_its_first_rows() -> None:
    tracking = Tracking((), lambda id: id.schema == "shop", definitions=Definitions())
    log = Log().query("CREATE TABLE item LIKE model").query("BEGIN").table().insert(1).xid()
    changes = fed(Stream(PLAIN, tracking, checksum=True), log)
    assert [type(change) for change in changes].count(SchemaChange) == 1
    assert inserted(changes) == [1]


def test_names_that_the_server_stores_in_lower_case() -> None:
    """Statements have them as they were typed. Whether it does so is a setting."""
    create = "CREATE TABLE Shop.Item (id INT PRIMARY KEY)"
    log = Log().query(create).query("BEGIN").table().insert(1).xid()

    def read(setting: int | None) -> list[Change]:
        fold = setting == 1
        tracking = Tracking(
            (),
            lambda id: True,
            definitions=Definitions(check_case=setting is None),
            fold_names=fold,
        )
        return fed(Stream(PLAIN, tracking, checksum=True), log)

    with pytest.raises(SchemaError, match=r"lower case.* Shop\.Item") as caught:
        read(None)
    assert caught.value.table == "shop.item"
    assert "lower_case_table_names" in caught.value.hint
    tables = {
        setting: [str(change.table.id) for change in read(setting) if isinstance(change, Rows)]
        for setting in (0, 1)
    }
    created = [change for change in read(1) if isinstance(change, SchemaChange)]
    assert tables == {0: ["shop.item"], 1: ["shop.item"]}
    assert [str(change.after and change.after.id) for change in created] == ["shop.item"]


def test_a_table_map_with_names_keeps_what_it_does_not_contain() -> None:
    """Foreign keys, indexes, defaults and the default charset come from the definition."""
    found = definitions(
        "CREATE TABLE item (id INT UNSIGNED DEFAULT 5, KEY k (id), FOREIGN KEY (id) REFERENCES"
        " parent (id) ON DELETE CASCADE) CHARACTER SET koi8r"
    )
    defined = found.find(TableId("shop", "item"))
    tracking = Tracking((), lambda id: True, definitions=found)
    log = Log().query("BEGIN").table().insert(1).xid()
    changes = fed(Stream(PLAIN, tracking, checksum=True), log)
    (change,) = [change for change in changes if isinstance(change, SchemaChange)]
    assert defined is not None
    assert change.after is not None
    assert [key.parent.name for key in change.after.foreign_keys] == ["parent"]
    assert change.after.indexes == defined.indexes
    assert change.after.default_charset == "koi8r"


def test_foreign_keys_that_no_statement_defines(caplog: pytest.LogCaptureFixture) -> None:
    """There is one warning for each table, and one for a storage engine that is not certain."""
    tracking = Tracking((), lambda id: True, definitions=Definitions())
    log = Log().query("BEGIN").table().insert(1).table().insert(2).xid()
    log.query("CREATE TABLE c (id INT, FOREIGN KEY (id) REFERENCES item (id) ON DELETE CASCADE)")
    fed(Stream(PLAIN, tracking, checksum=True), log)
    assert [(getattr(it, "table", ""), it.message.split(":")[0]) for it in caplog.records] == [
        ("shop.item", "no statement defines the table's foreign keys"),
        ("shop.c", "the storage engine of a table is not known, InnoDB is assumed"),
    ]

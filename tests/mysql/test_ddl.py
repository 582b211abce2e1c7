"""
Statements of the log → versions of tables: compared with what real servers make of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.change import SchemaChange, Truncate
from engine.databases.mysql.types import parse_type, same_order
from engine.errors import SchemaError
from engine.schema import Column, Table, TableId, Type
from sinks.postgres.defaults import existing_value, literal
from sources.mysql.catalog import read_catalog
from sources.mysql.codec.defaults import constant_default
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.effects import apply_statement
from sources.mysql.ddl.statements import read_statement
from tests.support.mysql_log import live_table, selected_rows
from tests.support.servers import AnyServer, connect_mysql

Tables = dict[TableId, Table]

SAME_ON_ALL = [
    """CREATE TABLE `a``b` (id INT AUTO_INCREMENT, `näme` VARCHAR(20) NOT NULL DEFAULT 'it''s',
       note TEXT COMMENT 'with ) and , in it', PRIMARY KEY (id), UNIQUE KEY (`näme`),
       INDEX by_note (note(10)), KEY both_of (id, `näme`(5))) ENGINE=InnoDB CHARSET=latin1""",
    '''CREATE TABLE types (
       a TINYINT UNSIGNED, b SMALLINT(4) ZEROFILL, c MEDIUMINT SIGNED, d INTEGER, e BIGINT UNSIGNED,
       f DEC(10), g NUMERIC(65,30) UNSIGNED, h FIXED, i FLOAT, j FLOAT(30), k FLOAT(7,4),
       l DOUBLE PRECISION, m REAL, n BOOL, o BIT, p BIT(64), q DATE, r TIME(3), s DATETIME(6),
       t TIMESTAMP(2) NULL, u YEAR, v CHAR, w CHAR(10) BYTE, x VARCHAR(300) BINARY,
       y NATIONAL VARCHAR(5), z NCHAR(7), aa CHAR VARYING(9), ab BINARY, ac VARBINARY(255),
       ad TINYBLOB, ae BLOB(70000), af LONG VARBINARY, ag LONG, ah TINYTEXT CHARACTER SET ascii,
       ai TEXT(255), aj TEXT(64) CHARSET latin1, ak MEDIUMTEXT COLLATE utf8mb4_bin, al LONGTEXT,
       am ENUM('a','b''c','d\\'e','tail  ', 'back\\\\slash', "quoted ""x""") DEFAULT 'a',
       an SET('x','y') CHARACTER SET latin1 COLLATE latin1_bin, ao GEOMETRY, ap POINT NOT NULL,
       aq VARCHAR(10) CHARACTER SET binary, ar CHARACTER(3) UNICODE, at TEXT ASCII,
       au INT4, av MIDDLEINT, aw CHARACTER VARYING(12), ax MULTIPOLYGON, ay DOUBLE(8,2) UNSIGNED
       ) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_general_ci''',
    "CREATE TABLE IF NOT EXISTS types (other INT)",
    "CREATE TABLE serials (id SERIAL, v INT UNIQUE, w INT NOT NULL UNIQUE)",
    "CREATE TABLE noted (id INT KEY /* plain */, -- rest\n x INT # rest\n, 1st INT, $y INT)",
    "CREATE TABLE unkeyed (a INT, b INT NOT NULL, c INT NOT NULL, UNIQUE (a), KEY (b))",
    (
        "CREATE TABLE uniquely (a INT NOT NULL, b INT NOT NULL, c INT NOT NULL, "
        "UNIQUE two (a, b), UNIQUE one (c))"
    ),
    (
        "CREATE TABLE prefixed (a VARCHAR(20) NOT NULL, b VARCHAR(20) NOT NULL, UNIQUE (a(5)), "
        "UNIQUE (b(20)))"
    ),
    "CREATE TABLE likeness LIKE uniquely",
    "CREATE TABLE likeness_2 (LIKE `a``b`)",
    "CREATE TEMPORARY TABLE scratch (a INT)",
    "DROP TEMPORARY TABLE scratch",
    "CREATE TABLE parent (id INT PRIMARY KEY, CHECK (id > 0), CONSTRAINT ck CHECK (id < 100))",
    (
        "CREATE TABLE child (id INT PRIMARY KEY, parent_id INT, other INT REFERENCES parent (id), "
        "CONSTRAINT to_parent FOREIGN KEY (parent_id) REFERENCES parent (id) ON DELETE SET NULL "
        "ON UPDATE CASCADE)"
    ),
    "ALTER TABLE child DROP FOREIGN KEY to_parent, DROP INDEX to_parent",
    (
        "CREATE TABLE computed (a INT, b INT GENERATED ALWAYS AS (a + 1) VIRTUAL, "
        "c INT AS (a * (2 + 1)) STORED, d INT DEFAULT (1 + 1), "
        "e TIMESTAMP DEFAULT CURRENT_TIMESTAMP "
        "ON UPDATE CURRENT_TIMESTAMP, f DATETIME(3) DEFAULT NOW(3) ON UPDATE NOW(3))"
    ),
    (
        "CREATE TABLE divided (id INT NOT NULL, at DATE NOT NULL, PRIMARY KEY (id, at)) "
        "PARTITION BY RANGE (YEAR(at)) (PARTITION p0 VALUES LESS THAN (2000), "
        "PARTITION p1 VALUES LESS THAN MAXVALUE)"
    ),
    "ALTER TABLE divided ANALYZE PARTITION p0",
    (
        "ALTER TABLE divided REORGANIZE PARTITION p1 INTO (PARTITION p1 VALUES LESS THAN (2010), "
        "PARTITION p2 VALUES LESS THAN MAXVALUE)"
    ),
    "ALTER TABLE divided REMOVE PARTITIONING",
    (
        "CREATE TABLE hinted (a INT /*!50606 NOT NULL */, b INT /*!99999 NOT NULL */) "
        "/*!50100 PARTITION BY HASH (a) PARTITIONS 2 */"
    ),
    (
        "CREATE TABLE wide (id INT KEY, a TINYTEXT, b TEXT, c MEDIUMTEXT, d VARCHAR(9), "
        "e ENUM('x'), "
        "f TEXT CHARSET utf8mb4, g VARBINARY(3)) CHARSET latin1"
    ),
    "ALTER TABLE wide CONVERT TO CHARACTER SET utf8mb4",
    "CREATE TABLE sorted (k VARCHAR(9) CHARSET utf8mb4 KEY, l VARCHAR(9)) COLLATE utf8mb4_bin",
    "ALTER TABLE sorted ADD m VARCHAR(9), ADD n VARCHAR(9) COLLATE utf8_general_ci",
    "ALTER TABLE sorted MODIFY l VARCHAR(9) CHARSET latin1, MODIFY m VARCHAR(9) CHARSET utf8mb4",
    "DROP TABLE sorted",
    "ALTER TABLE wide ADD h VARCHAR(4), CONVERT TO CHARSET utf8 COLLATE utf8_bin",
    "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(10), c INT) CHARACTER SET latin1",
    "ALTER TABLE t ADD d INT",
    "ALTER TABLE t ADD COLUMN e INT NOT NULL DEFAULT -1 FIRST, ADD f VARCHAR(5) AFTER a;",
    "ALTER TABLE t ADD (g DECIMAL(5,2) DEFAULT 1.5, h TEXT, KEY by_g (g))",
    "ALTER TABLE t DROP COLUMN c, DROP d",
    "ALTER TABLE t CHANGE a renamed BIGINT NOT NULL, CHANGE COLUMN b a VARCHAR(30)",
    "ALTER TABLE t MODIFY e SMALLINT AFTER h, MODIFY COLUMN h MEDIUMTEXT FIRST",
    "ALTER TABLE t RENAME COLUMN a TO f2, RENAME COLUMN renamed TO a",
    "ALTER TABLE t RENAME COLUMN a TO f2, RENAME COLUMN f2 TO a",
    "ALTER TABLE t ADD x1 INT AFTER id, ADD x2 INT AFTER x1, DROP COLUMN e",
    "ALTER TABLE t ADD COLUMN e CHAR(3)",
    (
        "ALTER TABLE t ADD INDEX (x1), ADD UNIQUE KEY u12 (x1, x2), ADD FULLTEXT KEY words (h), "
        "ADD CONSTRAINT named UNIQUE (x2)"
    ),
    "ALTER TABLE t RENAME INDEX u12 TO u21, DROP KEY x1",
    "ALTER TABLE t DROP KEY u21, DROP KEY named, ADD KEY pair (x1, x2)",
    "ALTER TABLE t DROP x2",
    "ALTER TABLE t CHANGE X1 x1 INT NOT NULL",
    "ALTER TABLE t DROP PRIMARY KEY",
    "ALTER TABLE t ADD PRIMARY KEY USING BTREE (id) COMMENT 'again'",
    "CREATE UNIQUE INDEX made ON t (g, x1) COMMENT 'x' ALGORITHM=INPLACE LOCK=NONE",
    "DROP INDEX made ON t",
    "ALTER TABLE t ALTER COLUMN g SET DEFAULT 2.25, ALTER a DROP DEFAULT",
    "ALTER TABLE t ENGINE=InnoDB, COMMENT='a, b', AUTO_INCREMENT 7, ROW_FORMAT=DYNAMIC",
    "ALTER TABLE t ADD y INT, ALGORITHM=COPY, LOCK=SHARED",
    "ALTER TABLE t FORCE",
    "ALTER TABLE t ORDER BY a DESC, id",
    "ALTER TABLE t DISABLE KEYS",
    "ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    "ALTER TABLE t DEFAULT CHARACTER SET utf8mb4, ADD z VARCHAR(3)",
    "ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0)",
    "ALTER TABLE t DROP CONSTRAINT positive",
    "ALTER TABLE t ADD COLUMN late INT, RENAME TO t2",
    "RENAME TABLE t2 TO swap, uniquely TO t2, swap TO uniquely",
    "RENAME TABLE `a``b` TO ab, likeness TO `like`",
    "TRUNCATE types",
    "TRUNCATE TABLE serials;",
    "DROP TABLE IF EXISTS noted, nothing /* generated by server */",
    "DROP TABLE `like`, likeness_2",
    "CREATE VIEW seen AS SELECT 1 AS x",
    "DROP VIEW seen",
]

MYSQL_ONLY = [
    (
        "CREATE TABLE j (id INT PRIMARY KEY, doc JSON, v INT INVISIBLE, KEY f ((v + 1)), "
        "g GEOMCOLLECTION, p POINT NOT NULL SRID 4326, SPATIAL INDEX (p))"
    ),
    "ALTER TABLE j ALTER COLUMN v SET VISIBLE, ALTER INDEX f INVISIBLE",
    "ALTER TABLE j ADD UNIQUE KEY pair (id, v)",
    "ALTER TABLE j DROP KEY f, DROP v",
    "ALTER TABLE j ADD t1 TEXT DEFAULT ('x'), ADD v1 VECTOR(3)",
    "DROP TABLE j",
]

MARIADB_ONLY = [
    "CREATE OR REPLACE TABLE types (id INT KEY, doc JSON, u UUID, i INET6, c TEXT COMPRESSED)",
    "SET STATEMENT max_statement_time = 10 FOR ALTER TABLE types ADD x INT",
    "ALTER TABLE types ADD COLUMN IF NOT EXISTS x BIGINT, ADD IF NOT EXISTS y INT",
    "ALTER TABLE types DROP COLUMN IF EXISTS nothing, DROP IF EXISTS y",
    "ALTER TABLE types WAIT 5 MODIFY IF EXISTS nothing INT, MODIFY IF EXISTS x BIGINT",
    "ALTER TABLE IF EXISTS types ADD INDEX IF NOT EXISTS by_x (x)",
    "ALTER TABLE types ADD p INT /*M!100301 NOT NULL */",
    "CREATE OR REPLACE INDEX by_x ON types (x, id)",
    "DROP INDEX IF EXISTS by_x ON types",
    "CREATE TABLE sorted (k VARCHAR(9) COLLATE uca1400_ai_ci PRIMARY KEY) CHARSET utf8mb4",
    "ALTER TABLE sorted MODIFY k VARCHAR(9) CHARSET utf8mb4 COLLATE uca1400_as_cs",
    "DROP TABLE sorted",
    "CREATE SEQUENCE counter",
    "DROP SEQUENCE counter",
    "ALTER ONLINE TABLE types COMMENT 'x'",
    "ALTER IGNORE TABLE types ADD z INT",
]


def info(tables: Iterable[Table]) -> dict[TableId, object]:
    """All that a catalog and a tracked version must agree on."""
    return {
        table.id: (
            [
                (column.name, column.type, essence(column), column.nullable, column.generated)
                for column in table.columns
            ],
            [table.names[ordinal] for ordinal in table.key],
            sorted((index.name, index.columns, index.unique) for index in table.indexes),
            table.uniques,
        )
        for table in tables
    }


def essence(column: Column) -> tuple[object, ...]:
    """What a decoder reads from a source type text."""
    parsed = parse_type(column.source_type)
    return parsed.base, parsed.unsigned, parsed.length, parsed.charset, parsed.compressed


def defaults(table: Table) -> dict[str, object]:
    """The defaults that are known exactly."""
    known = {}
    for column in table.columns:
        with contextlib.suppress(ValueError):
            known[column.name] = constant_default(column)
    return known


def follow(tables: Tables, effects: list[SchemaChange | Truncate]) -> None:
    for effect in effects:
        if isinstance(effect, SchemaChange):
            if effect.before is not None:
                assert tables.pop(effect.before.id) == effect.before
            if effect.after is not None:
                assert effect.after.id not in tables
                tables[effect.after.id] = effect.after


def log_end(cursor: pymysql.cursors.Cursor) -> tuple[str, int]:
    for statement in ("SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"):
        with contextlib.suppress(pymysql.ProgrammingError):
            cursor.execute(statement)
            break
    row = cursor.fetchone()
    assert row is not None
    return row[0], row[1]


def logged(cursor: pymysql.cursors.Cursor, since: tuple[str, int], schema: str) -> str:
    """The text of the statement that the server has put into its log; empty if it has not."""
    cursor.execute(f"SHOW BINLOG EVENTS IN '{since[0]}' FROM {since[1]}")
    use = f"use `{schema}`; "
    texts = [event[5].removeprefix(use) for event in cursor.fetchall() if event[5].startswith(use)]
    assert len(texts) < 2
    return texts[0] if texts else ""


def everything(id: TableId) -> bool:
    return True


def test_tracked_tables_equal_the_server(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    schema = fresh_mysql_database(mysql_family)
    mariadb = mysql_family.kind == "mariadb"
    statements = SAME_ON_ALL + (MARIADB_ONLY if mariadb else MYSQL_ONLY)
    tables: Tables = {}
    with connect_mysql(mysql_family, schema) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@collation_database")
        ((collation,),) = cursor.fetchall()
        for statement in statements:
            before = log_end(cursor)
            cursor.execute(statement)
            effects = apply_statement(
                logged(cursor, before, schema),
                schema,
                tables,
                everything,
                default_charset=lambda _: collation,
                dialect=Dialect(mariadb=mariadb),
            )
            follow(tables, effects)
            live = read_catalog(connection, lambda id: id.schema == schema)
            assert info(tables.values()) == info(live), statement
            for table in live:
                for was, now in zip(tables[table.id].columns, table.columns, strict=True):
                    assert same_order(was.source_type, now.source_type), (
                        statement,
                        was.source_type,
                        now.source_type,
                    )
            for table in live:
                tracked, real = defaults(tables[table.id]), defaults(table)
                for name in tracked.keys() & real.keys():
                    assert tracked[name] == real[name], (statement, name)


SHOP = "shop"


def made(*definitions: str) -> Tables:
    """Tables as their CREATE statements make them."""
    tables: Tables = {}
    for definition in definitions:
        follow(tables, apply_statement(definition, SHOP, tables, everything))
    return tables


@pytest.fixture
def tables() -> Tables:
    return made(
        "CREATE TABLE orders (id INT KEY, total DECIMAL(9,2), note VARCHAR(9)) CHARSET latin1",
        "CREATE TABLE lines (order_id INT, line INT, PRIMARY KEY (order_id, line))",
    )


def in_shop(id: TableId) -> bool:
    return id.schema == SHOP and not id.name.startswith("_")


NOTHING = [
    "",
    "# Dummy event replacing event type 160",
    "BEGIN",
    "COMMIT /* xid */",
    "SAVEPOINT `orders`",
    "XA START X'61',X'',1",
    "GRANT ALL ON shop.orders TO x",
    "CREATE USER x IDENTIFIED BY 'DROP TABLE orders'",
    "CREATE DEFINER=`root`@`localhost` TRIGGER x BEFORE INSERT ON orders FOR EACH ROW SET @a = 1",
    "CREATE DEFINER=`root`@`%` PROCEDURE p() BEGIN DROP TABLE orders; END",
    "CREATE OR REPLACE VIEW v AS SELECT * FROM orders",
    "ALTER DATABASE shop CHARACTER SET utf8mb4",
    "DROP TRIGGER x",
    "ANALYZE TABLE orders",
    "FLUSH TABLES orders",
    "SET PASSWORD FOR x = 'y'",
    "DROP TEMPORARY TABLE IF EXISTS orders",
    "CREATE TEMPORARY TABLE orders (id INT)",
    "OPTIMIZE TABLE orders",
    "CREATE DATABASE other",
]


@pytest.mark.parametrize("statement", NOTHING)
def test_a_statement_without_effect_on_tables_is_none(statement: str, tables: Tables) -> None:
    assert read_statement(statement, SHOP) is None
    assert apply_statement(statement, SHOP, tables, in_shop) == []


ELSEWHERE = [
    "ALTER TABLE other.orders DROP COLUMN total",
    "ALTER TABLE _orders_gho WHATEVER IS NOT KNOWN",
    "CREATE TABLE _orders_gho LIKE orders",
    "CREATE TABLE other.orders SELECT * FROM x",
    "INSERT INTO other.orders SELECT * FROM shop.orders",
    "UPDATE _x JOIN _y ON (_x.id = _y.id) SET _x.orders = 1",
    "DELETE _x FROM _x, other.orders WHERE orders = 1",
    "DROP TABLE _x, other.lines",
    "DROP DATABASE other",
    "RENAME TABLE _a TO _b",
    "TRUNCATE other.orders",
    "CREATE INDEX i ON other.orders (id)",
    "LOAD DATA INFILE 'x' INTO TABLE _x",
    "WITH c AS (SELECT 1) UPDATE _x SET a = 1",
    "SOMETHING NEW orders",
    "ALTER TABLE _x EXCHANGE PARTITION p WITH TABLE _y",
]


@pytest.mark.parametrize("statement", ELSEWHERE)
def test_what_concerns_other_tables_does_nothing(statement: str, tables: Tables) -> None:
    assert apply_statement(statement, SHOP, tables, in_shop) == []


STOPS = [
    ("INSERT INTO orders VALUES (1, 2, 'x')", "orders", "ROW"),
    ("insert ignore shop.orders SET id = 1", "orders", "ROW"),
    ("REPLACE INTO `orders` SELECT 1", "orders", "ROW"),
    ("UPDATE _x, lines l SET l.line = 1", "lines", "ROW"),
    (
        "UPDATE LOW_PRIORITY _x LEFT JOIN (orders) ON _x.id = orders.id SET total = 1",
        "orders",
        "ROW",
    ),
    ("DELETE FROM orders WHERE id = 1", "orders", "ROW"),
    ("DELETE l.* FROM orders JOIN lines l ON true", "orders", "ROW"),
    ("DELETE FROM l USING lines AS l", "lines", "ROW"),
    ("LOAD DATA LOCAL INFILE 'f' IGNORE INTO TABLE orders", "orders", "ROW"),
    ("WITH c AS (SELECT 1) DELETE FROM lines WHERE line = 1", "lines", "ROW"),
    ("SET STATEMENT max_statement_time=1 FOR DELETE FROM lines LIMIT 1", "lines", "ROW"),
    ("ALTER TABLE orders DROP PARTITION p1", "orders", "backfill"),
    ("ALTER TABLE orders TRUNCATE PARTITION ALL", "orders", "backfill"),
    ("ALTER TABLE orders EXCHANGE PARTITION p WITH TABLE _x", "orders", "backfill"),
    (
        "ALTER TABLE _x EXCHANGE PARTITION p WITH TABLE orders WITHOUT VALIDATION",
        "orders",
        "backfill",
    ),
    (
        "ALTER TABLE _x CONVERT TABLE orders TO PARTITION p VALUES LESS THAN (1)",
        "orders",
        "backfill",
    ),
    ("ALTER TABLE orders CONVERT PARTITION p TO TABLE _x", "orders", "backfill"),
    ("ALTER TABLE orders DISCARD TABLESPACE", "orders", "backfill"),
    ("ALTER TABLE orders IMPORT TABLESPACE", "orders", "backfill"),
    ("ALTER TABLE orders ADD SYSTEM VERSIONING", "orders", "backfill"),
    ("ALTER TABLE orders ENGINE = BLACKHOLE", "orders", "backfill"),
    ("ALTER TABLE orders ADD made_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP", "orders", "backfill"),
    ("ALTER TABLE orders ADD code CHAR(36) DEFAULT (UUID())", "orders", "backfill"),
    ("ALTER TABLE orders ADD twice INT AS (total * 2) STORED", "orders", "backfill"),
    ("ALTER TABLE lines ADD n SERIAL", "lines", "backfill"),
    ("ALTER TABLE lines ADD n INT AUTO_INCREMENT UNIQUE", "lines", "backfill"),
    ("ALTER IGNORE TABLE orders ADD UNIQUE (note)", "orders", "backfill"),
    ("ALTER TABLE orders DROP unknown", "orders", "backfill"),
    ("ALTER TABLE orders DROP note, ADD NOTE VARCHAR(9)", "orders", "backfill"),
    ("ALTER TABLE orders ADD x NEWTYPE", "orders", "Exclude"),
    ("ALTER TABLE orders ADD x VARCHAR('", "orders", "backfill"),
    ("ALTER TABLE orders FROBNICATE", "orders", "backfill"),
    ("ALTER TABLE orders RENAME TO _old", "orders", "Include"),
    ("ALTER TABLE _new RENAME orders", "orders", "Backfill"),
    ("RENAME TABLE orders TO _orders_del, _orders_gho TO orders", "orders", "Backfill"),
    ("RENAME TABLE orders TO elsewhere.orders", "orders", "Include"),
    ("CREATE TABLE orders (id INT)", "orders", "backfill"),
    ("CREATE TABLE fresh SELECT * FROM orders", "fresh", "backfill"),
    ("CREATE TABLE fresh (a INT) AS SELECT 1 AS b", "fresh", "backfill"),
    ("CREATE TABLE fresh LIKE _x", "fresh", "backfill"),
    ("CREATE TABLE fresh (a INT) WITH SYSTEM VERSIONING", "fresh", "backfill"),
]


@pytest.mark.parametrize(("statement", "table", "remedy"), STOPS)
def test_what_cannot_be_followed_stops(
    statement: str, table: str, remedy: str, tables: Tables
) -> None:
    with pytest.raises(SchemaError) as stop:
        apply_statement(statement, SHOP, tables, in_shop)
    assert stop.value.table == f"{SHOP}.{table}"
    assert remedy in stop.value.hint


def test_an_alter_is_one_change_that_tells_new_names(tables: Tables) -> None:
    sql = "ALTER TABLE shop.orders CHANGE total sum DECIMAL(12,2), RENAME COLUMN note TO remark"
    (change,) = apply_statement(sql, "elsewhere", tables, in_shop)
    before = tables[TableId(SHOP, "orders")]
    assert isinstance(change, SchemaChange)
    assert (change.statement, change.before) == (sql, before)
    assert change.renamed == (("total", "sum"), ("note", "remark"))
    assert change.after is not None
    assert change.after.version == before.version + 1
    assert change.after.names == ("id", "sum", "remark")
    assert change.after.columns[2].source_type == "varchar(9) character set latin1"


def test_tables_swap_through_a_name_that_is_not_selected(tables: Tables) -> None:
    sql = "RENAME TABLE orders TO _swap, lines TO orders, _swap TO `lines`"
    changes = apply_statement(sql, SHOP, tables, in_shop)
    before = {id.name: table.names for id, table in tables.items()}
    follow(tables, changes)
    assert {id.name: table.names for id, table in tables.items()} == {
        "orders": before["lines"],
        "lines": before["orders"],
    }


STORED_ON_ALL = [
    ("CHAR(5)", "'a  '"),
    ("CHAR(3)", "'ab       '"),
    ("VARCHAR(20)", "'  sp  '"),
    ("VARCHAR(9)", "1e3"),
    ("VARCHAR(9)", "1.50"),
    ("VARCHAR(9)", "007"),
    ("VARCHAR(9)", "-7"),
    ("VARCHAR(9)", "TRUE"),
    ("CHAR(9)", "b'1000001'"),
    ("VARCHAR(9)", "0x4142"),
    ("VARCHAR(9) CHARACTER SET utf8mb4", "x'E282AC'"),
    ("VARCHAR(9)", "_latin1 x'80'"),
    ("VARCHAR(9)", "_utf8mb4 0xE282AC"),
    ("VARCHAR(9)", "_latin1'ab'"),
    ("VARCHAR(9) CHARACTER SET latin1", "x'80'"),
    ("VARBINARY(9)", "007"),
    ("VARBINARY(9)", "b'1000001'"),
    ("VARBINARY(9)", "'ab '"),
    ("ENUM('a','b','1')", "'B'"),
    ("ENUM('x','y')", "'y '"),
    ("SET('x','y','z')", "'Z,x'"),
    ("SET('x','y')", "''"),
    ("BIT(9)", "'5'"),
]


def test_defaults_are_stored_as_the_server_stores_them(
    mysql_family: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    schema = fresh_mysql_database(mysql_family)
    with connect_mysql(mysql_family, schema) as connection, connection.cursor() as cursor:
        before = log_end(cursor)
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY) CHARACTER SET utf8mb4")
        tables: Tables = {}
        follow(tables, apply_statement(logged(cursor, before, schema), schema, tables, everything))
        cursor.execute("INSERT INTO t VALUES (1)")
        for number, (type, default) in enumerate(STORED_ON_ALL):
            before = log_end(cursor)
            cursor.execute(f"ALTER TABLE t ADD c{number} {type} DEFAULT {default}")
            sql = logged(cursor, before, schema)
            follow(tables, apply_statement(sql, schema, tables, everything))
        (table,) = tables.values()
        (row,) = selected_rows(mysql_family, live_table(connection, schema, "t"))
    for column, value, case in zip(table.columns[1:], row[1:], STORED_ON_ALL, strict=True):
        assert (case, existing_value(column)) == (case, literal_of(column, value))


def literal_of(column: Column, value: object) -> str:
    """The same literal made from the value that the server gave to a row."""
    if isinstance(value, bytes):
        return literal("\\x" + value.hex())
    if isinstance(value, int):
        return literal(f"{value:0{column.type.length}b}")
    return literal(str(value))


@pytest.mark.parametrize(
    "column",
    [
        "VARCHAR(9) DEFAULT 1e-3",
        "VARCHAR(9) DEFAULT -0.0",
        "ENUM('é') DEFAULT 'e'",
        "ENUM('a') DEFAULT 1",
        "VARBINARY(9) DEFAULT 'é'",
        "VARCHAR(9) DEFAULT x'FF'",
        "VARCHAR(9) DEFAULT _latin1'é'",
        "VARCHAR(3) DEFAULT 'abcd'",
    ],
)
def test_a_default_that_cannot_be_known_stops(column: str) -> None:
    tables = made("CREATE TABLE t (id INT PRIMARY KEY) CHARSET utf8mb4")
    sql = f"ALTER TABLE t ADD c {column}"
    with pytest.raises(SchemaError, match="cannot be"):
        apply_statement(sql, SHOP, tables, everything)


MANY_TYPES = (
    "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), x TEXT, b BLOB, bb BINARY(3), vb"
    " VARBINARY(9), e ENUM('a','b'), n DECIMAL(9,2), f DOUBLE, i INT, bits BIT(9),"
    " l VARCHAR(20) CHARSET latin1) CHARSET utf8mb4"
)


@pytest.mark.parametrize(
    ("strict", "change"),
    [
        (False, "MODIFY v VARCHAR(19) CHARSET utf8mb4"),
        (False, "MODIFY x TINYTEXT CHARSET utf8mb4"),
        (False, "MODIFY x VARCHAR(9000) CHARSET utf8mb4"),
        (False, "MODIFY b TINYBLOB"),
        (False, "MODIFY vb VARBINARY(8)"),
        (False, "MODIFY v VARCHAR(20) CHARSET latin1"),
        (False, "MODIFY l VARCHAR(20) CHARSET greek"),
        (False, "CONVERT TO CHARACTER SET latin1"),
        (False, "MODIFY e ENUM('a') CHARSET utf8mb4"),
        (False, "MODIFY v ENUM('a') CHARSET utf8mb4"),
        (False, "MODIFY n DECIMAL(9,2) UNSIGNED"),
        (False, "MODIFY i YEAR"),
        (False, "MODIFY bits BIT(8)"),
        (True, "MODIFY v CHAR(20) CHARSET utf8mb4"),
        (True, "MODIFY bb BINARY(4)"),
        (True, "MODIFY vb BINARY(9)"),
    ],
)
def test_a_type_that_may_not_hold_every_value_stops(strict: bool, change: str) -> None:
    tables = made(MANY_TYPES)
    dialect = Dialect(sql_mode=1 << 21 if strict else 0)
    with pytest.raises(SchemaError, match="the log does not show") as stop:
        apply_statement(f"ALTER TABLE t {change}", SHOP, tables, everything, dialect=dialect)
    assert "backfill it again" in stop.value.hint


@pytest.mark.parametrize(
    ("strict", "change"),
    [
        (True, "MODIFY v VARCHAR(19) CHARSET latin1, MODIFY x TINYTEXT, MODIFY b TINYBLOB"),
        (False, "MODIFY v VARCHAR(21) CHARSET utf8mb4, MODIFY b MEDIUMBLOB, MODIFY vb BLOB"),
        (False, "MODIFY v TINYTEXT CHARSET utf8mb4, MODIFY l VARCHAR(20) CHARSET utf8mb4"),
        (False, "MODIFY e ENUM('b','a','c') CHARSET utf8mb4, MODIFY n DECIMAL(12,2)"),
        (False, "MODIFY bb VARBINARY(3), MODIFY bits BIT(10), MODIFY i BIGINT"),
        (False, "MODIFY v VARCHAR(20) CHARSET utf8mb4 COLLATE utf8mb4_bin NOT NULL, DROP x"),
        (False, "CONVERT TO CHARACTER SET utf8mb4"),
    ],
)
def test_a_type_that_holds_every_value_is_followed(strict: bool, change: str) -> None:
    dialect = Dialect(sql_mode=1 << 21 if strict else 0)
    sql = f"ALTER TABLE t {change}"
    assert apply_statement(sql, SHOP, made(MANY_TYPES), everything, dialect=dialect)


def test_dropping_a_database_drops_each_followed_table(tables: Tables) -> None:
    changes = apply_statement("DROP DATABASE IF EXISTS `shop`", "", tables, in_shop)
    gone = [tables[TableId(SHOP, name)] for name in ("lines", "orders")]
    sql = "DROP DATABASE IF EXISTS `shop`"
    assert changes == [SchemaChange(sql, table, None) for table in gone]


@pytest.mark.parametrize(
    "statement",
    ["TRUNCATE TABLE orders", "truncate `shop`.`orders` NOWAIT", "DELETE FROM `shop`.`orders`"],
)
def test_all_rows_go(statement: str, tables: Tables) -> None:
    (change,) = apply_statement(statement, SHOP, tables, in_shop)
    assert change == Truncate(tables[TableId(SHOP, "orders")])


def test_the_only_key_is_never_guessed() -> None:
    tables = made("CREATE TABLE t (id INT PRIMARY KEY, UNIQUE again (id))")
    with pytest.raises(SchemaError, match="key"):
        apply_statement("DROP INDEX again ON t", SHOP, tables, everything)
    follow(tables, apply_statement("ALTER TABLE t DROP PRIMARY KEY", SHOP, tables, everything))
    assert tables[TableId(SHOP, "t")].key == (0,)


def test_the_session_changes_the_meaning_of_a_text() -> None:
    no_escapes, real_as_float = 1 << 20, 1 << 0
    sql = r"CREATE TABLE T (a ENUM('\'), `b` REAL, `c``d` CHAR(2) DEFAULT '\')"
    dialect = Dialect(sql_mode=no_escapes | real_as_float, fold_names=True)
    (change,) = apply_statement(sql, "Shop", {}, everything, dialect=dialect)
    assert isinstance(change, SchemaChange)
    assert change.after is not None
    assert change.after.id == TableId("shop", "t")
    assert change.after.columns[0].type.members == ("\\",)
    assert [column.type.kind for column in change.after.columns] == ["enum", "float32", "text"]


def test_a_charset_that_nothing_tells_is_left_out() -> None:
    tables = made("CREATE TABLE t (a TEXT CHARSET latin1, b TEXT CHARSET utf8mb4)")
    (change,) = apply_statement("ALTER TABLE t ADD c TEXT", SHOP, tables, everything)
    assert isinstance(change, SchemaChange)
    assert change.after is not None
    assert [column.source_type for column in change.after.columns] == [
        "text character set latin1",
        "text character set utf8mb4",
        "text",
    ]


WORDS = st.sampled_from(
    [word for text in [*SAME_ON_ALL, *(stop[0] for stop in STOPS)] for word in text.split(" ")]
    + ["`", "'", '"', "(", ")", ",", "/*!", "*/", "\\", "--", "#", ";", ".", "orders", "\x00", "é"]
)
STARTS = st.sampled_from(["ALTER TABLE orders", "CREATE TABLE orders", "RENAME TABLE orders", ""])


@given(STARTS, st.lists(WORDS | st.text(max_size=5), max_size=30))
def test_no_text_raises_anything_else(start: str, words: list[str]) -> None:
    tables = made("CREATE TABLE orders (id INT PRIMARY KEY, a TEXT, KEY (a(3)))")
    with contextlib.suppress(SchemaError):
        apply_statement(" ".join([start, *words]), SHOP, tables, everything)


@pytest.mark.parametrize(
    "part", ["'", "'\\", "`", '"', "/*", "/*!", "(", "1e", "1.", "a.", "--", ",", "((1))"]
)
def test_no_text_takes_long(part: str) -> None:
    tables = made("CREATE TABLE orders (id INT PRIMARY KEY)")
    started = time.process_time()
    for head in ("", "ALTER TABLE orders ADD x INT DEFAULT ", "UPDATE "):
        with contextlib.suppress(SchemaError):
            apply_statement(head + part * 20_000, SHOP, tables, everything)
    assert time.process_time() - started < 2


def test_a_table_that_waits_for_its_copy_is_not_made_by_a_statement_that_may_find_it() -> None:
    """GIVEN tables that are there and will be copied WHEN a statement makes them if they are not
    there, or like one of unknown columns THEN they stay as they are; a real one is made.
    """

    def shop(name: str) -> TableId:
        return TableId("shop", name)

    columns = (Column("id", Type("int32"), "int"),)
    discovered = {shop(name): Table(shop(name), columns) for name in ("a", "b")}

    def effects(sql: str) -> list[TableId | None]:
        found = apply_statement(sql, "shop", {}, lambda id: True, discovered=discovered)
        return [it.after and it.after.id for it in found if isinstance(it, SchemaChange)]

    assert effects("CREATE TABLE IF NOT EXISTS a (id INT)") == []
    assert effects("CREATE TABLE a LIKE b") == []
    assert effects("CREATE TABLE a (id INT)") == [shop("a")]
    assert effects("CREATE TABLE IF NOT EXISTS other (id INT)") == [shop("other")]
    assert effects("CREATE TABLE other LIKE b") == [shop("other")]

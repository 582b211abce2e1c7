"""
The effects of logged statements on followed tables, without a server.
"""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.change import SchemaChange, Truncate
from engine.errors import SchemaError
from engine.schema import Column, Table, TableId, Type
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.effects import apply_statement
from sources.mysql.ddl.statements import read_statement
from tests.support.ddl_statements import SAME_ON_ALL, Tables, everything, follow

SHOP = "shop"


def made(*definitions: str) -> Tables:
    """The tables that CREATE statements create."""
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


@pytest.mark.parametrize(
    ("column", "converted"),
    [
        ("DATE DEFAULT '2020-01-02'", False),
        ("DATE DEFAULT DATE'2020-01-02'", False),
        ("DATE NOT NULL DEFAULT 0", False),
        ("DATE DEFAULT '2020-1-2'", True),
        ("DATE DEFAULT 20200102", True),
        ("DATETIME(2) DEFAULT '2020-01-02 03:04:05.67'", False),
        ("DATETIME(1) DEFAULT '2020-01-02 03:04:05.67'", True),
        ("DATETIME DEFAULT '2020-01-02'", False),
        ("DATETIME DEFAULT 20200102030405", True),
        ("TIME DEFAULT '-100:00:00'", False),
        ("TIME DEFAULT '1 10:00:00'", True),
        ("TIME DEFAULT 1000", True),
        ("YEAR DEFAULT '1970'", False),
        ("YEAR DEFAULT 2155", False),
        ("YEAR DEFAULT 70", True),
        ("YEAR DEFAULT '0'", True),
        ("INT DEFAULT '7'", False),
        ("DOUBLE(5,1) DEFAULT 1.25", True),
        ("VECTOR(2) NOT NULL", True),
        ("INET6 NOT NULL", False),
    ],
)
def test_a_default_that_the_server_converts_is_not_known(
    tables: Tables, column: str, converted: bool
) -> None:
    statement = f"ALTER TABLE orders ADD c {column}"
    with pytest.raises(SchemaError) if converted else contextlib.nullcontext():
        assert apply_statement(statement, SHOP, tables, everything)


@pytest.mark.parametrize(("converts", "type"), [(False, "year(2)"), (True, "year")])
def test_years_of_two_digits(converts: bool, type: str) -> None:
    """MySQL 5.6.6 and newer make a YEAR(4) of a YEAR(2), also in columns that existed before."""
    tables = made("CREATE TABLE a (id INT KEY, y YEAR(2))", "CREATE TABLE b (id INT KEY)")
    dialect = Dialect(converts_years=converts)
    for statement in ("ALTER TABLE b ADD y YEAR(2)", "CREATE TABLE c LIKE a"):
        (change,) = apply_statement(statement, SHOP, tables, everything, dialect=dialect)
        assert isinstance(change, SchemaChange)
        assert change.after is not None
        assert change.after.columns[-1].source_type == type
    for statement in (
        "ALTER TABLE a COMMENT = 'old'",
        "CREATE INDEX i ON a (y)",
        "REPAIR LOCAL TABLE b, a",
        "OPTIMIZE TABLE a",
    ):
        with (
            pytest.raises(SchemaError, match="two digits") if converts else contextlib.nullcontext()
        ):
            apply_statement(statement, SHOP, tables, everything, dialect=dialect)
        for change in apply_statement(
            statement, SHOP, tables, everything, dialect=dialect, empty=True
        ):
            assert isinstance(change, SchemaChange)
            assert change.after is not None
            assert change.after.columns[-1].source_type == type
    assert not apply_statement("OPTIMIZE TABLE b", SHOP, tables, everything, dialect=dialect)


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
    "ANALYZE TABLES orders",
    "ANALYZE TABLE orders UPDATE HISTOGRAM ON total",
    "FLUSH TABLES orders",
    "SET PASSWORD FOR x = 'y'",
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
def test_statements_on_other_tables_have_no_effects(statement: str, tables: Tables) -> None:
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
    ("ANALYZE UPDATE orders SET total = 1", "orders", "ROW"),
    ("ANALYZE FORMAT = JSON DELETE FROM lines WHERE line = 1", "lines", "ROW"),
    ("ANALYZE WITH c AS (SELECT 1) UPDATE orders SET total = 1", "orders", "ROW"),
    ("SET STATEMENT max_statement_time=1 FOR ANALYZE REPLACE orders SET id = 1", "orders", "ROW"),
    ("SET STATEMENT max_statement_time=1 FOR DELETE FROM lines LIMIT 1", "lines", "ROW"),
    ("ALTER TABLE orders DROP PARTITION p1", "orders", "backfill"),
    ("ALTER TABLE orders TRUNCATE PARTITION p1", "orders", "backfill"),
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
    ("ALTER TABLE orders ADD twice INT AS (CRC32(total)) STORED", "orders", "backfill"),
    ("ALTER TABLE lines ADD n SERIAL", "lines", "backfill"),
    ("ALTER TABLE lines ADD n INT AUTO_INCREMENT UNIQUE", "lines", "backfill"),
    ("ALTER IGNORE TABLE orders ADD UNIQUE (note)", "orders", "backfill"),
    ("ALTER TABLE orders DROP unknown", "orders", "backfill"),
    ("ALTER TABLE orders DROP note, ADD NOTE VARCHAR(9)", "orders", "backfill"),
    ("ALTER TABLE orders ADD x NEWTYPE", "orders", "to exclude"),
    ("ALTER TABLE orders ADD x VARCHAR('", "orders", "backfill"),
    ("ALTER TABLE orders FROBNICATE", "orders", "backfill"),
    ("ALTER TABLE orders RENAME TO _old", "orders", "to tables"),
    ("ALTER TABLE _new RENAME orders", "orders", "tailrace backfill CONFIG TABLE"),
    (
        "RENAME TABLE orders TO _orders_del, _orders_gho TO orders",
        "orders",
        "tailrace backfill CONFIG TABLE",
    ),
    ("RENAME TABLE orders TO elsewhere.orders", "orders", "to tables"),
    ("CREATE TABLE orders (id INT)", "orders", "backfill"),
    ("CREATE TABLE fresh SELECT * FROM orders", "fresh", "backfill"),
    ("CREATE TABLE fresh (a INT) AS SELECT 1 AS b", "fresh", "backfill"),
    ("CREATE TABLE fresh LIKE _x", "fresh", "backfill"),
    ("CREATE TABLE fresh (a INT, b INT WITH SYSTEM VERSIONING)", "fresh", "backfill"),
]


@pytest.mark.parametrize(("statement", "table", "remedy"), STOPS)
def test_statements_that_cannot_be_followed_stop(
    statement: str, table: str, remedy: str, tables: Tables
) -> None:
    with pytest.raises(SchemaError) as stop:
        apply_statement(statement, SHOP, tables, in_shop)
    assert stop.value.table == f"{SHOP}.{table}"
    assert remedy in stop.value.hint


def test_an_alter_is_one_change_with_the_new_names(tables: Tables) -> None:
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
def test_a_default_that_cannot_be_derived_stops(column: str) -> None:
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
        (True, "MODIFY v INET6"),
        (True, "MODIFY vb VECTOR(2)"),
    ],
)
def test_a_type_that_may_not_hold_every_value_stops(strict: bool, change: str) -> None:
    tables = made(MANY_TYPES)
    dialect = Dialect(sql_mode=1 << 21 if strict else 0)
    with pytest.raises(SchemaError, match="the log does not show") as stop:
        apply_statement(f"ALTER TABLE t {change}", SHOP, tables, everything, dialect=dialect)
    assert "tailrace backfill CONFIG TABLE" in stop.value.hint


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
def test_all_rows_are_removed(statement: str, tables: Tables) -> None:
    (change,) = apply_statement(statement, SHOP, tables, in_shop)
    assert change == Truncate(tables[TableId(SHOP, "orders")])


def test_the_only_key_is_never_guessed() -> None:
    tables = made("CREATE TABLE t (id INT PRIMARY KEY, UNIQUE again (id))")
    with pytest.raises(SchemaError, match="key"):
        apply_statement("DROP INDEX again ON t", SHOP, tables, everything)
    follow(tables, apply_statement("ALTER TABLE t DROP PRIMARY KEY", SHOP, tables, everything))
    assert tables[TableId(SHOP, "t")].key == (0,)


def test_the_sql_mode_changes_the_meaning_of_a_statement() -> None:
    no_escapes, real_as_float = 1 << 20, 1 << 0
    sql = r"CREATE TABLE T (a ENUM('\'), `b` REAL, `c``d` CHAR(2) DEFAULT '\')"
    dialect = Dialect(sql_mode=no_escapes | real_as_float, fold_names=True)
    (change,) = apply_statement(sql, "Shop", {}, everything, dialect=dialect)
    assert isinstance(change, SchemaChange)
    assert change.after is not None
    assert change.after.id == TableId("shop", "t")
    assert change.after.columns[0].type.members == ("\\",)
    assert [column.type.kind for column in change.after.columns] == ["enum", "float32", "text"]


def test_an_unknown_charset_is_left_out() -> None:
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
def test_no_text_raises_any_other_error(start: str, words: list[str]) -> None:
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


def test_a_discovered_table_is_not_created_by_a_statement_that_may_find_it() -> None:
    """GIVEN discovered tables WHEN a statement creates one IF NOT EXISTS, or LIKE a table with
    unknown columns THEN it has no effect; any other statement creates its table.
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

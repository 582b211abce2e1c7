"""
Statements whose effects the log does not show, each on a table of its own.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from tests.support.releases import Since, version_of
from tests.support.servers import AnyServer, connect_mysql

__all__ = ["Case", "change_table", "make_tables"]

LOOSE = "SET SESSION sql_mode = ''"
#: A document with a binary string, which the server prints in base64.
BINARY_DOCUMENT = "JSON_OBJECT('b', CAST(REPEAT(x'FF00', 99) AS BINARY), 'c', 1.0e0, 'a', 1e300)"
PLAIN_DOCUMENTS = """(2, '{"b": [1.0, -0.0]}', '"a"', '[1.25e-7, 1.50]'), (3, NULL, '1', '2')"""
POINT = "x'110F00000101000000000000000000F03F0000000000000040'"
UUID = "'123e4567-e89b-12d3-a456-426655440000'"
RANGES = (
    "PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (3), PARTITION p1 VALUES LESS THAN (9))"
)


#: The releases that know a kind of statement.
MARIADB = Since(mysql=None)
STORED = Since(mysql=(5, 7, 6), mariadb=(10, 2, 1))
PERSISTENT = Since(mysql=None, mariadb=(10, 0))
VIRTUAL = Since(mysql=(5, 7, 6), mariadb=(10, 0))
EXPRESSIONS = Since(mysql=(8, 0, 13), mariadb=(10, 2, 1))
EXCHANGE = Since(mysql=(5, 6, 3), mariadb=(10, 0, 7))
CONVERT_PARTITION = Since(mysql=None, mariadb=(10, 7, 1))
EXPLICIT_DEFAULTS = Since(mysql=(8, 0), mariadb=(10, 8, 4))
DOCUMENTS = Since(mysql=(5, 7, 8), mariadb=(10, 2, 7))
BINARY_DOCUMENTS = Since(mysql=(5, 7, 8), mariadb=None)
IGNORE = Since(mysql_until=(5, 7, 4))
#: InnoDB of MySQL 5.5 and MariaDB 10.2 refuses the duplicates.
IGNORE_BY_INNODB = Since(mysql=(5, 6), mariadb=(10, 3), mysql_until=(5, 7, 4))
YEARS_OF_2_DIGITS = Since(mysql_until=(5, 6, 6))
ADDRESSES = Since(mysql=None, mariadb=(10, 10))
UUIDS = Since(mysql=None, mariadb=(10, 7))


class Case(NamedTuple):
    """A table ``t``, and statements on it, with the releases that know them."""

    columns: str
    values: str
    statements: tuple[str, ...]
    since: Since = Since()
    options: str = ""


#: By the name of the table.
CASES = {
    "generated_stored": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 10), (2, NULL)",
        ("ALTER TABLE t ADD g INT GENERATED ALWAYS AS (a * 2) STORED",),
        STORED,
    ),
    "generated_virtual": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 10), (2, NULL)",
        ("ALTER TABLE t ADD g INT GENERATED ALWAYS AS (a * 2) VIRTUAL",),
        VIRTUAL,
    ),
    "generated_base_modified": Case(
        "id INT PRIMARY KEY, a DECIMAL(8,3), g VARCHAR(30) AS (a) STORED",
        "(1, 1.5, DEFAULT), (2, 2.25, DEFAULT)",
        ("ALTER TABLE t MODIFY a DECIMAL(9,4)",),
        STORED,
    ),
    "generated_persistent": Case(
        "id INT PRIMARY KEY, a DECIMAL(8,3), g VARCHAR(30) AS (a) PERSISTENT",
        "(1, 1.5, DEFAULT), (2, 2.25, DEFAULT)",
        (
            "ALTER TABLE t ADD h INT AS (a * 2) PERSISTENT",
            "ALTER TABLE t MODIFY a DECIMAL(9,4)",
        ),
        PERSISTENT,
    ),
    "default_today": Case(
        "id INT PRIMARY KEY",
        "(1), (2)",
        ("ALTER TABLE t ADD at DATE DEFAULT (CURRENT_DATE)",),
        EXPRESSIONS,
    ),
    "default_expression": Case(
        "id INT PRIMARY KEY", "(1), (2)", ("ALTER TABLE t ADD n INT DEFAULT (1 + 2)",), EXPRESSIONS
    ),
    "partition_dropped": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        ("ALTER TABLE t DROP PARTITION p0",),
        options=RANGES,
    ),
    "partition_truncated": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        ("ALTER TABLE t TRUNCATE PARTITION p0",),
        options=RANGES,
    ),
    "partition_exchanged": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        (
            "CREATE TABLE SINGLE (id INT PRIMARY KEY)",
            "INSERT INTO SINGLE VALUES (0)",
            "ALTER TABLE t EXCHANGE PARTITION p0 WITH TABLE SINGLE",
        ),
        EXCHANGE,
        options=RANGES,
    ),
    "partition_converted": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        ("ALTER TABLE t CONVERT PARTITION p0 TO TABLE SINGLE",),
        CONVERT_PARTITION,
        options=RANGES,
    ),
    "repartitioned": Case(
        "id INT PRIMARY KEY",
        "(1), (2), (5), (8)",
        ("ALTER TABLE t PARTITION BY HASH (id) PARTITIONS 3",),
        options=RANGES,
    ),
    "lossy": Case(
        "id INT PRIMARY KEY, a VARCHAR(20), b DOUBLE, c BIGINT",
        "(1, 'a long text', 1.23456789, 9999999999)",
        (LOOSE, "ALTER TABLE t MODIFY a VARCHAR(3), MODIFY b FLOAT, MODIFY c SMALLINT"),
    ),
    "nulls_replaced": Case(
        "id INT PRIMARY KEY, e ENUM('x','y'), ts TIMESTAMP NULL, n INT, s VARCHAR(9), j DATE",
        "(1, NULL, NULL, NULL, NULL, NULL), (2, 'y', '2020-01-01', 3, 's', '2020-01-01')",
        (
            LOOSE,
            "ALTER TABLE t MODIFY e ENUM('x','y') NOT NULL",
            "ALTER TABLE t MODIFY ts TIMESTAMP NOT NULL, MODIFY n INT NOT NULL",
            "ALTER TABLE t MODIFY s VARCHAR(9) NOT NULL, MODIFY j DATE NOT NULL",
        ),
    ),
    "float_rounded": Case(
        "id INT PRIMARY KEY",
        "(1), (2)",
        ("ALTER TABLE t ADD f FLOAT(7,2) DEFAULT 1.239, ADD d DOUBLE(7,2) DEFAULT 1.239",),
    ),
    "default_converted": Case(
        "id INT PRIMARY KEY",
        "(1), (2)",
        (
            "ALTER TABLE t ADD a DATE DEFAULT '2020-1-2', ADD b DATETIME DEFAULT 20200102030405",
            "ALTER TABLE t ADD c YEAR DEFAULT '7', ADD d TIME DEFAULT '1 10:00'",
        ),
    ),
    "implicit_timestamp_modified": Case(
        "id INT PRIMARY KEY, a DATETIME NULL, b TIMESTAMP NULL",
        "(1, NULL, NULL), (2, '2020-01-01', '2020-01-01')",
        (
            LOOSE,
            "SET SESSION explicit_defaults_for_timestamp = OFF",
            "ALTER TABLE t MODIFY a TIMESTAMP, MODIFY b TIMESTAMP",
        ),
        EXPLICIT_DEFAULTS,
    ),
    "timestamp_modified": Case(
        "id INT PRIMARY KEY, a DATETIME NULL, b TIMESTAMP NULL",
        "(1, NULL, NULL), (2, '2020-01-01', '2020-01-01')",
        (LOOSE, "ALTER TABLE t MODIFY a TIMESTAMP, MODIFY b TIMESTAMP, ADD c TIMESTAMP"),
    ),
    "to_timestamp": Case(
        "id INT PRIMARY KEY, a DATETIME",
        "(1, '2020-06-01 12:00:00')",
        ("SET SESSION time_zone = '-03:00'", "ALTER TABLE t MODIFY a TIMESTAMP NULL"),
    ),
    "to_enum": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (2, 2)",
        ("ALTER TABLE t MODIFY a ENUM('x','y','1')",),
    ),
    "to_json": Case(
        "id INT PRIMARY KEY, a INT", "(1, 1), (2, 2)", ("ALTER TABLE t MODIFY a JSON",), DOCUMENTS
    ),
    "documents_to_text": Case(
        "id INT PRIMARY KEY, a JSON, b JSON, c JSON",
        f"(1, {BINARY_DOCUMENT}, {BINARY_DOCUMENT}, {BINARY_DOCUMENT}), {PLAIN_DOCUMENTS}",
        (
            "INSERT INTO t SELECT id + 10, a, b, c FROM t",
            "ALTER TABLE t MODIFY a LONGTEXT, MODIFY b VARCHAR(9999)",
            "CREATE TABLE documents_as_text (id INT PRIMARY KEY, a LONGTEXT, b LONGBLOB)",
            "INSERT INTO documents_as_text SELECT id, CAST(c AS CHAR), CAST(c AS BINARY) FROM t",
        ),
        BINARY_DOCUMENTS,
    ),
    "documents_to_bytes": Case(
        "id INT PRIMARY KEY, a JSON, b JSON, c JSON",
        f"(1, {BINARY_DOCUMENT}, {BINARY_DOCUMENT}, {BINARY_DOCUMENT}), {PLAIN_DOCUMENTS}",
        ("INSERT INTO t SELECT id + 10, a, b, c FROM t", "ALTER TABLE t MODIFY a LONGBLOB"),
        BINARY_DOCUMENTS,
    ),
    "documents_in_latin1": Case(
        "id INT PRIMARY KEY, a JSON",
        """(1, '["\u00fcn\u00ef"]'), (2, '"\u20ac\U0001f600"')""",
        (LOOSE, "ALTER TABLE t MODIFY a TEXT CHARACTER SET latin1"),
        BINARY_DOCUMENTS,
    ),
    "documents_cut": Case(
        "id INT PRIMARY KEY, a JSON",
        """(1, '[1, 2, 3, 4]'), (2, '"x"')""",
        (LOOSE, "ALTER TABLE t MODIFY a VARCHAR(4)"),
        BINARY_DOCUMENTS,
    ),
    "padded": Case(
        "id INT PRIMARY KEY, a CHAR(5)",
        "(1, 'ab'), (2, ''), (3, NULL), (4, 'abcde')",
        (
            "SET SESSION sql_mode = 'PAD_CHAR_TO_FULL_LENGTH,STRICT_ALL_TABLES'",
            "ALTER TABLE t MODIFY a VARCHAR(9)",
        ),
    ),
    "padded_text": Case(
        "id INT PRIMARY KEY, a CHAR(5)",
        "(1, 'ab'), (2, 'abcde')",
        ("SET SESSION sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'", "ALTER TABLE t MODIFY a TEXT"),
    ),
    "padded_wider": Case(
        "id INT PRIMARY KEY, a CHAR(5), b CHAR(5)",
        "(1, 'ab', 'ab'), (2, 'abcde', '')",
        (
            "SET SESSION sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'",
            "ALTER TABLE t MODIFY a CHAR(9), MODIFY b CHAR(5) CHARACTER SET utf8mb3",
            "ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4",
            "INSERT INTO t SELECT id + 10, CONCAT(a, '|'), b FROM t",
        ),
    ),
    "padded_labels": Case(
        "id INT PRIMARY KEY, a CHAR(5), b ENUM('x', 'yy')",
        "(1, 'x', 'x'), (2, 'yy', 'yy')",
        (
            "SET SESSION sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'",
            "ALTER TABLE t MODIFY a ENUM('yy', 'x'), MODIFY b VARCHAR(9)",
        ),
    ),
    "to_text": Case(
        "id INT PRIMARY KEY, a FLOAT, b DOUBLE",
        "(1, 1.1, 1e300), (2, 16777216, 0.1)",
        ("ALTER TABLE t MODIFY a VARCHAR(40), MODIFY b TEXT",),
    ),
    "column_added_again": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (2, 2)",
        ("ALTER TABLE t DROP a, ADD a VARCHAR(9) DEFAULT 'new'",),
    ),
    "identity_dropped": Case(
        "id INT NOT NULL, a INT NOT NULL, UNIQUE KEY u (id)",
        "(1, 1), (2, 2)",
        ("ALTER TABLE t DROP KEY u", "INSERT INTO t VALUES (2, 2)"),
    ),
    "key_retyped": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (-2, 2)",
        ("ALTER TABLE t MODIFY id VARCHAR(20) NOT NULL", "INSERT INTO t VALUES ('x', 3)"),
    ),
    "years_of_two_digits": Case(
        "id INT PRIMARY KEY, a YEAR(2), b YEAR",
        "(1, 70, 1970), (2, 69, 2000)",
        ("ALTER TABLE t MODIFY a YEAR, MODIFY b YEAR(2)",),
        YEARS_OF_2_DIGITS,
    ),
    "duplicates_dropped": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (2, 1), (3, 3)",
        ("ALTER IGNORE TABLE t ADD UNIQUE KEY u (a)",),
        IGNORE,
        "ENGINE=MyISAM",
    ),
    "duplicates_dropped_by_innodb": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (2, 1), (3, 3)",
        ("ALTER IGNORE TABLE t ADD UNIQUE KEY u (a)",),
        IGNORE_BY_INNODB,
    ),
    "replaced_by_query": Case(
        "id INT PRIMARY KEY, a INT",
        "(1, 1), (2, 1), (3, 3)",
        ("CREATE OR REPLACE TABLE t AS SELECT 7 AS x, 'y' AS y",),
        MARIADB,
    ),
    "numbered": Case(
        "id INT NOT NULL PRIMARY KEY, a INT",
        "(0, 1), (5, 2)",
        ("ALTER TABLE t CHANGE id number BIGINT NOT NULL AUTO_INCREMENT",),
    ),
    "addresses": Case(
        "id INT PRIMARY KEY, a VARCHAR(40), b INET4, c INET6",
        "(1, '::FFFF:1.2.3.4', '1.2.3.4', '::1'), (2, NULL, NULL, NULL)",
        (
            LOOSE,
            "ALTER TABLE t MODIFY c INET6 NOT NULL",
            "ALTER TABLE t MODIFY a INET6, MODIFY b INET6",
        ),
        ADDRESSES,
    ),
    "addresses_added": Case(
        "id INT PRIMARY KEY",
        "(1), (2)",
        (
            "ALTER TABLE t ADD a INET4 NOT NULL, ADD b INET6 NOT NULL",
            "ALTER TABLE t ADD c INET6 DEFAULT '::FFFF:1.2.3.4'",
        ),
        ADDRESSES,
    ),
    "geometries": Case(
        "id INT PRIMARY KEY, a GEOMETRY, b BLOB, c POINT, d GEOMETRY",
        f"(1, {POINT}, {POINT}, {POINT}, {POINT}), (2, NULL, NULL, NULL, NULL)",
        ("ALTER TABLE t MODIFY a BINARY(40), MODIFY b GEOMETRY, MODIFY c GEOMETRY, MODIFY d BLOB",),
    ),
    "uuids": Case(
        "id INT PRIMARY KEY, a UUID, b UUID, c VARCHAR(40), d BINARY(16), e UUID, f INET6",
        f"(1, {UUID}, {UUID}, UPPER({UUID}), UNHEX(REPEAT('1F', 16)), NULL, '::5')",
        (
            LOOSE,
            "ALTER TABLE t MODIFY a BINARY(16), MODIFY b VARCHAR(36), MODIFY c UUID, MODIFY d UUID",
            "ALTER TABLE t MODIFY e UUID NOT NULL, MODIFY f VARBINARY(16)",
        ),
        UUIDS,
    ),
    "keyless": Case(
        "a INT, b VARCHAR(9)",
        "(1, 'x'), (1, 'x'), (NULL, NULL)",
        ("ALTER TABLE t ADD g INT AS (a + 1) STORED", "INSERT INTO t VALUES (5, 'z', DEFAULT)"),
        STORED,
    ),
}


def make_tables(writer: Any, server: AnyServer) -> dict[str, Case]:
    """Create the table of each case that the server knows, with its rows."""
    version = version_of(server)
    cases = {
        name: case for name, case in CASES.items() if case.since.includes(server.kind, version)
    }
    with writer.cursor() as cursor:
        for name, case in cases.items():
            cursor.execute(f"CREATE TABLE {name} ({case.columns}) {case.options}")
            cursor.execute(f"INSERT INTO {name} VALUES {case.values}")
        writer.commit()
    return cases


def change_table(server: AnyServer, database: str, name: str, case: Case) -> None:
    """Execute the statements of a case in a session of their own."""
    with connect_mysql(server, database) as session, session.cursor() as cursor:
        for statement in case.statements:
            statement = re.sub(r"(TABLE|INTO|FROM) t\b", rf"\1 {name}", statement)
            cursor.execute(statement.replace("SINGLE", f"{name}_single"))

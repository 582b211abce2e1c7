"""
Records the binary logs in `tests/fixtures/binlog` again: `python -m tests.support.record_fixtures`.

Each folder holds log files as a server wrote them, and `final.json`, the rows that its tables held
at the end, as the server returned them. So a test needs no server, and compares our decoders with
the server.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pymysql

from engine.sandbox import Server, start_mariadb, start_mysql
from tests.support.servers import connect_mysql

FOLDER = Path(__file__).parents[1] / "fixtures" / "binlog"
TABLES = ("item", "part", "made", "moved", "counted", "later")

ZOO_TABLE = (
    "CREATE TABLE zoo (a TINYINT, b SMALLINT UNSIGNED, c MEDIUMINT, d BIGINT, e FLOAT, f DOUBLE,"
    " g DECIMAL(20,5), h BIT(11), i DATE, j TIME(3), k DATETIME(6), l TIMESTAMP(2) NULL, m YEAR,"
    " n CHAR(10), o VARCHAR(300), p BINARY(5), q VARBINARY(20), r TEXT, s BLOB,"
    " t ENUM('x','y','z'), u SET('a','b','c'), v JSON, w GEOMETRY)"
)
ZOO_ROW = (
    "INSERT INTO zoo VALUES (-1, 65535, -5, 9007199254740993, 1.5, -2.25, -12345.67891, b'101',"
    " '1999-12-31', '-837:59:59.123', '2024-02-29 23:59:59.999999', '2024-01-01 00:00:00.25', 2024,"
    " 'char', 'varchar \u20ac', 'ab', x'00ff', 'text', x'0001', 'y', 'a,c',"
    " '{\"k\": [1, 2.5, null, \"\u00e4\"]}', ST_GeomFromText('POINT(1 2)'))"
)
SHAPES = (
    "CREATE DATABASE rec CHARACTER SET utf8mb4",
    "USE rec",
    "CREATE TABLE item (id INT PRIMARY KEY, name VARCHAR(40), price DECIMAL(8,2))",
    "CREATE TABLE part (id INT PRIMARY KEY, item INT, note VARCHAR(300) CHARACTER SET latin1)",
    "CREATE TABLE counted (id INT PRIMARY KEY, n INT) ENGINE=MyISAM",
    "CREATE TABLE later (id BIGINT UNSIGNED PRIMARY KEY, v VARCHAR(10))",
    ZOO_TABLE,
)
ZOO = (
    ZOO_ROW,
    "INSERT INTO zoo (a) VALUES (NULL), (3)",
    "UPDATE zoo SET o = 'changed', v = '[true]' WHERE a = -1",
    "DELETE FROM zoo WHERE a = 3",
)
CHANGES = (
    "INSERT INTO item VALUES (1, 'one', 1.00), (2, 'two', 2.00), (3, 'three', 3.00)",
    "BEGIN",
    "INSERT INTO part VALUES (10, 1, 'a'), (11, 2, '\u20ac')",
    "SAVEPOINT here",
    "INSERT INTO part VALUES (12, 3, 'gone')",
    "ROLLBACK TO here",
    "UPDATE item SET id = 30, name = NULL WHERE id = 3",
    "COMMIT",
    "UPDATE item, part SET item.price = 9.99, part.note = 'both' WHERE part.item = item.id",
    "INSERT INTO counted VALUES (1, 100), (2, 200)",
    "DELETE FROM item WHERE id = 2",
    "ALTER TABLE item ADD COLUMN extra INT, MODIFY name VARCHAR(60)",
    "INSERT INTO item VALUES (4, 'four', 4.00, 44)",
    "CREATE TABLE made AS SELECT id, name FROM item",
    "CREATE TABLE old_name (id INT PRIMARY KEY, v INT)",
    "INSERT INTO old_name VALUES (1, 1)",
    "RENAME TABLE old_name TO moved",
    "INSERT INTO moved VALUES (2, 2)",
    "TRUNCATE TABLE counted",
    "INSERT INTO counted VALUES (3, 300)",
)
XA = (
    "XA START 'kept'",
    "INSERT INTO later VALUES (18446744073709551615, 'kept')",
    "XA END 'kept'",
    "XA PREPARE 'kept'",
    "RECONNECT",
    "XA START 'lost', 'branch', 5",
    "INSERT INTO later VALUES (2, 'lost')",
    "XA END 'lost', 'branch', 5",
    "XA PREPARE 'lost', 'branch', 5",
    "RECONNECT",
    "INSERT INTO later VALUES (3, 'between')",
    "XA COMMIT 'kept'",
    "XA ROLLBACK 'lost', 'branch', 5",
    "XA START 'once'",
    "INSERT INTO later VALUES (4, 'once')",
    "XA END 'once'",
    "XA COMMIT 'once' ONE PHASE",
)
MINIMAL = (
    "SET binlog_row_image = 'MINIMAL'",
    "UPDATE item SET price = 5.55 WHERE id = 4",
    "DELETE FROM part WHERE id = 10",
    "SET binlog_row_image = 'FULL'",
)
BULK = (
    "INSERT INTO part SELECT 1000 + id * 10 + n, id, REPEAT('x', 250)"
    " FROM item, (SELECT 1 n UNION SELECT 2 UNION SELECT 3) numbers"
)
MYSQL = (
    "SET binlog_transaction_compression = ON",
    BULK,
    "SET binlog_transaction_compression = OFF",
    "SET gtid_next = 'AUTOMATIC:tagged'",
    "UPDATE part SET note = 'tagged' WHERE id = 11",
    "SET gtid_next = 'AUTOMATIC'",
    "SET GLOBAL binlog_checksum = NONE",
    "INSERT INTO item VALUES (5, 'no checksum', 5.00, 55)",
    "SET GLOBAL binlog_checksum = CRC32",
)
MARIADB = (
    "SET GLOBAL log_bin_compress_min_len = 10",
    "SET GLOBAL log_bin_compress = ON",
    BULK,
    "UPDATE part SET note = REPEAT('y', 200) WHERE id > 1000",
    "DELETE FROM part WHERE id > 1030",
    "ALTER TABLE part COMMENT 'a statement that is long enough to be compressed by the server'",
    "SET GLOBAL log_bin_compress = OFF",
    "SET gtid_domain_id = 7",
    "UPDATE part SET note = 'domain' WHERE id = 11",
    "SET gtid_domain_id = 0",
    "SET GLOBAL binlog_checksum = NONE",
    "INSERT INTO item VALUES (5, 'no checksum', 5.00, 55)",
    "SET GLOBAL binlog_checksum = CRC32",
)


def record(name: str, server: Server, own: Iterable[str]) -> None:
    """Run all statements on a new server, and keep its log files and the rows of its tables."""
    connection = connect_mysql(server)
    statements = ["FLUSH BINARY LOGS", *SHAPES, *ZOO, *CHANGES, *XA, *MINIMAL, *own]
    for statement in [*statements, "FLUSH BINARY LOGS"]:
        if statement == "RECONNECT":
            connection.close()
            connection = connect_mysql(server, "rec")
            continue
        with connection.cursor() as cursor:
            cursor.execute(statement)
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    final = {table: contents(connection, table) for table in TABLES}
    (folder / "final.json").write_text(json.dumps(final, indent=1) + "\n")
    logs = sorted(server.layout.data.glob("binlog.[0-9]*[0-9]"))
    for log in logs[1:-1]:
        shutil.copyfile(log, folder / log.name)


def contents(connection: pymysql.Connection, table: str) -> list[list[str | None]]:
    """All rows as the server's text, in a fixed order."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM rec.{table}")
        rows = [[None if cell is None else str(cell) for cell in row] for row in cursor]
    return sorted(rows, key=str)


def main() -> None:
    with start_mysql() as server:
        record("mysql-9.7", server, MYSQL)
    for release in ("10.11", "11.8"):
        with start_mariadb(release) as server:
            record(f"mariadb-{release}", server, MARIADB)


if __name__ == "__main__":
    main()

"""
Rows: the log and a read of the table give the same values, for every type and on every server.
"""

# ruff: noqa: E501  (a column of the zoo is a line)

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from engine.change import Rows
from engine.databases.mysql.types import neutral_type
from engine.errors import DecodeError, UnloggedChange
from engine.schema import Column, Table, TableId
from engine.toolkit.accelerator import python_only
from sources.mysql.codec import rows as rows_module
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_map import Wire
from sources.mysql.codec.table_match import TableMap, parse_table_map, table_from_map
from tests.support.mysql_log import (
    as_text,
    events,
    live_table,
    log_end,
    logged,
    logged_rows,
    selected_rows,
)
from tests.support.servers import AnyServer, connect_mysql

Fresh = Callable[[AnyServer], str]

# Column → definition, SQL values and the expected results. ...: only compared with the read.
ZOO: dict[str, tuple[str, list[tuple[str, Any]]]] = {
    "t": ("TINYINT", [("-128", -128), ("127", 127)]),
    "tu": ("TINYINT UNSIGNED", [("255", 255), ("0", 0)]),
    "b1": ("TINYINT(1)", [("2", 2), ("-1", -1)]),
    "s": ("SMALLINT", [("-32768", -32768), ("32767", 32767)]),
    "su": ("SMALLINT(5) UNSIGNED ZEROFILL", [("7", 7), ("65535", 65535)]),
    "m": ("MEDIUMINT", [("-8388608", -8388608), ("-1", -1)]),
    "mu": ("MEDIUMINT UNSIGNED", [("16777215", 16777215), ("65536", 65536)]),
    "i": ("INT", [("-2147483648", -(2**31)), ("0", 0)]),
    "iu": ("INT UNSIGNED", [("4294967295", 2**32 - 1), ("1", 1)]),
    "bi": ("BIGINT", [("-9223372036854775808", -(2**63)), ("-1", -1)]),
    "biu": ("BIGINT UNSIGNED", [("18446744073709551615", 2**64 - 1), ("0", 0)]),
    "d65": (
        "DECIMAL(65,30)",
        [
            ("'-" + "9" * 35 + "." + "8" * 30 + "'", "-" + "9" * 35 + "." + "8" * 30),
            ("1.5", "1.5" + "0" * 29),
        ],
    ),
    "d5": ("DECIMAL(5,5)", [("-0.00001", "-0.00001"), ("0", "0.00000")]),
    "dz": ("DECIMAL(12,2) ZEROFILL", [("0.5", "0.50"), ("1234567890.12", "1234567890.12")]),
    "f": ("FLOAT", [("1.1", 1.100000023841858), ("-3.4028234e38", -3.4028234663852886e38)]),
    "f2": ("FLOAT(7,2)", [("12345.67", 12345.669921875), ("0.1", 0.10000000149011612)]),
    "db": ("DOUBLE", [("1.7976931348623157e308", 1.7976931348623157e308), ("5e-324", 5e-324)]),
    "d3": ("DOUBLE(20,3)", [("1234567.891", 1234567.891), ("-0.001", ...)]),
    "b": ("BIT", [("b'1'", 1), ("b'0'", 0)]),
    "b9": ("BIT(9)", [("b'101010101'", 341), ("1", 1)]),
    "b64": ("BIT(64)", [("0xFFFFFFFFFFFFFFFF", 2**64 - 1), ("1", 1)]),
    "y": ("YEAR", [("2155", 2155), ("0", 0)]),
    "da": ("DATE", [("'9999-12-31'", "9999-12-31"), ("'2020-02-00'", "2020-02-00")]),
    "da0": ("DATE", [("'0000-00-00'", "0000-00-00"), ("'2020-02-31'", "2020-02-31")]),
    "ti": ("TIME", [("'-838:59:59'", "-838:59:59"), ("'01:02:03'", "01:02:03")]),
    "ti1": ("TIME(1)", [("'-00:00:00.1'", "-00:00:00.1"), ("'838:59:58.9'", "838:59:58.9")]),
    "ti3": ("TIME(3)", [("'-00:00:01.001'", "-00:00:01.001"), ("'0'", "00:00:00.000")]),
    "ti6": ("TIME(6)", [("'-12:34:56.000001'", "-12:34:56.000001"), ("'100:0:0.5'", "100:00:00.500000")]),
    "dt": ("DATETIME", [("'1000-01-01 00:00:00'", "1000-01-01 00:00:00"), ("0", "0000-00-00 00:00:00")]),
    "dt1": ("DATETIME(1)", [("'2020-01-10 01:02:03.5'", "2020-01-10 01:02:03.5"), ("0", ...)]),
    "dt4": ("DATETIME(4)", [("'1969-12-31 23:59:59.9999'", "1969-12-31 23:59:59.9999"), ("0", ...)]),
    "dt6": ("DATETIME(6)", [("'2020-00-10 1:2:3.000004'", "2020-00-10 01:02:03.000004"), ("0", ...)]),
    "ts": ("TIMESTAMP NULL", [("'2038-01-19 03:14:07'", "2038-01-19 03:14:07"), ("0", "0000-00-00 00:00:00")]),
    "ts3": ("TIMESTAMP(3) NULL", [("'1970-01-01 00:00:01.005'", "1970-01-01 00:00:01.005"), ("0", ...)]),
    "ts6": ("TIMESTAMP(6) NULL", [("'2020-06-01 12:00:00.000001'", "2020-06-01 12:00:00.000001"), ("0", ...)]),
    "c": ("CHAR(10)", [("'x  '", "x"), ("''", "")]),
    "cb": ("CHAR(255)", [("REPEAT('😀', 255)", "😀" * 255), ("'日本'", "日本")]),
    "vl": ("VARCHAR(20) CHARACTER SET latin1", [("_latin1 0x8081E9FF", "€\x81éÿ"), ("'a  '", "a  ")]),
    "v": ("VARCHAR(300)", [("REPEAT('é😀', 150)", "é😀" * 150), ("''", "")]),
    "tk": ("TEXT CHARACTER SET koi8r", [("'привет'", "привет"), ("''", "")]),
    "tu2": ("MEDIUMTEXT CHARACTER SET ucs2", [("'дом ab'", "дом ab"), ("''", "")]),
    "cu2": ("CHAR(5) CHARACTER SET utf16", [("'é😀 '", "é😀"), ("'a'", "a")]),
    "tl": ("LONGTEXT", [("REPEAT('y', 70000)", "y" * 70000), ("'ÿ'", "ÿ")]),
    "tt": ("TINYTEXT CHARACTER SET cp1251", [("'Я'", "Я"), ("''", "")]),
    "sj": ("VARCHAR(9) CHARACTER SET sjis", [("'ソ表'", "ソ表"), ("'\\\\'", "\\")]),
    "bin": ("BINARY(5)", [("0x4100004200", b"A\0\0B\0"), ("0x00", bytes(5))]),
    "vb": ("VARBINARY(300)", [("0x00FF00", b"\0\xff\0"), ("REPEAT(0x0A, 300)", b"\n" * 300)]),
    "bl": ("BLOB", [("REPEAT('z', 300)", b"z" * 300), ("''", b"")]),
    "bt": ("TINYBLOB", [("0x00", b"\0"), ("''", b"")]),
    "bm": ("MEDIUMBLOB", [("REPEAT('z', 70000)", b"z" * 70000), ("''", b"")]),
    "lb": ("LONGBLOB", [("REPEAT(0x00, 70000)", bytes(70000)), ("''", b"")]),
    "e": ("ENUM('a','b''c','x,y','é') CHARACTER SET latin1", [("'b''c'", "b'c"), ("'é'", "é")]),
    "e0": ("ENUM('a','b')", [("'nonsense'", ""), ("2", "b")]),
    "e300": (f"ENUM({','.join(repr(f'm{n}') for n in range(300))})", [("'m299'", "m299"), ("1", "m0")]),
    "st": ("SET('a','b','é')", [("'é,a'", "a,é"), ("''", "")]),
    "s40": (f"SET({','.join(repr(f'm{n}') for n in range(40))})", [("'m0,m39'", "m0,m39"), ("3", "m0,m1")]),
    "s20": (f"SET({','.join(repr(f'm{n}') for n in range(20))})", [("'m19'", "m19"), ("''", "")]),
    "g": (
        "GEOMETRY",
        [
            ("ST_GeomFromText('LINESTRING(0 0,1 2)')", ...),
            ("ST_GeomFromText('POINT(1 2)', 4326)", ...),
        ],
    ),
    "p": ("POINT", [("POINT(1, 2)", ...), ("NULL", None)]),
    "after": ("VARCHAR(3) CHARACTER SET cp1250", [("'č'", "č"), ("NULL", None)]),
    "vg": ("INT AS (i + 1) VIRTUAL", []),
    "sg": ("INT AS (i + 2) STORED", []),
}  # fmt: skip
MYSQL_ZOO = {
    "j": ("JSON", [("'{\"b\": [1, null], \"a\": \"x\"}'", '{"a": "x", "b": [1, null]}'), ("'1'", "1")]),
    "vec": ("VECTOR(3)", [("STRING_TO_VECTOR('[1,2,3]')", bytes.fromhex("0000803f0000004000004040")), ("NULL", None)]),
    "hid": ("INT INVISIBLE", [("5", 5), ("6", 6)]),
}  # fmt: skip
MARIADB_ZOO = {
    "j": ("JSON", [("'{\"b\": 1}'", '{"b": 1}'), ("NULL", None)]),
    "i4": ("INET4", [("'1.2.3.0'", "1.2.3.0"), ("'0.0.0.0'", "0.0.0.0")]),
    "i6": ("INET6", [("'::ffff:1.2.3.4'", "::ffff:1.2.3.4"), ("'1:0:0:2:0:0:0:0'", "1:0:0:2::")]),
    "u": (
        "UUID",
        [
            ("'123e4567-e89b-12d3-a456-426655440000'", "123e4567-e89b-12d3-a456-426655440000"),
            ("'ffffffff-0000-4000-8000-000000000000'", "ffffffff-0000-4000-8000-000000000000"),
        ],
    ),
    "vz": ("VARCHAR(300) COMPRESSED CHARACTER SET latin1", [("REPEAT('é', 250)", "é" * 250), ("'s'", "s")]),
    "bz": ("BLOB COMPRESSED", [("REPEAT('b', 5000)", b"b" * 5000), ("''", b"")]),
    "hid": ("INT INVISIBLE", [("5", 5), ("6", 6)]),
}  # fmt: skip


def _make_zoo(server: AnyServer, connection: Any) -> dict[str, tuple[str, list[tuple[str, Any]]]]:
    zoo = ZOO | (MYSQL_ZOO if server.kind == "mysql" else MARIADB_ZOO)
    columns = ", ".join(f"`{name}` {definition}" for name, (definition, _) in zoo.items())
    with connection.cursor() as cursor:
        cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        cursor.execute(f"CREATE TABLE zoo (id INT AUTO_INCREMENT PRIMARY KEY, {columns})")
    return zoo


def _insert(zoo: dict[str, tuple[str, list[tuple[str, Any]]]], number: int) -> str:
    given = {name: values[number][0] for name, (_, values) in zoo.items() if values}
    return f"INSERT INTO zoo ({','.join(given)}) VALUES ({','.join(given.values())})"


def test_log_and_read_give_the_same_values(
    mysql_family: AnyServer, fresh_mysql_database: Fresh
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection:
        zoo = _make_zoo(mysql_family, connection)
        table = live_table(connection, database, "zoo")
        statements = [_insert(zoo, 0), _insert(zoo, 1), "INSERT INTO zoo () VALUES ()"]
        runs = logged_rows(mysql_family, connection, table, statements)
        read = selected_rows(mysql_family, table, "ORDER BY id")
    rows = [row for run in runs for row in run.after or ()]
    for name, logged_value, read_value in (
        (name, *pair)
        for logged_row, read_row in zip(rows, read, strict=True)
        for name, *pair in zip(table.names, logged_row, read_row, strict=True)
    ):
        assert (name, logged_value, type(logged_value)) == (name, read_value, type(read_value))
    for number in range(2):
        for name, (_, values) in zoo.items():
            if values and values[number][1] is not ...:
                assert (name, rows[number][table.ordinal(name)]) == (name, values[number][1])
    assert rows[0][table.ordinal("vg")] == -(2**31) + 1
    assert all(value is None for value in rows[2][1:])


# Types of every storage format, so that the rows cover each way to read a stretch of cells.
NULLABLE = (
    *("INT UNSIGNED", "MEDIUMINT", "DECIMAL(12,2)", "DECIMAL(27,13)", "DATE", "TIME(3)", "TIME(6)"),
    *("DATETIME", "DATETIME(5)", "TIMESTAMP(6) NULL", "TIME", "VARCHAR(20)", "BIT(8)", "BIT(23)"),
    *("TEXT", "ENUM('a','b')", "SET('a','b')", "BLOB", "DOUBLE", "YEAR", "BIGINT", "TIME(1)"),
    *("DECIMAL(2,0)", "VARBINARY(300)", "TINYINT", "DATETIME(2)", "BIT(64)", "SMALLINT NOT NULL"),
)


def _random_literal(kind: str, chance: random.Random) -> str:
    if "NOT NULL" not in kind and chance.random() < 0.3:
        return "NULL"
    base, _, size = kind.partition("(")
    clock = f"{chance.randrange(60):02}:{chance.randrange(60):02}.{chance.randrange(10**6):06}"
    if base == "TIME":
        return f"'{chance.choice(('', '-'))}{chance.randrange(838):02}:{clock}'"
    if base in ("DATE", "DATETIME", "TIMESTAMP"):
        years = (1971, 2037) if base == "TIMESTAMP" else (1000, 9999)
        day = f"{chance.randrange(*years)}-{chance.randrange(1, 13)}-{chance.randrange(1, 29)}"
        return f"'{day}'" if base == "DATE" else f"'{day} {chance.randrange(23)}:{clock}'"
    if base == "DECIMAL":
        precision, scale = map(int, size.rstrip(")").split(","))
        return f"{chance.choice(('', '-'))}{chance.randrange(10**precision)}e-{scale}"
    if base == "BIT":
        return str(chance.getrandbits(int(size.rstrip(")"))))
    texts = {"ENUM": "'b'", "SET": "'a,b'", "DOUBLE": "0.1", "YEAR": "2024"}
    return texts.get(base, str(chance.randrange(100)))


def test_any_columns_may_be_null(mysql_family: AnyServer, fresh_mysql_database: Fresh) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    chance = random.Random(5)
    columns = ", ".join(f"c{number} {kind}" for number, kind in enumerate(NULLABLE))
    values = ", ".join(
        f"({number},{','.join(_random_literal(kind, chance) for kind in NULLABLE)})"
        for number in range(600)
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"CREATE TABLE nulls (id INT PRIMARY KEY, {columns})")
        table = live_table(connection, database, "nulls")
        statements = [f"INSERT INTO nulls VALUES {values}", "DELETE FROM nulls WHERE id % 2"]
        inserts = [
            row
            for rows in logged_rows(mysql_family, connection, table, statements[:1])
            for row in rows.after or ()
        ]
        assert inserts == selected_rows(mysql_family, table, "ORDER BY id")
        deletes = [
            row
            for rows in logged_rows(mysql_family, connection, table, statements[1:])
            for row in rows.before or ()
        ]
        assert deletes == inserts[1::2]


def test_full_metadata_describes_the_table(
    mysql_family: AnyServer, fresh_mysql_database: Fresh
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection:
        _make_zoo(mysql_family, connection)
        table = live_table(connection, database, "zoo")
        [(_, table_map, _)] = logged(mysql_family, connection, ["INSERT INTO zoo () VALUES ()"])
    assert table_map.names is not None
    assert table_from_map(table_map, table) is table
    made = table_from_map(table_map, None)
    assert (made.id, made.names, made.key) == (table.id, table.names, table.key)
    hidden = {"i4", "i6", "u"}  # the log has these as plain bytes
    for column, expected in zip(made.columns, table.columns, strict=True):
        if column.name not in hidden:
            assert column.type == expected.type, column.name
            assert column.nullable == expected.nullable, column.name


@pytest.mark.parametrize("fixture", ["mariadb_10", "mariadb_11"])
def test_old_temporal_formats(
    request: pytest.FixtureRequest, fresh_mysql_database: Fresh, fixture: str
) -> None:
    server: AnyServer = request.getfixturevalue(fixture)
    database = fresh_mysql_database(server)
    connection = connect_mysql(server, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = '', time_zone = '+00:00'")
        cursor.execute("SET GLOBAL mysql56_temporal_format = OFF")
        try:
            cursor.execute(
                "CREATE TABLE old (a TIME, b DATETIME, c TIMESTAMP NULL, d DATE, e TIME(3),"
                " f DATETIME(6), g TIMESTAMP(2) NULL, h DATETIME(1), i TIME(6), j TIMESTAMP(6) NULL)"
            )
        finally:
            cursor.execute("SET GLOBAL mysql56_temporal_format = ON")
        table = live_table(connection, database, "old")
        first = (
            "('-10:11:12', '2020-01-02 03:04:05', '2020-01-02 03:04:05', '2020-01-02',"
            " '-10:11:12.123', '2020-01-02 03:04:05.123456', '2020-01-02 03:04:05.12',"
            " '1000-01-01 00:00:00.9', '-838:59:59.999999', '2038-01-19 03:14:07.999999')"
        )
        second = "('838:59:59', 0, 0, 0, '838:59:59.999', 0, 0, 0, 0, 0)"
        statements = [f"INSERT INTO old VALUES {values}" for values in (first, second)]
        runs = logged_rows(server, connection, table, statements)
        read = selected_rows(server, table, "ORDER BY a")
    rows = sorted(row for run in runs for row in run.after or ())
    assert rows == sorted(read)
    assert rows[0][4:8] == (
        "-10:11:12.123",
        "2020-01-02 03:04:05.123456",
        "2020-01-02 03:04:05.12",
        "1000-01-01 00:00:00.9",
    )
    assert rows[1][:4] == ("838:59:59", "0000-00-00 00:00:00", "0000-00-00 00:00:00", "0000-00-00")


def test_damaged_events_raise_only_decode_errors(
    mysql_family: AnyServer, fresh_mysql_database: Fresh
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        zoo = _make_zoo(mysql_family, connection)
        table = live_table(connection, database, "zoo")
        file, offset = log_end(connection)
        for statement in (_insert(zoo, 0), _insert(zoo, 1), "UPDATE zoo SET i = 7"):
            # With shorter values, more of the damage hits lengths and structure.
            cursor.execute(statement.replace("70000", "7"))
        found = list(events(mysql_family, file, offset))
    mariadb = mysql_family.kind == "mariadb"
    maps = [body for kind, body in found if kind == 19]
    bodies = [
        (body[8:] if kind < 30 else body[10:], op)
        for kind, body in found
        for op in [{23: "insert", 30: "insert", 24: "update", 31: "update"}.get(kind)]
        if op is not None
    ]
    table_map = parse_table_map(maps[0], 0, len(maps[0]), mariadb=mariadb)
    decoder = RowDecoder(table, table_map)
    with python_only():
        python = RowDecoder(table, table_map)
    chance = random.Random(11)
    for _ in range(1500):
        _try(
            lambda data: parse_table_map(data, 0, len(data), mariadb=mariadb),
            _damaged(chance, maps[0]),
        )
        images, op = chance.choice(bodies)
        damaged = _damaged(chance, images)
        found = [
            _try(lambda data, op=op, each=each: each.decode(op, data, 0, len(data)), damaged)
            for each in (decoder, python)
        ]
        assert found[0] == found[1]


def _damaged(chance: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(damaged))
        change = chance.randrange(4)
        if change == 0:
            damaged[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFA, 0xFB, 0xFC, 0xFE, 0xFF))
        elif change == 1:
            damaged[at] ^= 1 << chance.randrange(8)
        elif change == 2:
            del damaged[at : at + chance.randint(1, 8)]
        else:
            damaged[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
        if not damaged:
            return b""
    return bytes(damaged)


def _try(decode: Callable[[bytes], Rows | TableMap], data: bytes) -> str:
    # Any other error fails the test.
    try:
        found = decode(data)
    except (DecodeError, UnloggedChange) as error:
        return str(error)
    return as_text(found) if isinstance(found, Rows) else ""


def test_the_docstring_shows_a_generated_decoder() -> None:
    source_types = {"id": "int", "size": "smallint", "name": "varchar(40) character set utf8mb4"}
    columns = tuple(
        Column(name, neutral_type(text), text, nullable=name != "id")
        for name, text in source_types.items()
    )
    table = Table(TableId("s", "t"), columns, (0,))
    types = (Wire.LONG, Wire.SHORT, Wire.VARCHAR)
    decoder = RowDecoder(table, TableMap(1, "s", "t", types, (0, 0, 160), 0b110))
    source = decoder.source("insert", b"\x03\x07")
    assert textwrap.indent(source, "    ") in (rows_module.__doc__ or "")

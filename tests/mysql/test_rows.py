"""
Rows: what the log holds and what a read of the table shows are the same values, on every server.
"""

# ruff: noqa: E501  (a row of the zoo is a line)

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from engine.change import Operation, Rows
from engine.databases.mysql.types import neutral_type
from engine.errors import DecodeError, SchemaError
from engine.schema import Column, Table, TableId
from engine.toolkit.accelerator import python_only
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_match import TableMap, mismatch, parse_table_map, table_from_map
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

# Column → definition, and values with what they must come out as (… : only log = read counts).
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


# Types of every storage, so that each way to read a stretch of a row is taken.
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


def test_full_metadata_tells_the_table(
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
    told = table_from_map(table_map, None)
    assert (told.id, told.names, told.key) == (table.id, table.names, table.key)
    hidden = {"i4", "i6", "u"}  # to the log these are plain bytes
    for column, expected in zip(told.columns, table.columns, strict=True):
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


@pytest.mark.usefixtures("by_each_codec")
def test_minimal_images(mysql_family: AnyServer, fresh_mysql_database: Fresh) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET binlog_row_image = 'MINIMAL'")
        cursor.execute(
            "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, n INT DEFAULT 5, v VARCHAR(9)"
            " DEFAULT 'a''b', d DECIMAL(5,2) DEFAULT 1.5, e ENUM('x','y') DEFAULT 'y',"
            " dt DATETIME(3) DEFAULT '2020-01-01 00:00:00.5', z TEXT, f FLOAT DEFAULT 1.1)"
        )
        table = live_table(connection, database, "t")
        insert, update, move, delete = logged_rows(
            mysql_family,
            connection,
            table,
            [
                "INSERT INTO t (z) VALUES ('z')",
                "UPDATE t SET v = 'w' WHERE id = 1",
                "UPDATE t SET id = 2 WHERE id = 1",
                "DELETE FROM t",
            ],
        )
        assert insert.after == [
            (1, 5, "a'b", "1.50", "y", "2020-01-01 00:00:00.500", "z", 1.100000023841858)
        ]
        assert insert.after_present is None
        rest = (None,) * 5
        assert (update.before_present, update.after_present) == (0b1, 0b101)
        assert update.before == [(1, None, None, *rest)]
        assert update.after == [(1, None, "w", *rest)]
        assert move.before == [(1, None, None, *rest)]
        assert move.after == [(2, None, None, *rest)]
        assert (delete.before, delete.after) == ([(2, None, None, *rest)], None)

        cursor.execute(
            "CREATE TABLE c (id INT PRIMARY KEY, n INT DEFAULT (1 + 1), g INT AS (id) VIRTUAL)"
        )
        computed = live_table(connection, database, "c")
        [(op, table_map, images)] = logged(
            mysql_family, connection, ["INSERT INTO c (id) VALUES (1)"]
        )
        if mysql_family.kind == "mariadb":
            # The value of a virtual column is nowhere in the log then.
            with pytest.raises(DecodeError, match="leaves out the column") as caught:
                RowDecoder(computed, table_map).decode(op, images, 0, len(images))
            assert "binlog_row_image=FULL" in caught.value.hint
        else:
            rows = RowDecoder(computed, table_map).decode(op, images, 0, len(images))
            assert rows.after == [(1, 2, 1)]

        # Without a key in our version of the table nobody could tell which row was meant.
        keyless = msgspec.structs.replace(computed, key=())
        [(op, table_map, images)] = logged(mysql_family, connection, ["DELETE FROM c"])
        with pytest.raises(DecodeError, match="identify"):
            RowDecoder(keyless, table_map).decode(op, images, 0, len(images))


def test_noblob_images(mysql_family: AnyServer, fresh_mysql_database: Fresh) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET binlog_row_image = 'NOBLOB'")
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT, z TEXT)")
        table = live_table(connection, database, "t")
        _, number, text = logged_rows(
            mysql_family,
            connection,
            table,
            ["INSERT INTO t VALUES (1, 2, 'z')", "UPDATE t SET n = 3", "UPDATE t SET z = 'y'"],
        )
    assert (number.before, number.after) == ([(1, 2, None)], [(1, 3, None)])
    assert (number.before_present, number.after_present) == (0b011, 0b011)
    assert (text.before_present, text.after_present) == (0b011, None)
    assert text.after == [(1, 3, "y")]


def test_hidden_columns_of_functional_indexes_are_not_in_the_log(
    mysql: AnyServer, fresh_mysql_database: Fresh
) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET sql_generate_invisible_primary_key = ON")
        cursor.execute(
            "CREATE TABLE t (a INT, j JSON, KEY f ((a * 2)), KEY m ((CAST(j->'$[*]' AS SIGNED ARRAY))))"
        )
        table = live_table(connection, database, "t")
        [rows] = logged_rows(mysql, connection, table, ["INSERT INTO t (a, j) VALUES (1, '[1]')"])
    assert table.names == ("my_row_id", "a", "j")
    assert table.key == (0,)
    assert rows.after == [(1, 1, "[1]")]


def test_parts_of_documents_are_refused(mysql: AnyServer, fresh_mysql_database: Fresh) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SET binlog_row_value_options = 'PARTIAL_JSON', binlog_row_image = 'MINIMAL'"
        )
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, j JSON)")
        cursor.execute("""INSERT INTO t VALUES (1, '{"a": "long enough to be worth a part"}')""")
        table = live_table(connection, database, "t")
        file, offset = log_end(connection)
        cursor.execute("""UPDATE t SET j = JSON_SET(j, '$.a', 'x')""")
        found = dict(events(mysql, file, offset))
    assert 39 in found
    table_map = parse_table_map(found[19], 0, len(found[19]))
    with pytest.raises(SchemaError, match="parts of JSON") as caught:
        RowDecoder(table, table_map).decode(
            "update", found[39], 10, len(found[39]), partial_json=True
        )
    assert "binlog_row_value_options" in caught.value.hint


@pytest.mark.usefixtures("by_each_codec")
def test_text_that_is_none_names_its_column_and_not_its_value(
    mysql: AnyServer, fresh_mysql_database: Fresh
) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (id INT PRIMARY KEY, secret VARCHAR(9) CHARACTER SET cp1250)"
        )
        table = live_table(connection, database, "t")
        [(op, table_map, images)] = logged(
            mysql, connection, ["INSERT INTO t VALUES (1, _cp1250 0x61818362)"]
        )
        for decode in (
            lambda: RowDecoder(table, table_map).decode(op, images, 0, len(images)),
            lambda: selected_rows(mysql, table),
        ):
            with pytest.raises(DecodeError, match=r"column secret .*cp1250") as caught:
                decode()
            assert caught.value.table == str(table.id)
            assert "x81" not in repr(caught.value)


def _table(*columns: tuple[str, str]) -> Table:
    made = tuple(
        Column(name, neutral_type(source_type), source_type) for name, source_type in columns
    )
    return Table(TableId("s", "t"), made, (0,))


def _map(types: tuple[int, ...], metas: tuple[int, ...], **told: Any) -> TableMap:
    return TableMap(1, "s", "t", types, metas, 0, **told)


def test_a_version_that_contradicts_the_log_is_not_used() -> None:
    table = _table(("a", "int unsigned"), ("b", "varchar(10) character set utf8mb4"))
    assert mismatch(table, _map((3, 15), (0, 40))) is None
    told = _map(
        (3, 15), (0, 40), unsigned=(True, None), charsets=(None, "utf8mb4"), names=("a", "b")
    )
    assert mismatch(table, told) is None
    replace = msgspec.structs.replace
    for other, reason in (
        (_map((3,), (0,)), "columns"),
        (_map((8, 15), (0, 40)), "column a .* type 8"),
        (_map((3, 15), (0, 10)), "column b .* metadata 10"),
        (replace(told, names=("a", "c")), "names"),
        (replace(told, unsigned=(False, None)), "column a .* signed"),
        (replace(told, charsets=(None, "latin1")), "column b .* latin1"),
        (replace(told, charsets=(None, "binary")), "column b .* binary"),
    ):
        found = mismatch(table, other)
        assert found is not None
        assert re.search(reason, found)


@pytest.mark.usefixtures("by_each_codec")
def test_rows_that_do_not_add_up_are_refused() -> None:
    table = _table(("a", "int"), ("b", "varchar(10) character set utf8mb4"))
    decoder = RowDecoder(table, _map((3, 15), (0, 40)))
    good = b"\x02\xff" + b"\xfc\x01\0\0\0\x02hi"
    assert decoder.decode("insert", good, 0, len(good)).after == [(1, "hi")]
    for bad in (
        good[:-1],
        good + b"\xfc",
        good[:7] + b"\xff",
        b"\x03" + good[1:],
        b"\x02\x00" + good[2:],
        b"\x02",
        b"",
    ):
        with pytest.raises(DecodeError):
            decoder.decode("insert", bad, 0, len(bad))
    with pytest.raises(DecodeError, match="ends behind"):
        # What lies behind the event is not part of it.
        decoder.decode("insert", good, 0, len(good) - 1)


def test_damage_gives_nothing_but_decode_errors(
    mysql_family: AnyServer, fresh_mysql_database: Fresh
) -> None:
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        zoo = _make_zoo(mysql_family, connection)
        table = live_table(connection, database, "zoo")
        file, offset = log_end(connection)
        for statement in (_insert(zoo, 0), _insert(zoo, 1), "UPDATE zoo SET i = 7"):
            # Long values would only make the damage rarer.
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
        plain = RowDecoder(table, table_map)
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
            for each in (decoder, plain)
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
    except DecodeError as error:
        return str(error)
    return as_text(found) if isinstance(found, Rows) else ""


def test_the_generated_function_fuses_what_lies_at_known_distances() -> None:
    table = _table(("id", "int"), ("k", "int"), ("c", "char(120) character set utf8mb4"))
    operation: Operation = "insert"
    decoder = RowDecoder(table, _map((3, 3, 254), (0, 0, 480)))
    assert "a0, a1, a2_0 = unpack_1xiiH(data, p)" in decoder.source(operation, b"\x03\xff")

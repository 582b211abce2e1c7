"""Row images: partial ones, text that is not valid, images that do not fit the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from engine.change import Operation
from engine.databases.mysql.types import neutral_type
from engine.errors import DecodeError, UnloggedChange
from engine.schema import Column, Table, TableId
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_match import TableMap, mismatch
from tests.support.mysql_log import (
    live_table,
    logged,
    logged_rows,
    selected_rows,
)
from tests.support.servers import AnyServer, connect_mysql

Fresh = Callable[[AnyServer], str]


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
            # Then the log does not have the value of a virtual column.
            with pytest.raises(UnloggedChange, match="omits the column") as caught:
                RowDecoder(computed, table_map).decode(op, images, 0, len(images))
            assert "binlog_row_image=FULL" in caught.value.hint
        else:
            rows = RowDecoder(computed, table_map).decode(op, images, 0, len(images))
            assert rows.after == [(1, 2, 1)]

        # If the tracked version has no key, the image does not identify a row.
        keyless = msgspec.structs.replace(computed, key=())
        [(op, table_map, images)] = logged(mysql_family, connection, ["DELETE FROM c"])
        with pytest.raises(DecodeError, match="identify"):
            RowDecoder(keyless, table_map).decode(op, images, 0, len(images))


@pytest.mark.usefixtures("by_each_codec")
def test_implicit_defaults(mysql_family: AnyServer, fresh_mysql_database: Fresh) -> None:
    """GIVEN columns that are NOT NULL and have no default WHEN an INSERT of a session without
    strict mode omits them THEN the decoded row has the values that the server stored."""
    types = (
        *("TINYINT", "SMALLINT UNSIGNED", "INT", "BIGINT UNSIGNED", "DECIMAL(9,3)", "FLOAT"),
        *("DOUBLE", "BIT(9)", "BOOL", "CHAR(3)", "VARCHAR(9)", "TEXT", "BINARY(3)", "VARBINARY(3)"),
        *("BLOB", "DATE", "TIME(2)", "DATETIME", "DATETIME(3)", "YEAR", "ENUM('b','a')"),
        *("SET('a','b')", "TIMESTAMP", "TIMESTAMP(6)"),
    )
    database = fresh_mysql_database(mysql_family)
    connection = connect_mysql(mysql_family, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET binlog_row_image = 'MINIMAL', sql_mode = ''")
        if mysql_family.kind == "mysql":
            cursor.execute("SET explicit_defaults_for_timestamp = ON")
        columns = ", ".join(f"c{n} {type} NOT NULL" for n, type in enumerate(types))
        cursor.execute(f"CREATE TABLE t (id INT PRIMARY KEY, {columns})")
        table = live_table(connection, database, "t")
        [rows] = logged_rows(mysql_family, connection, table, ["INSERT INTO t (id) VALUES (1)"])
        [(stored, *_)] = [selected_rows(mysql_family, table)]
    assert rows.after == [tuple(stored)]


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
            "CREATE TABLE t (a INT, j JSON, KEY f ((a * 2)),"
            " KEY m ((CAST(j->'$[*]' AS SIGNED ARRAY))))"
        )
        table = live_table(connection, database, "t")
        [rows] = logged_rows(mysql, connection, table, ["INSERT INTO t (a, j) VALUES (1, '[1]')"])
    assert table.names == ("my_row_id", "a", "j")
    assert table.key == (0,)
    assert rows.after == [(1, 1, "[1]")]


@pytest.mark.usefixtures("by_each_codec")
def test_an_error_for_invalid_text_names_the_column_and_not_the_value(
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


def _map(types: tuple[int, ...], metas: tuple[int, ...], **fields: Any) -> TableMap:
    return TableMap(1, "s", "t", types, metas, 0, **fields)


def test_a_table_version_that_contradicts_the_map_does_not_match() -> None:
    table = _table(("a", "int unsigned"), ("b", "varchar(10) character set utf8mb4"))
    assert mismatch(table, _map((3, 15), (0, 40))) is None
    full = _map(
        (3, 15), (0, 40), unsigned=(True, None), charsets=(None, "utf8mb4"), names=("a", "b")
    )
    assert mismatch(table, full) is None
    replace = msgspec.structs.replace
    for other, reason in (
        (_map((3,), (0,)), "columns"),
        (_map((8, 15), (0, 40)), "column a .* bigint"),
        (_map((3, 15), (0, 10)), "column b .* of 10 bytes"),
        (replace(full, names=("a", "c")), "names"),
        (replace(full, unsigned=(False, None)), "column a .* signed"),
        (replace(full, charsets=(None, "latin1")), "column b .* latin1"),
        (replace(full, charsets=(None, "binary")), "column b .* binary"),
    ):
        found = mismatch(table, other)
        assert found is not None
        assert re.search(reason, found)


@pytest.mark.usefixtures("by_each_codec")
def test_malformed_images_are_refused() -> None:
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
    with pytest.raises(DecodeError, match="past the end of the event"):
        # Bytes after the event are not part of it.
        decoder.decode("insert", good, 0, len(good) - 1)


def test_columns_of_fixed_size_are_unpacked_by_one_call() -> None:
    table = _table(("id", "int"), ("k", "int"), ("c", "char(120) character set utf8mb4"))
    operation: Operation = "insert"
    decoder = RowDecoder(table, _map((3, 3, 254), (0, 0, 480)))
    assert "a0, a1, a2_0 = unpack_1xiiH(data, p)" in decoder.source(operation, b"\x03\xff")

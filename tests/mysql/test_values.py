"""Values of the log by family of types; servers give the expected results where they can."""

from __future__ import annotations

import json
import random
import struct
import textwrap
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.mysql.codec import temporal, values
from sources.mysql.codec.binary_json import _TEMPLATES, double_text, json_printer, json_text
from sources.mysql.codec.table_map import Wire
from sources.mysql.codec.temporal import PackedText, temporal_expression
from sources.mysql.codec.values import (
    SetText,
    decimal_expression,
    decimal_reader,
    decimal_size,
    ewkb,
    uncompressed,
)
from tests.support.mysql_log import live_table, logged_rows
from tests.support.servers import AnyServer, connect_mysql


def test_json_prints_as_the_server_prints_it(
    mysql: AnyServer, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    database = fresh_mysql_database(mysql)
    connection = connect_mysql(mysql, database)
    chance = random.Random(7)
    documents = [
        '{"b": [1, -1, 65535, -32769, 70000, 5000000000, 18446744073709551615]}',
        "[-9223372036854775808]",
        "[1.0, -0.0, 1e100, 1.5e-7, 123456789012345.0, 1234567890123456.0, 1e15, 1e16, 5e-324]",
        '["q\\"\\\\ \\b\\f\\n\\r\\t\\u0001\\u001f\\u007f/ é 😀", ""]',
        '{"": null, "é": true, "aa": false}',
        "null",
        "true",
        "7",
        '"text"',
        "[]",
        "{}",
        "[[[[[[]]]]]]",
        json.dumps({f"key{number}": "x" * number for number in range(400)}),
        json.dumps(list(range(70000))),
        json.dumps([number * 7919 - 2**31 for number in range(20000)]),
        '{"ab": 1, "cd": "%s"}',
        '{"ab": 2, "ef": "%d"}',
        '{"100%": 1, "%s": {"%": [true, false]}, "\\"\\n": -1}',
        json.dumps([chance.uniform(-1, 1) * 10 ** chance.randint(-30, 30) for _ in range(3000)]),
    ]
    constructed = [
        "JSON_ARRAY(CAST(-1.50 AS DECIMAL(10,3)), CAST('2020-02-29 12:34:56.5' AS DATETIME(6)))",
        "JSON_ARRAY(DATE'2020-02-29', CAST('-838:59:58.000001' AS TIME(6)), TIME'00:00:01')",
        "JSON_ARRAY(TIMESTAMP'2020-01-01 00:00:00')",
        "JSON_OBJECT('blob', REPEAT(x'00FF', 200), 'bit', b'101', 'empty', x'')",
        "JSON_OBJECT('geometry', ST_GeomFromText('POINT(1 2)'), 'year', CAST(2020 AS YEAR))",
    ]
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE docs (id INT AUTO_INCREMENT PRIMARY KEY, doc JSON)")
        table = live_table(connection, database, "docs")
        quoted = [connection.escape(document) for document in documents]
        statements = [f"INSERT INTO docs (doc) VALUES ({value})" for value in quoted + constructed]
        logged = [
            row
            for rows in logged_rows(mysql, connection, table, statements)
            for row in rows.after or ()
        ]
        cursor.execute("SELECT id, doc FROM docs ORDER BY id")
        assert logged == list(cursor.fetchall())


def test_json_that_refers_to_the_same_bytes_is_refused() -> None:
    # An array of arrays whose elements all refer to the same bytes.
    element = bytes([2]) + (4).to_bytes(2, "little")
    array = (50).to_bytes(2, "little") + (154).to_bytes(2, "little") + element * 50
    with pytest.raises(ValueError, match=r"repeatedly|nested|cut off"):
        json_text(bytes([2]) + array)


def test_mysql_5_7_prints_a_whole_double_without_a_fraction() -> None:
    text = json_printer((5, 7, 29))
    texts = [text(b"\x0b" + struct.pack("<d", value)) for value in (1, -0.0, 1.5, 1e16)]
    assert texts == ["1", "-0", "1.5", "1e16"]


def test_texts_that_are_not_converted() -> None:
    """MySQL 9.7 has the column type VAR_STRING for texts of ucs2, earlier releases for bytes."""
    x, e_acute = bytes((15, 253, 2)) + b"\0x", bytes((15, 253, 2)) + b"\0\xe9"
    for version in ((), (5, 7, 29), (8, 0, 30)):
        assert json_printer(version)(x) == '"base64:type253:AHg="'
    assert json_printer((9, 7, 4))(x) == '"\\u0000x"'
    with pytest.raises(UnicodeDecodeError):
        json_printer((9, 7, 4))(e_acute)


def test_the_cache_of_json_keys_is_bounded() -> None:
    for number in range(3000):
        key = f"key{number}".encode()
        offset, size = (11).to_bytes(2, "little"), (11 + len(key)).to_bytes(2, "little")
        body = b"\x01\0" + size + offset + len(key).to_bytes(2, "little") + b"\x04\x01\0" + key
        assert json_text(b"\0" + body) == f'{{"key{number}": true}}'
    assert len(_TEMPLATES) <= 1024


@given(st.binary(max_size=120), st.sampled_from((b"", *map(bytes, [[0], [1], [2], [3], [15]]))))
def test_any_bytes_are_json_or_refused(data: bytes, kind: bytes) -> None:
    with suppress(ValueError, IndexError, KeyError, struct.error):
        # The longest output comes from three bytes that refer to a double.
        assert len(json_text(kind + data)) <= 10 * len(kind + data) + 32


def test_doubles_are_printed_with_their_shortest_digits() -> None:
    assert [
        double_text(value) for value in (0.0, -0.0, 1.0, 1e15, 1e14, 1e-15, 1e-16, -2.5e300)
    ] == [
        "0.0",
        "-0.0",
        "1.0",
        "1e15",
        "100000000000000.0",
        "0.000000000000001",
        "1e-16",
        "-2.5e300",
    ]


def test_a_decimal_has_all_digits_of_its_scale() -> None:
    assert decimal_size(65, 30) == 30
    assert decimal_reader(4, 2)(b"\x80\x00") == "0.00"
    assert decimal_reader(4, 2)(b"\x8c\x22") == "12.34"
    assert decimal_reader(4, 2)(b"\x73\xdd") == "-12.34"
    assert decimal_reader(2, 2)(b"\x7f") == "0.00"
    assert decimal_reader(9, 0)(b"\x80\x00\x00\x05") == "5"
    with pytest.raises(ValueError, match="invalid"):
        decimal_reader(66, 0)
    with pytest.raises(IndexError):
        decimal_reader(4, 2)(b"\x8c\x64")  # a hundred hundredths


@pytest.mark.parametrize("precision", range(1, 66))
def test_decimals_of_every_precision_and_scale(precision: int) -> None:
    chance = random.Random(precision)
    for scale in range(min(precision, 38) + 1):
        for _ in range(4):
            digits = "".join(chance.choices("0123456789", k=precision))
            whole, fraction = digits[: precision - scale], digits[precision - scale :]
            text = str(int(whole or "0")) + (f".{fraction}" if scale else "")
            packed = _packed_decimal(whole, fraction)
            assert decimal_reader(precision, scale)(packed) == text
            if int(digits):
                negative = bytes(255 - byte for byte in packed)
                assert decimal_reader(precision, scale)(negative) == f"-{text}"


def _packed_decimal(whole: str, fraction: str) -> bytes:
    """The groups of nine digits, counted from the point, each in as few bytes as possible."""
    first = len(whole) % 9
    groups = [whole[:first], *(whole[at : at + 9] for at in range(first, len(whole), 9))]
    groups += [fraction[at : at + 9] for at in range(0, len(fraction), 9)]
    sizes = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
    packed = b"".join(int(group or "0").to_bytes(sizes[len(group)], "big") for group in groups)
    return bytes([packed[0] | 0x80]) + packed[1:]


def test_labels_geometries_and_compressed_values() -> None:
    labels = SetText(("a", "b", "c"))
    assert (labels[0], labels[5], labels[5]) == ("", "a,c", "a,c")
    with pytest.raises(IndexError):
        labels[8]
    point = b"\x01\x01\x00\x00\x00" + bytes(16)
    assert ewkb(bytes(4) + point) == point
    assert ewkb(b"\xe6\x10\0\0" + point) == b"\x01\x01\0\0\x20\xe6\x10\0\0" + bytes(16)
    with pytest.raises(ValueError, match="cut off"):
        ewkb(b"\0\0\0\0\x01")
    assert uncompressed(b"") == b""
    assert uncompressed(b"\0plain") == b"plain"
    with pytest.raises(ValueError, match="stated length"):
        uncompressed(bytes.fromhex("8a012b4b4a1a05c40200"))


def test_the_cache_of_texts_is_bounded() -> None:
    texts = PackedText(str)
    for number in range((1 << 17) + 10):
        assert texts[number] == str(number)
    assert len(texts) == 10


def test_the_docstrings_show_generated_code() -> None:
    _, _, names = decimal_expression(5, 2)
    negative_decimal = textwrap.indent(names["negative_decimal_5_2"].__source__.strip("\n"), "    ")
    assert negative_decimal in (values.__doc__ or "")
    *_, names = temporal_expression(Wire.TIME2, 2)
    negative_time = textwrap.indent(names["negative_time2"].__source__.strip("\n"), "    ")
    assert negative_time in (temporal.__doc__ or "")
    *_, expression, _ = temporal_expression(Wire.DATE, 0)
    assert f"\n    {expression}\n" in (temporal.__doc__ or "")

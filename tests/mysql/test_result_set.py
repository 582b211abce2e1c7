"""
The rows of a query's result, from the bytes that a server sends, in pieces of any size.

Both decoders, the accelerator and the generated Python, get the same stream in the same pieces.
They must give the same rows, or the same error.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pymysql
import pytest

from engine.change import Row
from engine.databases.mysql.types import neutral_type
from engine.errors import DecodeError
from engine.schema import Column, Table, TableId
from engine.toolkit.accelerator import python_only
from sources.mysql.codec import accelerator
from sources.mysql.codec.large_event import LargeEvent
from sources.mysql.snapshot import text_rows
from sources.mysql.snapshot.result_set import query_rows
from sources.mysql.snapshot.text_rows import TextRows

WHOLE = 0xFFFFFF
EOF = b"\xfe\0\0\2\0"
#: Source types, and texts of their values as a server prints them.
COLUMNS: dict[str, Sequence[bytes]] = {
    "int": (b"0", b"-7", b"2147483647", b"-0"),
    "bigint": (b"-9223372036854775808", b"9223372036854775807", b"-9223372036854775807"),
    "bigint(20) unsigned zerofill": (b"00000000000000000007",),
    "bigint unsigned": (b"18446744073709551615", b"9999999999999999999", b"10"),
    "bit(64)": (b"0", b"18446744073709551615"),
    "double": (b"1.5", b"-1e300", b"3"),
    "float": (b"0.1",),
    "decimal(20,4)": (b"-12.3400", b"0.0000"),
    "date": (b"0000-00-00", b"2026-01-31"),
    "datetime(6)": (b"2026-01-31 01:02:03.000001",),
    "time": (b"-838:59:59",),
    "year": (b"2026", b"0"),
    "json": (b'{"a": [1, "\xc3\xa9"]}',),
    "varchar(40) character set utf8mb4": (b"", b"x", "é😀\t\n".encode(), b"y" * 250, b"z" * 251),
    "text character set latin1": (b"abc", b"\x80\xe9\xff", b"w" * 70_000),
    "text character set utf16": ("é😀".encode("utf-16-be"), b""),
    "binary(5)": (b"", b"abc", b"\0\0\0\0\1"),
    "blob": (b"\0\xfe\xff", b"v" * 300),
    "uuid": (b"123e4567-e89b-12d3-a456-426655440000",),
    "inet6": (b"::1",),
    "enum('a','b') character set utf8mb4": (b"a", b""),
    "geometry": (bytes(4) + b"\1\1" + bytes(19),),
}  # fmt: skip
BOTH = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "python"])


def table_of(source_types: Sequence[str]) -> Table:
    columns = tuple(
        Column(f"c{number}", neutral_type(source_type), source_type, nullable=True, default="NULL")
        for number, source_type in enumerate(source_types)
    )
    return Table(TableId("s", "t"), columns, (0,))


def text_of(value: bytes | None) -> bytes:
    """Protocol::LengthEncodedString, or NULL."""
    if value is None:
        return b"\xfb"
    size = len(value)
    if size < 251:
        return bytes((size,)) + value
    if size < 1 << 16:
        return b"\xfc" + size.to_bytes(2, "little") + value
    if size < 1 << 24:
        return b"\xfd" + size.to_bytes(3, "little") + value
    return b"\xfe" + size.to_bytes(8, "little") + value


def packet(payload: bytes) -> bytes:
    """The payload as one packet, or as several if it is too long."""
    parts = [payload[at : at + WHOLE] for at in range(0, len(payload) + 1, WHOLE)]
    return b"".join(len(part).to_bytes(3, "little") + b"\7" + part for part in parts)


def head(columns: int) -> bytes:
    count = bytes((columns,)) if columns < 251 else b"\xfc" + columns.to_bytes(2, "little")
    return packet(count) + columns * packet(b"\3def a definition") + packet(EOF)


class Wire:
    """The part of a PyMySQL connection that ``query_rows`` uses; it sends ``pieces``."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._sock = self
        self._pieces = list(pieces)

    def _execute_command(self, command: int, query: str) -> None:
        assert (command, query) == (3, "SELECT")

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recv(self, size: int) -> bytes:
        """The next piece, or at most ``size`` bytes of it."""
        piece = self._pieces.pop(0) if self._pieces else b""
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]


def received(table: Table, pieces: Sequence[bytes], *, compiled: bool) -> list[Row]:
    """The rows; checks that every byte that the server sends is counted once."""
    with nullcontext() if compiled else python_only():
        decoder = TextRows(table)
    wire: Any = Wire(pieces)
    found = list(query_rows(wire, "SELECT", decoder, 9.0))
    assert sum(size for _, size in found) == sum(map(len, pieces))
    return [row for rows, _ in found for row in rows]


def result(table: Table, pieces: Sequence[bytes], *, compiled: bool) -> str:
    """The rows as text, or the error."""
    try:
        return repr(received(table, pieces, compiled=compiled))
    except (DecodeError, pymysql.MySQLError) as error:
        return f"{type(error).__name__} {error}"


def cut(chance: random.Random, stream: bytes, count: int) -> list[bytes]:
    """The stream in ``count`` pieces, cut at random."""
    places = sorted(chance.randrange(1, len(stream)) for _ in range(count - 1))
    bounds = [0, *places, len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(bounds)]
    return [piece for piece in pieces if piece]


def drawn(chance: random.Random) -> tuple[Table, list[bytes]]:
    """A random table, and the payloads of its rows."""
    source_types = chance.choices(list(COLUMNS), k=chance.randint(1, 12))
    rows = [
        b"".join(
            text_of(None if chance.random() < 0.2 else chance.choice(COLUMNS[source_type]))
            for source_type in source_types
        )
        for _ in range(chance.randrange(20))
    ]
    return table_of(source_types), rows


def streams(seed: int, count: int) -> Iterator[tuple[random.Random, Table, list[bytes], bytes]]:
    for number in range(count):
        chance = random.Random(seed * 1000 + number)
        table, rows = drawn(chance)
        stream = head(len(table.columns)) + b"".join(map(packet, rows)) + packet(EOF)
        yield chance, table, rows, stream


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_the_same_however_the_stream_is_cut(seed: int) -> None:
    for chance, table, rows, stream in streams(seed, 60):
        with python_only():
            expected = repr(TextRows(table).decode(rows))
        for pieces in (1, 2, 7, 60):
            for compiled in (True, False):
                found = result(table, cut(chance, stream, pieces), compiled=compiled)
                assert found == expected


def large(data: bytes | bytearray) -> LargeEvent:
    event = LargeEvent(len(data))
    event.write(data)
    return event


def outcome(decode: Callable[[], Row]) -> str:
    try:
        return repr(decode())
    except DecodeError as error:
        return f"{error} {error.hint}"


def test_large_rows_are_decoded_the_same() -> None:
    """Whole ones, and cut or damaged ones."""
    refused = 0
    for chance, table, rows, _ in streams(500, 150):
        decoder = TextRows(table)
        for row in rows:
            data = bytearray(row[: chance.choice((len(row), chance.randint(1, len(row))))])
            if chance.random() < 0.3:
                data[chance.randrange(len(data))] = chance.randrange(256)
            usual = outcome(lambda: decoder.decode([bytes(data)])[0])  # noqa: B023
            found = outcome(lambda: decoder.decode_large(large(data)))  # noqa: B023
            # A row that is cut off may also have an invalid value.
            assert found == usual or ("[table s.t]" in found and "[table s.t]" in usual)
            refused += "[table s.t]" in found
    assert refused > 100


@pytest.mark.parametrize("seed", range(3))
def test_damaged_streams_are_refused_the_same(seed: int) -> None:
    refused = 0
    for chance, table, _, stream in streams(100 + seed, 80):
        damaged = bytearray(stream[: chance.choice((len(stream), chance.randint(1, len(stream))))])
        start = min(len(head(len(table.columns))), len(damaged) - 1)
        for _ in range(chance.choice((0, 1, 1, 3))):
            damaged[chance.randrange(start, len(damaged))] = chance.randrange(256)
        pieces = cut(chance, bytes(damaged), 3)
        compiled, python = (result(table, pieces, compiled=it) for it in (True, False))
        assert compiled == python
        refused += "Error" in compiled
    assert refused > 20


@BOTH
@pytest.mark.parametrize("source_type", COLUMNS)
def test_each_kind_of_column_is_read_by_itself(source_type: str, compiled: bool) -> None:
    if compiled and not accelerator.AVAILABLE:
        pytest.skip("the accelerator is not built, or TAILRACE_ACCELERATOR=off")
    table = table_of([source_type])
    stream = b"".join(packet(text_of(value)) for value in (*COLUMNS[source_type], None))
    with nullcontext() if compiled else python_only():
        decoder = TextRows(table)
    rows, stop = decoder.take(stream, 0)
    assert (len(rows), stop) == (len(COLUMNS[source_type]) + 1, len(stream))
    assert rows[-1] == (None,)
    if compiled:
        take_rows = accelerator.text_accelerator(decoder._compiled.columns)
        assert take_rows is not None
        assert repr(take_rows(stream, 0)[0]) == repr(rows)


@BOTH
@pytest.mark.parametrize("size", [WHOLE - 5, WHOLE - 4, WHOLE - 3, WHOLE + 9, 2 * WHOLE - 4])
def test_a_row_may_take_several_packets(size: int, compiled: bool) -> None:
    table = table_of(["int", "blob"])
    value = bytes(range(251)) * (size // 251 + 1)
    values = [b"a", value[: size - 2], b"b"]
    rows = [text_of(str(n).encode()) + text_of(value) for n, value in enumerate(values)]
    stream = head(2) + b"".join(map(packet, rows)) + packet(EOF)
    pieces = [stream[at : at + 200_001] for at in range(0, len(stream), 200_001)]
    assert received(table, pieces, compiled=compiled) == list(enumerate(values))


@BOTH
def test_a_row_that_begins_with_the_byte_of_an_eof_packet_is_a_row(compiled: bool) -> None:
    """A length of eight bytes begins with that byte, but an EOF packet is never so long."""
    table = table_of(["blob", "blob"])
    row = b"\xfe" + (9).to_bytes(8, "little") + b"123456789" + text_of(b"x")
    stream = head(2) + packet(row) + packet(EOF)
    assert received(table, [stream], compiled=compiled) == [(b"123456789", b"x")]


@BOTH
def test_an_error_in_the_middle_is_raised(compiled: bool) -> None:
    error = b"\xff" + (1317).to_bytes(2, "little") + b"#70100Query execution was interrupted"
    stream = head(1) + packet(text_of(b"1")) + packet(error)
    with pytest.raises(pymysql.OperationalError, match="interrupted") as caught:
        received(table_of(["int"]), [stream], compiled=compiled)
    assert caught.value.args[0] == 1317


@BOTH
@pytest.mark.parametrize(
    "stream",
    [
        head(1) + packet(text_of(b"1")),
        head(1) + packet(text_of(b"1")) + packet(b""),
        packet(b""),
    ],
    ids=["closed", "empty packet", "empty head"],
)
def test_a_stream_without_an_end_is_an_error(stream: bytes, compiled: bool) -> None:
    with pytest.raises(pymysql.OperationalError):
        received(table_of(["int"]), [stream], compiled=compiled)


@BOTH
def test_a_result_may_have_more_than_250_columns(compiled: bool) -> None:
    table = table_of(["int"] * 300)
    stream = head(300) + packet(text_of(b"4") * 300) + packet(EOF)
    assert received(table, [stream], compiled=compiled) == [(4,) * 300]


@BOTH
def test_an_error_for_an_invalid_value_names_the_column_and_not_the_value(compiled: bool) -> None:
    stream = head(2) + packet(text_of(b"1") + text_of(b"secret")) + packet(EOF)
    with pytest.raises(DecodeError, match="the column c1 holds") as caught:
        received(table_of(["int", "int"]), [stream], compiled=compiled)
    assert "secret" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


@BOTH
@pytest.mark.parametrize("text", [b"18446744073709551616", b"-9223372036854775809", b"9" * 40])
def test_a_number_beyond_64_bits_is_read(text: bytes, compiled: bool) -> None:
    stream = head(1) + packet(text_of(text)) + packet(EOF)
    assert received(table_of(["bigint"]), [stream], compiled=compiled) == [(int(text),)]


@BOTH
@pytest.mark.parametrize("text", [b"", b"-", b"1x", b"/", b":", b"--1"])
def test_text_that_is_not_a_number_is_refused(text: bytes, compiled: bool) -> None:
    stream = head(1) + packet(text_of(text)) + packet(EOF)
    with pytest.raises(DecodeError, match="the column c0"):
        received(table_of(["bigint"]), [stream], compiled=compiled)


@pytest.mark.skipif(not accelerator.AVAILABLE, reason="the accelerator is not built")
def test_the_accelerator_refuses_invalid_programs() -> None:
    fixed = accelerator._program([accelerator._Step(accelerator._FIXED, 0, 4, object=bytes)])
    for plan in (None, (b"", ()), (b"1234567", ()), (b"\xff" * 8, ()), fixed):
        with pytest.raises(ValueError):  # noqa: PT011 - the message is not shown to users
            accelerator._accelerator.take_rows(plan, b"\1\0\0\0\0", 0)
    good = accelerator._program([accelerator._Step(accelerator._UTF8, 0, 1)])
    for start in (-1, 3):
        with pytest.raises(ValueError):  # noqa: PT011
            accelerator._accelerator.take_rows(good, b"\1\0", start)


def test_the_docstring_shows_a_generated_decoder() -> None:
    table = table_of(["int", "varchar(40) character set utf8mb4"])
    function, _ = TextRows(table)._compiled.generated
    source: str = function.__source__  # type: ignore[attr-defined]
    assert textwrap.indent(source, "    ") in (text_rows.__doc__ or "")

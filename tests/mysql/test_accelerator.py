"""
The accelerator and the generated Python give the same rows, or the same error.

Both get the same bytes: recorded logs, random rows of every kind of column, and damaged ones. Rows
are compared by their text, so that 1 differs from True, and NaN equals NaN.
"""

from __future__ import annotations

import random
import shutil
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from engine.change import Operation, Rows
from engine.databases.mysql.types import neutral_type
from engine.errors import DecodeError
from engine.schema import Column, Table, TableId
from engine.toolkit.accelerator import python_only
from sources.mysql.codec import accelerator
from sources.mysql.codec.binary_json import json_text
from sources.mysql.codec.cells import cells
from sources.mysql.codec.large_event import LargeEvent
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_map import TableMap, Wire
from sources.mysql.codec.values import decimal_size
from sources.mysql.file_source import BinlogFileSource
from sources.mysql.settings import BinlogFileSettings
from tests.support.mysql_log import as_text

ROOT = Path(__file__).parents[2]
LOGS = [
    *sorted((ROOT / "benchmarks" / "results" / "check").glob("*.binlog")),
    *sorted((ROOT / "tests" / "fixtures" / "binlog").iterdir()),
]
assert len(LOGS) == 6, "the recorded logs have moved"
ROUNDS = 200

built = pytest.mark.skipif(
    not accelerator.AVAILABLE, reason="the accelerator is not built, or TAILRACE_ACCELERATOR=off"
)


# -- recorded logs ---------------------------------------------------------------------------------


@built
@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name)
def test_recorded_logs_are_decoded_the_same(path: Path, tmp_path: Path) -> None:
    if path.is_file():
        path = shutil.copy(path, tmp_path / "log.000001")
    compiled = _recorded(path)
    with python_only():
        python = _recorded(path)
    assert compiled
    assert compiled == python


def _recorded(path: Path) -> list[str]:
    source = BinlogFileSource(BinlogFileSettings(url=f"mysql-binlog:{path}", tables=("*.*",)))
    return [
        as_text(change)
        for changes in source.stream(None, ())
        for change in changes
        if isinstance(change, Rows)
    ]


# -- random rows -----------------------------------------------------------------------------------

Sample = Callable[[random.Random], bytes]


def _fixed(size: int) -> Sample:
    """Random bytes, and those of the least and the greatest numbers."""
    ends = (bytes(size), b"\xff" * size, b"\x80" + bytes(size - 1), bytes(size - 1) + b"\x80")
    return lambda chance: chance.choice((*ends, *(chance.randbytes(size) for _ in range(9))))


def _sized(prefix: int, *values: bytes) -> Sample:
    def sample(chance: random.Random) -> bytes:
        value = chance.choice(values)
        return len(value).to_bytes(prefix, "little") + value

    return sample


def _decimal(precision: int, scale: int) -> Sample:
    """Random digits, packed as the server packs them."""

    def packed(digits: str) -> bytes:
        return int(digits).to_bytes((0, 1, 1, 2, 2, 3, 3, 4, 4, 4)[len(digits)], "big")

    def sample(chance: random.Random) -> bytes:
        count = precision - scale
        digits = "".join(chance.choice("0009123") for _ in range(precision))
        whole, fraction = digits[:count], digits[count:]
        first = count % 9
        groups = [whole[:first]] * (first > 0) + [whole[n : n + 9] for n in range(first, count, 9)]
        groups += [fraction[n : n + 9] for n in range(0, scale, 9)]
        value = bytearray(b"".join(map(packed, groups)))
        assert len(value) == decimal_size(precision, scale)
        value[0] ^= 0x80
        return bytes(byte ^ 0xFF for byte in value) if chance.random() < 0.5 else bytes(value)

    return sample


def _datetime(digits: int) -> Sample:
    def sample(chance: random.Random) -> bytes:
        months = chance.randrange(10000) * 13 + chance.randrange(13)
        date = (1 << 22 | months << 5 | chance.randrange(32)) << 17
        clock = chance.randrange(24) << 12 | chance.randrange(60) << 6 | chance.randrange(60)
        return (date | clock).to_bytes(5, "big") + _fraction(chance, digits)

    return sample


def _time(digits: int) -> Sample:
    def sample(chance: random.Random) -> bytes:
        size = (digits + 1) // 2
        clock = chance.randrange(839) << 12 | chance.randrange(60) << 6 | chance.randrange(60)
        packed = clock << 8 * size | int.from_bytes(_fraction(chance, digits), "big")
        zero = 0x800000 << 8 * size
        return (zero + chance.choice((1, -1)) * packed).to_bytes(3 + size, "big")

    return sample


def _timestamp(digits: int) -> Sample:
    return lambda chance: (
        chance.choice((0, 1, 2**31, chance.getrandbits(32))).to_bytes(4, "big")
        + _fraction(chance, digits)
    )


def _fraction(chance: random.Random, digits: int) -> bytes:
    value = chance.randrange(10**digits) * (10 if digits % 2 else 1)
    return value.to_bytes((digits + 1) // 2, "big")


def _json(value: object) -> tuple[int, bytes]:
    """Type and data of a value in MySQL's small form; a minimal writer of binary JSON."""
    if isinstance(value, dict | list):
        keyed = isinstance(value, dict)
        names = [name.encode() for name in value] if isinstance(value, dict) else []
        members = list(value.values()) if isinstance(value, dict) else value
        at = 4 + 4 * len(names) + 3 * len(members)
        keys = entries = tail = b""
        for name in names:
            keys += struct.pack("<HH", at + len(tail), len(name))
            tail += name
        for member in members:
            kind, data = _json(member)
            if kind in (4, 5, 6):
                entries += bytes((kind,)) + data.ljust(2, b"\0")
            else:
                entries += struct.pack("<BH", kind, at + len(tail))
                tail += data
        body = keys + entries + tail
        return (0 if keyed else 2), struct.pack("<HH", len(members), 4 + len(body)) + body
    if value is None or isinstance(value, bool):
        return 4, bytes(((None, True, False).index(value),))
    if isinstance(value, int):
        if -(1 << 15) <= value < 1 << 16:
            return (
                (5, struct.pack("<h", value)) if value < 1 << 15 else (6, struct.pack("<H", value))
            )
        return (9, struct.pack("<q", value)) if value < 1 << 63 else (10, struct.pack("<Q", value))
    if isinstance(value, float):
        return 11, struct.pack("<d", value)
    assert isinstance(value, str)
    text = value.encode()
    length = (
        bytes((len(text),)) if len(text) < 128 else bytes((len(text) & 127 | 128, len(text) >> 7))
    )
    return 12, length + text


def _document(value: object) -> bytes:
    kind, data = _json(value)
    return bytes((kind,)) + data


DOCUMENTS = (
    *(b"", b"\x0f\xfc\x03abc", b"\x0f\xf6\x04\x04\x02\x8c\x05"),  # null, opaque values
    # The large forms: {"k": true}, [-5, 4294967295].
    b"\1" + struct.pack("<IIIHBI", 1, 20, 19, 1, 4, 1) + b"k",
    b"\3" + struct.pack("<IIBiBI", 2, 18, 7, -5, 8, 2**32 - 1),
    *map(
        _document,
        (
            *(
                {"a%": 'q"\\', "é": [1, -2, 40000, 2**64 - 1, -(2**63)]},
                {},
                [],
                None,
                True,
                "x" * 200,
            ),
            *([0.0, -0.0, 1.0, 1e-4, 9.9e-5, -12.5, 999999999999999.9, 1e15, 1e300, 5e-324], 7),
            *({"a": {"b": {"c": [False, "🙂", "\0\x1f\b\f\n\r\t\x7f"]}}}, [[[[[1.5]]]]], "ünï"),
        ),
    ),
)
DECIMALS = (
    *((1, 0), (1, 1), (5, 5), (9, 9), (10, 0), (12, 2), (18, 9), (27, 13), (38, 38), (30, 10)),
    *((65, 0), (65, 30)),
)
TEMPORAL = (
    ("datetime", Wire.DATETIME2, _datetime, 5),
    ("timestamp", Wire.TIMESTAMP2, _timestamp, 4),
    ("time", Wire.TIME2, _time, 3),
)
WKB = b"\1\1" + bytes(19)
REFUSED = (
    # A key whose offset is outside its object, but inside the document; keys that lie around a
    # value, so that more bytes are counted than there are.
    b"\0" + struct.pack("<HHHHBH", 1, 12, 11, 3, 4, 1) + b"kxy",
    b"\0"
    + struct.pack("<HHHHHHBHBH", 2, 79, 18, 1, 78, 1, 12, 19, 4, 1)
    + b"a\x3a"
    + 58 * b"x"
    + b"b",
)
NUMBERS = (
    *(0.0, -0.0, 1.0, -12.5, 1e-4, 9.9e-5, -1e-5, 999999999999999.9, 1e15, -1e16, 5e-324, 1e300),
    *(float("inf"), float("nan"), -1, 40000, 2**31, 2**64 - 1, -(2**63)),
)
# Source type, type and metadata in the log, values. The accelerator must accept all of these.
USUAL: tuple[tuple[str, int, int, Sample], ...] = (
    *(
        (source_type + sign, wire, 0, _fixed(size))
        for source_type, wire, size in (
            *(("tinyint", Wire.TINY, 1), ("smallint", Wire.SHORT, 2), ("mediumint", Wire.INT24, 3)),
            *(("int", Wire.LONG, 4), ("bigint", Wire.LONGLONG, 8)),
        )
        for sign in ("", " unsigned")
    ),
    ("float", Wire.FLOAT, 4, _fixed(4)),
    ("double", Wire.DOUBLE, 8, _fixed(8)),
    ("year", Wire.YEAR, 0, _fixed(1)),
    *((f"bit({bits})", Wire.BIT, bits, _fixed((bits + 7) // 8)) for bits in (1, 9, 23, 40, 64)),
    *(
        (f"decimal({precision},{scale})", Wire.NEWDECIMAL, precision << 8 | scale, sample)
        for precision, scale in DECIMALS
        for sample in (_decimal(precision, scale),)
    ),
    ("date", Wire.DATE, 0, lambda chance: (chance.randrange(10000 << 9)).to_bytes(3, "little")),
    *(
        (f"{source_type}({digits})", wire, digits, form(digits))
        for source_type, wire, form, _ in TEMPORAL
        for digits in range(7)
    ),
    ("time", Wire.TIME, 0, lambda chance: chance.randrange(8385959).to_bytes(3, "little")),
    ("datetime", Wire.DATETIME, 0, lambda chance: (20240102030405).to_bytes(8, "little")),
    ("timestamp", Wire.TIMESTAMP, 0, _fixed(4)),
    ("enum('a','b','é')", Wire.ENUM, 1, lambda chance: bytes((chance.randrange(4),))),
    ("set('a','b','c')", Wire.SET, 1, lambda chance: bytes((chance.randrange(8),))),
    ("varchar(40) character set utf8mb4", Wire.VARCHAR, 160, _sized(1, b"", b"a", "é😀".encode())),
    ("varchar(90) character set utf8mb4", Wire.VARCHAR, 360, _sized(2, b"x" * 90, "日".encode())),
    ("longtext character set utf8mb4", Wire.BLOB, 4, _sized(4, b"y" * 300, b"")),
    ("text character set latin1", Wire.BLOB, 2, _sized(2, b"abc", b"\x80\x81\xe9\xff", b"")),
    ("text character set swe7", Wire.BLOB, 2, _sized(2, b"abc", b"[]{}", b"")),
    ("text character set cp1250", Wire.BLOB, 2, _sized(2, b"abc", b"\xe8")),
    ("text character set sjis", Wire.BLOB, 2, _sized(2, b"abc", "ソ".encode("shift_jis"))),
    ("text character set utf16", Wire.BLOB, 3, _sized(3, "é😀".encode("utf-16-be"), b"")),
    ("binary(5)", Wire.STRING, 5, _sized(1, b"", b"abc", b"abcde")),
    ("varbinary(300)", Wire.VARCHAR, 300, _sized(2, b"", b"\0\xff" * 9)),
    ("tinyblob", Wire.BLOB, 1, _sized(1, b"", b"\0")),
    ("json", Wire.JSON, 4, _sized(4, *DOCUMENTS)),
    ("geometry", Wire.GEOMETRY, 4, _sized(4, bytes(4) + WKB, b"\xe6\x10\0\0" + WKB)),
    ("uuid", Wire.STRING, 16, _sized(1, bytes(range(16)), b"\1")),
    ("inet6", Wire.STRING, 16, _sized(1, bytes(range(16)), b"\1")),
    (
        "varchar(300) compressed character set latin1",
        Wire.VARCHAR_COMPRESSED,
        301,
        _sized(2, b"", b"\0abc", b"\x81\x06" + zlib.compress(b"abc\xe9de")),
    ),
)  # fmt: skip
# Random bytes for types of which few byte strings are valid values.
UNLIKELY: tuple[tuple[str, int, int, Sample], ...] = (
    *(
        (f"decimal({precision},{scale})", Wire.NEWDECIMAL, precision << 8 | scale, sample)
        for precision, scale in DECIMALS
        for sample in (_fixed(decimal_size(precision, scale)),)
    ),
    *(
        (f"{source_type}({digits})", wire, digits, _fixed(size + (digits + 1) // 2))
        for source_type, wire, _, size in TEMPORAL
        for digits in range(7)
    ),
    ("date", Wire.DATE, 0, _fixed(3)),
    ("enum('a','b','é')", Wire.ENUM, 2, _fixed(2)),
    ("set('a','b','c')", Wire.SET, 8, _fixed(8)),
)
COLUMNS = USUAL + UNLIKELY


def large_event(data: bytes) -> LargeEvent:
    event = LargeEvent(len(data))
    event.write(data)
    return event


class Drawn:
    """A random table, an operation with its presence bitmaps, and row images."""

    def __init__(self, chance: random.Random) -> None:
        self.columns = chance.choices(chance.choice((USUAL, COLUMNS)), k=chance.randint(1, 20))
        made = tuple(
            Column(
                f"c{number}", neutral_type(source_type), source_type, nullable=True, default="NULL"
            )
            for number, (source_type, *_) in enumerate(self.columns)
        )
        self.op: Operation = chance.choice(("insert", "update", "delete"))
        self.table = Table(TableId("s", "t"), made, (0,))
        types, metas = (tuple(column[n] for column in self.columns) for n in (1, 2))
        self.map = TableMap(1, "s", "t", types, metas, chance.getrandbits(len(made)))
        full = (1 << len(made)) - 1
        before, after = full, full
        if chance.random() < 0.3:
            before = chance.getrandbits(len(made)) | 1
        if chance.random() < 0.3:
            after = chance.getrandbits(len(made)) or 1
        self.masks = {"insert": [after], "update": [before, after], "delete": [before]}[self.op]
        size = (len(made) + 7) // 8
        header = b"".join(mask.to_bytes(size, "little") for mask in self.masks)
        rows = (
            self._image(chance, mask) for _ in range(chance.randint(0, 5)) for mask in self.masks
        )
        self.header = bytes((len(made),)) + header
        self.images = b"".join(rows)

    def _image(self, chance: random.Random, mask: int) -> bytes:
        present = [n for n in range(len(self.columns)) if mask >> n & 1]
        nulls, values = 0, b""
        for bit, number in enumerate(present):
            if self.map.nullable >> number & 1 and chance.random() < 0.3:
                nulls |= 1 << bit
            else:
                values += self.columns[number][3](chance)
        return nulls.to_bytes((len(present) + 7) // 8, "little") + values

    def both(self, images: bytes, checksum: bytes = b"sums") -> tuple[str, str]:
        """The result of the accelerator and the result of Python, as text."""
        return self._decoded(images, checksum), self.plain(images, checksum)

    def plain(self, images: bytes, checksum: bytes = b"sums") -> str:
        """The result of Python."""
        with python_only():
            return self._decoded(images, checksum)

    def large(self, images: bytes, checksum: bytes = b"sums") -> str:
        """The result if the event is a large one."""
        return self._decoded(images, checksum, large_event)

    def _decoded(
        self, images: bytes, checksum: bytes, event: Callable[[bytes], bytes | LargeEvent] = bytes
    ) -> str:
        data = b"head" + self.header + images
        try:
            decoder = RowDecoder(self.table, self.map)
            return as_text(decoder.decode(self.op, event(data + checksum), 4, len(data)))
        except DecodeError as error:
            return f"{error} {error.hint} {error.table}"


@built
@pytest.mark.parametrize("seed", range(4))
def test_random_rows_are_decoded_the_same(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        drawn = Drawn(chance)
        compiled, python = drawn.both(drawn.images)
        assert compiled == python


@built
@pytest.mark.parametrize("seed", range(4))
def test_damaged_rows_are_refused_the_same(seed: int) -> None:
    chance = random.Random(100 + seed)
    refused = 0
    for _ in range(ROUNDS):
        drawn = Drawn(chance)
        images = damaged(chance, drawn.images)
        compiled, python = drawn.both(images, chance.choice((b"", b"sums")))
        assert compiled == python
        refused += "malformed" in compiled
    assert refused > ROUNDS // 4


def damaged(chance: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data[: chance.choice((len(data), chance.randint(0, len(data))))])
    for _ in range(chance.choice((0, 1, 1, 2, 9)) if damaged else 0):
        at = chance.randrange(len(damaged))
        damaged[at] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(damaged)


# -- each kind of column ---------------------------------------------------------------------------


@built
@pytest.mark.parametrize("number", range(len(COLUMNS)), ids=lambda n: f"{n}-{COLUMNS[n][0]}")
def test_each_kind_of_column_is_read_the_same(number: int) -> None:
    chance = random.Random(number)
    source_type, wire, meta, sample = COLUMNS[number]
    table = Table(TableId("s", "t"), (Column("c", neutral_type(source_type), source_type),), ())
    map = TableMap(1, "s", "t", (wire,), (meta,), 0)
    decoder = RowDecoder(table, map)
    with python_only():
        python = RowDecoder(table, map)
    decode = accelerator.Accelerator(cells(table, map), map).decoder(
        None, accelerator.StoredImage(1, ["a0"])
    )
    for turn in range(ROUNDS // 2):
        value = sample(chance)
        data = b"\1\1\0" + (damaged(chance, value) if turn % 2 else value)
        assert _result(decoder, data) == _result(python, data)
        if number < len(USUAL) and not turn % 2:
            decode(data, 2, len(data))  # an error here would show that only Python reads it


def _result(decoder: RowDecoder, data: bytes) -> str:
    try:
        return as_text(decoder.decode("insert", data, 0, len(data)))
    except DecodeError as error:
        return f"{error} {error.hint}"


@built
def test_the_accelerator_prints_json_as_python_does() -> None:
    """Whole and damaged documents, one by one, without the fallback to Python."""

    class FellBackError(Exception):
        pass

    def fall_back(raw: bytes) -> str:
        raise FellBackError

    table = Table(TableId("s", "t"), (Column("j", neutral_type("json"), "json"),), ())
    map = TableMap(1, "s", "t", (Wire.JSON,), (4,), 0)
    (cell,) = cells(table, map)
    alone = accelerator.Accelerator(
        (msgspec.structs.replace(cell, value="fall_back(raw0)", names={"fall_back": fall_back}),),
        map,
    )
    decode = alone.decoder(None, accelerator.StoredImage(1, ["a0"]))
    chance, printed = random.Random(5), 0
    documents = [*DOCUMENTS, *REFUSED, *(_document(each) for each in NUMBERS)]
    for turn in range(100 * len(documents)):
        document = documents[turn % len(documents)]
        if turn >= len(documents) and document:
            document = damaged(chance, document)
        data = b"\0" + len(document).to_bytes(4, "little") + document
        with suppress(FellBackError):
            assert decode(data, 0, len(data))[1] == [(json_text(document),)]
            printed += 1
    assert printed > 10 * len(documents)


@built
def test_invalid_programs_are_refused() -> None:
    from sources.mysql.codec._accelerator import decode_rows

    chance = random.Random(1)
    for _ in range(20 * ROUNDS):
        program, data = chance.randbytes(8 * chance.randrange(4)), chance.randbytes(50)
        with suppress(ValueError, TypeError, LookupError):
            decode_rows(None, (program, ("x",)), data, 0, 50)
    for start, end in ((-1, 5), (5, 4), (0, 51)):
        with pytest.raises(ValueError, match="no rows"):
            decode_rows(None, (struct.pack("=BBHI", 14, 0, 1, 0), ()), bytes(50), start, end)

"""
Reads the rows that `mysqlbinlog --verbose` shows, and compares values with them.

mysqlbinlog does not know a column's sign, charset and labels. So a shown value is compared with a
decoded one, by the rules of the column's type.
"""

from __future__ import annotations

import ipaddress
import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import zip_longest
from typing import Any, NamedTuple
from uuid import UUID

from engine.change import Rows
from engine.schema import Column

__all__ = ["ShownRow", "differences", "shown_rows"]

_CODECS = {
    "ascii": "ascii",
    "utf8mb3": "utf-8",
    "utf8mb4": "utf-8",
    "koi8r": "koi8_r",
    "cp1251": "cp1251",
    "sjis": "shift_jis",
    "gbk": "gbk",
    "ucs2": "utf-16-be",
    "utf16": "utf-16-be",
    "utf32": "utf-32-be",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS = re.compile(rb"(-?\d+)(?: \((\d+)\))?")
_WHOLE_DOUBLE = re.compile(rb"(?<=\d)\.0(?=[,\]}]|$)")
#: MySQL's program writes these escapes, and MariaDB's writes only numbers of control characters.
_ESCAPES = {b"\t": b"\\t", b"\n": b"\\n", b"\r": b"\\r", b"\b": b"\\b", b"\x0c": b"\\f"}


class ShownRow(NamedTuple):
    """One changed row: each image is the texts of its columns, or None."""

    operation: str
    table: str
    before: list[bytes] | None
    after: list[bytes] | None


def shown_rows(text: bytes) -> Iterator[ShownRow]:
    """The rows of an output, without the ``###`` at the start of the lines."""
    for part in re.split(rb"^(?=(?:INSERT INTO|UPDATE|DELETE FROM) `)", text, flags=re.M)[1:]:
        head, *lines = part.splitlines()
        verb, _, name = head.decode().partition(" ")
        images: dict[bytes, list[bytes]] = {}
        for line in lines:
            if line in (b"WHERE", b"SET"):
                images[line] = []
                image = images[line]
            else:
                value = line.partition(b"=")[2]
                image.append(value[: value.rindex(b" /* ")].rstrip(b" "))
        table = name.rpartition(".")[2].strip("`")
        yield ShownRow(verb.lower(), table, images.get(b"WHERE"), images.get(b"SET"))


def differences(changes: Sequence[Rows], shown: Sequence[ShownRow]) -> Iterator[str]:
    """Where decoded changes differ from the shown ones, which have the same order."""
    decoded = [
        (rows, before, after)
        for rows in changes
        for before, after in zip_longest(rows.before or (), rows.after or ())
    ]
    if len(decoded) != len(shown):
        yield f"{len(decoded)} rows, and {len(shown)} are shown"
    for (rows, before, after), row in zip(decoded, shown, strict=False):
        place = f"{rows.op} {rows.table.id}"
        if (rows.op, rows.table.id.name) != (row.operation, row.table):
            yield f"{place} is shown as {row.operation} {row.table}"
            return
        for values, texts in ((before, row.before), (after, row.after)):
            if (values is None) != (texts is None):
                yield f"{place}: one image is missing"
            for column, value, text in zip(
                rows.table.columns, values or (), texts or (), strict=False
            ):
                if not _is_shown_as(column, value, text):
                    yield f"{place} {column.name} {column.source_type}: {value!r} {text!r}"


def _is_shown_as(column: Column, value: Any, text: bytes) -> bool:
    """Whether mysqlbinlog shows the decoded value as this text."""
    kind = column.type.kind
    if value is None or text == b"NULL":
        return value is None and text == b"NULL"
    if kind == "boolean" or ("int" in kind and kind != "interval"):
        return _integer(column, int(value), text)
    if kind == "decimal":
        return Decimal(value) == Decimal(text.decode())
    if kind == "float32":
        return repr(float(f"{value:.6g}")) == repr(float(text))
    if kind == "float64":
        return repr(value) == repr(float(text))
    if kind == "bit":
        return bool(value == int(text[2:-1], 2))
    if kind == "date":
        return bool(value == text[1:-1].decode().replace(":", "-"))
    if kind == "timestamp":
        return bool(value == _moment(text.decode()))
    if kind == "enum":
        return _number(column, value) == int(text)
    if kind == "set":
        bits = sum(1 << _number(column, label) - 1 for label in value.split(",") if label)
        return bits == int.from_bytes(_bytes_of_bits(text[2:-1].decode()), "little")
    if kind in ("datetime", "interval"):
        return bool(value == text[1:-1].decode())
    if "COMPRESSED" in column.source_type.upper():
        return _raw(column, value) == _expanded(text[1:-1])
    escaped = _escaped(_raw(column, value))
    if kind != "json":
        return text[1:-1] in escaped
    if value.startswith('"'):  # MySQL's program leaves out the quotes
        escaped += _escaped(_raw(column, value[1:-1]))
    # MySQL 5.7 itself does not print the fraction of a whole double.
    return _WHOLE_DOUBLE.sub(b"", text[1:-1]) in [_WHOLE_DOUBLE.sub(b"", each) for each in escaped]


def _integer(column: Column, value: int, text: bytes) -> bool:
    found = _NUMBERS.fullmatch(text)
    assert found is not None, text
    if column.source_type == "year(2)":
        return value == int(found[1]) % 100
    if column.source_type.startswith("year"):
        return value == int(found[1]) % 1900 if found[1] == b"1900" else value == int(found[1])
    unsigned = "unsigned" in column.source_type or "zerofill" in column.source_type
    return value == int(found[2] if unsigned and found[2] else found[1])


def _bytes_of_bits(bits: str) -> bytes:
    return bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))


def _number(column: Column, label: str) -> int:
    return column.type.members.index(label) + 1 if label in column.type.members else 0


def _moment(seconds: str) -> str:
    whole, dot, fraction = seconds.partition(".")
    if not int(whole) and not fraction.strip("0"):
        return f"0000-00-00 00:00:00{dot}{fraction}"
    moment = datetime.fromtimestamp(int(whole), UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}{dot}{fraction}"


def _raw(column: Column, value: Any) -> bytes:
    """The bytes that the log holds for a value."""
    source_type = column.source_type
    if column.type.kind == "geometry":
        return _srid_and_wkb(value)
    if isinstance(value, bytes):
        return value.rstrip(b"\0") if source_type.startswith("binary") else value
    charset = re.search(r"character set (\w+)", source_type)
    if charset is not None and charset[1] == "latin1":
        # The five bytes without a character in cp1252 are control characters.
        return b"".join(each.encode("cp1252" if ord(each) > 0xFF else "latin-1") for each in value)
    if column.type.kind == "uuid":
        return UUID(value).bytes.rstrip(b"\0")
    if source_type.startswith("inet"):
        return ipaddress.ip_address(value).packed.rstrip(b"\0")
    if charset is not None and charset[1] == "sjis":
        # The server's sjis has the backslash at the code of the wide one.
        return b"\x81\x5f".join(part.encode("shift_jis") for part in value.split("\\"))
    return bytes(value.encode(_CODECS[charset[1]] if charset else "utf-8"))


def _srid_and_wkb(ewkb: bytes) -> bytes:
    kind = int.from_bytes(ewkb[1:5], "little")
    srid, rest = (ewkb[5:9], ewkb[9:]) if kind & 0x20000000 else (bytes(4), ewkb[5:])
    return srid + ewkb[:1] + (kind & 0xFF).to_bytes(4, "little") + rest


def _expanded(text: bytes) -> bytes:
    """The bytes of a compressed column: a header byte, the length, and a zlib stream."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda each: bytes([int(each[1], 16)]), text)
    if not raw or not raw[0]:
        return raw[1:]
    return zlib.decompress(raw[1 + (raw[0] & 7) :], -15 if raw[0] & 8 else 15)


def _escaped(raw: bytes) -> tuple[bytes, ...]:
    """The bytes as the programs of MySQL and MariaDB show them between quotes."""
    numbers = re.sub(rb"[\0-\x1f]", lambda each: b"\\x%02x" % each[0][0], raw)
    letters = re.sub(
        rb"[\0-\x1f\\']",
        lambda each: _ESCAPES.get(
            each[0], b"\\" + each[0] if each[0] in b"\\'" else b"\\x%02x" % each[0][0]
        ),
        raw,
    )
    return numbers, letters

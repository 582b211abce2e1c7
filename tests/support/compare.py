"""
Compares source and target with plain SQL, independently of Tailrace's own code.

Every column of every row is read as text from both databases and converted to one form here.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import date
from typing import Any

import psycopg
import pymysql

__all__ = ["assert_equal", "differences"]

HEX = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector"}
GEOMETRY = {
    "geometry",
    "point",
    "linestring",
    "polygon",
    "multipoint",
    "multilinestring",
    "multipolygon",
    "geomcollection",
    "geometrycollection",
}
DATES = {"date", "datetime", "timestamp"}
FLOATS = {"float", "double"}
NUMBERS = {"bit", "year", "tinyint", "smallint", "mediumint", "int", "bigint"}
Row = tuple[Any, ...]


def differences(
    source: pymysql.connections.Connection[Any], target: psycopg.Connection[Any], database: str
) -> dict[str, str]:
    """The differences by table. Empty if both sides hold the same tables with the same rows."""
    found: dict[str, str] = {}
    with source.cursor() as cursor:
        cursor.execute("SET SESSION time_zone = '+00:00', SESSION sql_mode = ''")
        cursor.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = %s AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')",
            (database,),
        )
        tables = {str(name) for (name,) in cursor.fetchall()}
    target.execute("SET TimeZone = 'UTC'")
    there = {
        str(name)
        for (name,) in target.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (database,)
        )
    }
    for name in sorted(tables ^ there):
        found[name] = "only in the source" if name in tables else "only in the target"
    for name in sorted(tables & there):
        left = _source_rows(source, database, name)
        try:
            right = _target_rows(source, target, database, name)
        except psycopg.errors.UndefinedColumn:
            found[name] = "the target lacks a column"
            continue
        if left != right:
            missing, extra = left - right, right - left
            found[name] = (
                f"{left.total()} rows against {right.total()};"
                f" only in the source: {_shown(missing)}; only in the target: {_shown(extra)}"
            )
    return found


def _shown(rows: Counter[Row]) -> str:
    """The first rows, with the beginning of each long value."""
    return str([tuple(str(value)[:60] for value in row) for row in list(rows)[:3]])


def assert_equal(
    source: pymysql.connections.Connection[Any], target: psycopg.Connection[Any], database: str
) -> None:
    """Fail with the differences, unless both sides are equal."""
    found = differences(source, target, database)
    assert not found, "\n".join(f"{name}: {text}" for name, text in found.items())


def _columns(
    source: pymysql.connections.Connection[Any], database: str, table: str
) -> list[tuple[str, str]]:
    with source.cursor() as cursor:
        cursor.execute(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
            (database, table),
        )
        return [(str(name), str(kind).lower()) for name, kind in cursor.fetchall()]


def _source_rows(
    source: pymysql.connections.Connection[Any], database: str, table: str
) -> Counter[Row]:
    columns = _columns(source, database, table)
    expressions = []
    for name, kind in columns:
        column = f"`{name}`"
        if kind in HEX or kind in GEOMETRY:
            column = f"LOWER(HEX({column}))"
        elif kind in NUMBERS:  # a number has no leading zeros
            column = f"CAST({column} + 0 AS CHAR)"
        elif kind in FLOATS:
            column = f"{column} * 1e0"  # which keeps the sign of a zero
        else:
            column = f"CAST({column} AS CHAR)"
        expressions.append(column)
    with source.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(expressions)} FROM `{database}`.`{table}`")
        kinds = [kind for _, kind in columns]
        return Counter(
            tuple(_source_value(value, kind) for value, kind in zip(row, kinds, strict=True))
            for row in cursor.fetchall()
        )


def _source_value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind in DATES and not _is_date(str(value)[:10]):
        return None
    if kind in FLOATS:
        return repr(float(value))
    text = str(value)
    if kind in GEOMETRY:
        return _ewkb(text)
    if kind in ("time", "datetime", "timestamp"):
        return _trimmed(text)
    if kind == "decimal":  # ZEROFILL prints leading zeros
        return re.sub(r"^(-?)0+(?=\d)", r"\1", text)
    if kind == "json":  # MySQL 5.7 does not escape line breaks
        return text.replace("\n", "\\n")
    return text.replace("\0", "")


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _ewkb(text: str) -> str:
    """EWKB from MySQL's form: a 4-byte SRID and WKB, both little-endian."""
    srid, wkb = text[:8], text[8:]
    if srid == "00000000":
        return wkb
    kind = int.from_bytes(bytes.fromhex(wkb[2:10]), "little") | 0x20000000
    return wkb[:2] + kind.to_bytes(4, "little").hex() + srid + wkb[10:]


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _target_rows(
    source: pymysql.connections.Connection[Any],
    target: psycopg.Connection[Any],
    database: str,
    table: str,
) -> Counter[Row]:
    columns = _columns(source, database, table)
    expressions = []
    for name, kind in columns:
        column = '"' + name.replace('"', '""') + '"'
        if kind in HEX or kind in GEOMETRY:
            column = f"encode({column}, 'hex')"
        elif kind in FLOATS:
            column = f"{column}::float8"
        else:
            column = f"{column}::text"
        expressions.append(column)
    rows = target.execute(f'SELECT {", ".join(expressions)} FROM "{database}"."{table}"')  # type: ignore[call-overload]
    kinds = [kind for _, kind in columns]
    return Counter(
        tuple(_target_value(value, kind) for value, kind in zip(row, kinds, strict=True))
        for row in rows
    )


def _target_value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind in FLOATS:
        return repr(value)
    text = str(value)
    if kind in DATES and text == "-infinity":
        return None  # 0000-00-00 in a key
    if kind == "bit":
        return str(int(text, 2))
    if kind == "timestamp":
        return _trimmed(text.removesuffix("+00"))
    if kind in ("time", "datetime"):
        return _trimmed(text)
    return text

"""
The text of a row as an expression of MySQL and MariaDB (``engine.toolkit.checksums``). Pure.

The expression depends on the variables of the session (``session_variables``): ``sql_mode`` (CHAR
without trailing spaces), ``time_zone`` and ``collation_connection``.

NULL stands for a text that is too long for ``max_allowed_packet``. Every function returns NULL for
NULL, so only a test of the column itself (``IS NULL``) may make a field of it.

Sources: "String Functions and Operators", "Cast Functions and Operators" and "Type Conversion in
Expression Evaluation" in MySQL's manual. A DOUBLE is printed as the shortest text that is read as
the same value (``my_gcvt``), a FLOAT with six digits, and a product as a DOUBLE.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from engine.databases.mysql.charset import may_be_hidden
from engine.databases.mysql.identifiers import quote_name
from engine.databases.mysql.types import INTEGER_KINDS, MySQLType, parse_type
from engine.schema import Column, Table
from engine.toolkit.checksums import LONGEST, PART_DIGITS, hashed, is_never_longer

__all__ = ["row_digest", "row_part", "row_sums", "row_text", "rows_digest", "why_no_text"]

#: The charsets whose bytes are valid UTF-8.
_UTF8: Final = ("utf8mb3", "utf8mb4")
_DOUBLE: Final = MySQLType("double")
_DATED: Final = frozenset(("date", "datetime", "timestamp"))
_LABELLED: Final = frozenset(("text", "enum", "set"))


def why_no_text(table: Table) -> str:
    """Why there is no expression for the rows of a table; empty if there is one."""
    for column in table.columns:
        if parse_type(column.source_type).holds:
            return f"the column {column.name} has another charset than it declares"
        if column.type.kind == "array":
            return f"the column {column.name} has the type {column.type}"
    return ""


def row_text(table: Table, nulled: Collection[int] = ()) -> str:
    """The text of a row; NULL if it is too long."""
    plain = _is_of_one_collation(table)
    fields = (_field(each, n in nulled, plain) for n, each in enumerate(table.columns))
    return f"CONCAT({', '.join(f'{field}, {_COMMA}' for field in fields)})"


def rows_digest(table: Table, nulled: Collection[int], order: str) -> str:
    """The columns of a SELECT that computes the checksum of a range. ``Checksum.of_text`` gets
    their values. ``order``: the columns to sort by; empty if rows are read in the key's order."""
    order = order and f" ORDER BY {order}"
    texts = f"GROUP_CONCAT({', '.join(_pieces(table, nulled))}{order} SEPARATOR '')"
    return f"COUNT(*), SHA2({texts}, 256)"


def _pieces(table: Table, nulled: Collection[int]) -> list[str]:
    """Expressions whose texts, one after the other, are the text of a row. NULL leaves the row out.

    CONCAT copies a text once more. So integers and texts that are not NULL are pieces of their own.
    """
    plain = _is_of_one_collation(table)
    pieces: list[str] = []
    joined: list[str] = []
    for n, column in enumerate(table.columns):
        single = _single(column, plain)
        if single:
            pieces += [*_concat(joined), *single, _COMMA]
            joined = []
        else:
            joined += [_field(column, n in nulled, plain), _COMMA]
    pieces += _concat(joined)
    # Each is a column of a temporary table.
    return pieces if len(pieces) <= _MOST_PIECES else [row_text(table, nulled)]


def _single(column: Column, plain: bool) -> list[str]:
    """The pieces of a field that can be joined as they are; none for others."""
    name = quote_name(column.name)
    if column.nullable:
        return []
    if column.type.kind in INTEGER_KINDS:
        return [name] if _short(column, name) == name else []
    is_text = plain and column.type.kind == "text" and is_never_longer(column)
    return [f"LENGTH({name})", "':'", name] if is_text else []


def _concat(expressions: Sequence[str]) -> list[str]:
    return [f"CONCAT({', '.join(expressions)})"] if expressions else []


def row_digest(table: Table, nulled: Collection[int]) -> str:
    """The SHA-256 of a row's text."""
    return f"UNHEX({_digits(table, nulled)})"


def row_part(table: Table, nulled: Collection[int]) -> str:
    """The name of a row's part."""
    if table.key:
        return f"LEFT({_digits(hashed(table), ())}, {PART_DIGITS})"
    return f"LEFT({_digits(table, nulled)}, {PART_DIGITS})"


def _digits(table: Table, nulled: Collection[int]) -> str:
    return f"SHA2(IFNULL({row_text(table, nulled)}, {_TOO_LONG}), 256)"


def row_sums(digest: str) -> str:
    """The columns of a SELECT that computes a checksum of rows with this ``row_digest``.
    ``Checksum.of`` gets their values."""
    parts = (
        f"CAST(CONV(HEX({end}({digest}, 8)), 16, 10) AS UNSIGNED)" for end in ("LEFT", "RIGHT")
    )
    return f"COUNT(*), {', '.join(f'SUM({part})' for part in parts)}"


_COMMA: Final = "','"
_MOST_PIECES: Final = 200
#: What is hashed instead of a text that is too long: it is the text of no row.
_TOO_LONG: Final = "'too long for MySQL'"


def _is_of_one_collation(table: Table) -> bool:
    """Whether the long fields are all UTF-8 of one collation, and so can be joined as they are.
    Otherwise each is cast to bytes, which takes a third more time.
    """
    long = [column for column in table.columns if column.type.kind not in _SHORT]
    types = [parse_type(column.source_type) for column in long]
    return (
        all(column.type.kind == "text" for column in long)
        and all(type.charset == "utf8mb4" for type in types)
        and len({type.collation for type in types}) < 2
    )


def _field(column: Column, nulled: bool, plain: bool) -> str:
    name = quote_name(column.name)
    if column.type.kind in _SHORT:
        text = _short(column, name)
        if nulled and column.type.kind in _DATED:
            return f"IF({name} IS NULL OR {name} = 0, '', {text})"
        return f"IFNULL({text}, '')" if column.nullable else text
    text = _bounded(column, f"LENGTH({name})", name) if plain else _long(column, name)
    return f"IF({name} IS NULL, ':', {text})" if column.nullable else text


def _bounded(column: Column, length: str, text: str, bytes: str = "") -> str:
    """A long field of a value with this length, this text and these bytes."""
    if not is_never_longer(column):
        text = f"IF({length} > {LONGEST}, SHA2({bytes or text}, 256), {text})"
    return f"CONCAT({length}, ':', {text})"


_SHORT: Final = INTEGER_KINDS | _DATED | {"decimal", "bit", "float32", "float64", "interval"}


def _short(column: Column, name: str) -> str:
    kind, scale = column.type.kind, column.type.scale
    source_type = parse_type(column.source_type)
    if kind == "bit":
        return f"LPAD(BIN(CAST({name} AS UNSIGNED)), {column.type.length or 1}, '0')"
    if kind in ("float32", "float64"):
        return name if source_type == _DOUBLE else _float(f"{name} * 1e0")
    if source_type.zerofill or source_type.base == "year":
        return f"{name} + 0"
    if kind in ("datetime", "timestamp", "interval") and scale:
        name = f"TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM {name}))"
    return f"CONCAT({name}, '+00')" if kind == "timestamp" else name


def _float(value: str) -> str:
    """The shortest text of a number. MySQL cuts that of an expression off after 22 characters."""
    return f"IF(CONCAT({value}) + 0e0 = {value}, {value}, CONCAT('~', {value}))"


def _long(column: Column, name: str) -> str:
    kind, charset = column.type.kind, parse_type(column.source_type).charset
    if kind == "binary":
        return _bounded(column, f"LENGTH({name})", f"HEX({name})", name)
    if kind == "geometry":
        return _ewkb(column, name, f"HEX({name})")
    if kind not in _LABELLED or not charset:
        text = f"CAST({name} AS CHAR)"
    elif charset in _UTF8 and kind == "text":
        text = name
    else:
        text = f"CONVERT({name} USING utf8mb4)"
    field = _bounded(column, f"LENGTH({text})", f"CAST({text} AS BINARY)")
    if charset in _UTF8 or not charset or not may_be_hidden(charset):
        return field
    again = f"CAST(CONVERT({text} USING {charset}) AS BINARY)"
    return f"IF({again} = CAST({name} AS BINARY), {field}, CONCAT('?', SHA2({name}, 256)))"


def _ewkb(column: Column, name: str, digits: str) -> str:
    """MySQL's SRID and WKB, which is little-endian, as EWKB: the SRID 0 is left out, and another
    one is marked in the highest byte of the type, which is 0 in MySQL."""
    plain = f"SUBSTR({digits}, 9)"
    placed = f"CONCAT(SUBSTR({digits}, 9, 8), '20', LEFT({digits}, 8), SUBSTR({digits}, 19))"
    fields = (
        _bounded(column, length, text, f"UNHEX({text})")
        for length, text in ((f"LENGTH({name}) - 4", plain), (f"LENGTH({name})", placed))
    )
    return f"IF(LEFT({digits}, 8) = '00000000', {', '.join(fields)})"

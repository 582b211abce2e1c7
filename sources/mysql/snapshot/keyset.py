"""
SQL to read a table in ranges of its key: cursors, conditions and order.

``(a, b) > (x, y)`` is written as ``a >= x AND (a > x OR (a = x AND b > y))``: the first part lets
the server start in the index, the second part is exact. Keys are compared only by the server,
because only the server knows its collations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from engine.databases.mysql.charset import text_encoder
from engine.databases.mysql.identifiers import quote_name
from engine.databases.mysql.key_values import finds_row
from engine.databases.mysql.literals import with_srid
from engine.databases.mysql.types import INTEGER_KINDS, parse_type
from engine.errors import ConfigError, SourceError
from engine.remedies import BACKFILL
from engine.schema import Column, Part, Table
from sources.mysql.codec.invalid_text import SubstitutedText
from sources.mysql.snapshot.parts import part_condition

__all__ = ["Keyset"]

Key = tuple[Any, ...]
_PLAIN_LABEL = re.compile(r"[A-Za-z]([A-Za-z0-9_. -]*[A-Za-z0-9_])?\Z")
_CASTS = {"enum": "UNSIGNED", "set": "UNSIGNED", "geometry": "BINARY"}
_QUOTED = frozenset(("date", "datetime", "timestamp", "interval", "uuid"))


class Keyset:
    """The key of one table as SQL. A key is a tuple of values in the order of the key's columns.

    ``part``: the rows are those of a part of the table.
    """

    def __init__(self, table: Table, part: Part | None = None) -> None:
        self._conditions = [] if part is None else [part_condition(part)]
        self.columns = [table.columns[ordinal] for ordinal in table.key]
        self._names = [_operand(column) for column in self.columns]
        self._table = table

    @property
    def order(self) -> str:
        """The ORDER BY list."""
        return ", ".join(quote_name(column.name) for column in self.columns)

    def as_table(self) -> Table:
        """A table of the key's columns alone, for queries that select the ends of ranges."""
        return Table(self._table.id, tuple(self.columns), tuple(range(len(self.columns))))

    @property
    def ambiguous(self) -> str:
        """The condition for rows whose key reads like another key; empty if no key can.

        An ENUM stores the number 0 for an invalid value and reads it as an empty text, which may
        also be one of its members.
        """
        return " OR ".join(
            f"{name} = 0"
            for name, column in zip(self._names, self.columns, strict=True)
            if column.type.kind == "enum" and "" in column.type.members
        )

    def between(self, after: Key | None, last: Key | None, where: str = "") -> str:
        """The WHERE clause for keys above ``after`` and up to ``last``, and the condition
        ``where``; empty for all.
        """
        conditions = list(self._conditions)
        if after is not None:
            conditions.append(self._compare(after, ">", ">"))
        if last is not None:
            conditions.append(self._compare(last, "<", "<="))
        if where:
            conditions.append(where)
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def among(self, keys: Sequence[Key]) -> str:
        """The WHERE clause for rows with one of these keys. Raises SourceError if it might miss a
        row that has one of them: such a row would be taken for one that was deleted.
        """
        if not all(map(self._finds_row, keys)):
            raise SourceError(
                "rows with invalid text in their key, or with text that the charset of the key's"
                " column does not have, cannot be looked up",
                hint=BACKFILL,
                table=self._table.id,
            )
        alternatives = (" AND ".join(map(_equals, self._names, self.columns, key)) for key in keys)
        return f" WHERE {' OR '.join(f'({it})' for it in alternatives)}"

    def _finds_row(self, key: Key) -> bool:
        return all(
            column.type.kind != "text" or finds_row(column, str(value))
            for column, value in zip(self.columns, key, strict=True)
        )

    def _compare(self, key: Key, beyond: str, at_end: str) -> str:
        literals = [
            _literal(column, value) for column, value in zip(self.columns, key, strict=True)
        ]
        condition = f"{self._names[-1]} {at_end} {literals[-1]}"
        for name, literal in zip(self._names[-2::-1], literals[-2::-1], strict=True):
            condition = (
                f"{name} {beyond}= {literal} AND "
                f"({name} {beyond} {literal} OR ({name} = {literal} AND {condition}))"
            )
        return condition

    def cursor(self, key: Key) -> str:
        """The text of a key that is stored as a chunk's cursor."""
        values = [_stored(value) for value in key]
        return msgspec.json.encode(values).decode()

    def parse(self, cursor: str) -> Key:
        """The key in a cursor; ConfigError if the cursor does not fit this table's key."""
        try:
            values = msgspec.json.decode(cursor, type=list[int | float | str | list[str]])
            if len(values) != len(self.columns):
                raise ValueError("the number of columns differs")
            return tuple(map(_parsed, self.columns, values))
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            raise ConfigError(
                "the cursor of the table's backfill does not fit its key",
                hint=BACKFILL,
                table=self._table.id,
            ) from error


def _stored(value: Any) -> Any:
    """A value in a cursor: a text with substitutes is stored with its bytes."""
    if isinstance(value, SubstitutedText):
        return [str(value), value.raw.hex()]
    return value.hex() if isinstance(value, bytes) else value


def _parsed(column: Column, value: Any) -> Any:
    kind = column.type.kind
    if isinstance(value, list):
        text = SubstitutedText(value[0])
        text.raw = bytes.fromhex(value[1])
        return text
    if kind in ("binary", "geometry"):
        return bytes.fromhex(value)
    expected: Any = str
    if kind in INTEGER_KINDS or kind == "bit":
        expected = int
    elif kind in ("float32", "float64"):
        return float(value)
    if not isinstance(value, expected):
        raise TypeError(f"a {kind} is expected")
    return value


def _operand(column: Column) -> str:
    """The operand of a comparison. Labels are compared by number, as the server sorts them, and
    geometries by their bytes; the number of a set may have 64 bits."""
    name, cast = quote_name(column.name), _CASTS.get(column.type.kind)
    return f"CAST({name} AS {cast})" if cast else name


def _equals(operand: str, column: Column, value: Any) -> str:
    """The condition for rows with this value of a column of the key."""
    if column.type.kind in ("enum", "set"):
        return _has_labels(operand, column, value)
    return f"{operand} = {_literal(column, value)}"


def _has_labels(operand: str, column: Column, value: str) -> str:
    """The condition for the labels of an ENUM or SET.

    Labels are compared as such if that is exact, because a comparison of numbers uses no index.
    """
    members = column.type.members
    labels = [value] if column.type.kind == "enum" else value.split(",")
    if value and not set(labels) <= set(members):
        return "FALSE"
    if value and _are_plain(members):
        in_order = ",".join(label for label in members if label in labels)
        return f"{quote_name(column.name)} = {_text(in_order)}"
    return f"{operand} = {_literal(column, value)}"


@lru_cache(maxsize=64)
def _are_plain(members: tuple[str, ...]) -> bool:
    """Whether the server finds each label by its text. It might not find those that are equal in
    the column's collation, that it reads as numbers, or that it shows with question marks.
    """
    return all(map(_PLAIN_LABEL.match, members)) and len({it.lower() for it in members}) == len(
        members
    )


def _text(value: str) -> str:
    # A hexadecimal literal needs no escapes, whatever sql_mode is.
    return f"_utf8mb4 0x{value.encode().hex()}" if value else "_utf8mb4''"


def _literal(column: Column, value: Any) -> str:
    type = column.type
    if type.kind in INTEGER_KINDS or type.kind == "bit":
        return str(int(value))
    if type.kind == "decimal":
        return str(value)
    if type.kind in ("float32", "float64"):
        text = repr(float(value))
        return text if "e" in text else f"{text}e0"
    if type.kind == "enum":
        return str(type.members.index(value) + 1 if value in type.members else 0)
    if type.kind == "set":
        chosen = value.split(",") if value else ()
        return str(sum(1 << type.members.index(member) for member in chosen))
    if type.kind == "binary":
        return f"0x{value.hex()}" if value else "_binary''"
    if type.kind == "geometry":
        return f"x'{with_srid(value.hex())}'"
    if type.kind in _QUOTED or column.source_type.startswith("inet"):
        return f"'{value}'"
    source_type = parse_type(column.source_type)
    if isinstance(value, SubstitutedText):
        return f"_{source_type.charset} 0x{value.raw.hex()}"
    if source_type.holds and value:
        data = text_encoder(source_type.holds)(value)
        return f"_{source_type.charset} 0x{data.hex()}"
    return _text(value)

"""
Bytes that are no character in the character set of their column.

Text is decoded strictly, which is fast. The first time that a decoder of a table meets such bytes,
it is made again with the functions of ``InvalidText``, which follow the policy ``invalid_text`` and
count each value that they change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from engine.databases.mysql.charset import text_decoder
from engine.databases.mysql.invalid_text import invalid_text
from engine.databases.mysql.types import parse_type
from engine.errors import DecodeError
from engine.schema import Column, Table, TableId
from engine.toolkit.policies import ReadPolicies

__all__ = ["SubstitutedText", "InvalidText", "not_text"]

_REASON: Final = "invalid_text"


def not_text(table: Table, column: Column) -> DecodeError:
    """The error for bytes that are not text in the column's character set."""
    if column.type.kind == "json":
        return DecodeError(
            f"the column {column.name} holds a document that is not UTF-8",
            hint="correct the document on the source; SQL functions that put texts of ucs2, utf16,"
            " utf16le or utf32 into documents need CONVERT(… USING utf8mb4)",
            table=table.id,
        )
    charset = parse_type(column.source_type).charset or "utf8mb4"
    return DecodeError(
        f"the column {column.name} holds bytes that are not valid {charset} text",
        hint=f'"TABLE.{column.name}" = {{ invalid_text = "escape" }} in [source.values.columns]'
        " keeps the bytes as text; or correct the value on the source, or"
        f" declare the column's real character set there (ALTER TABLE … MODIFY {column.name} BLOB,"
        " then MODIFY it to the right type)",
        table=table.id,
    )


class SubstitutedText(str):
    """A text of a key, with substitutes for some bytes. ``raw`` has the bytes by which the server
    finds the row."""

    __slots__ = ("raw",)
    raw: bytes


class InvalidText:
    """What becomes of invalid text, by the policies of one source. Its methods may be called from
    any thread."""

    def __init__(self, policies: ReadPolicies) -> None:
        self._policies = policies
        self._lock = threading.Lock()
        self._replaced: dict[tuple[TableId, str, str], int] = {}

    def decoder(self, table: Table, column: Column, charset: str) -> Callable[[bytes], str] | None:
        """The function that decodes any bytes of a column; None where invalid text is an error."""
        errors = invalid_text(self._policies, table, column)
        if errors == "strict":
            return None
        strict, other = text_decoder(charset), text_decoder(charset, errors)
        if table.ordinal(column.name) in table.key:
            other = partial(_substituted, other)
        place = table.id, column.name, _REASON
        return lambda data: self._decode(data, strict, other, place)

    def take_replaced(self) -> Mapping[tuple[TableId, str, str], int]:
        """The number of values that were changed since the last call, by table, column and
        reason."""
        if not self._replaced:
            return self._replaced
        with self._lock:
            taken, self._replaced = self._replaced, {}
        return taken

    def _decode(
        self,
        data: bytes,
        strict: Callable[[bytes], str],
        other: Callable[[bytes], str],
        place: tuple[TableId, str, str],
    ) -> str:
        try:
            return strict(data)
        except UnicodeDecodeError:
            with self._lock:
                self._replaced[place] = self._replaced.get(place, 0) + 1
        return other(data)


def _substituted(decode: Callable[[bytes], str], data: bytes) -> str:
    text = SubstitutedText(decode(data))
    text.raw = data
    return text

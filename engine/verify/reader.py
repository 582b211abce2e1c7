"""
Reads of one database for the comparison, off the event loop.

A ``RowReader`` blocks and allows one call at a time. ``AsyncReader`` runs its calls on threads and
makes each wait for the one before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from engine.contract import RowReader
from engine.schema import Table
from engine.toolkit.canonical import canonical_json
from engine.verify.report import Key

__all__ = ["AsyncReader", "RowsByKey", "TextRow", "comparable_rows", "key_of"]

#: The canonical text of each column of a row; None is NULL.
TextRow = tuple[str | None, ...]
RowsByKey = dict[Key, TextRow]
Answer = TypeVar("Answer")


class AsyncReader:
    """A ``RowReader`` for the event loop. All users of a reader must share one ``AsyncReader``."""

    def __init__(self, reader: RowReader) -> None:
        self._reader = reader
        self._lock = asyncio.Lock()

    async def run(self, call: Callable[[RowReader], Answer]) -> Answer:
        """Return the result of ``call``, which runs on a thread and gets the blocking reader."""
        async with self._lock:
            return await asyncio.to_thread(call, self._reader)

    async def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool
    ) -> list[TextRow]:
        """The next ``limit`` rows, or keys, after the key ``after``."""
        return await self.run(
            lambda reader: reader.chunk(table, after, limit, keys_only=keys_only),
        )

    async def rows(self, table: Table, keys: Sequence[Key]) -> RowsByKey:
        """The rows that have exactly these keys.

        A database also finds keys that its collation takes for equal (``a`` and ``A``); those rows
        are left out.
        """
        found = await self.run(lambda reader: reader.by_keys(table, keys))
        wanted = set(keys)
        return {key: row for row in found if (key := key_of(table, row)) in wanted}

    async def keys(self, table: Table, keys: Sequence[Key]) -> list[Key]:
        """The keys that the database finds for ``keys``, also those equal only by collation."""
        return await self.run(lambda reader: reader.by_keys(table, keys, keys_only=True))


def key_of(table: Table, row: TextRow) -> Key:
    """The key of a row."""
    return tuple(row[ordinal] for ordinal in table.key)


def comparable_rows(table: Table) -> Callable[[TextRow], TextRow]:
    """A function that returns a row with its JSON texts in the form that equal values share.

    The other columns are canonical as they are read.
    """
    ordinals = [n for n, column in enumerate(table.columns) if column.type.kind == "json"]

    def comparable(row: TextRow) -> TextRow:
        if not ordinals:
            return row
        values = list(row)
        for ordinal in ordinals:
            text = values[ordinal]
            values[ordinal] = None if text is None else canonical_json(text)
        return tuple(values)

    return comparable

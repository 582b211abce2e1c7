"""
Reads of one database for the comparison, off the event loop.

A ``RowReader`` blocks and allows one call at a time. ``AsyncReader`` runs its calls on threads and
makes each wait for the one before it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final, TypeVar

from engine.contract import RowReader, StoredText
from engine.schema import Table
from engine.toolkit.canonical import (
    Convert,
    NamesReadPolicies,
    ReplacedText,
    canonical_json,
    canonical_rows,
)
from engine.toolkit.checksums import Checksum, KeyRange, SumsRows, most_rows
from engine.toolkit.sampling import SamplesKeys
from engine.verify.pace import Pace
from engine.verify.report import Key, Replaced

__all__ = [
    "AsyncReader",
    "RangeRows",
    "Rows",
    "RowsByKey",
    "SourceReader",
    "TextRow",
    "by_key",
    "closed_after",
    "comparable_rows",
    "key_of",
    "row_digest",
]

#: The canonical text of each column of a row; None is NULL.
TextRow = tuple[str | None, ...]
RowsByKey = dict[Key, TextRow]
#: The first rows of a range, and the key of the last one if there are more.
RangeRows = tuple[list[TextRow], Key | None]
Answer = TypeVar("Answer")
#: Reads rows from a blocking reader.
Rows = Callable[[RowReader], Iterator[list[TextRow]]]

_DIGEST_BYTES: Final = 16
#: The canonical text of the zero date, by the kind of its type.
_ZERO: Final = {
    "date": "0000-00-00",
    **dict.fromkeys(("datetime", "timestamp"), "0000-00-00 00:00:00.000000"),
}


class AsyncReader:
    """A ``RowReader`` for the event loop, within the budget of ``pace``. All users of a reader must
    share one ``AsyncReader``.
    """

    def __init__(self, reader: RowReader, pace: Pace | None = None) -> None:
        self._reader = reader
        self._pace = pace or Pace()
        self._lock = asyncio.Lock()
        #: How long the database took for the last range, without the waits before.
        self.range_seconds = 0.0

    async def run(self, call: Callable[[RowReader], Answer], *, lookup: bool = False) -> Answer:
        """Return the result of ``call``, which runs on a thread and gets the blocking reader.

        A ``lookup`` of rows by their keys does not wait until there is no other work: it decides
        about rows that were read before, and the longer a recheck lasts, the more rows are hot.
        """
        with self._pace.read():
            if not lookup:
                await self._pace.until_idle()  # without the lock, so that lookups go on meanwhile
            async with self._lock, self._pace.turn():
                return await asyncio.to_thread(call, self._reader)

    async def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool
    ) -> list[TextRow]:
        """The next ``limit`` rows, or keys, after the key ``after``."""
        return await self.run(
            lambda reader: reader.chunk(table, after, limit, keys_only=keys_only),
        )

    async def size(self, table: Table) -> int:
        """The number of rows from which ``sample`` draws."""
        return await self.run(lambda reader: _sampling(reader).size(table))

    async def sample(self, table: Table, share: float) -> list[Key]:
        """The keys of random rows."""
        return await self.run(lambda reader: _sampling(reader).sample(table, share))

    async def rows(self, table: Table, keys: Sequence[Key]) -> RowsByKey:
        """The rows that have exactly these keys.

        A database also finds keys that its collation takes for equal (``a`` and ``A``); those rows
        are left out.
        """
        found = await self.run(lambda reader: reader.by_keys(table, keys), lookup=True)
        wanted = set(keys)
        return by_key(table, [row for row in found if key_of(table, row) in wanted])

    async def why_not_summed(self, table: Table) -> str:
        """Why the database computes no checksums of a table; empty if it does."""
        if isinstance(self._reader, SumsRows):
            return await self._sums(lambda reader: reader.why_not_summed(table))
        return "the database computes no checksums"

    async def most_rows(self, table: Table) -> int:
        """The most rows whose joined text the database surely makes."""
        return await self._sums(lambda reader: most_rows(table, reader.longest_text()))

    async def sum_range(self, table: Table, range: KeyRange) -> Checksum:
        """The checksum of the rows of a range."""
        return await self._sum_range(table, range)

    async def _sum_range(
        self, table: Table, range: KeyRange, nulled: Collection[int] = ()
    ) -> Checksum:
        def timed(reader: SumsRows) -> Checksum:
            started = time.monotonic()
            checksum = reader.sum_range(table, range, nulled)
            self.range_seconds = time.monotonic() - started
            return checksum

        return await self._sums(timed)

    async def boundary(self, table: Table, range: KeyRange, rows: int) -> Key | None:
        """The key of the row with this number in a range."""
        return await self._sums(lambda reader: reader.boundary(table, range, rows))

    async def range_rows(self, table: Table, range: KeyRange, *, counts: bool = False) -> RangeRows:
        """The first rows of a range, and the key of the last one if there are more. ``counts``: the
        source counts the values that policies change in them."""
        return await self._sums(lambda reader: reader.range_rows(table, range))

    async def range_keys(self, table: Table, range: KeyRange) -> list[Key]:
        """The keys of all rows of a range."""
        found: list[Key] = []
        rest: KeyRange | None = range
        while rest is not None:
            rows, upto = await self.range_rows(table, rest)
            found += [key_of(table, row) for row in rows]
            rest = None if upto is None else KeyRange(upto, range.upto)
        return found

    async def sum_parts(self, table: Table) -> dict[str, Checksum]:
        """The checksums of the parts of a table."""
        return await self._sums(lambda reader: reader.sum_parts(table))

    def rows_of(self, table: Table, parts: Collection[str]) -> Rows:
        """A function that gets the blocking reader and returns the rows of some parts."""
        return lambda reader: _summing(reader).part_rows(table, parts)

    async def _sums(self, call: Callable[[SumsRows], Answer]) -> Answer:
        return await self.run(lambda reader: call(_summing(reader)))

    def comparable_rows(
        self, table: Table, *, counts: bool = False
    ) -> Callable[[list[TextRow]], list[TextRow]]:
        """A function that makes the rows of a scan comparable. ``counts``: the source counts the
        values that policies change in them."""
        comparable = comparable_rows(table)
        return lambda rows: list(map(comparable, rows))

    async def keys(self, table: Table, keys: Sequence[Key]) -> list[Key]:
        """The keys that the database finds for ``keys``, also those equal only by collation."""
        return await self.run(
            lambda reader: reader.by_keys(table, keys, keys_only=True), lookup=True
        )


class SourceReader(AsyncReader):
    """The source's reader, which gives its rows and keys as the target stores them.

    ``target`` tells how (``RowReader.stored``). Keys that a policy changes are remembered, so they
    are found on the source again.

    The values that a policy changes are counted in the whole rows of ``chunk``, and where
    ``range_rows``, ``rows`` and ``comparable_rows`` are asked to. If checksums are compared, all
    other rows have no such value, because it has another text than the target's, but for the zero
    dates that both sides count as NULL: the database counts these (``count_zeros``).
    """

    def __init__(
        self,
        reader: RowReader,
        target: RowReader,
        pace: Pace | None = None,
    ) -> None:
        super().__init__(reader, pace)
        self._target = target
        self._forms: dict[Table, _StoredForm] = {}

    async def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool
    ) -> list[TextRow]:
        """The next ``limit`` rows, or keys, after the key ``after``."""
        form = self._form(table)
        # Two keys of the source may be stored as one, so the last key that was read is kept.
        start = after
        if after is not None:
            start = form.last[1] if form.last[0] == after else form.changed.get(after, after)
        rows = await super().chunk(table, start, limit, keys_only=keys_only)
        stored = form.stored(rows, keys_only=keys_only)
        if not keys_only:
            form.count(rows, stored)
        if rows:
            last = stored[-1], rows[-1]
            form.last = last if keys_only else (key_of(table, last[0]), key_of(table, last[1]))
        return stored

    async def sample(self, table: Table, share: float) -> list[Key]:
        """The keys of random rows."""
        return self._form(table).stored(await super().sample(table, share), keys_only=True)

    async def rows(self, table: Table, keys: Sequence[Key], *, counts: bool = False) -> RowsByKey:
        """The rows that have exactly these keys. ``counts``: the values that policies change in
        them are counted."""
        form = self._form(table)
        on_source = form.on_source(keys)
        found = await self.run(lambda reader: reader.by_keys(table, on_source), lookup=True)
        wanted = set(keys)
        pairs = zip(found, form.stored(found, keys_only=False), strict=True)
        own = [(old, new) for old, new in pairs if key_of(table, new) in wanted]
        if counts:
            form.count([old for old, _ in own], [new for _, new in own])
        return by_key(table, [new for _, new in own])

    async def keys(self, table: Table, keys: Sequence[Key]) -> list[Key]:
        """The keys that the database finds for ``keys``, also those equal only by collation."""
        form = self._form(table)
        return form.stored(await super().keys(table, form.on_source(keys)), keys_only=True)

    async def sum_range(self, table: Table, range: KeyRange) -> Checksum:
        """The checksum of the rows of a range."""
        form = self._form(table)
        return await self._sum_range(table, form.range_on_source(range), form.nulled)

    async def sum_parts(self, table: Table) -> dict[str, Checksum]:
        """The checksums of the parts of a table."""
        nulled = self._form(table).nulled
        return await self._sums(lambda reader: reader.sum_parts(table, nulled))

    def rows_of(self, table: Table, parts: Collection[str]) -> Rows:
        """A function that gets the blocking reader and returns the rows of some parts."""
        nulled = self._form(table).nulled
        return lambda reader: _summing(reader).part_rows(table, parts, nulled)

    async def boundary(self, table: Table, range: KeyRange, rows: int) -> Key | None:
        """The key of the row with this number in a range."""
        form = self._form(table)
        found = await super().boundary(table, form.range_on_source(range), rows)
        return None if found is None else form.stored([found], keys_only=True)[0]

    async def range_rows(self, table: Table, range: KeyRange, *, counts: bool = False) -> RangeRows:
        """The first rows of a range, and the key of the last one if there are more."""
        form = self._form(table)
        rows, upto = await super().range_rows(table, form.range_on_source(range))
        stored = form.stored(rows, keys_only=False)
        if counts:
            form.count(rows, stored)
        return stored, None if upto is None else key_of(table, stored[-1])

    def comparable_rows(
        self, table: Table, *, counts: bool = False
    ) -> Callable[[list[TextRow]], list[TextRow]]:
        """A function that makes the rows of a scan comparable, and counts if it is to."""
        comparable, form = super().comparable_rows(table), self._form(table)

        def stored(rows: list[TextRow]) -> list[TextRow]:
            made = form.stored(rows, keys_only=False)
            if counts:
                form.count(rows, made)
            return comparable(made)

        return stored

    async def count_zeros(self, table: Table, range: KeyRange) -> None:
        """Count the zero dates of a range that checksums do not show. From then on, those in rows
        that are read are not counted."""
        form = self._form(table)
        form.zeros = form.zeros or [0] * len(form.nulled)
        if form.nulled:
            on_source = form.range_on_source(range)
            found = await self._sums(
                lambda reader: reader.count_zeros(table, on_source, form.nulled)
            )
            form.zeros = [one + more for one, more in zip(form.zeros, found, strict=True)]

    def count_anew(self, table: Table) -> None:
        """Begin to count again: all rows are read."""
        self._form(table).count_anew()

    def replaced(self, table: Table) -> tuple[Replaced, ...]:
        """The policies that may change values of a table, with the number of values."""
        return tuple(self._form(table).changes())

    def _form(self, table: Table) -> _StoredForm:
        if table not in self._forms:
            reader = self._reader
            policies = [""] * len(table.columns)
            if isinstance(reader, NamesReadPolicies):
                policies[:] = reader.read_policies(table)
            self._forms[table] = _StoredForm(table, self._target.stored(table), policies)
        return self._forms[table]


def _sampling(reader: RowReader) -> SamplesKeys:
    assert isinstance(reader, SamplesKeys)
    return reader


def _summing(reader: RowReader) -> SumsRows:
    assert isinstance(reader, SumsRows)
    return reader


class _StoredForm:
    """The rows and keys of one table as the target stores them."""

    def __init__(
        self, table: Table, texts: Sequence[StoredText | None], policies: Sequence[str]
    ) -> None:
        #: The keys that differ on the source, by those on the target.
        self.changed: dict[Key, Key] = {}
        #: The last key that a chunk has read, on the target and on the source.
        self.last: tuple[Key, Key] = ((), ())
        self._table = table
        self.texts = texts
        self._stores = [text and _unless_equal(text.store) for text in texts]
        #: For each column the source's policy that makes a text of a value that has none.
        self._policies = policies
        #: The number of values of each column that the target's policy changes, and the source's.
        self._stored = Counter[int]()
        self._read = Counter[int]()
        #: The number of zero dates in each column of ``nulled`` that the database has counted; None
        #: if they are counted in the rows that are read.
        self.zeros: list[int] | None = None
        self._key_texts = [texts[ordinal] for ordinal in table.key]
        self._key_stores = [self._stores[ordinal] for ordinal in table.key]
        #: The ordinals of the columns in which a zero date is stored as NULL.
        self.nulled = [
            ordinal
            for ordinal, (column, text) in enumerate(zip(table.columns, texts, strict=True))
            if column.type.kind in _ZERO and text and text.store(_ZERO[column.type.kind]) is None
        ]

    def stored(self, rows: list[TextRow], *, keys_only: bool) -> list[TextRow]:
        """The source's rows, or keys, as the target stores them."""
        stores = self._key_stores if keys_only else self._stores
        if not any(stores):
            return rows
        stored = canonical_rows(rows, stores)
        if any(self._key_texts):
            for old, new in zip(rows, stored, strict=True):
                key, other = (
                    (old, new) if keys_only else (key_of(self._table, it) for it in (old, new))
                )
                if key != other:
                    self.changed[other] = key
        return stored

    def count(self, rows: list[TextRow], stored: list[TextRow]) -> None:
        """Count the values that are changed in these rows."""
        for n, text in enumerate(self.texts):
            if text is not None:
                pairs = zip(rows, stored, strict=True)
                changed = [old[n] for old, new in pairs if old[n] != new[n]]
                self._stored[n] += len(changed)
                if self.zeros is not None and n in self.nulled:
                    self._stored[n] -= changed.count(_ZERO[self._table.columns[n].type.kind])
            if self._policies[n]:
                self._read[n] += sum(isinstance(row[n], ReplacedText) for row in rows)

    def count_anew(self) -> None:
        """Forget what was counted."""
        self._stored.clear()
        self._read.clear()
        self.zeros = None

    def changes(self) -> Iterator[Replaced]:
        """The policies that may change values, with the number of values."""
        zeros = dict(zip(self.nulled, self.zeros or (), strict=False))
        for n, (name, text) in enumerate(zip(self._table.names, self.texts, strict=True)):
            if self._policies[n]:
                changed = "texts with bytes that are no characters"
                yield Replaced(name, self._policies[n], self._read[n], changed)
            if text is not None:
                values = self._stored[n] + zeros.get(n, 0)
                yield Replaced(name, text.policy, values, text.changed)

    def on_source(self, keys: Sequence[Key]) -> list[Key]:
        """The keys that the source may have for these keys of the target."""
        if not any(self._key_texts):
            return list(keys)
        found: list[Key] = []
        for key in keys:
            found += {key, self._restored(key)}
        return found

    def range_on_source(self, range: KeyRange) -> KeyRange:
        """The range of the source with the same rows as this one of the target."""
        return KeyRange(*(None if key is None else self._restored(key) for key in range))

    def _restored(self, key: Key) -> Key:
        """The key of the source that is stored as this one."""
        if key in self.changed:
            return self.changed[key]
        return tuple(
            part if text is None or part is None else text.restore(part)
            for text, part in zip(self._key_texts, key, strict=True)
        )


def _unless_equal(store: Convert) -> Convert:
    """A function that returns a text that is stored as it is itself: that of a key may know its
    place on the source."""

    def kept(text: str) -> str | None:
        stored = store(text)
        return text if stored == text else stored

    return kept


@contextmanager
def closed_after(chunks: Iterator[list[TextRow]]) -> Iterator[Iterator[list[TextRow]]]:
    """End the read of a table with the body, also if that raises an error: an open read is a
    transaction, beside which its connection cannot begin another."""
    try:
        yield chunks
    finally:
        if isinstance(chunks, Generator):
            chunks.close()


def key_of(table: Table, row: TextRow) -> Key:
    """The key of a row."""
    return tuple(row[ordinal] for ordinal in table.key)


def by_key(table: Table, rows: list[TextRow]) -> RowsByKey:
    """Rows by their keys.

    A target that has lost its key may have several rows of one. They are joined to one row, which
    is longer than every row of the table, so it equals none.
    """
    found = {key_of(table, row): row for row in rows}
    if len(found) < len(rows):
        found = dict.fromkeys(found, ())
        for row in sorted(rows, key=repr):
            found[key_of(table, row)] += row
    return found


def row_digest(row: TextRow) -> bytes:
    """A digest of a row; equal rows have equal ones."""
    return blake2b(repr(row).encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def _json(text: str) -> str:
    """The form that equal documents share. A document with a number or a depth that Python cannot
    read is compared as its text."""
    try:
        return canonical_json(text)
    except (ArithmeticError, RecursionError, ValueError):
        return text


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
            values[ordinal] = None if text is None else _json(text)
        return tuple(values)

    return comparable

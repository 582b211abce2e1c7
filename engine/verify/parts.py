"""
Compare a table by checksums of parts, where both sides may sort its key differently or it has none.

The part of a row follows from the hash of its key, or of the whole row in a keyless table
(``SumsRows.sum_parts``). Each database computes the checksums of all parts in one statement. A row
keeps its part as long as it keeps its key, so a part that differs has the wrong row whenever it is
read later.

In a keyless table a change moves a row from one part to another. Parts that are read later are
equal, or the whole table is read. A part of a keyless table may get a row that equals others. If
the target lacks such a row, its sum is equal to that of the source a moment before. So the source's
parts are summed before the target's and after them, and a part is equal only if all three sums are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import reduce
from typing import Final, NamedTuple

from engine.contract import RowReader
from engine.schema import Table
from engine.toolkit.checksums import Checksum
from engine.verify.reader import AsyncReader, closed_after, key_of, row_digest
from engine.verify.report import Key

__all__ = ["MOST_ROWS", "Parts", "candidates", "differing_parts"]

#: Rows of a table that is summed in one statement, which has a deadline.
MOST_ROWS: Final = 50_000_000
#: Rows of parts that differ which are read, and whose keys and digests are held in memory.
_MOST_READ: Final = 100_000
#: How often a keyless table is summed again if many of its parts change.
_MORE_SUMS: Final = 2

#: The checksums of parts, by their names.
Sums = dict[str, Checksum]


class Parts(NamedTuple):
    """The parts of a table that differ, the checksums of all its parts on both sides, and the
    number of rows to read on the side that has more of them."""

    names: tuple[str, ...]
    source: Checksum
    target: Checksum
    to_read: int

    @property
    def are_many(self) -> bool:
        """Whether it is better to read the whole table."""
        return self.to_read > _MOST_READ or 2 * self.to_read > max(self.source.rows, 1_000)


async def differing_parts(table: Table, source: AsyncReader, target: AsyncReader) -> Parts:
    """Compare the checksums of all parts."""
    if table.key:
        sums = await asyncio.gather(source.sum_parts(table), target.sum_parts(table))
        return _compared(*sums)
    before = await source.sum_parts(table)
    in_target = await target.sum_parts(table)
    parts = _compared(before, in_target, await source.sum_parts(table))
    for _ in range(_MORE_SUMS):
        if not parts.are_many:
            break
        # Many parts have changed meanwhile. Each has to be equal once.
        before = await source.sum_parts(table)
        in_target = await target.sum_parts(table)
        after = await source.sum_parts(table)
        parts = _compared(before, in_target, after, among=parts.names)
    return parts


def _compared(
    source: Sums, target: Sums, again: Sums | None = None, among: Collection[str] | None = None
) -> Parts:
    """The result of the checksums of both sides. ``again``: those of the source afterwards;
    ``among``: the parts that may differ."""
    last, nothing = source if again is None else again, Checksum()
    triples = {
        part: tuple(sums.get(part, nothing) for sums in (source, target, last))
        for part in source.keys() | target.keys() | last.keys()
    }
    names = sorted(
        part
        for part, sums in triples.items()
        if len(set(sums)) > 1 and (among is None or part in among)
    )
    to_read = sum(max(one.rows for one in triples[part]) for part in names)
    one, other = (reduce(Checksum.plus, it.values(), nothing) for it in (last, target))
    return Parts(tuple(names), one, other, to_read)


async def candidates(
    table: Table, source: AsyncReader, target: AsyncReader, parts: Parts, *, counts: bool = False
) -> tuple[set[Key], int]:
    """The keys whose rows in these parts differ, and the number of rows read from the source.
    ``counts``: the source counts the values that policies change in them."""
    in_source, in_target = await asyncio.gather(
        _read(table, source, parts, counts=counts), _read(table, target, parts)
    )
    keys = in_source.keys() | in_target.keys()
    return {key for key in keys if in_source.get(key) != in_target.get(key)}, len(in_source)


async def _read(
    table: Table, reader: AsyncReader, parts: Parts, *, counts: bool = False
) -> dict[Key, Checksum]:
    """The digests of the rows of these parts, by their keys; of several rows of one key their sum.
    The rows themselves may be too large to be held."""
    comparable = reader.comparable_rows(table, counts=counts)
    rows_of = reader.rows_of(table, parts.names)

    def read(blocking: RowReader) -> dict[Key, Checksum]:
        found: dict[Key, Checksum] = {}
        with closed_after(rows_of(blocking)) as chunks:
            for row in (row for rows in chunks for row in comparable(rows)):
                key, digest = key_of(table, row), row_digest(row).hex()
                one = Checksum.of_text(1, digest)
                found[key] = found[key].plus(one) if key in found else one
        return found

    return await reader.run(read)

"""
Compare a table by checksums of ranges of its key, which each database computes itself.

Both databases compute the checksum of a range at the same time. If the checksums are equal, all
rows of the range are (``engine.toolkit.checksums``). Otherwise the range is cut into pieces, and
these again, until a piece has few enough rows to be read. The rows of a piece are compared one by
one, and those that differ are candidates for a recheck.

A range also differs while a change is on its way to the target. Its pieces are summed later than
the range, so they may be equal. This hides no fault: the pieces have all keys of the range, and a
checksum covers every column of every row. A piece with a wrong row differs whenever it is summed,
unless the row has become right.

Ranges are cut at keys of one side. Each begins where the one before it ends, the first one has no
beginning and the last one no end. So every key that a side can have is in a range, however that
side sorts, and a row that the other side has in another range is a candidate only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from engine.proof import Unfinished
from engine.schema import Table
from engine.toolkit.checksums import Checksum, KeyRange
from engine.toolkit.row_limit import RowLimit, is_large, size_of
from engine.verify.reader import AsyncReader, SourceReader, by_key, comparable_rows
from engine.verify.report import Key

__all__ = ["RangeComparison"]

#: A range that differs is cut into this many pieces.
PIECES: Final = 8
#: The rows of a range, in chunks. More of them cost each row more, because their joined text is
#: longer than the processors' caches.
MOST_CHUNKS: Final = 4
#: How long the checksums of a range should take. Ranges grow and shrink accordingly.
SHORT_SECONDS: Final = 0.5
LONG_SECONDS: Final = 2.0
#: If more than this share of the rows had to be read, ranges that differ are not cut further.
MANY_READ: Final = 0.5


class RangeComparison:
    """The comparison of one table, whose key both sides sort alike.

    ``chunk_rows``: a range of this many rows or fewer is read. ``compared`` is called with the
    number of rows on the source of each range that has been compared. ``check`` decides about
    candidates, and gets a function that reads their ranges again and returns the keys there.
    """

    def __init__(
        self,
        table: Table,
        source: SourceReader,
        target: AsyncReader,
        chunk_rows: int,
        *,
        compared: Callable[[int], None],
        check: Callable[[set[Key], Callable[[set[Key]], Awaitable[set[Key]]]], Awaitable[None]],
    ) -> None:
        self._table = table
        self._source = source
        self._target = target
        self._chunk_rows = chunk_rows
        self._limit = RowLimit(chunk_rows)
        self._compared = compared
        self._check = check
        self._comparable = comparable_rows(table)
        self._after: Key | None = None
        #: The range of each candidate.
        self._candidates: dict[Key, KeyRange] = {}
        #: The characters of their rows, which a recheck may hold all at once.
        self._size = 0
        #: The sums of the checksums of all ranges so far, or of their pieces.
        self.in_source = Checksum()
        self.in_target = Checksum()
        #: The number of rows of the source: in all ranges so far, and those read one by one.
        self._rows = 0
        self.read = 0

    def resume(self, before: Unfinished) -> None:
        """Begin where another comparison of the table has got to."""
        self._after = before.after
        self._rows, self.read = before.rows, before.read
        self.in_source, self.in_target = Checksum(*before.source), Checksum(*before.target)

    async def run(self) -> AsyncIterator[Key]:
        """Compare the table, range by range. Yields the end of each range but the last; its rows
        are compared, up to ``flush``."""
        fitting = [await side.most_rows(self._table) for side in (self._source, self._target)]
        most = min(MOST_CHUNKS * self._chunk_rows, *fitting)
        rows = most
        after, upto = self._after, await self._end(KeyRange(self._after), rows)
        while True:
            range = KeyRange(after, upto)
            source, target, following, _ = await asyncio.gather(
                self._source.sum_range(self._table, range),
                self._target.sum_range(self._table, range),
                self._following(upto, rows),
                self._source.count_zeros(self._table, range),
            )
            seconds = max(self._source.range_seconds, self._target.range_seconds)
            if seconds < SHORT_SECONDS:
                rows = min(2 * rows, most)
            elif seconds > LONG_SECONDS:
                rows = max(rows // 2, min(self._chunk_rows, most))
            self._rows += source.rows
            if source != target:
                source, target = await self._cut(range, source, target)
            self.in_source = self.in_source.plus(source)
            self.in_target = self.in_target.plus(target)
            self._compared(source.rows)
            if upto is None:
                break
            yield upto
            after, upto = upto, following
        await self.flush()

    async def _following(self, after: Key | None, rows: int) -> Key | None:
        """The end of the range after ``after``, found while the source still sums the last one."""
        return None if after is None else await self._end(KeyRange(after), rows)

    async def _end(self, rest: KeyRange, rows: int) -> Key | None:
        """The end of the next range. Behind the target's last rows it is one of the source's keys,
        because the source may have many rows more."""
        end = await self._target.boundary(self._table, rest, rows)
        return end or await self._source.boundary(self._table, rest, rows)

    async def _cut(
        self, range: KeyRange, source: Checksum, target: Checksum
    ) -> tuple[Checksum, Checksum]:
        """Find the rows of a range that differ. Returns the checksums of the range, or the sums of
        those of its pieces."""
        rows = max(source.rows, target.rows)
        larger = self._source if source.rows == rows else self._target
        if rows <= self._chunk_rows or self.read > MANY_READ * max(self._rows, 1):
            await self._read(range, larger)
            return source, target
        count = 0
        sums = Checksum(), Checksum()
        found: list[tuple[KeyRange, Checksum, Checksum]] = []
        async for piece in self._pieces(range, larger, lambda: -(-rows // PIECES)):
            count += 1
            source, target = await asyncio.gather(
                self._source.sum_range(self._table, piece),
                self._target.sum_range(self._table, piece),
            )
            if source == target:
                sums = sums[0].plus(source), sums[1].plus(target)
            else:
                found.append((piece, source, target))
        for piece, source, target in found:
            if len(found) == count:
                await self._read(piece, larger)
            else:
                source, target = await self._cut(piece, source, target)
            sums = sums[0].plus(source), sums[1].plus(target)
        return sums

    async def _read(self, range: KeyRange, larger: AsyncReader) -> None:
        """Compare the rows of a range one by one; ``larger`` is the side with more of them."""
        async for piece in self._pieces(range, larger, lambda: self._limit.rows):
            rest: KeyRange | None = piece
            while rest is not None:
                rest = await self._read_piece(rest)
                if len(self._candidates) >= self._chunk_rows or is_large(self._size):
                    await self.flush()

    async def _read_piece(self, piece: KeyRange) -> KeyRange | None:
        """Compare the rows of a piece. If they are too large to be read at once, the piece is cut
        behind the source's first ones; returns the rest, or None."""
        read, (target, more) = await asyncio.gather(
            self._source.range_rows(self._table, piece, counts=True),
            self._target.range_rows(self._table, piece),
        )
        source, upto = read
        self._limit.add(source or target)
        self.read += len(source)
        in_source = by_key(self._table, source)
        rest = None if upto is None else KeyRange(upto, piece.upto)
        if upto is not None:
            piece = KeyRange(piece.after, upto)
            target, more = await self._target.range_rows(self._table, piece)
        while True:
            for key, other in by_key(self._table, target).items():
                one = in_source.pop(key, None)
                if one is None or (
                    one != other and self._comparable(one) != self._comparable(other)
                ):
                    self._candidates[key] = piece
                    self._size += size_of(one or ()) + size_of(other)
            if more is None:
                break
            target, more = await self._target.range_rows(self._table, KeyRange(more, piece.upto))
        self._candidates |= dict.fromkeys(in_source, piece)
        self._size += sum(map(size_of, in_source.values()))
        return rest

    async def _pieces(
        self, range: KeyRange, reader: AsyncReader, rows: Callable[[], int]
    ) -> AsyncIterator[KeyRange]:
        """Ranges of so many rows on one side, which make up ``range``."""
        after = range.after
        while True:
            upto = await reader.boundary(self._table, KeyRange(after, range.upto), rows())
            if upto is None or upto == range.upto:
                yield KeyRange(after, range.upto)
                return
            yield KeyRange(after, upto)
            after = upto

    async def flush(self) -> None:
        """Decide about the candidates so far."""
        candidates, self._candidates, self._size = self._candidates, {}, 0

        async def read_again(keys: set[Key]) -> set[Key]:
            found: set[Key] = set()
            for piece in {candidates[key] for key in keys}:
                for reader in (self._source, self._target):
                    found.update(await reader.range_keys(self._table, piece))
            return found

        await self._check(set(candidates), read_again)

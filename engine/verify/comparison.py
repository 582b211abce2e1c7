"""
Are both sides equal? Compared row by row and column by column, while changes flow.

Nothing here knows a codec of the pipeline: both databases are read through their ordinary clients,
in canonical text (``engine.toolkit.canonical``). Forward, the source's rows are read in chunks and
looked up by key in the target; backward, the target's keys are looked up in the source.

The two sides are never seen at the same moment, so a difference is only suspected at first. A
suspect is settled by looks. One look reads its row on the source, then, once the pipeline has
passed the end that the log had after that read, on the target, then on the source again. A target
that shows any of the source's values is right: what the source held before had to be there, and
only what changed in between can be newer. A row that stood still on both sides, look after look,
and is another one on each, differs. A row that is neither is too busy: it is looked at again until
the deadline, and then it is left open, for nobody can say which of its values the target skipped.

Tables without a key are compared as bags, by the same looks at the whole table: of each row the
target must hold as many as the source had before or after, or some number between. So rows that
stay are compared exactly while others change, and no moment common to both sides is needed. What
every look finds differs; what only some find is left open. The rows are counted by hash, in as many
passes over the table as keep the counters small.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import count
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec

from engine.contract import RowReader
from engine.errors import TailraceError
from engine.schema import Table
from engine.toolkit.canonical import canonical_json

__all__ = ["Difference", "TableReport", "VerifyReport", "verify"]

Key = tuple[str | None, ...]
TextRow = tuple[str | None, ...]
RowsByKey = dict[Key, TextRow]
Multiset = Counter[bytes]
Passed = Callable[[str, float], Awaitable[bool]]
Answer = TypeVar("Answer")

#: Looks that must agree before a suspect counts as a difference: where the suspects are few, more,
#: for a row that goes to and fro may look the same each time.
LOOKS: Final = 3
LOOKS_OF_FEW: Final = 12
#: A busy row is looked at together with few others, and read often on the source meanwhile: so many
#: rows, that many seconds apart, and of so many readings each is remembered.
BUSY_ROWS: Final = 32
BUSY_SECONDS: Final = 0.005
BUSY_READINGS: Final = 200
#: Differing rows that are named per table; beyond that they are only counted.
NAMED_ROWS: Final = 10_000
#: RowsByKey counted by hash in one pass over a table without a key.
MULTISET_ROWS: Final = 1_000_000
_DIGEST_BYTES: Final = 16


class Difference(msgspec.Struct, frozen=True):
    """One row that differs: its key's text, and the columns in which the sides differ (none where
    only one has the row)."""

    kind: Literal["changed", "missing", "extra"]
    key: Key
    columns: tuple[str, ...] = ()


class TableReport(msgspec.Struct, frozen=True):
    """The comparison of one table.

    ``rows`` were read on the source; ``differing`` rows have other values on the target,
    ``missing`` ones are not there, ``extra`` ones are only there: exact counts. ``differences``
    names the first 10,000 of them, none in a table without a key. ``inconclusive`` says why the
    table could not be compared to its end, which is no success: one reason are ``unsettled`` rows,
    which changed too fast until the deadline and are no differences.
    """

    table: str
    rows: int
    differing: int
    missing: int
    extra: int
    seconds: float
    equal: bool
    inconclusive: str = ""
    differences: tuple[Difference, ...] = ()
    unsettled: int = 0


class VerifyReport(msgspec.Struct, frozen=True):
    """The comparison of all tables."""

    equal: bool
    seconds: float
    tables: tuple[TableReport, ...]


async def verify(
    tables: Iterable[Table],
    source: RowReader,
    target: RowReader,
    *,
    source_position: Callable[[], str],
    passed: Passed,
    chunk_rows: int = 5000,
    deadline_seconds: float = 60.0,
    progress: Callable[[str, int], None] = lambda table, rows: None,
) -> VerifyReport:
    """Compare ``tables``, one after the other. In each, rows that change faster than they can be
    read are tried for ``deadline_seconds`` after all others have been compared.

    ``source_position`` tells the end of the source's log now (it may block), ``passed`` waits until
    the target holds all of the log up to a position: false at the deadline, a time of
    ``time.monotonic``, which comes ``deadline_seconds`` later. ``progress`` hears a table's name
    and how many of its rows have been read. Readers are used from threads, each by one at a time.

    Raises retryable errors of the readers; others make a table inconclusive.
    """
    started = time.monotonic()
    pipeline = _Pipeline(source_position, passed, deadline_seconds)
    reports: list[TableReport] = []
    for table in tables:
        comparison = _KeyedComparison if table.key else _KeylessComparison
        compared = comparison(table, _Side(source), _Side(target), pipeline, chunk_rows, progress)
        reports.append(await compared.report())
    seconds = time.monotonic() - started
    return VerifyReport(all(report.equal for report in reports), seconds, tuple(reports))


class _Side:
    """A blocking reader, one call at a time, off the event loop."""

    def __init__(self, reader: RowReader) -> None:
        self.reader = reader
        self._turn = asyncio.Lock()

    async def run(self, call: Callable[[], Answer]) -> Answer:
        async with self._turn:
            return await asyncio.to_thread(call)


class _Pipeline:
    """Waits for the pipeline that lies between the two sides."""

    def __init__(
        self, source_position: Callable[[], str], passed: Passed, deadline_seconds: float
    ) -> None:
        self._source_position = source_position
        self._passed = passed
        self.deadline_seconds = deadline_seconds
        #: Why nothing can be settled any more; empty as long as the pipeline keeps up.
        self.stuck = ""

    async def drained(self) -> None:
        """Wait until the target holds what the source's log holds now. It is waited for a pipeline
        that stands still only once."""
        position = await asyncio.to_thread(self._source_position)
        seconds = 0.0 if self.stuck else self.deadline_seconds
        if await self._passed(position, time.monotonic() + seconds) or self.stuck:
            return
        self.stuck = f"the pipeline did not get to the log's end within {seconds:.0f} seconds"


class _Comparison(ABC):
    """The comparison of one table; a subclass says how."""

    def __init__(
        self,
        table: Table,
        source: _Side,
        target: _Side,
        pipeline: _Pipeline,
        chunk_rows: int,
        progress: Callable[[str, int], None],
    ) -> None:
        self.table = table
        self.source = source
        self.target = target
        self.pipeline = pipeline
        self.chunk_rows = chunk_rows
        self.counts: Counter[str] = Counter()
        self.named: list[Difference] = []
        self.unsettled = 0
        self.rows = 0
        self._progress = progress
        self._json = [n for n, column in enumerate(table.columns) if column.type.kind == "json"]

    async def report(self) -> TableReport:
        """Compare, and say what came out."""
        started, inconclusive = time.monotonic(), ""
        try:
            await self.compare()
        except TailraceError as error:
            if error.retryable:
                raise
            inconclusive = error.message
        if self.counts or self.unsettled:
            inconclusive = inconclusive or self.pipeline.stuck
        if self.unsettled:
            inconclusive = (
                inconclusive or f"rows that change too fast to compare: {self.unsettled:,}"
            )
        return TableReport(
            str(self.table.id),
            self.rows,
            self.counts["changed"],
            self.counts["missing"],
            self.counts["extra"],
            time.monotonic() - started,
            not self.counts.total() and not inconclusive,
            inconclusive,
            tuple(self.named),
            self.unsettled,
        )

    @abstractmethod
    async def compare(self) -> None:
        """Fill ``counts``, ``named`` and ``unsettled``."""

    def read(self, rows: int) -> None:
        """So many more rows of the source have been read."""
        self.rows += rows
        self._progress(str(self.table.id), self.rows)

    def settled(self, row: TextRow) -> TextRow:
        """The row with its JSON texts in the one form that equal values share."""
        if not self._json:
            return row
        values = list(row)
        for ordinal in self._json:
            text = values[ordinal]
            values[ordinal] = None if text is None else canonical_json(text)
        return tuple(values)


class _KeyedComparison(_Comparison):
    _busy: set[Key]

    async def compare(self) -> None:
        self._busy = set()
        await self._forward()
        await self._backward()
        await self._settle_busy()
        self.unsettled = len(self._busy)

    async def _forward(self) -> None:
        """Every row of the source is on the target, and the same."""
        suspects: set[Key] = set()
        ahead = self._ahead(self.source, None, keys_only=False)
        while rows := await ahead:
            ahead = self._ahead(self.source, self._key(rows[-1]), keys_only=False)
            mine = {self._key(row): row for row in rows}
            theirs = await self._rows(self.target, list(mine))
            suspects |= {key for key, row in mine.items() if theirs.get(key) != row}
            self.read(len(rows))
            if len(suspects) >= self.chunk_rows:
                await self._settle(suspects)
                suspects = set()
        await self._settle(suspects)

    async def _backward(self) -> None:
        """Every key of the target is on the source."""
        suspects: set[Key] = set()
        ahead = self._ahead(self.target, None, keys_only=True)
        while keys := await ahead:
            ahead = self._ahead(self.target, keys[-1], keys_only=True)
            there = await self._keys(self.source, keys)
            suspects |= set(keys).difference(there)
            if len(suspects) >= self.chunk_rows:
                await self._settle(suspects)
                suspects = set()
        await self._settle(suspects)

    def _ahead(
        self, side: _Side, after: Key | None, *, keys_only: bool
    ) -> asyncio.Task[list[TextRow]]:
        """Start to read the next chunk of a side."""

        def read() -> list[TextRow]:
            return side.reader.chunk(self.table, after, self.chunk_rows, keys_only=keys_only)

        return asyncio.create_task(side.run(read))

    def _key(self, row: TextRow) -> Key:
        return tuple(row[ordinal] for ordinal in self.table.key)

    async def _rows(self, side: _Side, keys: Sequence[Key]) -> RowsByKey:
        found = await side.run(lambda: side.reader.by_keys(self.table, keys))
        wanted = set(keys)
        return {key: row for row in found if (key := self._key(row)) in wanted}

    async def _keys(self, side: _Side, keys: Sequence[Key]) -> list[Key]:
        return await side.run(lambda: side.reader.by_keys(self.table, keys, keys_only=True))

    async def _settle(self, suspects: set[Key]) -> None:
        """Of these keys, count and name those whose rows really differ, and note the busy ones."""
        pending = sorted(suspects, key=str)
        for start in range(0, len(pending), self.chunk_rows):
            await self._settle_some(pending[start : start + self.chunk_rows])

    async def _settle_busy(self) -> None:
        """Look at the busy rows again, a few at a time, until the deadline."""
        deadline = time.monotonic() + self.pipeline.deadline_seconds
        queue = deque(sorted(self._busy, key=str))
        while queue and time.monotonic() < deadline and not self.pipeline.stuck:
            keys = [queue.popleft() for _ in range(min(BUSY_ROWS, len(queue)))]
            self._busy.difference_update(keys)
            await self._settle_some(keys)
            queue += [key for key in keys if key in self._busy]

    async def _settle_some(self, keys: list[Key]) -> None:
        """Look at these rows a few times: those that are never equal differ, or are busy."""
        last: _Look | None = None
        busy: set[Key] = set()
        for number in range(LOOKS_OF_FEW):
            look = await self._look(keys, last.after if last else None)
            keys = [key for key in keys if not self._fits(look, key)]
            busy.update(key for key in keys if look.moved(key, last))
            last = look
            if not keys or self.pipeline.stuck:
                break
            if number + 1 >= LOOKS and (len(keys) > BUSY_ROWS or busy.issuperset(keys)):
                break
            await asyncio.sleep(random.uniform(0.0, BUSY_SECONDS))
        for key in keys:
            if key in busy:
                self._busy.add(key)
            elif last is not None:
                self._name(key, last.after.get(key), last.theirs.get(key))

    async def _look(self, keys: list[Key], before: RowsByKey | None) -> _Look:
        """Read these rows on the source, then on the target, which has caught up, then again on the
        source; where they are few, also on the source in between."""
        first = await self._rows(self.source, keys) if before is None else before
        readings = deque([first], BUSY_READINGS)
        drained = asyncio.create_task(self.pipeline.drained())
        try:
            while not drained.done() and len(keys) <= BUSY_ROWS:
                readings.append(await self._rows(self.source, keys))
                await asyncio.wait({drained}, timeout=BUSY_SECONDS)
            await drained
        finally:
            drained.cancel()
        theirs = await self._rows(self.target, keys)
        readings.append(await self._rows(self.source, keys))
        return _Look((first, *readings), theirs)

    def _fits(self, look: _Look, key: Key) -> bool:
        """Whether the target shows something that the source has shown in this look."""
        theirs = look.theirs.get(key)
        return any(self._same(theirs, mine.get(key)) for mine in look.readings)

    def _same(self, first: TextRow | None, second: TextRow | None) -> bool:
        if first == second or first is None or second is None:
            return first == second
        return self.settled(first) == self.settled(second)

    def _name(self, key: Key, mine: TextRow | None, theirs: TextRow | None) -> None:
        if mine is not None and theirs is not None:
            pairs = zip(self.table.names, self.settled(mine), self.settled(theirs), strict=True)
            columns = tuple(name for name, one, other in pairs if one != other)
            difference = Difference("changed", key, columns)
        else:
            difference = Difference("extra" if mine is None else "missing", key)
        self.counts[difference.kind] += 1
        if len(self.named) < NAMED_ROWS:
            self.named.append(difference)


class _Look(NamedTuple):
    """What a look has shown: the source's rows in the order of their reading, and the target's."""

    readings: tuple[RowsByKey, ...]
    theirs: RowsByKey

    @property
    def after(self) -> RowsByKey:
        """The source's rows at the look's end."""
        return self.readings[-1]

    def moved(self, key: Key, last: _Look | None) -> bool:
        """Whether this row changed within the look, or on the target since the last one."""
        first = self.readings[0].get(key)
        return any(mine.get(key) != first for mine in self.readings) or (
            last is not None and last.theirs.get(key) != self.theirs.get(key)
        )


class _KeylessComparison(_Comparison):
    async def compare(self) -> None:
        mine, parts, rows = await self._look(self.source, 0, 1, grow=True)
        self.read(rows)
        await self._compare_part(0, parts, mine)
        for part in range(1, parts):
            mine, _, _ = await self._look(self.source, part, parts)
            await self._compare_part(part, parts, mine)

    async def _compare_part(self, part: int, parts: int, before: Multiset) -> None:
        """Compare the rows whose hash falls to ``part``, of which the source had ``before``."""
        deadline = time.monotonic() + self.pipeline.deadline_seconds
        missing, extra = Multiset(), Multiset()
        missed, surplus = Multiset(), Multiset()  # what was missing, or extra, in every look
        for number in count(1):
            await self.pipeline.drained()
            theirs, _, _ = await self._look(self.target, part, parts)
            if theirs == before:
                return
            after, _, _ = await self._look(self.source, part, parts)
            missing, extra = (before & after) - theirs, theirs - (before | after)
            if not missing and not extra:
                return
            first = number == 1
            missed, surplus = (missing, extra) if first else (missed & missing, surplus & extra)
            over = (missed, surplus) == (missing, extra) or time.monotonic() > deadline
            if self.pipeline.stuck or (over and number >= LOOKS):
                break
            before = after
        self.counts["missing"] += missed.total()
        self.counts["extra"] += surplus.total()
        self.unsettled += missing.total() + extra.total() - missed.total() - surplus.total()

    async def _look(
        self, side: _Side, part: int, parts: int, *, grow: bool = False
    ) -> tuple[Multiset, int, int]:
        return await side.run(lambda: self._count(side.reader, part, parts, grow))

    def _count(
        self, reader: RowReader, part: int, parts: int, grow: bool
    ) -> tuple[Multiset, int, int]:
        """How often each row of a part is there, by its hash; of how many parts; all rows.

        ``grow``: there are as many parts as keep the bag of the first one small.
        """
        bag: Multiset = Counter()
        rows = 0
        for chunk in reader.scan(self.table):
            rows += len(chunk)
            digests = (_digest(self.settled(row)) for row in chunk)
            bag.update(digest for digest in digests if _part(digest, parts) == part)
            while grow and len(bag) > MULTISET_ROWS:
                parts *= 2
                bag = Counter({one: n for one, n in bag.items() if _part(one, parts) == part})
        return bag, parts, rows


def _digest(row: TextRow) -> bytes:
    return blake2b(repr(row).encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def _part(digest: bytes, parts: int) -> int:
    return int.from_bytes(digest[:4]) % parts

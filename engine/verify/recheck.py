"""
Decide whether a candidate is a difference.

Source and target are read at different times, so a row that differs between them is only a
*candidate*: the pipeline may not have applied its last change yet. A *recheck* of a candidate

1. reads its row on the source,
2. takes the position of the end of the source's log, and waits until the target holds the log up to
   that position,
3. reads its row on the target,
4. reads its row on the source again, which is also the first reading of the next recheck.

A position includes every transaction that was visible before it was taken (``Source.position``).
So the target holds everything that the first reading showed, and nothing newer than the last
reading shows: if the pipeline is right, the target shows a value that the source held between the
two readings. There are three outcomes:

- The target shows the value of one of the readings. The candidate is dismissed. A wrong row that
  stands still is never dismissed, because none of its readings shows the target's value. A change
  that the pipeline loses during the recheck itself is found by the next comparison.
- All readings are the same and the target shows another value. The row differs, with one exception:
  the source's row may have changed and changed back between two readings, and the target shows the
  value in between. Therefore candidates that fail three rechecks are rechecked again, ``FEW_ROWS``
  at a time: the readings have to be the same, and the target has to show the same other value, in
  twelve rechecks in a row, and the source is also read every few milliseconds during each wait. A
  difference is so proven by at least 25 readings of the source and 12 of the target. A row that
  changes to and fro faster than it is read passes for one with a probability below 10^-9. The
  pauses between the readings have random lengths, which keeps them out of step with a periodic
  writer. Once a row has been found different in this way, the table is different whatever the
  others are. Many candidates are then rechecked twelve times together, without readings during the
  wait, which makes the probability for each row that changes to and fro 10^-7 at most.
- The readings are not the same and the target shows none of them, or the target's row has changed
  since the previous recheck. The target may show a value that no reading has caught, so nothing is
  proven. The row is *hot*. Hot rows are rechecked ``FEW_ROWS`` at a time until the deadline. A row
  that is still hot then is reported as such: it is neither equal nor a difference.

``engine.verify.multisets`` rechecks the rows of keyless tables.

If the target does not reach the end of the log before the deadline, the candidates of that recheck
may be on their way, so they are hot, and the report of the table says that it is inconclusive. The
later rechecks of the table do not wait again, but they look whether the target has reached the end.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from typing import Final, NamedTuple

from msgspec import UNSET, UnsetType

from engine.schema import Table
from engine.toolkit.row_limit import RowLimit
from engine.verify.reader import (
    AsyncReader,
    RowsByKey,
    TextRow,
    comparable_rows,
    row_digest,
)
from engine.verify.report import ColumnValues, Difference, Key

__all__ = [
    "Passed",
    "Held",
    "PipelineWaiter",
    "Rechecker",
]

#: Waits until the target holds the log up to a position; false at the deadline (monotonic clock).
Passed = Callable[[str, float], Awaitable[bool]]
#: The position up to which the target holds the log; None if that is unknown.
Held = Callable[[], Awaitable[str | None]]

#: Rechecks in a row that each of many candidates must fail before they are rechecked a few at a
#: time. Candidates of which none stands still are given up for now after so many.
FIRST_RECHECKS: Final = 3
#: Rechecks in a row that a candidate must fail before it is a difference.
RECHECKS: Final = 12
#: Candidates for which the source is also read during the wait.
FEW_ROWS: Final = 32
#: The mean time between two readings of few rows on the source.
READING_INTERVAL_SECONDS: Final = 0.005
#: Hot rows of a table that are rechecked again; the others are only counted.
MOST_HOT: Final = 100_000
#: The newest readings of a recheck whose digests are kept, besides its first.
KEPT_READINGS: Final = 200

#: The digests of rows, by their keys.
Digests = dict[Key, bytes]


class PipelineWaiter:
    """Waits for the pipeline between source and target.

    ``stalled`` is the reason why nothing can be decided now; it is empty as long as the pipeline
    keeps up. ``clock`` stands still while no row may be read (``Pace.clock``): the deadlines of
    rechecks are times of it.
    """

    def __init__(
        self,
        source_position: Callable[[], str],
        passed: Passed,
        deadline_seconds: float,
        held: Held | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._source_position = source_position
        self._held = held
        self._passed = passed
        self.deadline_seconds = deadline_seconds
        self.stalled = ""

    async def end_of_log(self) -> str:
        """The position of the end of the source's log now."""
        return await asyncio.to_thread(self._source_position)

    async def beginning(self) -> str:
        """A position that the target holds now, so that the pipeline applies nothing from before
        it to rows that are read from now on; the end of the log if that is unknown.
        """
        held = None if self._held is None else await self._held()
        return held or await self.end_of_log()

    async def wait(self) -> None:
        """Wait until the target holds the source's log up to its end as of this call.

        A timeout sets ``stalled``. Later calls then do not wait, until one finds the end reached.
        """
        position = await self.end_of_log()
        seconds = 0.0 if self.stalled else self.deadline_seconds
        if await self._passed(position, time.monotonic() + seconds):
            self.stalled = ""
        elif not self.stalled:
            self.stalled = (
                f"the pipeline did not reach the end of the log within {seconds:.0f} seconds"
            )


class Recheck(NamedTuple):
    """The readings of one recheck: those of the source in order, the last one of them as a whole,
    and that of the target."""

    source: tuple[Digests, ...]
    last: RowsByKey
    target: RowsByKey
    in_target: Digests

    def is_hot(self, key: Key, previous: Recheck | None) -> bool:
        """Whether the row changed on the source during the recheck, or on the target since the
        previous one."""
        first = self.source[0].get(key)
        return any(rows.get(key) != first for rows in self.source) or (
            previous is not None and previous.in_target.get(key) != self.in_target.get(key)
        )

    def is_right(self, key: Key) -> bool:
        """Whether the target shows a value that the source has shown."""
        target = self.in_target.get(key)
        return any(rows.get(key) == target for rows in self.source)


class Rechecker:
    """Rechecks the candidates of one table with a key. ``with_values``: differences have the values
    of both sides.

    ``hot`` holds the keys of the rows that no recheck could decide about so far, up to
    ``MOST_HOT``; ``left_open`` is the number of all.
    """

    def __init__(
        self,
        table: Table,
        source: AsyncReader,
        target: AsyncReader,
        pipeline: PipelineWaiter,
        batch_rows: int,
        *,
        with_values: bool = False,
    ) -> None:
        self.hot: set[Key] = set()
        self._more_hot = 0
        #: Candidates that were dismissed because neither side finds a row by their key.
        self.unfound: set[Key] = set()
        self._with_values = with_values
        #: Whether a row of the table differs.
        self._is_different = False
        self._table = table
        self._source = source
        self._target = target
        self._pipeline = pipeline
        self._limit = RowLimit(batch_rows)
        self._comparable = comparable_rows(table)

    async def differences(self, candidates: set[Key]) -> AsyncIterator[Difference]:
        """Yield the candidates that differ, and add those that are hot to ``hot``."""
        ordered = sorted(candidates, key=str)
        while ordered:
            keys, ordered = ordered[: self._limit.rows], ordered[self._limit.rows :]
            if len(keys) > FEW_ROWS and not self._is_different:
                keys = [it.key for it in await self._decide(keys, FIRST_RECHECKS)]
            while keys:
                count = len(keys) if self._is_different else FEW_ROWS
                group, keys = keys[:count], keys[count:]
                for difference in await self._decide(group):
                    self._is_different = True
                    yield difference

    async def hot_differences(self) -> AsyncIterator[Difference]:
        """Recheck the hot rows, a few at a time, until the deadline; yield those that differ.

        Rows that stand still leave ``hot``.
        """
        clock = self._pipeline.clock
        deadline = clock() + self._pipeline.deadline_seconds
        queue = deque(sorted(self.hot, key=str))
        while queue and clock() < deadline and not self._pipeline.stalled:
            keys = [queue.popleft() for _ in range(min(FEW_ROWS, len(queue)))]
            self.hot.difference_update(keys)
            for difference in await self._decide(keys):
                yield difference
            queue += [key for key in keys if key in self.hot]

    async def _decide(self, keys: list[Key], rechecks: int = RECHECKS) -> list[Difference]:
        """Recheck these candidates several times. Return those that differ, note the hot ones."""
        previous: Recheck | None = None
        hot: set[Key] = set()
        for number in range(1, rechecks + 1):
            started = time.monotonic()
            recheck = await self._recheck(keys, previous.last if previous else None)
            keys = [key for key in keys if not self._is_right(recheck, key)]
            hot.update(key for key in keys if recheck.is_hot(key, previous))
            previous = recheck
            self._limit.add([*recheck.last.values(), *recheck.target.values()])
            if self._pipeline.stalled:
                hot.update(keys)
            if (
                not keys
                or (number >= FIRST_RECHECKS and hot.issuperset(keys))
                or self._pipeline.stalled
            ):
                break
            # A pause as long as the time between two readings makes the rechecks independent.
            few = len(keys) <= FEW_ROWS
            longest = READING_INTERVAL_SECONDS if few else time.monotonic() - started
            await asyncio.sleep(random.uniform(0.0, longest))
        self._leave_open(key for key in keys if key in hot)
        if previous is None:
            return []
        return [
            self._difference(key, previous.last.get(key), previous.target.get(key))
            for key in keys
            if key not in hot
        ]

    @property
    def left_open(self) -> int:
        """The number of rows that no recheck could decide about so far."""
        return len(self.hot) + self._more_hot

    def _leave_open(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if key in self.hot or len(self.hot) < MOST_HOT:
                self.hot.add(key)
            else:
                self._more_hot += 1

    async def _recheck(self, keys: list[Key], first: RowsByKey | None) -> Recheck:
        """Read these rows as the module describes. ``first``: the last reading of the source in the
        previous recheck, which serves as the first one of this recheck."""
        if first is None:
            first = await self._source.rows(self._table, keys)
        begin = self._digests(first)
        readings: deque[Digests] = deque(maxlen=KEPT_READINGS)
        wait = asyncio.create_task(self._pipeline.wait())
        try:
            while not wait.done() and len(keys) <= FEW_ROWS:
                readings.append(self._digests(await self._source.rows(self._table, keys)))
                interval = random.uniform(0.0, 2 * READING_INTERVAL_SECONDS)
                await asyncio.wait({wait}, timeout=interval)
            await wait
        finally:
            wait.cancel()
        target = await self._target.rows(self._table, keys)
        last = await self._source.rows(self._table, keys)
        readings.append(self._digests(last))
        return Recheck((begin, *readings), last, target, self._digests(target))

    def _digests(self, rows: RowsByKey) -> Digests:
        """Digests of rows, which may be large. Equal rows have equal ones."""
        width = len(self._table.columns)
        return {
            key: row_digest(self._comparable(row) if len(row) == width else row)
            for key, row in rows.items()
        }

    def _is_right(self, recheck: Recheck, key: Key) -> bool:
        """Whether the target shows a value that the source has shown in this recheck."""
        if key not in recheck.in_target and not any(key in rows for rows in recheck.source):
            self.unfound.add(key)
        return recheck.is_right(key)

    def _difference(self, key: Key, source: TextRow | None, target: TextRow | None) -> Difference:
        one, other, width = source or (), target or (), len(self._table.columns)
        # A text that a reader has made of bytes is of a class that no report can hold.
        key = tuple(None if text is None else str(text) for text in key)
        if len(one) < len(other):
            return Difference("extra", key, values=self._values(None, other[-width:]))
        if len(one) > len(other):
            return Difference("missing", key, values=self._values(one[-width:], None))
        pairs = zip(self._table.names, self._comparable(one), self._comparable(other), strict=False)
        columns = tuple(name for name, old, new in pairs if old != new)
        return Difference("changed", key, columns, self._values(one, other, columns))

    def _values(
        self, source: TextRow | None, target: TextRow | None, columns: Collection[str] = ()
    ) -> tuple[ColumnValues, ...] | UnsetType:
        """The values of these columns on both sides, or of all columns of a row that one side
        lacks, if they are asked for."""
        if not self._with_values:
            return UNSET
        nothing: TextRow = (None,) * len(self._table.columns)
        rows = zip(self._table.names, source or nothing, target or nothing, strict=False)
        return tuple(
            ColumnValues.of(name, old, new)
            for name, old, new in rows
            if not columns or name in columns
        )

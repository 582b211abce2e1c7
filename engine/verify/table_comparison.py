"""
The comparison of one table: what tables with a key and without one have in common.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

from engine.errors import SinkRejected, SourceError, SourceRejected, TailraceError
from engine.proof import Resumes
from engine.schema import Table
from engine.toolkit.checksums import EVERYTHING, Checksum
from engine.toolkit.sampling import SampleSize
from engine.verify.pace import Pace
from engine.verify.parts import MOST_ROWS, Parts, differing_parts
from engine.verify.reader import AsyncReader, SourceReader
from engine.verify.recheck import PipelineWaiter
from engine.verify.report import Difference, Sample, TableReport

__all__ = ["MANY_DIFFER", "Progress", "TableComparison"]

Progress = Callable[[str, int], None]

#: Why all rows are read where checksums could be computed.
MANY_DIFFER: Final = "many rows differ, or change"
#: How often the rows of both sides are counted, and the longest time between two counts. A server
#: may show a transaction a moment after its log has it, so one count proves nothing.
_COUNTS: Final = 3
_PAUSE_SECONDS: Final = 0.1


class TableComparison(ABC):
    """The comparison of one table, and its result so far."""

    def __init__(
        self,
        table: Table,
        source: SourceReader,
        target: AsyncReader,
        pipeline: PipelineWaiter,
        pace: Pace,
        chunk_rows: int,
        progress: Progress,
    ) -> None:
        self.table = table
        self.source = source
        self.target = target
        self.pipeline = pipeline
        self.chunk_rows = chunk_rows
        self.counts: Counter[str] = Counter()  # by kind of difference
        self.listed: list[Difference] = []
        self.hot = 0
        self.unfound = 0  # rows that are read, and that no lookup by their key finds
        self.in_detail = False
        self.sample_size: SampleSize | None = None
        self.sampled = False  # only random rows are compared
        self.resumes: Resumes | None = None
        self.rows = 0
        self.target_rows = 0
        self.checksums = ("", "")  # those of the source and of the target
        self.read = 0  # rows of the source that have been read
        self.method: Literal["checksums", "rows"] = "rows"
        self.reason = ""  # why the rows are read
        self.started_at = time.time()
        self.position = ""
        self._started = time.monotonic()
        self._pace = pace
        self._progress = progress

    async def report(self, *, by_rows: bool) -> TableReport:
        """Compare the table and return the result. ``by_rows``: all rows are read."""
        if not by_rows:
            await self._choose_method()
        self.position = await self.pipeline.beginning()
        self.started_at = time.time()  # the log has that position by now
        self.count_known(0)
        inconclusive = ""
        try:
            try:
                await self._compare_all()
            except TailraceError as error:
                if self.method == "rows" or _is_of_connection(error):
                    raise
                self.read_instead(error.message)
                await self._compare_all()
        except TailraceError as error:
            if _is_of_connection(error):
                raise
            inconclusive = error.message
        except (ArithmeticError, RecursionError, ValueError) as error:
            # Its text may have the value.
            inconclusive = f"a value cannot be compared ({type(error).__name__})"
        return self.result(inconclusive)

    async def _compare_all(self) -> None:
        """Compare the table. Raises SourceError if no row differs, and yet the source has another
        number of rows than the target."""
        await self.compare()
        undecided = self.sampled or self.hot or self.unfound or self.counts.total()
        if undecided or self.rows == self.target_rows:
            return
        for number in range(_COUNTS):
            if number:
                await asyncio.sleep(random.uniform(0.0, _PAUSE_SECONDS))
            position = await self.pipeline.end_of_log()
            await self.pipeline.wait()
            if self.pipeline.stalled:
                return
            source, target = await asyncio.gather(
                *(
                    side.run(lambda reader: reader.count(self.table))
                    for side in (self.source, self.target)
                )
            )
            if source == target or await self.pipeline.end_of_log() != position:
                return  # rows were written meanwhile
        raise SourceError(
            f"no row differs, but the source has {source:,} rows and the target {target:,}",
            table=self.table.id,
        )

    def result(self, inconclusive: str) -> TableReport:
        """The result so far. ``inconclusive``: why the table could not be compared to its end."""
        if self.unfound and not inconclusive:
            inconclusive = f"rows that are read, and not found by their keys: {self.unfound:,}"
        if self.hot and not inconclusive:
            fast = f"rows that change too fast to compare: {self.hot:,}"
            inconclusive = self.pipeline.stalled or fast
        return TableReport(
            str(self.table.id),
            self.rows,
            self.counts["changed"],
            self.counts["missing"],
            self.counts["extra"],
            time.monotonic() - self._started,
            not self.counts.total() and not inconclusive,
            inconclusive,
            tuple(self.listed),
            self.hot,
            self.started_at,
            self.position,
            self.method,
            self.reason,
            self.read,
            self.target_rows,
            *self.checksums,
            replaced=self.source.replaced(self.table),
            sample=Sample.of(self.rows, self.target_rows, self.counts, self.hot)
            if self.sampled
            else None,
        )

    async def _choose_method(self) -> None:
        """Compare by checksums, unless there is a reason against it."""
        readers = self.source, self.target
        reasons = [await reader.why_not_summed(self.table) for reader in readers]
        self.reason = next(filter(None, reasons), "")
        self.method = "rows" if self.reason else "checksums"

    async def differing_parts(self) -> Parts | None:
        """The parts whose checksums differ. None, after ``read_instead``, if the table is too
        large for one statement, or too many rows differ."""
        if await self.target.run(lambda reader: reader.count(self.table)) > MOST_ROWS:
            self.read_instead(f"no ranges of its key, and more than {MOST_ROWS:,} rows")
            return None
        await self.source.count_zeros(self.table, EVERYTHING)
        parts = await differing_parts(self.table, self.source, self.target)
        if parts.are_many:
            self.read_instead(MANY_DIFFER)
            return None
        self.add_sums(parts.source, parts.target)
        return parts

    def add_sums(self, source: Checksum, target: Checksum) -> None:
        """Note the checksums of the table."""
        self.target_rows = target.rows
        self.checksums = source.text, target.text

    def read_instead(self, reason: str) -> None:
        """Start again, and read all rows: a database cannot compute the checksums after all."""
        self.method, self.reason = "rows", reason
        self.source.count_anew(self.table)
        self.counts.clear()
        self.listed.clear()
        self.hot = self.unfound = self.rows = self.read = self.target_rows = 0
        self.checksums = ("", "")

    @abstractmethod
    async def compare(self) -> None:
        """Compare the table: set ``counts``, ``listed``, ``hot`` and ``rows``."""

    def count_read(self, rows: int) -> None:
        """Count rows of the source that have been read and compared."""
        self.read += rows
        self.count_compared(rows)

    def count_compared(self, rows: int) -> None:
        """Count rows of the source that have been compared."""
        self._pace.count(rows)
        self.count_known(rows)

    def count_known(self, rows: int) -> None:
        """Count rows of the source that another run has compared."""
        self.rows += rows
        self._progress(str(self.table.id), self.rows)


def _is_of_connection(error: TailraceError) -> bool:
    """Whether an error is that of a connection, not of a table."""
    return error.retryable or isinstance(error, SourceRejected | SinkRejected)

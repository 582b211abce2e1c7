"""
Compare source and target row by row and column by column, while changes flow.

Both databases are read through their ordinary clients, each by a ``RowReader``, in the canonical
text of ``engine.toolkit.canonical``. No codec of the pipeline takes part, so a wrong codec cannot
hide its own mistakes. What the target's policies change on purpose is no difference: the source's
values are compared as the target stores them (``RowReader.stored``).

A table with a key is compared in two passes:

- Forward: the source's rows are read in chunks in the order of the key, and looked up by key in the
  target. This finds rows that are changed or missing in the target.
- Backward: the target's keys are read in the same way and looked up in the source. This finds rows
  that are extra in the target.

Two rows belong together if their keys have exactly the same text. Each pass uses the order of one
database only, so source and target may sort differently. A key that exists throughout the run is
read by at least one of the passes, so a wrong row always becomes a candidate for a difference. A
row that only changes at the wrong moment becomes one, too. ``engine.verify.recheck`` decides: a
candidate that stands still is either right or a difference, and one that never does is reported as
hot.

If both databases can compute checksums of the table, only rows are read where these differ: in
ranges of the key, if both sort it alike (``engine.verify.ranges``), else in parts
(``engine.verify.parts``).

A keyless table is compared as a multiset (``engine.verify.multisets``).

A table is equal if no row differs and none is hot: each row that exists throughout the run has on
the target a value that the source held when the row was compared. Changes made after a row has
been compared are not covered; the next run finds them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

from engine.contract import RowReader
from engine.errors import TailraceError
from engine.proof import Resumes
from engine.schema import Table
from engine.toolkit.sampling import SampleSize
from engine.verify.keyed import KeyedComparison
from engine.verify.keyless import KeylessComparison
from engine.verify.pace import Pace
from engine.verify.reader import AsyncReader, SourceReader
from engine.verify.recheck import Held, Passed, PipelineWaiter
from engine.verify.report import TableReport, VerifyReport
from engine.verify.table_comparison import Progress

__all__ = ["verify"]

Found = Callable[[Table, TableReport], Awaitable[None]]


async def verify(
    tables: Iterable[Table],
    source: RowReader,
    target: RowReader,
    *,
    source_position: Callable[[], str],
    passed: Passed,
    held: Held | None = None,
    chunk_rows: int = 5000,
    by_rows: bool = False,
    in_detail: bool = False,
    deadline_seconds: float = 60.0,
    progress: Progress = lambda table, rows: None,
    found: Found | None = None,
    pace: Pace | None = None,
    sample: SampleSize | None = None,
    resumes: Resumes | None = None,
) -> VerifyReport:
    """Compare ``tables``, one after the other. ``found`` is called with the result of each;
    ``pace`` is the budget of all reads.

    ``source_position`` returns the position of the end of the source's log now; it may block.
    ``passed`` gets a position and a time of ``time.monotonic``, waits until the target holds the
    log up to the position, and returns false if the time comes first; ``held`` returns what it
    holds. ``deadline_seconds`` limits each such wait, and for each table the time for which its hot
    rows are rechecked. ``progress`` is called with a table's name and the number of its rows that
    have been compared. ``by_rows`` reads all rows, also where both databases can compute checksums.
    ``in_detail``: the reports have values of rows that differ. ``sample``: only so many random rows
    of each table are compared, but all of a table with no more rows, or without a key. ``resumes``
    keeps how far the comparison of a table has got, so that another run can go on there. The
    readers are called from threads, each by one at a time.

    Raises the errors of the readers' connections, after ``found`` has got the result of the table
    if the connection was lost. Another error makes its table inconclusive.
    """
    started = time.monotonic()
    pace = pace or Pace()
    pipeline = PipelineWaiter(source_position, passed, deadline_seconds, held, pace.clock)
    readers = SourceReader(source, target, pace), AsyncReader(target, pace)
    reports: list[TableReport] = []
    for table in tables:
        await pace.until_idle()  # so that a proof is not older than its first read
        pipeline.stalled = ""
        kind = KeyedComparison if table.key else KeylessComparison
        comparison = kind(table, *readers, pipeline, pace, chunk_rows, progress)
        comparison.in_detail, comparison.sample_size = in_detail, sample
        comparison.resumes = resumes
        try:
            report = await comparison.report(by_rows=by_rows)
        except TailraceError as error:
            # A statement may have lasted too long, so the next run begins with another table.
            if error.retryable and found is not None:
                await found(table, comparison.result(error.message))
            raise
        reports.append(report)
        if found is not None:
            await found(table, report)
    equal = all(it.equal for it in reports)
    return VerifyReport(equal, time.monotonic() - started, tuple(reports))

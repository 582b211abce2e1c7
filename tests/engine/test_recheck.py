"""
Rechecks with scripted readings: no server takes part.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from decimal import InvalidOperation

import msgspec
import pytest

from engine.contract import StoredText
from engine.errors import SinkError, SinkLost
from engine.schema import Column, Table, TableId, Type
from engine.verify.comparison import verify
from engine.verify.reader import AsyncReader, TextRow, closed_after, comparable_rows
from engine.verify.recheck import (
    FEW_ROWS,
    FIRST_RECHECKS,
    RECHECKS,
    PipelineWaiter,
    Rechecker,
)
from engine.verify.report import Difference, Key, TableReport, VerifyReport
from tests.support.passing import at_once, never, waiter
from tests.support.waiting import wait_until_async

ID = Column("id", Type("int32"), "int", nullable=False)
VALUE = Column("value", Type("int32"), "int")
TABLE = Table(TableId("shop", "items"), (ID, VALUE), key=(0,))
KEY = ("1",)


class Scripted:
    """A reader of one row that has the next of ``values`` at each reading, then the last one."""

    def __init__(self, *values: str | None) -> None:
        self._values = list(values)
        self.readings = 0

    def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool = False
    ) -> list[TextRow]:
        raise NotImplementedError

    def stored(self, table: Table) -> Sequence[StoredText | None]:
        return (None,) * len(table.columns)

    def by_keys(
        self, table: Table, keys: Sequence[Key], *, keys_only: bool = False
    ) -> list[TextRow]:
        self.readings += 1
        value = self._values.pop(0) if len(self._values) > 1 else self._values[0]
        return [] if value is None else [(*KEY, value)]

    def scan(self, table: Table) -> Iterator[list[TextRow]]:
        raise NotImplementedError

    def count(self, table: Table) -> int:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to free."""


class Still(Scripted):
    """A reader of a table of one row."""

    def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool = False
    ) -> list[TextRow]:
        return [] if after else self.by_keys(table, [KEY], keys_only=keys_only)

    def by_keys(
        self, table: Table, keys: Sequence[Key], *, keys_only: bool = False
    ) -> list[TextRow]:
        rows = super().by_keys(table, keys)
        return [row[:1] for row in rows] if keys_only else rows


def recheck(
    source: Scripted, target: Scripted, pipeline: PipelineWaiter | None = None
) -> tuple[list[Difference], set[Key]]:
    """The differences and the hot rows among one candidate."""

    async def run() -> tuple[list[Difference], set[Key]]:
        readers = AsyncReader(source), AsyncReader(target)
        rechecker = Rechecker(TABLE, *readers, pipeline or waiter(), batch_rows=10)
        return [found async for found in rechecker.differences({KEY})], rechecker.hot

    return asyncio.run(run())


class Wide(str):
    """A text that counts how many there are."""

    live = 0

    def __init__(self, text: str) -> None:
        Wide.live += 1

    def __del__(self) -> None:
        Wide.live -= 1


def test_a_recheck_keeps_no_rows_of_its_many_readings() -> None:
    """They may have megabytes."""

    class Changing(Scripted):
        def by_keys(
            self, table: Table, keys: Sequence[Key], *, keys_only: bool = False
        ) -> list[TextRow]:
            self.readings += 1
            return [(*KEY, Wide(str(self.readings)))]

    most = 0
    source = Changing("")

    async def passed(position: str, deadline: float) -> bool:
        nonlocal most
        wanted = source.readings + 30
        await wait_until_async(lambda: source.readings >= wanted)
        most = max(most, Wide.live)
        return True

    differences, hot = recheck(source, Scripted("x"), waiter(passed))
    assert (differences, hot) == ([], {KEY})
    assert source.readings > 90
    assert most < 10


@pytest.mark.parametrize(
    ("source", "target", "difference"),
    [
        ("1", "2", Difference("changed", KEY, ("value",))),
        ("1", None, Difference("missing", KEY)),
        (None, "1", Difference("extra", KEY)),
    ],
)
def test_a_row_that_stands_still_and_is_wrong_in_every_recheck_is_a_difference(
    source: str | None, target: str | None, difference: Difference
) -> None:
    reader = Scripted(target)
    assert recheck(Scripted(source), reader) == ([difference], set())
    assert reader.readings == RECHECKS


def test_a_target_that_shows_an_older_reading_is_right() -> None:
    assert recheck(Scripted("1", "2"), Scripted("1")) == ([], set())


def test_a_target_that_becomes_right_in_the_last_recheck_is_right() -> None:
    target = Scripted(*["2"] * (RECHECKS - 1), "1")
    assert recheck(Scripted("1"), target) == ([], set())


def test_a_wrong_row_that_changes_on_either_database_is_hot() -> None:
    changing = [str(number) for number in range(100)]
    assert recheck(Scripted(*changing), Scripted("-1")) == ([], {KEY})
    assert recheck(Scripted("-1"), Scripted(*changing)) == ([], {KEY})


@pytest.fixture
def hundred_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many rows are rechecked together before their size is known."""
    monkeypatch.setattr("engine.toolkit.row_limit._FIRST_ROWS", 100)


class Many(Scripted):
    """A reader of any rows. All have the first of ``values`` if more than ``FEW_ROWS`` of them are
    read, else the next one at each reading, in turn."""

    def by_keys(
        self, table: Table, keys: Sequence[Key], *, keys_only: bool = False
    ) -> list[TextRow]:
        self.readings += 1
        value = self._values[0 if len(keys) > FEW_ROWS else self.readings % len(self._values)]
        return [(*key, value) for key in keys]


def recheck_many(source: Many, target: Many) -> tuple[int, int]:
    """The number of differences and of hot rows among 100 candidates."""

    async def run() -> tuple[int, int]:
        readers = AsyncReader(source), AsyncReader(target)
        rechecker = Rechecker(TABLE, *readers, waiter(), batch_rows=100)
        keys: set[Key] = {(str(number),) for number in range(100)}
        found = [it async for it in rechecker.differences(keys)]
        return len(found), len(rechecker.hot)

    return asyncio.run(run())


@pytest.mark.usefixtures("hundred_at_first")
def test_many_rows_that_change_to_and_fro_are_rechecked_a_few_at_a_time() -> None:
    """All readings of many rows at once may show the same by chance."""
    assert recheck_many(Many("0", "1"), Many("1")) == (0, 0)


@pytest.mark.usefixtures("hundred_at_first")
def test_after_a_row_that_differs_the_others_are_rechecked_together() -> None:
    target = Many("2")
    assert recheck_many(Many("1"), target) == (100, 0)
    assert target.readings == FIRST_RECHECKS + RECHECKS + RECHECKS


def test_of_many_hot_rows_some_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the memory does not grow with a table whose pipeline has stalled."""
    monkeypatch.setattr("engine.verify.recheck.MOST_HOT", 30)

    async def run() -> None:
        readers = AsyncReader(Many("1")), AsyncReader(Many("2"))
        rechecker = Rechecker(TABLE, *readers, waiter(never), batch_rows=100)
        keys: set[Key] = {(str(number),) for number in range(100)}
        assert [it async for it in rechecker.differences(keys)] == []
        assert (len(rechecker.hot), rechecker.left_open) == (30, 100)

    asyncio.run(run())


def test_a_stalled_pipeline_ends_the_rechecks_and_is_waited_for_once() -> None:
    pipeline = waiter(never)
    target = Scripted("2")
    assert recheck(Scripted("1"), target, pipeline) == ([], {KEY})
    assert target.readings == 1
    assert pipeline.stalled == "the pipeline did not reach the end of the log within 60 seconds"
    deadlines: list[float] = []

    async def note(position: str, deadline: float) -> bool:
        deadlines.append(deadline)
        return False

    late = waiter(note)
    asyncio.run(late.wait())
    asyncio.run(late.wait())
    assert deadlines[1] < deadlines[0]


def test_a_pipeline_that_has_stalled_for_a_table_is_waited_for_again_for_the_next() -> None:
    """And nothing that differs is called a difference while it is not there."""
    waits: list[float] = []

    async def passed(position: str, deadline: float) -> bool:
        waits.append(deadline - time.monotonic())
        return waits[-1] > 30 and len(waits) > 1

    found = asyncio.run(
        verify(
            [TABLE, msgspec.structs.replace(TABLE, id=TableId("shop", "other"))],
            Still("1"),
            Still("2"),
            source_position=lambda: "here",
            passed=passed,
        )
    )
    first, second = found.tables
    assert (first.differing, first.hot, first.differences) == (0, 1, ())
    assert first.inconclusive.startswith("the pipeline did not reach the end of the log")
    assert (second.differing, second.hot, second.inconclusive) == (1, 0, "")


def test_a_stalled_pipeline_that_reaches_the_end_of_the_log_is_not_stalled_any_more() -> None:
    answers = [False, True]

    async def passed(position: str, deadline: float) -> bool:
        return answers.pop(0)

    async def run() -> None:
        pipeline = waiter(passed)
        await pipeline.wait()
        assert pipeline.stalled
        await pipeline.wait()
        assert not pipeline.stalled

    asyncio.run(run())


class Source(Scripted):
    """A reader whose second chunk of the first table lasts until the other table is read, or for a
    moment if it is not."""

    def __init__(self) -> None:
        super().__init__("1")
        self._other_table = threading.Event()
        self.overlapped = False

    def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool = False
    ) -> list[TextRow]:
        if table is not TABLE:
            self._other_table.set()
            return []
        if after is not None:
            self.overlapped = self._other_table.wait(0.2)
        return [] if after else [(*KEY, "1")]


class Refusing(Scripted):
    """A reader of a target without the first table."""

    def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool = False
    ) -> list[TextRow]:
        return []

    def by_keys(
        self, table: Table, keys: Sequence[Key], *, keys_only: bool = False
    ) -> list[TextRow]:
        raise SinkError("the target has no such table")


def test_a_chunk_read_ahead_for_a_table_that_fails_does_not_overlap_with_the_next_table() -> None:
    source = Source()
    other = Table(TableId("shop", "other"), (ID, VALUE), key=(0,))
    comparison = verify(
        [TABLE, other],
        source,
        Refusing("1"),
        source_position=lambda: "here",
        passed=at_once,
    )
    first, second = asyncio.run(comparison).tables
    assert first.inconclusive == "the target has no such table"
    assert second.equal
    assert not source.overlapped


class Failing(Still):
    """A reader with an error in the first table."""

    def __init__(self, error: Exception) -> None:
        super().__init__("1")
        self._error = error

    def chunk(
        self, table: Table, after: Key | None, limit: int, *, keys_only: bool = False
    ) -> list[TextRow]:
        if table is TABLE:
            raise self._error
        return super().chunk(table, after, limit, keys_only=keys_only)


def compared(target: Scripted, found: dict[TableId, TableReport]) -> VerifyReport:
    """The comparison of two tables; ``found`` gets each outcome."""

    async def note(table: Table, report: TableReport) -> None:
        found[table.id] = report

    tables = [TABLE, msgspec.structs.replace(TABLE, id=TableId("shop", "other"))]
    position = "here"
    return asyncio.run(
        verify(
            tables,
            Still("1"),
            target,
            source_position=lambda: position,
            passed=at_once,
            found=note,
        )
    )


@pytest.mark.parametrize(
    "error", [ValueError("a value"), InvalidOperation("a value"), RecursionError("a value")]
)
def test_a_value_that_cannot_be_compared_makes_its_table_inconclusive(error: Exception) -> None:
    first, second = compared(Failing(error), {}).tables
    assert first.inconclusive == f"a value cannot be compared ({type(error).__name__})"
    assert second.equal


def test_a_lost_connection_ends_the_run_and_leaves_the_table_inconclusive() -> None:
    """So that the next run of a continuous comparison does not begin with the same table."""
    found: dict[TableId, TableReport] = {}
    with pytest.raises(SinkLost):
        compared(Failing(SinkLost("the statement lasted too long")), found)
    assert list(found) == [TABLE.id]
    report = found[TABLE.id]
    assert (report.equal, report.position) == (False, "here")
    assert report.inconclusive == "the statement lasted too long"


def test_json_that_python_cannot_read_is_compared_as_its_text() -> None:
    document = Column("document", Type("json"), "json")
    comparable = comparable_rows(Table(TableId("shop", "d"), (ID, document), key=(0,)))
    deep = "[" * 200_000 + "]" * 200_000
    for text in ("1e99999999999999999999", deep, "no JSON"):
        assert comparable(("1", text)) == ("1", text)
    assert comparable(("1", "[1.0]")) == comparable(("1", "[ 1 ]"))


def test_a_read_ends_with_an_error_in_what_is_read() -> None:
    ended: list[bool] = []

    def rows() -> Iterator[list[TextRow]]:
        try:
            yield [("1",)]
            yield [("2",)]
        finally:
            ended.append(True)

    def read(chunks: Iterator[list[TextRow]]) -> None:
        with closed_after(chunks):
            next(chunks)
            raise ValueError("a value")

    chunks = rows()
    with pytest.raises(ValueError, match="a value"):
        read(chunks)
    assert ended == [True]

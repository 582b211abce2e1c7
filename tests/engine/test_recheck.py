"""
Rechecks with scripted readings: no server takes part.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest

from engine.contract import StoredText
from engine.errors import SinkError
from engine.schema import Column, Table, TableId, Type
from engine.verify.comparison import verify
from engine.verify.reader import AsyncReader, TextRow
from engine.verify.recheck import (
    RECHECKS_OF_FEW,
    Multiset,
    MultisetResult,
    PipelineWaiter,
    Rechecker,
    recheck_multiset,
)
from engine.verify.report import Difference, Key

ID = Column("id", Type("int32"), "int", nullable=False)
VALUE = Column("value", Type("int32"), "int")
TABLE = Table(TableId("shop", "items"), (ID, VALUE), key=(0,))
KEY = ("1",)


async def at_once(position: str, deadline: float) -> bool:
    return True


async def never(position: str, deadline: float) -> bool:
    return False


def waiter(
    passed: Callable[[str, float], Awaitable[bool]] = at_once, seconds: float = 60.0
) -> PipelineWaiter:
    return PipelineWaiter(lambda: "here", passed, seconds)


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


def recheck(
    source: Scripted, target: Scripted, pipeline: PipelineWaiter | None = None
) -> tuple[list[Difference], set[Key]]:
    """The differences and the hot rows among one candidate."""

    async def run() -> tuple[list[Difference], set[Key]]:
        readers = AsyncReader(source), AsyncReader(target)
        rechecker = Rechecker(TABLE, *readers, pipeline or waiter(), batch_rows=10)
        return [found async for found in rechecker.differences({KEY})], rechecker.hot

    return asyncio.run(run())


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
    assert reader.readings == RECHECKS_OF_FEW


def test_a_target_that_shows_an_older_reading_is_right() -> None:
    assert recheck(Scripted("1", "2"), Scripted("1")) == ([], set())


def test_a_target_that_becomes_right_in_the_last_recheck_is_right() -> None:
    target = Scripted(*["2"] * (RECHECKS_OF_FEW - 1), "1")
    assert recheck(Scripted("1"), target) == ([], set())


def test_a_wrong_row_that_changes_on_either_database_is_hot() -> None:
    changing = [str(number) for number in range(100)]
    assert recheck(Scripted(*changing), Scripted("-1")) == ([], {KEY})
    assert recheck(Scripted("-1"), Scripted(*changing)) == ([], {KEY})


def test_a_stalled_pipeline_ends_the_rechecks_and_is_waited_for_once() -> None:
    pipeline = waiter(never)
    target = Scripted("2")
    differences, hot = recheck(Scripted("1"), target, pipeline)
    assert (differences, hot) == ([Difference("changed", KEY, ("value",))], set())
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


def multiset_result(
    source: list[dict[bytes, int]], target: list[dict[bytes, int]], seconds: float = 60.0
) -> MultisetResult:
    """The result for scripted readings; the last one of each list is read again and again."""

    def reading(readings: list[dict[bytes, int]]) -> Callable[[], Awaitable[Multiset]]:
        async def read() -> Multiset:
            return Counter(readings.pop(0) if len(readings) > 1 else readings[0])

        return read

    first = Counter(source[0])
    pipeline = waiter(seconds=seconds)
    later = source[1:] or source
    return asyncio.run(recheck_multiset(first, reading(later), reading(target), pipeline))


def test_multisets_may_have_any_count_between_two_readings() -> None:
    assert multiset_result([{b"a": 1}, {b"a": 3}], [{b"a": 2}]) == (0, 0, 0)
    assert multiset_result([{b"a": 2}], [{b"a": 2}]) == (0, 0, 0)


def test_rows_missing_or_extra_in_every_recheck_differ() -> None:
    assert multiset_result([{b"a": 3, b"b": 1}], [{b"a": 1, b"c": 1}]) == (3, 1, 0)


def test_rows_missing_in_some_rechecks_only_are_hot() -> None:
    targets: list[dict[bytes, int]] = [{b"b": 1}, {b"a": 1}] * 10
    result = multiset_result([{b"a": 1, b"b": 1, b"c": 1}], targets, seconds=0.0)
    assert result == (1, 0, 1)


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

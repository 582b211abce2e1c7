"""When a comparison waits, and what its waits mean for rechecks and deadlines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.cli import pauses as module
from engine.cli.engine import Engine
from engine.cli.pauses import Pauses
from engine.contract import RowReader
from engine.errors import SourceError, SourceLost
from engine.schema import Column, Table, TableId, Type
from engine.settings.verify import VerifySettings
from engine.toolkit.checksums import Checksum, KeyRange
from engine.verify.comparison import verify
from engine.verify.multisets import recheck_multiset
from engine.verify.pace import Pace
from engine.verify.reader import AsyncReader
from engine.verify.recheck import PipelineWaiter
from tests.engine.test_comparison_retries import KEYED, Side, rows
from tests.support.passing import at_once

TABLE = Table(TableId("shop", "t"), (Column("id", Type("int32"), "int"),), (0,))


class Busy:
    """A source with so many threads at work, at each question the next number; an error is raised.
    ``asked`` counts the questions."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)
        self.asked = 0

    def threads_running(self) -> int:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def pauses(state: str = "streaming", lag_seconds: float = 0.0) -> Pauses:
    status = SimpleNamespace(state=state, lag_seconds=lag_seconds)
    return Pauses(cast(Engine, SimpleNamespace(status=lambda: status)))


def settings(busy_threads: int) -> Any:
    verify = VerifySettings(continuous=True, busy_threads=busy_threads)
    return SimpleNamespace(verify=verify, pipeline=SimpleNamespace(name="p"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The questions come at once."""
    for name in ("LOOK_SECONDS", "LOAD_SECONDS", "STATUS_SECONDS"):
        monkeypatch.setattr(module, name, 0.0)


async def goes_on(tested: Pauses, rules: Any, source: object) -> bool:
    """Whether a comparison goes on within a moment."""
    try:
        await asyncio.wait_for(tested.until_idle(rules, source), 0.1)
    except TimeoutError:
        return False
    return True


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("threads", "most", "expected"), [(26, 25, False), (25, 25, True), (999, 0, True)]
)
def test_a_comparison_waits_while_the_source_is_busy(
    threads: int, most: int, expected: bool
) -> None:
    source = Busy(threads)
    assert asyncio.run(goes_on(pauses(), settings(most), source)) is expected
    assert bool(source.asked) is (most > 0)


@pytest.mark.usefixtures("quick")
def test_it_goes_on_when_the_source_has_less_to_do() -> None:
    """Also after the source was away for a moment. One that refuses the question is an error."""
    source = Busy(9, SourceLost("away"), 9, 3)
    assert asyncio.run(goes_on(pauses(), settings(5), source))
    assert source.asked == 4
    with pytest.raises(SourceError, match="refused"):
        asyncio.run(goes_on(pauses(), settings(5), Busy(SourceError("refused"))))


@pytest.mark.usefixtures("quick")
def test_a_source_that_cannot_be_asked_is_no_busy_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """GIVEN a source that has no connection to spare THEN its error is raised after a minute, and
    the log blames no load. The minute begins again when the source answers."""
    now = 100_000.0

    async def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(module, "LOOK_SECONDS", 20.0)
    monkeypatch.setattr(module, "LONG_SECONDS", 50.0)
    monkeypatch.setattr(module.asyncio, "sleep", pass_by)
    full = SourceLost("Too many connections")
    source = Busy(full, full, full, 99, full, 99, full)
    with pytest.raises(SourceLost, match="Too many connections"):
        asyncio.run(pauses().until_idle(settings(25), source))
    assert (source.asked, now) == (10, 100_180.0)
    assert caplog.records == []


@pytest.mark.parametrize("booted_seconds", [0.0, 700.0])
def test_pauses_are_counted_from_the_first_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, booted_seconds: float
) -> None:
    """The steady clock begins when the host boots."""
    now = booted_seconds

    async def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(module, "LOOK_SECONDS", 60.0)
    monkeypatch.setattr(module.asyncio, "sleep", pass_by)
    asyncio.run(pauses().until_idle(settings(25), Busy(*[30] * 10, 0)))
    (record,) = caplog.records
    assert "10 of the last 10 minutes" in record.__dict__["reason"]


@pytest.mark.usefixtures("quick")
def test_a_source_is_not_asked_while_the_pipeline_is_busy_or_if_it_tells_nothing() -> None:
    source = Busy(0)
    assert not asyncio.run(goes_on(pauses("backfilling"), settings(5), source))
    assert not asyncio.run(goes_on(pauses(lag_seconds=6.0), settings(5), source))
    assert source.asked == 0
    assert asyncio.run(goes_on(pauses(), settings(5), object()))


def test_the_source_is_asked_once_for_many_reads() -> None:
    source, tested = Busy(0), pauses()

    async def read() -> None:
        for _ in range(1000):
            await tested.until_idle(settings(5), source)

    asyncio.run(read())
    assert source.asked == 1


@pytest.mark.usefixtures("quick")
def test_long_pauses_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """GIVEN a source that is busy for the most part of half a day THEN the log says so each hour,
    with the setting."""
    now = 100_000.0

    async def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "LOOK_SECONDS", 60.0)
    monkeypatch.setattr(module.asyncio, "sleep", pass_by)
    tested = pauses()

    async def compare(*threads: int) -> None:
        await tested.until_idle(settings(25), Busy(*threads, 0))
        now_and_then = 60.0
        await pass_by(now_and_then)

    for _ in range(60):
        asyncio.run(compare(*[30] * 11))
    assert [record.message for record in caplog.records] == [
        "the comparison of tables waits for a busy source"
    ] * 12
    (first, *_) = caplog.records
    assert "more than 25 threads" in first.__dict__["reason"]
    assert "busy_threads" in first.__dict__["hint"]
    caplog.clear()
    for _ in range(300):
        asyncio.run(compare(30))
        now += 240.0
    assert caplog.records == []


# -- reads that wait -------------------------------------------------------------------------------


class Gate:
    """Other work, from when the gate is shut until it is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waits = asyncio.Event()

    async def until_idle(self) -> None:
        self.waits.set()
        await self.open.wait()


def reader(calls: list[str]) -> RowReader:
    def called(name: str) -> Callable[..., list[tuple[str]]]:
        return lambda *_, **__: calls.append(name) or [("1",)]

    return cast(RowReader, SimpleNamespace(chunk=called("chunk"), by_keys=called("by_keys")))


def test_lookups_go_on_while_other_reads_wait() -> None:
    """A recheck that has begun is not held up, so that no row is hot for it. What another read has
    begun to wait for does not block it."""
    calls: list[str] = []

    async def run() -> None:
        gate = Gate()
        tested = AsyncReader(reader(calls), Pace(until_idle=gate.until_idle))
        chunk = asyncio.create_task(tested.chunk(TABLE, None, 10, keys_only=True))
        await gate.waits.wait()
        assert await tested.rows(TABLE, [("1",)]) == {("1",): ("1",)}
        assert await tested.keys(TABLE, [("1",)]) == [("1",)]
        assert calls == ["by_keys", "by_keys"]
        gate.open.set()
        assert await chunk == [("1",)]

    asyncio.run(run())


def test_a_read_for_which_nobody_waits_ends_with_the_comparison() -> None:
    calls: list[str] = []

    async def run() -> None:
        gate = Gate()
        pace = Pace(until_idle=gate.until_idle)
        chunk = asyncio.create_task(
            AsyncReader(reader(calls), pace).chunk(TABLE, None, 10, keys_only=True)
        )
        await gate.waits.wait()
        pace.close()
        with pytest.raises(asyncio.CancelledError):
            await chunk

    asyncio.run(run())
    assert calls == []


@pytest.mark.parametrize(
    ("pause", "statement", "ranges"), [(9.0, 0.0, [8] * 5), (0.0, 9.0, [8, 8, 4, 2, 2])]
)
def test_a_pause_makes_no_range_smaller(
    monkeypatch: pytest.MonkeyPatch, pause: float, statement: float, ranges: list[int]
) -> None:
    """A slow statement does."""
    now, summed = 100.0, list[int]()

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    class Slow(Side):
        def sum_range(
            self, table: Table, range: KeyRange, nulled: Collection[int] = ()
        ) -> Checksum:
            pass_by(statement)
            checksum = super().sum_range(table, range, nulled)
            summed.append(checksum.rows)
            return checksum

    async def until_idle() -> None:
        pass_by(pause)

    for name in ("reader", "ranges"):
        clock = SimpleNamespace(monotonic=lambda: now)
        monkeypatch.setattr(f"engine.verify.{name}.time", clock, raising=False)
    source, target = Slow({"": rows(*range(1, 41))}), Side({"": rows(*range(1, 41))})
    comparison = verify(
        [KEYED],
        source,
        target,
        source_position=lambda: "here",
        passed=at_once,
        chunk_rows=2,
        pace=Pace(until_idle=until_idle),
    )
    assert asyncio.run(comparison).equal
    assert summed[:5] == ranges


def test_the_clock_of_deadlines_stands_still_during_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("engine.verify.pace.time", SimpleNamespace(monotonic=lambda: now))

    async def run() -> None:
        nonlocal now
        gate = Gate()
        pace = Pace(until_idle=gate.until_idle)
        now = 107.0
        assert pace.clock() == 107.0
        waits = asyncio.create_task(pace.until_idle())
        await gate.waits.wait()
        now = 9000.0
        assert pace.clock() == 107.0
        gate.open.set()
        await waits
        now = 9001.0
        assert pace.clock() == 108.0

    asyncio.run(run())


def test_deadlines_are_times_of_that_clock() -> None:
    """GIVEN equal rows whose number is wrong once WHEN the deadline of the clock is over THEN they
    are left open; a pause, in which only the time goes on, leaves none open."""
    clock = 0.0

    async def passed(position: str, deadline: float) -> bool:
        return True

    async def open_rows(seconds: float) -> int:
        numbers = [2]

        async def read_source() -> Counter[bytes]:
            return Counter({b"row": 1})

        async def read_target() -> Counter[bytes]:
            nonlocal clock
            clock += seconds
            return Counter({b"row": numbers.pop() if numbers else 1})

        pipeline = PipelineWaiter(lambda: "here", passed, 60.0, clock=lambda: clock)
        first = await read_source()
        return (await recheck_multiset(first, read_source, read_target, pipeline)).hot

    assert asyncio.run(open_rows(0.0)) == 0
    assert asyncio.run(open_rows(61.0)) > 0

"""
What follows an error that ends an attempt, and the deadline of a run.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from engine.errors import (
    DeadlineExceeded,
    DecodeError,
    SinkDenied,
    SinkLost,
    SinkRejected,
    SourceDenied,
    SourceError,
    SourceLost,
    SourceRejected,
    TailraceError,
)
from engine.pipeline.retries import READINGS, Retries
from engine.pipeline.stop_request import StopRequest
from engine.settings.loader import RetrySettings
from sinks.jsonl import JsonlSettings, JsonlSink
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase, MemorySettings, MemorySource
from tests.support.memory_pipeline import KEYED, make_pipeline

MINUTES = RetrySettings(first_seconds=60.0, max_seconds=60.0)


class Away(MemorySink):
    """A target that can be reached again at the second question."""

    asked = 0

    def reachable(self) -> bool:
        self.asked += 1
        return self.asked == 2


def retries(settings: RetrySettings | None = None, sink: MemorySink | None = None) -> Retries:
    source = MemorySource(MemorySettings("memory:test"), MemoryDatabase())
    sink = sink or MemorySink(MemorySinkSettings("memory:test"), "test", MemoryStore())
    return Retries("test", source, sink, settings or RetrySettings(), StopRequest())


@pytest.mark.parametrize("error", [SourceRejected("password"), SinkRejected("no such host")])
def test_a_rejected_connection_ends_a_pipeline_that_has_not_worked(error: TailraceError) -> None:
    with pytest.raises(type(error)):
        retries().take(error)


def test_a_rejected_connection_is_retried_for_a_while_with_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    decides = retries()
    decides.worked(fully=False)
    decides.take(SourceRejected("password"))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    monkeypatch.setattr("engine.pipeline.retries.REJECTED_SECONDS", 0.0)
    with pytest.raises(SourceRejected):
        decides.take(SourceRejected("password"))


@pytest.mark.parametrize("error", [SourceDenied("SELECT"), SinkDenied("INSERT")])
def test_a_missing_right_is_retried_when_it_was_there_before(
    caplog: pytest.LogCaptureFixture, error: TailraceError
) -> None:
    decides = retries()
    decides.worked(fully=False)  # the first backfill, which uses rights for the first time
    with pytest.raises(type(error)):
        decides.take(error)
    decides.worked(fully=True)
    decides.take(error)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "a right is missing" in caplog.text


def test_a_log_that_cannot_be_read_is_read_again_a_few_times() -> None:
    decides = retries()
    for _ in range(READINGS - 1):
        decides.take(DecodeError("the checksum is wrong"))
        decides.progressed()
    with pytest.raises(DecodeError):
        decides.take(DecodeError("the checksum is wrong"))
    decides.advanced()
    decides.take(DecodeError("the checksum is wrong"))
    with pytest.raises(DecodeError):
        retries().take(DecodeError("a row", table="shop.item"))


def test_other_errors_end_the_pipeline_and_lost_connections_do_not() -> None:
    decides = retries()
    decides.worked(fully=False)
    decides.take(SinkLost("broken"))
    assert decides.last_error == "broken"
    with pytest.raises(SourceError):
        decides.take(SourceError("purged"))
    with pytest.raises(SourceLost):
        retries(RetrySettings(give_up_seconds=-1.0)).take(SourceLost("broken"))


def test_a_wait_ends_when_the_lost_side_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.pipeline.retries.PROBE_SECONDS", 0.01)
    sink = Away(MemorySinkSettings("memory:test"), "test", MemoryStore())
    started = time.monotonic()
    asyncio.run(retries(MINUTES, sink).wait(SinkLost("broken"), connected=False))
    assert sink.asked == 2
    assert time.monotonic() - started < 10


class Denying(MemorySink):
    """A target that can be reached, and that fails all the same."""

    def reachable(self) -> bool:
        return True


def test_a_side_that_can_be_reached_ends_one_wait_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.pipeline.retries.PROBE_SECONDS", 0.01)
    settings = RetrySettings(first_seconds=0.3, max_seconds=0.3)
    decides = retries(settings, Denying(MemorySinkSettings("memory:test"), "test", MemoryStore()))

    async def waited() -> float:
        started = time.monotonic()
        await decides.wait(SinkLost("no room"), connected=False)
        return time.monotonic() - started

    async def work() -> None:
        assert await waited() < 0.2
        assert await waited() >= 0.2
        decides.progressed()
        assert await waited() < 0.2

    asyncio.run(work())


class Endless(MemorySource):
    """A source whose log goes on faster than it is read."""

    def reached(self, position: str, goal: str) -> bool:
        return False


def test_a_run_that_has_not_caught_up_in_time_fails_and_keeps_what_is_committed() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "a")])
    source = Endless(MemorySettings("memory:test"), database)
    pipeline = make_pipeline(database, store, source=source)

    async def work() -> None:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.5 seconds"):
            await pipeline.run(until_caught_up=True, deadline_seconds=0.5)

    asyncio.run(asyncio.wait_for(work(), 20))
    assert pipeline.status().state == "stopped"
    assert len(store.rows(KEYED.id)) == len(database.contents[KEYED.id])


def test_a_folder_that_is_a_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    sink = JsonlSink(JsonlSettings(f"jsonl:{path}"), "test")
    with pytest.raises(SinkRejected, match="cannot be used"):
        asyncio.run(sink.open())


def test_a_timeout_that_is_not_the_end_of_a_stop_is_an_error() -> None:
    """GIVEN a source whose own wait raises TimeoutError THEN the run does not end as if it had been
    stopped."""

    class Impatient(MemorySource):
        def position(self) -> str:
            raise TimeoutError

    source = Impatient(MemorySettings("memory:test"), MemoryDatabase())
    pipeline = make_pipeline(source.database, MemoryStore(), source=source)
    with pytest.raises(TimeoutError):
        asyncio.run(pipeline.run(until_caught_up=True))

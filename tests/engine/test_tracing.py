"""
Spans are sent to a receiver of OpenTelemetry, and a receiver that is away changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import ConfigError, SinkLost
from engine.ops.telemetry import start_tracing
from engine.ops.tracing import NO_TRACING, Tracing
from sinks.memory import MemoryStore
from sources.memory import MemoryDatabase
from tests.support.memory_pipeline import KEYED, assert_mirrored, insert, make_pipeline, run
from tests.support.otel_receiver import Receiver, attributes
from tests.support.waiting import wait_until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def hanging() -> Iterator[Receiver]:
    made = Receiver(hangs=True)
    yield made
    made.close()


@pytest.fixture
def short_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end waits shortly for a receiver that hangs."""
    monkeypatch.setattr("engine.ops.otel.CLOSE_SECONDS", 0.5)


def make_spans(tracing: Tracing) -> None:
    """What an attempt does: a batch, a chunk and a commit; then one that fails."""
    with tracing.span("attempt"):
        with tracing.commit("p0"):
            pass
        with tracing.inside("batch", rows=3, bytes=40), tracing.inside("apply"):
            pass
        with tracing.inside("chunk", table="shop.item", rows=5), tracing.inside("apply"):
            pass
        with tracing.commit("p1"):
            pass
        tracing.end_transaction()
        with tracing.span("command", id=7), tracing.inside("batch", rows=1, bytes=1):
            pass
        tracing.end_transaction()
    with (
        pytest.raises(SinkLost),
        tracing.span("attempt"),
        tracing.inside("batch", rows=1, bytes=1),
        tracing.inside("apply"),
    ):
        raise SinkLost("PLANTED")


def test_spans_arrive_with_parents_and_attributes(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    tracing = start_tracing(receiver.url, "shop")
    make_spans(tracing)
    tracing.close()
    wait_until(lambda: len(receiver.spans) == 14, what="all spans")
    by_id = {it.span_id: it for it in receiver.spans}

    def path(span: Any) -> str:
        parent = by_id.get(span.parent_span_id)
        return span.name if parent is None else f"{path(parent)}/{span.name}"

    assert sorted(map(path, receiver.spans)) == sorted(
        [
            *("attempt", "attempt", "command", "transaction", "transaction", "transaction"),
            *("transaction/batch", "transaction/batch", "transaction/batch"),
            *("transaction/batch/apply", "transaction/batch/apply"),
            *("transaction/chunk", "transaction/chunk/apply", "transaction/commit"),
        ]
    )
    found = {path(it): it for it in reversed(receiver.spans)}
    assert attributes(found["transaction/chunk"]) == {
        "tailrace.table": "shop.item",
        "tailrace.rows": 5,
    }
    assert attributes(found["transaction"])["tailrace.position"] == "p1"
    attempts = {it.span_id for it in receiver.spans if it.name == "attempt"}
    for span in receiver.spans:
        assert not span.events
        if span.name == "transaction":
            assert {it.span_id for it in span.links} <= attempts
            assert span.links
    failed = [it for it in receiver.spans if it.status.code == 2]
    assert {path(it) for it in failed} == {
        *("attempt", "transaction", "transaction/batch", "transaction/batch/apply"),
    }
    assert {attributes(it)["error.type"] for it in failed} == {"SinkLost"}
    assert b"PLANTED" not in b"".join(it.SerializeToString() for it in receiver.spans)
    (resource, *_) = receiver.resources
    assert resource["service.name"] == "tailrace"
    assert resource["tailrace.pipeline"] == "shop"
    assert resource["deployment.environment"] == "test"


@pytest.mark.usefixtures("short_close")
def test_a_receiver_that_is_away_is_not_noticed(hanging: Receiver) -> None:
    """GIVEN receivers that do not answer, or are not there WHEN more spans are made than the queue
    holds THEN none of it waits, and the end waits for seconds at most.
    """
    for url in (hanging.url, "http://127.0.0.1:9"):
        tracing = start_tracing(url, "shop")
        started = time.monotonic()
        for _ in range(1000):
            make_transaction(tracing)
        made = time.monotonic() - started
        tracing.close()
        assert made < 5.0
        assert time.monotonic() - started - made < 3.0
    assert hanging.requests


def make_transaction(tracing: Tracing) -> None:
    with tracing.inside("batch", rows=1, bytes=1), tracing.inside("apply"):
        pass
    with tracing.commit("p"):
        pass
    tracing.end_transaction()


@pytest.mark.usefixtures("short_close")
def test_a_pipeline_makes_spans(receiver: Receiver, hanging: Receiver) -> None:
    """GIVEN a pipeline with a receiver, and one whose receiver hangs WHEN both backfill and follow
    a log THEN both targets equal the source, and the first receiver has the spans.
    """
    for url in (receiver.url, hanging.url):
        database, store = MemoryDatabase(), MemoryStore()
        database.load(KEYED, [(number, "x") for number in range(10)])
        tracing = start_tracing(url, "test")
        run(make_pipeline(database, store, tracing=tracing), until_caught_up=True)
        database.commit(insert(KEYED, (100, "PLANTED")))
        run(make_pipeline(database, store, tracing=tracing), until_caught_up=True)
        assert_mirrored(database, store)
        tracing.close()
    wait_until(lambda: "batch" in {it.name for it in receiver.spans}, what="spans")
    by_id = {it.span_id: it for it in receiver.spans}
    pairs = {
        (by_id[it.parent_span_id].name if it.parent_span_id else "", it.name)
        for it in by_id.values()
    }
    assert pairs >= {
        ("", "attempt"),
        ("", "transaction"),
        ("transaction", "batch"),
        ("batch", "apply"),
        ("transaction", "chunk"),
        ("chunk", "apply"),
        ("transaction", "commit"),
    }
    assert b"PLANTED" not in b"".join(it.SerializeToString() for it in receiver.spans)


def test_nothing_is_made_without_an_endpoint() -> None:
    assert start_tracing("", "shop") is NO_TRACING
    make_spans(NO_TRACING)
    NO_TRACING.close()
    with pytest.raises(ConfigError, match="http"):
        start_tracing("collector:4318", "shop")

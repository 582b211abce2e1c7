"""
Metrics are sent to a receiver of OpenTelemetry as they are scraped, and a receiver that is away
changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client.utils import floatToGoString

from engine.contract import Applied
from engine.errors import ConfigError
from engine.ops.metric_list import METRICS
from engine.ops.telemetry import start_metrics
from tests.support.metric_samples import samples
from tests.support.otel_receiver import Receiver, attributes
from tests.support.used_metrics import ITEM, STATUS, used, work
from tests.support.waiting import wait_until_async

pytest.importorskip("opentelemetry.sdk.metrics")

#: How often metrics are sent.
INTERVAL_MS = 20


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", str(INTERVAL_MS))
    monkeypatch.setattr("engine.ops.otel_metrics.CLOSE_SECONDS", 0.5)


def sending(url: str, work: Callable[[], Awaitable[None]], metrics: Any = None) -> None:
    """Send ``used`` metrics during ``work``, as an engine does."""
    metrics = metrics or used()

    async def refresh() -> None:
        pass

    def snapshot() -> Iterator[Any]:
        yield from metrics.samples(STATUS)
        yield from metrics.of_process()

    async def run() -> None:
        sender = start_metrics(url, "p")
        task = asyncio.create_task(sender.run(refresh, snapshot))
        await work()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.to_thread(sender.close)

    asyncio.run(run())


def received(metrics: dict[str, Any]) -> dict[str, float]:
    """The values in the form of ``samples``."""
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            assert point.time_unix_nano > point.start_time_unix_nano
            assert (point.start_time_unix_nano > 0) == (kind != "gauge")
            labels = attributes(point)
            assert labels.pop("pipeline") == "p"
            if kind == "histogram":
                found[key(f"{name}_count", labels)] = point.count
                found[key(f"{name}_sum", labels)] = point.sum
                bounds = [*map(floatToGoString, point.explicit_bounds), "+Inf"]
                for number, bound in enumerate(bounds, 1):
                    count = sum(point.bucket_counts[:number])
                    found[key(f"{name}_bucket", {**labels, "le": bound})] = count
            else:
                found[key(name, labels)] = getattr(point, point.WhichOneof("value"))
    return found


def key(name: str, labels: dict[str, str]) -> str:
    text = ",".join(value for _, value in sorted(labels.items()))
    return f"{name}{{{text}}}" if text else name


def test_what_is_sent_is_what_is_scraped(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN metrics in which each of the list has a sample WHEN they are sent THEN names, types,
    labels, buckets and values are those of /metrics, and sums are cumulative.
    """
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    receiver, metrics = Receiver(), used()

    async def until_sent() -> None:
        await wait_until_async(lambda: receiver.metrics, what="metrics")

    sending(receiver.url, until_sent, metrics)
    receiver.close()
    sent = receiver.metrics[0]
    values = received(sent)
    own = {key: value for key, value in values.items() if key.startswith("tailrace_")}
    assert own == pytest.approx(samples(metrics, status=STATUS))
    scraped = metrics.render("", STATUS)[0].decode()
    names = {line.split()[2] for line in scraped.splitlines() if line.startswith("# TYPE")}
    # Prometheus's text format has the suffix of an info in the name of its type.
    assert names <= {*sent}
    assert {"process_cpu_seconds_total", "python_gc_collections_total"} <= {*sent}
    start = "process_start_time_seconds"
    assert f"{start} {floatToGoString(values[start])}" in scraped
    assert sent["process_resident_memory_bytes"].unit == "By"
    assert sent["process_cpu_seconds_total"].sum.is_monotonic
    kinds = {"counter": "sum", "info": "gauge"}
    for metric in METRICS:
        it = sent[metric.name]
        kind = it.WhichOneof("data")
        assert kind == kinds.get(metric.kind, metric.kind), metric.name
        assert it.description == metric.meaning
        if kind != "gauge":
            assert getattr(it, kind).aggregation_temporality == 2
    assert sent["tailrace_rows_total"].sum.is_monotonic
    units = {
        "tailrace_lag_seconds": "s",
        "tailrace_lag_bytes": "By",
        "tailrace_rows_total": "{rows}",
    }
    assert {name: sent[name].unit for name in units} == units
    assert receiver.resources[0]["service.name"] == "tailrace"
    assert receiver.resources[0]["deployment.environment"] == "test"


def test_the_last_values_are_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    receiver, metrics = Receiver(), used()

    async def count() -> None:
        await asyncio.sleep(0)
        metrics.applied({(ITEM, "delete"): work(11)}, Applied())

    sending(receiver.url, count, metrics)
    receiver.close()
    (sent,) = receiver.metrics
    assert received(sent)["tailrace_rows_total{delete,shop.item}"] == 11


def test_a_receiver_that_is_away_is_not_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """GIVEN receivers that do not answer, or are not there WHEN metrics are sent THEN the event
    loop does not wait, and the end waits for a moment at most.
    """
    hanging = Receiver(hangs=True)
    for url in (hanging.url, "http://127.0.0.1:9"):
        gaps: list[float] = []

        async def watch(gaps: list[float] = gaps) -> None:
            for _ in range(30):
                before = time.monotonic()
                await asyncio.sleep(INTERVAL_MS / 1000)
                gaps.append(time.monotonic() - before)

        started = time.monotonic()
        sending(url, watch)
        assert sorted(gaps)[len(gaps) // 2] < 0.2
        assert time.monotonic() - started < 5.0
    assert hanging.requests == 1
    hanging.close()


@pytest.mark.parametrize(
    "variable", ["", "OTEL_SDK_DISABLED=true", "OTEL_METRICS_EXPORTER=none"], ids=str
)
def test_nothing_is_sent_without_an_endpoint_or_if_it_is_left_out(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver()
    if variable:
        monkeypatch.setenv(*variable.split("="))

    async def nothing() -> None:
        await asyncio.sleep(0)

    sending(receiver.url if variable else "", nothing)
    receiver.close()
    assert receiver.requests == 0


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="http"):
        start_metrics("collector:4318", "p")

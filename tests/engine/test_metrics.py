"""The metrics of a running engine, and its log."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import engine.ops.metrics
from engine.contract import Applied
from engine.errors import ConfigError
from engine.ops import log
from engine.ops.metrics import Metrics
from engine.ops.status import Status, TableStatus
from engine.schema import TableId
from tests.support.metric_samples import OPEN_METRICS, samples

ITEM = TableId("shop", "item")


def test_reported_values_are_rendered() -> None:
    metrics = Metrics("p")
    metrics.applied({(ITEM, "insert"): 5}, Applied({ITEM: 2}, {(ITEM, "note", "nul_byte"): 3}))
    metrics.applied({(ITEM, "insert"): 1}, Applied())
    metrics.batch(6, 600, transactions=4)
    metrics.reconnected("sink")
    with metrics.stage("commit"):
        pass
    table = TableStatus("shop.item", "backfilling", 10, 100)
    metrics.observe(Status(state="streaming", lag_seconds=1.5, lag_bytes=4096, tables=(table,)))
    shown = samples(metrics)
    assert shown["tailrace_rows_total{insert,shop.item}"] == 6
    assert shown["tailrace_drift_total{shop.item}"] == 2
    assert shown["tailrace_replaced_values_total{note,nul_byte,shop.item}"] == 3
    assert shown["tailrace_transactions_total"] == 4
    assert shown["tailrace_batch_rows_sum"] == 6
    assert shown["tailrace_batch_bytes_sum"] == 600
    assert shown["tailrace_reconnects_total{sink}"] == 1
    assert shown["tailrace_reconnects_total{source}"] == 0
    assert shown["tailrace_stage_seconds_count{commit}"] == 1
    assert shown["tailrace_last_commit_timestamp_seconds"] > 1e9
    assert shown["tailrace_up"] == 1
    assert shown["tailrace_lag_seconds"] == 1.5
    assert shown["tailrace_lag_bytes"] == 4096
    assert shown["tailrace_backfill_rows{shop.item}"] == 10
    assert shown["tailrace_backfill_estimate_rows{shop.item}"] == 100
    assert shown["tailrace_table_state{backfilling,shop.item}"] == 1
    assert shown["tailrace_table_state{live,shop.item}"] == 0


def test_a_lost_connection_and_a_dropped_table() -> None:
    metrics = Metrics("p")
    live = (TableStatus("shop.item", "live"),)
    metrics.observe(Status(state="streaming", lag_seconds=1.5, lag_bytes=10, tables=live))
    assert "tailrace_backfill_rows{shop.item}" in samples(metrics)
    metrics.observe(Status(state="connecting", tables=(TableStatus("shop.part"),)))
    shown = samples(metrics)
    assert shown["tailrace_up"] == 0
    assert shown["tailrace_lag_seconds"] == 1.5
    assert "tailrace_lag_bytes" not in shown
    assert not any("shop.item" in name for name in shown)
    assert "tailrace_backfill_rows{shop.part}" in shown


def test_a_stage_that_fails_is_not_measured() -> None:
    metrics = Metrics("p")
    with pytest.raises(ConfigError), metrics.stage("commit"):
        raise ConfigError("x")
    assert samples(metrics)["tailrace_stage_seconds_count{commit}"] == 0


def test_every_metric_is_documented() -> None:
    documented = set(re.findall(r"^tailrace_\w+", engine.ops.metrics.__doc__ or "", re.MULTILINE))
    families = text_string_to_metric_families(Metrics("p").render(OPEN_METRICS)[0].decode())
    names = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in families
    }
    assert documented == names


# -- the log ---------------------------------------------------------------------------------------


@pytest.fixture
def configured() -> Iterator[None]:
    """Restore the logger after the test."""
    logger = logging.getLogger("tailrace")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.mark.usefixtures("configured")
def test_both_formats_carry_the_same_fields(capsys: pytest.CaptureFixture[str]) -> None:
    extra = {"pipeline": "p", "table": ITEM, "rows": 3, "error": 'a "b"'}
    log.configure("json", "info")
    logging.getLogger("tailrace.pipeline").warning("it %s", "stopped", extra=extra)
    logging.getLogger("tailrace.pipeline").debug("not shown")
    (text,) = capsys.readouterr().err.splitlines()
    line = json.loads(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "tailrace.pipeline",
        "message": "it stopped",
        **extra,
        "table": "shop.item",
    }
    log.configure("text", "debug")
    logging.getLogger("tailrace.pipeline").debug("shown", extra=extra)
    (text,) = capsys.readouterr().err.splitlines()
    assert text.endswith(' DEBUG   shown pipeline=p table=shop.item rows=3 error="a \\"b\\""')


@pytest.mark.usefixtures("configured")
def test_a_bug_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for format in ("json", "text"):
        log.configure(format, "info")  # type: ignore[arg-type]
        try:
            raise RuntimeError("bug")
        except RuntimeError:
            logging.getLogger("tailrace").exception("stopped")
        assert "RuntimeError: bug" in capsys.readouterr().err

"""
The metrics of a running engine: each of the list, and what they count.
"""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from engine.ops.metric_list import METRICS
from engine.sandbox import SandboxUnavailable, prometheus_command
from tests.support.engine_process import EngineProcess, write_config
from tests.support.metric_samples import OPEN_METRICS
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.otel_receiver import Receiver
from tests.support.servers import AnyServer, do_without
from tests.support.waiting import wait_until


class Followed:
    """A database that an engine mirrors."""

    def __init__(self, writer: Writer, engine: EngineProcess, url: str, receiver: Receiver) -> None:
        self.writer, self.engine, self.receiver = writer, engine, receiver
        self.connection = psycopg.connect(url, autocommit=True)
        self.count = f'SELECT count(*) FROM "{writer.database}".t'

    def insert(self) -> None:
        """Insert a row."""
        self.writer("INSERT INTO t (v) VALUES ('x')")

    def wait_for_rows(self, count: int) -> None:
        """Wait until the target has so many rows."""
        wait_until(lambda: self.connection.execute(self.count).fetchone() == (count,))

    def text(self, accept: str = OPEN_METRICS) -> str:
        url = f"http://127.0.0.1:{self.engine.port}/metrics"
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def samples(self) -> dict[str, float]:
        """As ``tests.support.metric_samples``, with the metrics of the process."""
        found = {}
        for family in text_string_to_metric_families(self.text()):
            for sample in family.samples:
                sample.labels.pop("pipeline", None)
                labels = ",".join(value for _, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found


@pytest.fixture
def followed(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Followed]:
    database = fresh_mysql_database(mysql)
    writer = Writer(mysql, database)
    writer("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v TEXT)")
    writer("INSERT INTO t (v) VALUES ('a'), ('b')")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")
    receiver = Receiver()
    more = f'[telemetry]\nendpoint = "{receiver.url}"\n'
    config = write_config(tmp_path, mysql.url, target_database, f"{database}.*", more=more)
    with EngineProcess(config) as engine:
        engine.wait_status(lambda s: s["state"] == "streaming" and s["lag_seconds"] == 0)
        it = Followed(writer, engine, target_database, receiver)
        yield it
        it.connection.close()
    receiver.close()
    writer.connection.close()


def test_a_running_engine_serves_the_list(followed: Followed) -> None:
    for _ in range(3):
        followed.insert()
    followed.writer("UPDATE t SET v = 'y' WHERE id = 1", "DELETE FROM t WHERE id = 2")
    followed.wait_for_rows(4)
    wait_until(lambda: followed.samples()["tailrace_transactions_total"] == 5)
    shown, table = followed.samples(), f"{followed.writer.database}.t"
    for operation, rows in {"insert": 3, "update": 1, "delete": 1}.items():
        assert shown[f"tailrace_rows_total{{{operation},{table}}}"] == rows
        assert shown[f"tailrace_table_transactions_total{{{operation},{table}}}"] == rows
        assert shown[f"tailrace_row_bytes_total{{{operation},{table}}}"] > 0
    assert shown[f"tailrace_rows_total{{read,{table}}}"] == 2
    assert shown["tailrace_latency_seconds_count"] == 5
    assert shown["tailrace_tables{live}"] == shown["tailrace_backfill_ratio"] == 1
    assert shown["tailrace_up"] == 1
    assert shown["process_resident_memory_bytes"] > 10_000_000
    assert shown["process_cpu_seconds_total"] > 0
    for stage in ("read", "decode", "queue", "apply", "commit", "chunk", "backfill"):
        assert shown[f"tailrace_stage_seconds_count{{{stage}}}"] > 0, stage

    def sent() -> bool:
        """Whether the receiver has got them, too."""
        found = followed.receiver.metrics[-1:]
        return (
            bool(found) and found[0]["tailrace_transactions_total"].sum.data_points[0].as_int == 5
        )

    wait_until(sent, what="the metrics at the receiver")

    text = followed.text("text/plain")
    types = dict(re.findall(r"^# TYPE (tailrace_\w+) (\w+)$", text, re.MULTILINE))
    assert types == {it.name: it.kind.replace("info", "gauge") for it in METRICS}
    meanings = dict(re.findall(r"^# HELP (tailrace_\w+) (.*)$", text, re.MULTILINE))
    assert meanings == {it.name: it.meaning for it in METRICS}
    try:
        command = prometheus_command("promtool")
    except SandboxUnavailable as error:
        do_without(error)
    checked = subprocess.run(
        [*command, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")

"""
The alerts in a real Prometheus: each fault is caused, its alert fires, and what the runbook says
clears it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg
import pytest

from engine.sandbox import SandboxUnavailable
from tests.support.commands import tailrace
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.prometheus import Prometheus
from tests.support.servers import AnyServer, do_without
from tests.support.waiting import wait_until

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
MORE = '[errors]\non_error = "dead_letter"\n'


class Watched:
    """A mirrored table, the engine, and a Prometheus that watches it."""

    def __init__(
        self, source: AnyServer, target: AnyServer, database: str, url: str, folder: Path
    ) -> None:
        self.source, self.target = source, target
        self.writer = Writer(source, database)
        self.writer("CREATE TABLE t (id INT PRIMARY KEY, v INT)", "INSERT INTO t VALUES (1, 1)")
        self.table, self.url = f"{database}.t", url
        self.config = write_config(folder, source.url, url, f"{database}.*", more=MORE)

    def on_target(self, statement: str) -> None:
        """Execute a statement on the target, in which {} stands for the table."""
        name = '"{}"."{}"'.format(*self.table.split("."))
        with psycopg.connect(self.url, autocommit=True) as there:
            there.execute(statement.format(name).encode())


@pytest.fixture
def watched(
    mysql: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
) -> Iterator[Watched]:
    it = Watched(mysql, postgres, fresh_mysql_database(mysql), target_database, tmp_path)
    yield it
    it.writer.connection.close()


Fault = Callable[[Watched, Prometheus], None]


def paused(it: Watched, prometheus: Prometheus) -> None:
    tailrace(0, "pause", it.config)
    prometheus.wait_for("TailracePaused")
    assert "pause" in tailrace(0, "commands", it.config)
    tailrace(0, "resume", it.config)


def quarantined(it: Watched, prometheus: Prometheus) -> None:
    tailrace(0, "quarantine", it.config, it.table)
    prometheus.wait_for("TailraceTableQuarantined")
    assert prometheus.query(f'tailrace_table_quarantined{{table="{it.table}"}}') == [1]
    assert "tailrace backfill" in tailrace(3, "tables", it.config)
    tailrace(0, "backfill", it.config, it.table)


def dead_letters(it: Watched, prometheus: Prometheus) -> None:
    it.on_target("ALTER TABLE {} ADD CONSTRAINT small CHECK (v < 100)")
    it.writer("INSERT INTO t VALUES (2, 500)")
    # The error that showed the constraint ends one attempt, which is too few for TailraceErrors.
    prometheus.wait_for("TailraceDeadLetters")
    assert it.table in tailrace(3, "dead-letters", it.config, "list")
    it.on_target("ALTER TABLE {} DROP CONSTRAINT small")
    tailrace(0, "dead-letters", it.config, "retry")


def source_away(it: Watched, prometheus: Prometheus) -> None:
    it.source.kill()
    prometheus.wait_for("TailraceSourceAway")
    tailrace(1, "check", it.config)
    it.source.start()
    it.writer.reconnect()


def target_away(it: Watched, prometheus: Prometheus) -> None:
    it.target.kill()
    prometheus.wait_for("TailraceTargetAway")
    tailrace(1, "check", it.config)
    it.target.start()


def locked(it: Watched, prometheus: Prometheus) -> None:
    """Another session of the target holds a lock. The runbook's query finds it."""
    section = RUNBOOK.read_text(encoding="utf-8").partition("## TailraceCheckpointOld")[2]
    query = section.partition("```sql\n")[2].partition("```")[0]
    with closing(psycopg.connect(it.url)) as holder, psycopg.connect(it.url) as there:
        holder.execute('LOCK TABLE "{}"."{}"'.format(*it.table.split(".")).encode())
        it.writer("INSERT INTO t VALUES (3, 3)")
        prometheus.wait_for("TailraceCheckpointOld")
        found = there.execute(query.encode(), prepare=False)
        columns = [it.name for it in found.description or ()]
        blocked = [dict(zip(columns, row, strict=True))["blocked_by"] for row in found]
        assert [holder.info.backend_pid] in blocked
        there.execute("SELECT pg_terminate_backend(%s)", [holder.info.backend_pid])


def drift(it: Watched, prometheus: Prometheus) -> None:
    """The alert lasts for an hour, so nothing clears it here."""
    it.on_target("DELETE FROM {} WHERE id = 1")
    it.writer("UPDATE t SET v = 3 WHERE id = 1")
    prometheus.wait_for("TailraceDrift")


def watch(watched: Watched, folder: Path, *faults: Fault) -> None:
    """Cause each fault while a Prometheus watches the engine; at the end the engine is gone."""
    with EngineProcess(watched.config) as engine:
        try:
            prometheus = Prometheus(folder, engine.port)
        except SandboxUnavailable as error:
            do_without(error)
        with prometheus:
            engine.wait_status(lambda it: it["state"] == "streaming")
            for values in ("up", "tailrace_up", "tailrace_lag_seconds == bool 0"):
                wait_until(partial(lambda it: prometheus.query(it) == [1], values), what=values)
            for cause in faults:
                prometheus.wait_for()
                cause(watched, prometheus)
            prometheus.wait_for()
            wait_until(lambda: prometheus.query("tailrace_lag_seconds") == [0], what="no lag")
            drift(watched, prometheus)
            engine.kill()
            # What the engine showed is gone with it.
            prometheus.wait_for("TailraceEngineDown")


def test_a_source_that_is_away_has_an_alert(watched: Watched, tmp_path: Path) -> None:
    watch(watched, tmp_path, source_away)


@pytest.mark.slow
def test_each_fault_has_an_alert_and_a_way_out(watched: Watched, tmp_path: Path) -> None:
    watch(watched, tmp_path, paused, quarantined, dead_letters, locked, target_away)

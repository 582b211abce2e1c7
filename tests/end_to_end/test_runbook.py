"""
The entries of the runbook that take long to cause: the alert fires on what a real engine shows, and
what the entry says to type ends it. A minute of the rules is a second here.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.databases.mysql.connect import query
from engine.sandbox import start_mysql
from tests.support.background import Background
from tests.support.commands import tailrace
from tests.support.engine_process import EngineProcess
from tests.support.faults import Mirror
from tests.support.global_variables import set_globally
from tests.support.mysql_sessions import Writer
from tests.support.prometheus import Prometheus
from tests.support.servers import AnyServer, connect_mysql, obtain
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
MakeMirror = Callable[..., Mirror]


def statements(entry: str) -> list[str]:
    """The SQL of an entry of the runbook."""
    section = RUNBOOK.read_text(encoding="utf-8").partition(f"\n## {entry}\n")[2]
    return re.findall(r"```sql\n(.+?)```", section.partition("\n## ")[0], re.DOTALL)


def wait_over(prometheus: Prometheus, *names: str) -> None:
    """Wait until none of these alerts fires."""
    wait_until(
        lambda: prometheus.firing().isdisjoint(names), timeout=90, what=f"the end of {names}"
    )


def writing(server: AnyServer, database: str, statement: str, seconds: float) -> Background:
    """Meanwhile an application commits a statement at intervals."""

    def write(stopping: threading.Event) -> None:
        writer = Writer(server, database)
        with closing(writer.connection):
            while not stopping.wait(seconds):
                writer(statement)

    return Background(write)


# -- TailraceLagHigh, TailraceLagNotFalling, TailraceQueueFull -------------------------------------

SLOWLY = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep({seconds}); RETURN new; END $$;
CREATE TRIGGER slowly BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION slowly();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER slowly
"""


def slow_down(there: psycopg.Connection[Any], table: str, seconds: float) -> None:
    """Somebody adds a trigger to a table of the target, which takes this time for each row."""
    for statement in SLOWLY.format(seconds=seconds, table=table).split(";\n"):
        there.execute(statement.encode())


def test_a_target_that_is_too_slow(
    mysql: AnyServer, target_database: str, make_mirror: MakeMirror
) -> None:
    mirror = make_mirror(mysql, target_database)
    mirror.write_config("[batch]\nmax_rows = 20\nqueue_bytes = 20_000\n")
    name, table = mirror.writer.database, f"{mirror.writer.database}.t"
    insert = "INSERT INTO t (v) VALUES (repeat('x', 100))"
    alerts = ("TailraceLagHigh", "TailraceLagNotFalling", "TailraceQueueFull")
    with (
        mirror.running(hurried=True) as prometheus,
        psycopg.connect(target_database, autocommit=True) as there,
    ):
        slow_down(there, table, 0.05)
        with writing(mysql, name, insert, 0.01):
            for alert in alerts:
                prometheus.wait_until_fires(alert)
            assert "lag" in tailrace(0, "status", mirror.config)

            def limited_by_the_queue(status: dict[str, Any]) -> bool:
                shares = {it["stage"]: it["share"] or 0.0 for it in status["stages"]}
                return status["catch_up_seconds"] is None and shares["queue"] > 0.7

            mirror.engine.wait_status(limited_by_the_queue)
            waits = (
                "SELECT wait_event_type, wait_event FROM pg_stat_activity"
                " WHERE application_name = 'tailrace'"
            )
            assert " ".join(waits.split()) in " ".join(RUNBOOK.read_text().split())
            wait_until(
                lambda: ("Timeout", "PgSleep") in there.execute(waits).fetchall(),
                what="the wait of the trigger",
            )
            there.execute(f"DROP TRIGGER slowly ON {table}".encode())
            wait_over(prometheus, *alerts)
        mirror.wait_level()
        assert mirror.engine.terminate() == 0


def test_a_backfill_that_keeps_the_stream_waiting(
    mysql: AnyServer, target_database: str, make_mirror: MakeMirror
) -> None:
    mirror = make_mirror(mysql, target_database)
    mirror.write_config("[backfill]\nchunk_rows = 20\nslice_seconds = 8\nreaders = 1\n")
    name = mirror.writer.database
    mirror.writer("CREATE TABLE u (id INT AUTO_INCREMENT PRIMARY KEY)")
    with (
        mirror.running(hurried=True) as prometheus,
        psycopg.connect(target_database, autocommit=True) as there,
    ):
        for _ in range(30):
            mirror.insert("x")
        mirror.writer(*["INSERT INTO t (v) SELECT v FROM t"] * 6)
        mirror.wait_level()
        slow_down(there, f"{name}.t", 0.02)
        with writing(mysql, name, "INSERT INTO u VALUES ()", 0.05):
            tailrace(0, "backfill", mirror.config, f"{name}.t", "--in-place")
            prometheus.wait_until_fires("TailraceLagNotFalling")
            mirror.engine.wait_status(lambda it: it["state"] == "backfilling")
            text = mirror.config.read_text()
            mirror.config.write_text(text.replace("slice_seconds = 8", "slice_seconds = 0.1"))
            tailrace(0, "reload", mirror.config)
            wait_over(prometheus, "TailraceLagNotFalling")
            status = mirror.engine.wait_status(lambda it: it["state"] == "backfilling")
            assert status["lag_seconds"] < 3
            there.execute(f"DROP TRIGGER slowly ON {name}.t".encode())
        mirror.wait_level()
        assert mirror.engine.terminate() == 0


# -- TailraceBackfillStalled: a lock on the source's table -----------------------------------------


@pytest.fixture(scope="module")
def watched_mysql() -> Iterator[AnyServer]:
    """MySQL as it is by default: with its performance schema."""
    with obtain(lambda: start_mysql(options=["--performance-schema=ON"])) as server:
        yield server


@pytest.mark.parametrize("kind", ["watched_mysql", "mariadb_10", "mariadb_11"])
def test_a_lock_on_a_table_of_the_source(
    request: pytest.FixtureRequest, kind: str, target_database: str, make_mirror: MakeMirror
) -> None:
    server: AnyServer = request.getfixturevalue(kind)
    mirror = make_mirror(server, target_database)
    mirror.insert()
    with mirror.running(hurried=True) as prometheus, connect_mysql(server) as holder:
        table = f"{mirror.writer.database}.t"
        query(holder, f"LOCK TABLES {table} WRITE")
        tailrace(0, "backfill", mirror.config, table)
        prometheus.wait_until_fires("TailraceBackfillStalled")
        assert table in tailrace(0, "tables", mirror.config)
        found = query(mirror.writer.connection, "SHOW FULL PROCESSLIST")
        assert [row for row in found if "lock" in str(row[6]) and "FROM" in str(row[7])], found
        if kind == "watched_mysql":
            asked = "SELECT blocking_pid FROM sys.schema_table_lock_waits"
            assert asked in RUNBOOK.read_text()
            assert (holder.thread_id(),) in query(mirror.writer.connection, asked)
        mirror.writer(f"KILL {holder.thread_id()}")
        wait_over(prometheus, "TailraceBackfillStalled")
        mirror.wait_level()
        assert mirror.engine.terminate() == 0


# -- TailraceLogPurgedSoon -------------------------------------------------------------------------


#: The source keeps its log for two hours. MariaDB 11.4 and later would keep it without a replica.
KEPT = {"binlog_expire_logs_seconds": 7200, "slave_connections_needed_for_purge": 0}


@pytest.mark.parametrize("in_time", [True, False], ids=["in time", "too late"])
def test_a_log_that_the_source_deletes_soon(
    mysql_family: AnyServer, target_database: str, make_mirror: MakeMirror, in_time: bool
) -> None:
    mirror = make_mirror(mysql_family, target_database)
    with set_globally(mysql_family, KEPT):
        with mirror.running(hurried=True) as prometheus:
            tailrace(0, "pause", mirror.config)
            mirror.insert()
            prometheus.wait_until_fires("TailraceLogPurgedSoon")
            shown = json.loads(tailrace(1, "status", mirror.config, "--json"))
            assert 0 < shown["log_kept_seconds"] <= 7200
            if in_time:
                mirror.writer(*statements("TailraceLogPurgedSoon"))
                wait_over(prometheus, "TailraceLogPurgedSoon")
                assert "pause" in tailrace(0, "commands", mirror.config)
                tailrace(0, "resume", mirror.config)
                mirror.wait_level()
                assert mirror.engine.terminate() == 0
                return
            expire(mirror.writer)
            tailrace(0, "resume", mirror.config)
            assert mirror.engine.wait() == 1
        remedy = f"tailrace backfill {mirror.config} --all"
        assert remedy in mirror.engine.log.read_text()
        tailrace(0, *remedy.split()[1:])
        with mirror.running():
            assert mirror.engine.terminate() == 0


def expire(writer: Writer) -> None:
    """Let the source delete the present log files, by their age."""
    writer("SET GLOBAL binlog_expire_logs_seconds = 1")

    def files() -> list[str]:
        return [str(row[0]) for row in query(writer.connection, "SHOW BINARY LOGS")]

    def deleted() -> bool:
        writer("FLUSH BINARY LOGS")
        return last not in files()

    last = files()[-1]
    wait_until(deleted, what="the end of old files")


# -- TailraceRestarts ------------------------------------------------------------------------------


class Service:
    """Starts an engine again whenever it ends, as a service manager does, while it is entered."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._stopped = threading.Event()
        self.engine = EngineProcess(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.engine.process.wait()
            if not self._stopped.wait(1.0):
                self.engine = EngineProcess(self._config, port=self.engine.port)

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.engine.process.kill()
        self._thread.join(20)


def test_two_engines_that_fence_each_other(
    mysql: AnyServer, target_database: str, make_mirror: MakeMirror, tmp_path: Path
) -> None:
    mirror = make_mirror(mysql, target_database)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mirror.toml").write_text(mirror.config.read_text())
    insert = "INSERT INTO t (v) VALUES ('x')"
    with (
        Service(mirror.config) as one,
        Prometheus(tmp_path, one.engine.port, hurried=True) as prometheus,
        writing(mysql, mirror.writer.database, insert, 0.05),
    ):
        wait_until(lambda: prometheus.query("tailrace_up") == [1], what="an engine")
        with Service(other / "mirror.toml") as two:
            prometheus.wait_until_fires("TailraceRestarts")
            for it in (one, two):
                assert "newer engine has taken over" in it.engine.log.read_text()
        wait_over(prometheus, "TailraceRestarts")
        one.engine.wait_status(lambda it: it["state"] == "streaming")
    mirror.engine = EngineProcess(mirror.config)
    with mirror.engine:
        mirror.wait_level()


def test_an_engine_that_is_killed_again_and_again(
    mysql: AnyServer, target_database: str, make_mirror: MakeMirror, tmp_path: Path
) -> None:
    """As the kernel does where memory is short."""
    mirror = make_mirror(mysql, target_database)
    with (
        Service(mirror.config) as service,
        Prometheus(tmp_path, service.engine.port, hurried=True) as prometheus,
    ):
        mirror.insert()
        for _ in range(4):
            wait_until(lambda: prometheus.query("tailrace_up") == [1], what="an engine")
            service.engine.process.kill()
            wait_until(lambda: prometheus.query("up") == [0], what="its end")
        prometheus.wait_until_fires("TailraceRestarts")
        wait_over(prometheus, "TailraceRestarts")
        mirror.engine = service.engine
        mirror.wait_level()


# -- TailraceErrors, TailraceMemory, TailraceDifferent, TailraceProofOld ---------------------------


def test_errors_again_and_again(
    mysql: AnyServer, target_database: str, make_mirror: MakeMirror
) -> None:
    """Another session of the target locks a table, for longer than the engine waits."""
    mirror = make_mirror(mysql, target_database)
    mirror.write_config("timeout_seconds = 0.5\n[retry]\nmax_seconds = 0.2\n")
    table = f"{mirror.writer.database}.t"
    with (
        mirror.running(hurried=True) as prometheus,
        closing(psycopg.connect(target_database)) as holder,
    ):
        holder.execute(f"LOCK TABLE {table}".encode())
        mirror.insert()
        prometheus.wait_until_fires("TailraceErrors")
        assert table in mirror.wait_error("SinkLost", "LockNotAvailable")["table"]
        with psycopg.connect(target_database, autocommit=True) as there:
            there.execute("SELECT pg_terminate_backend(%s)", [holder.info.backend_pid])
        wait_over(prometheus, "TailraceErrors")
        mirror.wait_level()
        assert mirror.engine.terminate() == 0


def test_an_engine_that_needs_much_memory(
    mysql: AnyServer, target_database: str, make_mirror: MakeMirror
) -> None:
    mirror = make_mirror(mysql, target_database)
    large, small = 500_000_000, 8_000_000
    mirror.write_config(f"[batch]\nqueue_bytes = {large}\nmax_bytes = {large}\n")
    name = mirror.writer.database
    memory = "process_resident_memory_bytes"

    def backlog() -> None:
        for _ in range(40):
            mirror.writer("INSERT INTO t (v) VALUES " + ",".join(["(repeat('x', 1000000))"] * 8))

    with (
        mirror.running(hurried=True) as prometheus,
        closing(psycopg.connect(target_database)) as holder,
    ):
        holder.execute(f"LOCK TABLE {name}.t".encode())
        backlog()
        prometheus.wait_until_fires("TailraceMemory")
        holder.rollback()
        text = mirror.config.read_text().replace(str(large), str(small))
        mirror.config.write_text(text)
        tailrace(0, "reload", mirror.config)
        wait_over(prometheus, "TailraceMemory")
        mirror.writer("TRUNCATE TABLE t")
        mirror.wait_level()
        holder.execute(f"LOCK TABLE {name}.t".encode())
        backlog()
        wait_until(lambda: prometheus.query("tailrace_lag_seconds > 3"), what="a lag")
        (most,) = prometheus.query(f"max_over_time({memory}[10s])")
        assert "TailraceMemory" not in prometheus.firing(), most
        holder.rollback()
        mirror.wait_level()
        assert mirror.engine.terminate() == 0


def test_a_comparison_that_finds_differences_and_one_that_is_old(
    mysql: AnyServer, target_database: str, make_mirror: MakeMirror
) -> None:
    mirror = make_mirror(mysql, target_database)
    table = f"{mirror.writer.database}.t"
    for _ in range(3):
        mirror.insert()
    with (
        mirror.running(hurried=True) as prometheus,
        psycopg.connect(target_database, autocommit=True) as there,
    ):
        there.execute(f"DELETE FROM {table} WHERE id = 2".encode())
        tailrace(3, "verify", mirror.config)
        prometheus.wait_until_fires("TailraceDifferent")
        assert table in tailrace(0, "tables", mirror.config)
        assert f"{table} (2): missing" in tailrace(3, "verify", mirror.config, "--table", table)
        tailrace(0, "backfill", mirror.config, table)
        mirror.wait_level()
        tailrace(0, "verify", mirror.config, "--table", table)
        wait_over(prometheus, "TailraceDifferent")
        wait_until(lambda: "TailraceProofOld" in prometheus.firing(), timeout=120, what="its age")
        tailrace(0, "verify", mirror.config)
        wait_over(prometheus, "TailraceProofOld")
        assert mirror.engine.terminate() == 0

"""
pg_chameleon: from MariaDB to PostgreSQL, a backlog of changes or the first copy of a table.

For a backlog it first copies the table, then the workload is written, and the time runs from the
start of its replica until the last change is visible. For the result ``snapshot`` the time is that
of ``chameleon init_replica``. It runs under an unprivileged account, with a home folder of its own.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.harness import target
from benchmarks.harness.processes import MeasuredProcess, Usage, measure
from benchmarks.peers.environments import Environment
from benchmarks.peers.mariadb import (
    NOTE,
    create_after,
    create_before,
    private_mariadb,
    source_sums,
    write_changes,
)
from benchmarks.peers.peer import (
    STREAMS,
    CannotRun,
    PeerRun,
    PreparedPeer,
    Scenario,
    address,
    wait_for_last_change,
)
from benchmarks.workloads import DATABASE
from engine.sandbox.process import as_server_account, give_to_server_account

__all__ = ["ENVIRONMENT", "PgChameleon"]

#: pg_chameleon imports pkg_resources, which setuptools removed in a later release.
ENVIRONMENT = Environment(
    "pg_chameleon", ("pg_chameleon>=2.0.21,<2.1", "psycopg2-binary>=2.9,<3", "setuptools<81"), 130
)
SOURCE = "bench"


class PgChameleon:
    """From MariaDB to PostgreSQL."""

    name = "pg_chameleon"
    results = STREAMS | {"snapshot"}

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        """Create the environment if it does not exist, and start a source."""
        ENVIRONMENT.python()
        with private_mariadb() as source:
            runs = _Runs(scenario, source.url)
            run = runs.snapshot if scenario.result == "snapshot" else runs.stream
            yield PreparedPeer(ENVIRONMENT.version(), run, NOTE)


@dataclass(frozen=True)
class _Runs:
    scenario: Scenario
    source_url: str

    def snapshot(self) -> PeerRun:
        """Measure the first copy of the table, which one process makes."""
        create_after(self.source_url, self.scenario.workload)
        with self.scenario.target.database() as url, _home(self.source_url, url) as home:
            self._register(home)
            self.scenario.target.checkpoint()
            usage = self._copy(home, url)
            return self._result(url, usage.wall_seconds, usage)

    def stream(self) -> PeerRun:
        """Measure the replay of the workload, which is written while no replica runs."""
        create_before(self.source_url, self.scenario.workload)
        with self.scenario.target.database() as url, _home(self.source_url, url) as home:
            self._register(home)
            self._copy(home, url)
            write_changes(self.source_url, self.scenario.workload)
            self.scenario.target.checkpoint()
            started = time.perf_counter()
            replica = MeasuredProcess(_command(home, "start_replica"), home / "output")
            try:
                wait_for_last_change(self.scenario, url, lambda: _check_replica(url, replica))
                seconds = time.perf_counter() - started
            finally:
                usage = replica.kill_group()  # one of its processes ignores SIGTERM
            return self._result(url, seconds, usage)

    def _register(self, home: Path) -> None:
        self._call(home, "create_replica_schema", source=False)
        self._call(home, "add_source")

    def _copy(self, home: Path, url: str) -> Usage:
        """Copy the table; the exit status is 0 even if pg_chameleon has skipped the table."""
        usage = self._call(home, "init_replica")
        if target.fetch_row(url, f"SELECT to_regclass('{self.scenario.table}') IS NULL") == (True,):
            raise CannotRun("it did not copy the table", hint=_first_error(home / "output"))
        return usage

    def _call(self, home: Path, action: str, source: bool = True) -> Usage:
        return measure(_command(home, action, source), home / "output")

    def _result(self, url: str, seconds: float, usage: Usage) -> PeerRun:
        spec = self.scenario.workload.table
        return PeerRun(
            seconds=seconds,
            wall_seconds=usage.wall_seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            correct=target.sums(url, spec) == source_sums(self.source_url, spec),
        )


def _check_replica(url: str, replica: MeasuredProcess) -> None:
    """Raise CannotRun if the replica has ended, or has stopped replicating the table."""
    if not replica.running:
        raise CannotRun("its replica process has ended", hint=replica.output_tail())
    (errors,) = target.fetch_row(url, "SELECT count(*) FROM sch_chameleon.t_error_log")
    if errors:
        raise CannotRun("it could not replay all rows and has removed the table from its replica")


def _first_error(output: Path) -> str:
    """The first line of its output that begins with an exception's name, and the next line."""
    lines = output.read_text(errors="replace").splitlines()
    found = (n for n, line in enumerate(lines) if re.match(r"\w*(Error|Exception)\b", line))
    return "\n".join(lines[next(found, 0) :][:2])


@contextmanager
def _home(source_url: str, url: str) -> Iterator[Path]:
    """A temporary home folder with pg_chameleon's configuration."""
    with tempfile.TemporaryDirectory(prefix="tailrace-chameleon-") as name:
        home = Path(name)
        for folder in ("configuration", "logs", "pid"):
            (home / ".pg_chameleon" / folder).mkdir(parents=True)
        file = home / ".pg_chameleon" / "configuration" / "default.yml"
        file.touch(0o600)
        file.write_bytes(msgspec.json.encode(_configuration(source_url, url, home)))  # also YAML
        give_to_server_account(home)
        yield home


def _command(home: Path, action: str, source: bool = True) -> list[str | Path]:
    python = ENVIRONMENT.python()
    command: list[str | Path] = [*as_server_account(ENVIRONMENT.folder), "env", f"HOME={home}"]
    command += [python, python.parent / "chameleon.py", action, "--config", "default"]
    return [*command, "--source", SOURCE] if source else command


def _configuration(source_url: str, url: str, home: Path) -> dict[str, object]:
    """The values of its example configuration, but with a short pause between two reads."""
    source, own = address(source_url), f"{home}/.pg_chameleon"
    connection = {name: source[name] for name in ("host", "port", "user", "password")}
    destination = address(url)
    # pg_chameleon builds "password=... port=..." without quotes, so an empty password would take
    # the next word as its value.
    destination["password"] = destination["password"] or "none"
    return {
        "pid_dir": f"{own}/pid/",
        "log_dir": f"{own}/logs/",
        "log_dest": "stdout",
        "log_level": "info",
        "log_days_keep": 1,
        "rollbar_key": "",
        "rollbar_env": "",
        "pg_conn": {**destination, "charset": "utf8"},
        "sources": {
            SOURCE: {
                "type": "mysql",
                "db_conn": {**connection, "charset": "utf8", "connect_timeout": 10},
                "schema_mappings": {DATABASE: DATABASE},
                "limit_tables": [],
                "skip_tables": [],
                "grant_select_to": [],
                "lock_timeout": "120s",
                "my_server_id": 5403,
                "replica_batch_size": 10_000,
                "replay_max_rows": 10_000,
                "batch_retention": "1 day",
                "copy_max_memory": "300M",
                "copy_mode": "file",
                "out_dir": str(home),
                "sleep_loop": 0.05,
                "on_error_replay": "continue",
                "on_error_read": "continue",
                "auto_maintenance": "disabled",
                "gtid_enable": False,
                "skip_events": {"insert": [], "update": [], "delete": []},
                "keep_existing_schema": False,
                "net_read_timeout": 600,
            }
        },
    }

"""
pg_chameleon: from MariaDB to PostgreSQL, a backlog of changes or a table's copy.

The idea: it copies the table as it is before the workload, then the workload is written, and the
clock runs from the start of its replica until the last change is there. A copy's time is that of
``chameleon init_replica``. It runs as an account without rights, in a home of its own.
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

from benchmarks import target
from benchmarks.peers.environments import Environment
from benchmarks.peers.mariadb import (
    NOTE,
    before,
    loaded,
    private_mariadb,
    source_sums,
    write_changes,
)
from benchmarks.peers.peer import STREAMS, CannotRun, Ready, Scene, Turn, address, arrived
from benchmarks.processes import Started, Usage, measure
from benchmarks.workloads import DATABASE
from engine.sandbox.process import as_server_account, give_to_server_account

__all__ = ["ENVIRONMENT", "PgChameleon"]

#: It needs pkg_resources, which later releases of setuptools do not have.
ENVIRONMENT = Environment(
    "pg_chameleon", ("pg_chameleon>=2.0.21,<2.1", "psycopg2-binary>=2.9,<3", "setuptools<81"), 130
)
SOURCE = "bench"


class PgChameleon:
    """From MariaDB to PostgreSQL."""

    name = "pg_chameleon"
    results = STREAMS | {"snapshot"}

    @contextmanager
    def ready(self, scene: Scene) -> Iterator[Ready]:
        """The environment, which is made the first time, and a source."""
        ENVIRONMENT.python()
        with private_mariadb() as source:
            run = _Run(scene, source.url)
            turn = run.snapshot if scene.result == "snapshot" else run.stream
            yield Ready(ENVIRONMENT.version(), turn, NOTE)


@dataclass(frozen=True)
class _Run:
    scene: Scene
    source_url: str

    def snapshot(self) -> Turn:
        """The table's copy, by one process."""
        loaded(self.source_url, self.scene.workload)
        with self.scene.target.database() as url, _home(self.source_url, url) as home:
            self._register(home)
            self.scene.target.calm()
            usage = self._copy(home, url)
            return self._turn(url, usage.wall_seconds, usage)

    def stream(self) -> Turn:
        """The workload, written while no replica runs."""
        before(self.source_url, self.scene.workload)
        with self.scene.target.database() as url, _home(self.source_url, url) as home:
            self._register(home)
            self._copy(home, url)
            write_changes(self.source_url, self.scene.workload)
            self.scene.target.calm()
            started = time.perf_counter()
            replica = Started(_words(home, "start_replica"), home / "output")
            try:
                arrived(self.scene, url, lambda: _see_errors(url, replica))
                seconds = time.perf_counter() - started
            finally:
                usage = replica.cut_off()  # one of its processes ignores SIGTERM
            return self._turn(url, seconds, usage)

    def _register(self, home: Path) -> None:
        self._call(home, "create_replica_schema", source=False)
        self._call(home, "add_source")

    def _copy(self, home: Path, url: str) -> Usage:
        """Its status is that of success also when it has left the table out."""
        usage = self._call(home, "init_replica")
        if target.ask(url, f"SELECT to_regclass('{self.scene.table}') IS NULL") == (True,):
            raise CannotRun("it did not copy the table", hint=_fault(home / "output"))
        return usage

    def _call(self, home: Path, command: str, source: bool = True) -> Usage:
        return measure(_words(home, command, source), home / "output")

    def _turn(self, url: str, seconds: float, usage: Usage) -> Turn:
        form = self.scene.workload.form
        return Turn(
            seconds=seconds,
            wall_seconds=usage.wall_seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_memory_mb=usage.peak_memory_mb,
            correct=target.sums(url, form) == source_sums(self.source_url, form),
        )


def _see_errors(url: str, replica: Started) -> None:
    """A table that it could not replay is out of its replica; waiting for it would be in vain."""
    if not replica.running:
        raise CannotRun("its replica has ended", hint=replica.last_words())
    (errors,) = target.ask(url, "SELECT count(*) FROM sch_chameleon.t_error_log")
    if errors:
        raise CannotRun("it could not replay all rows, and has given up the table")


def _fault(output: Path) -> str:
    """The first line of its output that speaks of one, and what follows."""
    lines = output.read_text(errors="replace").splitlines()
    found = (n for n, line in enumerate(lines) if re.match(r"\w*(Error|Exception)\b", line))
    return "\n".join(lines[next(found, 0) :][:2])


@contextmanager
def _home(source_url: str, url: str) -> Iterator[Path]:
    """A folder of its own, with its configuration."""
    with tempfile.TemporaryDirectory(prefix="tailrace-chameleon-") as name:
        home = Path(name)
        for folder in ("configuration", "logs", "pid"):
            (home / ".pg_chameleon" / folder).mkdir(parents=True)
        file = home / ".pg_chameleon" / "configuration" / "default.yml"
        file.touch(0o600)
        file.write_bytes(msgspec.json.encode(_configuration(source_url, url, home)))  # also YAML
        give_to_server_account(home)
        yield home


def _words(home: Path, command: str, source: bool = True) -> list[str | Path]:
    python = ENVIRONMENT.python()
    words: list[str | Path] = [*as_server_account(ENVIRONMENT.folder), "env", f"HOME={home}"]
    words += [python, python.parent / "chameleon.py", command, "--config", "default"]
    return [*words, "--source", SOURCE] if source else words


def _configuration(source_url: str, url: str, home: Path) -> dict[str, object]:
    """Its example's values, but for the pause between two readings, which is as short as can be."""
    source, own = address(source_url), f"{home}/.pg_chameleon"
    connection = {name: source[name] for name in ("host", "port", "user", "password")}
    destination = address(url)
    # It writes "password=... port=..." without quotes, so no password at all would be the port.
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

"""
PostgreSQL's own logical replication: the target subscribes to a publisher with the same changes.

Only the apply is measured. The changes wait in the publisher's replication slot, and each run uses
a copy of the slot. The time runs from the moment when the subscription is enabled until the last
row is visible. The subscription has PostgreSQL's defaults, with which its apply worker does not
wait for the disk at a commit (``synchronous_commit = off``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import psycopg

from benchmarks.harness import target
from benchmarks.harness.processes import cpu_seconds
from benchmarks.peers.peer import (
    STREAMS,
    CannotRun,
    PeerRun,
    PreparedPeer,
    Scenario,
    address,
    wait_for_last_change,
)
from engine.errors import TailraceError
from engine.sandbox import Server, start_postgres

__all__ = ["LogicalReplication"]

NAME = "tailrace_peer"
#: The publisher need not be durable while the workload is written.
PUBLISHER_OPTIONS = (
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "checkpoint_timeout=1h",
    "autovacuum=off",
    "synchronous_commit=off",
)
#: The number of transactions that go to the publisher in one packet.
TRANSACTIONS_PER_PACKET = 100
STATUS_SECONDS = 60.0
NOTE = "its CPU seconds are those of both servers"


class LogicalReplication:
    """From PostgreSQL to PostgreSQL; only the apply is measured."""

    name = "PostgreSQL replication"
    results = STREAMS

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        """Start a publisher of the target's release, with the workload in its log."""
        if scenario.target.process_id is None:
            raise CannotRun("needs a private target: your own server may not reach the publisher")
        # Without it an apply worker starts only some seconds after the one of the run before.
        target.execute(scenario.target.url, "ALTER SYSTEM SET wal_retrieve_retry_interval = '10ms'")
        target.execute(scenario.target.url, "SELECT pg_reload_conf()")
        release = _release(scenario.target.url)
        with start_postgres(release, options=PUBLISHER_OPTIONS) as publisher:
            _publish(scenario, publisher.url)
            yield PreparedPeer(publisher.version, lambda: _apply(scenario, publisher), NOTE)


def _release(url: str) -> str:
    (version,) = target.fetch_row(url, "SHOW server_version")
    return str(version).partition(".")[0]


def _publish(scenario: Scenario, url: str) -> None:
    """Create the table before the workload and a slot, then run the workload's transactions."""
    assert scenario.make_base is not None
    scenario.make_base(url)
    target.execute(
        url,
        f"CREATE PUBLICATION {NAME} FOR TABLE {scenario.table}",
        f"SELECT pg_create_logical_replication_slot('{NAME}', 'pgoutput')",
    )
    with psycopg.connect(url, autocommit=True, options=target.TIMEOUT) as connection:
        if scenario.workload.kind == "insert":
            _insert(scenario, connection)
        else:
            _change(scenario, connection)


def _insert(scenario: Scenario, connection: psycopg.Connection) -> None:
    """Insert the rows in transactions of the same size as on the source."""
    assert scenario.rows is not None
    command = f"COPY {scenario.table} FROM STDIN".encode()
    with scenario.rows.open("rb") as file, connection.cursor() as cursor:
        while lines := b"".join(islice(file, scenario.workload.per_transaction)):
            with cursor.copy(command) as copy:
                copy.write(lines)


def _change(scenario: Scenario, connection: psycopg.Connection) -> None:
    """Run the statements of the source, which PostgreSQL understands, too."""
    connection.execute(f"SET search_path TO {scenario.table.partition('.')[0]}".encode())
    transactions = scenario.workload.transactions()
    while packet := ";".join(islice(transactions, TRANSACTIONS_PER_PACKET)):
        connection.execute(packet.encode())


def _apply(scenario: Scenario, publisher: Server) -> PeerRun:
    """Subscribe to a copy of the slot, and wait for the last row."""
    slot = f"SELECT pg_copy_logical_replication_slot('{NAME}', '{NAME}_run')"
    target.execute(publisher.url, "CHECKPOINT", slot)
    with scenario.target.database(scenario.base) as url:
        target.execute(url, _subscribe(publisher.url))
        scenario.target.checkpoint()
        try:
            return _enabled(scenario, publisher, url)
        finally:
            target.execute(
                url,
                f"ALTER SUBSCRIPTION {NAME} DISABLE",
                f"ALTER SUBSCRIPTION {NAME} SET (slot_name = NONE)",
                f"DROP SUBSCRIPTION {NAME}",
            )
            _drop_slot(publisher.url)


def _subscribe(publisher_url: str) -> str:
    parts = address(publisher_url)
    conninfo = " ".join(f"{word}={parts[name]}" for word, name in _CONNECTION if parts[name])
    return (
        f"CREATE SUBSCRIPTION {NAME} CONNECTION '{conninfo}' PUBLICATION {NAME} WITH"
        f" (enabled = false, create_slot = false, copy_data = false, slot_name = '{NAME}_run')"
    )


_CONNECTION = (("host", "host"), ("port", "port"), ("user", "user"), ("dbname", "database"))


def _enabled(scenario: Scenario, publisher: Server, url: str) -> PeerRun:
    servers = (publisher.process_id, scenario.target.process_id)
    before = sum(cpu_seconds(server) or 0.0 for server in servers)
    started = time.perf_counter()
    target.execute(url, f"ALTER SUBSCRIPTION {NAME} ENABLE")
    wait_for_last_change(scenario, url, lambda: None)
    seconds = time.perf_counter() - started
    return PeerRun(
        seconds=seconds,
        wall_seconds=seconds,
        cpu_seconds=sum(cpu_seconds(server) or 0.0 for server in servers) - before,
        correct=scenario.is_right(url),
    )


def _drop_slot(url: str) -> None:
    """Drop the copy of the slot, which stays active for a moment after the subscriber has gone."""
    query = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{NAME}_run'"
    deadline = time.monotonic() + STATUS_SECONDS
    while target.fetch_row(url, query) == (True,):
        if time.monotonic() > deadline:
            raise TailraceError("the publisher's replication slot stays active")
        time.sleep(0.02)
    target.execute(url, f"SELECT pg_drop_replication_slot('{NAME}_run')")

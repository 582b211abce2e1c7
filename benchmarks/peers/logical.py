"""
PostgreSQL's own logical replication: a publisher with the same changes, and the target subscribes.

The idea: only applying is measured. The changes wait in the publisher's slot, of which each turn
gets a copy, and the clock runs from the moment the subscription is enabled until the last row is
there. The subscription is as PostgreSQL makes it by default, which does not wait for its own disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import psycopg

from benchmarks import target
from benchmarks.peers.peer import STREAMS, CannotRun, Ready, Scene, Turn, address, arrived
from benchmarks.processes import cpu_seconds
from engine.errors import TailraceError
from engine.sandbox import Server, start_postgres

__all__ = ["LogicalReplication"]

NAME = "tailrace_peer"
#: Nobody waits for the publisher's disk while the workload is written there.
PUBLISHER_OPTIONS = (
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "checkpoint_timeout=1h",
    "autovacuum=off",
    "synchronous_commit=off",
)
#: So many transactions travel to the publisher at a time.
TRANSACTIONS_PER_PACKET = 100
STATUS_SECONDS = 60.0
NOTE = "its CPU seconds are those of both servers"


class LogicalReplication:
    """From PostgreSQL to PostgreSQL, apply only."""

    name = "PostgreSQL replication"
    results = STREAMS

    @contextmanager
    def ready(self, scene: Scene) -> Iterator[Ready]:
        """A publisher of the target's release, with the workload in its log."""
        if scene.target.process_id is None:
            raise CannotRun("needs a private target: your own may not reach a publisher here")
        # It starts an apply worker at once, not only some seconds after the one of the turn before.
        target.run(scene.target.url, "ALTER SYSTEM SET wal_retrieve_retry_interval = '10ms'")
        target.run(scene.target.url, "SELECT pg_reload_conf()")
        release = _release(scene.target.url)
        with start_postgres(release, options=PUBLISHER_OPTIONS) as publisher:
            _publish(scene, publisher.url)
            yield Ready(publisher.version, lambda: _apply(scene, publisher), NOTE)


def _release(url: str) -> str:
    (version,) = target.ask(url, "SHOW server_version")
    return str(version).partition(".")[0]


def _publish(scene: Scene, url: str) -> None:
    """The table as it was before, a slot from here on, and the workload's transactions."""
    assert scene.prepare is not None
    scene.prepare(url)
    target.run(
        url,
        f"CREATE PUBLICATION {NAME} FOR TABLE {scene.table}",
        f"SELECT pg_create_logical_replication_slot('{NAME}', 'pgoutput')",
    )
    with psycopg.connect(url, autocommit=True, options=target.TIMEOUT) as connection:
        if scene.workload.kind == "insert":
            _insert(scene, connection)
        else:
            _change(scene, connection)


def _insert(scene: Scene, connection: psycopg.Connection) -> None:
    """Transactions of as many rows as in the source's log."""
    assert scene.rows is not None
    command = f"COPY {scene.table} FROM STDIN".encode()
    with scene.rows.open("rb") as file, connection.cursor() as cursor:
        while lines := b"".join(islice(file, scene.workload.per_transaction)):
            with cursor.copy(command) as copy:
                copy.write(lines)


def _change(scene: Scene, connection: psycopg.Connection) -> None:
    """The very statements that the source has run: they are plain SQL."""
    connection.execute(f"SET search_path TO {scene.table.partition('.')[0]}".encode())
    transactions = scene.workload.transactions()
    while packet := ";".join(islice(transactions, TRANSACTIONS_PER_PACKET)):
        connection.execute(packet.encode())


def _apply(scene: Scene, publisher: Server) -> Turn:
    """Subscribe to a copy of the slot, and wait for the last row."""
    slot = f"SELECT pg_copy_logical_replication_slot('{NAME}', '{NAME}_turn')"
    target.run(publisher.url, "CHECKPOINT", slot)
    with scene.target.database(scene.base) as url:
        target.run(url, _subscribe(publisher.url))
        scene.target.calm()
        try:
            return _enabled(scene, publisher, url)
        finally:
            target.run(
                url,
                f"ALTER SUBSCRIPTION {NAME} DISABLE",
                f"ALTER SUBSCRIPTION {NAME} SET (slot_name = NONE)",
                f"DROP SUBSCRIPTION {NAME}",
            )
            _drop_slot(publisher.url)


def _subscribe(publisher_url: str) -> str:
    parts = address(publisher_url)
    words = " ".join(f"{word}={parts[name]}" for word, name in _CONNECTION if parts[name])
    return (
        f"CREATE SUBSCRIPTION {NAME} CONNECTION '{words}' PUBLICATION {NAME} WITH"
        f" (enabled = false, create_slot = false, copy_data = false, slot_name = '{NAME}_turn')"
    )


_CONNECTION = (("host", "host"), ("port", "port"), ("user", "user"), ("dbname", "database"))


def _enabled(scene: Scene, publisher: Server, url: str) -> Turn:
    servers = (publisher.process_id, scene.target.process_id)
    before = sum(cpu_seconds(server) or 0.0 for server in servers)
    started = time.perf_counter()
    target.run(url, f"ALTER SUBSCRIPTION {NAME} ENABLE")
    arrived(scene, url, lambda: None)
    seconds = time.perf_counter() - started
    return Turn(
        seconds=seconds,
        wall_seconds=seconds,
        cpu_seconds=sum(cpu_seconds(server) or 0.0 for server in servers) - before,
        correct=scene.is_right(url),
    )


def _drop_slot(url: str) -> None:
    """The sender lets the slot go a moment after its subscriber has left."""
    query = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{NAME}_turn'"
    deadline = time.monotonic() + STATUS_SECONDS
    while target.ask(url, query) == (True,):
        if time.monotonic() > deadline:
            raise TailraceError("the publisher's slot stays in use")
        time.sleep(0.02)
    target.run(url, f"SELECT pg_drop_replication_slot('{NAME}_turn')")

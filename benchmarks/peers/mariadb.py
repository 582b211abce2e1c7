"""
A private MariaDB 10.11 with the workload, for peers that do not work with MySQL 9.7.

The table, the rows and the transactions are the same, from the same generators. The peer's result
is compared with this server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice

from pymysql.constants import CLIENT

from benchmarks.harness.source import Sums, connect, table_sums, write_backlog
from benchmarks.workloads import DATABASE, TableSpec, Workload
from engine.sandbox import Server, start_mariadb

__all__ = [
    "NOTE",
    "create_after",
    "create_before",
    "private_mariadb",
    "source_sums",
    "write_changes",
]

NOTE = "on a private MariaDB 10.11 with the same workload, since it does not work with MySQL 9.7"
OPTIONS = (
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--innodb-buffer-pool-size=1G",
    "--max-binlog-size=1G",
)
TRANSACTIONS_PER_PACKET = 100


@contextmanager
def private_mariadb() -> Iterator[Server]:
    """Start a server that is as durable as the MySQL of the engine's measurements."""
    with start_mariadb("10.11", options=OPTIONS) as server:
        try:
            yield server
        finally:
            server.kill()  # its data is not needed any more


def create_before(url: str, workload: Workload) -> None:
    """Create the table, again if it exists, as it is before the workload."""
    write_backlog(url, dataclasses.replace(workload, changes=0))


def create_after(url: str, workload: Workload) -> None:
    """Create the table, again if it exists, as it is after a workload of inserts.

    The rows are not in the log.
    """
    write_backlog(url, dataclasses.replace(workload, preloaded=workload.changes, changes=0))


def write_changes(url: str, workload: Workload) -> None:
    """Run the workload's transactions."""
    transactions = workload.transactions()
    with (
        closing(connect(url, client_flag=CLIENT.MULTI_STATEMENTS)) as session,
        session.cursor() as cursor,
    ):
        cursor.execute(f"USE {DATABASE}")
        per_packet = max(1, TRANSACTIONS_PER_PACKET // workload.per_transaction)
        while packet := ";".join(islice(transactions, per_packet)):
            cursor.execute(packet)
            while cursor.nextset():
                pass


def source_sums(url: str, spec: TableSpec) -> Sums:
    """The sums of the table."""
    with closing(connect(url)) as session:
        return table_sums(session, spec)

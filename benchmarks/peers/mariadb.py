"""
A private MariaDB 10.11 with the workload, for peers that do not work with MySQL 9.7.

The idea: the same table, the same rows and the same transactions, from the same generator; only the
server that writes the log is another one. What a peer leaves is held against this server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice

from pymysql.constants import CLIENT

from benchmarks.kept import Sums, connect, form_sums, write_backlog
from benchmarks.workloads import DATABASE, Form, Workload
from engine.sandbox import Server, start_mariadb

__all__ = ["NOTE", "before", "loaded", "private_mariadb", "source_sums", "write_changes"]

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
    """A server as durable as the MySQL that the engine is measured with."""
    with start_mariadb("10.11", options=OPTIONS) as server:
        try:
            yield server
        finally:
            server.kill()  # its data are of no use any more


def before(url: str, workload: Workload) -> None:
    """The table as it is before the workload, made anew."""
    write_backlog(url, dataclasses.replace(workload, changes=0))


def loaded(url: str, workload: Workload) -> None:
    """The table as it is after a workload of inserts, made anew without a trace in the log."""
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


def source_sums(url: str, form: Form) -> Sums:
    """What the table holds."""
    with closing(connect(url)) as session:
        return form_sums(session, form)

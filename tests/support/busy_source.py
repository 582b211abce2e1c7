"""
A source that is busy with statements of its applications.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pymysql

from engine.databases.mysql.connect import query
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

__all__ = ["at_work"]

#: Longer than a test. The statements are ended before.
_SECONDS = 600


@contextmanager
def at_work(server: AnyServer, count: int) -> Iterator[None]:
    """So many sessions of the server execute a statement meanwhile."""
    with ExitStack() as sessions:
        workers = [connect_mysql(server, "") for _ in range(count)]
        for worker in workers:
            sessions.callback(worker.close)
        control = connect_mysql(server, "")
        sessions.callback(control.close)
        ids = [worker.thread_id() for worker in workers]

        def work(worker: pymysql.Connection) -> None:  # type: ignore[type-arg]
            with suppress(pymysql.MySQLError):  # it is ended
                query(worker, f"SELECT SLEEP({_SECONDS})")

        def working() -> int:
            rows = query(control, "SHOW PROCESSLIST")
            return sum(row[0] in ids and row[4] == "Query" for row in rows)

        with ThreadPoolExecutor(count) as pool:
            for worker in workers:
                pool.submit(work, worker)
            try:
                wait_until(lambda: working() == count, what="the statements")
                yield
            finally:
                for id in ids:
                    with suppress(pymysql.MySQLError):
                        query(control, f"KILL {id}")

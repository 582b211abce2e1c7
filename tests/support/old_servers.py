"""
The servers of earlier releases, which the slow tests start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from engine.sandbox import Server, start_mariadb, start_mysql

__all__ = ["OLD_SERVERS"]

GTIDS_OF_5_6 = ("--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--log-slave-updates=ON")

#: How to start each server. The names appear in `docs/servers.md`.
OLD_SERVERS: dict[str, Callable[[], Server]] = {
    "mysql-5.5": partial(start_mysql, "5.5"),
    "mysql-5.6": partial(start_mysql, "5.6"),
    "mysql-5.6-gtids": partial(start_mysql, "5.6", options=GTIDS_OF_5_6),
    "mysql-5.7": partial(start_mysql, "5.7"),
    "mariadb-10.1": partial(start_mariadb, "10.1"),
    "mariadb-10.2": partial(start_mariadb, "10.2"),
    "mariadb-10.5": partial(start_mariadb, "10.5"),
    "mariadb-11.4": partial(start_mariadb, "11.4"),
}

"""
Temporary database servers for the demo, the tests and the benchmarks.

    with start_mysql() as source, start_postgres("18") as target:
        ...  # source.url, target.url

A server runs from an installation on the machine, if there is one of the wanted release, or from
Debian packages that are unpacked into ``$TAILRACE_CACHE`` (default ``~/.cache/tailrace``). Nothing
is installed. The server has a free loopback port, a data directory of its own, and one user with
all rights and no password. It ends with the process that started it, even if that process is
killed; folders that are left over are removed by a later start.

The first start of a release downloads it. Progress is logged to ``tailrace.sandbox`` at level INFO.
"""

from engine.sandbox.chromium import chromium
from engine.sandbox.command import SandboxUnavailable
from engine.sandbox.mysql import start_mariadb, start_mysql
from engine.sandbox.postgres import start_postgres
from engine.sandbox.prometheus import prometheus_command
from engine.sandbox.server import Server

__all__ = [
    "SandboxUnavailable",
    "Server",
    "chromium",
    "prometheus_command",
    "start_mariadb",
    "start_mysql",
    "start_postgres",
]

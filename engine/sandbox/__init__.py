"""
Private, throw-away database servers for the demo, the tests and the benchmarks.

The idea: a server is found on the machine, or else unpacked from Debian packages
into `$TAILRACE_CACHE` (default `~/.cache/tailrace`), never installed.  It runs on
a free loopback port with a data directory of its own, with all rights for its one
user, and is gone afterwards, whatever happens to the process that started it.

    with start_mysql() as source, start_postgres("18") as target:
        ...  # source.url, target.url

Progress is logged at INFO level to `tailrace.sandbox`; the first start of a kind
downloads it.
"""

from engine.sandbox.command import SandboxUnavailable
from engine.sandbox.mysql import start_mariadb, start_mysql
from engine.sandbox.postgres import start_postgres
from engine.sandbox.server import Server

__all__ = ["SandboxUnavailable", "Server", "start_mariadb", "start_mysql", "start_postgres"]

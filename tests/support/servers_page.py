"""
The table of `docs/servers.md`, and how its cells are measured on a server.

`python -m tests.support.servers_page` starts every server and writes the table again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from engine.databases.mysql.connect import query
from engine.sandbox import Server, start_mariadb, start_mysql
from sources.mysql.server_info import read_server_info
from tests.support.old_servers import OLD_SERVERS
from tests.support.servers import AnyServer, connect_mysql

__all__ = ["PAGE", "SERVERS", "Features", "header", "line", "measure", "name_of", "table", "title"]

PAGE = Path(__file__).parents[2] / "docs" / "servers.md"
#: The servers of the default suite.
SERVERS: dict[str, Callable[[], Server]] = {
    "mysql-9.7": start_mysql,
    "mariadb-10.11": start_mariadb,
    "mariadb-11.8": partial(start_mariadb, "11.8"),
}
_VARIABLES = "('binlog_checksum', 'binlog_row_image', 'binlog_row_metadata')"


class Features(NamedTuple):
    """The cells of a server, in the order of the columns."""

    version: str
    gtids: str
    identity: str
    checksums: str
    row_images: str
    row_metadata: str
    low_watermark: str
    suite: str


_TITLES = Features(
    "tested version",
    "GTIDs",
    "identity in a position",
    "checksums",
    "row images can be chosen",
    "names and types in the log",
    "low watermark of a chunk",
    "suite",
)


def measure(server: AnyServer, suite: str) -> Features:
    """The features of a running server."""
    with connect_mysql(server) as connection:
        info = read_server_info(connection)
        sql = f"SHOW GLOBAL VARIABLES WHERE Variable_name IN {_VARIABLES}"
        variables = dict(query(connection, sql))
    waits = info.gtids and info.executed_is_visible
    if info.mariadb:
        identity, proof = "server id", "consistent snapshot"
    else:
        identity = "server id, host, port" if "@" in info.identity else "UUID"
        proof = "executed GTIDs" if waits else "momentary lock"
    answers = ("no", "yes")
    return Features(
        server.version,
        answers[info.gtids],
        identity,
        answers["binlog_checksum" in variables],
        answers["binlog_row_image" in variables],
        answers["binlog_row_metadata" in variables],
        proof,
        suite,
    )


def header() -> list[str]:
    """The first two lines of the table."""
    return [f"| server | {' | '.join(_TITLES)} |", "|---" * (len(_TITLES) + 1) + "|"]


def line(name: str, features: Features) -> str:
    """The line of a server."""
    return f"| {title(name)} | {' | '.join(features)} |"


def title(name: str) -> str:
    """The title of a server's line."""
    family, number, *more = name.split("-")
    return f"{'MySQL' if family == 'mysql' else 'MariaDB'} {number}{' with GTIDs' * bool(more)}"


def name_of(server: AnyServer, features: Features) -> str:
    """The name of a server, such as ``mysql-5.6-gtids``."""
    name = f"{server.kind}-{'.'.join(server.version.split('.')[:2])}"
    return f"{name}-gtids" if name == "mysql-5.6" and features.gtids == "yes" else name


def table() -> dict[str, list[str]]:
    """The cells of each line of the page's table, by the server's title."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(header()[0]) + 2
    rows = [row.strip("| ").split(" | ") for row in lines[start : lines.index("", start)]]
    return {row[0]: row[1:] for row in rows}


def main() -> None:
    """Write the table."""
    found = []
    for servers, suite in ((OLD_SERVERS, "slow"), (SERVERS, "default")):
        for name, start in servers.items():
            with start() as server:
                found.append((name, line(name, measure(server, suite))))
    # MySQL before MariaDB, and releases by their numbers.
    found.sort(key=lambda each: (each[0][1], [int(n) for n in each[0].split("-")[1].split(".")]))
    found.sort(key=lambda each: each[0].startswith("mariadb"))
    text = PAGE.read_text(encoding="utf-8")
    start_of_table = text.index(header()[0])
    end = text.index("\n\n", start_of_table)
    lines = "\n".join([*header(), *(row for _, row in found)])
    PAGE.write_text(text[:start_of_table] + lines + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()

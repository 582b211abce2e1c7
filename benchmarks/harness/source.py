"""
The source: private MySQL servers whose binary logs hold a workload, and the cache of their data.

A log is written once, by a real server. After a clean shutdown the server's whole data directory
goes into the cache folder. Each run starts a server on a copy of it, so every run reads the same
bytes, and the cached directory does not change.

On a server that the user names, ``write_backlog`` writes the workload's log there instead.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import Cursor

from benchmarks.workloads import DATABASE, IDLE, TableSpec, Workload
from engine.errors import ConfigError, SourceError, TailraceError
from engine.sandbox import Server, start_mysql
from engine.sandbox.cache import cache_folder, entry
from engine.sandbox.command import run
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource

__all__ = [
    "Backlog",
    "Sums",
    "connect",
    "drop_database",
    "table_sums",
    "cached_log",
    "source_info",
    "source_server",
    "write_backlog",
]

logger = logging.getLogger("tailrace.bench")

#: Raise it when the rows or the transactions of a workload change: it is part of the cached log's
#: name.
REVISION = 1
#: The log is written at each commit and flushed to disk about once a second.
SOURCE_OPTIONS = (
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--innodb-buffer-pool-size=1G",
    "--max-binlog-size=1G",
    "--binlog-expire-logs-seconds=0",
    # No TLS: the engine, the clients and the server are on one machine.
    "--tls-version=",
)
TIMEOUT_SECONDS = 600
CONNECT_TIMEOUT_SECONDS = 10
#: The name of a view. Its presence in a database means that the benchmarks created the database and
#: may drop it. It is a view because the engine follows tables only.
MARK = "made_by_tailrace_bench"
#: The settings in the results: they decide how durable the source is and what its log holds.
SETTINGS = (
    *("version", "innodb_flush_log_at_trx_commit", "sync_binlog", "innodb_buffer_pool_size"),
    *("binlog_row_image", "binlog_row_metadata", "gtid_mode"),
)
#: About this much SQL text goes to the server in one packet.
PACKET_CHARACTERS = 256 * 1024


class Sums(msgspec.Struct, frozen=True):
    """The number of rows and the sum of their hashes, which must be equal on both sides."""

    rows: int
    checksum: int


class Backlog(msgspec.Struct, frozen=True):
    """A workload in a source's log: all its changes come after ``position``.

    ``files`` are all files of the log. ``bytes`` is the size of the workload's part of it.
    ``after`` are the table's sums at the log's end.
    """

    workload: str
    position: str
    files: list[str]
    bytes: int
    after: Sums


def connect(url: str, **more: Any) -> pymysql.Connection[Any]:
    """Open a session on the source at ``url``, with autocommit. Raises SourceError."""
    parts = urlsplit(url)
    with _translate_errors():
        return _connect(parts, more)


def _connect(parts: SplitResult, more: dict[str, Any]) -> pymysql.Connection[Any]:
    return pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or "root"),
        password=unquote(parts.password or ""),
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        write_timeout=TIMEOUT_SECONDS,
        init_command="SET time_zone = '+00:00', foreign_key_checks = 0",
        **more,
    )


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise SourceError for an error of the server, with the server's message.

    The message cannot hold other people's data: all statements and rows are the benchmarks' own.
    """
    try:
        yield
    except pymysql.MySQLError as error:
        message = " ".join(map(str, error.args[1:])) or type(error).__name__
        raise SourceError(
            f"the source refused a statement of the benchmarks: {message}",
            hint=f"The benchmarks need a user with all privileges on {DATABASE}.*, REPLICATION"
            " SLAVE, REPLICATION CLIENT, and SESSION_VARIABLES_ADMIN (MySQL) or BINLOG ADMIN"
            " (MariaDB), and local_infile = ON on the server.",
        ) from error


def source_info(url: str) -> dict[str, str]:
    """The version of the source at ``url``, and its settings that affect speed."""
    names = ", ".join(f"'{name}'" for name in SETTINGS)
    with _translate_errors(), closing(connect(url)) as session, session.cursor() as cursor:
        cursor.execute(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")
        return {str(name): str(value) for name, value in cursor.fetchall()}


def drop_database(url: str) -> None:
    """Drop the benchmarks' database on the source at ``url`` if it exists.

    Raises ConfigError if the benchmarks did not create it.
    """
    with _translate_errors(), closing(connect(url)) as session, session.cursor() as cursor:
        _drop_database(cursor)


def _drop_database(cursor: Cursor) -> None:
    """As ``drop_database``, in an open session."""
    cursor.execute(
        "SELECT (SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = %s),"
        " (SELECT COUNT(*) FROM information_schema.views WHERE table_schema = %s"
        " AND table_name = %s)",
        (DATABASE, DATABASE, MARK),
    )
    present, marked = cursor.fetchone() or (0, 0)
    if present and not marked:
        raise ConfigError(
            f"the source has a database {DATABASE} that the benchmarks did not create",
            hint="The benchmarks drop and re-create it. Rename it or drop it yourself: the view"
            f" {MARK}, which marks their own database, is missing.",
        )
    cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE}")


def cached_log(workload: Workload) -> tuple[Path, Backlog]:
    """A cached data directory of a server whose log holds the workload; made if it is missing."""
    folder = cache_folder() / "bench" / _name(workload)
    entry(folder, f"bench-{folder.name}", lambda target: _make(workload, target))
    backlog = msgspec.json.decode((folder / "backlog.json").read_bytes(), type=Backlog)
    return folder / "data", backlog


@contextmanager
def source_server(data: Path) -> Iterator[Server]:
    """Start a private MySQL on a copy of a cached data directory."""
    with _scratch() as folder:
        _copy(data, folder / "data")
        _move_index(folder / "data")
        with start_mysql(options=SOURCE_OPTIONS, directory=folder / "data") as server:
            try:
                yield server
            finally:
                server.kill()  # the copy is deleted, so no clean shutdown


def write_backlog(url: str, workload: Workload) -> Backlog:
    """Create the table on the source at ``url``, and run the workload's transactions.

    The benchmarks' database of an earlier run is dropped first. Raises ConfigError if the
    benchmarks did not create it, SourceError if the server refuses a statement.
    """
    spec = workload.table
    options = {"client_flag": CLIENT.MULTI_STATEMENTS, "local_infile": True}
    with _translate_errors(), closing(connect(url, **options)) as session:
        with session.cursor() as cursor:
            _drop_database(cursor)
            cursor.execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
            cursor.execute(f"CREATE VIEW {DATABASE}.{MARK} AS SELECT 1 AS yes")
            cursor.execute(f"USE {DATABASE}")
            cursor.execute(f"CREATE TABLE {spec.name} ({spec.definition})")
            for number in range(workload.idle_tables):
                cursor.execute(f"CREATE TABLE {IDLE}{number:05} ({spec.definition})")
        if workload.preloaded:
            _preload(session, workload)
        position = MySQLSource(MySQLSettings(url=url)).position()
        before = sum(_log_files(session).values())
        for packet in _packets(workload.transactions()):
            _send(session, packet)
        files = _log_files(session)
        written = sum(files.values()) - before
        return Backlog(workload.name, position, [*files], written, table_sums(session, spec))


def table_sums(session: pymysql.Connection[Any], spec: TableSpec) -> Sums:
    """The sums of the table on the source."""
    with session.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*), IFNULL(SUM(CAST(CONV(LEFT(SHA2(CONCAT_WS('|',"
            f" {spec.mysql_text}), 256), 8), 16, 10) AS UNSIGNED)), 0) FROM {DATABASE}.{spec.name}"
        )
        rows, checksum = cursor.fetchone() or (0, 0)
    return Sums(int(rows), int(checksum))


def _name(workload: Workload) -> str:
    parts = [
        workload.table.name,
        workload.kind,
        workload.changes,
        workload.per_transaction,
        workload.preloaded,
        workload.idle_tables,
    ]
    return f"mysql-r{REVISION}-" + "-".join(str(part) for part in parts)


def _make(workload: Workload, target: Path) -> None:
    logger.info("writing the log of %s: %d changes ...", workload.name, workload.changes)
    with _scratch() as folder:
        data = folder / "data"
        with start_mysql(options=SOURCE_OPTIONS, directory=data) as server:
            backlog = write_backlog(server.url, workload)
            with closing(connect(server.url)) as session, session.cursor() as cursor:
                # A slow shutdown purges undo logs and merges change buffers, so that no server
                # does it during a measurement.
                cursor.execute("SET GLOBAL innodb_fast_shutdown = 0")
            server.shutdown()
        (target / "backlog.json").write_bytes(msgspec.json.encode(backlog))
        _copy(data, target / "data")


def _copy(data: Path, target: Path) -> None:
    run(
        ["cp", "--archive", "--reflink=auto", "--sparse=always", data, target],
        purpose="copying a data directory",
        deadline_seconds=TIMEOUT_SECONDS,
    )


def _move_index(data: Path) -> None:
    """Rewrite ``binlog.index``, in which the server stores the absolute paths of its log files."""
    index = data / "binlog.index"
    names = [Path(line).name for line in index.read_text().splitlines()]
    index.write_text("".join(f"{data / name}\n" for name in names))


@contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder that a server under another account can enter."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _preload(session: pymysql.Connection[Any], workload: Workload) -> None:
    """Fill the table with binary logging off."""
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as file:
        for row in workload.preload():
            file.write("\t".join(value.strip("'") for value in row) + "\n")
        file.flush()
        with session.cursor() as cursor:
            cursor.execute("SET sql_log_bin = 0")
            cursor.execute(
                f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE {DATABASE}.{workload.table.name}"
            )
            cursor.execute("SET sql_log_bin = 1")
            cursor.execute(f"ANALYZE NO_WRITE_TO_BINLOG TABLE {DATABASE}.{workload.table.name}")


def _packets(transactions: Iterator[str]) -> Iterator[str]:
    """Join small transactions into packets of about ``PACKET_CHARACTERS``."""
    waiting: list[str] = []
    size = 0
    for text in transactions:
        waiting.append(text)
        size += len(text)
        if size >= PACKET_CHARACTERS:
            yield ";".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield ";".join(waiting)


def _send(session: pymysql.Connection[Any], packet: str) -> None:
    with session.cursor() as cursor:
        cursor.execute(packet)
        while cursor.nextset():
            pass


def _log_files(session: pymysql.Connection[Any]) -> dict[str, int]:
    """The names of the log's files, with their sizes in bytes."""
    with session.cursor() as cursor:
        cursor.execute("SHOW BINARY LOGS")
        files = {str(row[0]): int(row[1]) for row in cursor.fetchall()}
    if not files:
        raise TailraceError(
            "the source has no binary log", hint="Run `tailrace check` to see what to set."
        )
    return files

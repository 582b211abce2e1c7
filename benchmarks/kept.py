"""
The logs that are measured: made once by a real server, then kept in the cache folder.

The idea: what is kept is the whole data directory of a server that was shut down in good order. A
run starts a server on a copy of it, so it reads the same bytes as the run before, and leaves none.
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

from benchmarks.workloads import DATABASE, IDLE, Form, Workload
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
    "form_sums",
    "kept_log",
    "source_facts",
    "source_server",
    "write_backlog",
]

logger = logging.getLogger("tailrace.bench")

#: Raise when what is written for a workload changes.
REVISION = 1
#: Durable as usual for measurements: the log is written at each commit, and flushed once a second.
SOURCE_OPTIONS = (
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--innodb-buffer-pool-size=1G",
    "--max-binlog-size=1G",
    "--binlog-expire-logs-seconds=0",
    # Both sides are on this machine: engine and clients all connect in plain text.
    "--tls-version=",
)
TIMEOUT_SECONDS = 600
CONNECT_TIMEOUT_SECONDS = 10
#: A view in a database says that it is ours, to be emptied and dropped. Only tables are followed.
MARK = "made_by_tailrace_bench"
#: What tells how durable a source is, and how it writes its log.
SETTINGS = (
    *("version", "innodb_flush_log_at_trx_commit", "sync_binlog", "innodb_buffer_pool_size"),
    *("binlog_row_image", "binlog_row_metadata", "gtid_mode"),
)
#: About this much text goes to the server at a time.
PACKET_CHARACTERS = 256 * 1024


class Sums(msgspec.Struct, frozen=True):
    """What must be the same on both sides: the number of rows, and a sum over their hashes."""

    rows: int
    checksum: int


class Backlog(msgspec.Struct, frozen=True):
    """A workload in a source's log: all of it comes after ``position``.

    ``files`` are all of the log, ``bytes`` what the workload wrote; ``after`` is the table then.
    """

    workload: str
    position: str
    files: list[str]
    bytes: int
    after: Sums


def connect(url: str, **more: Any) -> pymysql.Connection[Any]:
    """An ordinary session on the source at ``url``, with autocommit. Raises SourceError."""
    parts = urlsplit(url)
    with _translated():
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
def _translated() -> Iterator[None]:
    """The statements here are the benchmarks' own: the server's words tell no more than they do."""
    try:
        yield
    except pymysql.MySQLError as error:
        words = " ".join(map(str, error.args[1:])) or type(error).__name__
        raise SourceError(
            f"the source does not do what the benchmarks need: {words}",
            hint=f"They need a user with all rights on {DATABASE}.*, REPLICATION SLAVE,"
            " REPLICATION CLIENT, and SESSION_VARIABLES_ADMIN (MySQL) or BINLOG ADMIN (MariaDB),"
            " and local_infile = ON on the server.",
        ) from error


def source_facts(url: str) -> dict[str, str]:
    """The version of the source at ``url``, and the settings that speed depends on."""
    names = ", ".join(f"'{name}'" for name in SETTINGS)
    with _translated(), closing(connect(url)) as session, session.cursor() as cursor:
        cursor.execute(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")
        return {str(name): str(value) for name, value in cursor.fetchall()}


def drop_database(url: str) -> None:
    """Drop the benchmarks' database on the source at ``url``, if there is one."""
    with _translated(), closing(connect(url)) as session, session.cursor() as cursor:
        _drop_database(cursor)


def _drop_database(cursor: Cursor) -> None:
    """Raises ConfigError if there is one that the benchmarks did not make."""
    cursor.execute(
        "SELECT (SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = %s),"
        " (SELECT COUNT(*) FROM information_schema.views WHERE table_schema = %s"
        " AND table_name = %s)",
        (DATABASE, DATABASE, MARK),
    )
    present, marked = cursor.fetchone() or (0, 0)
    if present and not marked:
        raise ConfigError(
            f"the source has a database {DATABASE} that the benchmarks did not make",
            hint=f"They would drop it. Rename or drop it yourself (its view {MARK} is missing).",
        )
    cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE}")


def kept_log(workload: Workload) -> tuple[Path, Backlog]:
    """The kept data directory of a server whose log holds the workload; made if there is none."""
    folder = cache_folder() / "bench" / _name(workload)
    entry(folder, f"bench-{folder.name}", lambda target: _make(workload, target))
    backlog = msgspec.json.decode((folder / "backlog.json").read_bytes(), type=Backlog)
    return folder / "data", backlog


@contextmanager
def source_server(data: Path) -> Iterator[Server]:
    """A private MySQL on a copy of a kept data directory."""
    with _scratch() as folder:
        _copy(data, folder / "data")
        _move_index(folder / "data")
        with start_mysql(options=SOURCE_OPTIONS, directory=folder / "data") as server:
            try:
                yield server
            finally:
                server.kill()  # nobody needs the copy in good order


def write_backlog(url: str, workload: Workload) -> Backlog:
    """Make the table on the source at ``url``, and run the workload's transactions there.

    A database that former benchmarks have left there is dropped. Raises ConfigError if it is not
    theirs, SourceError for what the server refuses.
    """
    form = workload.form
    options = {"client_flag": CLIENT.MULTI_STATEMENTS, "local_infile": True}
    with _translated(), closing(connect(url, **options)) as session:
        with session.cursor() as cursor:
            _drop_database(cursor)
            cursor.execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
            cursor.execute(f"CREATE VIEW {DATABASE}.{MARK} AS SELECT 1 AS yes")
            cursor.execute(f"USE {DATABASE}")
            cursor.execute(f"CREATE TABLE {form.name} ({form.definition})")
            for number in range(workload.idle_tables):
                cursor.execute(f"CREATE TABLE {IDLE}{number:05} ({form.definition})")
        if workload.preloaded:
            _preload(session, workload)
        position = MySQLSource(MySQLSettings(url=url)).position()
        before = sum(_log_files(session).values())
        for packet in _packets(workload.transactions()):
            _send(session, packet)
        files = _log_files(session)
        written = sum(files.values()) - before
        return Backlog(workload.name, position, [*files], written, form_sums(session, form))


def form_sums(session: pymysql.Connection[Any], form: Form) -> Sums:
    """The sums of the table as the source has it."""
    with session.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*), IFNULL(SUM(CAST(CONV(LEFT(SHA2(CONCAT_WS('|',"
            f" {form.mysql_text}), 256), 8), 16, 10) AS UNSIGNED)), 0) FROM {DATABASE}.{form.name}"
        )
        rows, checksum = cursor.fetchone() or (0, 0)
    return Sums(int(rows), int(checksum))


def _name(workload: Workload) -> str:
    words = [
        workload.form.name,
        workload.kind,
        workload.changes,
        workload.per_transaction,
        workload.preloaded,
        workload.idle_tables,
    ]
    return f"mysql-r{REVISION}-" + "-".join(str(word) for word in words)


def _make(workload: Workload, target: Path) -> None:
    logger.info("writing the log of %s: %d changes ...", workload.name, workload.changes)
    with _scratch() as folder:
        data = folder / "data"
        with start_mysql(options=SOURCE_OPTIONS, directory=data) as server:
            backlog = write_backlog(server.url, workload)
            with closing(connect(server.url)) as session, session.cursor() as cursor:
                # Nothing may be left to be purged or merged while somebody measures.
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
    """The server keeps the absolute paths of its log files."""
    index = data / "binlog.index"
    names = [Path(line).name for line in index.read_text().splitlines()]
    index.write_text("".join(f"{data / name}\n" for name in names))


@contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder that a server of another account may enter."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _preload(session: pymysql.Connection[Any], workload: Workload) -> None:
    """Fill the table without a trace in the log."""
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as file:
        for row in workload.preload():
            file.write("\t".join(value.strip("'") for value in row) + "\n")
        file.flush()
        with session.cursor() as cursor:
            cursor.execute("SET sql_log_bin = 0")
            cursor.execute(
                f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE {DATABASE}.{workload.form.name}"
            )
            cursor.execute("SET sql_log_bin = 1")
            cursor.execute(f"ANALYZE NO_WRITE_TO_BINLOG TABLE {DATABASE}.{workload.form.name}")


def _packets(transactions: Iterator[str]) -> Iterator[str]:
    """Many small statements travel as one packet."""
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
    """The log's files and their sizes."""
    with session.cursor() as cursor:
        cursor.execute("SHOW BINARY LOGS")
        files = {str(row[0]): int(row[1]) for row in cursor.fetchall()}
    if not files:
        raise TailraceError("the source keeps no binary log", hint="see `tailrace check`")
    return files

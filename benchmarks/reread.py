"""
Reading a table again after a change of one column: ``python -m benchmarks.reread``.

Two ways are compared. *Twin*: the whole table is read into a new one, which gets the indexes and
takes the old one's place. *In place*: the key and the column are read into a staging table, and one
UPDATE joins it with the old table. The clients of both databases are piped, on private servers,
MySQL 9.7 and PostgreSQL 15. The result is a table in Markdown.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks.harness.clients import mysql, psql
from benchmarks.harness.target import Target, private_target
from engine.sandbox import start_mysql

__all__ = ["main", "measured"]

#: The most rows of the table of numbers.
_MOST = 1_000_000
_DATABASE = "tailrace_reread"
_TABLE = f"{_DATABASE}.t"
_DIGITS = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
_NUMBERS = (
    f"CREATE DATABASE {_DATABASE}; USE {_DATABASE}; CREATE TABLE digits AS {_DIGITS};"
    " CREATE TABLE numbers AS SELECT"
    " a.d + 10 * b.d + 100 * c.d + 1000 * d.d + 10000 * e.d + 100000 * f.d AS n"
    " FROM digits a, digits b, digits c, digits d, digits e, digits f"
)
_TEXT = "LEFT(SHA2(n + {0}, 224), 40)"


class _Shape(NamedTuple):
    """A kind of table: further columns, each with its value for the row ``n``, and the part of the
    rows that it gets.
    """

    name: str
    columns: dict[str, str]
    part: float = 1.0


_BASE = {"a INT": "n MOD 1000", "b INT": "n * 7 MOD 100003"}
_BASE |= {"c VARCHAR(40)": _TEXT.format(0), "d VARCHAR(40)": _TEXT.format(1)}
_SHAPES = (
    _Shape("5 columns, 100 bytes", _BASE),
    _Shape(
        "50 columns, 1 KB",
        _BASE
        | {f"i{k} BIGINT": f"n * {k}" for k in range(22)}
        | {f"s{k} VARCHAR(40)": f"LEFT(SHA2(n + {k}, 224), {20 + k})" for k in range(2, 21)}
        | {f"t{k} INT": f"n + {k}" for k in range(4)},
        1 / 3,
    ),
    _Shape(
        "6 columns, one of 4 KB",
        _BASE | {"t TEXT": f"CONCAT({', '.join(f'SHA2(n + {k}, 512)' for k in range(32))})"},
        1 / 6,
    ),
)


class _Cost(NamedTuple):
    seconds: float
    log_bytes: int
    size: int
    #: How long the pipeline could write nothing.
    blocked: float


class _Run(NamedTuple):
    """A source, a target, and a folder for the clients."""

    source: str
    target: str
    folder: Path

    def on_source(self, statements: str) -> None:
        """Execute statements with the mysql client."""
        subprocess.run([*mysql(self.source, self.folder), "--execute", statements], check=True)

    def pipe(self, query: str, table: str) -> None:
        """Copy a result of the source into a table of the target."""
        read = shlex.join([*mysql(self.source, self.folder), "--execute", query])
        copy = f"\\copy {table} FROM STDIN NULL 'NULL'"
        write = shlex.join([*psql(self.target, self.folder), "--command", copy])
        subprocess.run(["bash", "-o", "pipefail", "-c", f"{read} | {write}"], check=True)

    def prepare(self, shape: _Shape, rows: int) -> None:
        """Make the table on both sides, and add the column to the source's."""
        columns = ", ".join(["id INT PRIMARY KEY", *shape.columns])
        values = ", ".join(["n", *shape.columns.values()])
        self.on_source(
            f"{_NUMBERS} HAVING n < {rows}; CREATE TABLE t ({columns});"
            f" INSERT INTO t SELECT {values} FROM numbers"
        )
        with psycopg.connect(self.target, autocommit=True) as target:
            target.execute(f"CREATE TABLE filled ({columns})".encode())
        self.pipe(f"SELECT * FROM {_TABLE}", "filled")
        self.on_source(f"ALTER TABLE {_TABLE} ADD g BIGINT AS (CRC32(c)) VIRTUAL")

    def measure(self, indexes: int) -> Iterator[tuple[str, _Cost]]:
        """The cost of each way, with so many secondary indexes."""
        with psycopg.connect(self.target, autocommit=True) as session:
            session.execute("DROP TABLE IF EXISTS old, twin, staged")
            session.execute("CREATE TABLE old (LIKE filled INCLUDING ALL)")
            session.execute("INSERT INTO old SELECT * FROM filled")
            _create_indexes(session, "old", indexes)
            session.execute("VACUUM ANALYZE old")
            yield "twin", self._twin(session, indexes)
            session.execute("DROP TABLE twin")
            yield "in place", self._in_place(session)

    def _twin(self, session: psycopg.Connection, indexes: int) -> _Cost:
        session.execute("CHECKPOINT")
        before, begun = _log_end(session), time.monotonic()
        session.execute("CREATE TABLE twin (LIKE filled INCLUDING ALL, g bigint)")
        self.pipe(f"SELECT * FROM {_TABLE}", "twin")
        _create_indexes(session, "twin", indexes)
        loaded = time.monotonic()
        session.execute("ALTER TABLE twin RENAME TO renamed")
        session.execute("ALTER TABLE renamed RENAME TO twin")
        return _cost(session, "twin", before, begun, loaded)

    def _in_place(self, session: psycopg.Connection) -> _Cost:
        session.execute("CHECKPOINT")
        before, begun = _log_end(session), time.monotonic()
        session.execute("ALTER TABLE old ADD g bigint")
        session.execute("CREATE UNLOGGED TABLE staged (id int PRIMARY KEY, g bigint)")
        self.pipe(f"SELECT id, g FROM {_TABLE}", "staged")
        session.execute("ANALYZE staged")
        loaded = time.monotonic()
        session.execute("UPDATE old SET g = s.g FROM staged s WHERE old.id = s.id")
        return _cost(session, "old", before, begun, loaded)


def _create_indexes(session: psycopg.Connection, table: str, indexes: int) -> None:
    for column in ("b", "c", "d")[:indexes]:
        session.execute(f"CREATE INDEX ON {table} ({column})".encode())


def _log_end(session: psycopg.Connection) -> int:
    return _number(session, "SELECT pg_current_wal_lsn() - '0/0'")


def _number(session: psycopg.Connection, query: str) -> int:
    row = session.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _cost(
    session: psycopg.Connection, table: str, before: int, begun: float, loaded: float
) -> _Cost:
    ended = time.monotonic()
    size = _number(session, f"SELECT pg_total_relation_size('{table}')")
    return _Cost(ended - begun, _log_end(session) - before, size, ended - loaded)


def measured(source: str, target: Target, rows: int) -> Iterator[str]:
    """Measure on two servers. Yields the lines of the table."""
    yield "| table | rows | indexes | way | seconds | log MB | size MB | blocked seconds |"
    yield "|---|---|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        for shape in _SHAPES:
            with target.database() as url:
                run = _Run(source, url, Path(folder))
                count = int(rows * shape.part)
                try:
                    run.prepare(shape, count)
                    for indexes in (0, 1, 3):
                        for way, cost in run.measure(indexes):
                            yield (
                                f"| {shape.name} | {count:,} | {indexes} | {way} |"
                                f" {cost.seconds:.1f} | {cost.log_bytes / 1e6:.0f} |"
                                f" {cost.size / 1e6:.0f} | {cost.blocked:.2f} |"
                            )
                finally:
                    run.on_source(f"DROP DATABASE {_DATABASE}")


def main() -> None:
    """Measure on private servers, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reread", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help=f"at most {_MOST:,}")
    rows = min(parser.parse_args().rows, _MOST)
    with start_mysql() as source, private_target() as target:
        for line in measured(source.url, target, rows):
            print(line, flush=True)


if __name__ == "__main__":
    main()

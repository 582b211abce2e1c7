"""
The limits: how fast the databases' own programs handle the same rows.

A limit loads the same rows into the same table with the same indexes, in one transaction, by the
simplest program for it. Its time is the wall time of the whole process. In every function ``log``
is the file for the program's output; its folder also takes the program's password file.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from benchmarks.harness import target
from benchmarks.harness.clients import mysql, mysqlbinlog, psql, raw_log
from benchmarks.harness.processes import Usage, measure
from benchmarks.workloads import DATABASE, TableSpec

__all__ = [
    "copy",
    "copy_with_key_only",
    "decode_as_text",
    "delete",
    "pipe",
    "pipe_with_key_only",
    "read_log",
    "update",
]


def copy(url: str, spec: TableSpec, rows: Path, log: Path) -> Usage:
    """COPY from a file into the empty table."""
    command = rf"\copy {DATABASE}.{spec.name} FROM '{rows}'"
    return measure([*psql(url, log.parent), "--command", command], log)


def copy_with_key_only(url: str, spec: TableSpec, rows: Path, log: Path) -> Usage:
    """As ``copy``, into the table without its secondary indexes."""
    for name, _ in target.secondary_indexes(url, spec):
        target.execute(url, f"DROP INDEX {name}")
    return copy(url, spec, rows, log)


def update(url: str, spec: TableSpec, rows: Path, log: Path) -> Usage:
    """COPY the updated rows into a temporary table, and apply them by one UPDATE."""
    table = f"{DATABASE}.{spec.name}"
    return _transaction(
        url,
        log,
        f"CREATE TEMP TABLE staged (LIKE {table})",
        rf"\copy staged FROM '{rows}'",
        f"UPDATE {table} t SET k = s.k, c = s.c, pad = s.pad FROM staged s WHERE t.id = s.id",
    )


def delete(url: str, spec: TableSpec, keys: Path, log: Path) -> Usage:
    """COPY the keys into a temporary table, and apply them by one DELETE."""
    table = f"{DATABASE}.{spec.name}"
    return _transaction(
        url,
        log,
        "CREATE TEMP TABLE staged (id int)",
        rf"\copy staged FROM '{keys}'",
        f"DELETE FROM {table} t USING staged s WHERE t.id = s.id",
    )


def pipe(source: str, url: str, spec: TableSpec, log: Path) -> Usage:
    """The mysql client piped into COPY, then the secondary indexes are created."""
    indexes = target.secondary_indexes(url, spec)
    for name, _ in indexes:
        target.execute(url, f"DROP INDEX {name}")
    return _pipe(source, url, spec, log, [definition for _, definition in indexes])


def pipe_with_key_only(source: str, url: str, spec: TableSpec, log: Path) -> Usage:
    """As ``pipe``, without the secondary indexes."""
    for name, _ in target.secondary_indexes(url, spec):
        target.execute(url, f"DROP INDEX {name}")
    return _pipe(source, url, spec, log, [])


def read_log(source: str, first_file: str, folder: Path, log: Path) -> Usage:
    """Read the log from the server and write its bytes to files, undecoded (mysqlbinlog --raw)."""
    return measure(raw_log(source, first_file, folder), log)


def decode_as_text(files: list[Path], log: Path) -> Usage:
    """Decode the log's rows to text, which is discarded (mysqlbinlog --verbose)."""
    command = shlex.join(
        [*mysqlbinlog(), "--verbose", "--base64-output=DECODE-ROWS", *map(str, files)]
    )
    return measure(["sh", "-c", f"exec {command} >/dev/null"], log)


def _pipe(source: str, url: str, spec: TableSpec, log: Path, afterwards: list[str]) -> Usage:
    table = f"{DATABASE}.{spec.name}"
    read = shlex.join([*mysql(source, log.parent), "--execute", f"SELECT * FROM {table}"])
    write = psql(url, log.parent)
    for statement in (f"\\copy {table} FROM STDIN NULL 'NULL'", *afterwards):
        write += ["--command", statement]
    return measure(["bash", "-o", "pipefail", "-c", f"{read} | {shlex.join(write)}"], log)


def _transaction(url: str, log: Path, *statements: str) -> Usage:
    command = [*psql(url, log.parent), "--single-transaction"]
    for statement in statements:
        command += ["--command", statement]
    return measure(command, log)

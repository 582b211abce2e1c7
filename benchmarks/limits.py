"""
What the databases themselves can do with the same rows: the limits.

The idea: the same rows, into the same table with the same indexes, committed at the end, by the
shortest program that there is for it. A limit's time is that of its whole process.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from benchmarks import target
from benchmarks.processes import Usage, measure
from benchmarks.programs import mysql, mysqlbinlog, psql, raw_log
from benchmarks.workloads import DATABASE, Form

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


def copy(url: str, form: Form, rows: Path, log: Path) -> Usage:
    """COPY from a file into the empty table."""
    command = rf"\copy {DATABASE}.{form.name} FROM '{rows}'"
    return measure([*psql(url, log.parent), "--command", command], log)


def copy_with_key_only(url: str, form: Form, rows: Path, log: Path) -> Usage:
    """The same into the table without its secondary indexes."""
    for name, _ in target.secondary_indexes(url, form):
        target.run(url, f"DROP INDEX {name}")
    return copy(url, form, rows, log)


def update(url: str, form: Form, rows: Path, log: Path) -> Usage:
    """The rows as they are afterwards, staged by COPY and applied by one UPDATE."""
    table = f"{DATABASE}.{form.name}"
    return _transaction(
        url,
        log,
        f"CREATE TEMP TABLE staged (LIKE {table})",
        rf"\copy staged FROM '{rows}'",
        f"UPDATE {table} t SET k = s.k, c = s.c, pad = s.pad FROM staged s WHERE t.id = s.id",
    )


def delete(url: str, form: Form, keys: Path, log: Path) -> Usage:
    """The keys, staged by COPY and applied by one DELETE."""
    table = f"{DATABASE}.{form.name}"
    return _transaction(
        url,
        log,
        "CREATE TEMP TABLE staged (id int)",
        rf"\copy staged FROM '{keys}'",
        f"DELETE FROM {table} t USING staged s WHERE t.id = s.id",
    )


def pipe(source: str, url: str, form: Form, log: Path) -> Usage:
    """The mysql client piped into COPY, and the secondary indexes built afterwards."""
    indexes = target.secondary_indexes(url, form)
    for name, _ in indexes:
        target.run(url, f"DROP INDEX {name}")
    return _pipe(source, url, form, log, [definition for _, definition in indexes])


def pipe_with_key_only(source: str, url: str, form: Form, log: Path) -> Usage:
    """The same without the secondary indexes."""
    for name, _ in target.secondary_indexes(url, form):
        target.run(url, f"DROP INDEX {name}")
    return _pipe(source, url, form, log, [])


def read_log(source: str, first_file: str, folder: Path, log: Path) -> Usage:
    """The log's bytes over the network, not looked into, written to a file."""
    return measure(raw_log(source, first_file, folder), log)


def decode_as_text(files: list[Path], log: Path) -> Usage:
    """The log's rows as text, by the server's own program."""
    words = shlex.join(
        [*mysqlbinlog(), "--verbose", "--base64-output=DECODE-ROWS", *map(str, files)]
    )
    return measure(["sh", "-c", f"exec {words} >/dev/null"], log)


def _pipe(source: str, url: str, form: Form, log: Path, afterwards: list[str]) -> Usage:
    table = f"{DATABASE}.{form.name}"
    read = shlex.join([*mysql(source, log.parent), "--execute", f"SELECT * FROM {table}"])
    words = psql(url, log.parent)
    for statement in (f"\\copy {table} FROM STDIN NULL 'NULL'", *afterwards):
        words += ["--command", statement]
    return measure(["bash", "-o", "pipefail", "-c", f"{read} | {shlex.join(words)}"], log)


def _transaction(url: str, log: Path, *commands: str) -> Usage:
    words = [*psql(url, log.parent), "--single-transaction"]
    for command in commands:
        words += ["--command", command]
    return measure(words, log)

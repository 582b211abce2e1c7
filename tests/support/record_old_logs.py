"""
Records the logs in `tests/fixtures/old_logs` again: `python -m tests.support.record_old_logs`.

Each folder holds the log of one old server in which the rows of the type matrix change, and

- `schema.sql`: the definitions of the tables at the start of the log, as a dump has them. The log
  itself has no CREATE TABLE;
- `shown.txt.gz`: the rows that `mysqlbinlog --verbose` shows.

MySQL's program does not show geometries, so these are in a second file of the log, which MariaDB's
program shows. Left out are MariaDB's fractions in the old temporal formats, which neither shows.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.sandbox import Server
from engine.sandbox.debian import Bundle, loader_command
from engine.sandbox.mysql_installation import MYSQL_BUNDLE
from tests.support.old_servers import OLD_SERVERS
from tests.support.releases import version_of
from tests.support.servers import connect_mysql
from tests.support.type_matrix import FAMILIES, Kind, family

FOLDER = Path(__file__).parents[1] / "fixtures" / "old_logs"
MARIADB_CLIENT = Bundle("MariaDB's client", "trixie", ("mariadb-client",), 30)
DATABASE = "rec"
#: The tables whose changes are in the second file of the log.
SECOND = ("spatials",)
SESSION = "SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'"
#: At the end of the log: schema changes, which are followed by rows.
SCHEMA_CHANGES = (
    "ALTER TABLE item ADD COLUMN extra INT UNSIGNED, MODIFY name VARCHAR(60)",
    "INSERT INTO item VALUES (4, 'four', 4.00, 4294967295)",
    "CREATE TABLE made LIKE item",
    "INSERT INTO made SELECT * FROM item",
    "CREATE TABLE old_name (id INT PRIMARY KEY, v ENUM('a','é'))",
    "INSERT INTO old_name VALUES (1, 'é')",
    "RENAME TABLE old_name TO moved",
    "UPDATE moved SET v = 'a'",
    "TRUNCATE TABLE item",
    "INSERT INTO item VALUES (5, 'é', 5.00, 55)",
    "DELETE FROM item",
)


def record(name: str, server: Server) -> None:
    """Record the log of a server that has just been started."""
    kinds = dict(_families(server))
    with connect_mysql(server) as connection, connection.cursor() as cursor:
        for statement in (
            SESSION,
            f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4",
            f"USE {DATABASE}",
            "CREATE TABLE item (id INT PRIMARY KEY, name VARCHAR(40), price DECIMAL(8,2))",
        ):
            cursor.execute(statement)
        for table, columns in kinds.items():
            _create(cursor, table, columns)
        schema = "".join(_dump(cursor))
        cursor.execute("FLUSH LOGS")
        for table, columns in kinds.items():
            if table not in SECOND:
                _change(cursor, table, columns)
        for statement in ("INSERT INTO item VALUES (1, 'one', 1.00)", *SCHEMA_CHANGES):
            cursor.execute(statement)
        cursor.execute("FLUSH LOGS")
        for table in SECOND:
            _change(cursor, table, kinds[table])
        cursor.execute("FLUSH LOGS")
        first, second, _ = sorted(server.layout.data.glob("binlog.[0-9]*[0-9]"))[-3:]
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for log in (first, second):
        _write(folder / f"{log.name}.gz", log.read_bytes())
    by_mysql = name.startswith("mysql") and name != "mysql-5.5"
    shown = _shown(first, by_mysql=by_mysql) + _shown(second, by_mysql=False)
    _write(folder / "shown.txt.gz", shown)
    (folder / "schema.sql").write_text(schema)


def _families(server: Server) -> Iterator[tuple[str, list[Kind]]]:
    version = version_of(server)
    for name in FAMILIES:
        kinds = [
            kind._replace(values=tuple(value for value in kind.values if _is_kept(value)))
            for kind in family(name, server.kind, version)
        ]
        if kinds:
            yield name, kinds
    if server.kind == "mariadb":
        kinds = family("temporals", server.kind, version)
        yield "old_temporals", [kind for kind in kinds if "(" not in kind.definition]


def _is_kept(value: str) -> bool:
    """Whether the value is not cast to a type to which MySQL 5.7 does not cast."""
    return not re.search(r" AS (YEAR|FLOAT)\)", value)


def _create(cursor: Any, table: str, kinds: list[Kind]) -> None:
    old = table == "old_temporals"
    if old:
        cursor.execute("SET GLOBAL mysql56_temporal_format = OFF")
    columns = ", ".join(f"c{n} {kind.definition}" for n, kind in enumerate(kinds))
    # InnoDB's rows of these releases are too short for so many long columns.
    engine = "InnoDB" if table in ("integers", "documents") else "MyISAM"
    cursor.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, {columns}) ENGINE={engine}")
    if old:
        cursor.execute("SET GLOBAL mysql56_temporal_format = ON")


def _change(cursor: Any, table: str, kinds: list[Kind]) -> None:
    """Insert a row for each value, give each row the values of the next one, delete some."""
    written = [(n, kind) for n, kind in enumerate(kinds) if kind.values]
    names = "".join(f", c{n}" for n, _ in written)
    rows = max(len(kind.values) for kind in kinds) or 1
    for row in range(rows):
        values = "".join(f", {kind.values[row % len(kind.values)]}" for _, kind in written)
        cursor.execute(f"INSERT INTO {table} (id{names}) VALUES ({row + 1}{values})")
    cursor.execute(f"INSERT INTO {table} (id) VALUES (0)")
    if written:
        sets = ", ".join(f"t.c{n} = r.c{n}" for n, _ in written)
        cursor.execute(f"UPDATE {table} t JOIN {table} r ON r.id = (t.id + 1) % {rows} SET {sets}")
    cursor.execute(f"DELETE FROM {table} WHERE id % 2 = 0")


def _dump(cursor: Any) -> Iterator[str]:
    """The definitions, in the form of ``mysqldump --no-data --databases``."""
    cursor.execute(f"SHOW CREATE DATABASE {DATABASE}")
    yield f"{cursor.fetchall()[0][1]};\n\nUSE `{DATABASE}`;\n"
    cursor.execute("SHOW TABLES")
    for (table,) in cursor.fetchall():
        cursor.execute(f"SHOW CREATE TABLE `{table}`")
        yield f"\nDROP TABLE IF EXISTS `{table}`;\n{cursor.fetchall()[0][1]};\n"


def _shown(log: Path, *, by_mysql: bool) -> bytes:
    """What mysqlbinlog shows of the rows. The one of MySQL no longer reads the logs of 5.5."""
    if by_mysql:
        root, program = MYSQL_BUNDLE.root(), "mysqlbinlog"
    else:
        root, program = MARIADB_CLIENT.root(), "mariadb-binlog"
    command = loader_command(root, root / "usr/bin" / program)
    options = ("--no-defaults", "--base64-output=DECODE-ROWS", "--verbose", "--verbose")
    done = subprocess.run([*command, *options, str(log)], capture_output=True, check=True)
    lines = done.stdout.splitlines(keepends=True)
    return b"".join(line.removeprefix(b"### ") for line in lines if line.startswith(b"### "))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, mtime=0))


def main() -> None:
    """Record the servers that the command line names, by default all."""
    for name in sys.argv[1:] or OLD_SERVERS:
        with OLD_SERVERS[name]() as server:
            record(name, server)


if __name__ == "__main__":
    main()

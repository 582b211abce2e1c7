"""
Random statements that name charsets, or leave them out: each column is read with the charset that
the server gave it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress

import pymysql
import pytest

from engine.schema import Table
from sources.mysql.catalog import read_catalog
from tests.support.default_charsets import WORD, charsets_of
from tests.support.following import Following
from tests.support.mysql_sessions import FreshDatabase, Writer, source_of
from tests.support.servers import AnyServer, drop_mysql_database

CHARSETS = ("cp1251", "koi8r", "cp866", "utf8mb4", "utf8")
COLLATIONS = ("cp1251_bin", "koi8r_bin", "cp866_general_ci", "utf8mb4_bin", "utf8_general_ci")
TYPES = ("TEXT", "VARCHAR(20)", "CHAR(10)", "TINYTEXT", "LONGTEXT", "TEXT(300)", "ENUM('a','b')")
STATEMENTS = 40


class Statements:
    """Makes statements on the databases ``a`` and ``b``. Some of them are not valid."""

    def __init__(self, seed: int, a: str, b: str, *, mariadb: bool) -> None:
        self._chance = random.Random(seed)
        self._databases = (a, b)
        self._mariadb = mariadb
        self._names: list[str] = []
        self._count = 0

    def __iter__(self) -> Iterator[str]:
        kinds = (self._database, self._session, self._create, self._like, self._rename)
        for _ in range(STATEMENTS):
            weights = (12, 5, 33, 6, 6, 38)
            [make] = self._chance.choices((*kinds, self._alter), weights)
            yield make() if self._names else self._create()

    def _pick(self, *choices: str) -> str:
        return self._chance.choice(choices)

    def _charset(self) -> str:
        """A charset, a collation, both, DEFAULT, or nothing."""
        number = self._chance.randrange(len(CHARSETS))
        choices = [
            "",
            "",
            "",
            f" CHARACTER SET {CHARSETS[number]}",
            f" COLLATE {COLLATIONS[number]}",
        ]
        choices.append(f" CHARSET {CHARSETS[number]} COLLATE {COLLATIONS[number]}")
        if self._mariadb:
            choices += [" COLLATE DEFAULT", " CHARACTER SET DEFAULT"]
        return self._pick(*choices)

    def _column(self) -> str:
        stated = self._charset().replace(" CHARACTER SET DEFAULT", " BINARY")
        return f"c{self._next()} {self._pick(*TYPES)}{stated}"

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _new_name(self) -> str:
        self._names.append(f"{self._pick(*self._databases)}.t{self._next()}")
        return self._names[-1]

    def _database(self) -> str:
        charset = self._charset() or f" CHARACTER SET {self._pick(*CHARSETS)}"
        return f"ALTER DATABASE {self._pick('', *self._databases)}{charset}"

    def _session(self) -> str:
        variable = self._pick("collation_server", "collation_database")
        return self._pick(
            f"SET {variable} = {self._pick(*COLLATIONS)}", f"USE {self._pick(*self._databases)}"
        )

    def _create(self) -> str:
        columns = [
            "id INT PRIMARY KEY",
            *(self._column() for _ in range(self._chance.randrange(3))),
        ]
        return f"CREATE TABLE {self._new_name()} ({', '.join(columns)}){self._charset()}"

    def _like(self) -> str:
        model = self._pick(*self._names)
        return f"CREATE TABLE {self._new_name()} LIKE {model}"

    def _rename(self) -> str:
        return f"RENAME TABLE {self._pick(*self._names)} TO {self._new_name()}"

    def _alter(self) -> str:
        clauses = [f"ADD {self._column()}" for _ in range(self._chance.randrange(3))]
        charset = self._charset().strip()
        if charset:
            clauses.append(charset)
        elif self._chance.random() < 0.4 or not clauses:
            default = ("DEFAULT",) if self._mariadb else ()
            clauses.append(f"CONVERT TO CHARACTER SET {self._pick(*CHARSETS, *default)}")
        self._chance.shuffle(clauses)
        return f"ALTER TABLE {self._pick(*self._names)} {', '.join(clauses)}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_charsets(
    silent_log: AnyServer, fresh_mysql_database: FreshDatabase, seed: int
) -> None:
    database = fresh_mysql_database(silent_log)
    other = f"{database}_2"
    writer = Writer(silent_log, database)
    writer(f"CREATE DATABASE {other} CHARACTER SET cp866", "SET collation_server = koi8r_bin")
    source = source_of(silent_log, database, tables=(f"{database}.*", f"{other}.*"))
    mariadb = silent_log.kind == "mariadb"
    with Following(source, source.position(), []) as stream:
        stream.wait()
        for statement in Statements(seed, database, other, mariadb=mariadb):
            with suppress(pymysql.MySQLError):  # such as a collation of another charset
                writer(statement)
        live = read_catalog(writer.connection, lambda id: id.schema.startswith(database))
        for table in live:
            writer(f"INSERT INTO {table.id} VALUES {_row(table)}".replace(",)", ")"))
        stream.wait()
    writer.connection.close()
    drop_mysql_database(silent_log, other)
    found = {change.table.id: change for change in stream.rows}
    assert set(found) == {table.id for table in live}
    for table in live:
        assert found[table.id].after == [_row(table)], (seed, table.id)
        assert charsets_of(found[table.id].table) == charsets_of(table), (seed, table.id)


def _row(table: Table) -> tuple[object, ...]:
    return (1, *("b" if column.type.kind == "enum" else WORD for column in table.columns[1:]))

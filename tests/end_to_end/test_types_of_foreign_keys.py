"""
Foreign keys of many types, whose actions the target repeats.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from uuid import UUID

import psycopg
import pymysql
import pytest

from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql

#: Types of keys, and the values that a parent may have; children have them with other letters or
#: spaces at the end, too.
TYPES = {
    "CHAR(36) CHARACTER SET utf8mb4": [str(UUID(int=n * 0x1F3D << 64)) for n in range(40)],
    "VARCHAR(20) CHARACTER SET latin1": [f"Key-{n} x" for n in range(40)],
    "VARCHAR(300) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci": [*"abcdefgh'@[-_"],
    "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin": [*"abcABC", "a b", ""],
    "DATE": [f"2020-01-{n:02}" for n in range(1, 32)],
    "DATETIME(3)": [f"2020-01-01 00:00:00.{n:03}" for n in range(40)],
    "TIMESTAMP": [f"2020-01-01 00:00:{n:02}" for n in range(40)],
    "TIME": [f"-100:00:{n:02}" for n in range(40)],
    "YEAR": [str(n) for n in range(2000, 2040)],
    "ENUM('a', 'b', 'c', 'D')": list("abcD"),
    "SET('a', 'b', 'c')": ["a", "b", "c", "a,b", "a,b,c"],
    "DOUBLE": [str(n / 7) for n in range(-20, 20)],
    "BIT(7)": [str(n) for n in range(40)],
}


def _spelled(chosen: random.Random, value: str) -> str:
    letters = (chosen.choice([it, it.upper(), it.lower()]) for it in value)
    return "".join(letters) + chosen.choice(["", "", " "])


def _write_keys(cursor: pymysql.cursors.Cursor, chosen: random.Random) -> None:
    """Tables with each type of key, and their rows. The server refuses rows without a parent."""
    for n, (type, values) in enumerate(TYPES.items()):
        cursor.execute(f"CREATE TABLE p{n} (id {type} PRIMARY KEY)")
        for table, action in ((f"c{n}", "CASCADE"), (f"d{n}", "SET NULL")):
            cursor.execute(
                f"CREATE TABLE {table} (id INT PRIMARY KEY, p {type}, FOREIGN KEY (p) REFERENCES"
                f" p{n} (id) ON DELETE {action} ON UPDATE {action})"
            )
        numeric = type.startswith(("BIT", "YEAR", "DOUBLE"))
        for row in range(120):
            value = chosen.choice(values)
            text = value if numeric else _spelled(chosen, value)
            for table in (f"p{n} (id)", f"c{n} (p, id)", f"d{n} (p, id)"):
                parent = table.startswith("p")
                arguments = (int(text) if "BIT" in type else text, *(() if parent else (row,)))
                marks = "%s" if parent else "%s, %s"
                cursor.execute(f"INSERT IGNORE INTO {table} VALUES ({marks})", arguments)


@pytest.mark.parametrize("kind", ["mariadb_11", "native_mysql"])
def test_types_of_keys(
    request: pytest.FixtureRequest,
    kind: str,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    """GIVEN keys of many types, and children that spell them otherwise WHEN random parents are
    deleted and changed THEN the target does what the source does, without a backfill."""
    server: AnyServer = request.getfixturevalue(kind)
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(server)
    chosen = random.Random(7)
    writer = connect_mysql(server, database)
    with writer, writer.cursor() as cursor, psycopg.connect(target, autocommit=True) as there:
        _write_keys(cursor, chosen)
        catch_up(make_pipeline(server.url, target, [f"{database}.*"], name=database))
        for n, (type, values) in enumerate(TYPES.items()):
            cursor.execute(f"DELETE FROM p{n} ORDER BY id LIMIT {1 + len(values) // 5}")
            cursor.execute(f"DELETE FROM p{n} ORDER BY id DESC LIMIT 1")
            if "VARCHAR" in type:
                cursor.execute(f"UPDATE p{n} SET id = CONCAT(id, '_n') ORDER BY id LIMIT 2")
                cursor.execute(f"UPDATE IGNORE p{n} SET id = UPPER(id) ORDER BY id DESC LIMIT 3")
        run = make_pipeline(server.url, target, [f"{database}.*"], name=database)
        catch_up(run)
        assert_equal(writer, there, database)
        assert run.counters.backfilled_rows == 0
        for statement in ("ALTER TABLE c0 DROP FOREIGN KEY c0_ibfk_1", "DELETE FROM c0"):
            cursor.execute(statement)
        cursor.execute("ALTER TABLE c0 MODIFY p INT")
        catch_up(make_pipeline(server.url, target, [f"{database}.*"], name=database))
        assert_equal(writer, there, database)

"""
The policy ``collation``: the target takes texts for equal that the source takes for equal, and
Tailrace still tells them apart.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from engine.toolkit.policies import StoragePolicies
from tests.support.policy_mirror import Mirror

VALUES = StoragePolicies(collation="source")


def names(it: Mirror, table: str, condition: str) -> list[Any]:
    query = f'SELECT id FROM "{it.database}"."{table}" WHERE {condition} ORDER BY 1'
    return [id for (id,) in it.target.execute(query)]  # type: ignore[call-overload]


def collated_indexes(it: Mirror) -> list[str]:
    """The tables with a unique index that has another collation than its column."""
    query = "SELECT tablename FROM pg_indexes WHERE schemaname = %s AND indexdef LIKE '%%COLLATE%%'"
    return [name for (name,) in it.target.execute(query, (it.database,))]


def test_equal_texts_are_equal_on_the_target(mirror: Mirror) -> None:
    """GIVEN keys, unique and other texts whose collation ignores case WHEN they are backfilled, and
    change only by case in the stream THEN rows keep apart, and the target refuses and finds what
    the source does."""
    mirror.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, c VARCHAR(20) CHARACTER SET utf8mb4 COLLATE"
        " utf8mb4_unicode_ci, b VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,"
        " u VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci, UNIQUE KEY (u))",
        "CREATE TABLE k (id VARCHAR(20) CHARACTER SET latin1 COLLATE latin1_swedish_ci PRIMARY KEY,"
        " n INT)",
        "CREATE TABLE keyless (c VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci)",
        "INSERT INTO t VALUES (1, 'Äpfel', 'x', 'one'), (2, 'apfel', 'X', 'two'),"
        " (3, 'b', 'b', 'three'), (4, NULL, NULL, NULL)",
        "INSERT INTO k VALUES ('a', 1), ('b', 2), ('ä', 3), ('c', 4), ('d', 5)",
        "INSERT INTO keyless VALUES ('a'), ('A'), ('a'), ('á'), ('b'), (NULL)",
    )
    mirror.run(VALUES)
    assert mirror.verify(VALUES).equal
    assert names(mirror, "t", "c = 'APFEL'") == [1, 2]
    assert names(mirror, "t", "b = 'X'") == [2]
    refused = (
        ("t", "(id, u) VALUES (9, 'ONE')"),
        ("k", "VALUES ('B', 9)"),
    )
    for table, row in refused:
        with pytest.raises(psycopg.errors.UniqueViolation):
            mirror.target.execute(f'INSERT INTO "{mirror.database}"."{table}" {row}')  # type: ignore[call-overload]
    mirror.execute(
        "UPDATE k SET id = 'A' WHERE id = 'a'",
        "START TRANSACTION",
        "DELETE FROM k WHERE id = 'b'",
        "INSERT INTO k VALUES ('B', 20)",
        "UPDATE k SET id = 'x' WHERE id = 'c'",
        "UPDATE k SET id = 'C' WHERE id = 'd'",
        "UPDATE k SET id = 'D' WHERE id = 'x'",
        "COMMIT",
        "UPDATE t SET u = 'ONE' WHERE id = 1",
        "START TRANSACTION",
        "UPDATE t SET u = NULL WHERE id = 1",
        "UPDATE t SET u = 'One' WHERE id = 2",
        "UPDATE t SET u = 'TWO' WHERE id = 1",
        "COMMIT",
        "DELETE FROM keyless WHERE BINARY c = 'A'",
        "UPDATE keyless SET c = 'Á' WHERE BINARY c = 'a' LIMIT 1",
    )
    rows = ", ".join(f"('key{n}', {n})" for n in range(100))
    mirror.execute(f"INSERT INTO k VALUES {rows}", "UPDATE k SET id = UPPER(id) WHERE n < 90")
    mirror.run(VALUES)
    assert mirror.verify(VALUES).equal
    assert {"A", "B", "C", "D", "Ä", "KEY89", "key95"} <= {id for id, _ in mirror.rows("k")}


def test_schema_changes_keep_collations(mirror: Mirror) -> None:
    """GIVEN texts with the source's collation WHEN their type, collation, key or name changes, or
    the policy does THEN the target follows, and both sides are equal."""
    ci = "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
    mirror.execute(
        f"CREATE TABLE t (id INT PRIMARY KEY, c VARCHAR(20) {ci} NOT NULL, KEY (c))",
        f"CREATE TABLE e (id INT PRIMARY KEY, c VARCHAR(20) {ci} NOT NULL)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'A')",
    )
    mirror.run(VALUES)
    mirror.execute(
        f"ALTER TABLE t MODIFY c VARCHAR(30) {ci} NOT NULL, ADD d VARCHAR(9) {ci}",
        "ALTER TABLE t RENAME COLUMN d TO f" if mirror.server.kind == "mysql" else "SELECT 1",
        "INSERT INTO t (id, c) VALUES (3, 'Á')",
        "ALTER TABLE e DROP PRIMARY KEY, ADD PRIMARY KEY (c)",
        "INSERT INTO e VALUES (1, 'a'), (2, 'b')",
        "CREATE TABLE later (id INT PRIMARY KEY, c VARCHAR(9)) CHARACTER SET utf8mb4",
        "INSERT INTO later VALUES (1, 'a'), (2, 'A')",
        "UPDATE e SET c = 'B' WHERE c = 'b'",
    )
    mirror.run(VALUES)
    assert names(mirror, "t", "c = 'A'") == [1, 2, 3]
    assert names(mirror, "e", "c = 'b'") == []
    assert names(mirror, "later", "c = 'a'") == [1, 2]
    with pytest.raises(psycopg.errors.UniqueViolation):
        mirror.target.execute(f"""INSERT INTO "{mirror.database}".e VALUES (9, 'A')""")  # type: ignore[arg-type]
    assert mirror.verify(VALUES).equal
    mirror.execute(
        "ALTER TABLE t MODIFY c VARCHAR(30) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"
    )
    mirror.run(VALUES)
    assert names(mirror, "t", "c = 'A'") == [2]
    assert mirror.verify(VALUES).equal
    assert collated_indexes(mirror) == ["e"]
    mirror.run()  # another policy: the tables are backfilled again
    assert collated_indexes(mirror) == []
    assert mirror.verify().equal


def test_foreign_keys_tell_texts_apart(mirror: Mirror) -> None:
    """GIVEN foreign keys over texts with the source's collation WHEN keys change by case, and rows
    are deleted, through two levels THEN both sides are equal."""
    ci = "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
    for name, parent in (("b", "a"), ("c", "b")):
        if name == "b":
            mirror.execute(f"CREATE TABLE a (k {ci} PRIMARY KEY)")
        mirror.execute(
            f"CREATE TABLE {name} (id INT PRIMARY KEY, k {ci} NOT NULL, UNIQUE KEY (k),"
            f" FOREIGN KEY (k) REFERENCES {parent} (k) ON DELETE CASCADE ON UPDATE CASCADE)"
        )
    mirror.execute(
        "INSERT INTO a VALUES ('x'), ('y'), ('z')",
        "INSERT INTO b VALUES (1, 'x'), (2, 'Y'), (3, 'z')",
        "INSERT INTO c VALUES (1, 'X'), (2, 'y'), (3, 'z')",
    )
    mirror.run(VALUES)
    mirror.execute(
        "UPDATE a SET k = 'X' WHERE k = 'x'",
        "DELETE FROM a WHERE k = 'Y'",
        "UPDATE a SET k = 'w' WHERE k = 'Z'",
    )
    mirror.run(VALUES, stops=True)
    assert {k for (k,) in mirror.rows("c", "k")} == {"X", "w"}
    assert mirror.verify(VALUES).equal

"""
Keys over text, which the source compares by a collation and the target by bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from engine.settings.loader import BackfillSettings
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.mysql_sessions import Writer
from tests.support.servers import AnyServer

Fresh = Callable[[AnyServer], str]

# Collations that ignore case and accents, only spaces at the end, and nothing.
COLLATIONS = ["utf8mb4_general_ci", "latin1_german2_ci", "utf8mb4_bin"]
WORDS = ["a", "B", "ä", "ß", "ss", "A b", "Zz", "", "é", "f", "AE", "q ", "\t", "ÿ", "Œ", "~"]
CHANGES = [
    # The same key to the source, with other bytes.
    "UPDATE IGNORE t SET k = UPPER(k)",
    "UPDATE IGNORE t SET k = CONCAT(TRIM(k), ' ') WHERE n % 3 = 0",
    "UPDATE IGNORE t SET k = LOWER(k) WHERE n % 2 = 0",
    "REPLACE INTO t VALUES ('F', 'x', 901), ('B ', 'y', 902)",
    "INSERT INTO t VALUES ('zZ', 'w', 903) ON DUPLICATE KEY UPDATE n = n + 1",
    "INSERT IGNORE INTO t VALUES ('É', 'v', 904)",
    "BEGIN",
    "UPDATE IGNORE t SET u = 'tmp' WHERE k = 'q'",
    "UPDATE IGNORE t SET u = 'Q' WHERE k = 'q'",
    "DELETE FROM t WHERE k = 'a'",
    "INSERT IGNORE INTO t VALUES ('A', 'a', 905)",
    "COMMIT",
    "DELETE FROM t WHERE k = 'SS'",
    "INSERT IGNORE INTO t VALUES ('sS', 'S', 906)",
]


@pytest.mark.parametrize("collation", COLLATIONS)
def test_text_keys(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Fresh,
    fresh_postgres_database: Fresh,
    collation: str,
) -> None:
    """GIVEN a table whose key and unique column have a collation WHEN rows change to keys that are
    equal by it THEN the target has the same rows, whether they come from the backfill or not."""
    database, target = fresh_mysql_database(mysql_family), fresh_postgres_database(postgres)
    writer = Writer(mysql_family, database)
    charset = collation.partition("_")[0]
    text = f"VARCHAR(20) CHARACTER SET {charset} COLLATE {collation}"
    writer(f"CREATE TABLE t (k {text} PRIMARY KEY, u {text} UNIQUE, n INT)")
    for number, word in enumerate(WORDS):
        writer(f"INSERT IGNORE INTO t VALUES ('{word}', 'u{word}', {number})")
    tables = [f"{database}.*"]
    writer(*CHANGES[:3])
    small = BackfillSettings(chunk_rows=3)
    catch_up(make_pipeline(mysql_family.url, target, tables, backfill=small))
    with psycopg.connect(target, autocommit=True) as there:
        assert_equal(writer.connection, there, database)
        writer(*CHANGES, *CHANGES)
        catch_up(make_pipeline(mysql_family.url, target, tables))
        assert_equal(writer.connection, there, database)
    writer.connection.close()

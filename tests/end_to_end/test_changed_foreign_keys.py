"""
Foreign keys at a place in the log at which they are not those of the catalog.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer

P = "CREATE TABLE p (id INT PRIMARY KEY)"
ADD = "ALTER TABLE t ADD FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE"
#: The state of an earlier version of Tailrace, which did not store foreign keys.
FORGET = "UPDATE tailrace.table_version SET definition = (definition::jsonb - 'foreign_keys')::text"
STORED = "SELECT count(*) FROM tailrace.table_version WHERE definition ~ 'foreign_keys'"


class Mirror:
    """A database of a source, and a target that follows it."""

    def __init__(self, writer: Writer, target: str, there: psycopg.Connection) -> None:
        self.writer, self.target, self.there = writer, target, there

    def catch_up(self) -> int:
        """Run the pipeline, compare all rows, and return the number of backfilled rows."""
        database = self.writer.database
        run = make_pipeline(self.writer.server.url, self.target, [f"{database}.*"])
        catch_up(run)
        assert_equal(self.writer.connection, self.there, database)
        assert {it.state for it in run.status().tables} == {"live"}
        return run.counters.backfilled_rows


@pytest.fixture
def mirror(
    mariadb_10: AnyServer, fresh_mysql_database: FreshDatabase, target_database: str
) -> Iterator[Mirror]:
    writer = Writer(mariadb_10, fresh_mysql_database(mariadb_10))
    with writer.connection, psycopg.connect(target_database, autocommit=True) as there:
        yield Mirror(writer, target_database, there)


def test_a_foreign_key_that_is_added_later_has_not_acted(mirror: Mirror) -> None:
    """Rows that lose their parent before the foreign key is added remain, as on the source."""
    writer = mirror.writer
    writer(P, "CREATE TABLE t (id INT PRIMARY KEY, p INT, x INT)")
    writer("INSERT INTO p VALUES (1), (2), (3)", "INSERT INTO t VALUES (1, 1, 5), (2, 2, 6)")
    mirror.catch_up()
    writer("SET binlog_row_image = MINIMAL", "DELETE FROM p WHERE id = 1")
    writer("UPDATE t SET p = 2 WHERE p = 1", "INSERT INTO t VALUES (3, 3, 7)", ADD)
    writer("DELETE FROM p WHERE id = 3")
    assert mirror.catch_up() == 0


def test_keys_that_were_not_stored_are_those_of_the_catalog_at_the_end_of_the_log(
    mirror: Mirror,
) -> None:
    writer = mirror.writer
    writer(P, "CREATE TABLE t (id INT PRIMARY KEY, p INT)", ADD)
    writer("INSERT INTO p VALUES (1), (2), (3)", "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
    mirror.catch_up()
    mirror.there.execute(FORGET)
    assert mirror.catch_up() == 0
    assert mirror.there.execute(STORED).fetchall() == [(2,)]
    writer("DELETE FROM p WHERE id = 1")
    assert mirror.catch_up() == 0


@pytest.mark.parametrize("before", [True, False])
def test_keys_that_were_not_stored_are_not_known_before_the_end_of_the_log(
    before: bool, mirror: Mirror
) -> None:
    """A table that they may have changed is backfilled again, once."""
    writer = mirror.writer
    writer(P, "CREATE TABLE t (id INT PRIMARY KEY, p INT)", *([ADD] if before else []))
    writer("INSERT INTO p VALUES (1), (2), (3)", "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
    mirror.catch_up()
    mirror.there.execute(FORGET)
    writer("SET foreign_key_checks = 0", "DELETE FROM p WHERE id = 2", *([] if before else [ADD]))
    writer("SET foreign_key_checks = 1", "DELETE FROM p WHERE id = 1")
    assert mirror.catch_up() == 2
    assert mirror.there.execute(STORED).fetchall() == [(2,)]
    writer("DELETE FROM p WHERE id = 3")
    assert mirror.catch_up() == 0

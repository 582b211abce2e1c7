"""
Foreign keys that neither the log nor the catalog shows at their place in the log.

The source changes while the pipeline does not run, so its catalog is ahead of the log. What the
foreign keys have done by then is in neither. The tables on which they may have acted are backfilled
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pymysql
import pytest

from engine.pipeline.loop import Pipeline
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql


class Mirror:
    """A source database with another one beside it, which is not followed, and its target."""

    def __init__(self, server: AnyServer, database: str, other: str, target: str) -> None:
        self.database, self.other, self.target = database, other, target
        self._url = server.url
        self.source = connect_mysql(server, database)

    def pipeline(self, *excluded: str) -> Pipeline:
        return make_pipeline(
            self._url, self.target, [f"{self.database}.*"], name=self.database, exclude=excluded
        )

    def execute(self, *statements: str, refused: bool = False) -> None:
        """Execute statements. ``refused``: a server may refuse them."""
        with self.source.cursor() as cursor:
            for statement in statements:
                try:
                    cursor.execute(statement.replace("{other}", self.other))
                except pymysql.MySQLError:
                    if not refused:
                        raise

    def catch_up(self, *excluded: str) -> Pipeline:
        """Run the pipeline to the end of the log, and compare both sides."""
        pipeline = self.pipeline(*excluded)
        catch_up(pipeline)
        with psycopg.connect(self.target, autocommit=True) as target:
            assert_equal(self.source, target, self.database)
        assert {it.state for it in pipeline.status().tables} == {"live"}
        return pipeline


@pytest.fixture(params=["mariadb_11", "native_mysql"])
def mirror(
    request: pytest.FixtureRequest,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> Iterator[Mirror]:
    server: AnyServer = request.getfixturevalue(request.param)
    database, other = fresh_mysql_database(server), fresh_mysql_database(server)
    made = Mirror(server, database, other, fresh_postgres_database(postgres))
    with made.source:
        yield made
        made.execute("SET foreign_key_checks = 0", f"DROP DATABASE {database}")


def _child(name: str, parent: str = "p", more: str = "") -> str:
    return (
        f"CREATE TABLE {name} (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES {parent} (id)"
        f" ON DELETE CASCADE) {more}"
    )


def test_storage_engines_that_ignore_foreign_keys(mirror: Mirror) -> None:
    """The log shows neither the default storage engine nor that it has replaced another one."""
    mirror.execute(
        "CREATE TABLE p (id INT PRIMARY KEY)",
        "INSERT INTO p VALUES (1), (2), (3), (4), (5), (6), (7), (8)",
        "CREATE TABLE was_without (id INT PRIMARY KEY, p INT) ENGINE = MyISAM",
        "INSERT INTO was_without VALUES (1, 1), (2, 2)",
        _child("had_one", "p", "ENGINE = InnoDB"),
        "INSERT INTO had_one VALUES (1, 1), (2, 2)",
    )
    mirror.catch_up()
    mirror.execute(
        "SET default_storage_engine = MyISAM",
        *(_child("by_default"), _child("becomes_innodb")),
        "SET default_storage_engine = InnoDB",
        "SET sql_mode = ''",
        _child("replaced", "p", "ENGINE = Nothing"),
        "SET sql_mode = 'NO_ENGINE_SUBSTITUTION'",
        _child("named", "p", "ENGINE = MyISAM"),
        "ALTER TABLE was_without ADD FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE",
        "INSERT INTO by_default VALUES (1, 1), (2, 2)",
        "INSERT INTO becomes_innodb VALUES (1, 1), (2, 2)",
        "INSERT INTO replaced VALUES (1, 1), (2, 2)",
        "INSERT INTO named VALUES (1, 1), (2, 2)",
        "SET foreign_key_checks = 0",
        _child("of_another", "q", "ENGINE = InnoDB"),
        "CREATE TABLE q (id INT PRIMARY KEY) ENGINE = MyISAM",
        "SET foreign_key_checks = 1",
        "INSERT INTO q VALUES (1), (2)",
        "SET foreign_key_checks = 0",
        "INSERT INTO of_another VALUES (1, 1), (2, 2)",
        "SET foreign_key_checks = 1",
        "DELETE FROM q WHERE id = 1",
        "DELETE FROM p WHERE id = 1",
        "ALTER TABLE becomes_innodb ENGINE = InnoDB",
    )
    mirror.execute("ALTER TABLE had_one ENGINE = MyISAM", refused=True)
    mirror.execute("DELETE FROM p WHERE id = 2", "DELETE FROM q WHERE id = 2")
    mirror.catch_up()


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE {other}.x DROP FOREIGN KEY of_p"],
        ["RENAME TABLE {other}.x TO {other}.y", "DELETE FROM p WHERE id = 2"],
        ["ALTER TABLE c DROP FOREIGN KEY of_x", "DROP TABLE {other}.x"],
        [
            "SET foreign_key_checks = 0",
            "DROP TABLE {other}.x",
            "CREATE TABLE {other}.x (id INT PRIMARY KEY)",
            "SET foreign_key_checks = 1",
        ],
    ],
    ids=["altered", "renamed", "dropped", "replaced"],
)
def test_tables_between_two_followed_ones(mirror: Mirror, statements: list[str]) -> None:
    """A table that is not followed has lost its foreign key before the pipeline runs again."""
    mirror.execute(
        "CREATE TABLE p (id INT PRIMARY KEY)",
        (
            "CREATE TABLE {other}.x (id INT PRIMARY KEY, p INT, CONSTRAINT of_p FOREIGN KEY (p)"
            f" REFERENCES {mirror.database}.p (id) ON DELETE CASCADE)"
        ),
        (
            "CREATE TABLE c (id INT PRIMARY KEY, x INT, CONSTRAINT of_x FOREIGN KEY (x)"
            " REFERENCES {other}.x (id) ON DELETE CASCADE)"
        ),
        "INSERT INTO p VALUES (1), (2), (3)",
        "INSERT INTO {other}.x VALUES (1, 1), (2, 2), (3, 3)",
        "INSERT INTO c VALUES (1, 1), (2, 2), (3, 3)",
    )
    mirror.catch_up()
    mirror.execute("DELETE FROM p WHERE id = 1", *statements)
    mirror.catch_up()


def test_prepared_before_the_child_is_followed(mirror: Mirror) -> None:
    """An XA transaction has deleted a row of a parent that is not followed, and those of its
    children. The backfill of a child reads the rows as they were before."""
    mirror.execute(
        "CREATE TABLE {other}.p (id INT PRIMARY KEY)",
        _child("c", "{other}.p"),
        _child("g", "c"),
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO {other}.p VALUES (1), (2)",
        "INSERT INTO c VALUES (1, 1), (2, 2)",
        "INSERT INTO g VALUES (1, 1), (2, 2)",
    )
    catch_up(mirror.pipeline("*.c", "*.g"))
    mirror.execute(
        "XA START 'x'", "DELETE FROM {other}.p WHERE id = 1", "XA END 'x'", "XA PREPARE 'x'"
    )
    try:
        catch_up(mirror.pipeline("*.c", "*.g"))
        catch_up(mirror.pipeline())
    finally:
        mirror.execute("XA COMMIT 'x'")
    run = mirror.catch_up()
    assert run.counters.backfilled_rows == 0
    mirror.execute("DROP TABLE g, c")


@pytest.mark.parametrize(
    "statement",
    [
        "RENAME TABLE c TO d",
        "RENAME TABLE p TO q",
        "ALTER TABLE p RENAME q",
        "ALTER TABLE c DROP FOREIGN KEY c_ibfk_1",
    ],
)
def test_state_without_foreign_keys(mirror: Mirror, statement: str) -> None:
    """An earlier version of Tailrace has begun to follow the tables."""
    mirror.execute(
        *("CREATE TABLE p (id INT PRIMARY KEY)", _child("c")),
        "INSERT INTO p VALUES (1), (2), (3)",
        "INSERT INTO c VALUES (1, 1), (2, 2), (3, 3)",
    )
    mirror.catch_up()
    with psycopg.connect(mirror.target, autocommit=True) as target:
        target.execute(
            "UPDATE tailrace.table_version"
            " SET definition = (definition::jsonb - 'foreign_keys')::text"
        )
    mirror.execute("DELETE FROM p WHERE id = 1", statement)
    pipeline = mirror.pipeline()
    catch_up(pipeline)
    mirror.execute("INSERT INTO c VALUES (9, 3)" if "c TO d" not in statement else "SELECT 1")
    mirror.catch_up()

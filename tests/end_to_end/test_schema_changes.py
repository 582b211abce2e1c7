"""
Schema changes at the worst moment of a backfill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from sources.mysql.position import MySQLPosition
from sources.mysql.snapshot.watermarks import Watermarks
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql


def test_a_table_is_truncated_and_then_altered_while_its_read_begins(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TRUNCATE makes the server refuse the read, though the table's shape stays the same."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    writer = connect_mysql(mysql_family, database)
    waiting = ["TRUNCATE TABLE t", "ALTER TABLE t MODIFY n BIGINT NOT NULL"]
    exact = Watermarks.exact

    @contextmanager
    def interfered(self: Watermarks, *arguments: Any) -> Iterator[MySQLPosition]:
        with exact(self, *arguments) as position, writer.cursor() as cursor:
            if waiting:
                cursor.execute(waiting.pop(0))
            yield position

    monkeypatch.setattr(Watermarks, "exact", interfered)
    with writer, writer.cursor() as cursor, psycopg.connect(target, autocommit=True) as there:
        cursor.execute("CREATE TABLE t (n INT NOT NULL)")
        cursor.execute("INSERT INTO t VALUES (1), (2)")
        catch_up(make_pipeline(mysql_family.url, target, [f"{database}.t"], name=database))
        assert not waiting
        cursor.execute("INSERT INTO t VALUES (9876543210)")
        catch_up(make_pipeline(mysql_family.url, target, [f"{database}.t"], name=database))
        assert_equal(writer, there, database)

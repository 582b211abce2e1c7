"""
New columns that are read alone, while rows change with images that are not full.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from engine.ops.status import TableStatus
from engine.pipeline import backfill
from engine.settings.loader import BackfillSettings
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline, running
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

ROWS = 1600
READ = 100
#: 4 KB that PostgreSQL does not compress.
TEXT = "CONCAT(" + ", ".join(f"SHA2({number}, 512)" for number in range(32)) + ")"


def test_partial_images_hide_no_value(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MariaDB leaves virtual columns out of images that are not full."""
    monkeypatch.setattr(backfill, "COMMIT_SECONDS", 0.0)  # the status shows what is committed
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    tables = [f"{database}.*"]
    slow = BackfillSettings(chunk_rows=20, slice_seconds=0.01)
    with (
        connect_mysql(mysql_family, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR(9), b TEXT)")
        values = ", ".join(f"({number}, 'old', {TEXT})" for number in range(ROWS))
        cursor.execute(f"INSERT INTO t VALUES {values}")
        source.commit()
        catch_up(make_pipeline(mysql_family.url, target, tables))
        cursor.execute("ANALYZE TABLE t")
        cursor.fetchall()
        cursor.execute("ALTER TABLE t ADD g BIGINT AS (CRC32(s)) VIRTUAL")
        cursor.execute("SET SESSION binlog_row_image = 'MINIMAL'")
        pipeline = make_pipeline(mysql_family.url, target, tables, backfill=slow)

        def table() -> TableStatus:
            return next(iter(pipeline.status().tables), TableStatus("none"))

        with running(pipeline):
            # The first rows are read again, and change while the last ones are not.
            wait_until(lambda: table().state == "backfilling" and table().rows > READ, what="rows")
            for number in range(3):
                cursor.execute("UPDATE t SET s = %s WHERE id = %s", (f"n{number}", number))
                source.commit()
            wait_until(lambda: table().state == "live", timeout=60, what="the table is live")
        catch_up(make_pipeline(mysql_family.url, target, tables))
        assert_equal(source, there, database)

"""
Documents of which the source logs only the changed parts arrive as the source has them.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.support.mirror import catch_up, make_pipeline
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer


@pytest.mark.parametrize("image", ["FULL", "MINIMAL"])
def test_changed_parts_of_documents(
    image: str, mysql: AnyServer, fresh_mysql_database: FreshDatabase, target_database: str
) -> None:
    """With the documents before, they are applied. Without, the table is backfilled again."""
    writer = Writer(mysql, fresh_mysql_database(mysql))
    tables = [f"{writer.database}.t"]
    filler = "f" * 200
    writer(
        "CREATE TABLE t (id INT PRIMARY KEY, j JSON)",
        f"""INSERT INTO t VALUES (1, '{{"a": [1], "filler": "{filler}"}}')""",
        f"""INSERT INTO t VALUES (2, '[1, "{filler}"]')""",
    )
    catch_up(make_pipeline(mysql.url, target_database, tables))
    writer(
        f"SET SESSION binlog_row_value_options = PARTIAL_JSON, binlog_row_image = {image}",
        "UPDATE t SET j = JSON_SET(j, '$.a[1]', 1.50, '$.b', CAST('10:00' AS TIME)) WHERE id = 1",
        "UPDATE t SET j = JSON_REMOVE(j, '$.a[0]'), id = 3 WHERE id = 1",
        "UPDATE t SET j = JSON_REPLACE(j, '$[0]', CAST('{\"x\": 1e30}' AS JSON)) WHERE id = 2",
    )
    run = make_pipeline(mysql.url, target_database, tables)
    catch_up(run)
    with psycopg.connect(target_database) as there:
        found = there.execute(f'SELECT id, j::text FROM "{writer.database}".t ORDER BY id')
        assert found.fetchall() == [
            (2, f'[{{"x": 1e30}}, "{filler}"]'),
            (3, f'{{"a": [1.50], "b": "10:00:00.000000", "filler": "{filler}"}}'),
        ]
    assert bool(run.counters.backfilled_rows) == (image == "MINIMAL")

"""
Mapped and merged tables whose engine is killed between the chunks of their backfills.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.cli.main import main
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.shops import catch_up

Fresh = Callable[[AnyServer], str]

ROWS = 2_000
MORE = """
[backfill]
chunk_rows = 3
slice_seconds = 0.05
[mask]
key = "a secret"
[mapping."*.customer"]
to = "crm.customer"
merge = {{ shop = "schema" }}
select = "*, upper(email collate utf8mb4_bin) AS loud, points * 2 AS twice"
mask = {{ phone = "hash" }}
where = "{where}"
"""


@pytest.mark.parametrize("name", ["mysql", pytest.param("mariadb_11", marks=pytest.mark.slow)])
def test_kills_during_the_backfill_of_merged_tables(
    name: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: Fresh,
    target_database: str,
    tmp_path: Path,
) -> None:
    """GIVEN two shops that are merged and filtered, and written to WHEN the engine is killed during
    their backfills, and during those that an edited mapping makes THEN both sides are equal."""
    server: AnyServer = request.getfixturevalue(name)
    shops = [fresh_mysql_database(server) for _ in range(2)]
    patterns = '", "'.join(f"{shop}.*" for shop in shops)
    with ExitStack() as stack:
        sources = [stack.enter_context(closing(connect_mysql(server, shop))) for shop in shops]
        for source in sources:
            fill(source)

        def interrupted(where: str, kills: int) -> None:
            """Kill the engine between chunks, write to the source each time, and let it finish."""
            more = MORE.format(where=where)
            config = write_config(tmp_path, server.url, target_database, patterns, more=more)
            for number in range(kills):
                with EngineProcess(config) as engine:
                    status = engine.wait_status(lambda s: s["backfilled_rows"] >= 50)
                    engine.kill()
                assert any(it["state"] != "live" for it in status["tables"])
                for source in sources:
                    write(source, number)
            catch_up(config)
            assert main(["verify", str(config)]) == 0
            assert merged(target_database) == expected(sources, shops, where)

        interrupted("state <> 'gone'", 3)
        interrupted("points % 5 = 0", 2)


def fill(source: Any) -> None:
    with source.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE customer (id INT PRIMARY KEY, email VARCHAR(40) NOT NULL, phone"
            " VARCHAR(20), points INT, state VARCHAR(9)) CHARACTER SET utf8mb4 COLLATE"
            " utf8mb4_general_ci"
        )
        rows = [
            (n, f"é{n}@X", f"+41 {n}" if n % 4 else None, n % 11, "gone" if n % 7 else "new")
            for n in range(ROWS)
        ]
        cursor.executemany("INSERT INTO customer VALUES (%s, %s, %s, %s, %s)", rows)
    source.commit()


def write(source: Any, number: int) -> None:
    """Changes all over the table: rows come and go by the conditions, and get other keys."""
    with source.cursor() as cursor:
        for statement in (
            f"UPDATE customer SET state = 'new' WHERE id % 50 = {number}",
            f"UPDATE customer SET state = 'gone', points = 5 WHERE id % 50 = {number + 10}",
            f"UPDATE customer SET points = points + 1 WHERE id % 50 = {number + 20}",
            f"UPDATE customer SET id = id + 100000 WHERE id % 50 = {number + 30} AND id < {ROWS}",
            f"DELETE FROM customer WHERE id % 50 = {number + 40}",
        ):
            cursor.execute(statement)
    source.commit()


def merged(target: str) -> Counter[Any]:
    with psycopg.connect(target) as connection:
        query = "SELECT shop, id, email, points, state, loud, twice FROM crm.customer"
        return Counter(connection.execute(query).fetchall())


def expected(sources: list[Any], shops: list[str], where: str) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for source, shop in zip(sources, shops, strict=True):
        with source.cursor() as cursor:
            cursor.execute(
                "SELECT id, email, points, state, UPPER(email COLLATE utf8mb4_bin), points * 2"
                f" FROM customer WHERE {where}"
            )
            found.update((shop, *row) for row in cursor.fetchall())
        source.commit()
    return found

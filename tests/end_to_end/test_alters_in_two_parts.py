"""
``binlog_alter_two_phase``: MariaDB logs the beginning of an ALTER TABLE before it executes it, and
its end as COMMIT ALTER or ROLLBACK ALTER. Other transactions come between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pymysql
import pytest

from engine.databases.mysql.connect import query
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mirror import catch_up, make_pipeline
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

#: Whether each succeeds. One that does not is killed after its first part.
ALTERS = {
    "ALTER TABLE t ADD w INT DEFAULT 7, ALGORITHM = COPY": True,
    "ALTER TABLE t ADD x INT DEFAULT 8, ALGORITHM = COPY": False,
    "ALTER TABLE t MODIFY v BIGINT, RENAME TO renamed, ALGORITHM = COPY": True,
}
#: It fails while it copies the rows.
DUPLICATES = "ALTER TABLE t ADD UNIQUE (v), ADD y INT, ALGORITHM = COPY"
WAITS = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE '%metadata lock%'"


@contextmanager
def begun(writer: Writer, alter: str, succeeds: bool) -> Iterator[None]:
    """Inside, the first part of the ALTER is logged, and its second part is not: it waits for a
    lock.
    """
    holder, altering = (Writer(writer.server, writer.database) for _ in range(2))
    altering("SET binlog_alter_two_phase = ON")
    holder("BEGIN", "SELECT * FROM t")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(altering, alter)
        try:
            wait_until(lambda: writer.one(WAITS) == (1,), what="the first part of the ALTER")
            yield
            if not succeeds:
                writer(f"KILL QUERY {altering.connection.thread_id()}")
                with pytest.raises(pymysql.MySQLError, match="interrupted"):
                    ended.result(30)
        finally:
            holder("COMMIT")
    if succeeds:
        ended.result(30)
    holder.connection.close()
    altering.connection.close()


@pytest.mark.parametrize(
    "server", ["mariadb_11", pytest.param("mariadb_10", marks=pytest.mark.slow)]
)
def test_the_engine_is_killed_between_the_parts(
    server: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
) -> None:
    source: AnyServer = request.getfixturevalue(server)
    name = fresh_mysql_database(source)
    writer = Writer(source, name)
    writer("CREATE TABLE t (id INT PRIMARY KEY, v INT)", "CREATE TABLE u (id INT PRIMARY KEY)")
    writer("INSERT INTO t VALUES (1, 1), (2, 1)", "SET binlog_alter_two_phase = ON")
    catch_up(make_pipeline(source.url, target_database, [f"{name}.*"]))
    config = write_config(tmp_path, source.url, target_database, f"{name}.*")
    with psycopg.connect(target_database, autocommit=True) as target:

        def applied(id: int) -> bool:
            found = target.execute(f'SELECT FROM "{name}".u WHERE id = %s', (id,))
            return found.fetchone() is not None

        with pytest.raises(pymysql.err.IntegrityError):
            writer(DUPLICATES)
        for number, (alter, succeeds) in enumerate(ALTERS.items()):
            with EngineProcess(config) as engine, begun(writer, alter, succeeds):
                writer(f"INSERT INTO u VALUES ({10 * number})")
                wait_until(lambda id=10 * number: applied(id), what="a row between the parts")
                engine.kill()
                writer(f"INSERT INTO u VALUES ({10 * number + 1})")
                with EngineProcess(config):  # it begins between the parts
                    wait_until(lambda id=10 * number + 1: applied(id), what="the next row")
            table = "renamed" if "renamed" in alter else "t"
            writer(f"INSERT INTO {table} (id, v) VALUES ({10 + number}, 1)")
            run = make_pipeline(source.url, target_database, [f"{name}.*"])
            catch_up(run)
            assert run.counters.backfilled_rows == 0
            assert_equal(writer.connection, target, name)


#: It fails where two texts differ in case only.
MODIFY = "ALTER TABLE t MODIFY v VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"


@pytest.mark.parametrize("again", [False, True], ids=["at once", "resumed"])
def test_an_alter_fails_after_rows_have_changed(
    mariadb_11: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    again: bool,
) -> None:
    """GIVEN a MODIFY whose first part is logged WHEN rows of its table change, of which two are
    duplicates after the MODIFY, THEN it fails, and the rows are followed as they are."""
    name = fresh_mysql_database(mariadb_11)
    writer, holder, altering = (Writer(mariadb_11, name) for _ in range(3))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(9) COLLATE utf8mb4_bin UNIQUE)")
    writer("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    writer("CREATE TABLE u (id INT PRIMARY KEY)")
    altering("SET binlog_alter_two_phase = ON")

    def follow() -> None:
        run = make_pipeline(mariadb_11.url, target_database, [f"{name}.*"])
        catch_up(run)
        assert run.counters.backfilled_rows == (0 if followed else 3)

    followed = False
    follow()
    followed = True
    file, place = writer.one("SHOW MASTER STATUS")[:2]
    holder("BEGIN", "UPDATE t SET v = 'd' WHERE id = 3")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(altering, f"{MODIFY}, ADD w INT, ALGORITHM = COPY, LOCK = NONE")
        try:
            wait_until(lambda: writer.one(WAITS) == (1,), what="the first part of the ALTER")
            writer("INSERT INTO u VALUES (1)")
            if again:
                follow()
            holder("INSERT INTO t VALUES (4, 'A'), (5, 'e')", "DELETE FROM t WHERE id = 2")
        finally:
            holder("COMMIT")
        with pytest.raises(pymysql.err.IntegrityError):
            ended.result(30)
    logged = query(writer.connection, f"SHOW BINLOG EVENTS IN '{file}' FROM {place}")
    texts = [f"{it[2]} {it[5]}" for it in logged]
    first, rows, last = (
        next(n for n, text in enumerate(texts) if wanted in text)
        for wanted in ("START ALTER", "Delete_rows", "ROLLBACK ALTER")
    )
    assert first < rows < last
    writer("UPDATE t SET v = 'B' WHERE id = 1", "INSERT INTO t VALUES (6, 'b')")
    follow()
    with psycopg.connect(target_database, autocommit=True) as target:
        assert_equal(writer.connection, target, name)
    for each in (writer, holder, altering):
        each.connection.close()

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


#: It fails where two texts differ in case only. Other sessions write while it copies the rows.
MODIFY = """ALTER TABLE t MODIFY v VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci,
    ADD w INT, ALGORITHM = COPY, LOCK = NONE"""
ROWS = 100_000
COPIES = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'copy to tmp%'"


@pytest.mark.slow
def test_an_alter_fails_after_rows_have_changed(
    mariadb_11: AnyServer, fresh_mysql_database: FreshDatabase, target_database: str
) -> None:
    """GIVEN a MODIFY whose first part is logged WHEN rows of its table change, of which two are
    duplicates after the MODIFY, THEN it fails, and the rows are followed as they are."""
    name = fresh_mysql_database(mariadb_11)
    writer, altering = Writer(mariadb_11, name), Writer(mariadb_11, name)
    writer("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20) COLLATE utf8mb4_bin UNIQUE)")
    writer(f"INSERT INTO t SELECT seq, CONCAT('a', seq) FROM seq_1_to_{ROWS}")
    altering("SET binlog_alter_two_phase = ON")
    catch_up(make_pipeline(mariadb_11.url, target_database, [f"{name}.*"]))
    file, place = writer.one("SHOW MASTER STATUS")[:2]
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(altering, MODIFY)
        wait_until(lambda: writer.one(COPIES) == (1,), what="the copy of the rows")
        writer("INSERT INTO t VALUES (0, 'A1')", "DELETE FROM t WHERE id = 2")
        with pytest.raises(pymysql.err.IntegrityError):
            ended.result(30)
    logged = query(writer.connection, f"SHOW BINLOG EVENTS IN '{file}' FROM {place}")
    kinds = [f"{event[2]} {event[5]}" for event in logged]
    parts = [
        next(n for n, kind in enumerate(kinds) if wanted in kind)
        for wanted in ("START ALTER", "Write_rows", "Delete_rows", "ROLLBACK ALTER")
    ]
    assert parts == sorted(parts)
    writer("UPDATE t SET v = 'A3' WHERE id = 1", "INSERT INTO t VALUES (-1, 'a1')")
    run = make_pipeline(mariadb_11.url, target_database, [f"{name}.*"])
    catch_up(run)
    assert run.counters.backfilled_rows == 0
    with psycopg.connect(target_database, autocommit=True) as target:
        assert_equal(writer.connection, target, name)
    writer.connection.close()
    altering.connection.close()

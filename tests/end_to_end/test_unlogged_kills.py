"""
The engine is killed at each step of backfilling a table, or a part of it, again, under load.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.background import Background
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql
from tests.support.unlogged_cases import change_table, make_tables
from tests.support.waiting import wait_until

ROWS = 1_500
#: Chunks that are so small that the backfill lasts longer than the time between two commits.
SLOW = "[backfill]\nchunk_rows = {rows}\nslice_seconds = 0.01\n"
#: The ids of one partition.
FIRST, LAST = 501, 1_000
#: A trigger that makes the engine wait, before it commits that the table ``t`` is in a state.
BLOCK = """
CREATE TABLE public.block (state text);
INSERT INTO public.block VALUES ('');
CREATE FUNCTION public.block() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.source_name = 't' AND EXISTS (
    SELECT FROM public.block b
    WHERE b.state = NEW.state || CASE WHEN NEW.cursor IS NULL THEN '' ELSE ', begun' END
  ) THEN
    PERFORM pg_advisory_xact_lock_shared(42);
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER block BEFORE INSERT OR UPDATE ON tailrace.table_progress
  FOR EACH ROW EXECUTE FUNCTION public.block();
ALTER TABLE tailrace.table_progress ENABLE ALWAYS TRIGGER block"""
BLOCKED = (
    "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted"
)
#: The same for each state of one table that has not passed yet.
BLOCK_EACH = """
CREATE TABLE public.block (name text, passed int[]);
INSERT INTO public.block VALUES ('', '{}');
CREATE FUNCTION public.block() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  state int := 2 * array_position(
    ARRAY['pending', 'backfilling', 'catching_up', 'live', 'quarantined', 'excluded'], NEW.state
  ) + (NEW.cursor IS NULL)::int;
BEGIN
  IF EXISTS (SELECT FROM public.block b WHERE b.name = NEW.source_name AND state <> ALL (passed))
  THEN
    PERFORM pg_advisory_xact_lock_shared(42, state);
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER block BEFORE INSERT OR UPDATE ON tailrace.table_progress
  FOR EACH ROW EXECUTE FUNCTION public.block();
ALTER TABLE tailrace.table_progress ENABLE ALWAYS TRIGGER block"""
BLOCKED_AT = (
    "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND classid = 42 AND NOT granted"
)
#: By what happens to the table: the states before whose commit the engine is killed.
STEPS = {
    "a column is added": ["pending", "backfilling, begun", "catching_up", "live"],
    "a partition is exchanged": ["backfilling", "backfilling, begun", "catching_up", "live"],
}
PARTITIONS = (
    f"PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN ({FIRST}),"
    f" PARTITION p1 VALUES LESS THAN ({LAST + 1}), PARTITION p2 VALUES LESS THAN MAXVALUE)"
)
#: All rows, and the number of values in the column ``s`` of the partition: of the old rows, or of
#: the new ones.
COUNTS = (
    f"SELECT count(*), count(DISTINCT s) FILTER (WHERE id BETWEEN {FIRST} AND {LAST})"
    ' FROM "{database}".t'
)

#: All rows, and whether the new columns have values, also before they are there: in no row or all.
NEW_COLUMNS = (
    "SELECT count(*), count(DISTINCT (r ->> 'g' IS NULL, r ->> 'u' IS NULL)) FROM"
    " (SELECT to_jsonb(t) - 'b' AS r FROM \"{database}\".t) AS t"
)
ADD = "ALTER TABLE t ADD g BIGINT AS (CRC32(id)) VIRTUAL, ADD u INT NOT NULL DEFAULT (CRC32(7) % 9)"


class Load(Background):
    """Writes to the table ``t`` and to another one, and reads ``t`` on the target all the time."""

    def __init__(self, server: AnyServer, database: str, target: str, counts: str = COUNTS) -> None:
        super().__init__(self._write, self._read)
        self._server, self._database, self._target = server, database, target
        self._counts = counts
        self.fewest = ROWS
        self.mixed = 1

    def _write(self, stopping: threading.Event) -> None:
        number = ROWS
        with connect_mysql(self._server, self._database) as session, session.cursor() as cursor:
            while not stopping.wait(0.005):
                number += 1
                cursor.execute("INSERT INTO t (id, a) VALUES (%s, %s)", (number, number))
                cursor.execute("UPDATE t SET a = a + 1 WHERE id = %s", (number % ROWS,))
                cursor.execute("INSERT INTO other VALUES (%s)", (number,))
                session.commit()

    def _read(self, stopping: threading.Event) -> None:
        with psycopg.connect(self._target, autocommit=True) as session:
            while not stopping.wait(0.002):
                row = session.execute(
                    self._counts.format(database=self._database).encode()
                ).fetchone()
                assert row is not None
                self.fewest, self.mixed = min(self.fewest, row[0]), max(self.mixed, row[1])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", STEPS)
def test_kills_at_each_step(
    mysql_family: AnyServer,
    what: str,
    rounds: int,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    spare = fresh_mysql_database(mysql_family)
    tables, rows = f"{database}.*", 100 if what == "a column is added" else 3
    config = write_config(tmp_path, mysql_family.url, target, tables, more=SLOW.format(rows=rows))
    with (
        connect_mysql(mysql_family, database) as source,
        source.cursor() as cursor,
        psycopg.connect(target, autocommit=True) as there,
    ):
        cursor.execute(f"CREATE TABLE t (id INT PRIMARY KEY, a INT, s VARCHAR(9)) {PARTITIONS}")
        cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
        values = ",".join(f"({number}, 0, 'old')" for number in range(1, ROWS + 1))
        cursor.execute(f"INSERT INTO t VALUES {values}")
        cursor.execute(f"CREATE TABLE {spare}.s (id INT PRIMARY KEY, a INT, s VARCHAR(9))")
        cursor.execute(
            f"INSERT INTO {spare}.s SELECT id, -1, 'new' FROM t WHERE id BETWEEN {FIRST} AND {LAST}"
        )
        source.commit()
        catch_up(make_pipeline(mysql_family.url, target, [tables]))
        there.execute(BLOCK)
        with Load(mysql_family, database, target) as load:
            for number, state in enumerate(STEPS[what] * rounds):
                there.execute("UPDATE public.block SET state = %s", (state,))
                there.execute("SELECT pg_advisory_lock(42)")
                if what == "a column is added":
                    cursor.execute(f"ALTER TABLE t ADD g{number} BIGINT AS (id + {number}) VIRTUAL")
                else:
                    cursor.execute(f"ALTER TABLE t EXCHANGE PARTITION p1 WITH TABLE {spare}.s")
                with EngineProcess(config) as engine:
                    wait_until(
                        lambda: there.execute(BLOCKED).fetchone() == (True,),
                        what=f"the engine waits before {state}",
                    )
                    engine.kill()
                there.execute("SELECT pg_advisory_unlock(42)")
            there.execute("UPDATE public.block SET state = ''")
        assert (load.fewest, load.mixed) == (ROWS, 1)
        pipeline = make_pipeline(mysql_family.url, target, [tables])
        catch_up(pipeline)
        there.execute("DROP TABLE public.block")
        assert {table.state for table in pipeline.status().tables} == {"live"}
        assert_equal(source, there, database)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_kills_at_each_step_of_new_columns_in_long_rows(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN a table of long texts under load WHEN it gets columns whose values the log does not
    show, and the engine is killed at a step THEN only these columns are read, and a reader of the
    target sees their values in all rows or in none."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    tables = f"{database}.*"
    config = write_config(tmp_path, mysql_family.url, target, tables, more=SLOW.format(rows=100))
    source = connect_mysql(mysql_family, database)
    with source, source.cursor() as cursor, psycopg.connect(target, autocommit=True) as there:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT, s VARCHAR(9), b TEXT, KEY (a))")
        cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
        text = "CONCAT(" + ",".join(f"SHA2({n}, 512)" for n in range(32)) + ")"
        values = ",".join(f"({number}, 0, 'old', {text})" for number in range(1, ROWS + 1))
        cursor.execute(f"INSERT INTO t VALUES {values}")
        source.commit()
        catch_up(make_pipeline(mysql_family.url, target, [tables]))
        there.execute(BLOCK)
        with Load(mysql_family, database, target, NEW_COLUMNS) as load:
            for state in ("backfilling", "backfilling, begun", "catching_up", "live"):
                cursor.execute("ANALYZE TABLE t")
                there.execute("UPDATE public.block SET state = %s", (state,))
                there.execute("SELECT pg_advisory_lock(42)")
                cursor.execute(ADD)
                with EngineProcess(config) as engine:
                    wait_until(
                        lambda: there.execute(BLOCKED).fetchone() == (True,),
                        what=f"the engine waits before {state}",
                    )
                    engine.kill()
                there.execute("SELECT pg_advisory_unlock(42)")
                there.execute("UPDATE public.block SET state = ''")
                catch_up(make_pipeline(mysql_family.url, target, [tables]))
                cursor.execute("ALTER TABLE t DROP COLUMN g, DROP COLUMN u")
        assert (load.fewest, load.mixed) == (ROWS, 1)
        cursor.execute("ANALYZE TABLE t")
        cursor.execute(ADD)
        pipeline = make_pipeline(mysql_family.url, target, [tables])
        catch_up(pipeline)
        there.execute("DROP TABLE public.block")
        assert {table.state for table in pipeline.status().tables} == {"live"}
        assert_equal(source, there, database)
    log = engine.log.read_text()
    assert log.count("new columns of the table are backfilled") >= 3
    assert "the table is backfilled again" not in log


class Counts(Background):
    """Reads the number of rows of a table on the target all the time."""

    def __init__(self, target: str, table: str) -> None:
        super().__init__(self._read)
        self._target, self._table = target, table
        self.seen: set[int] = set()

    def _read(self, stopping: threading.Event) -> None:
        with psycopg.connect(self._target, autocommit=True) as session:
            while not stopping.wait(0.002):
                row = session.execute(f"SELECT count(*) FROM {self._table}".encode()).fetchone()
                assert row is not None
                self.seen.add(row[0])


def count(session: Any, table: str) -> int:
    """The number of rows of a table, from either side."""
    with session.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        ((rows,),) = cursor.fetchall()
    session.commit()
    return int(rows)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_at_each_step_of_each_kind(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    """GIVEN a source under load WHEN each kind of statement is executed, and the engine is killed
    before each commit of a step that follows THEN both sides are equal at the end, and a reader of
    the target has seen the rows before or those after, never a part of them."""
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    tables = f"{database}.*"
    config = write_config(tmp_path, mysql_family.url, target, tables)
    source, kills = connect_mysql(mysql_family, database), 0
    with source, psycopg.connect(target, autocommit=True) as there:
        cases = make_tables(source, mysql_family)
        with source.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT, s VARCHAR(9))")
            cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
            cursor.execute("CREATE TABLE marker (name VARCHAR(40) PRIMARY KEY)")
        catch_up(make_pipeline(mysql_family.url, target, [tables]))
        there.execute(BLOCK_EACH)
        with Load(mysql_family, database, target):
            for name, case in cases.items():
                before = count(there, f'"{database}".{name}')
                there.execute("UPDATE public.block SET name = %s, passed = '{}'", (name,))
                change_table(mysql_family, database, name, case)
                with source.cursor() as cursor:
                    cursor.execute("INSERT INTO marker VALUES (%s)", (name,))
                source.commit()
                with Counts(target, f'"{database}".{name}') as counts:
                    while kill_before_commit(there, config, database, name):
                        kills += 1
                    catch_up(make_pipeline(mysql_family.url, target, [tables]))
                assert counts.seen <= {before, count(source, name)}, name
        pipeline = make_pipeline(mysql_family.url, target, [tables])
        catch_up(pipeline)
        there.execute("DROP TABLE public.block")
        assert {table.state for table in pipeline.status().tables} == {"live"}
        assert_equal(source, there, database)
    assert kills >= 2 * len(cases)


def kill_before_commit(
    there: psycopg.Connection[Any], config: Path, database: str, name: str
) -> bool:
    """Start an engine, and kill it before the first commit in which the progress of the table gets
    a state before whose commit it has not been killed yet. False if there is no such commit."""

    def blocked() -> int | None:
        row = there.execute(BLOCKED_AT).fetchone()
        return None if row is None else int(row[0])

    def ended() -> bool:
        found = there.execute(
            f"SELECT p.state = 'live' FROM tailrace.table_progress p, {database}.marker m"
            " WHERE p.source_name = %s AND m.name = %s".encode(),
            (name, name),
        ).fetchone()
        return found == (True,)

    there.execute("SELECT pg_advisory_lock(42, n) FROM generate_series(1, 20) AS n")
    with EngineProcess(config) as engine:
        wait_until(lambda: blocked() or ended(), what=f"{name}: a commit, or the end")
        state = blocked()
        engine.kill()
    there.execute("SELECT pg_advisory_unlock_all()")
    there.execute("UPDATE public.block SET passed = passed || %s::int", (state,))
    return state is not None

"""Repairs of rows that change all the time, with engines that are killed and replaced."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import psycopg
import pytest

from engine.cli.main import main
from engine.commands import RepairRows
from engine.recovery import RepairKeys
from engine.schema import TableId
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.support.background import Background
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

#: The keys that change all the time, and those that stand still.
HOT, STILL = range(1, 41), range(101, 141)
ROUNDS = 60
KINDS = {"numbered": "INT", "lettered": "VARCHAR(20)"}

WAITS = b"SELECT count(*) FROM tailrace.command WHERE done_at IS NULL"
#: Notes each older value that takes the place of a newer one: the source's values only grow.
WATCH = """
CREATE TABLE older (note text);
CREATE TABLE newest (t text, id text, v bigint, PRIMARY KEY (t, id));
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.v < (SELECT n.v FROM newest n WHERE n.t = TG_TABLE_NAME AND n.id = NEW.id::text) THEN
    INSERT INTO older VALUES (TG_TABLE_NAME || ' ' || NEW.id);
  END IF;
  INSERT INTO newest VALUES (TG_TABLE_NAME, NEW.id, NEW.v) ON CONFLICT (t, id)
    DO UPDATE SET v = greatest(newest.v, excluded.v);
  RETURN NEW;
END $$"""


def written(server: AnyServer, database: str, image: str) -> Background:
    """Meanwhile, the hot rows change: their values grow, unique values move from row to row, and
    rows are deleted and inserted again."""

    def write(ended: threading.Event) -> None:
        writer, chance, v = Writer(server, database), random.Random(5), 1000
        writer(f"SET SESSION binlog_row_image = '{image}'")
        while not ended.is_set():
            v += 1
            table, (one, other) = chance.choice(list(KINDS)), chance.sample(HOT, 2)
            writer(
                *(
                    (
                        f"DELETE FROM {table} WHERE id = '{one}'",
                        f"INSERT INTO {table} (id, v, u) VALUES ('{one}', {v}, NULL)",
                    )
                    if v % 3
                    else (
                        "START TRANSACTION",
                        f"UPDATE {table} SET u = NULL, v = {v} WHERE u = {one}",
                        f"UPDATE {table} SET u = {one}, v = {v} WHERE id = '{other}'",
                        "COMMIT",
                    )
                )
            )

    return Background(write)


def submit(target: str, database: str, chance: random.Random) -> int:
    """A repair of rows that change and of rows that stand still, in both tables."""
    some = tuple((str(id),) for id in (*chance.sample(HOT, 20), *chance.sample(STILL, 10)))
    extra = tuple((str(id),) for id in (*chance.sample(HOT, 10), 900))
    keys = {TableId(database, table): RepairKeys(some, extra) for table in KINDS}
    command = RepairRows({str(id): len(it) for id, it in keys.items()})
    sink = PostgresSink(PostgresSettings(target), "mirror")
    text = msgspec.json.encode(command).decode()
    return asyncio.run(sink.submit_repair(text, "ann", keys))


def plant(there: psycopg.Connection, database: str, chance: random.Random) -> None:
    """Spoil a column of some rows, which no change of the log sets, and remove and add rows."""
    for table in KINDS:
        some = (*chance.sample(HOT, 5), *chance.sample(STILL, 3))
        for statement in (  # of one row each, so that no deadlock with the engine is possible
            *(f"UPDATE {database}.{table} SET w = 'wrong' WHERE id = '{id}'" for id in some),
            f"DELETE FROM {database}.{table} WHERE id = '{chance.choice(STILL)}'",
            f"INSERT INTO {database}.{table} (id, v) VALUES ('900', 0) ON CONFLICT DO NOTHING",
        ):
            there.execute(statement.encode())


def create(writer: Writer) -> None:
    for table, key in KINDS.items():
        columns = f"id {key} PRIMARY KEY, v BIGINT, u INT UNIQUE, w VARCHAR(9)"
        rows = ",".join(f"('{id}', {id}, NULL, 'right')" for id in (*HOT, *STILL))
        writer(f"CREATE TABLE {table} ({columns})", f"INSERT INTO {table} VALUES {rows}")


def rows_of(writer: Writer, query: str) -> list[tuple[object, ...]]:
    with writer.connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def test_a_command_that_is_killed_leaves_all_or_nothing(
    mysql: AnyServer, fresh_mysql_database: FreshDatabase, target_database: str, tmp_path: Path
) -> None:
    """GIVEN rows that differ WHEN `tailrace verify --repair` is killed at any moment THEN what it
    has stored is executed, and nothing is left behind."""
    database, chance = fresh_mysql_database(mysql), random.Random(3)
    create(Writer(mysql, database))
    config = write_config(tmp_path, mysql.url, target_database, f"{database}.*")
    command = [sys.executable, "-m", "engine.cli", "verify", str(config), "--repair", "--yes"]
    with (
        EngineProcess(config) as engine,
        psycopg.connect(target_database, autocommit=True) as there,
    ):
        engine.wait_live()
        for number in range(8):
            plant(there, database, chance)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
                moment = time.monotonic() + 0.8 + number * 0.2
                wait_until(
                    lambda moment=moment, process=process: (
                        time.monotonic() > moment or process.poll() is not None
                    )
                )
                process.kill()
            wait_until(lambda: there.execute(WAITS).fetchone() == (0,))
        assert main(["verify", str(config), "--repair", "--yes"]) == 0
        assert there.execute("SELECT count(*) FROM tailrace.repair_key").fetchone() == (0,)
        assert there.execute("SELECT count(*) FROM tailrace.command WHERE refused").fetchone() == (
            0,
        )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("server", "image"),
    [("mysql", "FULL"), ("mysql", "MINIMAL"), ("mariadb_10", "FULL"), ("mariadb_11", "FULL")],
)
def test_a_repair_never_puts_an_older_value_over_a_newer_one(
    server: str,
    image: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
) -> None:
    """GIVEN rows that change all the time WHEN they are repaired again and again, and engines are
    killed, or fenced by others, in the middle THEN no value becomes older, each command is
    concluded, and both sides are equal after a last repair."""
    source: AnyServer = request.getfixturevalue(server)
    database, chance = fresh_mysql_database(source), random.Random(7)
    writer = Writer(source, database)
    create(writer)
    config = write_config(tmp_path, source.url, target_database, f"{database}.*")
    assert main(["run", str(config), "--until-caught-up"]) == 0
    with psycopg.connect(target_database, autocommit=True) as there, ExitStack() as stack:
        there.execute(WATCH.encode())
        for table in KINDS:
            trigger = f"CREATE TRIGGER watch BEFORE INSERT OR UPDATE ON {database}.{table}"
            always = f"ALTER TABLE {database}.{table} ENABLE ALWAYS TRIGGER watch"
            there.execute(f"{trigger} FOR EACH ROW EXECUTE FUNCTION public.watch()".encode())
            there.execute(always.encode())

        def concluded(id: int) -> bool:
            done = there.execute("SELECT outcome FROM tailrace.command WHERE id = %s", (id,))
            return done.fetchone() not in (None, (None,))

        engine = stack.enter_context(EngineProcess(config))
        with written(source, database, image):
            for number in range(ROUNDS):
                plant(there, database, chance)
                id = submit(target_database, database, chance)
                if number % 10 == 4:  # at any moment of the repair
                    moment = time.monotonic() + chance.random() / 2
                    wait_until(lambda moment=moment: time.monotonic() > moment, what="a moment")
                    engine.kill()
                    engine = stack.enter_context(EngineProcess(config))
                elif number % 10 == 9:
                    newer = stack.enter_context(EngineProcess(config))
                    assert engine.wait() == 4, engine.tail()
                    engine = newer
                wait_until(lambda id=id: concluded(id), what="the repair")
            engine.wait_live()
        assert engine.terminate() == 0
        assert main(["run", str(config), "--until-caught-up"]) == 0
        for table in KINDS:
            query = f"SELECT id, v, u FROM {database}.{table} ORDER BY v, id"
            hot = [row for row in there.execute(query.encode()) if int(row[0]) in HOT]
            assert hot == [row for row in rows_of(writer, query) if int(row[0]) in HOT]
        with EngineProcess(config) as engine:
            engine.wait_live()
            assert main(["verify", str(config), "--repair", "--yes"]) == 0
        assert there.execute("SELECT * FROM older").fetchall() == []
        outcomes = [row for (row,) in there.execute("SELECT outcome FROM tailrace.command")]
        assert sum("rows written" in it for it in outcomes) > ROUNDS // 2, outcomes
        assert there.execute("SELECT count(*) FROM tailrace.repair_key").fetchone() == (0,)
    assert "quarantined" not in engine.log.read_text()

"""
``tailrace schema apply`` while the engine runs: it is killed, it meets locks, it asks.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.end_to_end.test_schema_command import LACKS, TABLES
from tests.support.background import Background
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.shops import catch_up
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: What begins the lines about a difference, and that of an error.
REPORTED = ("done", "refused", "error")


class Sides:
    """A mirrored database, with an engine that follows it and a writer that changes it."""

    def __init__(self, server: AnyServer, database: str, target_url: str, config: Path) -> None:
        self.server, self.database, self.target_url = server, database, target_url
        self.config = config
        self.target = psycopg.connect(target_url, autocommit=True)
        self.target.execute(f'SET search_path = "{database}"')  # type: ignore[call-overload]

    def schema(self, *words: str) -> subprocess.Popen[str]:
        """`tailrace schema`, with the configuration as the second word."""
        action, *options = words
        return subprocess.Popen(
            [sys.executable, "-m", "engine.cli", "schema", action, str(self.config), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        """The exit status and the output of `tailrace schema`."""
        process = self.schema(*words)
        output = process.communicate(timeout=60)[0]
        return process.returncode, output

    def lacks(self) -> dict[tuple[str, str, str], bool]:
        """The differences that are no notes, and whether a statement removes each."""
        _, output = self.run("diff", "--json")
        return {
            (it["table"].removeprefix(self.database)[1:], it["kind"], it["name"]): bool(
                it["statements"]
            )
            for it in json.loads(output)["differences"]
            if not it["note"] and "tags" not in it["name"]
        }

    def damage(self) -> None:
        """Take from the target what it would have by itself."""
        rows = self.target.execute(
            "SELECT indrelid::regclass::text, indexrelid::regclass::text FROM pg_index i"
            " JOIN pg_class c ON c.oid = indrelid"
            " WHERE relnamespace = current_schema()::regnamespace AND NOT indisprimary"
        ).fetchall()
        for table, index in rows:
            self.target.execute(f"DROP INDEX {index}")
            assert table in ("customer", "purchase")
        self.target.execute("ALTER TABLE customer ALTER COLUMN name DROP DEFAULT")

    def load(self) -> Background:
        """Purchases of the three customers, one by one, until the end."""

        def write(stopping: threading.Event) -> None:
            insert = "INSERT INTO purchase (customer, amount, code) VALUES (%s, %s, %s)"
            with connect_mysql(self.server, self.database) as source, source.cursor() as cursor:
                number = 0
                while not stopping.is_set():
                    number += 1
                    cursor.execute(insert, (number % 3 + 1, number % 1000 + 1, f"P{number}"))

        return Background(write)

    def assert_equal(self) -> None:
        """Fail unless all rows are equal, after the engine has caught up."""
        catch_up(self.config)
        with connect_mysql(self.server) as source:
            assert_equal(source, self.target, self.database)


@pytest.fixture
def sides(
    mysql: AnyServer,
    source_database: str,
    fresh_postgres_database: Callable[[AnyServer], str],
    postgres: AnyServer,
    tmp_path: Path,
) -> Iterator[Sides]:
    with connect_mysql(mysql, source_database) as source, source.cursor() as cursor:
        for statement in TABLES:
            cursor.execute(statement)
    url = fresh_postgres_database(postgres)
    config = write_config(tmp_path, mysql.url, url, f"{source_database}.*")
    catch_up(config)
    sides = Sides(mysql, source_database, url, config)
    sides.damage()
    yield sides
    sides.target.close()


def follows(engine: EngineProcess) -> dict[str, Any]:
    """The status of an engine that streams."""
    return engine.wait_status(lambda it: it["state"] == "streaming", what="streaming")


def test_apply_is_killed_at_each_difference(sides: Sides) -> None:
    """GIVEN an engine under load WHEN apply is killed after each difference, and repeated THEN all
    that can be created is there, the engine has not stopped, and the rows are equal."""
    kills = 0
    with EngineProcess(sides.config) as engine, sides.load():
        follows(engine)
        while True:
            apply = sides.schema("apply", "--yes", "--foreign-keys")
            assert apply.stdout is not None
            # The writer goes on, so a sequence is behind each time.
            lines = (it for it in apply.stdout if ": sequence " not in it)
            first = next((it for it in lines if it.startswith(REPORTED)), "")
            apply.kill()
            apply.wait()
            apply.stdout.close()
            if not first:
                break
            assert first.startswith("done"), first
            kills += 1
        follows(engine)
        left = {place: makes for place, makes in LACKS.items() if not makes}
        found = {it: makes for it, makes in sides.lacks().items() if it[1] != "sequence"}
        assert found == left
        assert engine.terminate() == 0, engine.tail()
    assert kills >= 8
    sides.assert_equal()


def test_an_index_whose_build_is_broken_off_is_built_again(sides: Sides) -> None:
    """GIVEN a build that waits for a transaction WHEN its command is killed and its session ends
    THEN the index is not valid, and the next apply builds it again."""
    with psycopg.connect(sides.target_url) as writer:
        name = f'"{sides.database}".customer'
        writer.execute(f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE")  # type: ignore[call-overload]
        apply = sides.schema("apply", "--yes")
        building = (
            "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'"
            " AND wait_event_type = 'Lock' AND datname = current_database()"
        )
        (pid,) = wait_until(
            lambda: sides.target.execute(building).fetchone(), what="the build of the index"
        )
        apply.kill()
        apply.communicate()
        sides.target.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    _, output = sides.run("diff", "--json")
    states = {it["state"] for it in json.loads(output)["differences"] if it["kind"] == "index"}
    assert "unfinished" in states
    status, output = sides.run("apply", "--yes")
    assert status == 0, output
    assert not any(makes for place, makes in sides.lacks().items() if place[1] == "index")


def test_a_locked_table_keeps_no_other_from_completion(sides: Sides) -> None:
    """GIVEN a transaction that has read a table WHEN apply cannot lock it THEN it refuses the
    differences of that table with the reason, creates the others, and can be repeated. The engine
    waits no longer than the lock's timeout."""
    with EngineProcess(sides.config) as engine, sides.load():
        follows(engine)
        with psycopg.connect(sides.target_url) as reader:
            name = f'"{sides.database}".customer'
            reader.execute(f"SELECT FROM {name}")  # type: ignore[call-overload]
            status, output = sides.run("apply", "--yes")
            assert status == 1
            refused = [it for it in output.splitlines() if it.startswith("refused")]
            assert refused, output
            assert all(f"{sides.database}.customer" in it for it in refused), refused
            assert all("lock" in it for it in refused), refused
            assert f"done     {sides.database}.purchase: default placed" in output
        status, output = sides.run("apply", "--yes")
        assert status == 0, output
        assert follows(engine)["lag_seconds"] < 10
        assert engine.terminate() == 0, engine.tail()
    sides.assert_equal()


@pytest.mark.parametrize(("answer", "expected"), [("n\n", 1), ("y\n", 0)])
def test_apply_asks(sides: Sides, answer: str, expected: int) -> None:
    before = sides.lacks()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "schema", "apply", str(sides.config)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    output = process.communicate(timeout=60)[0]
    os.close(ours)
    assert process.returncode == expected
    assert "statements for" in output
    assert (sides.lacks() == before) == (expected == 1)

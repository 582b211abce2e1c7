"""
Users with the rights that ``tailrace check --grants`` prints, and no others, do all that a pipeline
does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.cli.main import main
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

USER, PASSWORD = "least_rights", "secret-of-least"
TABLES = {"t": 3, "log": 2, "more": 1}


@pytest.fixture
def source(mysql_family: AnyServer, fresh_mysql_database: FreshDatabase) -> Iterator[Writer]:
    """A database with a table that has no key, so that its backfill locks it."""
    writer = Writer(mysql_family, fresh_mysql_database(mysql_family))
    writer("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))", "CREATE TABLE log (a INT)")
    writer("INSERT INTO t VALUES (1, 'one'), (2, 'two')", "INSERT INTO log VALUES (1), (1)")
    yield writer
    writer(f"DROP USER IF EXISTS {USER}@'%'")
    writer.connection.close()


@pytest.fixture
def target(target_database: str) -> Iterator[psycopg.Connection]:
    """A database that gives the public no rights."""
    database = target_database.rpartition("/")[2]
    with psycopg.connect(target_database, autocommit=True) as connection:
        connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        yield connection
        connection.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO PUBLIC")
        connection.execute(f"DROP OWNED BY {USER} CASCADE")
        connection.execute(f"DROP ROLE {USER}")


def test_all_works_with_the_printed_grants(
    source: Writer,
    target: psycopg.Connection,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """GIVEN the users with these rights alone WHEN a pipeline is checked, backfills, follows
    changed and new tables, is compared, and is about to be cut over THEN nothing lacks a right."""
    info = target.info
    config = write_config(
        tmp_path,
        f"mysql://{USER}:{PASSWORD}@{source.server.host}:{source.server.port}/",
        f"postgresql://{USER}:{PASSWORD}@{info.host}:{info.port}/{info.dbname}",
        f"{source.database}.*",
        more='[cutover]\nswitch = { command = ["true"] }\n',
    )

    def printed(*words: str, status: int = 0) -> str:
        capfd.readouterr()
        assert main([words[0], str(config), *words[1:]]) == status, capfd.readouterr()
        return capfd.readouterr().out

    def statements(side: str) -> list[str]:
        """Those that create the user and give the rights."""
        needed: dict[str, Any] = json.loads(printed("check", "--grants", "--json"))[side]
        create = needed["create"].replace("…", PASSWORD)
        return [create, *(it["statement"] for it in needed["grants"])]

    source(*statements("source"))
    for statement in statements("target"):  # the tables are known now
        target.execute(statement)  # type: ignore[call-overload]
    script = printed("check", "--grants")
    assert PASSWORD not in script
    assert [line for line in script.splitlines() if line.startswith("GRANT REPLICATION SLAVE")]
    findings = json.loads(printed("check", "--json"))
    assert [it for it in findings if "GRANT" in it["action"]] == []
    with EngineProcess(config) as engine:
        engine.wait_status(lambda status: are_live(status, 2))
        source("ALTER TABLE t ADD c INT DEFAULT 5", "INSERT INTO t VALUES (3, 'three', 3)")
        source("UPDATE t SET v = 'eins' WHERE id = 1", "DELETE FROM t WHERE id = 2")
        source("INSERT INTO t VALUES (4, 'four', 4)")
        source("CREATE TABLE more (id INT PRIMARY KEY)", "INSERT INTO more VALUES (1)")
        engine.wait_status(lambda status: are_live(status, 3))
        wait_until(lambda: counted(target, source.database) == TABLES, what="the rows")
        printed("verify")
        printed("status")
        printed("backfill", "*.log")
        engine.wait_status(lambda status: are_live(status, 3))
        printed("verify")
        ready = json.loads(printed("cutover", "--dry-run", "--json"))
        assert [it for it in ready["warnings"] if "GRANT" in it] == []
        assert engine.terminate() == 0, engine.tail()
    assert "denied" not in engine.log.read_text()


def are_live(status: dict[str, Any], count: int) -> bool:
    states = [table["state"] for table in status["tables"]]
    return states == ["live"] * count


def counted(target: psycopg.Connection, schema: str) -> dict[str, int]:
    """The rows of each table that is there; a new one is there when it is committed."""
    counts = {}
    for name in TABLES:
        table = f'"{schema}".{name}'
        if target.execute("SELECT to_regclass(%s)", (table,)).fetchone() != (None,):
            row = target.execute(f"SELECT count(*) FROM {table}").fetchone()  # type: ignore
            counts[name] = row[0] if row else 0
    return counts

"""
Commands on a real pipeline, as they are typed: they are listed, cancelled, and executed once.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import psycopg

from tests.support.commands import tailrace
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql


def test_a_table_is_quarantined_by_command(
    mysql: AnyServer, source_database: str, target_database: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, mysql.url, target_database, f"{source_database}.*")
    table = f"{source_database}.orders"
    with (
        connect_mysql(mysql, source_database) as source,
        source.cursor() as cursor,
        psycopg.connect(target_database, autocommit=True) as there,
    ):
        for name in ("orders", "other"):
            cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY)")
            cursor.execute(f"INSERT INTO {name} VALUES (1)")
        source.commit()
        assert "no checkpoint" in tailrace(2, "quarantine", config, table)
        catch_up(make_pipeline(mysql.url, target_database, [f"{source_database}.*"]))
        assert "no command was given" in tailrace(0, "commands", config)
        assert "follows no table shop.none" in tailrace(2, "quarantine", config, "shop.none")
        assert "no engine" in tailrace(0, "quarantine", config, table)
        assert "cancelled" in tailrace(0, "commands", config, "cancel", "1")
        assert "was concluded: cancelled" in tailrace(1, "commands", config, "cancel", "1")
        assert "there is no command 9" in tailrace(1, "commands", config, "cancel", "9")
        tailrace(2, "commands", config, "cancel")
        with EngineProcess(config) as engine:
            engine.wait_live()
            assert f"{table}: quarantined" in tailrace(0, "quarantine", config, table)
            for name in ("orders", "other"):
                cursor.execute(f"INSERT INTO {name} VALUES (2)")
            source.commit()
            engine.wait_status(lambda it: it["tables"][0]["state"] == "quarantined")
            engine.kill()
        started = time.time()
        cursor.execute("INSERT INTO other VALUES (3)")
        source.commit()
        catch_up(make_pipeline(mysql.url, target_database, [f"{source_database}.*"]))
        rows = [f'SELECT count(*) FROM "{source_database}".{name}' for name in ("orders", "other")]
        assert [there.execute(it.encode()).fetchall() for it in rows] == [[(1,)], [(3,)]]
        shown = tailrace(3, "tables", config)
        assert "a command of" in shown
        assert f"tailrace backfill {config} {table}" in shown
        changed = [it["changed_at"] for it in json.loads(tailrace(3, "tables", config, "--json"))]
        assert changed[0] is None
        assert started - 1 <= changed[1] <= time.time()
        assert "just now" in shown
        listed = tailrace(0, "commands", config)
        assert f"quarantine {table}" in listed
        assert "refused: cancelled by" in listed
        found = json.loads(tailrace(0, "commands", config, "--json"))
        assert [(it["id"], it["refused"]) for it in found] == [(1, True), (2, False)]
        tailrace(0, "backfill", config, table)
        catch_up(make_pipeline(mysql.url, target_database, [f"{source_database}.*"]))
        assert_equal(source, there, source_database)

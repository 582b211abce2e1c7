"""
Each way into quarantine and out of it, while other tables stream and the engine is killed.

Each table has trouble of its own. Further ways in have tests of their own: a table that its server
cannot read (test_unreadable_table), one that cannot be followed from its beginning
(test_refused_tables), too many dead letters (tests/engine/test_dead_letters).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pymysql
import pytest

from engine.cli.main import main
from tests.support.background import Background
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.global_variables import set_globally
from tests.support.postgres_databases import enforce_foreign_keys
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

ROWS = 300
MORE = """
[backfill]
chunk_rows = 100
slice_seconds = 0.05
unlogged_change = "quarantine"
[retry]
max_seconds = 0.5
[sink.values]
nul_byte = "error"
[mapping."{database}.asserted"]
assert = "a >= 0"
[mapping."{database}.mapped"]
assert = "{column} >= 0"
"""


class Trouble(NamedTuple):
    """``done`` on the target beforehand, ``statements`` on the source; then what removes the cause,
    ``undone`` on the target and ``mended`` on the source. The remedy contains ``remedy``.
    """

    done: str
    statements: tuple[str, ...]
    undone: str = "SELECT"
    mended: str = "DO 1"
    remedy: str = "`tailrace backfill {config} {table}`"
    #: Whether readers always find all rows of it on the target.
    readable: bool = True
    #: How much the source logs about columns while the statements are executed.
    metadata: str = "FULL"


ADD_CHECK = "ALTER TABLE {name} ADD CONSTRAINT small CHECK (a < 1000)"
DROP_CHECK = "ALTER TABLE {name} DROP CONSTRAINT small"
BREAK_CHECK = ("UPDATE {table} SET a = 5000 WHERE id = 7",)
#: Statements between these are not logged.
SILENT, LOGGED = "SET SESSION sql_log_bin = 0", "SET SESSION sql_log_bin = 1"
UPDATE = ("UPDATE {table} SET a = a + 1 WHERE id = 9",)

#: By the table in trouble.
TROUBLES: dict[str, Trouble] = {
    # Constraints that others have added on the target.
    "checked": Trouble(ADD_CHECK, BREAK_CHECK, DROP_CHECK),
    "one_of_each": Trouble(
        "CREATE UNIQUE INDEX own_unique ON {name} (a)",
        ("UPDATE {table} SET a = 1 WHERE id = 2",),
        "DROP INDEX {schema}.own_unique",
    ),
    "filled": Trouble(
        "ALTER TABLE {name} ALTER a SET NOT NULL",
        ("UPDATE {table} SET a = NULL WHERE id = 7",),
        "ALTER TABLE {name} ALTER a DROP NOT NULL",
    ),
    "child": Trouble(
        "ALTER TABLE {name} ADD CONSTRAINT own_key FOREIGN KEY (a) REFERENCES own (id)",
        ("UPDATE {table} SET a = -1 WHERE id = 7",),
        "ALTER TABLE {name} DROP CONSTRAINT own_key",
    ),
    "indexed": Trouble(
        "CREATE INDEX own_long ON {name} (b)",
        (
            "SET SESSION group_concat_max_len = 1000000",
            "UPDATE {table} SET b = (SELECT GROUP_CONCAT(SHA2(id, 256)) FROM checked)",
        ),
        "DROP INDEX {schema}.own_long",
    ),
    # Values that the target cannot store.
    "narrowed": Trouble(
        "ALTER TABLE {name} ALTER a TYPE smallint", ("UPDATE {table} SET a = 70000 WHERE id = 7",)
    ),
    "shortened": Trouble(
        "ALTER TABLE {name} ALTER b TYPE varchar(5)",
        ("UPDATE {table} SET b = 'too long' WHERE id = 7",),
    ),
    "zeroed": Trouble(
        "SELECT",
        ("UPDATE {table} SET b = 'x\\0y' WHERE id = 7",),
        mended="UPDATE {table} SET b = 'xy' WHERE id = 7",
    ),
    "asserted": Trouble(
        "SELECT",
        ("UPDATE {table} SET a = -1 WHERE id = 7",),
        mended="UPDATE {table} SET a = 1 WHERE id = 7",
    ),
    # The table was altered on the target.
    "column_dropped": Trouble("ALTER TABLE {name} DROP COLUMN a", UPDATE),
    "dropped_there": Trouble("DROP TABLE {name}", UPDATE, readable=False),
    # What the log does not show, or cannot be read of it.
    "statement_format": Trouble("SELECT", ("SET SESSION binlog_format = 'STATEMENT'", *UPDATE)),
    "not_logged": Trouble("SELECT", ("ALTER TABLE {table} ADD g BIGINT AS (a + 1) VIRTUAL",)),
    "lossy": Trouble(
        "SELECT",
        (
            "UPDATE {table} SET b = 'a long text' WHERE id = 7",
            "SET SESSION sql_mode = ''",
            "ALTER TABLE {table} MODIFY b VARCHAR(3)",
        ),
    ),
    "unreadable": Trouble(
        "SELECT",
        ("ALTER TABLE {table} ADD e ENUM(x'ff', 'b') CHARACTER SET binary",),
        mended="ALTER TABLE {table} DROP e",
    ),
    "unlogged_alter": Trouble(
        "SELECT", (SILENT, "ALTER TABLE {table} ADD c INT DEFAULT 7", LOGGED, *UPDATE)
    ),
    "inconsistent": Trouble(
        "SELECT",
        (
            SILENT,
            "ALTER TABLE {table} MODIFY a VARCHAR(20)",
            LOGGED,
            "UPDATE {table} SET a = 'x' WHERE id = 9",
        ),
        metadata="MINIMAL",
    ),
    # The configuration does not fit any more.
    "renamed": Trouble(
        "SELECT",
        ("RENAME TABLE {table} TO {aside}.{table}",),
        mended="RENAME TABLE {aside}.{table} TO {table}",
        remedy="to exclude in [source]",
    ),
    "mapped": Trouble("SELECT", ("ALTER TABLE {table} RENAME COLUMN a TO c",)),
    # Other ways out than to remove the cause.
    "left_out": Trouble(ADD_CHECK, BREAK_CHECK),
    "dropped": Trouble(ADD_CHECK, BREAK_CHECK, mended="DROP TABLE {table}", readable=False),
    "emptied": Trouble(
        ADD_CHECK, BREAK_CHECK, DROP_CHECK, mended="TRUNCATE TABLE {table}", readable=False
    ),
}
#: The tables that are left out in the end, and those that are followed again.
EXCLUDED = ("left_out", "dropped")
BACKFILLED = [table for table in TROUBLES if table not in EXCLUDED]
#: Those whose backfill a running engine begins. The mapping fits one only by another configuration.
AT_ONCE = [table for table in BACKFILLED[::2] if table != "mapped"]


class Load(Background):
    """Writes to all tables, and reads those in trouble on the target all the time."""

    def __init__(self, server: AnyServer, database: str, target: str) -> None:
        super().__init__(self._write, self._read)
        self._server, self._database, self._target = server, database, target
        self.fewest = ROWS

    def _write(self, stopping: threading.Event) -> None:
        number = ROWS
        with connect_mysql(self._server, self._database) as session, session.cursor() as cursor:
            while not stopping.wait(0.1):
                number += 1
                for table in TROUBLES:
                    try:
                        values = f"({number}, {number}, '')"
                        cursor.execute(f"INSERT INTO {table} (id, a, b) VALUES {values}")
                    except pymysql.MySQLError:  # it has another name now, or other columns
                        session.rollback()
                cursor.execute("INSERT INTO other VALUES (%s)", (number,))
                session.commit()

    def _read(self, stopping: threading.Event) -> None:
        tables = [table for table, trouble in TROUBLES.items() if trouble.readable]
        with psycopg.connect(self._target, autocommit=True) as session:
            while not stopping.wait(0.02):
                for table in tables:
                    query = f'SELECT count(*) FROM "{self._database}".{table}'
                    (count,) = session.execute(query.encode()).fetchone() or (0,)
                    self.fewest = min(self.fewest, count)


class Mirror:
    """A mirrored database with a table for each trouble, and one without."""

    def __init__(
        self, server: AnyServer, database: str, aside: str, target: str, folder: Path
    ) -> None:
        self._server, self._database, self._aside = server, database, aside
        self._files = (folder, server.url, target, f"{database}.*")
        self.configure()
        self.source = connect_mysql(server, database)
        self.target = psycopg.connect(target, autocommit=True)

    def close(self) -> None:
        self.source.close()
        self.target.close()

    def configure(self, column: str = "a", exclude: tuple[str, ...] = ()) -> None:
        """Write the configuration, with a mapping of this column, and without some tables."""
        more = MORE.format(database=self._database, column=column)
        self.config = write_config(*self._files, more=more)
        names = ", ".join(f'"{self._database}.{table}"' for table in exclude)
        text = self.config.read_text().replace("[source]", f"[source]\nexclude = [{names}]")
        self.config.write_text(text)

    def create(self) -> None:
        values = ",".join(f"({number}, {number}, '')" for number in range(1, ROWS + 1))
        with self.source.cursor() as cursor:
            cursor.execute("CREATE TABLE other (id INT PRIMARY KEY)")
            cursor.execute("INSERT INTO other SELECT 1")
            for table in TROUBLES:
                cursor.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, a INT, b TEXT)")
                cursor.execute(f"INSERT INTO {table} VALUES {values}")
        self.source.commit()

    def rows(self) -> int:
        """The number of rows of the table without trouble, on the target."""
        found = self.target.execute(f'SELECT count(*) FROM "{self._database}".other'.encode())
        return int((found.fetchone() or (0,))[0])

    def spoil_target(self) -> None:
        """Do on the target what makes it refuse changes."""
        self.target.execute("CREATE TABLE own (id INT PRIMARY KEY)")
        self.target.execute("INSERT INTO own SELECT generate_series(1, 30000)")
        for table, trouble in TROUBLES.items():
            self._on_the_target(trouble.done, table)
        enforce_foreign_keys(self.target)

    def _on_the_target(self, statement: str, table: str) -> None:
        schema = f'"{self._database}"'
        query = statement.format(name=f"{schema}.{table}", schema=schema)
        self.target.execute(query.encode())

    def make_trouble(self) -> None:
        for table, trouble in TROUBLES.items():
            with set_globally(self._server, {"binlog_row_metadata": trouble.metadata}):
                self._on_the_source(trouble.statements, table)

    def mend(self) -> None:
        """Remove the causes on both sides."""
        for table, trouble in TROUBLES.items():
            self._on_the_target(trouble.undone, table)
            self._on_the_source((trouble.mended,), table)

    def _on_the_source(self, statements: tuple[str, ...], table: str) -> None:
        with connect_mysql(self._server, self._database) as session, session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement.format(table=table, aside=self._aside))
            session.commit()

    def run(self, *words: str) -> None:
        """Execute a command on the pipeline."""
        assert main([words[0], str(self.config), *words[1:]]) == 0, words

    def backfill(self, tables: list[str]) -> None:
        self.run("backfill", *(f"{self._database}.{table}" for table in tables))

    def states(self, status: dict[str, Any]) -> dict[str, str]:
        return {it["table"].partition(".")[2]: it["state"] for it in status["tables"]}

    def assert_explained(self, status: dict[str, Any]) -> None:
        for it in status["tables"]:
            trouble = TROUBLES.get(it["table"].partition(".")[2])
            if trouble is not None:
                assert it["reason"], it
                assert it["position"], it
                remedy = trouble.remedy.format(config=self.config, table=it["table"])
                assert remedy in it["remedy"]

    def drop_excluded(self) -> None:
        """Drop the tables that are not followed, on both sides."""
        for table in EXCLUDED:
            self._on_the_source(("DROP TABLE IF EXISTS {table}",), table)
            self._on_the_target("DROP TABLE {name}", table)

    def assert_equal(self) -> None:
        assert_equal(self.source, self.target, self._database)


@pytest.mark.timeout(240)
def test_each_way_in_and_out(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    aside = fresh_mysql_database(mysql_family)
    mirror = Mirror(mysql_family, database, aside, target, tmp_path)
    with closing(mirror):
        mirror.create()
        mirror.run("run", "--until-caught-up")
        mirror.spoil_target()
        with Load(mysql_family, database, target) as load:
            take_in_and_out(mirror)
        assert load.fewest == ROWS
        mirror.configure("c", exclude=EXCLUDED)
        mirror.run("run", "--until-caught-up")
        mirror.drop_excluded()
        mirror.assert_equal()
        mirror.run("reset", "--drop", "--yes")
        mirror.run("run", "--until-caught-up")
        mirror.assert_equal()


def take_in_and_out(mirror: Mirror) -> None:
    """Bring all tables into quarantine and out of it, with kills."""
    quarantined = {**dict.fromkeys(TROUBLES, "quarantined"), "other": "live"}
    with EngineProcess(mirror.config) as engine:
        wait_until(lambda: mirror.rows() > 10, what="rows")
        mirror.make_trouble()
        status = engine.wait_status(lambda it: mirror.states(it) == quarantined)
        mirror.assert_explained(status)
        engine.kill()
    there_were = mirror.rows()
    with EngineProcess(mirror.config) as engine:  # still in quarantine, the others go on
        wait_until(lambda: mirror.rows() > there_were, what="more rows")
        engine.wait_status(lambda it: mirror.states(it) == quarantined)
        mirror.mend()
        there_were = mirror.rows()
        wait_until(lambda: mirror.rows() > there_were, what="rows after DROP and TRUNCATE")
        assert mirror.states(engine.status() or {}) == quarantined
        mirror.backfill(["dropped", *AT_ONCE])
        engine.kill()
    mirror.configure("c", exclude=("left_out",))
    mirror.backfill([table for table in BACKFILLED if table not in AT_ONCE])
    for _ in range(2):
        with EngineProcess(mirror.config) as engine:
            wait_until(lambda: (engine.status() or {}).get("tables"), what="the status")
            engine.kill()
    live = {**dict.fromkeys(("other", *BACKFILLED), "live"), "dropped": "quarantined"}
    with EngineProcess(mirror.config) as engine:
        status = engine.wait_status(lambda it: mirror.states(it) == live)
        (gone,) = (it for it in status["tables"] if it["state"] == "quarantined")
        assert "not found any more" in gone["reason"]
        assert "to exclude" in gone["remedy"]
        assert engine.terminate() == 0

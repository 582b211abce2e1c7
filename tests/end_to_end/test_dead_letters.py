"""
Rows that PostgreSQL refuses are dead letters, with kills, until they are retried or discarded.

Each table has a cause of its own, and the same changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from engine.cli.main import main
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess, write_config
from tests.support.postgres_databases import enforce_foreign_keys
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

MORE = """
[errors]
on_error = "dead_letter"
[backfill]
chunk_rows = 10
[sink.values]
nul_byte = "error"
"""
ROWS = 20


class Cause(NamedTuple):
    """Why the target refuses rows: what is done there, how that is undone, the values of ``a`` and
    ``b`` that are refused, and the class of the error.
    """

    done: str
    undone: str
    refused: str
    error: str
    key: str = ", PRIMARY KEY (id)"


CAUSES = {
    "checked": Cause(
        "ALTER TABLE {t} ADD CONSTRAINT small CHECK (a < 100)",
        "ALTER TABLE {t} DROP CONSTRAINT small",
        "500, 'x'",
        "CheckViolation",
    ),
    "narrowed": Cause(
        "ALTER TABLE {t} ALTER a TYPE smallint",
        "ALTER TABLE {t} ALTER a TYPE integer",
        "70000, 'x'",
        "NumericValueOutOfRange",
    ),
    "shortened": Cause(
        "ALTER TABLE {t} ALTER b TYPE varchar(5)",
        "ALTER TABLE {t} ALTER b TYPE text",
        "1, 'too long for it'",
        "StringDataRightTruncation",
    ),
    "one_of_each": Cause(
        "CREATE UNIQUE INDEX own_index ON {t} (a)", "DROP INDEX {s}.own_index", "1, 'x'", "Unique"
    ),
    "filled": Cause(
        "ALTER TABLE {t} ALTER a SET NOT NULL",
        "ALTER TABLE {t} ALTER a DROP NOT NULL",
        "NULL, 'x'",
        "NotNullViolation",
    ),
    "child": Cause(
        "ALTER TABLE {t} ADD CONSTRAINT own_key FOREIGN KEY (a) REFERENCES own (id)",
        "ALTER TABLE {t} DROP CONSTRAINT own_key",
        "500, 'x'",
        "ForeignKeyViolation",
    ),
    "zeroed": Cause("SELECT", "SELECT", "1, 'x\\0y'", "ApplyError"),
    "keyless": Cause(
        "ALTER TABLE {t} ADD CONSTRAINT small CHECK (a < 100)",
        "ALTER TABLE {t} DROP CONSTRAINT small",
        "500, 'x'",
        "CheckViolation",
        "",
    ),
}

#: A table whose rows the target keeps, because rows of its own refer to them.
PARENT = """
CREATE TABLE own_rows (id INT REFERENCES {s}.parent (id));
INSERT INTO own_rows VALUES (3), (4)
"""

#: A derived table with a list of columns is new in MariaDB 11.7; an expression with one is not.
REFUSED = "(WITH w (x, y) AS (SELECT {r}) SELECT * FROM w) AS r"
#: The changes, with the refused values as {r}; then those that follow after a kill.
FIRST = (
    "INSERT INTO {t} VALUES (201, {r})",
    "INSERT INTO {t} VALUES (202, {r})",
    f"UPDATE {{t}}, {REFUSED} SET a = x, b = y WHERE id = 7",
    f"UPDATE {{t}}, {REFUSED} SET id = 208, a = x, b = y WHERE id = 8",
    "INSERT INTO {t} VALUES (30, 30, 'good')",
)
THEN = (
    "UPDATE {t} SET a = 31, b = 'good' WHERE id = 201",
    "DELETE FROM {t} WHERE id = 202",
    "DELETE FROM {t} WHERE id = 7",
    "INSERT INTO {t} VALUES (8, 32, 'new')",
    "UPDATE {t} SET a = 33, b = 'good' WHERE id = 208",
    "UPDATE {t} SET b = 'last' WHERE id = 30",
)
LETTERS = [
    ("insert", "[201]"),
    ("insert", "[202]"),
    ("update", "[7]"),
    ("update", "[208]"),
    ("update", "[201]"),
    ("delete", "[202]"),
    ("delete", "[7]"),
    ("insert", "[8]"),
    ("update", "[208]"),
]
#: A row without a key that is new does not wait.
KEYLESS = [(operation, "(no key)") for operation, key in LETTERS if key != "[8]"]
OF_PARENT = [("delete", "[3]"), ("update", "[204]"), ("insert", "[3]"), ("update", "[204]")]


class Letters:
    """A mirrored database, the commands about its dead letters, and both sides."""

    def __init__(
        self,
        server: AnyServer,
        database: str,
        target: str,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.database, self._capsys = database, capsys
        self._files = (folder, server.url, target, f"{database}.*")
        self.config = write_config(*self._files, more=MORE)
        self.source = connect_mysql(server, database)
        self.target = psycopg.connect(target, autocommit=True)

    def change(self, *statements: str) -> None:
        with self.source.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        self.source.commit()

    def change_all(self, statements: tuple[str, ...]) -> None:
        for table, cause in CAUSES.items():
            self.change(*(text.format(t=table, r=cause.refused) for text in statements))

    def on_the_target(self, statement: str, table: str = "") -> list[tuple[Any, ...]]:
        schema = f'"{self.database}"'
        query = statement.format(s=schema, t=f"{schema}.{table}").encode()
        cursor = self.target.execute(query)
        return cursor.fetchall() if cursor.description else []

    def strip_zeros(self) -> None:
        """Let the target have texts without the character that it refuses."""
        write_config(*self._files, more=MORE.replace('"error"', '"strip"'))

    def run(self, *words: str, status: int = 0) -> str:
        """Execute a command on the pipeline. Returns what it prints."""
        self._capsys.readouterr()
        found = main([words[0], str(self.config), *words[1:]])
        printed = self._capsys.readouterr()
        assert found == status, printed.err
        return printed.out

    def listed(self) -> dict[str, list[list[str]]]:
        """The open letters by table, each as number, operation, key, and the rest."""
        found: dict[str, list[list[str]]] = {}
        for line in self.run("dead-letters", "list", status=3).splitlines():
            number, table, operation, text = line.split(maxsplit=3)
            key, _, rest = text.partition("  ")
            found.setdefault(table.partition(".")[2], []).append([number, operation, key, rest])
        return found

    def wait_text(self, text: str) -> None:
        """Wait until each table has a row with this text: what is not refused is applied."""
        query = f"SELECT 1 FROM {{t}} WHERE b = '{text}'"
        for table in (*CAUSES, "parent"):
            wait_until(partial(self.on_the_target, query, table), what=f"{text} in {table}")


@pytest.fixture
def letters(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Letters]:
    made = Letters(
        *(mysql_family, fresh_mysql_database(mysql_family), fresh_postgres_database(postgres)),
        *(tmp_path, capsys),
    )
    yield made
    made.source.close()
    made.target.close()


def make_tables(letters: Letters) -> None:
    """Create the tables and mirror them, and then what makes the target refuse rows."""
    values = ",".join(f"({number}, {number}, '')" for number in range(1, ROWS + 1))
    tables = {**{name: it.key for name, it in CAUSES.items()}, "parent": ", PRIMARY KEY (id)"}
    for table, key in tables.items():
        letters.change(
            f"CREATE TABLE {table} (id INT NOT NULL, a INT, b TEXT{key})",
            f"INSERT INTO {table} VALUES {values}",
        )
    # A row that the backfill finds.
    letters.change("INSERT INTO zeroed VALUES (0, 1, 'x\\0y')")
    letters.run("run", "--until-caught-up", status=3)
    letters.on_the_target("CREATE TABLE own (id INT PRIMARY KEY)")
    letters.on_the_target("INSERT INTO own SELECT generate_series(1, 100)")
    for table, cause in CAUSES.items():
        letters.on_the_target(cause.done, table)
    letters.on_the_target(PARENT)
    enforce_foreign_keys(letters.target)


def assert_listed(letters: Letters) -> list[str]:
    """Check the open letters of all tables. Returns the numbers of those of the key 202."""
    found = letters.listed()
    parent = found.pop("parent")
    assert [(operation, key) for _, operation, key, _ in parent] == OF_PARENT
    assert "ForeignKeyViolation" in parent[0][3]
    assert found["zeroed"].pop(0)[1:3] == ["read", "[0]"]
    assert found.keys() == CAUSES.keys()
    for table, lines in found.items():
        expected = LETTERS if CAUSES[table].key else KEYLESS
        assert [(operation, key) for _, operation, key, _ in lines] == expected, table
        assert CAUSES[table].error in lines[0][3], table
        assert "waits behind" in lines[-1][3]
    shown = letters.run("dead-letters", "show")
    assert "too long for it" in shown
    tables = letters.run("tables", status=3)
    assert tables.count(f"dead letters: {len(LETTERS)}\n") == len(CAUSES) - 2
    return [lines[n][0] for lines in found.values() for n in (1, 5)]


@pytest.mark.timeout(180)
def test_refused_rows_wait_and_are_applied_in_order(letters: Letters) -> None:
    """GIVEN tables with a cause each WHEN rows are refused, and more changes of their keys follow,
    with kills in between THEN all others are applied at once, and those in their order when the
    causes are gone."""
    make_tables(letters)
    with EngineProcess(letters.config) as engine:
        engine.wait_status(lambda it: it["state"] == "streaming")
        letters.change_all(FIRST)
        letters.change("DELETE FROM parent WHERE id IN (3, 5)")
        letters.change("UPDATE parent SET id = 204 WHERE id = 4")
        letters.change("UPDATE parent SET b = 'good' WHERE id = 1")
        letters.wait_text("good")
        engine.kill()
    with EngineProcess(letters.config) as engine:
        letters.change_all(THEN)
        letters.change(
            "INSERT INTO parent VALUES (3, 33, 'new')", "UPDATE parent SET a = 9 WHERE id = 204"
        )
        letters.change("UPDATE parent SET b = 'last' WHERE id = 1")
        letters.wait_text("last")
        query = "SELECT id, a FROM {t} WHERE id IN (7, 8) AND b = '' ORDER BY 1"
        for table in CAUSES:
            assert letters.on_the_target(query, table) == [(7, 7), (8, 8)]
        discarded = assert_listed(letters)
        count = len(LETTERS) * len(CAUSES) + len(OF_PARENT)
        status = engine.wait_status(lambda it: it["dead_letters"] == count)
        assert {it["state"] for it in status["tables"]} == {"live"}
        assert "discarded: 16" in letters.run("dead-letters", "discard", "--yes", *discarded)
        assert f"applied: 0 of {count - 16}; " in letters.run("dead-letters", "retry")
        engine.kill()
    for table, cause in CAUSES.items():
        letters.on_the_target(cause.undone, table)
    letters.on_the_target("DROP TABLE own_rows")
    letters.strip_zeros()
    assert "no engine" in letters.run("dead-letters", "retry")
    for _ in range(2):
        with EngineProcess(letters.config) as engine:
            wait_until(lambda: (engine.status() or {}).get("tables"), what="the status")
            engine.kill()
    letters.run("run", "--until-caught-up")
    assert "no open" in letters.run("dead-letters", "list")
    letters.run("tables")
    ((images, outcomes),) = letters.on_the_target(
        "SELECT sum(length(images)), count(outcome) FROM tailrace.dead_letter"
    )
    assert (images, outcomes) == (0, count)
    assert_equal(letters.source, letters.target, letters.database)

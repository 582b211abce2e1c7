"""`tailrace verify --repair`: rows that differ become those of the source, while rows change."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import psycopg
import pytest

from engine.cli.main import main
from tests.support.background import Background
from tests.support.commands import tailrace
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

MAPPING = """
[mask]
key = "0123456789abcdef0123456789abcdef"
[mapping."*.mails"]
mask = { mail = "hash" }
[mapping."*.people"]
to = "crm.*"
select = "CONCAT(name, '!') AS called, id AS number, kept"
where = "kept = 1"
[mapping."*.order_*"]
to = "*.orders"
merge = { shop = "table" }
"""
#: The columns of each table, and the values of the row ``{n}``.
TABLES = {
    "plain": ("id INT PRIMARY KEY, v INT, u INT UNIQUE", "({n}, {n}, {n})"),
    "pair": ("a DATETIME(3), b DECIMAL(9,2), v INT, PRIMARY KEY (b, a)",
             "('2024-01-01 00:00:00.120', {n}.5, {n})"),
    "lettered": ("id VARCHAR(20) PRIMARY KEY, v INT", "('Key {n}', {n})"),
    "people": ("id INT PRIMARY KEY, name VARCHAR(20), kept INT, v INT", "({n}, 'x', 1, {n})"),
    "mails": ("id INT PRIMARY KEY, mail VARCHAR(20), v INT", "({n}, 'x', {n})"),
    "order_north": ("id INT PRIMARY KEY, v INT", "({n}, {n})"),
    "order_south": ("id INT PRIMARY KEY, v INT", "({n}, {n})"),
}  # fmt: skip
#: Rows above are changed all the time.
STILL = 20
ROWS = 60
#: More rows than are written one by one.
SWAPPED = 400


def written(server: AnyServer, database: str) -> Background:
    """Meanwhile, rows of all tables are inserted, changed and deleted."""

    def write(ended: threading.Event) -> None:
        writer, number = Writer(server, database), 0
        while not ended.wait(0.005):
            number += 1
            n, table = STILL + number % (ROWS - STILL), list(TABLES)[number % len(TABLES)]
            row = TABLES[table][1].format(n=n)
            writer(
                f"DELETE FROM {table} WHERE v = {n} OR v = -{n}",
                f"INSERT INTO {table} VALUES {row}",
                f"UPDATE {table} SET v = -{n} WHERE v = {n}",
            )

    return Background(write)


def create(writer: Writer) -> None:
    for table, (columns, row) in TABLES.items():
        rows = ",".join(row.format(n=n) for n in range(1, ROWS))
        writer(f"CREATE TABLE {table} ({columns})", f"INSERT INTO {table} VALUES {rows}")
    writer("INSERT INTO people VALUES (1000, 'left out', 0, 1000)")


def plant(there: psycopg.Connection, database: str) -> None:
    """One row of each table is changed, one missing, and one extra on the target."""
    for table in ("plain", "pair", "lettered"):
        for statement in (
            f"UPDATE {database}.{table} SET v = 77 WHERE v = 3",
            f"DELETE FROM {database}.{table} WHERE v = 4",
        ):
            there.execute(statement.encode())
    for statement in (
        f"UPDATE {database}.plain SET u = 0 WHERE id = 6",
        f"UPDATE {database}.plain SET u = 6 WHERE id = 7",  # each has the other one's unique value
        f"UPDATE {database}.plain SET u = 7 WHERE id = 6",
        f"INSERT INTO {database}.plain VALUES (5000, 5000, 4)",  # has the other row's unique value
        f"INSERT INTO {database}.pair VALUES ('2024-02-01 00:00:00.120', 5, 5)",
        f"INSERT INTO {database}.lettered VALUES ('extra', 5)",
        "UPDATE crm.people SET called = 'wrong' WHERE number = 3",
        "DELETE FROM crm.people WHERE number = 4",
        "INSERT INTO crm.people VALUES ('left out!', 1000, 0)",  # the source has it
        "INSERT INTO crm.people VALUES ('extra', 5000, 1)",
        f"UPDATE {database}.mails SET mail = 'x' WHERE id = 3",
        f"DELETE FROM {database}.mails WHERE id = 4",
        f"INSERT INTO {database}.mails VALUES (5000, 'extra', 5)",
        f"UPDATE {database}.orders SET v = 77 WHERE id = 3",  # in both shops
        f"DELETE FROM {database}.orders WHERE id = 4 AND shop = 'order_south'",
        f"INSERT INTO {database}.orders VALUES ('order_north', 5000, 5)",
    ):
        there.execute(statement.encode())


def check_repair(server: AnyServer, database: str, target: str, folder: Path) -> None:
    writer = Writer(server, database)
    create(writer)
    config = write_config(folder, server.url, target, f"{database}.*", more=MAPPING)
    with psycopg.connect(target, autocommit=True) as there, EngineProcess(config) as engine:
        engine.wait_live()
        with written(server, database):
            plant(there, database)
            still = f"SELECT id, v FROM {database}.plain WHERE id < {STILL} OR id > {ROWS}".encode()
            before = sorted(there.execute(still).fetchall())
            shown = tailrace(2, "verify", config, "--repair")
            assert f"{database}.plain: rows to insert: 1, to update: 3, to delete: 1" in shown
            assert f"{database}.people: rows to insert: 1, to update: 1, to delete: 2" in shown
            refused = tailrace(2, "verify", config, "--repair", "--repair-limit", "5", "--yes")
            assert "the limit of a repair is 5" in refused
            assert f"{database}.order_north {database}.order_south" in refused
            assert there.execute("SELECT count(*) FROM tailrace.command").fetchone() == (0,)
            assert sorted(there.execute(still).fetchall()) == before
            done = tailrace(0, "verify", config, "--repair", "--yes")
            assert f"{database}.order_north: rows written: 1, deleted: 1" in done
            assert f"{database}.mails: rows written: 2, deleted: 1" in done
            # The source has one of the two extra rows, and the mapping leaves it out.
            assert f"{database}.people: rows written: 2, deleted: 2" in done
            audit = there.execute(
                "SELECT command, submitted_by, outcome, refused FROM tailrace.command"
            ).fetchall()
            assert {(by, bad) for _, by, _, bad in audit} == {(audit[0][1], False)}
            assert "extra" not in repr(audit)
            assert there.execute("SELECT count(*) FROM tailrace.repair_key").fetchone() == (0,)
        assert engine.terminate() == 0
        assert "5000" not in engine.log.read_text()
    assert main(["run", str(config), "--until-caught-up"]) == 0
    assert main(["verify", str(config)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("server", ["mysql", "mariadb_10", "mariadb_11"])
def test_rows_that_differ_are_repaired_while_rows_change(
    server: str,
    request: pytest.FixtureRequest,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
) -> None:
    """GIVEN mapped, merged and plain tables under load WHEN rows of the target are changed, missing
    and extra THEN a repair shows them, asks, and makes both sides equal; the record has no values.
    """
    source: AnyServer = request.getfixturevalue(server)
    check_repair(source, fresh_mysql_database(source), target_database, tmp_path)


def test_a_repair_makes_both_sides_equal(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a changed, a missing and an extra row THEN a repair shows and writes them, and both
    sides are equal."""
    database = fresh_mysql_database(mysql)
    writer = Writer(mysql, database)
    writer(
        "CREATE TABLE plain (id INT PRIMARY KEY, u INT UNIQUE)",
        "INSERT INTO plain VALUES (1, 1), (2, 2), (3, 3), (5, 5), (6, 6)",
    )
    config = write_config(tmp_path, mysql.url, target_database, f"{database}.*")
    verify = ["verify", str(config), "--repair"]
    with psycopg.connect(target_database, autocommit=True) as there:

        def rows() -> list[tuple[int, int]]:
            return there.execute(f"SELECT * FROM {database}.plain ORDER BY 1".encode()).fetchall()

        with EngineProcess(config) as engine:
            engine.wait_live()
            for statement in (
                f"UPDATE {database}.plain SET u = 7 WHERE id = 1",
                f"DELETE FROM {database}.plain WHERE id = 3",
                f"INSERT INTO {database}.plain VALUES (4, 3)",  # with a unique value of another row
                f"UPDATE {database}.plain SET u = 0 WHERE id = 5",
                f"UPDATE {database}.plain SET u = 5 WHERE id = 6",  # with each other's
                f"UPDATE {database}.plain SET u = 6 WHERE id = 5",
            ):
                there.execute(statement.encode())
            assert main([*verify, "--yes", "--sample", "50%"]) == 2
            assert main([*verify, "--dry-run", "--json"]) == 3
            shown = capsys.readouterr()
            assert "leave --sample out" in shown.err
            assert "5 rows of the target to repair; nothing is changed" in shown.err
            (plan,) = json.loads(shown.out)["repair"]
            assert (plan["insert"], plan["update"], plan["delete"]) == (1, 3, 1)
            assert main([*verify, "--yes"]) == 0
            assert rows() == [(1, 1), (2, 2), (3, 3), (5, 5), (6, 6)]
    shown = capsys.readouterr()
    assert f"{database}.plain: rows to insert: 1, to update: 3, to delete: 1" in shown.out
    assert f"{database}.plain: rows written: 4, deleted: 1" in shown.out


@pytest.mark.slow
def test_a_stopped_pipeline_repairs_at_its_next_start(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN no engine, a row that differs, and a doubled row in a table without a key WHEN a repair
    is agreed to THEN the next run does it; of the table without a key it names the way on."""
    database = fresh_mysql_database(mysql)
    Writer(mysql, database)(
        "CREATE TABLE keyless (v INT)",
        "INSERT INTO keyless VALUES (1)",
        "CREATE TABLE plain (id INT PRIMARY KEY)",
        "INSERT INTO plain VALUES (1)",
    )
    config = write_config(tmp_path, mysql.url, target_database, f"{database}.*")
    assert main(["run", str(config), "--until-caught-up"]) == 0
    with psycopg.connect(target_database, autocommit=True) as there:
        there.execute(f"INSERT INTO {database}.keyless VALUES (1)".encode())
        there.execute(f"DELETE FROM {database}.plain".encode())
        command = ["verify", str(config), "--repair", "--yes"]
        assert main([*command, "--table", f"{database}.keyless"]) == 3
        assert there.execute("SELECT count(*) FROM tailrace.command").fetchone() == (0,)
        assert f"tailrace backfill {config} {database}.keyless" in capsys.readouterr().out
        assert main([*command, "--table", f"{database}.plain", "--json"]) == 1
        shown = capsys.readouterr()
        assert json.loads(shown.out)["tables"][0]["missing"] == 1
        assert "no engine has executed the repair yet" in shown.err
        assert main(["run", str(config), "--until-caught-up"]) == 0
        assert there.execute(f"SELECT * FROM {database}.plain".encode()).fetchall() == [(1,)]


def check_columns_of_the_target(
    there: psycopg.Connection, database: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values of a column that the target alone has stay, and the remedy keeps them."""
    there.execute(f"ALTER TABLE {database}.free ADD note text".encode())
    for u in ("-id", f"{SWAPPED + 1} - id"):
        there.execute(f"UPDATE {database}.free SET u = {u}, note = 'mine'".encode())
    free = ("--table", f"{database}.free")
    assert main(["verify", config, "--repair", "--yes", *free]) == 1
    assert "would be lost: note (" in capsys.readouterr().out
    assert main(["backfill", config, f"{database}.free", "--in-place"]) == 0
    wait_until(lambda: main(["verify", config, *free]) == 0, what="equal tables")
    notes = there.execute(f"SELECT count(*) FROM {database}.free WHERE note = 'mine'".encode())
    assert notes.fetchone() == (SWAPPED,)


@pytest.mark.slow
def test_a_repair_deletes_no_row_to_which_a_foreign_key_refers(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN a role that cannot switch foreign keys off, and rows that have each other's unique
    values THEN they are repaired; not where a foreign key would act, and then nothing is changed.
    """
    database, right = fresh_mysql_database(mysql), [(n, n) for n in range(1, SWAPPED + 1)]
    for table in ("free", "referred"):
        Writer(mysql, database)(
            f"CREATE TABLE {table} (id INT PRIMARY KEY, u INT UNIQUE)",
            f"INSERT INTO {table} VALUES {str(right)[1:-1]}",
        )
    with psycopg.connect(target_database, autocommit=True) as there:

        def rows(table: str) -> list[tuple[int, int]]:
            query = f"SELECT * FROM {database}.{table} ORDER BY 1"
            return there.execute(query.encode()).fetchall()

        role, at = f"role_{database}", there.info
        there.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'".encode())
        there.execute(f"GRANT CREATE, TEMPORARY ON DATABASE {at.dbname} TO {role}".encode())
        try:
            target = f"postgresql://{role}:x@{at.host}:{at.port}/{at.dbname}"
            config = write_config(tmp_path, mysql.url, target, f"{database}.*")
            with EngineProcess(config) as engine:
                engine.wait_status(lambda it: {t["state"] for t in it["tables"]} == {"live"})
                there.execute(
                    f"CREATE TABLE child (id int REFERENCES {database}.referred ON DELETE CASCADE);"
                    "INSERT INTO child VALUES (1)".encode()
                )
                for table in ("free", "referred"):
                    for u in ("-id", f"{SWAPPED + 1} - id"):
                        there.execute(f"UPDATE {database}.{table} SET u = {u}".encode())
                repair = ["verify", str(config), "--repair", "--yes"]
                assert main(repair) == 1
                assert rows("free") == rows("referred") == [(n, SWAPPED + 1 - n) for n, _ in right]
                way = f"tailrace backfill {config} {database}.referred` reads the table again"
                assert way in capsys.readouterr().out
                assert main([*repair, "--table", f"{database}.free"]) == 0
                assert rows("free") == right
                assert there.execute("SELECT count(*) FROM child").fetchone() == (1,)
                check_columns_of_the_target(there, database, str(config), capsys)
        finally:
            there.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())

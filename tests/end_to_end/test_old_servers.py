"""
The commands, the types, and crashes, on each server of an earlier release.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pymysql
import pytest

from engine.cli.main import main
from engine.sandbox import Server, start_mysql
from tests.end_to_end.test_types import (
    change,
    check_documents,
    check_forms,
    check_row_texts,
    create,
)
from tests.support import compare
from tests.support.engine_process import EngineProcess, write_config
from tests.support.mirror import catch_up, make_pipeline
from tests.support.releases import version_of
from tests.support.servers import AnyServer, connect_mysql, obtain_old
from tests.support.type_matrix import FAMILIES, MYSQL_57, Kind, family
from tests.support.type_matrix import TABLES as FORMS
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Fresh = Callable[[AnyServer], str]

TABLES = (
    """CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, customer VARCHAR(40),
    total DECIMAL(9,2), state ENUM('new','paid','gone'), note TEXT, at TIMESTAMP NULL,
    due DATETIME) ENGINE=InnoDB""",
    "CREATE TABLE visits (page VARCHAR(20), n INT, at TIME) ENGINE=InnoDB",
    "CREATE TABLE stock (id INT PRIMARY KEY, n INT, seen DATE) ENGINE=MyISAM",
    "CREATE TABLE log (line VARCHAR(30)) ENGINE=MyISAM",
    "CREATE TABLE ledger (number INT PRIMARY KEY) ENGINE=InnoDB",
)
#: Made while rows change.
SCHEMA_CHANGES = (
    "ALTER TABLE orders ADD COLUMN extra INT NOT NULL DEFAULT 7 AFTER total",
    "ALTER TABLE orders MODIFY customer VARCHAR(90), ADD KEY (customer)",
    "CREATE TABLE made (id INT PRIMARY KEY, v VARCHAR(9) CHARACTER SET latin1)",
    "INSERT INTO made VALUES (1, 'é'), (2, '€')",
    "RENAME TABLE made TO kept",
    "ALTER TABLE stock CHANGE n number BIGINT",
    "ALTER TABLE stock CHANGE number n BIGINT",
    "TRUNCATE TABLE log",
    "CREATE TABLE brief (id INT)",
    "DROP TABLE brief",
)
#: Of one table, with changes of rows in between. What a server fills in differs by release, most of
#: all where ``explicit_defaults_for_timestamp`` does not exist or is off.
ALTERATIONS = (
    "ADD COLUMN a1 TIMESTAMP",
    "ADD COLUMN a2 TIMESTAMP NOT NULL",
    "ADD COLUMN a3 TIMESTAMP NULL",
    "ADD COLUMN a4 DATETIME NOT NULL",
    "ADD COLUMN a5 ENUM('x','y') NOT NULL",
    "ADD COLUMN a6 SET('x','y') NOT NULL",
    "ADD COLUMN a7 DATE NOT NULL",
    "ADD COLUMN a8 VARCHAR(10) NOT NULL",
    "ADD COLUMN a9 YEAR NOT NULL",
    "ADD COLUMN b1 TIME NOT NULL FIRST",
    "ADD COLUMN b2 BIT(4) NOT NULL",
    "ADD COLUMN b3 DECIMAL(5,2) NOT NULL DEFAULT 1.239",
    "ADD COLUMN b4 FLOAT(7,2) DEFAULT 1.239",
    "MODIFY v VARCHAR(60) CHARACTER SET utf8mb4",
    "MODIFY n BIGINT UNSIGNED NOT NULL",
    "DROP COLUMN a7",
    "CHANGE a8 c8 TEXT",
    "ADD UNIQUE KEY u (n, id)",
    "ADD COLUMN b5 TIMESTAMP DEFAULT '2001-01-01 00:00:00'",
    "ADD COLUMN b6 CHAR(3) CHARACTER SET latin1 DEFAULT 'é'",
    "ADD COLUMN b7 BLOB",
    "ENGINE=MyISAM",
    "ENGINE=InnoDB",
    "CONVERT TO CHARACTER SET utf8mb4",
    "ADD COLUMN b8 INT NOT NULL AUTO_INCREMENT UNIQUE",
    "DROP PRIMARY KEY, ADD PRIMARY KEY (n, id)",
    "MODIFY c8 VARCHAR(3)",
    "MODIFY a3 DATETIME",
    "ORDER BY n",
)
SLOW_BACKFILL = "[backfill]\nchunk_rows = 40\nslice_seconds = 0.05\n"
ROWS = 3000
NEW_CAST = re.compile(r" AS (YEAR|FLOAT)\)")


class Application:
    """Changes the tables on a thread, one transaction after the other, until the block ends."""

    def __init__(self, server: Server, database: str) -> None:
        self._connection = connect_mysql(server, database)
        self._dice = random.Random(5)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: pymysql.MySQLError | None = None
        self.transactions = 0
        self.schema_changes: list[str] = []

    def __enter__(self) -> Application:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._connection.close()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.002):
                if self.schema_changes:
                    self._execute(self.schema_changes.pop(0))
                self._transaction()
        except pymysql.MySQLError as error:
            self._error = error

    def _transaction(self) -> None:
        self.transactions += 1
        n, some = self.transactions, self._dice.randrange(ROWS)
        self._execute("BEGIN")
        self._execute(
            "INSERT INTO orders (customer, total, state, note, at, due) VALUES"
            f" ('c{n}', {n}.5, 'new', 'é\\t{n}', NOW(), NOW())"
        )
        self._execute(f"UPDATE orders SET state = 'paid', total = total + 1 WHERE id = {some}")
        self._execute(f"DELETE FROM orders WHERE id = {self._dice.randrange(ROWS)}")
        self._execute(f"INSERT INTO visits VALUES ('p{n % 7}', {n % 3}, '-12:00:0{n % 10}')")
        self._execute(f"UPDATE visits SET n = n + 1 WHERE page = 'p{some % 7}' LIMIT 1")
        self._execute(f"INSERT INTO ledger VALUES ({n})")
        self._execute("COMMIT")
        self._execute(f"REPLACE INTO stock VALUES ({some % 50}, {n}, '2001-02-03')")
        self._execute(f"INSERT INTO log VALUES ('line {n}')")

    def _execute(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)


def make_tables(server: Server, database: str) -> None:
    with connect_mysql(server, database) as connection, connection.cursor() as cursor:
        for statement in TABLES:
            cursor.execute(statement)
        orders = [(n, f"first {n}", n, "gone", "x" * (n % 90)) for n in range(1, ROWS)]
        cursor.executemany(
            "INSERT INTO orders (id, customer, total, state, note) VALUES (%s, %s, %s, %s, %s)",
            orders,
        )
        cursor.executemany(
            "INSERT INTO visits VALUES (%s, %s, NULL)", [(f"p{n % 7}", n) for n in range(500)]
        )
        cursor.executemany("INSERT INTO stock VALUES (%s, %s, NULL)", [(n, n) for n in range(500)])


@contextmanager
def both(server: Server, target: str) -> Iterator[tuple[pymysql.Connection, psycopg.Connection]]:
    with connect_mysql(server) as source, psycopg.connect(target, autocommit=True) as there:
        yield source, there


def test_kills_under_load(
    old_server: Server, fresh_mysql_database: Fresh, target_database: str, tmp_path: Path
) -> None:
    """GIVEN an application that writes, and alters tables WHEN the engine is killed many times
    during backfill and stream THEN both sides are equal, and `verify` says so."""
    database = fresh_mysql_database(old_server)
    make_tables(old_server, database)
    config = write_config(
        tmp_path, old_server.url, target_database, f"{database}.*", more=SLOW_BACKFILL
    )
    dice = random.Random(3)
    kills_in_backfill = 0
    with Application(old_server, database) as application:
        for number in range(10):
            with EngineProcess(config) as engine:
                rows = dice.randrange(200, 900)
                status = engine.wait_status(
                    lambda s, rows=rows: s["rows"] + s["backfilled_rows"] >= rows, what="some rows"
                )
                kills_in_backfill += status["state"] == "backfilling"
                engine.kill()
            if number == 4:
                application.schema_changes += SCHEMA_CHANGES
        wait_until(lambda: not application.schema_changes, 30, "the schema changes")
    assert kills_in_backfill >= 2
    with EngineProcess(config, "--until-caught-up") as engine:
        assert engine.wait(120) == 0, engine.tail()
    with both(old_server, target_database) as (source, there):
        compare.assert_equal(source, there, database)
        count = there.execute(f'SELECT count(*) FROM "{database}".ledger').fetchone()  # type: ignore[call-overload]
        assert count == (application.transactions,)
    assert main(["verify", str(config)]) == 0


def test_init_check_run_verify(
    old_server: Server,
    fresh_mysql_database: Fresh,
    target_database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The commands work as they do on a new server; `verify` finds a difference."""
    database = fresh_mysql_database(old_server)
    make_tables(old_server, database)
    config = tmp_path / "old.toml"
    source = f"{old_server.url}{database}"
    assert main(["init", source, target_database, "--output", str(config)]) == 0
    assert main(["check", str(config)]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert old_server.version in said
    with EngineProcess(config, "--until-caught-up") as engine:
        assert engine.wait(60) == 0, engine.tail()
    assert main(["verify", str(config)]) == 0
    with psycopg.connect(target_database, autocommit=True) as there:
        there.execute(f'UPDATE "{database}".orders SET total = 0 WHERE id = 9')  # type: ignore[call-overload]
    assert main(["verify", str(config)]) == 3
    assert "orders" in capsys.readouterr().out


def _families(server: Server) -> Iterator[tuple[str, list[Kind]]]:
    """The types that the server has, without values that need casts of MySQL 8.0."""
    version = version_of(server)
    for name in FAMILIES:
        kinds = [
            kind._replace(values=tuple(each for each in kind.values if not NEW_CAST.search(each)))
            for kind in family(name, server.kind, version)
        ]
        if any(kind.values for kind in kinds):
            yield name, kinds


def test_every_value_arrives_by_every_path(
    old_server: Server, fresh_mysql_database: Fresh, target_database: str
) -> None:
    database = fresh_mysql_database(old_server)
    families = dict(_families(old_server))
    connection = connect_mysql(old_server, database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        for name, kinds in families.items():
            create(cursor, name, kinds)

        def run() -> None:
            catch_up(make_pipeline(old_server.url, target_database, [f"{database}.*"]))

        run()
        with psycopg.connect(target_database, autocommit=True) as target:
            compare.assert_equal(connection, target, database)
            check_row_texts(old_server, connection, target_database, families)
            for name, kinds in families.items():
                change(cursor, name, kinds)
            run()
            compare.assert_equal(connection, target, database)


def test_documents_made_of_values_of_every_type(
    old_server: Server, fresh_mysql_database: Fresh, target_database: str
) -> None:
    if not MYSQL_57.includes(old_server.kind, version_of(old_server)):
        pytest.skip("the server has no binary JSON")
    families = dict(_families(old_server))
    check_documents(old_server, fresh_mysql_database(old_server), families, target_database)


def test_tables_with_hidden_and_special_columns(
    old_server: Server, fresh_mysql_database: Fresh, target_database: str
) -> None:
    version = version_of(old_server)
    if not any(form.since.includes(old_server.kind, version) for form in FORMS):
        pytest.skip("the server has no such tables")
    check_forms(old_server, fresh_mysql_database(old_server), target_database)


@pytest.mark.parametrize("each", [True, False], ids=["each", "all-at-once"])
def test_alterations(
    old_server: Server, fresh_mysql_database: Fresh, target_database: str, each: bool
) -> None:
    """Both sides are equal after each alteration that the stream follows; also if it follows them
    only when the server's catalog has the last of them."""
    database = fresh_mysql_database(old_server)
    connection = connect_mysql(old_server, database)

    def run() -> None:
        catch_up(make_pipeline(old_server.url, target_database, [f"{database}.*"]))

    with (
        connection,
        connection.cursor() as cursor,
        psycopg.connect(target_database, autocommit=True) as target,
    ):
        cursor.execute("SET sql_mode = '', time_zone = '+00:00'")
        latin1 = "CHARACTER SET latin1 DEFAULT 'é'"
        cursor.execute(f"CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20) {latin1}, n INT)")
        values = ", ".join(f"({n}, {n % 7 or 'NULL'})" for n in range(50))
        cursor.execute(f"INSERT INTO t (id, n) VALUES {values}")
        run()
        for number, alteration in enumerate(ALTERATIONS):
            cursor.execute(f"ALTER TABLE t {alteration}")
            cursor.execute(f"INSERT INTO t (id, n) VALUES ({number + 100}, {number})")
            cursor.execute(f"UPDATE t SET n = n + 1 WHERE id = {number}")
            if each:
                run()
                compare.assert_equal(connection, target, database)
        run()
        compare.assert_equal(connection, target, database)


def test_tables_of_an_older_release(tmp_path: Path, target_database: str) -> None:
    """GIVEN tables that MySQL 5.5 has made WHEN MySQL 5.6 runs on them THEN their old columns, and
    new columns beside them, arrive. MySQL 5.6 makes a YEAR(4) of YEAR(2) by most statements."""
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    data = tmp_path / "data"
    columns = "a DATE, b TIME, c DATETIME, d TIMESTAMP NULL, e YEAR, f YEAR(2)"
    rows = (
        "'2020-02-31', '-838:59:59', '2020-00-10 01:02:03', '2021-03-28 01:30:00', 2000, 2070",
        "'0000-00-00', '00:00:00', '0000-00-00 00:00:00', '0000-00-00 00:00:00', 0, 0",
        "'9999-12-31', '838:59:59', '9999-12-31 23:59:59', '2038-01-19 03:14:07', 2155, 1999",
    )
    session = "SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'"
    with (
        obtain_old(lambda: start_mysql("5.5", directory=data)) as server,
        connect_mysql(server) as connection,
        connection.cursor() as cursor,
    ):
        for statement in (session, "CREATE DATABASE aged", "USE aged"):
            cursor.execute(statement)
        cursor.execute(f"CREATE TABLE t (id INT PRIMARY KEY, {columns})")
        cursor.execute(f"CREATE TABLE t2 (id INT PRIMARY KEY, {columns}) ENGINE=MyISAM")
        cursor.execute(f"CREATE TABLE k (id DATETIME PRIMARY KEY, {columns})")
        for n, row in enumerate(rows, 1):
            cursor.execute(f"INSERT INTO t VALUES ({n}, {row})")
            cursor.execute(f"INSERT INTO t2 VALUES ({n}, {row})")
            cursor.execute(f"INSERT INTO k VALUES ('2001-01-0{n}', {row})")
    statements = (
        "UPDATE t SET e = 1999, b = '-00:00:01'",
        "INSERT INTO t SELECT id + 10, a, b, c, d, e, f FROM t",
        "UPDATE k SET b = '12:00:00'",
        "DELETE FROM k WHERE id = '2001-01-02'",
        "CREATE TABLE same LIKE t",
        "INSERT INTO same SELECT * FROM t",
        "OPTIMIZE TABLE t2, k",
        "UPDATE k SET f = f + 1",
        "ALTER TABLE t2 RENAME TO t3",
        "INSERT INTO t3 SELECT id + 10, a, b, c, d, e, f FROM t",
        "SET GLOBAL avoid_temporal_upgrade = ON",
        "ALTER TABLE t ADD COLUMN n DATETIME(2), ADD COLUMN m TIME(3) NULL",
        "INSERT INTO t SELECT id + 100, a, b, c, d, e, f, c, b FROM t",
        "UPDATE t SET b = NULL, m = '00:00:00.123' WHERE id > 100",
    )
    with (
        obtain_old(lambda: start_mysql("5.6", directory=data)) as server,
        both(server, target_database) as (source, target),
        source.cursor() as cursor,
    ):
        cursor.execute(session)
        cursor.execute("USE aged")
        catch_up(make_pipeline(server.url, target_database, ["aged.*"]))
        compare.assert_equal(source, target, "aged")
        for statement in statements:
            cursor.execute(statement)
        catch_up(make_pipeline(server.url, target_database, ["aged.*"]))
        compare.assert_equal(source, target, "aged")

"""
Random schemas, rows and transactions on a real source, mirrored and compared.

The source decides which statements are valid: one that it refuses (for a duplicate key, say)
changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pymysql
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.pipeline.loop import Pipeline
from engine.settings.loader import BackfillSettings
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline, running
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until

TYPES = (
    "int",
    "bigint unsigned",
    "tinyint(1)",
    "varchar(20) character set latin1",
    "varchar(20) character set utf8mb4",
    "char(8) character set utf8mb4",
    "varbinary(12)",
    "decimal(12,3)",
    "datetime(3)",
    "date",
    "time(2)",
    "double",
    "float",
    "enum('red','green','blue')",
    "set('a','b','c')",
    "bit(5)",
    "text character set utf8mb4",
)
#: A value of each type, by a small number.
VALUES: dict[str, Callable[[int], Any]] = {
    "int": lambda n: n - 5,
    "bigint unsigned": lambda n: 2**64 - 1 - n,
    "tinyint(1)": lambda n: n % 5 - 2,
    "varchar(20) character set latin1": lambda n: f"é€{n}\\\t",
    "varchar(20) character set utf8mb4": lambda n: f"{'aAbB'[n % 4]}😀{n}\n",
    "char(8) character set utf8mb4": lambda n: f"c{n} ",
    "varbinary(12)": lambda n: bytes([0, n % 256, 92, 9, 0]),
    "decimal(12,3)": lambda n: f"-{n}.{n % 10}05",
    "datetime(3)": lambda n: ("0000-00-00", f"1969-12-{n % 28 + 1:02} 01:02:03.45{n % 10}")[
        n % 5 > 0
    ],
    "date": lambda n: ("2020-00-10", f"2020-02-{n % 28 + 1:02}")[n % 5 > 0],
    "time(2)": lambda n: f"{'-' if n % 2 else ''}{n * 20 % 838}:59:00.0{n % 10}",
    "double": lambda n: n / 3,
    "float": lambda n: n / 7,
    "enum('red','green','blue')": lambda n: ("red", "green", "blue")[n % 3],
    "set('a','b','c')": lambda n: ("", "a", "a,c", "b")[n % 4],
    "bit(5)": lambda n: n % 32,
    "text character set utf8mb4": lambda n: f"\\N {n} \r\n" * (n % 4),
}
NUMBER = st.integers(0, 11)
#: Errors that the source may raise: duplicates, values out of range, missing columns and keys.
REFUSED = (1054, 1060, 1062, 1068, 1072, 1091, 1264, 1265, 1366, 1406)

tables = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["none", "int", "text", "composite", "unique"]),
        "types": st.lists(st.sampled_from(TYPES), min_size=1, max_size=6),
        "secondary": st.booleans(),
    }
)
steps = st.tuples(
    st.sampled_from(["insert", "insert", "update", "key", "delete", "swap", "replace", "truncate"]),
    st.integers(0, 1),
    NUMBER,
    NUMBER,
    st.booleans(),
)
transactions = st.lists(st.lists(steps, min_size=1, max_size=8), max_size=12)
migrations = st.lists(
    st.sampled_from(["add", "drop", "rename", "widen", "exchange", "unkey", "key", "collate"]),
    max_size=3,
)

#: How many histories a test tries.
SLOW = (pytest.mark.slow, pytest.mark.timeout(900))
EXAMPLES = [pytest.param(5, id="few"), pytest.param(60, id="many", marks=SLOW)]


class HistoryWriter:
    """Writes one random history to the source."""

    def __init__(self, server: AnyServer, database: str, shapes: list[dict[str, Any]]) -> None:
        self.connection = connect_mysql(server, database)
        self.shapes = shapes
        self.serial = 0
        self.execute("SET SESSION sql_mode = ''")
        for number, shape in enumerate(shapes):
            self.execute(self._create(f"t{number}", shape))

    def fill(self, rows: int) -> None:
        """Insert rows into every table, so that there is something to backfill."""
        for number, shape in enumerate(self.shapes):
            for n in range(rows):
                values = tuple(VALUES[kind](n % 40) for kind in shape["types"])
                marks = ", ".join(["%s"] * len(values))
                names = ", ".join(f"c{n}" for n in range(len(values)))
                self.execute(
                    f"INSERT INTO t{number} (k1, k2, u, {names}) VALUES (%s, %s, %s, {marks})",
                    (n, f"key {n}", 10_000 + n, *values),
                )

    def execute(self, sql: str, values: tuple[Any, ...] = ()) -> None:
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(sql, values)
            except pymysql.MySQLError as error:
                if error.args[0] not in REFUSED:
                    raise

    def write(self, history: list[list[tuple[str, int, int, int, bool]]]) -> None:
        for transaction in history:
            self.execute("BEGIN")
            for step in transaction:
                self._step(*step)
            self.execute("COMMIT")

    @staticmethod
    def _create(name: str, shape: dict[str, Any]) -> str:
        columns = ["k1 int not null", "k2 varchar(10) character set utf8mb4 not null", "u int"]
        columns += [f"c{n} {kind} null" for n, kind in enumerate(shape["types"])]
        key = {
            "none": [],
            "int": ["primary key (k1)"],
            "text": ["primary key (k2)"],
            "composite": ["primary key (k2, k1)"],
            "unique": ["unique key uk (k1)"],
        }[shape["key"]]
        if shape["secondary"]:
            key = [*key, "unique key us (u)"]
        return f"CREATE TABLE {name} ({', '.join([*columns, *key])})"

    def _step(self, kind: str, table: int, a: int, b: int, null: bool) -> None:
        number = table % len(self.shapes)
        name, shape = f"t{number}", self.shapes[number]
        types = shape["types"]
        self.serial += 1
        values = tuple(
            None if null and n % 2 else VALUES[t]((a + b + n) % 40) for n, t in enumerate(types)
        )
        names = ", ".join(f"c{n}" for n in range(len(types)))
        marks = ", ".join(["%s"] * len(types))
        if kind in ("insert", "replace"):
            verb = "INSERT" if kind == "insert" else "REPLACE"
            self.execute(
                f"{verb} INTO {name} (k1, k2, u, {names}) VALUES (%s, %s, %s, {marks})",
                (a, f"key {b}", None if null else a * 100 + b, *values),
            )
        elif kind == "update":
            sets = ", ".join(f"c{n} = %s" for n in range(len(types)))
            self.execute(f"UPDATE {name} SET {sets} WHERE k1 BETWEEN %s AND %s", (*values, a, b))
        elif kind == "key":
            self.execute(f"UPDATE {name} SET k1 = k1 + 100, k2 = %s WHERE k1 = %s", (f"Key {b}", a))
        elif kind == "delete":
            self.execute(f"DELETE FROM {name} WHERE k1 = %s OR k1 = %s", (a, b + 100))
        elif kind == "swap":
            self._swap(name, a, b)
        elif not (a % 4):  # truncate, but rarely
            self.execute(f"TRUNCATE TABLE {name}")

    def migrate(self, kind: str, serial: int) -> None:
        """Change the schema of the first table, unless the source refuses it."""
        alter = {
            "add": f"ADD COLUMN m{serial} varchar(9) DEFAULT 'new' AFTER k1",
            "drop": "DROP COLUMN c0",
            "rename": f"RENAME COLUMN u TO u{serial}",
            "widen": "MODIFY k1 bigint NOT NULL",
            "unkey": "DROP PRIMARY KEY",
            "key": "ADD PRIMARY KEY (k1, k2)",
            "collate": "MODIFY k2 varchar(10) character set utf8mb4 collate utf8mb4_bin NOT NULL",
        }
        if kind == "exchange" and len(self.shapes) > 1:
            self.execute("RENAME TABLE t0 TO t9, t1 TO t0, t9 TO t1")
        elif kind in alter:
            self.execute(f"ALTER TABLE t0 {alter[kind]}")

    def _swap(self, name: str, a: int, b: int) -> None:
        """Swap the unique values of two rows, with an unused value in between."""
        for value, key in ((-1, a), (a * 100 + 1, b), (b * 100 + 1, a)):
            self.execute(f"UPDATE {name} SET u = %s WHERE k1 = %s LIMIT 1", (value, key))


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("image", ["FULL", "MINIMAL"])
def test_random_histories(
    mysql: AnyServer,
    postgres: AnyServer,
    image: str,
    examples: int,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    """GIVEN random tables with rows WHEN they are backfilled, and then changed at random before two
    more runs THEN both sides are equal after each run."""
    target = fresh_postgres_database(postgres)

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )
    @given(st.lists(tables, min_size=1, max_size=2), transactions, transactions, transactions)
    def run(shapes: Any, first: Any, second: Any, third: Any) -> None:
        database = fresh_mysql_database(mysql)
        writer = HistoryWriter(mysql, database, shapes)
        writer.execute(f"SET SESSION binlog_row_image = {image}")
        with psycopg.connect(target, autocommit=True) as there:
            for history in (first, second, third):
                writer.write(history)
                catch_up(make_pipeline(mysql.url, target, [f"{database}.*"], name=database))
                assert_equal(writer.connection, there, database)
        writer.connection.close()

    run()


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("image", ["FULL", "MINIMAL"])
def test_random_histories_during_the_backfill(
    mysql_family: AnyServer,
    postgres: AnyServer,
    image: str,
    examples: int,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    """GIVEN random tables with rows WHEN rows and schema change at random during a backfill in
    chunks of three rows THEN both sides are equal once the pipeline has caught up."""
    target = fresh_postgres_database(postgres)

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )
    @given(st.lists(tables, min_size=1, max_size=2), transactions, transactions, migrations)
    def run(shapes: Any, first: Any, second: Any, changes: Any) -> None:
        database = fresh_mysql_database(mysql_family)
        writer = HistoryWriter(mysql_family, database, shapes)
        writer.fill(150)
        writer.write(first)
        writer.execute(f"SET SESSION binlog_row_image = {image}")

        def pipeline() -> Pipeline:
            return make_pipeline(
                mysql_family.url,
                target,
                [f"{database}.*"],
                name=database,
                backfill=BackfillSettings(chunk_rows=3, slice_seconds=0.0),
            )

        with psycopg.connect(target, autocommit=True) as there:
            with running(started := pipeline()):
                wait_until(lambda started=started: started.status().state != "connecting")
                for number, transaction in enumerate(second):
                    writer.write([transaction])
                    if number < len(changes):
                        writer.migrate(changes[number], number)
            catch_up(pipeline())
            assert_equal(writer.connection, there, database)
        writer.connection.close()

    run()

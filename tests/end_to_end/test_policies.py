"""
Values that PostgreSQL cannot store, or can store in several forms: each policy from end to end.
What a policy changes is counted, and is no difference for ``tailrace verify``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from engine.databases.mysql.row_reader import MySQLRowReader
from engine.databases.postgres.identifiers import Naming
from engine.databases.postgres.row_reader import PostgresRowReader
from engine.databases.postgres.stored import Storage
from engine.errors import ApplyError, DecodeError, UnloggedChange
from engine.settings.loader import BackfillSettings
from engine.toolkit.policies import ReadPolicies, StoragePolicies
from engine.verify import comparison
from engine.verify.report import VerifyReport
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sources.mysql.settings import MySQLSettings
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql

Fresh = Callable[[AnyServer], str]
Rows = list[tuple[Any, ...]]


class Mirror:
    """A database that is mirrored, with an open connection to each side."""

    def __init__(self, server: AnyServer, database: str, target_url: str) -> None:
        self.server, self.database, self.target_url = server, database, target_url
        self.source = connect_mysql(server, database)
        self.execute("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        self.target = psycopg.connect(target_url, autocommit=True)
        self.target.execute("SET TimeZone = 'UTC'")
        self.replaced: dict[tuple[str, str], float] = {}

    def execute(self, *statements: str) -> None:
        with self.source.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def run(
        self,
        values: StoragePolicies | None = None,
        reads: ReadPolicies | None = None,
        *,
        stops: bool = False,
    ) -> None:
        """Run a pipeline until the target is current."""
        pipeline = make_pipeline(
            self.server.url,
            self.target_url,
            [f"{self.database}.*"],
            backfill=BackfillSettings(
                chunk_rows=2, unlogged_change="stop" if stops else "backfill"
            ),
            values=values,
            reads=reads,
        )
        catch_up(pipeline)
        for metric in pipeline.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == "tailrace_replaced_values_total":
                    place = sample.labels["column"], sample.labels["reason"]
                    self.replaced[place] = self.replaced.get(place, 0) + sample.value

    def rows(self, table: str, columns: str = "*") -> Rows:
        """The rows of the target, as text."""
        query = f'SELECT {columns} FROM "{self.database}"."{table}" AS t ORDER BY 1'
        return [tuple(map(_text, row)) for row in self.target.execute(query)]  # type: ignore[call-overload]

    def types(self, table: str) -> dict[str, str]:
        query = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0"
        )
        return dict(self.target.execute(query, (f'"{self.database}"."{table}"',)).fetchall())

    def verify(
        self, values: StoragePolicies | None = None, reads: ReadPolicies | None = None
    ) -> VerifyReport:
        settings = PostgresSettings(self.target_url, values=values or StoragePolicies())
        state = asyncio.run(PostgresSink(settings, "mirror").state())
        assert state is not None
        source = MySQLRowReader(MySQLSettings(url=self.server.url), reads)
        target = PostgresRowReader(settings, Naming(), Storage(settings.values))

        async def passed(position: str, deadline: float) -> bool:
            return True

        try:
            return asyncio.run(
                comparison.verify(
                    state.tables,
                    source,
                    target,
                    source_position=lambda: "",
                    passed=passed,
                    chunk_rows=2,
                )
            )
        finally:
            source.close()
            target.close()

    def close(self) -> None:
        self.source.close()
        self.target.close()


def _text(value: Any) -> Any:
    return value if value is None else str(value)


@pytest.fixture
def mirror(
    mysql_family: AnyServer, fresh_mysql_database: Fresh, target_database: str
) -> Iterator[Mirror]:
    made = Mirror(mysql_family, fresh_mysql_database(mysql_family), target_database)
    yield made
    made.close()


def test_zero_dates_and_u0000_in_keys(mirror: Mirror, caplog: pytest.LogCaptureFixture) -> None:
    """GIVEN keys with zero dates and U+0000 WHEN they are backfilled, and their rows inserted,
    updated and deleted in the stream THEN nothing stops, and both sides are equal."""
    mirror.execute(
        "CREATE TABLE days (d DATE, n INT, x INT, PRIMARY KEY (d, n))",
        "CREATE TABLE moments (m DATETIME(3) PRIMARY KEY, x INT)",
        "CREATE TABLE stamps (s TIMESTAMP PRIMARY KEY, x INT)",
        "CREATE TABLE texts (k VARCHAR(9) COLLATE utf8mb4_bin PRIMARY KEY, x INT)",
        "INSERT INTO days VALUES ('0000-00-00', 1, 1), ('0000-00-00', 2, 1), ('2020-01-01', 1, 1),"
        " ('2020-01-02', 1, 1)",
        "INSERT INTO moments VALUES ('0000-00-00 00:00:00', 1), ('2020-01-01 00:00:00.5', 1)",
        "INSERT INTO stamps VALUES ('0000-00-00 00:00:00', 1), ('2020-01-01 00:00:00', 1)",
        "INSERT INTO texts VALUES ('a', 1), ('a\\0', 1), ('b', 1), ('\\0\\0', 1)",
    )
    mirror.run()
    assert mirror.rows("days", "d::text, n, x")[:2] == [
        ("-infinity", "1", "1"),
        ("-infinity", "2", "1"),
    ]
    assert [key for key, _ in mirror.rows("texts")] == sorted(["a", "a␀", "b", "␀␀"], key=str)
    assert mirror.replaced == {
        ("d", "zero_date"): 2,
        ("m", "zero_date"): 1,
        ("s", "zero_date"): 1,
        ("k", "nul_byte"): 2,
    }
    logged = [
        it for it in caplog.records if it.message.startswith("values of a column are changed")
    ]
    assert sorted(getattr(it, "column", "") for it in logged) == ["d", "k", "m", "s"]
    assert mirror.verify().equal
    mirror.execute(
        "UPDATE days SET x = 7 WHERE n = 2",
        "UPDATE days SET d = '2021-01-01' WHERE d = 0 AND n = 1",
        "UPDATE moments SET x = 2",
        "DELETE FROM stamps WHERE s = 0",
        "UPDATE texts SET k = CONCAT(k, '\\0z') WHERE k = 'b'",
        "DELETE FROM texts WHERE k = 'a\\0'",
        "INSERT INTO stamps VALUES ('0000-00-00 00:00:00', 5)",
    )
    mirror.run()
    assert mirror.rows("stamps", "s::text, x")[0] == ("-infinity", "5")
    assert {key for key, _ in mirror.rows("texts")} == {"a", "␀␀", "b␀z"}
    assert mirror.verify().equal


TABLE = (
    "id INT PRIMARY KEY, d1 DATE, d2 DATE NOT NULL, d3 DATETIME(2), d4 TIMESTAMP(3) NULL, d5 DATE,"
    " t1 TEXT, t2 TEXT, b TINYINT(1), b2 TINYINT(1), u BIGINT UNSIGNED, u2 BIGINT UNSIGNED"
)
VALUES = """
(1, '0000-00-00', '2020-02-31', '2020-00-01 10:00:00', '0000-00-00 00:00:00', '0000-00-00',
 'a\\0b', '\\0', 2, 2, 18446744073709551615, 7),
(2, '2020-01-01', '0000-00-00', '2020-01-01 10:00:00.25', '2020-01-01 00:00:00.125', NULL,
 'x', NULL, 1, 0, 9223372036854775807, 18446744073709551615),
(3, NULL, '2020-01-01', NULL, NULL, '2020-01-01', NULL, 'y', NULL, 1, NULL, NULL)"""
SHOWN: Rows = [
    (
        *("1", "-infinity", "1970-01-01", "2020-00-01 10:00:00.00", "0000-00-00 00:00:00.000"),
        *(None, "a␀b", "", "t", None, "9223372036854775807", "7"),
    ),
    (
        *("2", "2020-01-01", "1970-01-01", "2020-01-01 10:00:00.25", "2020-01-01 00:00:00.125"),
        *(None, "x", None, "t", "f", "9223372036854775807", "18446744073709551615"),
    ),
    ("3", None, "2020-01-01", None, None, "2020-01-01", None, "y", None, "t", None, None),
]


def policies(database: str) -> StoragePolicies:
    place = f"{database}.values_?"
    return StoragePolicies(
        tinyint1="boolean",
        out_of_range="null",
        tables={place: {"unsigned_bigint": "bigint", "zero_date": "text"}},
        columns={
            f"{place}.d1": {"zero_date": "-infinity"},
            f"{place}.D2": {"zero_date": "epoch"},
            f"{place}.d5": {"zero_date": "null"},
            f"{place}.t1": {"nul_byte": "replace"},
            f"{place}.b": {"out_of_range": "clamp"},
            f"{place}.u": {"out_of_range": "clamp"},
            f"{place}.u2": {"unsigned_bigint": "numeric"},
        },
    )


def test_each_policy_by_every_path(mirror: Mirror) -> None:
    for name in ("values_a", "values_b"):
        mirror.execute(f"CREATE TABLE {name} ({TABLE})")
    mirror.execute(f"CREATE TABLE values_c ({TABLE.replace('PRIMARY KEY', '')})")
    for name in ("values_a", "values_c"):
        mirror.execute(f"INSERT INTO {name} VALUES {VALUES}")
    chosen = policies(mirror.database)
    mirror.run(chosen)
    names = ("id", "d1", "d2", "d3", "d4", "d5", "t1", "t2", "b", "b2", "u", "u2")
    shown = ", ".join(f"{name}::text" for name in names).replace("b::text", "left(b::text, 1)")
    shown = shown.replace("b2::text", "left(b2::text, 1)")
    assert mirror.rows("values_a", shown) == SHOWN
    assert mirror.rows("values_c", shown) == SHOWN
    assert mirror.verify(chosen).equal
    mirror.execute(
        f"INSERT INTO values_b VALUES {VALUES}",
        "UPDATE values_a SET d5 = NULL, t2 = CONCAT(t2, 'z')",
        "UPDATE values_c SET t2 = CONCAT(t2, 'z') WHERE id < 3",
        "DELETE FROM values_c WHERE id = 2",
        "ALTER TABLE values_b ADD d6 DATE NOT NULL, ADD b6 TINYINT(1) NOT NULL DEFAULT 1",
        "INSERT INTO values_b SELECT id + 10, d1, d2, d3, d4, d5, t1, t2, b, b2, u, u2, d2, b2"
        " FROM values_a WHERE b2 IS NOT NULL",
    )
    mirror.run(chosen)
    assert [row for row in mirror.rows("values_b", shown) if int(row[0]) < 10] == SHOWN
    assert mirror.verify(chosen).equal
    types = mirror.types("values_b")
    assert (types["b"], types["b6"], types["u"], types["u2"]) == (
        *("boolean", "boolean", "bigint", "numeric(20,0)"),
    )
    assert (types["d1"], types["d3"], types["d6"]) == (
        "date",
        "character varying(22)",
        "character varying(10)",
    )
    assert {name for _, name in mirror.replaced} == {"zero_date", "nul_byte", "out_of_range"}
    assert not mirror.verify().equal
    mirror.execute(
        "RENAME TABLE values_b TO plain",
        "ALTER TABLE values_a RENAME COLUMN d1 TO d9",
        "INSERT INTO plain (id, d1, d2, d6, b6) VALUES (99, 0, 0, 0, 1)",
    )
    mirror.run(chosen)
    assert mirror.types("plain")["d3"] == "timestamp(2) without time zone"
    assert mirror.types("values_a")["d9"] == "character varying(10)"
    assert mirror.verify(chosen).equal


def test_an_error_policy_stops_and_a_changed_policy_is_noticed(mirror: Mirror) -> None:
    mirror.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, d DATE, u BIGINT UNSIGNED)",
        "INSERT INTO t VALUES (1, '2020-01-01', 1)",
    )
    strict = StoragePolicies(zero_date="error", unsigned_bigint="bigint")
    mirror.run(strict)
    mirror.execute("INSERT INTO t VALUES (2, '0000-00-00', 2)")
    with pytest.raises(ApplyError, match=r"column d holds a date"):
        mirror.run(strict)
    with pytest.raises(UnloggedChange, match=r"zero_date of column d was error .* is text now"):
        mirror.run(StoragePolicies(zero_date="text", unsigned_bigint="bigint"), stops=True)
    mirror.run(StoragePolicies(zero_date="epoch", unsigned_bigint="bigint"), stops=True)
    assert mirror.rows("t", "id, d") == [("1", "2020-01-01"), ("2", "1970-01-01")]
    for changed, words in (
        (StoragePolicies(zero_date="null", unsigned_bigint="bigint"), "zero_date of column d"),
        (StoragePolicies(zero_date="epoch"), "unsigned_bigint of column u was bigint"),
    ):
        with pytest.raises(UnloggedChange, match=words):
            mirror.run(changed, stops=True)


def test_a_policy_decides_about_the_default_of_a_new_column(mirror: Mirror) -> None:
    policies = StoragePolicies(zero_date="error", tinyint1="boolean", out_of_range="null")
    mirror.execute("CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    mirror.run(policies)
    mirror.execute("ALTER TABLE t ADD flag TINYINT(1) DEFAULT 2")
    mirror.run(policies)
    assert mirror.rows("t", "id, flag") == [("1", None)]
    mirror.execute("SET sql_mode = ''", "ALTER TABLE t ADD d DATE NOT NULL")
    with pytest.raises(ApplyError, match="column d holds a date"):
        mirror.run(policies)


def test_a_column_enters_or_leaves_the_key(mirror: Mirror) -> None:
    """Some values have another form in a key, so the table is backfilled again."""
    mirror.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, k VARCHAR(9) NOT NULL) CHARACTER SET cp1251",
        "INSERT INTO t VALUES (1, _cp1251 0x6198), (2, 'b'), (3, 'c')",
        "CREATE TABLE u (id INT NOT NULL, k DATE PRIMARY KEY)",
        "INSERT INTO u VALUES (1, 0), (2, '2020-01-01')",
    )
    mirror.run()
    mirror.execute(
        "ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (k)",
        "UPDATE t SET id = id + 10",
        "ALTER TABLE u DROP PRIMARY KEY, ADD PRIMARY KEY (id)",
    )
    mirror.run()
    assert len(mirror.rows("t", "id")) == 3
    assert mirror.rows("u", "id, k") == [("1", None), ("2", "2020-01-01")]
    assert mirror.verify().equal


def test_statements_that_change_stored_values(mirror: Mirror) -> None:
    """A conversion or a default that the log does not show is read again where a policy counts."""
    policies = StoragePolicies(
        zero_date="text", tinyint1="boolean", unsigned_bigint="bigint", out_of_range="null"
    )
    mirror.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, d DATETIME, b TINYINT(1),"
        " k VARCHAR(9) CHARACTER SET cp1251)",
        "INSERT INTO t VALUES (1, '2020-06-01 10:00:00', NULL, _cp1251 0x6198)",
    )
    mirror.run(policies)
    mirror.execute("SET time_zone = '+05:00'", "ALTER TABLE t MODIFY d TIMESTAMP NULL")
    mirror.run(policies)
    assert mirror.verify(policies).equal
    mirror.execute("SET sql_mode = ''", "ALTER TABLE t MODIFY b TINYINT(1) NOT NULL")
    mirror.run(policies)
    mirror.execute("ALTER TABLE t MODIFY k VARCHAR(9) CHARACTER SET utf8mb4")
    mirror.execute("ALTER TABLE t ADD n BIGINT UNSIGNED NOT NULL DEFAULT 18446744073709551615")
    mirror.run(policies)
    assert mirror.rows("t", "b::text, n::text") == [("false", None)]
    assert mirror.verify(policies).equal


def test_two_keys_that_are_stored_as_one_do_not_stop_verify(mirror: Mirror) -> None:
    mirror.execute(
        "CREATE TABLE t (k VARCHAR(9) COLLATE utf8mb4_bin PRIMARY KEY, x INT)",
        "INSERT INTO t VALUES ('a\\0', 1), ('a\u2400', 2), ('b', 3)",
    )
    mirror.run()
    assert mirror.verify().tables[0].rows == 3


@pytest.mark.parametrize("viewed", [False, True], ids=["renamed", "copied"])
def test_a_table_is_backfilled_again_by_changed_policies(mirror: Mirror, viewed: bool) -> None:
    mirror.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, d DATE, b TINYINT(1), e ENUM('p', 'q'), KEY (d))",
        "INSERT INTO t VALUES (1, '0000-00-00', 1, 'q'), (2, '2020-01-01', 0, 'p'), (3, 0, 1, 0)",
        "CREATE TABLE other (id INT PRIMARY KEY)",
    )
    mirror.run()
    if viewed:
        mirror.target.execute(f'CREATE VIEW viewed AS SELECT id FROM "{mirror.database}".t')
    mirror.execute("INSERT INTO t VALUES (4, '0000-00-00', 0, NULL)")
    for changed, shown in (
        (StoragePolicies(zero_date="epoch", tinyint1="boolean", enum="native"), "1970-01-01"),
        (StoragePolicies(zero_date="text", enum="native"), "0000-00-00"),
        (StoragePolicies(), None),
    ):
        mirror.run(changed)
        rows = mirror.rows("t", "id, d::text, b::int, e::text")
        assert rows == [
            ("1", shown, "1", "q"),
            ("2", "2020-01-01", "0", "p"),
            ("3", shown, "1", ""),
            ("4", shown, "0", None),
        ]
        assert mirror.verify(changed).equal
        boolean = changed.tinyint1 == "boolean"
        assert mirror.types("t")["b"] == ("boolean" if boolean else "smallint")


def test_invalid_text_by_every_path(mirror: Mirror) -> None:
    """GIVEN bytes without a character in text, in a key and in a keyless table WHEN they are
    backfilled in small chunks, inserted, updated and deleted THEN each follows its policy."""
    columns = "a VARCHAR(20), b TEXT, c VARCHAR(20) CHARACTER SET sjis"
    row = "_cp1251 0x619862, _cp1251 0x989898, _sjis 0x8740"
    mirror.execute(
        f"CREATE TABLE keyed (id INT PRIMARY KEY, {columns}) CHARACTER SET cp1251",
        f"CREATE TABLE keyless (id INT, {columns}) CHARACTER SET cp1251",
        "CREATE TABLE keys_ (k VARCHAR(9), n INT, x INT, PRIMARY KEY (k, n)) CHARACTER SET cp1251",
        f"INSERT INTO keyed VALUES (1, {row}), (2, 'x?y', NULL, ''), (3, 'z', '', 'z')",
        f"INSERT INTO keyless VALUES (1, {row}), (2, 'x?y', NULL, '')",
        *(
            f"INSERT INTO keys_ VALUES (_cp1251 0x{key}, {n}, 1)"
            for n in range(2)
            for key in ("98", "61", "6198", "9861", "9898", "989861", "619861", "7A")
        ),
    )
    reads = ReadPolicies(columns={"*.*.b": {"invalid_text": "escape"}})
    mirror.run(reads=reads)
    expected = [
        ("1", "a\ufffdb", "\\x98" * 3, "\ufffd"),
        ("2", "x?y", None, ""),
        ("3", "z", "", "z"),
    ]
    assert mirror.rows("keyed") == expected
    assert mirror.rows("keyless") == expected[:2]
    assert mirror.replaced["a", "invalid_text"] == mirror.replaced["c", "invalid_text"] == 2
    assert mirror.verify(reads=reads).equal
    mirror.execute(
        f"INSERT INTO keyed VALUES (11, {row})",
        "UPDATE keyed SET c = 'é' WHERE id = 3",
        "UPDATE keyless SET c = _sjis 0x8741 WHERE id = 1",
        "DELETE FROM keyless WHERE id = 2",
        "UPDATE keys_ SET x = 7 WHERE k = _cp1251 0x98",
        "UPDATE keys_ SET k = _cp1251 0x7A98 WHERE k = _cp1251 0x6198 AND n = 1",
        "DELETE FROM keys_ WHERE k = _cp1251 0x9898",
        "INSERT INTO keys_ VALUES (_cp1251 0x989898, 9, 9)",
    )
    mirror.run(reads=reads)
    assert mirror.rows("keyless") == [("1", *expected[0][1:3], "\ufffd")]
    assert (chr(0xF0098) * 3, "9", "9") in mirror.rows("keys_")
    report = mirror.verify(reads=reads)
    assert report.equal, report
    mirror.target.execute(f"UPDATE \"{mirror.database}\".keyed SET a = 'a?b' WHERE id = 1")
    assert [table.differing for table in mirror.verify(reads=reads).tables] == [1, 0, 0]
    strict = ReadPolicies(columns={"*.keyed.a": {"invalid_text": "error"}})
    mirror.execute(f"INSERT INTO keyed VALUES (12, {row})")
    with pytest.raises(DecodeError, match=r"column a holds bytes that are not valid cp1251"):
        mirror.run(reads=strict)


def test_native_enums_by_every_path(mirror: Mirror) -> None:
    labels = "'new','b''c','x,y','é'"
    mirror.execute(
        f"CREATE TABLE orders (id INT PRIMARY KEY, state ENUM({labels}) NOT NULL DEFAULT 'x,y',"
        f" other ENUM({labels}), long_ ENUM('a', '{'l' * 64}'))",
        "CREATE TABLE by_label (e ENUM('z','a'), f ENUM('', 'q'), n INT, PRIMARY KEY (e, n))",
        f"CREATE TABLE keyless (e ENUM({labels}))",
        "INSERT INTO orders VALUES (1, 'new', NULL, 'a'), (2, 'b''c', 'é', NULL), (3, 0, 0, 2)",
        "INSERT INTO by_label VALUES ('z', '', 1), ('a', 'q', 1), ('a', NULL, 2), (0, 0, 3)",
        "INSERT INTO keyless VALUES ('new'), ('new'), (NULL), (0)",
    )
    native = StoragePolicies(enum="native")
    mirror.run(native)
    types = mirror.types("orders")
    assert types["state"] == types["other"]
    assert mirror.types("by_label")["e"] != types["state"]
    assert types["long_"] == "text"
    assert [row[1] for row in mirror.rows("orders")] == ["new", "b'c", ""]
    assert [row[0] for row in mirror.rows("by_label")] == ["", "z", "a", "a"]
    assert mirror.verify(native).equal
    mirror.execute(
        "UPDATE keyless SET e = 'é' WHERE e = 'new' LIMIT 1",
        "DELETE FROM keyless WHERE e = 0",
        "DELETE FROM by_label WHERE e = 'z'",
        "UPDATE by_label SET e = 'z' WHERE n = 2",
        "INSERT INTO orders (id) VALUES (4)",
        f"ALTER TABLE orders MODIFY state ENUM({labels},'later') NOT NULL DEFAULT 'later'",
        "INSERT INTO orders (id, other) VALUES (5, 'x,y')",
        "ALTER TABLE orders RENAME COLUMN state TO status, ADD third ENUM('p','q') NOT NULL",
        "RENAME TABLE by_label TO labelled",
        "INSERT INTO labelled VALUES ('z', 'q', 9)",
        "DROP TABLE keyless",
    )
    mirror.run(native)
    assert mirror.rows("orders", "id, status, other, third")[3:] == [
        ("4", "x,y", None, "p"),
        ("5", "later", "x,y", "p"),
    ]
    assert mirror.verify(native).equal
    schema, other = f"{mirror.database}_2", mirror.database
    mirror.execute(f"CREATE DATABASE {schema}")
    try:
        mirror.execute(
            f"RENAME TABLE orders TO {schema}.orders",
            f"INSERT INTO {schema}.orders (id) VALUES (9)",
        )
        mirror.database = schema[:-2] + "*"
        mirror.run(native)
        mirror.database = schema
        assert mirror.rows("orders", "id, status, third")[-1] == ("9", "later", "p")
        assert mirror.types("orders")["status"].startswith(f"{schema}.")
        assert mirror.verify(native).equal
    finally:
        mirror.execute(f"DROP DATABASE {schema}")
        mirror.database = other

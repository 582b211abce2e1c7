"""
Values that PostgreSQL cannot store, or can store in several forms: each policy from end to end.
What a policy changes is counted, and is no difference for ``tailrace verify``.
"""

from __future__ import annotations

import pytest

from engine.databases.postgres.stored import KEY_NUL
from engine.errors import ApplyError, UnloggedChange
from engine.toolkit.policies import StoragePolicies
from tests.support.policy_mirror import Mirror, Rows


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
    assert [key for key, _ in mirror.rows("texts")] == sorted(
        ["a", f"a{KEY_NUL}", "b", KEY_NUL * 2]
    )
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
    assert {key for key, _ in mirror.rows("texts")} == {"a", KEY_NUL * 2, f"b{KEY_NUL}z"}
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
    assert mirror.replaced == {("flag", "out_of_range"): 1}
    mirror.execute("SET sql_mode = ''", "ALTER TABLE t ADD d DATE NOT NULL")
    with pytest.raises(ApplyError, match="column d holds a date"):
        mirror.run(policies)


def test_a_number_becomes_text_under_a_policy_for_text(mirror: Mirror) -> None:
    """GIVEN a policy for U+0000 WHEN a column that was no text becomes one THEN the statement is
    followed, because the policy has changed no value of the column."""
    mirror.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT)", "INSERT INTO t VALUES (1, 5)")
    policies = StoragePolicies(nul_byte="error")
    mirror.run(policies)
    mirror.execute("ALTER TABLE t MODIFY a VARCHAR(20)", "INSERT INTO t VALUES (2, 'x')")
    mirror.run(policies, stops=True)
    mirror.run(policies, stops=True)
    assert mirror.rows("t") == [("1", "5"), ("2", "x")]


def test_a_replaced_default_of_a_new_column_is_counted(mirror: Mirror) -> None:
    policies = StoragePolicies(columns={"*.*.t2": {"nul_byte": "replace"}})
    mirror.execute("CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    mirror.run(policies)
    mirror.execute(
        "SET sql_mode = 'ALLOW_INVALID_DATES'",
        "ALTER TABLE t ADD d1 DATE NOT NULL, ADD d2 DATE DEFAULT 0,"
        " ADD d3 DATE DEFAULT '2020-01-02', ADD d4 DATE, ADD t1 VARCHAR(9) DEFAULT 'a\\0b'",
    )
    mirror.run(policies, stops=True)
    row = None, None, "2020-01-02", None, "ab"
    assert mirror.rows("t") == [("1", *row), ("2", *row)]
    counted = {("d1", "zero_date"): 2, ("d2", "zero_date"): 2, ("t1", "nul_byte"): 2}
    assert mirror.replaced == counted
    mirror.execute("ALTER TABLE t ADD t2 VARCHAR(9) DEFAULT 'a\\0b'")
    mirror.run(policies)
    assert mirror.rows("t") == [("1", *row, "a\u2400b"), ("2", *row, "a\u2400b")]
    assert mirror.replaced["t2", "nul_byte"] == 2
    assert mirror.verify(policies).equal


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


def test_a_replacement_is_not_the_key_of_another_row(mirror: Mirror) -> None:
    mirror.execute(
        "CREATE TABLE t (k VARCHAR(3) COLLATE utf8mb4_bin PRIMARY KEY, x INT)",
        "INSERT INTO t VALUES ('ab\\0', 1), ('ab\u2400', 2), ('b', 3)",
    )
    mirror.run()
    mirror.execute("INSERT INTO t VALUES ('c\u2400\\0', 4), ('c\\0\u2400', 5)")
    mirror.run()
    assert mirror.rows("t", "x, k") == [
        ("1", f"ab{KEY_NUL}"),
        ("2", "ab\u2400"),
        ("3", "b"),
        ("4", f"c\u2400{KEY_NUL}"),
        ("5", f"c{KEY_NUL}\u2400"),
    ]
    assert mirror.verify().equal
    mirror.execute(f"INSERT INTO t VALUES ('{KEY_NUL}', 6)")
    with pytest.raises(ApplyError, match=r"column k .* holds the character U\+F0000"):
        mirror.run()


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

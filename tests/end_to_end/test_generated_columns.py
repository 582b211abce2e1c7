"""
The policy ``generated``: columns that the source computes are computed by the target, too, where
the result is the same; the others stay plain.
"""

from __future__ import annotations

import pytest

from engine.toolkit.policies import StoragePolicies
from tests.support.policy_mirror import Mirror

VALUES = StoragePolicies(
    generated="generated",
    columns={
        "*.t.day": {"zero_date": "error"},
        "*.t.gone": {"zero_date": "-infinity"},
        "*.t.c_flag": {"tinyint1": "boolean"},
    },
)
#: Names that begin with c are computed by PostgreSQL, those with p stay plain.
TABLE = """
CREATE TABLE t (
  id INT PRIMARY KEY, a INT, b MEDIUMINT, p DECIMAL(10,2), f DOUBLE, s VARCHAR(20),
  e ENUM('new', 'Old'), day DATETIME(3), gone DATETIME, other DATE, ti TINYINT(1),
  c_sum BIGINT AS (a + b * 2 - 1), c_part INT AS (5 - (a - 3)), c_int INT AS (a * 300) STORED,
  c_tiny TINYINT AS (a * 100), c_unsigned TINYINT UNSIGNED AS (3 - a),
  c_price DECIMAL(12,2) AS (p * a) STORED, c_round DECIMAL(9,1) AS (p), c_whole INT AS (p),
  c_cut DECIMAL(4,2) AS (p * 3), c_floor INT AS (FLOOR(p)), c_ceil INT AS (CEILING(p)),
  c_digits DECIMAL(10,3) AS (ROUND(p, 1)), c_div INT AS (a DIV 4), c_mod INT AS (a % 4),
  c_zero INT AS (a DIV (a - a)), c_abs INT AS (ABS(a)), c_minus BIGINT AS (-a),
  c_text VARCHAR(60) AS (CONCAT(s, ' ', "it's", '-', a)), c_copy VARCHAR(20) AS (s),
  c_in INT AS (a IN (1, 2, 7)), c_between INT AS (a NOT BETWEEN 2 AND 9),
  c_case INT AS (CASE WHEN a > 1 AND NOT b < 2 THEN 1 WHEN a = -7 THEN b ELSE 0 END) STORED,
  c_simple INT AS (CASE a WHEN 7 THEN 2 WHEN -7 THEN 3 END), c_same INT AS (a <=> b),
  c_live INT AS (IF(gone IS NULL, 1, NULL)), c_not INT AS (NOT a), c_or INT AS (a OR b),
  c_not_null INT AS (a IS NOT NULL), c_first INT AS (COALESCE(a, b, 5)),
  c_other INT AS (IFNULL(a, p)), c_null INT AS (NULLIF(a, 7)), c_label INT AS (e = 'Old'),
  c_float DOUBLE AS (f * 2.5e0 + a), c_year INT AS (YEAR(day)), c_day DATE AS (DATE(day)),
  c_month INT AS (MONTH(day) * 100 + DAY(day)), c_flag TINYINT(1) AS (a > 1),
  p_upper VARCHAR(20) AS (UPPER(s)), p_share DECIMAL(10,4) AS (p / 3), p_like INT AS (s LIKE 'a%%'),
  p_year INT AS (YEAR(other)), p_twice BIGINT AS (c_sum * 2), p_short VARCHAR(3) AS (s),
  p_equal INT AS (s = 'abc'), p_left VARCHAR(3) AS (LEFT(s, 3)), KEY (c_sum), UNIQUE KEY (c_text)
)
"""
COLUMNS = "(id, a, b, p, f, s, e, day, gone, other, ti)"


def computed(it: Mirror, table: str) -> set[str]:
    """The columns of a table that PostgreSQL computes."""
    found = it.target.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attgenerated = 's'",
        (f'"{it.database}"."{table}"',),
    )
    return {name for (name,) in found}


def insert(it: Mirror, first: int) -> None:
    """Rows of odd values, which the source computes from without strict SQL mode."""
    it.execute(
        "SET sql_mode = ''",
        f"INSERT INTO t {COLUMNS} VALUES"
        f" ({first}, 7, 3, 12345678.99, 1.1, 'abc', 'new', '2020-02-29 10:00:00.5', NULL, NULL, 2),"
        f" ({first + 1}, -7, 65535, -3.35, 1e300, '', 'Old', '1999-12-31', '0000-00-00', 0, 0),"
        f" ({first + 2}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2020-01-01', NULL, NULL),"
        f" ({first + 3}, 0, 0, 0.05, -0.1, 'ß ä 😀', 'new', NULL, NULL, '2020-01-01', 1),"
        f" ({first + 4}, 2147480, 1, 99999999.99, 3.5, 'x{first}', 'x', NULL, NULL, NULL, NULL),"
        f" ({first + 5}, 1, 2, -0.05, 0, 'y{first}', 'Old', NULL, NULL, NULL, NULL)",
    )


def names(it: Mirror, table: str, prefix: str) -> set[str]:
    return {name for name in it.types(table) if name.startswith(prefix)}


def test_exact_expressions_are_computed(
    mirror: Mirror,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """GIVEN generated columns of all kinds of expressions WHEN their rows are backfilled, inserted,
    updated and deleted THEN PostgreSQL computes the exact ones, and both sides are equal."""
    mirror.execute(TABLE)
    insert(mirror, 1)
    mirror.run(VALUES)
    assert computed(mirror, "t") == names(mirror, "t", "c_")
    logged = [it for it in caplog.records if "stored as a plain column" in it.message]
    assert {getattr(it, "column", "") for it in logged} == names(mirror, "t", "p_")
    assert mirror.verify(VALUES).equal
    mirror.execute("UPDATE t SET s = CONCAT('u', id)")
    insert(mirror, 11)
    mirror.execute(
        "UPDATE t SET a = a + 1, p = p * 2 WHERE id < 5 AND id <> 2",
        "UPDATE t SET id = id + 100 WHERE id IN (3, 12)",
        "DELETE FROM t WHERE id = 4",
        "UPDATE t SET s = CONCAT('v', id)",
    )
    for first in range(200, 280, 6):
        mirror.execute(f"UPDATE t SET s = CONCAT('w', id) WHERE id >= {first - 6}")
        insert(mirror, first)
        mirror.execute(f"UPDATE t SET s = CONCAT('w', id) WHERE id >= {first - 6}")
    mirror.run(VALUES)
    assert mirror.verify(VALUES).equal
    mirror.execute(
        "SET SESSION binlog_row_image = 'MINIMAL'",
        "UPDATE t SET a = a - 1 WHERE id < 20 AND id <> 2",
        "UPDATE t SET p = 1.25, day = '2024-05-06' WHERE id > 200",
        "DELETE FROM t WHERE id = 1",
        "UPDATE t SET id = id + 1000 WHERE id = 11",
    )
    mirror.run(VALUES, stops=mirror.server.kind == "mysql")  # MariaDB logs no virtual columns
    report = mirror.verify(VALUES)
    assert report.equal, report


def test_changed_expressions_are_followed(mirror: Mirror) -> None:
    """GIVEN tables with generated columns WHEN these are added, modified, dropped and renamed THEN
    exact ones are computed in place, others by a new backfill, and both sides are equal."""
    mirror.execute(
        "CREATE TABLE g (id INT PRIMARY KEY, a INT, b INT, c INT AS (a + b), KEY (c))",
        "CREATE TABLE keyless (a INT, b INT AS (a + 1), c VARCHAR(9))",
        "INSERT INTO g (id, a, b) VALUES (1, 2, 3), (2, NULL, 1)",
        "INSERT INTO keyless (a, c) VALUES (1, 'x'), (1, 'x'), (NULL, 'y')",
    )
    mirror.run(VALUES)
    before = mirror.oid("g")
    mirror.execute(
        "ALTER TABLE g ADD d BIGINT AS (a * b) STORED, ADD UNIQUE KEY (d)",
        "ALTER TABLE g DROP COLUMN c, ADD e INT AS (b DIV 2)",
        "ALTER TABLE g CHANGE d renamed BIGINT AS (a * b + 1) STORED",
        "INSERT INTO g (id, a, b) VALUES (3, 5, 6)",
        "CREATE TABLE later (id INT PRIMARY KEY, a INT, b INT AS (a + 1))",
        "INSERT INTO later (id, a) VALUES (1, 1)",
        "DELETE FROM keyless WHERE a = 1 LIMIT 1",
        "UPDATE keyless SET a = 5 WHERE a IS NULL",
    )
    mirror.run(VALUES, stops=True)
    assert mirror.oid("g") == before
    assert computed(mirror, "g") == {"renamed", "e"}
    assert computed(mirror, "later") == {"b"}
    assert computed(mirror, "keyless") == {"b"}
    assert mirror.verify(VALUES).equal
    mirror.execute(
        "ALTER TABLE g MODIFY b BIGINT",
        "ALTER TABLE later ADD p VARCHAR(20) AS (HEX(a))",
        "INSERT INTO g (id, a, b) VALUES (4, 5, 60)",
        "INSERT INTO later (id, a) VALUES (2, 255)",
    )
    mirror.run(VALUES)
    assert computed(mirror, "g") == {"renamed", "e"}
    assert computed(mirror, "later") == {"b"}
    assert mirror.verify(VALUES).equal
    mirror.run()  # another policy: the tables are backfilled again
    assert computed(mirror, "g") == set()
    assert mirror.verify().equal

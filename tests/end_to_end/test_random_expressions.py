"""Random expressions of generated columns: what PostgreSQL computes equals what the source does."""

from __future__ import annotations

import random

import pymysql
import pytest

from engine.toolkit.policies import StoragePolicies
from tests.support.policy_mirror import Mirror

BASE = (
    "id INT PRIMARY KEY, a INT, b SMALLINT, c BIGINT, u INT UNSIGNED, p DECIMAL(10,2),"
    " q DECIMAL(20,6), f DOUBLE, r FLOAT, s VARCHAR(20), v VARCHAR(20), e ENUM('new', 'Old'),"
    " d DATE, m DATETIME(3)"
)
TYPES = (
    *("TINYINT", "INT", "BIGINT", "SMALLINT UNSIGNED", "BIGINT UNSIGNED", "DECIMAL(6,1)"),
    *("DECIMAL(30,8)", "DECIMAL(4,4)"),
)
VALUES = StoragePolicies(generated="generated", zero_date="error")
WHOLE = (0, 1, -1, 2, 3, 7, -8, 100, 255, -129, 32767, -32768)


def number(choose: random.Random, depth: int) -> str:
    """An expression for an exact number."""
    if depth <= 0:
        return choose.choice(
            ["a", "b", "c", "u", "p", "q", str(choose.choice(WHOLE)), "2.5", "0.05"]
        )
    x, y = number(choose, depth - 1), number(choose, depth - 2)
    z = condition(choose, depth - 1)
    return choose.choice(
        [
            *(f"({x} + {y})", f"({x} - {y})", f"({x} * {y})", f"(- {x})", f"ABS({x})"),
            *(f"ROUND({x}, {choose.randint(0, 3)})", f"FLOOR({x})", f"CEILING({x})"),
            *(f"(a DIV {y})", f"(b % {y})", f"MOD(a, {choose.choice(WHOLE)})", "(c DIV b)"),
            *(f"IF({z}, {x}, {y})", f"IFNULL({x}, {y})", f"COALESCE({y}, {x})"),
            *(f"NULLIF({x}, {y})", f"({z})", f"CASE WHEN {z} THEN {x} ELSE {y} END"),
            *(f"CASE {x} WHEN {y} THEN 1 END", "YEAR(d)", "MONTH(m)", "DAY(d)", x),
        ]
    )


def condition(choose: random.Random, depth: int) -> str:
    """An expression for a condition."""
    if depth <= 0:
        return choose.choice(["a IS NULL", "s IS NULL", "e = 'Old'", "d IS NOT NULL", "a", "p > 1"])
    x, y = number(choose, depth - 1), number(choose, depth - 2)
    z, w = condition(choose, depth - 1), condition(choose, depth - 2)
    operator = choose.choice(["=", "<>", "<", "<=", ">", ">=", "<=>"])
    return choose.choice(
        [
            *(f"{x} {operator} {y}", f"{x} {operator} {y}", f"NOT {z}", f"NOT ({z})", f"({z})"),
            *(f"{z} AND {w}", f"{z} OR {w}", f"({z}) IS NULL", f"{x} IN (1, {y}, NULL)"),
            *(f"{x} NOT IN (1, {y})", f"{x} BETWEEN {y} AND 100", "d < DATE(m)", "f > r"),
        ]
    )


def text(choose: random.Random) -> str:
    parts = [choose.choice(["s", "v", "a", "c", "'-'", "'it''s'"]) for _ in range(3)]
    z = condition(choose, 1)
    return choose.choice([f"CONCAT({', '.join(parts)})", f"IF({z}, s, v)", "COALESCE(s, v, 'x')"])


def column(choose: random.Random, n: int) -> str:
    """A generated column."""
    kind = choose.random()
    if kind < 0.8:
        return f"g{n} {choose.choice(TYPES)} AS ({number(choose, choose.randint(1, 4))})"
    if kind < 0.9:
        return f"g{n} VARCHAR(90) AS ({text(choose)})"
    return f"g{n} DOUBLE AS ({choose.choice(['f * 2.5e0', 'f + r', 'r - a', 'f * f - b', '-r'])})"


def row(choose: random.Random, id: int) -> tuple[object, ...]:
    """A row of odd values."""

    def one(*values: object) -> object:
        return choose.choice([None, *values])

    return (
        *(id, one(*WHOLE, 2**31 - 1, -(2**31)), one(0, 3, -32768, 32767)),
        *(one(*WHOLE, 2**40, -(2**62)), one(0, 1, 2**32 - 1)),
        *(one("0", "-0.05", "2.50", "99999999.99", "-1.15"), one("0.000001", "-12345.5", "7")),
        *(one(0.1, -1.5, 1e100, 3.0), one(0.1, -2.5, 16777216.0), one("", "a", "ß 😀", "x" * 20)),
        *(one("b", "Ä"), one("new", "Old"), one("2020-02-29", "1999-12-31", "2000-01-01")),
        one("2020-02-29 23:59:59.999", "1970-01-01 00:00:00"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_expressions(mirror: Mirror, seed: int) -> None:
    """GIVEN random generated columns and odd rows, without strict SQL mode WHEN they are backfilled
    and streamed THEN both sides are equal, and most of the columns are computed."""
    choose = random.Random(seed)
    columns: list[str] = []
    mirror.execute("SET sql_mode = ''")
    for n in range(60):
        made = column(choose, n)
        try:
            mirror.execute(f"CREATE TABLE probe ({BASE}, {made})", "DROP TABLE probe")
        except pymysql.MySQLError:
            continue
        columns.append(made)
    tables = [columns[start : start + 6] for start in range(0, len(columns), 6)]
    for n, some in enumerate(tables):
        mirror.execute(f"CREATE TABLE t{n} ({BASE}, {', '.join(some)})")
    for start in (0, 40):
        for n in range(len(tables)):
            for id in range(start, start + 40):
                insert(mirror, n, row(choose, id))
        mirror.run(VALUES)
        report = mirror.verify(VALUES)
        assert report.equal, (report, tables)
    count = "SELECT count(*) FROM pg_attribute WHERE attgenerated = 's'"
    found = mirror.target.execute(count).fetchone()
    assert found is not None
    assert found[0] > len(columns) // 2


def insert(mirror: Mirror, table: int, values: tuple[object, ...]) -> None:
    """Insert a row, unless the source refuses it because a result exceeds BIGINT or DOUBLE."""
    marks = ", ".join(["%s"] * len(values))
    names = ", ".join(part.split()[0] for part in BASE.split(", ") if part[0] != "'")
    with mirror.source.cursor() as cursor:
        try:
            cursor.execute(f"INSERT INTO t{table} ({names}) VALUES ({marks})", values)
        except pymysql.MySQLError:
            return

"""
Every function and operator of expressions, over odd values: the generated code and the servers give
the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from pymysql.err import DatabaseError

from engine.databases.mysql.types import neutral_type
from engine.errors import ConfigError
from engine.mapping.expressions import Compiler, parse_condition
from engine.mapping.generation import Generator
from engine.mapping.runtime import RUNTIME, OutOfRange, fixed_text
from engine.mapping.values import Shape
from engine.schema import Column, Table, TableId
from engine.toolkit.codegen import compile_function
from tests.support.servers import AnyServer, connect_mysql

Fresh = Callable[[AnyServer], str]

UTF8 = "character set utf8mb4 collate utf8mb4_general_ci"
COLUMNS = {
    "id": "int",
    "small": "tinyint",
    "big": "bigint",
    "huge": "bigint unsigned",
    "price": "decimal(10,2)",
    "rate": "decimal(20,6)",
    "flag": "bit(3)",
    "ratio": "double",
    "name": f"varchar(40) {UTF8}",
    "note": "varchar(40) character set utf8mb4 collate utf8mb4_bin",
    "old": "varchar(40) character set latin1 collate latin1_swedish_ci",
    "state": f"enum('new','Paid','')  {UTF8}",
    "raw": "varbinary(10)",
    "day": "date",
    "moment": "datetime",
    "precise": "datetime(3)",
    "stamp": "timestamp",
    "zoned": "time",
}
ROWS: list[tuple[Any, ...]] = [
    (1, *[None] * (len(COLUMNS) - 1)),
    (2, 0, 0, 0, "0.00", "0.000000", 0, 0.0, "", "", "", "new", b"", "0000-00-00",
     "0000-00-00 00:00:00", "0000-00-00 00:00:00.000", "2001-01-01 00:00:00", "00:00:00"),
    (3, -7, -9223372036854775808, 18446744073709551615, "-12.50", "-0.500000", 7, -1.5,
     "Éa@b.Example.COM ", "aB\t", "Ärger", "Paid", b"\xff\x00", "2024-02-29",
     "2024-02-29 23:59:59", "2024-02-29 23:59:59.999", "2038-01-19 03:14:07", "-838:59:59"),
    (4, 127, 9223372036854775807, 9223372036854775808, "99999999.99", "12345678901234.567890",
     1, 1e300, "PAID", "paid ", "paid", "Paid", b"abc", "2024-00-00", "2024-01-00 12:00:00",
     "1999-12-31 00:00:00.001", "1970-01-01 00:00:01", "12:34:56"),
    (5, 3, 5, 2, "2.50", "2.500000", 2, 0.1, "straße ﬀ İI", "日本語😀", "straße", "new", b" ",
     "9999-12-31", "9999-12-31 23:59:59", "9999-12-31 23:59:59.000", "2024-06-30 12:00:00",
     "00:00:01"),
    (6, -3, -5, 3, "-2.55", "0.000001", 5, 100.0, "  x,y,,z  ", "xXxx", " x ", "", b"x",
     "2024-12-31", "2024-12-31 00:00:00", "2024-12-31 00:00:00.500", "2024-01-01 00:00:00",
     "23:59:59"),
    (7, 1, 1, 1, "1.005"[:4], "1.005000", 4, 1.0, "pa%d_\\", "a_b%", "pÿ", "new", b"Paid",
     "2000-02-01", "2000-02-01 01:02:03", "2000-02-01 01:02:03.040", "2000-02-01 01:02:03",
     "01:02:03"),
]  # fmt: skip

EXPRESSIONS = [
    line
    for line in r"""
-- arithmetic
small + 1
small - id
small * small
-small
small DIV 2
small % 2
MOD(7, small)
price + rate
price * 1.1
price * price
price - 3
-price
price % 0.7
price DIV 3
rate % 3
MOD(price, 0)
small DIV 0
(id + 2) * 3 - 4
id + 2 * 3
flag + 1
(small > 2) + 1
1.50
-2
17 DIV -5
-17 % 5
7 DIV 2 * 2
-- comparisons
small = 3
small <> 3
price > 2.5
price >= 2
price < -1.05
rate <= price
small <=> NULL
price <=> 2.50
small <=> 3
small IS NULL
small IS NOT NULL
small BETWEEN 0 AND 3
price NOT BETWEEN -3 AND 2.5
small IN (3, -7)
huge > big
price IN (2.5, 0)
small NOT IN (1, 2)
flag = 1
ratio > 0.1
ratio = 0.1
huge = 18446744073709551615
big = -9223372036854775808
NULL = 1
small = NULL
name = 'paid'
name = 'PAID  '
name <> 'paid'
name IN ('paid', 'x')
name = ''
name COLLATE utf8mb4_bin = 'PAID'
note = 'paid'
note = 'paid '
note = name COLLATE utf8mb4_bin
note > 'a'
name = 'É' COLLATE utf8mb4_bin
name COLLATE utf8mb4_bin > 'PAID'
CONCAT(name COLLATE utf8mb4_bin, note) = 'paidaB'
note < 'paid'
note <= 'aB'
note >= 'paid'
note <=> 'aB'
note = '日本語😀'
old = 'PAID'
old = 'py'
old = 'strasse'
state = 'PAID'
state IN ('', 'New')
state <> 'new'
day = '2024-02-29'
day > '2024-01-01'
day < '2024-12-31 00:00:01'
moment >= '2024-02-29'
moment = '2024-12-31'
precise > '2024-12-31 00:00:00.4'
precise = moment
day = moment
stamp > '2024-01-01 00:00:00'
moment BETWEEN '2000-01-01' AND '2024-12-31'
day IN ('2024-02-29', '9999-12-31')
name LIKE 'paid'
name LIKE '%x%'
name LIKE '_aid'
name LIKE 'pa\\%d%'
name NOT LIKE '%@b%'
note LIKE 'a%'
note LIKE '%B%'
note LIKE 'a\\_b%'
note LIKE '日%'
old LIKE 'p_'
name LIKE ''
-- conditions
small > 0 AND price > 0
small > 0 OR price > 0
NOT small > 0
small > 0 XOR price > 0
NOT (small > 0 AND NULL)
small AND price
small OR NULL
small > 0 IS TRUE
(small > 0) IS NOT FALSE
TRUE
FALSE OR small
!small
small = 1 = 0
CASE WHEN small > 0 THEN 'plus' WHEN small < 0 THEN 'minus' END
CASE small WHEN 3 THEN 1.5 ELSE 2 END
IF(price > 0, price, 0)
IFNULL(price, -1)
COALESCE(NULL, small, id)
NULLIF(small, 3)
IF(small, name, note)
COALESCE(name, 'none')
NULLIF(price, 2.5)
CASE name WHEN 'paid' THEN 1 ELSE 0 END
IFNULL(day, CAST('2000-01-01' AS DATE))
-- texts
LOWER(name)
UPPER(name)
LCASE(note)
UPPER(old)
LOWER(state)
UPPER(note)
CONCAT(name, '-', id)
CONCAT(price, rate, day, moment)
CONCAT_WS(',', name, NULL, note)
CONCAT(NULL, name)
CHAR_LENGTH(name)
LENGTH(name)
LENGTH(note)
CHAR_LENGTH(note)
LENGTH(raw)
CHAR_LENGTH(price)
LEFT(name, 3)
RIGHT(name, 3)
LEFT(name, -1)
RIGHT(name, 0)
LEFT(note, 2)
LEFT(moment, 7)
LEFT(name, small)
SUBSTRING(name, 2)
SUBSTR(name, -3)
SUBSTRING(name, 2, 3)
SUBSTRING(name, 0, 2)
SUBSTRING(name, -3, 2)
SUBSTRING(name, 99)
SUBSTRING(name, -99, 5)
SUBSTRING(name FROM 2 FOR 1)
SUBSTRING(name, small, small)
SUBSTRING_INDEX(name, '@', 1)
SUBSTRING_INDEX(name, '@', -1)
SUBSTRING_INDEX(name, ',', 2)
SUBSTRING_INDEX(name, ',', -2)
SUBSTRING_INDEX(name, ',', 0)
SUBSTRING_INDEX(note, 'x', 1)
SUBSTRING_INDEX(note, 'xx', -1)
TRIM(name)
LTRIM(name)
RTRIM(name)
TRIM(BOTH 'x' FROM note)
TRIM(LEADING 'xX' FROM note)
TRIM(TRAILING 'x' FROM note)
REPLACE(name, ',', ';')
REPLACE(note, 'x', '')
REPLACE(name, 'A', 'z')
REVERSE(name)
REVERSE(note)
LPAD(name, 5, 'xy')
RPAD(name, 12, 'xy')
LPAD(note, 2, '-')
RPAD(id, 4, '0')
LPAD(name, 0, 'x')
MD5(name)
SHA1(note)
SHA2(name, 256)
SHA2(note, 512)
SHA2(name, 0)
MD5(id)
HEX(name)
HEX(raw)
SHA2(raw, 256)
HEX(note)
-- numbers
ABS(small)
ABS(price)
SIGN(price)
SIGN(small)
CEILING(price)
FLOOR(price)
CEIL(rate)
FLOOR(small)
FLOOR(rate)
ROUND(price)
ROUND(price, 1)
ROUND(rate, 2)
ROUND(price, -1)
ROUND(small, -1)
ROUND(small, 1)
ROUND(rate, 4)
TRUNCATE(price, 1)
TRUNCATE(price, 0)
TRUNCATE(small, -1)
TRUNCATE(rate, 3)
TRUNCATE(price, -1)
-- conversions
CAST(small AS CHAR)
CAST(price AS CHAR)
CAST(name AS CHAR(2))
CAST(moment AS CHAR)
CAST(price AS SIGNED)
CAST(small AS UNSIGNED)
CAST(huge AS SIGNED)
CAST(price AS DECIMAL(5,1))
CAST(small AS DECIMAL(10,3))
CAST(rate AS DECIMAL(4,2))
CAST(moment AS DATE)
CAST(precise AS DATE)
CAST(small AS SIGNED)
CAST(moment AS DATETIME(3))
CAST(price AS DECIMAL)
-- dates
YEAR(day)
MONTH(day)
DAY(moment)
DAYOFMONTH(day)
QUARTER(day)
HOUR(moment)
MINUTE(precise)
SECOND(stamp)
DATE(moment)
YEAR(stamp)
DATE_FORMAT(moment, '%Y-%m')
DATE_FORMAT(precise, '%d.%c.%y %H:%i:%s %f')
DATE_FORMAT(day, '%e %k {x}')
DATE_FORMAT(moment, '%T')
YEAR(DATE(moment))
LEFT(DATE(moment), 4)
YEAR(day) * 100 + MONTH(day)
YEAR(day) = 2024
""".splitlines()
    if line and not line.startswith("--")
]


def make_table() -> Table:
    columns = tuple(
        Column(name, neutral_type(source_type), source_type)
        for name, source_type in COLUMNS.items()
    )
    return Table(TableId("shop", "odd"), columns, key=(0,))


def evaluate(table: Table, text: str, rows: list[tuple[Any, ...]]) -> tuple[Shape, list[Any]]:
    """The results of an expression as text, and their type; "error" for a row that fails."""
    generator = Generator()
    value = Compiler(table, generator).compile(parse_condition(text, "test"), text, "test")
    names = ", ".join(f"c{n}" for n in range(len(table.columns)))
    source = f"def run(row):\n    {names}, = row\n    return {value.code}\n"
    run = compile_function("run", source, {**RUNTIME, **generator.names})
    found: list[Any] = []
    for row in rows:
        try:
            result = run(row)
        except OutOfRange:
            result = "error"
        else:
            assert result is not None or value.nullable, text
        found.append(_as_text(result, value.shape))
    return value.shape, found


def _number(text: Any) -> Any:
    return text if text in (None, "error") else Decimal(text)


def _as_text(result: Any, shape: Shape) -> Any:
    if result is None or result == "error":
        return result
    if shape.kind == "number":
        return fixed_text(result, shape.scale)
    return str(int(result)) if shape.kind in ("bool", "bit") else result


@pytest.fixture(params=["mysql", "mariadb_11"])
def odd_rows(
    request: pytest.FixtureRequest, fresh_mysql_database: Fresh
) -> Iterator[Callable[[str], list[Any]]]:
    """A function that returns the server's results of an expression, as text."""
    server: AnyServer = request.getfixturevalue(request.param)
    connection = connect_mysql(server, fresh_mysql_database(server))
    cursor = connection.cursor()
    cursor.execute("SET SESSION sql_mode = '', SESSION time_zone = '+00:00'")
    columns = ", ".join(f"`{name}` {kind} NULL" for name, kind in COLUMNS.items())
    cursor.execute(f"CREATE TABLE odd ({columns})")
    marks = ", ".join(["%s"] * len(COLUMNS))
    cursor.executemany(f"INSERT INTO odd VALUES ({marks})", ROWS)
    connection.commit()

    def select(expression: str) -> list[Any]:
        query = f"SELECT CAST({expression} AS CHAR) FROM odd"
        try:
            cursor.execute(f"{query} ORDER BY id")
            return [value for (value,) in cursor.fetchall()]
        except DatabaseError as error:
            if "does not exist" in str(error) and expression.startswith(("MD5", "SHA1")):
                return None  # MySQL 9.6 has removed these functions
            return [one(f"{query} WHERE id = {id}") for id, *_ in ROWS]

    def one(query: str) -> Any:
        try:
            cursor.execute(query)
        except DatabaseError as error:
            if "out of range" not in str(error):
                raise
            return "error"
        return cursor.fetchall()[0][0]

    yield select
    connection.close()


def test_results_are_those_of_the_server(odd_rows: Callable[..., list[Any]]) -> None:
    """GIVEN odd values WHEN each expression is evaluated THEN the result is the server's."""
    table = make_table()
    wrong = {}
    for expression in EXPRESSIONS:
        try:
            shape, found = evaluate(table, expression, ROWS)
        except ConfigError as error:
            wrong[expression] = (str(error), "")
            continue
        expected = odd_rows(expression)
        if expected is None:
            continue
        if shape.kind == "number":
            found, expected = (list(map(_number, each)) for each in (found, expected))
        if found != expected:
            wrong[expression] = (found, expected)
    assert not wrong, "\n".join(f"{name}:\n  {a}\n  {b}" for name, (a, b) in wrong.items())

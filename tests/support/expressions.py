"""
The expressions that mappings support, and a table with odd values for them.

Each line of ``EXPRESSIONS`` is compared with the servers. A new operator or function needs a line:
``tests/mapping/test_expressions.py`` fails otherwise.
"""

from __future__ import annotations

from typing import Any

from engine.databases.mysql.types import neutral_type
from engine.schema import Column, Table, TableId

__all__ = ["COLUMNS", "EXPRESSIONS", "ROWS", "create_odd_table", "make_table"]

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
    "single": "float",
    "count": "int unsigned",
    "built": "year",
    "unicode": "varchar(40) character set utf8mb4 collate utf8mb4_unicode_ci",
    "positive": "decimal(5,2) unsigned",
}
ROWS: list[tuple[Any, ...]] = [
    (1, *[None] * (len(COLUMNS) - 1)),
    (2, 0, 0, 0, "0.00", "0.000000", 0, 0.0, "", "", "", "new", b"", "0000-00-00",
     "0000-00-00 00:00:00", "0000-00-00 00:00:00.000", "2001-01-01 00:00:00", "00:00:00",
     0.0, 0, 0, "", "0.00"),
    (3, -7, -9223372036854775808, 18446744073709551615, "-12.50", "-0.500000", 7, -1.5,
     "Éa@b.Example.COM ", "aB\t", "Ärger", "Paid", b"\xff\x00", "2024-02-29",
     "2024-02-29 23:59:59", "2024-02-29 23:59:59.999", "2038-01-19 03:14:07", "-838:59:59",
     -1.5, 4294967295, 2155, "Éa@B ", "999.99"),
    (4, 127, 9223372036854775807, 9223372036854775808, "99999999.99", "12345678901234.567890",
     1, 1e300, "PAID", "paid ", "paid", "Paid", b"abc", "2024-00-00", "2024-01-00 12:00:00",
     "1999-12-31 00:00:00.001", "1970-01-01 00:00:01", "12:34:56",
     0.10000000149011612, 1, 1901, "PAID ", "0.01"),
    (5, 3, 5, 2, "2.50", "2.500000", 2, 0.1, "straße ﬀ İI", "日本語😀", "straße", "new", b" ",
     "9999-12-31", "9999-12-31 23:59:59", "9999-12-31 23:59:59.000", "2024-06-30 12:00:00",
     "00:00:01",
     3.3999999521443642e38, 3, 2024, "straße ﬀ İI", "2.50"),
    (6, -3, -5, 3, "-2.55", "0.000001", 5, 100.0, "  x,y,,z  ", "xXxx", " x ", "", b"x",
     "2024-12-31", "2024-12-31 00:00:00", "2024-12-31 00:00:00.500", "2024-01-01 00:00:00",
     "23:59:59",
     100.0, 10, 1999, "x y", "2.55"),
    (7, 1, 1, 1, "1.005"[:4], "1.005000", 4, 1.0, "pa%d_\\", "a_b%", "pÿ", "new", b"Paid",
     "2000-02-01", "2000-02-01 01:02:03", "2000-02-01 01:02:03.040", "2000-02-01 01:02:03",
     "01:02:03",
     1.0, 7, 2000, "pa%d_", "1.00"),
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
count - 1
count - small
count + 1
count * -1
huge + 1
huge - 1
huge * 2
huge DIV 2
huge % 3
huge % -3
big + 1
big - 1
big * 2
big DIV -1
big DIV small
big % small
-big
-huge
-count
built + 1
positive - 3
positive * positive
positive DIV 2
price % positive
flag DIV 2
flag % 2
NULL + 1
small + NULL
small + TRUE
18446744073709551615 - 1
0.1 + 0.2
-- comparisons
single = 0.1
single > 0.1
single < 1.5
single <> 100
single >= 3
ratio <> 1
ratio <= -1.5
ratio > 1
ratio <=> NULL
ratio IS NULL
single IS NOT NULL
count = 4294967295
count > -1
huge >= 0
huge > -1
huge <> big
huge <=> big
built = 2024
built BETWEEN 1950 AND 2030
built > price
positive >= price
positive = count
positive <> 2.5
small <= 1
small < price
small >= big
TRUE = small
small = TRUE
price <=> rate
price < 18446744073709551615
unicode = 'paid'
unicode = 'strasse ff ii'
unicode <> 'EA@B'
unicode IN ('x y', 'PAID')
unicode LIKE 'p%'
unicode LIKE '_A%'
unicode <=> 'paid'
unicode <=> NULL
name <=> note COLLATE utf8mb4_bin
name NOT IN ('paid', '')
note IN ('paid', 'aB', '日本語😀')
note BETWEEN 'a' AND 'x'
note NOT BETWEEN 'a' AND 'x'
note <> 'paid'
note <= name COLLATE utf8mb4_bin
old <> 'paid'
old IN ('PAID', 'x')
old LIKE '%P%'
old <=> 'x'
state = ''
state IS NULL
state LIKE 'p%'
day IS NULL
day IS NOT NULL
day <=> '2024-02-29'
day <> '2024-02-29'
day <= '2024-02-29'
day >= moment
day NOT IN ('2024-02-29')
day < precise
moment <> '2024-12-31 00:00:00'
moment IN ('2024-12-31', '2000-02-01 01:02:03')
moment <=> precise
precise BETWEEN '2000-01-01' AND '2024-12-31 00:00:00.500'
precise <= '1999-12-31 00:00:00.001'
stamp = '2038-01-19 03:14:07'
stamp BETWEEN '2000-01-01' AND '2024-06-30 12:00:00'
stamp IS NOT NULL
zoned IS NULL
raw IS NULL
flag IN (1, 7)
flag <=> 5
flag BETWEEN 2 AND 5
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
NULL AND small
NULL OR small
small XOR NULL
NOT NULL
NOT price
(small > 0) = (price > 0)
(small > 0) <> TRUE
price IS TRUE
price IS FALSE
small IS NOT TRUE
(price > 0) IS FALSE
CASE WHEN NULL THEN 1 ELSE 0 END
CASE WHEN price THEN 'x' END
CASE price WHEN 2.5 THEN small WHEN NULL THEN 1 ELSE price END
CASE day WHEN '2024-02-29' THEN 1 END
CASE WHEN small > 0 THEN NULL ELSE small END
IF(NULL, 1, 2)
IF(name = 'paid', 1.50, 2)
IF(day IS NULL, NULL, day)
IFNULL(small, huge)
IFNULL(price, small)
COALESCE(NULL, NULL)
COALESCE(price, rate, 1)
COALESCE(moment, stamp)
NULLIF(name, 'paid')
NULLIF(1, small)
NULLIF(day, '2024-02-29')
NULLIF(small, NULL)
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
LOWER(unicode)
UPPER(unicode)
UPPER(name COLLATE utf8mb4_bin)
CONCAT(name)
CONCAT(zoned, ' ', state)
CONCAT(built, count, flag IS NULL, small > 0)
CONCAT(big, huge)
CONCAT_WS('', name, note)
CONCAT_WS(note, name, id, NULL, price)
CHAR_LENGTH(unicode)
CHAR_LENGTH(state)
LENGTH(unicode)
LENGTH(price)
LEFT(price, 3)
RIGHT(note, 99)
RIGHT(name, -1)
LEFT(unicode, 99)
SUBSTRING(note, 1, 0)
SUBSTRING(price, 1, 2)
SUBSTRING(name, NULL)
SUBSTRING_INDEX(name, 'zz', 1)
SUBSTRING_INDEX(name, ',', -9)
TRIM('x' FROM note)
TRIM(unicode)
LTRIM(note)
RTRIM(old)
REPLACE(unicode, 's', '')
REPLACE(name, 'x', note)
REVERSE(old)
LPAD(unicode, 8, '日')
RPAD(name, 0, 'x')
LPAD(NULL, 3, 'x')
MD5(note)
SHA1(name)
SHA(raw)
SHA2(raw, 224)
SHA2(note, 384)
SHA2(name, 1)
HEX(unicode)
HEX(CONCAT(name, note))
CONCAT(NULLIF(price, 0))
CONCAT(CAST(IF(small > 0, price, 1) AS DECIMAL(12,2)), ' ', CAST(IFNULL(built, 1) AS SIGNED))
CONCAT(IF(small > 0, small, big), COALESCE(price, 1.50), IF(small > 0, TRUE, 2))
CONCAT(ABS(built), '/', FLOOR(built), '/', ROUND(built), '/', built + 0, '/', -built)
CONCAT(CAST(built AS SIGNED), '/', CAST(built AS CHAR), '/', CAST(built AS DECIMAL(6,1)))
LEFT(built, 2)
LENGTH(built)
CONCAT(IF(small > 0, small > 0, 5))
CONCAT(IF(small > 0, TRUE, 5))
CONCAT(COALESCE(small > 0, 2), IFNULL(small > 0, 3), NULLIF(small > 0, 0))
CONCAT(CAST(small > 0 AS SIGNED), CAST(small > 0 AS CHAR), CAST(small > 0 AS DECIMAL(3,1)))
CONCAT(ROUND(small > 0), FLOOR(small > 0), ABS(small > 0), (small > 0) * 2, -(small > 0))
CONCAT(flag + 0, TRUE, FALSE, 1.50, -0.0, 007)
CONCAT(ROUND(price, 1), '/', TRUNCATE(rate, 3), '/', price * 2.0, '/', price % 2, '/', price DIV 2)
CONCAT(CEILING(price), '/', FLOOR(rate), '/', SIGN(price), '/', ABS(price), '/', -price)
CONCAT(ROUND(price, -1), '/', TRUNCATE(price, -1), '/', ROUND(small, 1))
CONCAT(CAST(price AS DECIMAL(12,4)), '/', MOD(price, 7), '/', rate - 1)
CONCAT(YEAR(day), MONTH(day), DAY(day), QUARTER(day), HOUR(moment))
-- numbers
ABS(big)
ABS(huge)
ABS(rate)
ABS(count - 5)
SIGN(big)
SIGN(huge)
SIGN(rate)
CEILING(small)
CEILING(positive)
FLOOR(huge)
CEILING(rate)
ROUND(big, -2)
ROUND(huge, -2)
ROUND(positive)
ROUND(price, -3)
ROUND(rate)
ROUND(-2.5)
TRUNCATE(big, -2)
TRUNCATE(huge, -3)
TRUNCATE(positive, 1)
MOD(big, 7)
MOD(price, 0.3)
MOD(rate, price)
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
CAST(huge AS CHAR)
CAST(NULL AS CHAR)
CAST(NULL AS SIGNED)
CAST(day AS CHAR)
CAST(name AS CHAR)
CAST(unicode AS CHAR(0))
CAST(zoned AS CHAR)
CAST(big AS UNSIGNED)
CAST(count AS SIGNED)
CAST(count AS UNSIGNED)
CAST(positive AS SIGNED)
CAST(rate AS SIGNED)
CAST(huge AS DECIMAL(20,0))
CAST(big AS DECIMAL(5,2))
CAST(positive AS DECIMAL(3,1))
CAST(price AS DECIMAL(12,4))
CAST(day AS DATE)
CAST(day AS DATETIME)
CAST(day AS DATETIME(6))
CAST(precise AS DATETIME(3))
CAST('2024-02-29 12:00:00' AS DATE)
CAST(flag AS SIGNED)
CAST(small > 0 AS SIGNED)
-- dates
YEAR(precise)
MONTH(moment)
MONTH(stamp)
DAY(day)
DAY(precise)
DAYOFMONTH(moment)
QUARTER(moment)
QUARTER(stamp)
HOUR(precise)
HOUR(stamp)
MINUTE(moment)
SECOND(precise)
DATE(day)
DATE(precise)
DATE(stamp)
DATE_FORMAT(stamp, '%y%m%d %k:%s')
DATE_FORMAT(precise, '%Y %y %m %c %d %e %H %k %i %s %f %T')
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


def make_table(id: TableId, *, nullable: bool = True) -> Table:
    """The table as a backfill or the stream knows it."""
    columns = tuple(
        Column(name, neutral_type(source_type), source_type, nullable=nullable)
        for name, source_type in COLUMNS.items()
    )
    return Table(id, columns, key=(0,))


def create_odd_table(cursor: Any, name: str, *, nullable: bool = True) -> None:
    """Create the table on a server, and fill it with ``ROWS``: without the first one, whose values
    are NULL, unless it is ``nullable``.
    """
    null = "NULL" if nullable else "NOT NULL"
    columns = ", ".join(
        f"`{column}` {kind} {'PRIMARY KEY' if column == 'id' else null}"
        for column, kind in COLUMNS.items()
    )
    cursor.execute(f"CREATE TABLE {name} ({columns})")
    marks = ", ".join(["%s"] * len(COLUMNS))
    cursor.executemany(f"INSERT INTO {name} VALUES ({marks})", ROWS[not nullable :])

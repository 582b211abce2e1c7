"""
The expressions that mappings support, and a table with odd values for them.

Each line of ``tests/fixtures/expressions.txt`` is compared with the servers. A new operator or
function needs a line: ``tests/mapping/test_expressions.py`` fails otherwise.
"""

from __future__ import annotations

from pathlib import Path
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

#: What is compared with the servers, each expression by itself.
EXPRESSIONS = [
    line
    for line in (Path(__file__).parents[1] / "fixtures" / "expressions.txt")
    .read_text()
    .splitlines()
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

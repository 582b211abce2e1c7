"""
The workloads: the tables that are measured, and the transactions that fill or change them.

All rows come from seeded generators, so a workload of one size has the same bytes on every machine.
Each table also has a text form of its rows in MySQL's SQL and in PostgreSQL's, so that plain SQL
can compute the same checksum on both sides.

A change to what a workload writes needs a new ``REVISION`` in ``benchmarks/harness/source.py``,
because a cached log's name tells only the workload's kind and sizes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "DATABASE",
    "IDLE",
    "ORDERS",
    "SBTEST",
    "TableSpec",
    "Workload",
    "all_workloads",
    "wide_table",
]

DATABASE = "tailrace_bench"
#: The prefix of the names of idle tables.
IDLE = "idle"
SEED = 20_240_229

Kind = Literal["insert", "update", "delete"]
#: A row as MySQL's SQL literals. A file for LOAD DATA or COPY holds them without quotes.
Literals = tuple[str, ...]


@dataclass(frozen=True)
class TableSpec:
    """A table: its definition in MySQL, its rows, and the columns of a row's text on both sides.

    ``rows(count)`` generates rows. ``mysql_text`` and ``postgres_text`` are lists of SQL
    expressions, one for each column, that give equal texts on both sides. The checksums are
    computed from these texts. ``select`` is that of the engine's mapping of the table; if it is
    empty there is none.
    """

    name: str
    definition: str
    rows: Callable[[int], Iterator[Literals]]
    mysql_text: str
    postgres_text: str
    select: str = ""


@dataclass(frozen=True)
class Workload:
    """``changes`` row changes of ``kind`` on a table that holds ``preloaded`` rows before.

    Each transaction has ``per_transaction`` changes. The database has ``idle_tables`` more tables
    with the same columns, which stay empty.
    """

    name: str
    table: TableSpec
    kind: Kind
    changes: int
    per_transaction: int
    preloaded: int = 0
    idle_tables: int = 0

    def shape(self) -> dict[str, str | int]:
        """Its description in the results."""
        return {
            "table": self.table.name,
            "columns": len(next(self.table.rows(1))),
            "kind": self.kind,
            "rows_per_transaction": self.per_transaction,
            "preloaded_rows": self.preloaded,
            "idle_tables": self.idle_tables,
        }

    def preload(self) -> Iterator[Literals]:
        """The rows that the table holds before the workload."""
        return self.table.rows(self.preloaded)

    def transactions(self) -> Iterator[str]:
        """The SQL text of each transaction: one or more statements."""
        if self.kind == "insert":
            return self._inserts()
        return self._single_changes()

    def touched(self) -> list[int]:
        """The keys of the updated or deleted rows in the order of the changes, each key once."""
        return random.Random(SEED).sample(range(1, self.preloaded + 1), self.changes)

    def _inserts(self) -> Iterator[str]:
        head = f"INSERT INTO {self.table.name} VALUES "
        values: list[str] = []
        for row in self.table.rows(self.changes):
            values.append(f"({','.join(row)})")
            if len(values) == self.per_transaction:
                yield head + ",".join(values)
                values = []
        if values:
            yield head + ",".join(values)

    def _single_changes(self) -> Iterator[str]:
        change = self._update if self.kind == "update" else self._delete
        draw = random.Random(SEED + 1)
        statements: list[str] = []
        for key in self.touched():
            statements.append(change(key, draw))
            if len(statements) == self.per_transaction:
                yield _transaction(statements)
                statements = []
        if statements:
            yield _transaction(statements)

    def _update(self, key: int, draw: random.Random) -> str:
        k, c = draw.randrange(1, self.preloaded + 1), _digits(draw, 10)
        return f"UPDATE {self.table.name} SET k={k},c='{c}' WHERE id={key}"

    def _delete(self, key: int, draw: random.Random) -> str:
        return f"DELETE FROM {self.table.name} WHERE id={key}"


def _transaction(statements: list[str]) -> str:
    return ";".join(("BEGIN", *statements, "COMMIT"))


def all_workloads(rows: int) -> dict[str, Workload]:
    """The workloads by name; their sizes follow from ``rows``, the rows of sysbench's table."""
    found = (
        Workload("insert", SBTEST, "insert", rows, 1_000),
        Workload("update", SBTEST, "update", rows * 3 // 10, 100, preloaded=rows),
        Workload("single", SBTEST, "insert", rows // 5, 1),
        Workload("delete", SBTEST, "delete", rows // 10, 100, preloaded=rows),
        Workload("orders", ORDERS, "insert", rows // 5, 1_000),
    )
    return {workload.name: workload for workload in found}


# -- sysbench's table ------------------------------------------------------------------------------


def _digits(draw: random.Random, groups: int) -> str:
    """Sysbench's filler text: groups of eleven digits, joined by hyphens."""
    number = draw.getrandbits(37 * groups)
    mask = (1 << 37) - 1
    return "-".join(
        f"{(number >> 37 * group & mask) % 100_000_000_000:011}" for group in range(groups)
    )


def _sbtest_rows(count: int) -> Iterator[Literals]:
    draw = random.Random(SEED)
    for id in range(1, count + 1):
        k = draw.randrange(1, count + 1)
        yield str(id), str(k), f"'{_digits(draw, 10)}'", f"'{_digits(draw, 5)}'"


SBTEST = TableSpec(
    "sbtest",
    "id int NOT NULL AUTO_INCREMENT, k int NOT NULL DEFAULT 0, c char(120) NOT NULL DEFAULT '',"
    " pad char(60) NOT NULL DEFAULT '', PRIMARY KEY (id), KEY k (k)",
    _sbtest_rows,
    "id, k, c, pad",
    "id, k, rtrim(c), rtrim(pad)",
)

# -- a table of many types, with values that are hard to convert -----------------------------------

_WORDS = (
    *("copper", "lantern", "river", "walnut", "gravel", "orchid", "signal", "meadow"),
    *("anchor", "velvet", "harbour", "cobalt", "saffron", "thimble", "glacier", "ember"),
)
_EMOJI = ("🙂", "🚚", "日本", "ñandú", "Ærø", "✓", "plain")
_CITIES = ("Köln", "Málaga", "Århus", "Zürich", "Orléans")
_STATES = ("new", "paid", "sent", "returned")
_FLAGS = ("gift", "fragile", "express", "insured")


def _orders_rows(count: int) -> Iterator[Literals]:
    draw = random.Random(SEED + 2)
    for id in range(1, count + 1):
        yield _order(id, draw)


def _order(id: int, draw: random.Random) -> Literals:
    number = draw.randrange

    def word() -> str:
        return draw.choice(_WORDS)

    def some(literal: str) -> str:
        return "NULL" if draw.random() < 0.1 else literal

    def day(first: int, last: int) -> str:
        return f"{number(first, last):04}-{number(1, 13):02}-{number(1, 29):02}"

    def clock(hours: int, digits: int) -> str:
        fraction = f".{number(10**digits):0{digits}}" if digits else ""
        return f"{number(hours):02}:{number(60):02}:{number(60):02}{fraction}"

    words = " ".join(draw.choices(_WORDS, k=number(3, 16)))
    tags = f'["{word()}", "{word()}", null]'
    return (
        str(id),
        str(number(1 << 32)),
        some(str(number(1 << 24))),
        some(str((1 << 64) - 1 - number(1 << 40))),
        f"{number(-(10**9), 10**12) / 100:.2f}",
        some(f"{number(10**12)}.{number(10**8):08}"),
        f"'{day(1970, 2100)} {clock(24, 6)}'",
        f"'{day(1971, 2037)} {clock(24, 0)}'",
        some(f"'{day(1000, 9999)}'"),
        some(f"'{draw.choice(('', '-'))}{clock(838, 3)}'"),
        some(f"'{word()} {draw.choice(_EMOJI)} {word()}'"),
        some(f"'{draw.choice(_CITIES)}'"),
        some(rf"'{words}\t{word()}\n\\N {word()} {words}'"),
        f"'{draw.choice(_STATES)}'",
        some(f"'{','.join(flag for flag in _FLAGS if draw.random() < 0.3)}'"),
        some(f'\'{{"sku": {number(1 << 63)}, "price": 1.5e10, "tags": {tags}}}\''),
        str(number(3)),
        some(f"{number(1 << 14) / 4}"),
        some(f"{number(10**9) / 1000}"),
        some(f"b'{number(256):08b}'"),
        some(f"x'{number(1 << 64):016x}0000'"),
        f"'{chr(65 + number(26))}{chr(65 + number(26))}'",
        str(number(1901, 2156)),
        str(number(-(1 << 15), 1 << 15)),
        f"'{number(1 << 64):016x}'",
    )


def _each(columns: str, template: str) -> list[str]:
    return [template.format(column) for column in columns.split()]


_ORDERS_MYSQL = (
    _each("id customer warehouse external_id total rate", "IFNULL(CAST({0} AS CHAR), '~')")
    + _each("created updated due", "IFNULL(CAST({0} AS CHAR), '~')")
    + _each("duration", "IFNULL(CAST(CAST({0} AS DECIMAL(20,3)) AS CHAR), '~')")
    + _each("name city note status flags doc", "IFNULL(CAST({0} AS CHAR), '~')")
    + _each("level weight score", "IFNULL(CAST({0} AS CHAR), '~')")
    + _each("bits", "IFNULL({0} + 0, '~')")
    + _each("token", "IFNULL(LOWER(HEX({0})), '~')")
    + _each("country season quantity reference", "{0}")
)
_ORDERS_POSTGRES = (
    _each("id customer warehouse external_id total rate", "coalesce({0}::text, '~')")
    + _each("created", "to_char({0}, 'YYYY-MM-DD HH24:MI:SS.US')")
    + _each("updated", "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')")
    + _each("due", "coalesce(to_char({0}, 'YYYY-MM-DD'), '~')")
    + _each(
        "duration",
        "coalesce((extract(hour FROM {0}) * 10000 + extract(minute FROM {0}) * 100"
        " + extract(second FROM {0}))::numeric(20,3)::text, '~')",
    )
    + _each("name city note status flags doc", "coalesce({0}::text, '~')")
    + _each("level weight score", "coalesce({0}::text, '~')")
    + _each("bits", "coalesce({0}::int::text, '~')")
    + _each("token", "coalesce(encode({0}, 'hex'), '~')")
    + _each("country season quantity reference", "{0}")
)

ORDERS = TableSpec(
    "orders",
    "id bigint unsigned NOT NULL PRIMARY KEY, customer int unsigned NOT NULL,"
    " warehouse mediumint unsigned, external_id bigint unsigned, total decimal(12,2) NOT NULL,"
    " rate decimal(20,8), created datetime(6) NOT NULL, updated timestamp NOT NULL, due date,"
    " duration time(3), name varchar(100) CHARACTER SET utf8mb4,"
    " city varchar(60) CHARACTER SET latin1, note text CHARACTER SET utf8mb4,"
    " status enum('new','paid','sent','returned') NOT NULL,"
    " flags set('gift','fragile','express','insured'), doc json, level tinyint(1) NOT NULL,"
    " weight float, score double, bits bit(8), token varbinary(16), country char(2) NOT NULL,"
    " season year NOT NULL, quantity smallint NOT NULL, reference varchar(40) NOT NULL",
    _orders_rows,
    ", ".join(_ORDERS_MYSQL),
    ", ".join(_ORDERS_POSTGRES),
)

# -- a table of any width --------------------------------------------------------------------------


def wide_table(columns: int) -> TableSpec:
    """A table with ``columns`` columns besides its key: integers and short texts alternate."""
    names = [f"c{n}" for n in range(columns)]
    types = [f"{name} {_wide_type(n)} NOT NULL" for n, name in enumerate(names)]

    def rows(count: int) -> Iterator[Literals]:
        draw = random.Random(SEED + 3)
        for id in range(1, count + 1):
            yield (str(id), *(_wide_value(n, draw) for n in range(columns)))

    text = ", ".join(["id", *names])
    definition = ", ".join(["id int NOT NULL PRIMARY KEY", *types])
    return TableSpec(f"wide{columns}", definition, rows, text, text)


def _wide_type(ordinal: int) -> str:
    return "varchar(20)" if ordinal % 2 else "int"


def _wide_value(ordinal: int, draw: random.Random) -> str:
    number = draw.getrandbits(30)
    return f"'{number:012}'" if ordinal % 2 else str(number)

"""
A comparison finds the smallest faults in every form of table while both sides change, and nothing
else. The tests write the target by hand, so the faults are known.
"""

# ruff: noqa: E501  (a fault is a line)

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from engine.schema import Table
from engine.verify.report import Difference, TableReport
from tests.support.servers import AnyServer
from tests.support.sides import Mirror, Sides


class Fault(NamedTuple):
    """A column: its type, its value as SQL of each database, and a wrong one for the target."""

    type: str
    source: str
    target: str
    wrong: str


FAULTS = {
    "microsecond": Fault("DATETIME(6)", "'2024-02-29 23:59:59.999998'", "'2024-02-29 23:59:59.999998'", "'2024-02-29 23:59:59.999999'"),
    "stamp": Fault("TIMESTAMP(6) NULL", "'2024-03-31 01:30:00.000010'", "'2024-03-31 01:30:00.00001+00'", "'2024-03-31 01:30:00.00001+01'"),
    "second": Fault("TIME", "'-838:59:58'", "'-838:59:58'", "'-838:59:59'"),
    "day": Fault("DATE", "'0000-00-00'", "NULL", "'0001-01-01'"),
    "space": Fault("VARCHAR(20)", "'trailing'", "'trailing'", "'trailing '"),
    "zero": Fault("DOUBLE", "0e0", "'0'", "'-0'"),
    "minus_zero": Fault("DOUBLE", "-0e0", "'-0'", "'0'"),
    "last_bit": Fault("DOUBLE", "0.1e0 + 0.2e0", "0.30000000000000004", "0.3"),
    "last_bit_of_4": Fault("FLOAT", "0.1", "'0.1'", "'0.10000001'"),
    "charset": Fault("VARCHAR(9) CHARACTER SET latin1", "'naïve€'", "'naïve€'", "'naÏve€'"),
    "empty": Fault("VARCHAR(9)", "''", "''", "NULL"),
    "nothing": Fault("TEXT", "NULL", "NULL", "'NULL'"),
    "no_bytes": Fault("VARBINARY(9)", "NULL", "NULL", "''"),
    "byte": Fault("BLOB", "x'00ff27'", r"'\x00ff27'", r"'\x00ff26'"),
    "digit": Fault("DECIMAL(38,10)", "'1234567890123456789012345678.0000000001'", "1234567890123456789012345678.0000000001", "1234567890123456789012345678.0000000002"),
    "letter": Fault("ENUM('Open','open') CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "'open'", "'open'", "'Open'"),
    "bit": Fault("BIT(12)", "b'100000000001'", "B'100000000001'", "B'100000000000'"),
    "number": Fault("BIGINT UNSIGNED", "18446744073709551615", "18446744073709551615", "18446744073709551614"),
    "document": Fault("JSON", """'{"a": [1, "x"]}'""", """'{"a": [1, "x"]}'""", """'{"a": [1, "X"]}'"""),
}  # fmt: skip
#: Values whose fields would be the same if they were only joined by commas.
LEFT, RIGHT = Fault("VARCHAR(9)", "'a'", "'a'", "'a,b'"), Fault("VARCHAR(9)", "'b,'", "'b,'", "''")
#: The keys of ordinary rows, which change all the time.
ROWS = range(1000, 1300)
KEYS = {
    "keyed": "INT PRIMARY KEY",
    "keyless": "INT NOT NULL",
    "by_text": "VARCHAR(20) PRIMARY KEY",
}
MISSING, EXTRA, SWAPPED, JOINED = 500, 501, 502, 503
#: A row that stands still among rows that change.
QUIET = ROWS[149]


def faults_on(sides: Sides) -> dict[str, Fault]:
    """The faults that the source can have: MariaDB 10.11 stores no -0."""
    with sides.source.cursor() as cursor:
        cursor.execute("SELECT CONCAT(-0e0)")
        signed = cursor.fetchall() == (("-0",),)
    return {name: it for name, it in FAULTS.items() if signed or name != "minus_zero"}


def make(sides: Sides, name: str, faults: dict[str, Fault]) -> Table:
    """Create and fill both tables, with one fault in each row below 1000."""
    types = {**{name: it.type for name, it in faults.items()}, "l": "VARCHAR(9)", "r": "VARCHAR(9)"}
    columns = ", ".join(f"`{name}` {type}" for name, type in types.items())
    table = sides.make(name, f"id {KEYS[name]}, {columns}, v INT, w INT")
    ids = [*range(len(faults)), MISSING, SWAPPED, JOINED, *ROWS]
    for run, place in ((sides.on_source, 1), (sides.on_target, 2)):
        values = ", ".join(it[place] for it in (*faults.values(), LEFT, RIGHT))
        run(f"INSERT INTO {name} VALUES {', '.join(f'({id}, {values}, {id}, 0)' for id in ids)}")
    for n, (column, fault) in enumerate(faults.items()):
        sides.on_target(f"UPDATE {name} SET {column} = {fault.wrong} WHERE id = '{n}'")
    sides.on_target(
        f"DELETE FROM {name} WHERE id = '{MISSING}'",
        f"INSERT INTO {name} (id) VALUES ({EXTRA})",
        f"UPDATE {name} SET v = w, w = v WHERE id = '{SWAPPED}'",
        f"UPDATE {name} SET l = {LEFT.wrong}, r = {RIGHT.wrong} WHERE id = '{JOINED}'",
        f"UPDATE {name} SET w = 1 WHERE id = '{QUIET}'",
    )
    return table


def change(number: int) -> str:
    """The statement with this number: it changes one ordinary row of a table."""
    table, id = list(KEYS)[number % 3], ROWS[number * 7 % 149]
    return [
        f"UPDATE {table} SET v = {number} WHERE id = '{id}'",
        f"DELETE FROM {table} WHERE id = '{id + 150}'",
        f"INSERT INTO {table} (id, v) VALUES ({10_000 + number}, 1)",
    ][number // 3 % 3]


def expected(faults: dict[str, Fault]) -> set[Difference]:
    return {
        *(Difference("changed", (str(n),), (name,)) for n, name in enumerate(faults)),
        Difference("changed", (str(SWAPPED),), ("v", "w")),
        Difference("changed", (str(JOINED),), ("l", "r")),
        Difference("changed", (str(QUIET),), ("w",)),
        Difference("missing", (str(MISSING),)),
        Difference("extra", (str(EXTRA),)),
    }


def check(report: TableReport, name: str, wrong: set[Difference]) -> None:
    assert (report.hot, report.inconclusive) == (0, "")
    if name == "keyless":
        assert (report.missing, report.extra) == (len(wrong) - 1, len(wrong) - 1)
        return
    assert set(report.differences) == wrong
    assert (report.missing, report.extra, report.differing) == (1, 1, len(wrong) - 2)


@pytest.fixture
def sides(mysql_family: AnyServer, new_sides: Callable[..., Sides]) -> Sides:
    return new_sides(mysql_family)


def test_every_planted_fault_is_found_and_nothing_else(sides: Sides) -> None:
    faults = faults_on(sides)
    tables = [make(sides, name, faults) for name in KEYS]
    with Mirror(sides, change) as mirror:
        reports = sides.compare_all(tables, passed=mirror.passed, chunk_rows=20).tables
        assert mirror.done > 0
    for report, name in zip(reports, KEYS, strict=True):
        check(report, name, expected(faults))
        assert report.method == "checksums"
        assert report.read < report.rows / 2


class Extra(NamedTuple):
    """The type of a key, a key as SQL of each database, and one that the source cannot have."""

    type: str
    source: str
    target: str
    extra: str


#: Keys that the target can have and the source cannot, or has only by its collation.
EXTRAS = [
    Extra("DATE", "'2024-01-01'", "'2024-01-01'", "'12024-01-01'"),
    Extra("DATE", "'2024-01-01'", "'2024-01-01'", "'infinity'"),
    Extra("DATETIME(3)", "'2024-01-01'", "'2024-01-01'", "'0044-01-01 BC'"),
    Extra("DATETIME(3)", "'2024-01-01'", "'2024-01-01'", "'-infinity'"),
    Extra("TIMESTAMP", "'2024-01-01'", "'2024-01-01'", "'12024-01-01'"),
    Extra("TIMESTAMP", "'2024-01-01'", "'2024-01-01'", "'0044-01-01 BC'"),
    Extra("TIMESTAMP", "'2024-01-01'", "'2024-01-01'", "'1500-01-01'"),
    Extra("TIME", "'10:00:00'", "'10:00:00'", "'999:00:00'"),
    Extra("DECIMAL(9,2)", "1.5", "1.5", "'NaN'"),
    Extra("DOUBLE", "1.5", "1.5", "'NaN'"),
    Extra("DOUBLE", "1.5", "1.5", "'-Infinity'"),
    Extra("FLOAT", "1.5", "1.5", "'3e-45'"),
    Extra("TINYINT", "1", "1", "300"),
    Extra("YEAR", "1999", "1999", "99"),
    Extra("BIT(4)", "b'0001'", "B'0001'", "B'1111'"),
    Extra("ENUM('a','b')", "'a'", "'a'", "'A'"),
    Extra("SET('a','b')", "'a,b'", "'a,b'", "'b,a'"),
    Extra("VARCHAR(9) CHARACTER SET latin1", "'x'", "'x'", "'ж'"),
    Extra("VARCHAR(9) CHARACTER SET ascii", "'x'", "'x'", "'é'"),
    Extra("VARCHAR(9) CHARACTER SET utf8", "'x'", "'x'", "'\U0001f600'"),
    Extra("VARCHAR(9)", "'x'", "'x'", "'x '"),
    Extra("VARBINARY(4)", "'x'", "'x'", r"'\x7800'"),
]


def test_a_row_with_a_key_that_the_source_cannot_have_is_extra(sides: Sides) -> None:
    tables = []
    for n, it in enumerate(EXTRAS):
        tables.append(sides.make(f"k{n}", f"k {it.type} NOT NULL PRIMARY KEY, v INT"))
        sides.on_source(f"INSERT INTO k{n} VALUES ({it.source}, 1)")
        sides.on_target(f"INSERT INTO k{n} VALUES ({it.target}, 1), ({it.extra}, 1)")
    variants: list[dict[str, Any]] = [{}, {"by_rows": True}, {"chunk_rows": 1}]
    for options in variants:
        reports = sides.compare_all(tables, **options).tables
        for it, report in zip(EXTRAS, reports, strict=True):
            found = (report.differing, report.missing, report.extra, report.inconclusive)
            assert found == (0, 0, 1, ""), (it, options, report.reason)


@pytest.mark.parametrize("key", ["INT PRIMARY KEY", "VARCHAR(9) PRIMARY KEY"])
def test_a_second_row_of_a_key_is_extra(sides: Sides, key: str) -> None:
    table = sides.make("t", f"id {key}, v INT")
    for run in (sides.on_source, sides.on_target):
        run("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
    sides.on_target("ALTER TABLE t DROP CONSTRAINT t_pkey", "INSERT INTO t VALUES (2, 2)")
    variants: list[dict[str, Any]] = [{}, {"by_rows": True}, {"chunk_rows": 1}]
    for change in ("SELECT 1", "UPDATE t SET v = 9 WHERE ctid = (SELECT max(ctid) FROM t)"):
        sides.on_target(change)
        for options in variants:
            report = sides.compare(table, **options)
            assert report.differences == (Difference("extra", ("2",)),), (change, options)
            assert (report.extra, report.equal, report.inconclusive) == (1, False, "")


def test_documents_are_compared_by_their_meaning(sides: Sides) -> None:
    table = sides.make("t", "id INT PRIMARY KEY, v JSON")
    document = """'{"b": 1, "a": {"c": 10}}'"""
    others = [
        """'{"a":{"c":1e1},"b":1.0}'""",
        """'{"b":1,"a":2,"a":{"c":10}}'""",
        r"""'{"b":1,"a":{"c":{"\u0000number":"1e1"}}}'""",
    ]
    sides.on_source(f"INSERT INTO t VALUES (0, {document}), (1, {document}), (2, {document})")
    sides.on_target(*(f"INSERT INTO t VALUES ({n}, {it})" for n, it in enumerate(others)))
    for by_rows in (False, True):
        report = sides.compare(table, by_rows=by_rows)
        # A document of MariaDB is a text.
        keys = ("1", "2") if table.columns[1].type.kind == "json" else ("0", "1", "2")
        wrong = {Difference("changed", (key,), ("v",)) for key in keys}
        assert set(report.differences) == wrong, report.method

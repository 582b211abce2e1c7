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
from engine.toolkit.sampling import SampleSize
from engine.verify.report import Difference, TableReport
from tests.support.releases import Since, version_of
from tests.support.servers import AnyServer
from tests.support.sides import Mirror, Sides

MYSQL_9 = Since(mysql=(9, 0), mariadb=None)
MARIADB_10, MARIADB_11 = Since(None, (10, 10)), Since(None, (11, 7))


class Fault(NamedTuple):
    """A column: its type, its value as SQL of each database, and a wrong one for the target."""

    type: str
    source: str
    target: str
    wrong: str
    since: Since = Since()


FAULTS = {
    "tiny": Fault("TINYINT", "-128", "-128", "-127"),
    "truth": Fault("BOOLEAN", "TRUE", "1", "0"),
    "small": Fault("SMALLINT UNSIGNED", "65535", "65535", "65534"),
    "medium": Fault("MEDIUMINT", "-8388608", "-8388608", "8388607"),
    "filled": Fault("INT(9) ZEROFILL", "7", "7", "8"),
    "year": Fault("YEAR", "1901", "1901", "1902"),
    "one_bit": Fault("BIT(1)", "b'1'", "B'1'", "B'0'"),
    "last_of_64": Fault("BIT(64)", "18446744073709551615", "B'{ones}'".format(ones="1" * 64), "B'{ones}0'".format(ones="1" * 63)),
    "whole": Fault("DECIMAL(65,0)", "'{nines}'".format(nines="9" * 65), "9" * 65, "9" * 64 + "8"),
    "sign": Fault("DECIMAL(65,30)", "'-1e-30'", "-1e-30", "1e-30"),
    "span": Fault("TIME(6)", "'-00:00:00.000001'", "'-00:00:00.000001'", "'00:00:00.000001'"),
    "moment": Fault("DATETIME", "'9999-12-31 23:59:59'", "'9999-12-31 23:59:59'", "'9999-12-31 23:59:58'"),
    "millisecond": Fault("DATETIME(3)", "'1000-01-01 00:00:00.001'", "'1000-01-01 00:00:00.001'", "'1000-01-01 00:00:00'"),
    "plain_stamp": Fault("TIMESTAMP NULL", "'2038-01-19 03:14:07'", "'2038-01-19 03:14:07+00'", "'2038-01-19 03:14:06+00'"),
    "other_day": Fault("DATE", "'2024-02-29'", "'2024-02-29'", "'2024-03-01'"),
    "letters": Fault("CHAR(9)", "'x'", "'x'", "'x '"),
    "upper": Fault("CHAR(9) COLLATE utf8mb4_general_ci", "'Straße'", "'Straße'", "'straße'"),
    "accent": Fault("VARCHAR(9) COLLATE utf8mb4_general_ci", "'e\u0301'", "'e\u0301'", "'\u00e9'"),
    "short_text": Fault("TINYTEXT", "'\n'", r"E'\n'", r"E'\r\n'"),
    "long_text": Fault("LONGTEXT", "CONCAT(REPEAT('x', 3000), 'y')", "repeat('x', 3000) || 'y'", "repeat('x', 3000) || 'z'"),
    "first_of_long": Fault("MEDIUMTEXT", "CONCAT('y', REPEAT('é', 1024))", "'y' || repeat('é', 1024)", "'z' || repeat('é', 1024)"),
    "longest_inline": Fault("TEXT", "REPEAT('x', 1024)", "repeat('x', 1024)", "repeat('x', 1023) || 'X'"),
    "one_more": Fault("VARCHAR(2000)", "REPEAT('x', 1025)", "repeat('x', 1025)", "repeat('x', 1024) || ' '"),
    "long_bytes": Fault("LONGBLOB", "CONCAT(REPEAT(x'00', 3000), x'01')", r"convert_to('', 'UTF8') || decode(repeat('00', 3000) || '01', 'hex')", "decode(repeat('00', 3000) || '00', 'hex')"),
    "padded": Fault("BINARY(4)", "'a'", r"'\x61000000'", r"'\x61000020'"),
    "ascii": Fault("VARCHAR(9) CHARACTER SET ascii", "'a~'", "'a~'", "'a}'"),
    "cyrillic": Fault("TEXT CHARACTER SET koi8r", "'привет'", "'привет'", "'Привет'"),
    "kanji": Fault("VARCHAR(9) CHARACTER SET sjis", "'ソ表'", "'ソ表'", "'ソ裱'"),
    "ujis": Fault("VARCHAR(9) CHARACTER SET ujis", "'表'", "'表'", "'裱'"),
    "hanzi": Fault("VARCHAR(9) CHARACTER SET gbk", "'汉字'", "'汉字'", "'漢字'"),
    "ucs2": Fault("VARCHAR(9) CHARACTER SET ucs2", "'Ω'", "'Ω'", "'\u2126'"),
    "utf16": Fault("CHAR(5) CHARACTER SET utf16", "'é😀'", "'é😀'", "'é😁'"),
    "utf32": Fault("TEXT CHARACTER SET utf32", "'é😀 '", "'é😀 '", "'é😀'"),
    "utf8": Fault("TEXT CHARACTER SET utf8", "'日本'", "'日本'", "'日木'"),
    "letter_case": Fault("ENUM('Open','closed')", "'open'", "'Open'", "'open'"),
    "no_label": Fault("ENUM('','x')", "''", "''", "'x'"),
    "labels": Fault("SET('a','b','c')", "'c,a'", "'a,c'", "'a'"),
    "label_order": Fault("SET('a','b')", "3", "'a,b'", "'b,a'"),
    "last_label": Fault("SET({labels})".format(labels=",".join(f"'m{n}'" for n in range(64))), "'m0,m63'", "'m0,m63'", "'m0,m62'"),
    "number_in_document": Fault("JSON", """'{"a": 9007199254740993}'""", """'{"a": 9007199254740993}'""", """'{"a": 9007199254740992}'"""),
    "no_document": Fault("JSON", "'null'", "'null'", "NULL"),
    "point": Fault("POINT", "ST_GeomFromText('POINT(1 2)')", r"'\x0101000000000000000000f03f0000000000000040'", r"'\x0101000000000000000000f03f0100000000000040'"),
    "place": Fault("GEOMETRY", "ST_GeomFromText('POINT(1 2)', 3857)", r"'\x0101000020110f0000000000000000f03f0000000000000040'", r"'\x0101000020e6100000000000000000f03f0000000000000040'"),
    "vector": Fault("VECTOR(2)", "STRING_TO_VECTOR('[1,2]')", r"'\x0000803f00000040'", r"'\x0000803f01000040'", MYSQL_9),
    "vec": Fault("VECTOR(2)", "VEC_FromText('[1,2]')", r"'\x0000803f00000040'", r"'\x0000803f01000040'", MARIADB_11),
    "uuid": Fault("UUID", "'123e4567-e89b-12d3-a456-426655440000'", "'123e4567-e89b-12d3-a456-426655440000'", "'123e4567-e89b-12d3-a456-426655440001'", MARIADB_10),
    "inet4": Fault("INET4", "'1.2.3.0'", "'1.2.3.0'", "'1.2.3.1'", MARIADB_10),
    "inet6": Fault("INET6", "'::1'", "'::1'", "'::2'", MARIADB_10),
    "compressed": Fault("TEXT COMPRESSED", "REPEAT('z', 3000)", "repeat('z', 3000)", "repeat('z', 2999)", MARIADB_10),
    "compressed_bytes": Fault("VARBINARY(300) COMPRESSED", "REPEAT(x'00', 300)", "decode(repeat('00', 300), 'hex')", "decode(repeat('00', 299), 'hex')", MARIADB_10),
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
#: Ways to compare.
VARIANTS: list[dict[str, Any]] = [{}, {"by_rows": True}, {"chunk_rows": 1}]
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
    server = sides.server.kind, version_of(sides.server)
    had = {name: it for name, it in FAULTS.items() if it.since.includes(*server)}
    return {name: it for name, it in had.items() if signed or name != "minus_zero"}


def make(sides: Sides, name: str, faults: dict[str, Fault]) -> Table:
    """Create and fill both tables, with one fault in each row below 1000. Only these rows have a
    value in each column."""
    types = {**{name: it.type for name, it in faults.items()}, "l": "VARCHAR(9)", "r": "VARCHAR(9)"}
    columns = ", ".join(f"`{name}` {type}" for name, type in types.items())
    table = sides.make(name, f"id {KEYS[name]}, {columns}, v INT, w INT")
    ids = [*range(len(faults)), MISSING, SWAPPED, JOINED]
    for run, place in ((sides.on_source, 1), (sides.on_target, 2)):
        values = ", ".join(it[place] for it in (*faults.values(), LEFT, RIGHT))
        run(f"INSERT INTO {name} VALUES {', '.join(f'({id}, {values}, {id}, 0)' for id in ids)}")
        run(f"INSERT INTO {name} (id, v, w) VALUES {', '.join(f'({id}, {id}, 0)' for id in ROWS)}")
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"by_rows": True}, marks=pytest.mark.slow),
        pytest.param({"sample": SampleSize(share=1 - 1e-12)}, marks=pytest.mark.slow),
    ],
    ids=["checksums", "rows", "sample"],
)
def test_every_planted_fault_is_found_and_nothing_else(
    sides: Sides, options: dict[str, Any]
) -> None:
    """The sample has all rows."""
    faults = faults_on(sides)
    tables = [make(sides, name, faults) for name in KEYS]
    with Mirror(sides, change) as mirror:
        reports = sides.compare_all(tables, passed=mirror.passed, chunk_rows=20, **options).tables
        assert mirror.done > 0
    for report, name in zip(reports, KEYS, strict=True):
        check(report, name, expected(faults))
        sampled = "sample" in options and name != "keyless"
        assert (report.sample is not None) is sampled
        assert report.method == ("rows" if sampled or options.get("by_rows") else "checksums")
        if report.method == "checksums":
            assert report.read < report.rows / 2


def test_the_rows_of_a_cascade_that_is_missing_are_found(sides: Sides) -> None:
    """GIVEN rows that foreign keys have deleted and changed on the source, and not on the target"""
    refers = "INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE"
    parent = sides.make("parent", "id INT PRIMARY KEY")
    tables = [
        sides.make("child", f"id INT PRIMARY KEY, p {refers} CASCADE"),
        sides.make("keyless_child", f"p {refers} CASCADE"),
        sides.make("orphan", f"id INT PRIMARY KEY, p {refers} SET NULL"),
    ]
    for run in (sides.on_source, sides.on_target):
        run("INSERT INTO parent VALUES (1), (2)", "INSERT INTO keyless_child VALUES (1), (2), (2)")
        run(*(f"INSERT INTO {it} VALUES (1, 1), (2, 2), (3, 2)" for it in ("child", "orphan")))
        run("DELETE FROM parent WHERE id = 2")
    for options in VARIANTS:
        reports = sides.compare_all([parent, *tables], **options).tables
        found = [(it.missing, it.differing, it.extra, it.inconclusive) for it in reports]
        assert found == [(0, 0, 0, ""), (0, 0, 2, ""), (0, 0, 2, ""), (0, 2, 0, "")], options


#: What no column of a key can be.
NO_KEYS = ("TEXT", "BLOB", "JSON", "POINT", "GEOMETRY", "VECTOR", "COMPRESSED", "VARCHAR(2000)")


@pytest.mark.parametrize(
    "names",
    [
        ("space", "letter_case", "last_bit", "span", "padded"),
        pytest.param(tuple(FAULTS), marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_a_fault_in_a_key_is_a_missing_and_an_extra_row(
    sides: Sides, names: tuple[str, ...]
) -> None:
    faults = {
        name: it
        for name, it in faults_on(sides).items()
        if name in names
        and not any(word in it.type for word in NO_KEYS)
        and "NULL" not in (it.source, it.target, it.wrong)
    }
    tables = []
    for name, it in faults.items():
        type = it.type.removesuffix(" NULL")
        tables.append(sides.make(f"k_{name}", f"k {type} NOT NULL PRIMARY KEY, v INT"))
        sides.on_source(f"INSERT INTO k_{name} VALUES ({it.source}, 1)")
        sides.on_target(f"INSERT INTO k_{name} VALUES ({it.wrong}, 1)")
    for options in VARIANTS:
        reports = sides.compare_all(tables, **options).tables
        for name, report in zip(faults, reports, strict=True):
            found = (report.differing, report.missing, report.extra, report.inconclusive)
            assert found == (0, 1, 1, ""), (name, options, report.reason)


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
    for options in VARIANTS:
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
    for change in ("SELECT 1", "UPDATE t SET v = 9 WHERE ctid = (SELECT max(ctid) FROM t)"):
        sides.on_target(change)
        for options in VARIANTS:
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

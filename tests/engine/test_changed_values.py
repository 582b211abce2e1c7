"""
A comparison counts the values that a policy changes, whichever way it compares the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from engine.cli.tables import verify_table
from engine.toolkit.policies import ReadPolicies, StoragePolicies
from engine.toolkit.sampling import SampleSize
from engine.verify.report import VerifyReport
from tests.support.servers import AnyServer
from tests.support.sides import Sides

VALUES = StoragePolicies(
    unsigned_bigint="bigint",
    tinyint1="boolean",
    out_of_range="clamp",
    columns={
        "*.*.epoch": {"zero_date": "epoch"},
        "*.*.past": {"zero_date": "-infinity"},
        "*.*.mark": {"nul_byte": "replace"},
        "*.*.nothing": {"out_of_range": "null"},
    },
)
READS = ReadPolicies(columns={"*.*.escaped": {"invalid_text": "escape"}})


class Changed(NamedTuple):
    """A column: its type, values as SQL of the source and of the target, of which the first ones
    are changed, how many, and what is said of them."""

    type: str
    pairs: tuple[tuple[str, str], ...]
    values: int
    policy: str
    said: str


COLUMNS = {
    "zero": Changed(
        "DATE",
        (("'0000-00-00'", "NULL"), ("'2020-00-10'", "NULL"), ("NULL", "NULL")),
        *(2, 'zero_date = "null"', "zero dates that became NULL"),
    ),
    "moment": Changed(
        "DATETIME(3) NOT NULL",
        (("'0000-00-00'", "NULL"), ("'2024-01-01'", "'2024-01-01'")),
        *(1, 'zero_date = "null"', "zero dates that became NULL"),
    ),
    "epoch": Changed(
        "DATE",
        (("'0000-00-00'", "'1970-01-01'"), ("'1970-01-01'", "'1970-01-01'")),
        *(1, 'zero_date = "epoch"', "zero dates that became 1970-01-01"),
    ),
    "past": Changed(
        "TIMESTAMP NULL",
        (("'0000-00-00'", "'-infinity'"), ("NULL", "NULL")),
        *(1, 'zero_date = "-infinity"', "zero dates that became -infinity"),
    ),
    "lost": Changed(
        "VARCHAR(9)",
        (("'a\\0'", "'a'"), ("'\\0'", "''"), ("'a'", "'a'")),
        *(2, 'nul_byte = "strip"', "texts that lost U+0000"),
    ),
    "mark": Changed(
        "TEXT",
        (("'a\\0'", "'a\u2400'"), ("'\u2400'", "'\u2400'")),
        *(1, 'nul_byte = "replace"', "texts in which U+2400 stands for U+0000"),
    ),
    "flag": Changed(
        "TINYINT(1)",
        (("5", "true"), ("-1", "true"), ("0", "false"), ("1", "true")),
        *(2, 'out_of_range = "clamp"', "numbers out of range that became 1"),
    ),
    "nothing": Changed(
        "BIGINT UNSIGNED",
        (("18446744073709551615", "NULL"), ("9223372036854775807", "9223372036854775807")),
        *(1, 'out_of_range = "null"', "numbers out of range that became NULL"),
    ),
    "invalid": Changed(
        "VARCHAR(9) CHARACTER SET cp1251",
        (("_cp1251 0x6198", "'a\ufffd'"), ("'a?'", "'a?'")),
        *(1, 'invalid_text = "replace"', "texts with bytes that are no characters"),
    ),
    "escaped": Changed(
        "VARCHAR(9) CHARACTER SET cp1251",
        (("_cp1251 0x98", r"'\x98'"), (r"'\\x98'", r"'\x98'")),
        *(1, 'invalid_text = "escape"', "texts with bytes that are no characters"),
    ),
}
KEYS = {
    "by_number": "INT PRIMARY KEY",
    "by_text": "VARCHAR(9) PRIMARY KEY",
    "keyless": "INT",
}
ROWS = 600
VARIANTS: tuple[dict[str, Any], ...] = ({}, {"by_rows": True}, {"chunk_rows": 100})


@pytest.fixture
def sides(mysql_family: AnyServer, new_sides: Callable[..., Sides]) -> Sides:
    return new_sides(mysql_family, values=VALUES, reads=READS)


def test_what_policies_change_is_counted_and_no_difference(sides: Sides) -> None:
    columns = ", ".join(f"`{name}` {it.type}" for name, it in COLUMNS.items())
    tables = [sides.make(name, f"id {type}, {columns}") for name, type in KEYS.items()]
    for name in KEYS:
        for run, side in ((sides.on_source, 0), (sides.on_target, 1)):
            rows = []
            for id in range(ROWS):
                # Each column has its values in rows of its own, far from each other.
                values = [
                    it.pairs[
                        (id - n) // 37 if (id - n) % 37 == 0 and id // 37 < len(it.pairs) else -1
                    ][side]
                    for n, it in enumerate(COLUMNS.values())
                ]
                rows.append(f"({', '.join((str(id), *values))})")
            run(f"INSERT INTO {name} VALUES {', '.join(rows)}")
    for options in VARIANTS:
        reports = sides.compare_all(tables, **options)
        for report in reports.tables:
            assert report.equal, report
            assert report.method == ("rows" if "by_rows" in options else "checksums")
            counted = {(it.column, it.policy): (it.values, it.changed) for it in report.replaced}
            for name, it in COLUMNS.items():
                assert counted.pop((name, it.policy)) == (it.values, it.said), report
            assert not any(values for values, _ in counted.values())
        check_terminal(reports)


def check_terminal(reports: VerifyReport) -> None:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(verify_table(reports))
    for report in reports.tables:
        assert f"{report.table}: zero dates that became NULL in zero: 2\n" in capture.get()


def test_a_zero_date_in_a_key_is_counted_as_what_it_becomes(sides: Sides) -> None:
    table = sides.make("t", "day DATE, word VARCHAR(9), v INT, PRIMARY KEY (day, word)")
    sides.on_source("INSERT INTO t VALUES ('0000-00-00', 'a', 1), ('2024-01-01', 'a\\0', 2)")
    sides.on_target("INSERT INTO t VALUES ('-infinity', 'a', 1), ('2024-01-01', 'a\U000f0000', 2)")
    for options in VARIANTS:
        report = sides.compare(table, **options)
        assert report.equal
        assert [(it.column, it.values, it.changed) for it in report.replaced] == [
            ("day", 1, "zero dates that became -infinity"),
            ("word", 1, "texts in which U+F0000 stands for U+0000"),
        ]


def test_values_of_rows_that_differ_are_counted_once(sides: Sides) -> None:
    for name in ("by_number", "keyless"):
        table = sides.make(name, f"id {KEYS[name]}, zero DATE, lost VARCHAR(9), v INT")
        rows = ", ".join(f"({id}, '0000-00-00', 'x\\0', 1)" for id in range(50))
        sides.on_source(f"INSERT INTO {name} VALUES {rows}")
        rows = ", ".join(f"({id}, NULL, 'x', {id % 2})" for id in range(40))
        sides.on_target(f"INSERT INTO {name} VALUES {rows}")
        for options in VARIANTS[:2]:
            report = sides.compare(table, **options)
            assert not report.equal
            assert [(it.column, it.values) for it in report.replaced if it.values] == [
                ("zero", 50),
                ("lost", 50),
            ], (name, options, report)


def test_a_zero_date_that_became_null_is_no_reason_to_read_rows(sides: Sides) -> None:
    """Also in a column that has no NULL on the source."""
    for name, key in KEYS.items():
        table = sides.make(name, f"id {key}, day DATE NOT NULL, moment DATETIME(3) NOT NULL")
        rows = [f"({id}, 0, 0)" for id in range(20)], [f"({id}, NULL, NULL)" for id in range(20)]
        sides.on_source(f"INSERT INTO {name} VALUES {', '.join(rows[0])}")
        sides.on_target(f"INSERT INTO {name} VALUES {', '.join(rows[1])}")
        report = sides.compare(table)
        assert (report.equal, report.method, report.read) == (True, "checksums", 0)
        assert [it.values for it in report.replaced if it.values] == [20, 20]


@pytest.mark.parametrize("charset", ["hebrew", "cp1251"])
def test_keys_with_invalid_text_are_found_by_a_reader_that_has_not_read_them(
    sides: Sides, charset: str
) -> None:
    text = f"VARCHAR(9) CHARACTER SET {charset} COLLATE {charset}_bin"
    table = sides.make("t", f"`escaped` {text}, n INT, PRIMARY KEY (`escaped`, n)")
    texts = [f"_{charset} x'{it}'" for it in ("98D9", "61D998FB62", "3F", "3F61", "61", "FC9898")]
    rows = ", ".join(f"({text}, {n})" for n in range(10) for text in texts)
    sides.on_source(f"INSERT INTO t VALUES {rows}")
    keys = sides.source_reader.chunk(table, None, 100, keys_only=True)
    assert len(keys) == 10 * len(texts)
    assert any(it >= "\U000f0000" for key in keys for it in key[0] or "")
    for key in keys:
        sides.target.execute("INSERT INTO t VALUES (%s, %s)", key)
    sides.source_reader = sides.new_source_reader()
    found = sides.source_reader.by_keys(table, keys, keys_only=True)
    assert sorted(found, key=str) == sorted(keys, key=str)
    for _ in range(3):
        sides.source_reader = sides.new_source_reader()
        report = sides.compare(table, sample=SampleSize(share=0.5))
        assert report.equal, report
    assert sides.compare(table).equal

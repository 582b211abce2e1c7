"""
Which keys a MySQL or MariaDB server can hold.
"""

from __future__ import annotations

import pytest

from engine.databases.mysql.key_values import can_hold, finds_row, nearest
from engine.databases.mysql.types import neutral_type
from engine.schema import Column


def column(type: str) -> Column:
    return Column("k", neutral_type(type), type, nullable=False)


@pytest.mark.parametrize(
    ("type", "held", "others"),
    [
        ("date", ["2024-01-01", "0000-00-00"], ["12024-01-01", "0044-01-01 BC", "infinity"]),
        (
            "datetime(3)",
            ["2024-01-01 00:00:00.000000"],
            ["12024-01-01 00:00:00.000000", "0044-01-01 00:00:00.000000 BC", "-infinity"],
        ),
        (
            "time(6)",
            ["-838:59:59.000000", "00:00:00.000001"],
            ["838:59:59.000001", "999:00:00.000000", "1234:00:00.000000", "1 day"],
        ),
        ("decimal(9,2)", ["-1.5", "0"], ["NaN", "Infinity"]),
        ("double", ["-1.5", "1e-300", "1e+300"], ["nan", "-inf"]),
        ("bigint unsigned", ["18446744073709551615", "-5"], []),
        ("varchar(9) character set latin1", ["é€"], ["ж", "\U0001f600"]),
        ("varchar(9) character set utf8mb3", ["ж"], ["\U0001f600"]),
        ("varchar(9) character set utf8mb4", ["\U0001f600", ""], []),
        ("inet6", ["::1"], []),
    ],
)
def test_values_that_a_server_cannot_hold_are_known(
    type: str, held: list[str], others: list[str]
) -> None:
    key = column(type)
    assert [text for text in (*held, *others) if can_hold(key, text)] == held
    assert [nearest(key, text) for text in held] == held


def test_the_nearest_value_keeps_the_order() -> None:
    day, number = column("date"), column("decimal(9,2)")
    assert nearest(day, "12024-01-01") == nearest(day, "infinity") == "9999-12-31"
    assert nearest(day, "0044-01-01 BC") == nearest(day, "-infinity") == "0000-00-00"
    assert nearest(number, "NaN") == "9" * 65


@pytest.mark.parametrize(
    ("type", "found", "others"),
    [
        ("varchar(9) character set hebrew", ["\u05d0"], ["\U000f00d9", "ж"]),
        ("varchar(9) character set gb18030", ["ж"], ["a\U000f00d9"]),
        (
            "varchar(9) character set utf8mb4",
            ["\U0001f600", "\ue000"],
            ["\U000f0000", "\U000fffff"],
        ),
        ("inet6", ["::1", "::ffff:1.2.3.4"], ["", "::1' OR '1"]),
        ("date", ["2024-01-01"], ["infinity"]),
        ("enum('a')", ["a", "b"], []),
    ],
)
def test_values_that_may_stand_for_bytes_are_no_sure_keys(
    type: str, found: list[str], others: list[str]
) -> None:
    assert [text for text in (*found, *others) if finds_row(column(type), text)] == found

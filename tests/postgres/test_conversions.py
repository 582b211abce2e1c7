"""
A column's type changes exactly as in the source, or the change is refused.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.change import SchemaChange
from engine.errors import SchemaError
from engine.schema import Column
from sinks.postgres.conversions import conversion
from tests.postgres.tables import alter, column, table
from tests.support.targets import Target, insert

FIXED_2 = column("binary", "binary(2)", length=2)
FIXED_3 = column("binary", "binary(3)", length=3)
SHORT = column("text", "varchar(9)", length=9)
MILLIS = column("datetime", scale=3)
X_Y = column("enum", members=("x", "y"))
DECIMAL = column("decimal", precision=6, scale=3)

CONVERTED = [
    (column("int32"), column("int64"), 5, 5),
    (column("int64"), column("uint8"), 255, 255),
    (column("int32"), SHORT, -12, "-12"),
    (column("int32"), DECIMAL, 7, "7.000"),
    (DECIMAL, column("decimal", precision=6, scale=1), "2.450", "2.5"),
    (DECIMAL, column("int32"), "-2.500", -3),
    (column("float32"), column("float64"), 0.10000000149011612, 0.10000000149011612),
    (SHORT, column("text", "text"), "a", "a"),
    (SHORT, column("text", "char(9)", length=9), "a ", "a"),
    (SHORT, column("text", "varchar(2)", length=2), "ab", "ab"),
    (X_Y, column("enum", members=("y", "x", "z")), "x", "x"),
    (X_Y, SHORT, "x", "x"),
    (SHORT, X_Y, "x", "x"),
    (column("set", members=("x", "y")), column("set", members=("x", "w", "y")), "x,y", "x,y"),
    (FIXED_2, FIXED_3, b"a\0", b"a\0\0"),
    (column("bit", length=3), column("bit", length=6), 5, "000101"),
    (column("date"), MILLIS, "2020-02-02", "2020-02-02 00:00:00"),
    (MILLIS, column("datetime"), "2020-02-02 10:00:00.000", "2020-02-02 10:00:00"),
    (column("datetime"), column("date"), "2020-02-02 10:00:00", "2020-02-02"),
]
CONVERTED_IDS = [f"{old.type}-{new.type}" for old, new, _, _ in CONVERTED]


@pytest.mark.parametrize(("old", "new", "value", "expected"), CONVERTED, ids=CONVERTED_IDS)
def test_a_change_of_type_converts_values_exactly(
    shared: Target, old: Column, new: Column, value: Any, expected: Any
) -> None:
    old, new = replace(old, default="NULL"), replace(new, default="NULL")
    target = shared
    target.create(table(old))
    target.do(insert(table(old), (1, value), (2, None)))
    alter(target, table(old), replace(table(new), version=2))
    ((found,), (nothing,)) = target.query("SELECT c FROM shop.t ORDER BY id")
    assert nothing is None
    assert (found if isinstance(found, (bytes, int, float)) else str(found)) == expected
    again = value if old.type == new.type else None
    target.do(insert(replace(table(new), version=2), (3, again)))


REFUSED = [
    (column("int32"), column("int8"), 300),
    (column("int32"), column("uint32"), -1),
    (column("text", length=9), column("text", length=2), "abc"),
    (column("text", length=9), column("enum", members=("x",)), "X"),
    (column("text", length=9), column("int32"), "1"),
    (column("float64"), column("decimal", precision=5, scale=2), 1.5),
    (column("datetime", scale=1), column("datetime"), "1999-01-01 00:00:00.5"),
    (column("datetime"), column("timestamp"), "2020-01-01 00:00:00"),
    (column("set", members=("x", "y")), column("set", members=("y", "x")), "x,y"),
    (column("int16"), column("int16", "year"), 70),
    (column("decimal", precision=6, scale=1), column("decimal", precision=3, scale=1), "123.0"),
]
REFUSED_IDS = [f"{old.type}-{new.type}" for old, new, _ in REFUSED]


@pytest.mark.parametrize(("old", "new", "value"), REFUSED, ids=REFUSED_IDS)
def test_a_change_of_type_that_could_differ_is_refused_unless_the_table_is_empty(
    shared: Target, old: Column, new: Column, value: Any
) -> None:
    target = shared
    target.create(table(old))
    target.do(insert(table(old), (1, value)))
    error = target.refuses(SchemaChange("", table(old), table(new)))
    assert isinstance(error, SchemaError)
    assert "shop.t" in str(error)
    assert str(value) not in str(error)
    assert error.hint
    target.query("DELETE FROM shop.t")
    alter(target, table(old), table(new))


def test_float_types_that_round_are_not_converted() -> None:
    assert conversion(column("float64"), column("float64", "double(7,2)")) is None
    assert conversion(column("int64"), column("float32")) is None

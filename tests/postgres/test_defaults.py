"""
An added column gets the source's default in the existing rows, or is refused.
"""

from __future__ import annotations

import pytest

from engine.change import SchemaChange
from engine.errors import SchemaError
from engine.schema import Column
from sinks.postgres.defaults import constant_default, existing_value
from tests.postgres.tables import alter, column, columns_of, table
from tests.support.targets import Target, insert

ADDED = [
    (column("int32", default="5"), 5),
    (column("int32", default="'7'"), 7),
    (column("int32", nullable=False), 0),
    (column("int32"), None),
    (column("text", length=9, default="'it''s'"), "it's"),
    (column("text", length=9, default="_utf8mb4'a\\nb'"), "a\nb"),
    (column("text", nullable=False), ""),
    (column("decimal", precision=6, scale=2, default="1.5", nullable=False), "1.50"),
    (column("datetime", default="'2020-01-01 00:00:00'"), "2020-01-01 00:00:00"),
    (column("datetime", default="'0000-00-00 00:00:00'", nullable=False), None),
    (column("timestamp", nullable=False), None),
    (column("enum", members=("x", "y"), nullable=False), "x"),
    (column("bit", length=4, default="b'101'"), "0101"),
    (column("binary", "binary(3)", length=3, default="'a'"), b"a\0\0"),
    (column("binary", "varbinary(3)", length=3, nullable=False), b""),
    (column("boolean", default="TRUE"), True),
    (column("json", nullable=False), None),
    (column("float64", default="(1e3)"), 1000.0),
]


@pytest.mark.parametrize(("new", "value"), ADDED, ids=[str(new.type) for new, _ in ADDED])
def test_an_added_column_has_the_source_s_default_in_every_row(
    shared: Target, new: Column, value: object
) -> None:
    target = shared
    target.create(table())
    target.do(insert(table(), (1,), (2,)))
    alter(target, table(), table(new))
    (one, two) = target.query("SELECT c FROM shop.t")
    assert one == two
    shown = one[0] if isinstance(one[0], (bytes, bool, int, float, type(None))) else str(one[0])
    assert shown == value


def test_an_added_column_without_a_default_has_none(shared: Target) -> None:
    """PostgreSQL stores DEFAULT NULL for a type with a length, which is a difference of schemas."""
    shared.create(table())
    alter(shared, table(), table(column("text", length=9)))
    default = "SELECT column_default FROM information_schema.columns WHERE column_name = 'c'"
    assert shared.query(default) == [(None,)]


UNKNOWN = [
    column("datetime", default="CURRENT_TIMESTAMP"),
    column("text", default="(uuid())"),
    column("int32", "int auto_increment", nullable=False),
    column("int32", generated=True),
    column("timestamp", default="'2020-01-01 00:00:00'"),
    column("geometry", nullable=False),
]


@pytest.mark.parametrize("new", UNKNOWN, ids=[new.source_type for new in UNKNOWN])
def test_an_added_column_with_unknown_values_is_refused_unless_the_table_is_empty(
    shared: Target, new: Column
) -> None:
    assert existing_value(new) is None
    target = shared
    target.create(table())
    target.do(insert(table(), (1,)))
    error = target.refuses(SchemaChange("", table(), table(new)))
    assert isinstance(error, SchemaError)
    assert "new column c" in str(error)
    assert "shop.t" in str(error)
    assert error.hint
    target.query("DELETE FROM shop.t")
    alter(target, table(), table(new))
    assert "c" in columns_of(target)


def test_constant_defaults() -> None:
    assert constant_default(column("int32", default="CURRENT_TIMESTAMP")) is None
    assert constant_default(column("int32", default="NULL")) == "NULL"
    assert constant_default(column("text", default="''")) == "''"
    assert constant_default(column("text", default="'\\\\'")) == "'\\'"
    assert constant_default(column("int32", default="'1.5'")) is None

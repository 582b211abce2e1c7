"""When it is worth to read new columns alone."""

from __future__ import annotations

import pytest

from engine.schema import Column, Table, TableId, Type
from sources.mysql.statistics import is_worth

KEY = Column("id", Type("int64"), "bigint", nullable=False)


@pytest.mark.parametrize(
    ("type", "row_bytes", "worth"),
    [
        (Type("int32"), 4_000, True),
        (Type("int32"), 2_048, True),
        (Type("int32"), 1_000, False),
        (Type("int32"), 0, False),  # not known
        (Type("text", length=40), 4_000, True),
        (Type("text", length=4_000), 2_100, False),
        (Type("json"), 100_000, True),
        (Type("json"), 2_100, False),
    ],
)
def test_long_rows_and_short_columns(type: Type, row_bytes: int, worth: bool) -> None:
    table = Table(TableId("shop", "t"), (KEY, Column("g", type, "")), (0,))
    assert is_worth(row_bytes, table) == worth

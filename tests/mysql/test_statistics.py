"""When it is worth to read new columns alone."""

from __future__ import annotations

import pytest

from engine.change import SchemaChange
from engine.schema import Column, Table, TableId, Type
from sources.mysql.statistics import are_narrow, is_worth
from tests.support.servers import AnyServer, connect_mysql

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


def test_the_size_of_long_texts_is_measured(mysql: AnyServer, source_database: str) -> None:
    """Their types do not tell it. A column that is gone by now is taken for a short one."""
    added = {"brief": 20, "lengthy": 20_000}
    with connect_mysql(mysql, source_database) as connection, connection.cursor() as cursor:
        generated = ", ".join(
            f"{name} LONGTEXT AS (REPEAT('x', {size})) STORED" for name, size in added.items()
        )
        cursor.execute(f"CREATE TABLE t (id INT PRIMARY KEY, rest LONGBLOB, {generated})")
        cursor.execute("INSERT INTO t (id, rest) VALUES (1, REPEAT('x', 3000))")
        for shift in range(7):
            cursor.execute(f"INSERT INTO t (id, rest) SELECT id + {1 << shift}, rest FROM t")
        connection.commit()
        cursor.execute("ANALYZE TABLE t")

        def narrow(name: str) -> bool:
            column = Column(name, Type("text"), "longtext", generated=True)
            before = Table(TableId(source_database, "t"), (KEY,), (0,))
            after = Table(before.id, (KEY, column), (0,))
            return are_narrow(connection, SchemaChange("", before, after, unlogged=(name,)))

        assert {name: narrow(name) for name in (*added, "gone")} == {
            "brief": True,
            "lengthy": False,
            "gone": True,
        }

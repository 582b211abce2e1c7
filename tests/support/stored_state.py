"""
The stored state in ``tests/fixtures/state``, as this version has to read it.
"""

from __future__ import annotations

from pathlib import Path

from engine.checkpoint import TableProgress
from engine.schema import Column, Index, Table, TableId, Type

__all__ = [
    "CUSTOMER",
    "EMPTY",
    "FOLDER",
    "ORDERS",
    "POSITION",
    "POSTGRES_PROGRESS",
    "TABLES",
    "VISIT",
    "statements",
]

FOLDER = Path(__file__).parent.parent / "fixtures" / "state"
POSITION = '{"server":"SERVER","file":"binlog.000001","offset":111721,"gtid":"SERVER:1-209"}'
UTF8 = "character set utf8mb4 collate utf8mb4_0900_ai_ci"

CUSTOMER = Table(
    TableId("legacy_shop", "customer"),
    (
        Column("id", Type("uint32"), "int unsigned", nullable=False),
        Column(
            "name",
            Type("text", length=40),
            "varchar(40) character set latin1 collate latin1_swedish_ci",
            nullable=False,
        ),
        Column("note", Type("text"), f"text {UTF8}"),
        Column("born", Type("date"), "date"),
        Column(
            "kind",
            Type("enum", members=("private", "firm")),
            f"enum('private','firm') {UTF8}",
            nullable=False,
            default="'private'",
        ),
    ),
    key=(0,),
    indexes=(Index("by_name", (1,), unique=True),),
)
ORDERS = Table(
    TableId("legacy_shop", "orders"),
    (
        Column("id", Type("int64"), "bigint", nullable=False),
        Column("customer", Type("uint32"), "int unsigned", nullable=False),
        Column(
            "total",
            Type("decimal", precision=10, scale=2),
            "decimal(10,2)",
            nullable=False,
            default="0.00",
        ),
        Column("at", Type("datetime", scale=3), "datetime(3)", nullable=False),
    ),
    key=(0,),
    indexes=(Index("by_customer", (1,)),),
)
VISIT = Table(
    TableId("legacy_shop", "visit"),
    (
        Column("page", Type("text", length=20), f"varchar(20) {UTF8}"),
        Column("at", Type("timestamp"), "timestamp"),
    ),
)
EMPTY = Table(
    TableId("legacy_shop", "empty"),
    (Column("id", Type("int32"), "int", nullable=False),),
    key=(0,),
)
#: Ordered by name, as PostgreSQL returns them.
TABLES = (CUSTOMER, EMPTY, ORDERS, VISIT)
POSTGRES_PROGRESS = {
    CUSTOMER.id: TableProgress("backfilling", "[50]", 50, 200, POSITION),
    EMPTY.id: TableProgress("pending"),
    ORDERS.id: TableProgress("catching_up", None, 900, 900, POSITION),
    VISIT.id: TableProgress("pending", estimate=3),
}


def statements(name: str) -> list[str]:
    """The SQL statements of a fixture."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [statement for statement in text.split(";\n") if statement.strip()]

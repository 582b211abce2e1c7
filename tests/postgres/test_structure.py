"""
What a target should have and what it has, on each release of PostgreSQL.
"""

from __future__ import annotations

import asyncio

import psycopg

from engine.schema import Column, Expression, ForeignKey, Index, Table, TableId, Type
from engine.structure import Check, TableDetails, WantedTable
from engine.toolkit.schema_diff import differences
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink

ID = Column("id", Type("int32"), "int", nullable=False)
NUMBER = Column("n", Type("decimal", precision=8, scale=2), "decimal(8,2)", default="1.50")
KEY = ForeignKey("up", ("id",), TableId("shop", "t"), ("id",), on_delete="cascade")
TABLE = Table(TableId("shop", "t"), (ID, NUMBER), (0,), (Index("by_n", (1,)),))
POSITIVE = Expression("less", (Expression("number", text="0"), Expression("column", text="n")))
WANTED = WantedTable(
    TABLE,
    TableDetails("ours", {"n": "it's"}, "id", checks=(Check("positive", "", POSITIVE),)),
    (KEY,),
)
MIRRORED = "CREATE TABLE shop.t (id integer PRIMARY KEY, n numeric(8,2) DEFAULT 1.50)"


def test_a_mirrored_table_is_completed(url: str) -> None:
    """GIVEN a table as the pipeline creates it WHEN what it lacks is created THEN nothing differs,
    and a role that cannot switch foreign keys off gets none while an engine runs."""

    async def complete() -> list[str]:
        sink = PostgresSink(PostgresSettings(url), "p")
        found = differences(*await sink.schema_items([WANTED], []))
        for difference in found:
            await sink.execute_alone(difference.statements)
        assert differences(*await sink.schema_items([WANTED], [])) == []
        assert await sink.why_no_foreign_keys() == ""
        return [it.kind for it in found]

    with psycopg.connect(url, autocommit=True) as target:
        target.execute("CREATE SCHEMA shop")
        target.execute(MIRRORED)
        kinds = ["identity", "comment", "comment", "index", "check", "foreign key"]
        assert asyncio.run(complete()) == kinds
        target.execute("DROP ROLE IF EXISTS tailrace_plain")
        target.execute("CREATE ROLE tailrace_plain LOGIN PASSWORD 'plain'")
        try:
            info = target.info
            plain = f"postgresql://tailrace_plain:plain@{info.host}:{info.port}/{info.dbname}"
            sink = PostgresSink(PostgresSettings(plain), "p")
            assert "act on every row" in asyncio.run(sink.why_no_foreign_keys())
        finally:
            target.execute("DROP ROLE tailrace_plain")

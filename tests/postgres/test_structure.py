"""
What a target should have and what it has, on each release of PostgreSQL.
"""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg import errors as pg

from engine.errors import ApplyError
from engine.handover import Numbers
from engine.schema import Column, Expression, ForeignKey, Index, Table, TableId, Type
from engine.structure import Check, TableDetails, WantedTable
from engine.toolkit.schema_diff import Difference, differences
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sinks.postgres.structure import _remedy

ID = Column("id", Type("int32"), "int", nullable=False)
NUMBER = Column("n", Type("decimal", precision=8, scale=2), "decimal(8,2)", default="1.50")
KEY = ForeignKey("up", ("id",), TableId("shop", "t"), ("id",), on_delete="cascade")
TABLE = Table(TableId("shop", "t"), (ID, NUMBER), (0,), (Index("by_n", (1,)),))
POSITIVE = Expression("less", (Expression("number", text="0"), Expression("column", text="n")))
ABOVE_ZERO = Expression("less", (Expression("number", text="0"), Expression("column", text="id")))
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


ALIKE = "SELECT conname FROM pg_constraint WHERE conrelid = 'shop.child'::regclass ORDER BY conname"


def completed(url: str, *tables: WantedTable) -> tuple[dict[str, ApplyError], list[Difference]]:
    """Create what can be created. Returns what is refused by name, and what is left."""

    async def complete() -> tuple[dict[str, ApplyError], list[Difference]]:
        sink = PostgresSink(PostgresSettings(url), "p")
        refused = {}
        found = differences(*await sink.schema_items(tables, []))
        for difference in sorted(found, key=lambda it: it.kind == "foreign key"):
            try:
                await sink.execute_alone(difference.statements)
            except ApplyError as error:
                refused[difference.name] = error
        return refused, differences(*await sink.schema_items(tables, []))

    return asyncio.run(complete())


def test_constraints_whose_names_collide_get_other_names(url: str) -> None:
    """GIVEN a check and a foreign key of one name, and a check named as the target's key WHEN the
    target is completed THEN it has all of them, and nothing differs."""
    child = TableId("shop", "child")
    key = ForeignKey("same", ("up",), child, ("id",))
    up = Column("up", Type("int32"), "int")
    checks = (Check("same", "", ABOVE_ZERO), Check("child_pkey", "", ABOVE_ZERO))
    wanted = WantedTable(Table(child, (ID, up), (0,)), TableDetails(checks=checks), (key,))
    with psycopg.connect(url, autocommit=True) as target:
        target.execute("CREATE SCHEMA shop; CREATE TABLE shop.child (id int PRIMARY KEY, up int)")
        assert completed(url, wanted) == ({}, [])
        names = [name for (name,) in target.execute(ALIKE) if not name.endswith("_not_null")]
        assert len(names) == 4
        assert {"same", "child_pkey"} < set(names)


def test_a_foreign_key_that_postgresql_refuses_is_explained(url: str) -> None:
    """GIVEN foreign keys to columns that are not unique, or of another type, and one whose texts
    are equal only in the source's collation THEN a person is asked for the first two, and the last
    is refused with a remedy. A cutover leaves that as it is, and says so."""
    parent, child = TableId("shop", "parent"), TableId("shop", "child")
    name = Column("name", Type("text", length=9), "varchar(9)")
    number = Column("n", Type("int32"), "int")
    parents = Table(parent, (ID, name, number), (0,), (Index("by_name", (1,), unique=True),))
    day = Column("day", Type("date"), "date")
    keys = (
        ForeignKey("by_day", ("day",), parent, ("id",)),
        ForeignKey("by_n", ("n",), parent, ("n",)),
        ForeignKey("by_name", ("name",), parent, ("name",)),
    )
    children = Table(child, (ID, name, number, day), (0,))
    with psycopg.connect(url, autocommit=True) as target:
        target.execute("""
            CREATE SCHEMA shop;
            CREATE TABLE shop.parent (id int PRIMARY KEY, name varchar(9), n int);
            CREATE TABLE shop.child (LIKE shop.parent INCLUDING INDEXES, day date);
            INSERT INTO shop.parent VALUES (1, 'A', 1);
            INSERT INTO shop.child VALUES (1, 'a', 1);
        """)
        refused, left = completed(
            url, WantedTable(parents, TableDetails()), WantedTable(children, TableDetails(), keys)
        )
        assert list(refused) == ["by_name"]
        assert "collation" in refused["by_name"].hint
        assert [(it.name, it.state, bool(it.statements)) for it in left] == [
            ("by_day", "missing", False),
            ("by_n", "missing", False),
            ("by_name", "unfinished", True),
        ]
        assert "another type" in left[0].advice
        assert "unique index over exactly shop.parent (n)" in left[1].advice
        sink = PostgresSink(PostgresSettings(url), "p")
        finished = asyncio.run(sink.finish([parent, child], Numbers(0)))
        assert finished.constraints == 0
        assert "by_name" in finished.left[0]


def numbered(name: str, type: Type, next: int) -> WantedTable:
    """A table of one column, which the source numbers."""
    table = Table(TableId("shop", name), (Column("id", type, "", nullable=False),), (0,))
    return WantedTable(table, TableDetails(numbered="id", next_number=next))


@pytest.mark.parametrize(
    ("stored", "type", "row", "next", "given"),
    [
        ("integer", Type("int32"), None, 5001, 5001),
        ("integer", Type("int32"), None, 0, 1),
        ("integer", Type("int32"), -7, 1, 1),
        ("integer", Type("int32"), 7, 3, 8),
        ("integer", Type("int32"), 2147483647, 2147483647, None),
        ("numeric(20)", Type("uint64"), 2**64 - 6, 2**64 - 5, None),
    ],
)
def test_numbers_go_on_where_the_source_goes_on(
    url: str, stored: str, type: Type, row: int | None, next: int, given: int | None
) -> None:
    """GIVEN the number that the source gives next WHEN the target is completed THEN it gives that
    one. Where a sequence has none so large, it gives none, and a person is told."""
    insert = "INSERT INTO shop.t DEFAULT VALUES RETURNING id"
    with psycopg.connect(url, autocommit=True) as target:
        target.execute("CREATE SCHEMA shop")
        target.execute(f"CREATE TABLE shop.t (id {stored} PRIMARY KEY)")  # type: ignore[call-overload]
        if row is not None:
            target.execute("INSERT INTO shop.t VALUES (%s)", (row,))
        refused, left = completed(url, numbered("t", type, next))
        assert refused == {}
        beyond = type.kind == "uint64"
        assert [(it.kind, it.statements) for it in left] == [("sequence", ())] * beyond
        assert all("MAXVALUE" in it.advice for it in left)
        if given is not None:
            assert target.execute(insert).fetchone() == (given,)
            return
        with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded):
            target.execute(insert)
        sink = PostgresSink(PostgresSettings(url), "p")
        assert asyncio.run(sink.obstacles([TableId("shop", "t")], Numbers(1000))) == []
        finished = asyncio.run(sink.finish([TableId("shop", "t")], Numbers(1000)))
        assert "is at its end" in finished.left[0]


def test_an_expression_that_is_a_constant_becomes_a_default(url: str) -> None:
    """GIVEN defaults that MySQL keeps as expressions, as of every TEXT WHEN the target is completed
    THEN it has those that are constants, and a person is asked for the others."""
    texts = {"a": "'it''s \\\\ é'", "b": "_latin1'é'", "c": "uuid()", "d": "5"}
    columns = [Column(name, Type("text"), "text", default="raw()") for name in texts]
    table = Table(TableId("shop", "t"), (ID, *columns), (0,))
    with psycopg.connect(url, autocommit=True) as target:
        target.execute("CREATE SCHEMA shop")
        target.execute("CREATE TABLE shop.t (id int PRIMARY KEY, a text, b text, c text, d text)")
        refused, left = completed(url, WantedTable(table, TableDetails(defaults=texts)))
        assert refused == {}
        assert [(it.name, it.wanted, it.statements) for it in left] == [
            ("b", "DEFAULT _latin1'é'", ()),
            ("c", "DEFAULT uuid()", ()),
        ]
        found = target.execute("INSERT INTO shop.t (id) VALUES (1) RETURNING a, c, d").fetchone()
        assert found == ("it's \\ é", None, "5")


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (pg.FeatureNotSupported(), "does the same"),
        (pg.InvalidTextRepresentation(), "does the same"),
        (pg.DuplicateObject(), "Rename or drop"),
        (pg.UniqueViolation(), ""),
        (pg.ObjectInUse(), ""),
        (pg.ObjectNotInPrerequisiteState(), ""),
    ],
)
def test_a_refusal_that_no_other_statement_ends_keeps_its_hint(
    refusal: psycopg.Error, said: str
) -> None:
    """What a table that is in use lacks is not another statement."""
    remedy = _remedy(refusal)
    assert (said in remedy, bool(remedy)) == (True, bool(said))

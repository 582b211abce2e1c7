"""A table takes the place of another one, and keeps what others have added to it."""

from __future__ import annotations

import psycopg
import pytest
from msgspec.structs import replace

from engine.change import CaughtUp, Replace, ReplaceColumns, SchemaChange
from engine.errors import SchemaError, UnloggedChange
from engine.schema import Column, Index, TableId, Type
from tests.postgres.tables import column, columns_of, indexes_of, table
from tests.support.targets import Target, insert

BEFORE = table(column("text", length=10), indexes=(Index("by_c", (1,)),))
AFTER = replace(BEFORE, columns=(*BEFORE.columns, Column("n", Type("int32"), "int")), version=2)
TWIN = replace(AFTER, id=TableId("shop", "tailrace_twin_t"))
ROWS = [(1, "one", 10), (3, "three", None)]

#: What others add to a table: statements, and a query that shows that it is still there.
ADDITIONS = {
    "view": (
        "CREATE VIEW shop.v AS SELECT id, c FROM shop.t",
        "SELECT count(*) = 2 FROM shop.v WHERE c IN ('one', 'three')",
    ),
    "foreign key": (
        "CREATE TABLE shop.child (t_id int REFERENCES shop.t)",
        "SELECT count(*) = 1 FROM pg_constraint WHERE confrelid = 'shop.t'::regclass",
    ),
    "trigger": (
        (
            "CREATE FUNCTION shop.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER tr AFTER DELETE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.f()"
        ),
        (
            "SELECT count(*) = 1 FROM pg_trigger WHERE tgrelid = 'shop.t'::regclass"
            " AND NOT tgisinternal"
        ),
    ),
    "index": (
        "CREATE INDEX mine ON shop.t (lower(c))",
        "SELECT count(*) = 1 FROM pg_indexes WHERE tablename = 't' AND indexname = 'mine'",
    ),
    "comment": (
        "COMMENT ON COLUMN shop.t.c IS 'kept'",
        "SELECT col_description('shop.t'::regclass, 2) = 'kept'",
    ),
    "check": (
        "ALTER TABLE shop.t ADD CHECK (id > 0)",
        (
            "SELECT count(*) = 1 FROM pg_constraint WHERE conrelid = 'shop.t'::regclass"
            " AND contype = 'c'"
        ),
    ),
    "publication": (
        "CREATE PUBLICATION p FOR TABLE shop.t",
        "SELECT count(*) = 1 FROM pg_publication_tables WHERE tablename = 't'",
    ),
    "grants": (
        "GRANT SELECT ON shop.t TO PUBLIC; GRANT UPDATE ON shop.t TO pg_monitor WITH GRANT OPTION",
        (
            "SELECT count(*) = 2 FROM pg_class, aclexplode(relacl) a WHERE oid = 'shop.t'::regclass"
            " AND a.grantee <> relowner AND (a.grantee = 0 OR a.is_grantable)"
        ),
    ),
    "grants on a column": (
        "GRANT SELECT (c) ON shop.t TO PUBLIC",
        (
            "SELECT attacl IS NOT NULL FROM pg_attribute WHERE attrelid = 'shop.t'::regclass"
            " AND attname = 'c'"
        ),
    ),
    "function of the row type": (
        "CREATE FUNCTION shop.g(shop.t) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT count(*) = 1 FROM pg_proc WHERE proname = 'g'",
    ),
    "column": (
        "ALTER TABLE shop.t ADD mine int DEFAULT 7",
        "SELECT count(*) = 2 FROM shop.t WHERE mine = 7",
    ),
    "replica identity": (
        "ALTER TABLE shop.t REPLICA IDENTITY FULL",
        "SELECT relreplident = 'f' FROM pg_class WHERE oid = 'shop.t'::regclass",
    ),
    "storage parameter": (
        "ALTER TABLE shop.t SET (fillfactor = 50)",
        "SELECT reloptions IS NOT NULL FROM pg_class WHERE oid = 'shop.t'::regclass",
    ),
    "row security": (
        "ALTER TABLE shop.t ENABLE ROW LEVEL SECURITY",
        "SELECT relrowsecurity FROM pg_class WHERE oid = 'shop.t'::regclass",
    ),
    "statistics": (
        "CREATE STATISTICS shop.st ON id, c FROM shop.t",
        "SELECT count(*) = 1 FROM pg_statistic_ext WHERE stxrelid = 'shop.t'::regclass",
    ),
    "nothing": ("SELECT 1", "SELECT true"),
}


def prepared(target: Target, *, caught_up: bool = True) -> None:
    """A table with old rows, and its twin with the new ones."""
    target.create(BEFORE, caught_up=caught_up)
    target.do(insert(BEFORE, (1, "old"), (2, "old")))
    target.create(TWIN, caught_up=False)
    target.do(insert(TWIN, *ROWS))


@pytest.mark.parametrize("name", ADDITIONS)
def test_what_others_have_added_is_kept(target: Target, name: str) -> None:
    statement, query = ADDITIONS[name]
    prepared(target)
    with psycopg.connect(target.url, autocommit=True) as other:
        other.execute(statement)
    oid = target.query("SELECT 'shop.t'::regclass::oid")
    target.do(CaughtUp(TWIN), Replace(BEFORE, TWIN, AFTER))
    assert target.query(query) == [(True,)]
    assert target.rows(AFTER) == ROWS
    kept = target.query("SELECT 'shop.t'::regclass::oid") == oid
    assert kept == (name not in ("grants", "nothing"))
    assert set(columns_of(target)) - {"mine"} == {"id", "c", "n"}
    assert "shop.t USING btree (c)" in indexes_of(target)
    state = target.run(target.sink.state())
    assert state is not None
    assert state.tables == (AFTER,)
    assert target.query("SELECT to_regclass('shop.tailrace_twin_t')") == [(None,)]
    target.do(insert(AFTER, (4, "four", 4)))
    target.do(SchemaChange("", AFTER, replace(AFTER, indexes=(), version=3)))
    assert "shop.t USING btree (c)" not in indexes_of(target)


def test_a_table_without_its_indexes_gets_them(target: Target) -> None:
    """GIVEN a table that was replaced before it had caught up for the first time."""
    prepared(target, caught_up=False)
    with psycopg.connect(target.url, autocommit=True) as other:
        other.execute("CREATE VIEW shop.v AS SELECT id FROM shop.t")
    target.do(CaughtUp(TWIN), Replace(BEFORE, TWIN, AFTER))
    assert "shop.t USING btree (c)" in indexes_of(target)


def test_a_reader_sees_the_old_rows_until_the_commit(target: Target) -> None:
    prepared(target)
    with psycopg.connect(target.url, autocommit=True) as reader:
        count = reader.execute("SELECT count(*) FROM shop.t").fetchone()
        assert count == (2,)
        target.do(CaughtUp(TWIN), Replace(BEFORE, TWIN, AFTER))
        rows = reader.execute("SELECT id FROM shop.t ORDER BY 1").fetchall()
        assert rows == [(1,), (3,)]


def test_a_view_on_a_dropped_column_is_named(target: Target) -> None:
    prepared(target)
    with psycopg.connect(target.url, autocommit=True) as other:
        other.execute("CREATE VIEW shop.v AS SELECT c FROM shop.t")
    twin = replace(TWIN, columns=(TWIN.columns[0], TWIN.columns[2]), indexes=(), version=3)
    target.do(SchemaChange("", TWIN, twin), CaughtUp(twin))
    after = replace(twin, id=BEFORE.id)
    with pytest.raises(SchemaError, match="depend") as caught:
        target.do(Replace(BEFORE, twin, after))
    assert "drop" in caught.value.hint
    target.run(target.sink.rollback())
    with psycopg.connect(target.url, autocommit=True) as other:
        other.execute("DROP VIEW shop.v")
    target.do(Replace(BEFORE, twin, after))
    assert list(columns_of(target)) == ["id", "n"]


def test_a_row_that_the_source_does_not_have_gets_no_invented_value(target: Target) -> None:
    """Its table is read again as a whole."""
    empty = replace(BEFORE, columns=(*BEFORE.columns, Column("n", Type("int32"), "int")))
    strict = Column("n", Type("int32"), "int", nullable=False, generated=True)
    after = replace(empty, columns=(*BEFORE.columns, strict), version=2)
    twin = replace(after.narrowed(["n"]), id=TWIN.id)
    target.create(empty, twin)
    target.do(insert(empty, (1, "one", None), (2, "mine", None)), insert(twin, (1, 10)))
    refused = target.refuses(ReplaceColumns(empty, twin, after, ("n",)))
    assert isinstance(refused, UnloggedChange)
    assert "lack a value in a new column" in refused.message

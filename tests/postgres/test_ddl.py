"""
Tables are created, altered, renamed and dropped on the target as in the source, or the change is
refused.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from engine.change import CaughtUp, SchemaChange
from engine.errors import SchemaError, SinkError
from engine.schema import Column, Index, Table, TableId, Type
from sinks.postgres.ddl import index_name
from tests.conftest import AnyServer
from tests.postgres.tables import ID, alter, column, columns_of, indexes_of, table
from tests.support.targets import Target, delete, insert, opened


def test_a_table_is_created_with_its_key_and_indexed_when_it_has_caught_up(target: Target) -> None:
    wide = table(
        column("text", length=10, nullable=False),
        Column("d", Type("date"), "date", nullable=False),
        Column("doc", Type("json"), "json"),
        indexes=(
            Index("by_c", (1,)),
            Index("once", (1, 2), unique=True),
            Index("start", (1,), unique=True, prefix=True),
            Index("same", (0,), unique=True),
            Index("words", (3,)),
        ),
    )
    target.create(wide, caught_up=False)
    assert columns_of(target) == {
        "id": "integer not null",
        "c": "character varying(10) not null",
        "d": "date",
        "doc": "json",
    }
    key = "UNIQUE shop.t USING btree (id)"
    assert indexes_of(target) == {key}
    target.do(CaughtUp(wide))
    expected = {key, "shop.t USING btree (c)", "UNIQUE shop.t USING btree (c, d)"}
    assert indexes_of(target) == expected
    target.do(CaughtUp(wide))
    assert indexes_of(target) == expected


def test_index_names_are_unique_and_not_too_long() -> None:
    names = [index_name("a_b", "c"), index_name("a", "b_c"), index_name("é" * 60, "x" * 60)]
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= 63 for name in names)


def test_columns_dropped_renamed_swapped_and_a_table_renamed(target: Target) -> None:
    a, b = (Column(name, Type("int32"), "int") for name in "ab")
    before = table(a, b, column("int32"), indexes=(Index("i", (1, 2)), Index("j", (2,))))
    target.create(before)
    target.do(insert(before, (1, 10, 20, 30)))
    after = replace(
        before,
        id=TableId("other", "u"),
        columns=(ID, b, a),
        indexes=(Index("i", (2,)), Index("k", (1,))),
    )
    alter(target, before, after, ("a", "b"), ("b", "a"))
    assert target.query("SELECT id, a, b FROM other.u") == [(1, 20, 10)]
    assert target.query("SELECT to_regclass('shop.t')") == [(None,)]
    state = target.run(target.sink.state())
    assert state is not None
    assert state.tables == (after,)
    again = replace(before, version=2)
    target.create(again)
    target.do(insert(after, (2, 1, 1)), insert(again, (2, 1, 1, 1)))
    names = target.query("SELECT indexname FROM pg_indexes WHERE schemaname = 'other'")
    assert {name.rpartition("_")[0] for (name,) in names} == {"pkey", "u_i", "u_k"}


def test_the_key_is_changed_and_dropped(target: Target) -> None:
    before = table(column("int32", nullable=False))
    after = replace(before, key=(1, 0))
    target.create(before)
    target.do(insert(before, (1, 1)))
    alter(target, before, after)
    target.do(insert(after, (1, 2), (2, 1)))
    assert len(target.rows(after)) == 3
    keyless = replace(after, key=())
    alter(target, after, keyless)
    target.do(insert(keyless, (1, 2)))
    alter(target, keyless, replace(keyless, columns=(keyless.columns[1],)))
    assert target.query("SELECT count(*) FROM shop.t") == [(4,)]


def test_the_key_s_column_is_dropped(target: Target) -> None:
    before = table(column("int32", nullable=False))
    target.create(before)
    target.do(insert(before, (1, 5)))
    alter(target, before, replace(before, columns=(before.columns[1],), key=(0,)))
    assert indexes_of(target) == {"UNIQUE shop.t USING btree (c)"}


def test_not_null_is_added_and_removed(target: Target) -> None:
    loose, strict = table(column("int32")), table(column("int32", nullable=False))
    target.create(loose)
    target.do(insert(loose, (1, None), (2, 5)))
    alter(target, loose, strict)
    assert target.rows(strict) == [(1, 0), (2, 5)]
    assert columns_of(target)["c"] == "integer not null"
    alter(target, strict, loose)
    target.do(insert(loose, (3, None)))


def test_rows_and_schema_changes_of_one_transaction_are_applied_in_order(target: Target) -> None:
    before, after = table(), table(column("int32", default="9"))
    wide = replace(after, version=2)
    target.do(
        SchemaChange("", None, before),
        CaughtUp(before),
        insert(before, (1,)),
        SchemaChange("", before, wide),
        insert(wide, (2, 2)),
    )
    assert target.rows(wide) == [(1, 9), (2, 2)]
    target.apply(SchemaChange("", wide, None))
    target.run(target.sink.rollback())
    assert target.rows(wide) == [(1, 9), (2, 2)]
    target.do(SchemaChange("", wide, None))
    state = target.run(target.sink.state())
    assert state is not None
    assert state.tables == ()


def test_a_prepared_statement_does_not_outlive_the_types_of_its_table(target: Target) -> None:
    before = table(column("int32"))
    after = replace(table(column("int64")), version=2)
    target.create(before)
    for n in range(8):
        target.do(insert(before, (n, n)))
    alter(target, before, after)
    target.do(insert(after, (100, 1 << 40)))
    assert (100, 1 << 40) in target.rows(after)


def test_an_existing_table_is_used_only_if_it_is_empty_and_equal(target: Target) -> None:
    wanted = table(column("text", length=9))
    target.query("CREATE SCHEMA shop")
    target.query("CREATE TABLE shop.t (c varchar(9), id int PRIMARY KEY)")
    target.query("INSERT INTO shop.t VALUES ('existing', 1)")
    error = target.refuses(SchemaChange("", None, wanted))
    assert isinstance(error, SinkError)
    assert "DROP TABLE" in error.hint
    target.query("DELETE FROM shop.t")
    target.create(wanted)
    target.do(insert(wanted, (1, "new")))
    other = replace(wanted, id=TableId("shop", "v"))
    target.query("CREATE TABLE shop.v (c varchar(8), id int PRIMARY KEY)")
    assert isinstance(target.refuses(SchemaChange("", None, other)), SinkError)


def numbered(count: int, *more: Column) -> list[Table]:
    index = Index("by_id", (0,))
    return [
        Table(TableId(f"shop{n % 2}", f"t{n}"), (ID, *more), key=(0,), indexes=(index,))
        for n in range(count)
    ]


def test_many_tables_are_created_and_indexed_together(target: Target) -> None:
    tables = numbered(30)
    target.query("CREATE SCHEMA shop1")
    target.query("CREATE TABLE shop1.t7 (id int PRIMARY KEY)")
    target.do(*(SchemaChange("", None, table) for table in tables))
    target.do(*map(CaughtUp, tables))
    found = target.query("SELECT source_name, target_schema, indexed FROM tailrace.table_version")
    assert sorted(found) == sorted((t.id.name, t.id.schema, True) for t in tables)
    assert len(target.query("SELECT 1 FROM pg_indexes WHERE indexname LIKE 't%by_id%'")) == 30
    target.run(target.sink.close())
    assert set(target.open().tables) == set(tables)


def test_an_error_names_the_one_of_many_tables_that_failed(target: Target) -> None:
    tables = numbered(20)
    wide = [Column(f"c{n}", Type("int32"), "int") for n in range(1700)]
    tables[13] = replace(tables[13], columns=(ID, *wide))
    error = target.refuses(*(SchemaChange("", None, table) for table in tables))
    assert isinstance(error, SchemaError)
    assert error.table == "shop1.t13"
    tables = numbered(20)
    target.do(*(SchemaChange("", None, table) for table in tables))
    target.query("DROP TABLE shop0.t6")
    error = target.refuses(*map(CaughtUp, tables))
    assert error.table == "shop0.t6"


def test_two_tables_of_one_batch_cannot_map_to_one_table(
    postgres: AnyServer, target_database: str
) -> None:
    with opened(target_database, schema="mirror") as target:
        twin = replace(table(), id=TableId("second", "t"))
        error = target.refuses(SchemaChange("", None, table()), SchemaChange("", None, twin))
        assert "belongs to pipeline test" in str(error)
        assert error.table == "second.t"


def test_all_tables_in_one_schema(postgres: AnyServer, target_database: str) -> None:
    with opened(target_database, schema="mirror") as target:
        target.create(table())
        target.do(insert(table(), (1,)))
        assert target.query("SELECT * FROM mirror.t") == [(1,)]
        twin = replace(table(), id=TableId("second", "t"))
        error = target.refuses(SchemaChange("", None, twin))
        assert "belongs to pipeline" in str(error)


LONG = "ä" * 31 + "a" * 33


def test_names_that_are_too_long_stay_different(target: Target) -> None:
    """Tables and columns whose names differ only where PostgreSQL would cut them."""
    one, two = (
        Table(
            TableId(f"{LONG}s", f"{LONG}{n}"),
            (ID, *(Column(f"{LONG}{m}", Type("int32"), "int") for m in "xy")),
            key=(0,),
            indexes=(Index(f"{LONG}i", (1, 2)),),
        )
        for n in "12"
    )
    target.create(one, two)
    many = [(n, n, n) for n in range(200)]
    assert not target.do(insert(one, (1, 10, 11), (2, 0, 0)), insert(two, *many)).drift
    third = replace(
        one,
        id=TableId(one.id.schema, f"{LONG}3"),
        columns=(ID, *reversed(one.columns[1:]), column("int32")),
        version=2,
    )
    _, x, y = one.names
    alter(target, one, third, (x, y), (y, x))
    assert not target.do(insert(third, (3, 30, 31, 3)), delete(two, *many[:100])).drift
    reader = target.sink.row_reader()
    try:
        assert reader.chunk(third, None, 1) == [("1", "10", "11", None)]
        assert (reader.count(third), reader.count(two)) == (3, 100)
    finally:
        reader.close()
    target.do(SchemaChange("", two, None))
    assert target.query("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'ä%'") == [(1,)]
    made = target.query("SELECT count(*) FROM pg_class WHERE relname LIKE 'ä%' AND relkind = 'r'")
    assert made == [(1,)]


def test_a_table_changes_its_schema_and_name(target: Target) -> None:
    """Both schemas already have tables of the old or the new name."""
    indexed = table(column("int32"), indexes=(Index("i", (1,)),))

    def at(schema: str, name: str, version: int = 1) -> Table:
        return replace(indexed, id=TableId(schema, name), version=version)

    others = [at("shop", "u"), at("other", "t"), at("third", "u")]
    target.create(at("shop", "t"), *others)
    target.do(insert(at("shop", "t"), (1, 1)))
    alter(target, at("shop", "t"), at("other", "u", 2))
    alter(target, at("other", "u", 2), at("other", "v", 3))
    alter(target, at("other", "v", 3), at("third", "t", 4))
    alter(target, at("third", "t", 4), at("shop", "t", 5))
    alter(target, at("shop", "t", 5), at("other", "x", 6))
    target.create(at("shop", "t", 7))
    target.do(insert(at("other", "x", 6), (2, 2)))
    assert target.query("SELECT id, c FROM other.x") == [(1, 1), (2, 2)]
    indexes = target.query("SELECT schemaname, tablename FROM pg_indexes WHERE indexname ~ '_i_'")
    tables = [*(other.id for other in others), TableId("shop", "t"), TableId("other", "x")]
    assert sorted(indexes) == sorted((id.schema, id.name) for id in tables)
    without = replace(at("other", "x", 7), key=(), indexes=())
    alter(target, at("other", "x", 6), without)
    assert target.query("SELECT 1 FROM pg_indexes WHERE tablename = 'x'") == []


@pytest.mark.parametrize("name", ["ctid", "xmin", "tableoid"])
def test_a_column_with_the_name_of_a_system_column_gets_a_digest(shared: Target, name: str) -> None:
    new = table(Column(name, Type("int32"), "int"))
    shared.create(table(column("int32")))
    shared.do(SchemaChange("", table(column("int32")), new, (("c", name),)))
    names = shared.query(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'shop.t'::regclass"
        " AND attnum > 0 ORDER BY attnum"
    )
    assert [it for (it,) in names][1].startswith(f"{name}_")


def test_a_column_may_be_named_oid(shared: Target) -> None:
    shared.create(table(Column("oid", Type("int32"), "int"), Column("XMIN", Type("int32"), "int")))


def test_names_with_special_characters(target: Target) -> None:
    odd = Table(
        TableId('Sch"ema %s', "TABLE $1 '"),
        (Column('a"b', Type("int32"), "int", False), Column("c%d {x}", Type("text"), "text")),
        key=(0,),
        indexes=(Index('i"x', (0, 1), unique=True),),
    )
    target.create(odd)
    target.do(insert(odd, (1, "x")))
    target.do(insert(odd, *((n, "y") for n in range(2, 100))))
    schema, name = (part.replace('"', '""') for part in (odd.id.schema, odd.id.name))
    assert target.query(f'SELECT count(*) FROM "{schema}"."{name}"') == [(99,)]
    renamed = replace(odd, columns=(odd.columns[0], replace(odd.columns[1], name="z")), version=2)
    alter(target, odd, renamed, ("c%d {x}", "z"))
    alter(target, renamed, replace(renamed, key=(), version=3))

"""
The target's tables follow the source's, exactly or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from engine.change import CaughtUp, SchemaChange
from engine.errors import SchemaError, SinkError
from engine.schema import Column, Index, Table, TableId, Type
from sinks.postgres.conversions import conversion
from sinks.postgres.ddl import index_name
from sinks.postgres.defaults import constant_default, existing_value
from tests.conftest import AnyServer
from tests.support.targets import Fresh, Target, delete, insert, opened, opened_database

ID = Column("id", Type("int32"), "int", nullable=False)


@pytest.fixture
def target(postgres_family: AnyServer, fresh_postgres_database: Fresh) -> Iterator[Target]:
    with opened(fresh_postgres_database(postgres_family)) as target:
        yield target


@pytest.fixture(scope="module")
def module_target(postgres: AnyServer) -> Iterator[Target]:
    with opened_database(postgres) as target:
        yield target


@pytest.fixture
def shared(module_target: Target) -> Iterator[Target]:
    """A target that tests have in common, one after the other: without a table."""
    yield module_target
    module_target.run(module_target.sink.rollback())
    module_target.do(SchemaChange("", table(), None))


def column(kind: str, source_type: str = "", **more: Any) -> Column:
    names = {"length", "precision", "scale", "members"}
    shape = {name: more.pop(name) for name in names & set(more)}
    return Column("c", Type(kind, **shape), source_type or kind, **more)  # type: ignore[arg-type]


def table(*columns: Column, **more: Any) -> Table:
    return Table(TableId("shop", "t"), (ID, *columns), **({"key": (0,)} | more))


def alter(target: Target, before: Table, after: Table, *renamed: tuple[str, str]) -> None:
    target.do(SchemaChange("ALTER", before, after, renamed))


def columns_of(target: Target, name: str = "t") -> dict[str, str]:
    return dict(
        target.query(
            "SELECT attname, format_type(atttypid, atttypmod) ||"
            " CASE WHEN attnotnull THEN ' not null' ELSE '' END FROM pg_attribute"
            f" WHERE attrelid = 'shop.{name}'::regclass AND attnum > 0 AND NOT attisdropped"
        )
    )


def indexes_of(target: Target) -> set[str]:
    found = target.query(
        "SELECT regexp_replace(indexdef, '^CREATE (UNIQUE )?INDEX \\S+ ON ', '\\1')"
        " FROM pg_indexes WHERE schemaname = 'shop'"
    )
    return {definition for (definition,) in found}


def test_a_table_is_made_with_its_key_and_indexed_when_it_has_settled(target: Target) -> None:
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
    target.create(wide, settled=False)
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


def test_index_names_are_unique_and_fit() -> None:
    names = [index_name("a_b", "c"), index_name("a", "b_c"), index_name("é" * 60, "x" * 60)]
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= 63 for name in names)


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


UNKNOWN = [
    column("datetime", default="CURRENT_TIMESTAMP"),
    column("text", default="(uuid())"),
    column("int32", "int auto_increment", nullable=False),
    column("int32", generated=True),
    column("timestamp", default="'2020-01-01 00:00:00'"),
    column("geometry", nullable=False),
]


@pytest.mark.parametrize("new", UNKNOWN, ids=[new.source_type for new in UNKNOWN])
def test_an_added_column_of_unknown_values_is_refused_unless_the_table_is_empty(
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


def test_another_key(target: Target) -> None:
    before = table(column("int32", nullable=False))
    after = replace(before, key=(1, 0))
    target.create(before)
    target.do(insert(before, (1, 1)))
    alter(target, before, after)
    target.do(insert(after, (1, 2), (2, 1)))
    assert len(target.rows(after)) == 3
    bag = replace(after, key=())
    alter(target, after, bag)
    target.do(insert(bag, (1, 2)))
    alter(target, bag, replace(bag, columns=(bag.columns[1],)))
    assert target.query("SELECT count(*) FROM shop.t") == [(4,)]


def test_the_key_column_itself_is_dropped(target: Target) -> None:
    before = table(column("int32", nullable=False))
    target.create(before)
    target.do(insert(before, (1, 5)))
    alter(target, before, replace(before, columns=(before.columns[1],), key=(0,)))
    assert indexes_of(target) == {"UNIQUE shop.t USING btree (c)"}


def test_null_is_allowed_and_forbidden(target: Target) -> None:
    loose, strict = table(column("int32")), table(column("int32", nullable=False))
    target.create(loose)
    target.do(insert(loose, (1, None), (2, 5)))
    alter(target, loose, strict)
    assert target.rows(strict) == [(1, 0), (2, 5)]
    assert columns_of(target)["c"] == "integer not null"
    alter(target, strict, loose)
    target.do(insert(loose, (3, None)))


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
    (column("json"), column("text"), '{"a":1}', '{"a":1}'),
]
CONVERTED_IDS = [f"{old.type}-{new.type}" for old, new, _, _ in CONVERTED]


@pytest.mark.parametrize(("old", "new", "value", "expected"), CONVERTED, ids=CONVERTED_IDS)
def test_a_column_changes_its_type_exactly(
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


def test_floats_with_digits_round() -> None:
    assert conversion(column("float64"), column("float64", "double(7,2)")) is None
    assert conversion(column("int64"), column("float32")) is None


def test_rows_and_schema_changes_of_one_transaction_keep_their_places(target: Target) -> None:
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


def test_a_foreign_table_is_taken_only_if_it_is_empty_and_the_same(target: Target) -> None:
    wanted = table(column("text", length=9))
    target.query("CREATE SCHEMA shop")
    target.query("CREATE TABLE shop.t (c varchar(9), id int PRIMARY KEY)")
    target.query("INSERT INTO shop.t VALUES ('theirs', 1)")
    error = target.refuses(SchemaChange("", None, wanted))
    assert isinstance(error, SinkError)
    assert "DROP TABLE" in error.hint
    target.query("DELETE FROM shop.t")
    target.create(wanted)
    target.do(insert(wanted, (1, "ours")))
    other = replace(wanted, id=TableId("shop", "v"))
    target.query("CREATE TABLE shop.v (c varchar(8), id int PRIMARY KEY)")
    assert isinstance(target.refuses(SchemaChange("", None, other)), SinkError)


def numbered(count: int, *more: Column) -> list[Table]:
    index = Index("by_id", (0,))
    return [
        Table(TableId(f"shop{n % 2}", f"t{n}"), (ID, *more), key=(0,), indexes=(index,))
        for n in range(count)
    ]


def test_many_tables_are_made_and_settled_at_once(target: Target) -> None:
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


def test_of_many_tables_the_one_that_fails_is_named(target: Target) -> None:
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


def test_two_tables_of_one_batch_cannot_share_a_place(
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


def test_names_that_are_too_long_stay_apart(target: Target) -> None:
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


def test_a_table_moves_past_namesakes(target: Target) -> None:
    """Between schemas, to a new name, where either holds tables with its old and new name."""
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
def test_a_column_named_as_one_of_the_server_s_own_is_refused(shared: Target, name: str) -> None:
    bad = table(Column(name, Type("int32"), "int"))
    error = shared.refuses(SchemaChange("", None, bad))
    shared.create(table())
    for before in (table(), table(column("int32"))):
        renamed = (("c", name),) if len(before.columns) > 1 else ()
        again = shared.refuses(SchemaChange("", before, bad, renamed))
        assert str(again) == str(error)
    assert isinstance(error, SchemaError)
    assert name in str(error)
    assert "xclude" in error.hint


def test_a_column_may_be_named_oid(shared: Target) -> None:
    shared.create(table(Column("oid", Type("int32"), "int"), Column("XMIN", Type("int32"), "int")))


def test_names_of_every_kind(target: Target) -> None:
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

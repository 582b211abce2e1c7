"""
A pipeline in memory with a mapping: backfill, stream, restarts, and a mapping that changes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import msgspec
import pytest

from engine.change import Change, Rows, SchemaChange, Truncate
from engine.checkpoint import TableProgress
from engine.commands import BackfillTables
from engine.contract import Applied
from engine.errors import ApplyError, ConfigError
from engine.mapping.changes import Mapping
from engine.schema import Table, TableId
from engine.settings.loader import ErrorSettings
from engine.settings.mapping import TableRules
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import ABORT, MemoryDatabase
from tests.support.commands import submit
from tests.support.memory_pipeline import (
    ID,
    NAME,
    WatchedSink,
    delete,
    insert,
    make_pipeline,
    run,
    update,
)

ORDERS = Table(TableId("north", "orders"), (ID, NAME), key=(0,))
SOUTH = Table(TableId("south", "orders"), (ID, NAME), key=(0,))
RULES = {"*.orders": TableRules(select="*, id * 2 AS twice", where="id <> 5")}
MERGED = {"*.orders": TableRules(to="all.orders", merge={"shop": "schema"})}


def mirror(
    database: MemoryDatabase, store: MemoryStore, rules: dict[str, TableRules]
) -> MemoryStore:
    errors = ErrorSettings("dead_letter")
    pipeline = make_pipeline(database, store, mapping=Mapping(rules), errors=errors)
    run(pipeline, until_caught_up=True)
    return store


def history(table: Table) -> list[list[Rows | SchemaChange | Truncate]]:
    return [
        [SchemaChange("", None, table)],
        [insert(table, (1, "a"), (5, "b"), (6, "c"))],
        [update(table, (5, "b"), (7, "b")), update(table, (6, "c"), (5, "c"))],
        [delete(table, (1, "a"))],
    ]


def test_rows_are_mapped_in_backfill_and_stream() -> None:
    """GIVEN rows before the start and after it, and a lost connection THEN each row of the target
    is mapped, and those that the filter leaves out are not there."""
    database = MemoryDatabase(history(ORDERS))
    store = mirror(database, MemoryStore(), RULES)
    assert store.rows(ORDERS.id) == [(7, "b", 14)]
    database.commit(insert(ORDERS, (8, "d"), (9, "e")))
    database.mark(ABORT)
    database.commit(delete(ORDERS, (9, "e")))
    assert mirror(database, store, RULES).rows(ORDERS.id) == [(7, "b", 14), (8, "d", 16)]


def test_a_changed_mapping_reads_the_table_again() -> None:
    database = MemoryDatabase(history(ORDERS))
    store = mirror(database, MemoryStore(), RULES)
    other = {"*.orders": TableRules(to="new.*", select="id, name AS label")}
    mirror(database, store, other)
    assert store.rows(TableId("new", "orders")) == [(5, "c"), (7, "b")]
    assert ORDERS.id not in store.contents
    assert mirror(database, store, {}).rows(ORDERS.id) == [(5, "c"), (7, "b")]


def test_an_edited_mapping_with_a_mistake_is_refused_before_anything_is_written() -> None:
    """GIVEN a mirrored table WHEN its mapping is edited and names an unknown column THEN the start
    is refused, and the stored state is as before. A table that is quarantined does not matter."""
    database = MemoryDatabase([*history(ORDERS), *history(SOUTH)])
    store = mirror(database, MemoryStore(), RULES)
    before = store.states["test"]
    wrong = {**RULES, "north.orders": TableRules(select="id, nam AS label")}
    for _ in range(2):
        with pytest.raises(ConfigError, match="no column nam,"):
            mirror(database, store, wrong)
        assert store.states["test"].checkpoint == before.checkpoint
        assert store.states["test"].tables == before.tables
    progress = {**before.checkpoint.progress, ORDERS.id: TableProgress("quarantined", rows=2)}
    checkpoint = msgspec.structs.replace(before.checkpoint, progress=progress)
    store.states["test"] = msgspec.structs.replace(before, checkpoint=checkpoint)
    other = {**wrong, "south.orders": TableRules(select="id")}
    assert mirror(database, store, other).rows(SOUTH.id) == [(7,)]


def test_an_edited_mapping_for_columns_that_the_log_brings() -> None:
    """GIVEN a table that was altered while no engine ran WHEN its mapping is edited to the new
    columns THEN the table is backfilled again."""
    database = MemoryDatabase(history(ORDERS))
    store = mirror(database, MemoryStore(), RULES)
    label = msgspec.structs.replace(NAME, name="label")
    altered = Table(ORDERS.id, (ID, label), (0,), version=2)
    database.commit(SchemaChange("ALTER", ORDERS, altered, renamed=(("name", "label"),)))
    other = {"*.orders": TableRules(select="label, id")}
    assert mirror(database, store, other).rows(ORDERS.id) == [("c", 5), ("b", 7)]


def test_merged_tables_keep_apart() -> None:
    database = MemoryDatabase([*history(ORDERS), *history(SOUTH)])
    store = mirror(database, MemoryStore(), MERGED)
    target = TableId("all", "orders")
    both = [(shop, *row) for shop in ("north", "south") for row in ((5, "c"), (7, "b"))]
    assert store.rows(target) == both
    database.commit(Truncate(ORDERS))
    database.commit(insert(ORDERS, (1, "x")))
    assert mirror(database, store, MERGED).rows(target) == [("north", 1, "x"), *both[2:]]
    database.commit(SchemaChange("", SOUTH, None))
    assert mirror(database, store, MERGED).rows(target) == [("north", 1, "x")]
    apart = {"*.orders": TableRules(to="all.*")}
    assert mirror(database, store, apart).rows(target) == [(1, "x")]


def test_two_tables_cannot_have_one_target() -> None:
    mapping = Mapping({"*.orders": TableRules(to="all.orders")})
    with pytest.raises(ConfigError, match="mapped to one table"):
        mapping.check([ORDERS, SOUTH])
    with pytest.raises(ConfigError, match="same name in the column"):
        Mapping({"*.*": TableRules(to="all.x", merge={"t": "table"})}).check([ORDERS, SOUTH])


def test_masked_values_are_not_kept_in_dead_letters() -> None:
    masked = {"north.*": TableRules(mask={"name": "redact"})}
    errors = ErrorSettings("dead_letter", {"south.*": "quarantine"})
    Mapping({}, errors=errors).check([ORDERS])
    with pytest.raises(ConfigError, match="dead letter"):
        Mapping(masked, errors=errors).check([ORDERS])
    south = {"south.*": TableRules(mask={"name": "redact"})}
    assert Mapping(south, errors=errors).check([SOUTH])[0].id == SOUTH.id


def test_a_row_that_breaks_a_rule_may_be_a_dead_letter() -> None:
    """GIVEN the policy `dead_letter` WHEN a row breaks a rule THEN it is kept aside, with the later
    changes of its key, and all other rows go on."""
    rules = {"*.*": TableRules(to="crm.*", assert_="id <> 3")}
    database = MemoryDatabase(history(ORDERS))
    store = MemoryStore()
    for changes in ([insert(ORDERS, (2, "x"), (3, "y"))], [update(ORDERS, (3, "y"), (4, "y"))]):
        mirror(database, store, rules)
        database.commit(*changes)
    mirror(database, store, rules)
    assert store.rows(TableId("crm", "orders")) == [(2, "x"), (5, "c"), (7, "b")]
    assert [str(letter.table) for _, letter in store.letters] == ["north.orders"] * 2


@pytest.mark.parametrize("kind", ["backfill", "insert", "update", "key change"])
def test_a_row_that_breaks_a_rule_quarantines_its_table(kind: str) -> None:
    """GIVEN a rule WHEN a row breaks it, in the backfill or the stream THEN the table is
    quarantined, and another one goes on. A row that is deleted, or that the filter leaves out, may
    break it."""
    rules = {"north.*": TableRules(assert_="id < 10", where="name <> 'out' COLLATE utf8mb4_bin")}
    text = "varchar(9) character set utf8mb4 collate utf8mb4_bin"
    orders = Table(ORDERS.id, (ID, msgspec.structs.replace(NAME, source_type=text)), key=(0,))
    database, store = MemoryDatabase(), MemoryStore()
    bad = [(11, "b")] if kind == "backfill" else []
    database.load(orders, [(1, "a"), (12, "out"), *bad])
    database.load(SOUTH, [(11, "a")])
    if kind != "backfill":
        mirror(database, store, rules)
        assert store.rows(orders.id) == [(1, "a")]
    change = {
        "backfill": insert(orders, (2, "b")),
        "insert": insert(orders, (11, "b")),
        "update": update(orders, (12, "out"), (12, "in")),
        "key change": update(orders, (1, "a"), (13, "a")),
    }
    database.commit(delete(orders, (12, "out")), insert(orders, (12, "out")))
    database.commit(change[kind], insert(SOUTH, (20, "x")))
    pipeline = make_pipeline(database, store, mapping=Mapping(rules))
    run(pipeline, until_caught_up=True)
    states = {it.table: it for it in pipeline.status().tables}
    assert states["north.orders"].state == "quarantined"
    assert "assert 'id < 10'" in states["north.orders"].reason
    assert store.rows(SOUTH.id) == [(11, "a"), (20, "x")]


class Refusing(MemorySink):
    """A target that refuses rows whose name is ``bad``."""

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        for change in changes:
            if isinstance(change, Rows) and any("bad" in row for row in change.after or ()):
                raise ApplyError("the target refuses a row", table=change.table.id)
        return await super().apply(changes, in_backfill)


@pytest.mark.parametrize("policy", ["quarantine", "dead_letter"])
def test_a_refused_row_of_a_merged_table_concerns_its_source(
    policy: Literal["quarantine", "dead_letter"],
) -> None:
    """GIVEN two merged tables WHEN the target refuses a row of the second, between rows of the
    first THEN the policy takes effect for the second, and the first goes on."""
    database, store = MemoryDatabase(), MemoryStore()
    for table in (ORDERS, SOUTH):
        database.load(table, [(1, "a")])
    sink = Refusing(MemorySinkSettings("memory:test"), "test", store)
    errors = ErrorSettings(policy)

    def mirrored() -> dict[str, str]:
        mapping = Mapping(MERGED, errors=errors)
        pipeline = make_pipeline(database, store, sink=sink, mapping=mapping, errors=errors)
        run(pipeline, until_caught_up=True)
        return {it.table: it.state for it in pipeline.status().tables}

    mirrored()
    database.commit(insert(ORDERS, (3, "c")), insert(SOUTH, (2, "bad")), insert(ORDERS, (5, "e")))
    states = mirrored()
    assert states["north.orders"] == "live"
    assert states["south.orders"] == ("live" if policy == "dead_letter" else "quarantined")
    database.commit(insert(ORDERS, (4, "d")))
    mirrored()
    rows = store.rows(TableId("all", "orders"))
    assert [row for row in rows if row[0] == "north"] == [
        ("north", number, name) for number, name in ((1, "a"), (3, "c"), (4, "d"), (5, "e"))
    ]
    assert [str(letter.table) for _, letter in store.letters] == (
        ["south.orders"] if policy == "dead_letter" else []
    )


def test_what_the_target_finds_in_a_merged_table() -> None:
    """GIVEN merged tables, and another one WHEN the target counts THEN the counts of the merged
    ones have the name of the target's table."""
    plain = Table(TableId("north", "people"), (ID, NAME), key=(0,))
    mapping = Mapping({**MERGED, "*.people": TableRules(to="new.people")})
    for table in (ORDERS, SOUTH, plain):
        mapping.targets([SchemaChange("", None, table)])
    target, other = TableId("all", "orders"), TableId("new", "people")
    places = {(target, "name", "x"): 2, (other, "name", "x"): 3}
    found = mapping.found(Applied({target: 1, other: 4}, places))
    assert found.drift == {target: 1, plain.id: 4}
    assert found.replaced == {(target, "name", "x"): 2, (plain.id, "name", "x"): 3}
    assert Applied().joined(found).joined(found).drift == {target: 2, plain.id: 8}


def test_a_table_that_its_mapping_does_not_fit_any_more_is_quarantined() -> None:
    """GIVEN a mapping with a column WHEN the source drops it THEN the table is quarantined, other
    tables go on, also after the next start, and the remedy is to correct the mapping."""
    database, store = MemoryDatabase(), MemoryStore()
    for table in (ORDERS, SOUTH):
        database.load(table, [(1, "a")])
    rules = {"north.orders": TableRules(select="id, name AS label")}
    mirror(database, store, rules)
    narrow = Table(ORDERS.id, (ID,), (0,), version=2)
    database.commit(SchemaChange("ALTER", ORDERS, narrow))
    database.commit(insert(SOUTH, (2, "b")))
    pipeline = make_pipeline(database, store, mapping=Mapping(rules))
    run(pipeline, until_caught_up=True)
    states = {it.table: it for it in pipeline.status().tables}
    assert states["north.orders"].state == "quarantined"
    assert "tailrace backfill" in states["north.orders"].remedy
    database.commit(insert(SOUTH, (3, "c")))
    mirror(database, store, rules)
    assert store.rows(SOUTH.id) == [(1, "a"), (2, "b"), (3, "c")]

    sink = MemorySink(MemorySinkSettings("memory:test"), "test", store)
    submit(sink, BackfillTables(("north.orders",)))
    pipeline = make_pipeline(database, store, mapping=Mapping(rules))
    run(pipeline, until_caught_up=True)
    states = {it.table: it for it in pipeline.status().tables}
    assert {name: it.state for name, it in states.items()} == {
        "north.orders": "quarantined",
        "south.orders": "live",
    }
    assert "name" in states["north.orders"].reason


def test_a_new_table_that_its_mapping_does_not_fit_is_quarantined() -> None:
    """GIVEN a mapping of all orders WHEN the source creates orders without its column while the
    pipeline runs THEN the others go on, also after the next start."""
    database, store = MemoryDatabase(), MemoryStore()
    database.load(SOUTH, [(1, "a")])
    rules = {"*.orders": TableRules(select="id, name AS label")}
    east = Table(TableId("east", "orders"), (ID,), (0,))

    def create() -> None:
        if east.id not in database.contents:
            database.commit(SchemaChange("CREATE", None, east), insert(east, (1,)))
            database.commit(insert(SOUTH, (2, "b")))

    mapping = Mapping(rules)
    pipeline = make_pipeline(database, store, sink=WatchedSink(store, create), mapping=mapping)
    run(pipeline, until_caught_up=True)
    for number in (3, 4):
        database.commit(insert(SOUTH, (number, "b")))
        pipeline = make_pipeline(database, store, mapping=Mapping(rules))
        run(pipeline, until_caught_up=True)
        assert {it.table: it.state for it in pipeline.status().tables} == {
            "east.orders": "quarantined",
            "south.orders": "live",
        }
    assert len(store.rows(SOUTH.id)) == 4


def test_a_table_that_cannot_be_merged_is_named_with_its_own_type() -> None:
    """Also one whose name comes before those of the tables that are merged already."""
    text = msgspec.structs.replace(ID, type=NAME.type)
    east = Table(TableId("east", "orders"), (text, NAME), key=(0,))
    (error,) = Mapping(MERGED).misfits([ORDERS, SOUTH], [east]).values()
    assert error.table == str(east.id)
    assert f"id is {NAME.type} in east.orders, and {ID.type} in north.orders" in str(error)


def test_the_tables_that_do_not_fit_are_those_of_a_check_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And their number does not multiply the work for all tables."""
    rules = {
        "a.*": TableRules(to="x.*", select="id, name AS title"),
        "b.*": TableRules(to="x.*"),
        "c.*": TableRules(to="all.c", merge={"part": "table"}),
    }
    narrow = ORDERS.columns[:1]
    tables = [
        msgspec.structs.replace(
            ORDERS,
            id=TableId(schema, f"t{number}"),
            columns=narrow if number % 3 == 1 else ORDERS.columns,
            key=(1,) if schema == "c" and number % 5 == 2 and number % 3 != 1 else (0,),
        )
        for number in range(30)
        for schema in "abc"
    ]
    mapping = Mapping(rules)
    good: list[Table] = []
    refused: dict[TableId, str] = {}
    for table in tables[1:]:
        try:
            mapping.check([tables[0], *good, table])
        except ConfigError as error:
            refused[table.id] = error.message
        else:
            good.append(table)
    assert {id.schema for id in refused} == {"a", "b", "c"}
    calls: list[Table] = []
    target = mapping.target
    monkeypatch.setattr(mapping, "target", lambda source: calls.append(source) or target(source))
    found = mapping.misfits(tables[:1], tables[1:])
    assert {id: error.message for id, error in found.items()} == refused
    assert len(calls) == len(tables)

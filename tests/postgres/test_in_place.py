"""A table that is backfilled in place: its unique indexes, and its key."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import convert
from msgspec.structs import replace

from engine.change import CaughtUp, DeleteRange, InPlace, KeyRange, SchemaChange
from engine.contract import ComparesKeys
from engine.errors import UnloggedChange
from engine.schema import Column, Index, Kind, Table, TableId, Type
from engine.toolkit.policies import StoragePolicies
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.postgres.tables import column, indexes_of, table
from tests.support.targets import Target, insert, read

N = Column("n", Type("int32"), "int")
BY_N = Index("by_n", (2,))
BEFORE = table(
    column("text", length=10), N, indexes=(Index("by_c", (1,), unique=True), BY_N), version=1
)
#: A version with a unique index on a column that has a value twice.
TWICE = replace(BEFORE, indexes=(Index("one_n", (2,), unique=True), BY_N), version=2)
ROWS = [(1, "a", 1), (2, "b", 1)]
FRESH = [(1, "b", 2), (2, "a", 1)]
KEY = "shop.t USING btree (id)"
PLAIN = "shop.t USING btree (n)"


def unique_indexes(target: Target) -> set[str]:
    return {it for it in indexes_of(target) if it.startswith("UNIQUE")} - {f"UNIQUE {KEY}"}


@pytest.mark.parametrize("steps", [[], [BEFORE], [BEFORE, BEFORE]])
def test_unique_indexes_are_built_when_the_table_has_caught_up(
    target: Target, steps: list[object]
) -> None:
    """GIVEN rows that share a value WHEN the table gets a unique index on it, at the start of the
    backfill or during it THEN the index is built when the new rows are there."""
    target.create(BEFORE)
    target.do(insert(BEFORE, *ROWS))
    now = BEFORE
    for _ in steps:  # the table is backfilled in place, and again
        target.do(InPlace(now, BEFORE))
        assert unique_indexes(target) == set()
    if steps:
        target.do(SchemaChange("ALTER", BEFORE, TWICE), in_backfill=[BEFORE.id])
    else:
        target.do(InPlace(BEFORE, TWICE))
    moved = replace(TWICE, id=TableId("shop", "u"), version=3)
    for before, after in ((TWICE, moved), (moved, replace(TWICE, version=4))):
        target.do(SchemaChange("RENAME", before, after))
    assert unique_indexes(target) == set()
    assert PLAIN in indexes_of(target)
    last = replace(TWICE, version=4)
    gone = DeleteRange(last, ("id",), KeyRange(None, None), FRESH)
    target.do(gone, read(last, *FRESH), in_backfill=[last.id])
    target.do(CaughtUp(last))
    assert unique_indexes(target) == {f"UNIQUE {PLAIN}"}
    both = replace(last, indexes=(*last.indexes, *BEFORE.indexes[:1]), version=5)
    target.do(SchemaChange("ALTER", last, both))
    assert len(unique_indexes(target)) == 2


def test_an_index_that_the_rows_do_not_allow_is_an_unlogged_change(target: Target) -> None:
    target.create(BEFORE)
    target.do(insert(BEFORE, *ROWS))
    assert isinstance(target.refuses(SchemaChange("ALTER", BEFORE, TWICE)), UnloggedChange)


def test_a_column_of_which_the_log_lacks_the_values_needs_a_twin(target: Target) -> None:
    target.create(BEFORE)
    target.do(insert(BEFORE, *ROWS))
    drawn = Column("drawn", Type("float64"), "double", nullable=False, default="rand()")
    wide = replace(BEFORE, columns=(*BEFORE.columns, drawn), version=2)
    error = target.refuses(InPlace(BEFORE, wide))
    assert isinstance(error, UnloggedChange)
    assert error.needs_twin
    assert error.about(TableId("shop", "own")).needs_twin
    assert "cannot be backfilled in place" in error.message


def test_a_range_costs_no_round_trips_for_settings(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.create(BEFORE)
    target.do(insert(BEFORE, *ROWS))
    session, statements = target.sink._session, list[str]()
    execute = session.execute

    async def watched(query: str, *arguments: Any, **named: Any) -> Any:
        statements.append(query)
        return await execute(query, *arguments, **named)

    monkeypatch.setattr(session, "execute", watched)
    target.apply(DeleteRange(BEFORE, ("id",), KeyRange(None, None), ROWS[:1]))
    assert not [it for it in statements if "enable_hashjoin" in it]
    shown = target.run(target.run(execute("SHOW enable_hashjoin")).fetchone())
    assert shown == ("off",)
    target.commit()
    assert target.rows(BEFORE) == ROWS[:1]


@pytest.mark.parametrize(
    ("policies", "kind", "source_type", "stored"),
    [
        ({"tinyint1": "boolean"}, "int8", "tinyint(1)", "boolean"),
        ({"zero_date": "text"}, "date", "date", "text"),
        ({"unsigned_bigint": "bigint"}, "uint64", "bigint unsigned", ""),
        ({}, "int8", "tinyint(1)", ""),
    ],
)
def test_a_key_that_is_stored_otherwise_has_other_ranges(
    policies: dict[str, str], kind: Kind, source_type: str, stored: str
) -> None:
    """A share, which is text on both sides, is no part of a range."""
    settings = PostgresSettings("postgresql://", values=convert(policies, StoragePolicies))
    sink = PostgresSink(settings, "test")
    share = Column("shop", Type("text", length=10), "text", nullable=False)
    key = Column("k", Type(kind), source_type, nullable=False)
    reason = sink.why_not_by_range(Table(TableId("shop", "t"), (share, key), key=(0, 1)))
    assert isinstance(sink, ComparesKeys)
    assert (f"the column k of the key has the type {stored}" in reason) if stored else not reason

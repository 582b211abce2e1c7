"""
The rules for tables in backfill: their rows may be ahead of the stream.
"""

from __future__ import annotations

import msgspec

from engine.change import (
    CaughtUp,
    DeleteRange,
    InPlace,
    KeepKeys,
    KeyRange,
    Row,
    Rows,
    SchemaChange,
)
from engine.contract_suite.target import (
    ID,
    NOTE,
    TABLE,
    TEXT,
    A,
    B,
    C,
    Engine,
    Target,
    create,
    delete,
    insert,
    read,
    rows_of,
    rule,
    update,
)
from engine.schema import Column, TableId

__all__ = ["BackfillRules"]


class BackfillRules:
    """Rows of a backfill, and changes that a chunk may already show."""

    @rule("upsert")
    async def test_backfilled_rows_replace(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(SchemaChange("", None, TABLE))
            await engine.write(read(A, B), in_backfill=[TABLE])
            assert rows_of(target, TABLE) == [A, B]
            await engine.write(read((1, "a", "newer"), C), in_backfill=[TABLE])
        assert rows_of(target, TABLE) == [(1, "a", "newer"), B, C]

    @rule("upsert")
    async def test_changes_that_a_chunk_already_shows_are_no_drift(self, target: Target) -> None:
        newest, changed = (1, "a", "newest"), (9, "c", None)
        history = [
            insert(A, B, C),
            update((A, newest)),
            delete(B),
            update((C, changed)),
        ]
        async with Engine(target) as engine:
            await engine.write(SchemaChange("", None, TABLE))
            await engine.write(read(newest, changed), in_backfill=[TABLE])
            for changes in history:
                assert (await engine.write(changes, in_backfill=[TABLE])).drift == {}
            applied = await engine.write(*history, CaughtUp(TABLE), in_backfill=[TABLE])
            assert applied.drift == {}
        assert rows_of(target, TABLE) == [newest, changed]

    @rule("upsert")
    async def test_a_partial_image_never_inserts(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(SchemaChange("", None, TABLE))
            minimal = Rows(TABLE, "update", [(1, None, None)], [(1, None, "new")], 0b001, 0b101)
            await engine.write(minimal, in_backfill=[TABLE])
            assert rows_of(target, TABLE) == []
            await engine.write(read((1, "a", "new")), in_backfill=[TABLE])
        assert rows_of(target, TABLE) == [(1, "a", "new")]

    @rule("upsert")
    async def test_a_unique_value_may_be_there_twice_until_the_table_has_caught_up(
        self, target: Target
    ) -> None:
        async with Engine(target) as engine:
            await engine.write(SchemaChange("", None, TABLE))
            await engine.write(read(A), in_backfill=[TABLE])
            # The chunk is ahead of the stream: it already shows the value on its new row.
            await engine.write(read((2, "a", None)), in_backfill=[TABLE])
            await engine.write(update((A, (1, "free", None))), CaughtUp(TABLE), in_backfill=[TABLE])
        assert rows_of(target, TABLE) == [(1, "free", None), (2, "a", None)]

    @rule("in place")
    async def test_rows_of_a_range_are_removed_but_for_those_that_are_kept(
        self, target: Target
    ) -> None:
        def others(after: int | None, last: int | None, *kept: Row) -> DeleteRange:
            bounds = [None if it is None else (it,) for it in (after, last)]
            return DeleteRange(TABLE, ("id",), KeyRange(*bounds), list(kept))

        rows = [(number, str(number), None) for number in range(10)]
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(*rows))
            await engine.write(others(2, 5, rows[4]), in_backfill=[TABLE])
            assert rows_of(target, TABLE) == [*rows[:3], rows[4], *rows[6:]]
            await engine.write(others(8, None), in_backfill=[TABLE])
            await engine.write(others(None, 1, rows[0]), in_backfill=[TABLE])
            assert rows_of(target, TABLE) == [rows[0], rows[2], rows[4], *rows[6:9]]
            await engine.write(others(None, None, rows[7]), in_backfill=[TABLE])
        assert rows_of(target, TABLE) == [rows[7]]

    @rule("in place")
    async def test_a_range_of_several_columns(self, target: Target) -> None:
        table = msgspec.structs.replace(
            TABLE,
            columns=(ID, msgspec.structs.replace(ID, name="line"), NOTE),
            key=(0, 1),
            indexes=(),
        )
        rows = [(a, b, "x") for a in range(4) for b in range(4)]
        change = DeleteRange(table, ("id", "line"), KeyRange((1, 2), (2, 1)), [rows[8]])
        async with Engine(target) as engine:
            await engine.write(*create(table), Rows(table, "insert", None, rows))
            await engine.write(change, in_backfill=[table])
        assert rows_of(target, table) == [
            it for it in rows if it not in rows[7:10] or it == rows[8]
        ]

    @rule("in place")
    async def test_rows_are_removed_whose_keys_a_twin_does_not_have(self, target: Target) -> None:
        keys = msgspec.structs.replace(TABLE.narrowed(()), id=TableId("shop", "twin"))
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A, B, C))
            await engine.write(SchemaChange("", None, keys))
            await engine.write(Rows(keys, "read", None, [(1,), (9,)]), in_backfill=[keys])
            await engine.write(KeepKeys(TABLE, keys), in_backfill=[TABLE, keys])
        assert rows_of(target, TABLE) == [A]

    @rule("in place")
    async def test_a_table_keeps_its_rows_and_may_have_unique_values_twice(
        self, target: Target
    ) -> None:
        wide = msgspec.structs.replace(
            TABLE, columns=(*TABLE.columns, Column("more", TEXT, "text")), version=2
        )
        fresh = (2, "a", None, "new")
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A, B))
            await engine.write(InPlace(TABLE, wide))
            assert rows_of(target, wide) == [(*A, None), (*B, None)]
            await engine.write(Rows(wide, "read", None, [fresh]), in_backfill=[wide])
            assert rows_of(target, wide) == [(*A, None), fresh]
            gone = DeleteRange(wide, ("id",), KeyRange(None, None), [fresh])
            await engine.write(gone, CaughtUp(wide), in_backfill=[wide])
            assert rows_of(target, wide) == [fresh]
            state = await engine.sink.state()
        assert state is not None
        assert state.tables == (wide,)

"""
The rules for tables in backfill: their rows may be ahead of the stream.
"""

from __future__ import annotations

from engine.change import CaughtUp, Rows, SchemaChange
from engine.contract_suite.target import (
    TABLE,
    A,
    B,
    C,
    Engine,
    Target,
    delete,
    insert,
    read,
    rows_of,
    rule,
    update,
)

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

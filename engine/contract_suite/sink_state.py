"""
The rules for a sink's state: epochs, fencing, the checkpoint, and transactions.
"""

from __future__ import annotations

import asyncio

import pytest

from engine.change import Begin, Commit, Heartbeat, Row, SchemaChange
from engine.checkpoint import Checkpoint, TableProgress
from engine.contract_suite.faults import FailAfter, FaultySink, Hold, Late, Reject
from engine.contract_suite.target import (
    KEYLESS,
    PIPELINE,
    TABLE,
    TEXT,
    A,
    B,
    C,
    Engine,
    Target,
    altered,
    create,
    delete,
    insert,
    rows_of,
    rule,
    update,
)
from engine.errors import Fenced, SinkLost
from engine.schema import Column, TableId

__all__ = ["StateRules", "TransactionRules"]


class StateRules:
    """Epochs, fencing, and the stored checkpoint."""

    @rule()
    async def test_nothing_is_stored_before_the_first_open(self, target: Target) -> None:
        assert await target.sink().state() is None

    @rule()
    async def test_each_open_takes_a_higher_epoch(self, target: Target) -> None:
        async with Engine(target) as first, Engine(target) as second:
            assert second.epoch > first.epoch > 0
            state = await target.sink().state()
            assert state is not None
            assert (state.epoch, state.checkpoint, state.tables) == (second.epoch, None, ())

    @rule()
    async def test_an_engine_keeps_its_epoch_after_a_lost_connection(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            epoch = engine.epoch
            await engine.sink.close()
            state = await engine.open(epoch)
            assert state.epoch == epoch
            assert state.checkpoint is not None
            assert state.checkpoint.position == "1"
            await engine.write(insert(B))
        assert rows_of(target, TABLE) == [A, B]

    @rule()
    async def test_an_older_engine_is_fenced_and_changes_nothing(self, target: Target) -> None:
        async with Engine(target) as old:
            await old.write(*create(TABLE), insert(A))
            async with Engine(target) as new:
                await old.apply(insert(B))
                with pytest.raises(Fenced):
                    await old.commit()
                await new.write(insert(C))
            rows = rows_of(target, TABLE)
            assert rows == [A, C] if target.can("transactional") else {A, C} <= set(rows)
            await old.sink.close()
            with pytest.raises(Fenced):
                await old.sink.open(old.epoch)
        state = await target.sink().state()
        assert state is not None
        assert state.checkpoint is not None
        assert (state.checkpoint.position, state.checkpoint.epoch) == ("2", new.epoch)

    @rule()
    async def test_the_checkpoint_comes_back_as_it_was_stored(self, target: Target) -> None:
        progress = {
            "item": TableProgress("backfilling", '["k", 1]', 10, 100, "77"),
            "remark": TableProgress("pending", estimate=5),
        }
        async with Engine(target) as engine:
            await engine.apply(*create(TABLE), *create(KEYLESS))
            await engine.commit(**progress)
            expected = Checkpoint(
                *(PIPELINE, engine.epoch, "1", 1.5),
                {TableId("contract_shop", name): value for name, value in progress.items()},
            )
        state = await target.sink().state()
        assert state is not None
        assert state.checkpoint == expected
        assert set(state.tables) == {TABLE, KEYLESS}
        async with Engine(target) as engine:
            assert engine.position == 1

    @rule()
    async def test_a_position_advances_without_rows(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE))
            await engine.apply(Heartbeat("2", 1.5))
            await engine.commit()
            await engine.commit()
        state = await target.sink().state()
        assert state is not None
        assert state.checkpoint is not None
        assert state.checkpoint.position == "3"

    @rule()
    async def test_a_sink_may_be_closed_twice_and_opened_again(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.sink.close()
            await engine.sink.close()
            await engine.open()
            await engine.write(*create(TABLE), insert(A))
        assert rows_of(target, TABLE) == [A]


class TransactionRules:
    """Commits, rollbacks, and connections that break during either."""

    @rule("transactional")
    async def test_uncommitted_changes_are_lost(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            await engine.apply(insert(B), delete(A))
            assert rows_of(target, TABLE) == [A]
        async with Engine(target) as engine:
            assert engine.position == 1
        assert rows_of(target, TABLE) == [A]

    @rule("transactional")
    async def test_rollback_undoes_rows_and_schema_changes(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE), insert(A))
            await engine.apply(*create(KEYLESS), insert(("x", None), table=KEYLESS), insert(C))
            if target.can("schema changes"):
                more = altered((*TABLE.columns, Column("more", TEXT, "text")))
                row = (2, "b", "x", "y")
                await engine.apply(SchemaChange("", TABLE, more), insert(row, table=more))
            await engine.sink.rollback()
            await engine.sink.rollback()
            await engine.write(insert(B))
        state = await target.sink().state()
        assert state is not None
        assert state.tables == (TABLE,)
        assert rows_of(target, TABLE) == [A, B]

    @rule()
    async def test_a_commit_whose_answer_is_lost_is_read_back(self, target: Target) -> None:
        sink = FaultySink(target.sink())
        async with Engine(target, sink) as engine:
            await engine.write(*create(KEYLESS), insert(("x", None), table=KEYLESS))
            sink.plan("commit", FailAfter())
            await engine.apply(insert(("y", None), table=KEYLESS))
            with pytest.raises(SinkLost):
                await engine.commit()
            await engine.open(engine.epoch)
            assert engine.position == 2
        assert rows_of(target, KEYLESS) == [("x", None), ("y", None)]

    @rule()
    async def test_a_commit_that_never_arrived_is_repeated(self, target: Target) -> None:
        """The only test in which the guarantees differ: a change may arrive twice if it is at least
        once.
        """
        sink = FaultySink(target.sink())
        async with Engine(target, sink) as engine:
            await engine.write(*create(KEYLESS), insert(("x", None), table=KEYLESS))
            sink.plan("commit", Reject())
            await engine.apply(insert(("y", None), table=KEYLESS))
            with pytest.raises(SinkLost):
                await engine.commit()
            await engine.open(engine.epoch)
            assert engine.position == 1
            await engine.write(insert(("y", None), table=KEYLESS))
        rows = rows_of(target, KEYLESS)
        if sink.capabilities.guarantee == "exactly once":
            assert rows == [("x", None), ("y", None)]
        else:
            assert set(rows) == {("x", None), ("y", None)}

    @rule()
    async def test_a_commit_that_comes_after_a_takeover_is_fenced(self, target: Target) -> None:
        sink = FaultySink(target.sink())
        async with Engine(target, sink) as old:
            await old.write(*create(KEYLESS), insert(("x", None), table=KEYLESS))
            late = Late()
            sink.plan("commit", late)
            await old.apply(insert(("old", None), table=KEYLESS))
            commit = asyncio.ensure_future(old.commit())
            await late.reached.wait()
            async with Engine(target) as new:
                late.release.set()
                with pytest.raises(Fenced):
                    await commit
                assert new.position == 1
                await new.write(insert(("new", None), table=KEYLESS))
        rows, expected = rows_of(target, KEYLESS), [("new", None), ("x", None)]
        assert rows == expected if target.can("transactional") else set(expected) <= set(rows)

    @rule()
    async def test_a_takeover_sees_a_commit_whose_answer_is_delayed(self, target: Target) -> None:
        sink = FaultySink(target.sink())
        async with Engine(target, sink) as old:
            await old.write(*create(KEYLESS))
            hold = Hold()
            sink.plan("commit", hold)
            await old.apply(insert(("x", None), table=KEYLESS))
            commit = asyncio.ensure_future(old.commit())
            await hold.reached.wait()
            async with Engine(target) as new:
                assert new.position == 2
            hold.release.set()
            await commit
        assert rows_of(target, KEYLESS) == [("x", None)]

    @rule()
    async def test_a_large_transaction_arrives_in_pieces(self, target: Target) -> None:
        async with Engine(target) as engine:
            await engine.write(*create(TABLE))
            rows: list[Row] = [(number, f"c{number}", None) for number in range(3000)]
            await engine.apply(Begin("2", "1", 1.5), insert(*rows[:1500]))
            await engine.apply(insert(*rows[1500:]), delete(*rows[:10]))
            pairs = [(row, (row[0] + 10_000, row[1], "new key")) for row in rows[10:20]]
            await engine.apply(update(*pairs), Commit("2", 1.5))
            if target.can("transactional"):
                assert rows_of(target, TABLE) == []
            await engine.commit()
        assert rows_of(target, TABLE) == [*rows[20:], *(new for _, new in pairs)]

"""
The rules for a sink that applications can be switched to (``engine.handover.KeepsCutovers``).
"""

from __future__ import annotations

import msgspec
import pytest

from engine.checkpoint import TableProgress
from engine.contract import Sink
from engine.contract_suite.target import TABLE, Engine, Target, create, rule
from engine.errors import SinkError
from engine.handover import Cutover, KeepsCutovers, Numbers, ProvenTable, Sides, StepRecord

__all__ = ["CutoverRules"]

LIVE = TableProgress("live")
BEGUN = Cutover("cutover_1", "freeze", 1000.25, "somebody", pipeline="p", start="3")
GONE_ON = msgspec.structs.replace(
    BEGUN,
    state="switch",
    before='{"read_only":"OFF"}',
    end="7",
    frozen_at=1001.5,
    steps=(StepRecord("freeze", 1001.5, 0.5, "froze", "will freeze", "--abort"),),
    sides=Sides("1", "MySQL", "there", "PostgreSQL", "here"),
    predicted={"freeze": 1.0},
    predicted_at=900.0,
    warnings=("a warning",),
    proofs=(ProvenTable("s.item", 5, 1002.0, 0.1, "7", "rows", compared=False),),
)


def keeper_of(sink: Sink) -> KeepsCutovers:
    """The sink, if it keeps cutovers; else the test is skipped."""
    if not isinstance(sink, KeepsCutovers):
        pytest.skip("applications cannot be switched to the sink")
    return sink


async def begin(target: Target) -> None:
    """A pipeline with a live table, which has two rows at most."""
    async with Engine(target) as engine:
        await engine.apply(*create(TABLE))
        await engine.commit(item=LIVE)


class CutoverRules:
    """The record of a cutover is kept, for one process at a time; tables are made ready."""

    @rule()
    async def test_the_newest_record_is_kept_whole(self, target: Target) -> None:
        sink = keeper_of(target.sink())
        await begin(target)
        assert await sink.newest_cutover() is None
        async with sink.cutover_store() as store:
            assert await store.newest() is None
            await store.save(BEGUN)
            assert await store.newest() == BEGUN
            await store.save(GONE_ON)
            assert await sink.newest_cutover() == GONE_ON
        back = msgspec.structs.replace(BEGUN, id="cutover_2", direction="back")
        async with sink.cutover_store() as store:
            assert await store.newest() == GONE_ON
            await store.save(back)
            await store.save(msgspec.structs.replace(back, state="aborted", reason="why"))
        newest = await keeper_of(target.sink()).newest_cutover()
        assert newest is not None
        assert (newest.id, newest.direction, newest.reason) == ("cutover_2", "back", "why")
        assert newest.ended

    @rule()
    async def test_one_process_at_a_time_works_on_the_cutover(self, target: Target) -> None:
        sink, other = keeper_of(target.sink()), keeper_of(target.sink())
        await begin(target)
        async with sink.cutover_store() as store:
            with pytest.raises(SinkError) as raised:
                async with other.cutover_store():
                    pytest.fail("two processes have the store")
            assert raised.value.hint
            await store.save(BEGUN)
            assert await other.newest_cutover() == BEGUN
        async with other.cutover_store() as store:
            assert await store.newest() == BEGUN

    @rule()
    async def test_there_is_no_store_without_a_pipeline(self, target: Target) -> None:
        sink = keeper_of(target.sink())
        assert await sink.newest_cutover() is None
        with pytest.raises(SinkError):
            async with sink.cutover_store():
                pytest.fail("there is a store without a state")

    @rule()
    async def test_tables_are_made_ready_again_and_again(self, target: Target) -> None:
        sink = keeper_of(target.sink())
        await begin(target)
        assert await sink.obstacles([TABLE.id], Numbers(10)) == []
        assert await sink.clients([TABLE.id]) == []
        first = await sink.finish([TABLE.id], Numbers(10))
        assert first.tables == 1
        again = await sink.finish([TABLE.id], Numbers(10))
        assert (again.tables, again.constraints) == (1, 0)

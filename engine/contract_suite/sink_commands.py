"""
The rules for a sink that keeps commands to the pipeline (``engine.commands.CommandStore``).
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from engine.checkpoint import Checkpoint
from engine.commands import CommandStore
from engine.contract import Sink
from engine.contract_suite.target import (
    PIPELINE,
    TABLE,
    A,
    Engine,
    Target,
    create,
    insert,
    rule,
)

__all__ = ["CommandRules"]


def store_of(sink: Sink) -> CommandStore:
    """The sink, if it keeps commands; else the test is skipped."""
    if not isinstance(sink, CommandStore):
        pytest.skip("the sink keeps no commands")
    return sink


class CommandRules:
    """Commands wait until they are concluded, in the transaction of their effects."""

    @rule()
    async def test_a_command_waits_until_its_outcome_is_committed(self, target: Target) -> None:
        other = store_of(target.sink())
        async with Engine(target) as engine, AsyncExitStack() as stack:
            store = store_of(engine.sink)
            await engine.write(*create(TABLE))
            client = await stack.enter_async_context(other.command_client())
            waits = [store.commands_wait]
            ids = [await client.submit(text, "ann") for text in ('{"a":1}', '{"b":2}')]
            await engine.write(insert(A))
            waits.append(store.commands_wait)
            waiting = await store.waiting_commands()
            assert [(it.id, it.command, it.by) for it in waiting] == [
                (ids[0], '{"a":1}', "ann"),
                (ids[1], '{"b":2}', "ann"),
            ]
            assert waiting[0].at > 1e9
            assert await store.claim_command(ids[0])
            await store.conclude_command(ids[0], "done")
            assert (await client.find(ids[0])) == waiting[0]
            await engine.sink.rollback()
            assert len(await store.waiting_commands()) == 2
            await store.conclude_command(ids[0], "done")
            await store.conclude_command(ids[1], "cannot", refused=True)
            await engine.commit()
            waits.append(store.commands_wait)
            assert waits == [False, True, False]
            found = [await client.find(id) for id in ids]
            assert [(it.outcome, it.refused) for it in found if it is not None] == [
                ("done", False),
                ("cannot", True),
            ]
            assert await client.find(max(ids) + 1) is None

    @rule()
    async def test_a_command_that_waits_can_be_cancelled(self, target: Target) -> None:
        other = store_of(target.sink())
        async with Engine(target) as engine, other.command_client() as client:
            store = store_of(engine.sink)
            await engine.write(*create(TABLE))
            ids = [await client.submit(text, "ann") for text in ('{"a":1}', '{"b":2}')]
            assert await client.cancel(ids[0], "cancelled")
            assert not await client.cancel(ids[0], "cancelled")
            assert not await client.cancel(max(ids) + 1, "cancelled")
            assert not await store.claim_command(ids[0])
            assert await store.claim_command(ids[1])
            await store.conclude_command(ids[1], "done")
            await engine.commit()
            assert not store.commands_wait
            assert not await client.cancel(ids[1], "cancelled")
            newest = [(it.id, it.outcome, it.refused) for it in await client.newest(1)]
            assert newest == [(ids[1], "done", False)]
            ids.append(await client.submit("{}", "ann"))
            assert [it.id for it in await client.newest(2)] == ids[1:]
            assert [it.id for it in await client.newest(0)] == ids[2:]

    @rule()
    async def test_a_pause_is_part_of_the_checkpoint(self, target: Target) -> None:
        store_of(target.sink())
        async with Engine(target) as engine:
            await engine.write(*create(TABLE))
            for paused in (True, False):
                checkpoint = Checkpoint(PIPELINE, engine.epoch, "1", 1.5, paused=paused)
                await engine.sink.commit(checkpoint)
                state = await target.sink().state()
                assert state is not None
                assert state.checkpoint == checkpoint

    @rule()
    async def test_it_tells_whether_an_engine_is_connected(self, target: Target) -> None:
        other = store_of(target.sink())
        async with other.command_client() as client:
            async with Engine(target) as engine:
                await engine.write(*create(TABLE))
                assert await client.engine_runs()
            async with asyncio.timeout(10):  # a server ends a session after the client is gone
                while await client.engine_runs():
                    await asyncio.sleep(0.01)

"""
The rules for a sink that keeps commands to the pipeline (``engine.recovery.CommandStore``).
"""

from __future__ import annotations

import pytest

from engine.commands import CommandStore
from engine.contract import Sink
from engine.contract_suite.target import TABLE, A, Engine, Target, create, insert, rule

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
        async with Engine(target) as engine:
            store = store_of(engine.sink)
            await engine.write(*create(TABLE))
            waits = [store.commands_wait]
            ids = [await other.submit_command(text, "ann") for text in ('{"a":1}', '{"b":2}')]
            await engine.write(insert(A))
            waits.append(store.commands_wait)
            waiting = await store.waiting_commands()
            assert [(it.id, it.command, it.by) for it in waiting] == [
                (ids[0], '{"a":1}', "ann"),
                (ids[1], '{"b":2}', "ann"),
            ]
            assert waiting[0].at > 1e9
            await store.conclude_command(ids[0], "done")
            assert (await other.find_command(ids[0])) == waiting[0]
            await engine.sink.rollback()
            assert len(await store.waiting_commands()) == 2
            await store.conclude_command(ids[0], "done")
            await store.conclude_command(ids[1], "cannot", refused=True)
            await engine.commit()
            waits.append(store.commands_wait)
            assert waits == [False, True, False]
            found = [await other.find_command(id) for id in ids]
            assert [(it.outcome, it.refused) for it in found if it is not None] == [
                ("done", False),
                ("cannot", True),
            ]
            assert await other.find_command(max(ids) + 1) is None

    @rule()
    async def test_it_tells_whether_an_engine_is_connected(self, target: Target) -> None:
        other = store_of(target.sink())
        async with Engine(target) as engine:
            await engine.write(*create(TABLE))
            assert await other.engine_runs()
        assert not await other.engine_runs()

"""
The rules for a sink that keeps dead letters (``engine.recovery.DeadLetterStore``).
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from engine.change import Row
from engine.contract import Sink
from engine.contract_suite.target import (
    TABLE,
    A,
    B,
    C,
    Engine,
    Target,
    create,
    delete,
    insert,
    rows_of,
    rule,
    update,
)
from engine.errors import ApplyError
from engine.recovery import DeadLetter, DeadLetterStore

__all__ = ["DeadLetterRules"]

LETTER = DeadLetter(
    TABLE.id, "[1]", "insert", b"\x00images", "CheckViolation", "refused", "7", 1, 0.0
)


def store_of(sink: Sink) -> DeadLetterStore:
    """The sink, if it keeps dead letters; else the test is skipped."""
    if not isinstance(sink, DeadLetterStore):
        pytest.skip("the sink keeps no dead letters")
    return sink


class DeadLetterRules:
    """What fails in a savepoint is undone alone, and letters belong to the transaction."""

    @rule()
    async def test_a_savepoint_undoes_its_body_alone(self, target: Target) -> None:
        many: list[Row] = [(number, f"n{number}", None) for number in range(100, 400)]
        store_of(target.sink())
        async with Engine(target) as engine:
            store = store_of(engine.sink)
            await engine.write(*create(TABLE), insert(A, B))
            await engine.apply(update((A, (1, "a", "changed"))))
            for rows in ([C], many):
                with suppress(ApplyError):
                    async with store.savepoint():
                        await engine.apply(insert(*rows), delete(B))
                        raise ApplyError("the target refuses it", table=TABLE.id)
            async with store.savepoint():
                await engine.apply(insert(*many))
            await engine.apply(delete(*many[1:]))
            await engine.commit()
        assert rows_of(target, TABLE) == [(1, "a", "changed"), B, many[0]]

    @rule()
    async def test_letters_are_stored_and_closed_with_the_rows(self, target: Target) -> None:
        other = store_of(target.sink())
        async with Engine(target) as engine:
            store = store_of(engine.sink)
            await engine.write(*create(TABLE))
            await store.add_dead_letter(LETTER)
            await engine.sink.rollback()
            assert await other.read_dead_letters() == []
            for _ in range(3):
                await store.add_dead_letter(LETTER)
            await engine.commit()
            letters = await store.dead_letters()
            assert len(letters) == 3
            first, second = letters[:2]
            assert first.id < second.id
            assert (first.table, first.images, first.outcome) == (TABLE.id, LETTER.images, None)
            assert first.at > 1e9
            assert await other.count_dead_letters() == {TABLE.id: 3}
            await store.close_dead_letters(TABLE.id, second.id, "applied")
            await engine.commit()
            assert len(await store.dead_letters()) == 2
            await store.close_dead_letters(TABLE.id, None, "left")
            await engine.commit()
            assert await store.dead_letters() == []
            assert await other.count_dead_letters() == {}
            closed = await other.read_dead_letters()
            assert [letter.images for letter in closed] == [b"", b"", b""]
            outcomes = [letter.outcome for letter in closed]
            assert outcomes == ["left", "applied", "left"]

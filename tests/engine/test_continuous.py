"""When tables are compared again, the budget of a comparison, and what is stored of an outcome."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from engine.checkpoint import Checkpoint, TableProgress
from engine.cli.continuous import (
    AGAIN_SECONDS,
    LOOK_SECONDS,
    ContinuousVerify,
    due,
    only_live,
)
from engine.cli.engine import Engine
from engine.cli.resuming import version
from engine.cli.verify import Record, Waiting
from engine.contract import State
from engine.errors import SinkLost
from engine.mapping.reader import with_sources
from engine.ops.metrics import Metrics
from engine.proof import TableProof
from engine.schema import Column, Origin, Table, TableId, Type
from engine.settings.verify import VerifySettings
from engine.verify.pace import Pace
from engine.verify.report import TableReport
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemorySettings, MemorySource

COLUMNS = (Column("id", Type("int32"), "int"),)
A, B, C = (Table(TableId("shop", name), COLUMNS, (0,)) for name in "abc")
LIVE = TableProgress("live")
RULES = VerifySettings(continuous=True, every_seconds=1000.0)


def proof(started_at: float, outcome: str = "equal") -> TableProof:
    return msgspec.convert(
        {"outcome": outcome, "started_at": started_at, "ended_at": started_at + 5.0}, TableProof
    )


def test_the_oldest_comparison_is_due_first() -> None:
    proofs = {A.id: proof(500.0), B.id: proof(100.0)}
    assert due([A, B, C], proofs, RULES, 2000.0) == (0.0, [C, B, A])
    proofs[C.id] = proof(1900.0)
    assert due([A, B, C], proofs, RULES, 1200.0) == (0.0, [B])
    assert due([A, B, C], proofs, RULES, 1099.0) == (1.0, [])
    assert due([], {}, RULES, 0.0) == (LOOK_SECONDS, [])


@pytest.mark.parametrize("outcome", ["inconclusive", "different"])
def test_a_table_that_was_not_equal_is_compared_again_sooner(outcome: str) -> None:
    """Unless that would take a large part of the time."""
    proofs = {A.id: proof(500.0, outcome)}
    rules = VerifySettings(continuous=True)
    assert due([A], proofs, rules, 1000.0)[0] == 505.0 + AGAIN_SECONDS - 1000.0
    assert due([A], proofs, RULES, 1000.0)[0] == 505.0
    long = {A.id: msgspec.structs.replace(proofs[A.id], ended_at=2500.0)}
    assert due([A], long, rules, 1000.0)[0] == 2500.0 + 20_000.0 - 1000.0


def test_a_merged_table_is_compared_when_one_of_its_tables_is_due() -> None:
    merged = Table(
        TableId("all", "t"), COLUMNS, (0,), origins=(Origin(A, "", "1"), Origin(B, "", "2"))
    )
    found = due([merged], {A.id: proof(0.0), B.id: proof(900.0)}, RULES, 1000.0)
    assert found == (0.0, [merged])
    both = {merged: [A, B]}
    assert only_live(both, {A.id: LIVE, B.id: LIVE}) == [merged]
    assert only_live(both, {A.id: LIVE, B.id: TableProgress("catching_up")}) == []
    left = with_sources(merged, {A.id})
    assert only_live({left: [A]}, {A.id: LIVE, B.id: TableProgress("quarantined")}) == [left]


# -- the budget ------------------------------------------------------------------------------------


def test_reads_take_their_share_of_the_time() -> None:
    async def run() -> float:
        pace, started = Pace(0.2), time.monotonic()

        async def read() -> None:
            async with pace.turn():
                await asyncio.sleep(0.01)

        for _ in range(4):
            await read()
        await read()
        return time.monotonic() - started

    assert asyncio.run(run()) >= 4 * 0.05


def test_reads_rest_for_the_rows_that_were_compared() -> None:
    async def run() -> float:
        pace = Pace(rows_per_second=1000.0)
        started = time.monotonic()
        pace.count(100)
        async with pace.turn():
            return time.monotonic() - started

    assert asyncio.run(run()) >= 0.09


# -- what is stored --------------------------------------------------------------------------------


def report(differing: int = 0, hot: int = 0) -> TableReport:
    return TableReport(
        *("shop.a", 10, differing, 0, 0, 1.0, not differing and not hot), hot=hot, started_at=7.0
    )


def recorded(
    found: TableReport, *, after: Table = A, state: TableProgress = LIVE
) -> TableProof | None:
    """What is stored of a comparison of ``A``, which ends as ``after`` in ``state``."""
    store = MemoryStore()

    def stored(table: Table, progress: TableProgress) -> State:
        return State(1, Checkpoint("p", 1, "5", 0.0, {A.id: progress}), (table,))

    async def run() -> TableProof | None:
        store.states["p"] = stored(A, LIVE)
        sink = MemorySink(MemorySinkSettings("memory:x"), "p", store)
        record = Record(sink, store.states["p"])
        store.states["p"] = stored(after, state)
        await record.add(A, found)
        await record.store()
        assert record.refused is None
        return (await sink.proofs()).get(A.id)

    return asyncio.run(run())


def test_the_outcome_of_a_live_table_is_stored() -> None:
    equal, different, hot = (recorded(it) for it in (report(), report(3), report(hot=2)))
    assert equal == TableProof("equal", 7.0, 8.0, rows=10, equal_at=7.0, first_at=7.0)
    assert different == TableProof("different", 7.0, 8.0, rows=10, differences=3, first_at=7.0)
    assert hot == TableProof("inconclusive", 7.0, 8.0, rows=10, hot=2, first_at=7.0)


def test_the_outcome_of_a_table_that_was_changed_meanwhile_is_not_stored() -> None:
    """Its rows on the target may be known to be old, or were read by another version."""
    for found in (report(3), report(hot=2), report()):
        assert recorded(found, state=TableProgress("pending", again=True)) is None
        assert recorded(found, after=msgspec.structs.replace(A, version=2)) is None


def test_a_proof_from_before_a_backfill_has_no_position() -> None:
    """GIVEN a comparison WHEN the table is backfilled again, and is live again when the outcome is
    stored THEN the outcome is not one of the rows that are there."""

    async def run() -> tuple[TableProof, str]:
        sink = MemorySink(MemorySinkSettings("memory:x"), "p", MemoryStore())
        epoch = (await sink.open()).epoch

        async def commit(progress: TableProgress) -> State:
            await sink.commit(Checkpoint("p", epoch, "5", 0.0, {A.id: progress}))
            state = await sink.state()
            assert state is not None
            return msgspec.structs.replace(state, tables=(A,))

        before = await commit(LIVE)
        record = Record(sink, before)
        await record.add(A, msgspec.structs.replace(report(), position="5"))
        await commit(TableProgress("pending", again=True))
        sink.store.states["p"] = after = await commit(LIVE)
        assert version(A, before) != version(A, after)
        await record.store()
        return (await sink.proofs())[A.id], version(A, before)

    proof, before = asyncio.run(run())
    assert (proof.outcome, proof.position) == ("equal", "")
    assert before == version(A, State(1, None, (A,), generations={A.id: 1}))


def test_a_target_that_holds_a_position_has_passed_it_after_the_deadline_too() -> None:
    async def committed() -> str:
        return "5"

    async def run() -> tuple[bool, bool]:
        waiting = Waiting(MemorySource(MemorySettings("memory:x")), committed)
        late = time.monotonic() - 1.0
        return await waiting.passed("5", late), await waiting.passed("6", late)

    assert asyncio.run(run()) == (True, False)


def test_a_round_that_fails_does_not_end_the_comparison(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The text of an error that is not Tailrace's may have a value, and is not logged."""
    errors: list[Exception] = [ValueError("secret"), SinkLost("away"), ArithmeticError("secret")]

    async def fail(self: ContinuousVerify, settings: object) -> float:
        if errors:
            raise errors.pop(0)
        raise asyncio.CancelledError

    monkeypatch.setattr(ContinuousVerify, "_round", fail)
    monkeypatch.setattr("engine.cli.continuous.LOOK_SECONDS", 0.0)
    settings = SimpleNamespace(verify=RULES, pipeline=SimpleNamespace(name="p"))
    comparing = ContinuousVerify(cast(Engine, SimpleNamespace(settings=settings)), Metrics("p"))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(comparing.run())
    classes = [record.__dict__["error_class"] for record in caplog.records]
    assert classes == ["ValueError", "SinkLost", "ArithmeticError"]
    assert "secret" not in caplog.text

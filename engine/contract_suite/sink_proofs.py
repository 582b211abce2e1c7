"""
The rules for a sink that keeps the last comparison of each table (``engine.proof.ProofStore``).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from engine.checkpoint import TableProgress
from engine.contract import Sink
from engine.contract_suite.target import KEYLESS, TABLE, Engine, Target, create, rule
from engine.proof import ProofStore, TableProof, Unfinished, UnfinishedStore
from engine.recovery import Resettable
from engine.schema import TableId

__all__ = ["ProofRules"]

EQUAL = TableProof("equal", 1000.25, 1002.5, "7", rows=5, equal_at=1000.25, first_at=1000.25)
DIFFERENT = TableProof(
    "different", 2000.0, 2001.0, "8", 5, 1, 2, reason="hot", sampled=True, first_at=2000.0
)
VOIDED = msgspec.structs.replace(EQUAL, position="")
UNFINISHED = Unfinished(
    *(1000.5, "7", 2.25, ("é", None), 10, 3, {"changed": 2}, (10, 2**64 - 1, 0), (9, 1, 2), "v"),
    hot=(("a", None), ("b", "")),
    unfound=1,
)
LIVE = TableProgress("live")


def store_of(sink: Sink) -> ProofStore:
    """The sink, if it keeps proofs; else the test is skipped."""
    if not isinstance(sink, ProofStore):
        pytest.skip("the sink keeps no proofs")
    return sink


async def save(sink: Sink, proofs: Mapping[TableId, TableProof]) -> None:
    """Store proofs of the generations of now."""
    state = await sink.state()
    generations = {} if state is None else state.generations
    await store_of(sink).save_proofs(proofs, {id: generations.get(id, 0) for id in proofs})


class ProofRules:
    """The last comparison of each table is kept, and when it was last found equal, and compared
    first.
    """

    @rule()
    async def test_the_last_proof_of_each_table_is_kept(self, target: Target) -> None:
        sink = target.sink()
        store = store_of(sink)
        assert await store.proofs() == {}
        async with Engine(target) as engine:
            await engine.apply(*create(TABLE), *create(KEYLESS))
            await engine.commit(item=LIVE, remark=LIVE)
            await save(sink, {TABLE.id: EQUAL, KEYLESS.id: DIFFERENT})
            assert await store.proofs() == {TABLE.id: EQUAL, KEYLESS.id: DIFFERENT}
            await save(sink, {TABLE.id: DIFFERENT})
            first = EQUAL.started_at
            kept = msgspec.structs.replace(DIFFERENT, equal_at=first, first_at=first)
            assert await store.proofs() == {TABLE.id: kept, KEYLESS.id: DIFFERENT}
        async with Engine(target) as engine:
            await engine.commit(item=LIVE)
            assert await store_of(target.sink()).proofs() == {TABLE.id: kept}

    @rule()
    async def test_the_proof_of_a_table_that_is_backfilled_again_has_no_position(
        self, target: Target
    ) -> None:
        """Also if it is stored only after that: the comparison began before."""
        sink = target.sink()
        store = store_of(sink)
        async with Engine(target) as engine:
            await engine.apply(*create(TABLE), *create(KEYLESS))
            await engine.commit(item=LIVE, remark=LIVE)
            both = {TABLE.id: EQUAL, KEYLESS.id: EQUAL}
            await save(sink, both)
            state = await sink.state()
            assert state is not None
            await engine.commit(item=TableProgress("pending", again=True), remark=LIVE)
            await engine.commit(item=LIVE, remark=LIVE)
            voided = {TABLE.id: VOIDED, KEYLESS.id: EQUAL}
            assert await store.proofs() == voided
            await store.save_proofs(both, state.generations)
            assert await store.proofs() == voided
            await save(sink, both)
            assert await store.proofs() == both

    @rule()
    async def test_the_proof_of_a_table_that_was_created_again_has_no_position(
        self, target: Target
    ) -> None:
        sink = target.sink()
        store = store_of(sink)
        async with Engine(target) as engine:
            await engine.apply(*create(TABLE))
            await engine.commit(item=LIVE)
            state = await sink.state()
            assert state is not None
            await engine.commit()
            await engine.commit(item=LIVE)
            await store.save_proofs({TABLE.id: EQUAL}, state.generations)
            assert await store.proofs() == {TABLE.id: VOIDED}

    @rule()
    async def test_all_proofs_may_be_voided(self, target: Target) -> None:
        """Those of comparisons that are under way, too."""
        sink = target.sink()
        store = store_of(sink)
        async with Engine(target) as engine:
            await engine.apply(*create(TABLE), *create(KEYLESS))
            await engine.commit(item=LIVE, remark=LIVE)
            await save(sink, {TABLE.id: EQUAL})
            state = await sink.state()
            assert state is not None
            await store.void_proofs()
            await store.save_proofs({KEYLESS.id: EQUAL}, state.generations)
            await engine.commit(item=LIVE, remark=LIVE)
            assert await store.proofs() == {TABLE.id: VOIDED, KEYLESS.id: VOIDED}
            await save(sink, {TABLE.id: EQUAL})
            assert await store.proofs() == {TABLE.id: EQUAL, KEYLESS.id: VOIDED}

    @rule()
    async def test_an_unfinished_comparison_is_kept_while_its_table_is_live(
        self, target: Target
    ) -> None:
        store = target.sink()
        if not isinstance(store, UnfinishedStore):
            pytest.skip("the sink keeps no comparisons that have not ended")
        again = TableProgress("pending", again=True)
        async with Engine(target) as engine:
            await engine.apply(*create(TABLE), *create(KEYLESS))
            await engine.commit(item=LIVE, remark=again)
            for id in (TABLE.id, KEYLESS.id):
                await store.save_unfinished(id, UNFINISHED)
            assert await store.unfinished() == {TABLE.id: UNFINISHED}
            await engine.commit(item=again, remark=LIVE)
            assert await store.unfinished() == {}
            await store.save_unfinished(KEYLESS.id, UNFINISHED)
            farther = msgspec.structs.replace(UNFINISHED, after=("9", None))
            await store.save_unfinished(KEYLESS.id, farther)
            assert await store.unfinished() == {KEYLESS.id: farther}
            await store.save_unfinished(KEYLESS.id, None)
            assert await store.unfinished() == {}
            await store.save_unfinished(KEYLESS.id, UNFINISHED)
            await engine.commit(item=again)
            assert await store.unfinished() == {}

    @rule()
    async def test_a_reset_removes_the_proofs(self, target: Target) -> None:
        sink = target.sink()
        store = store_of(sink)
        if not isinstance(sink, Resettable):
            pytest.skip("the sink cannot forget a pipeline")
        async with Engine(target) as engine:
            await engine.apply(*create(TABLE))
            await engine.commit(item=LIVE)
        await save(sink, {TABLE.id: EQUAL})
        await sink.reset(drop=True)
        await save(sink, {TABLE.id: EQUAL})
        assert await store.proofs() == {}

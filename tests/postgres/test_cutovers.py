"""
The records of cutovers in the target.
"""

from __future__ import annotations

import asyncio

import psycopg

from engine.contract_suite.sink_cutovers import BEGUN
from engine.handover import Cutover
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.conftest import AnyServer
from tests.support.targets import Fresh


def test_the_newest_cutover_does_not_depend_on_the_clock(
    postgres: AnyServer, fresh_postgres_database: Fresh
) -> None:
    """GIVEN a rehearsal WHEN the target's clock is set back, and a cutover begins THEN the cutover
    is the newest, not the rehearsal."""
    url = fresh_postgres_database(postgres)
    sink = PostgresSink(PostgresSettings(url), "p")

    async def run() -> Cutover | None:
        await sink.open()
        await sink.close()
        async with sink.cutover_store() as store:
            rehearsal = Cutover("cutover_0", "rehearsed", 1.0, "somebody", pipeline="p")
            await store.save(rehearsal)
            with psycopg.connect(url) as connection:
                connection.execute("UPDATE tailrace.cutover SET started_at = now() + '1 day'")
            await store.save(BEGUN)
            await store.save(rehearsal)
            return await store.newest()

    assert asyncio.run(run()) == BEGUN

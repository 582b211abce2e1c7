"""
A pipeline from a MySQL or MariaDB server into PostgreSQL that runs in the test's process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from engine.databases.mysql.settings import Tls
from engine.errors import TailraceError
from engine.mapping.changes import Mapping
from engine.ops.metrics import Metrics
from engine.pipeline.loop import Pipeline
from engine.settings.loader import BackfillSettings, BatchSettings, ErrorSettings, RetrySettings
from engine.toolkit.policies import ReadPolicies, StoragePolicies
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource

__all__ = ["catch_up", "make_pipeline", "running"]


def make_pipeline(
    source_url: str,
    target_url: str,
    tables: Sequence[str],
    *,
    name: str = "mirror",
    batch: BatchSettings | None = None,
    backfill: BackfillSettings | None = None,
    values: StoragePolicies | None = None,
    reads: ReadPolicies | None = None,
    mapping: Mapping | None = None,
    exclude: Sequence[str] = (),
    errors: ErrorSettings | None = None,
    tls: Tls = "prefer",
) -> Pipeline:
    """A pipeline that is ready to run. Its chunks are small by default, so a table has several."""
    return Pipeline(
        name,
        MySQLSource(
            MySQLSettings(
                url=source_url,
                tables=tuple(tables),
                exclude=tuple(exclude),
                heartbeat_seconds=1.0,
                tls=tls,
                values=reads or ReadPolicies(),
            )
        ),
        PostgresSink(PostgresSettings(target_url, values=values or StoragePolicies()), name),
        batch=batch or BatchSettings(),
        backfill=backfill or BackfillSettings(chunk_rows=100),
        retry=RetrySettings(give_up_seconds=30.0),
        metrics=Metrics(name),
        mapping=mapping,
        errors=errors,
    )


def catch_up(pipeline: Pipeline, timeout_seconds: float = 60.0) -> None:
    """Run the pipeline until everything that the source holds now is in the target."""

    async def run() -> None:
        async with asyncio.timeout(timeout_seconds):
            await pipeline.run(until_caught_up=True)

    asyncio.run(run())


@contextmanager
def running(pipeline: Pipeline, timeout_seconds: float = 30.0) -> Iterator[None]:
    """Run the pipeline on a thread until the block ends, then stop it. Raises its error."""
    loop = asyncio.new_event_loop()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(pipeline.run())
        except TailraceError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(pipeline.stop)
        thread.join(timeout_seconds)
        loop.close()
    if failed:
        raise failed[0]

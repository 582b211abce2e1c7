"""
The comparison that an engine makes by itself (``[verify] continuous = true``).

It is a task beside the pipeline, with connections of its own. It knows of the pipeline only its
status: the committed position, for which a comparison waits, and whether there is work to do, while
which it rests (``engine.cli.pauses``). The outcome of each table is stored in the target, so a
restart goes on with the table whose last comparison is oldest. So is how far its comparison by
ranges has got (``engine.cli.resuming``), and a restart goes on there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Final

from engine.checkpoint import TableProgress
from engine.cli.chosen import choose
from engine.cli.engine import Engine
from engine.cli.pauses import Pauses
from engine.cli.resuming import resuming
from engine.cli.stored import stored_state
from engine.cli.verify import Record, Waiting, rows_of
from engine.cli.wiring import make_mapping, make_sink, make_source
from engine.errors import ConfigError, TailraceError
from engine.mapping.reader import MappedReader, SharesReader
from engine.ops.log_fields import error_fields
from engine.ops.metrics import Metrics
from engine.proof import ProofStore, TableProof
from engine.recovery import PassesOver
from engine.remedies import REPAIR, rendered
from engine.schema import Table, TableId
from engine.settings.loader import Settings
from engine.settings.verify import VerifySettings
from engine.verify import comparison
from engine.verify.pace import Pace

__all__ = ["ContinuousVerify", "due"]

log = logging.getLogger("tailrace.verify")

#: The longest wait until the stored state is read again: a table may be due, or live, before.
LOOK_SECONDS: Final = 60.0
#: The wait while the pipeline does not follow, and how often it is seen whether the configuration
#: has changed.
BUSY_SECONDS: Final = 1.0
#: After this time a round begins no other table, so that the stored state is never old.
ROUND_SECONDS: Final = 60.0
#: A table that was not found equal is compared again after this time, or after so many times the
#: duration of its comparison, if that is sooner than it would be otherwise.
AGAIN_SECONDS: Final = 3600.0
AGAIN_TIMES: Final = 10.0
#: Rows of a chunk: few, because the pipeline shares the interpreter with the comparison.
CHUNK_ROWS: Final = 1000


class ContinuousVerify:
    """Compares the tables of ``engine`` in the background. ``metrics`` shows the outcomes."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._pauses = Pauses(engine)

    async def run(self) -> None:
        """Compare tables as they are due. Returns when it is cancelled."""
        while True:
            settings = self._engine.settings
            self._metrics.continuous = settings.verify.continuous
            wait_seconds = LOOK_SECONDS
            if settings.verify.continuous:
                try:
                    wait_seconds = await self._until_changed(settings)
                except TailraceError as error:
                    _tell_error(settings, error_fields(error))
                except (ArithmeticError, RecursionError, ValueError) as error:
                    # Its text may have a value.
                    _tell_error(settings, {"error_class": type(error).__name__})
            end = time.monotonic() + wait_seconds
            while (left := end - time.monotonic()) > 0 and self._engine.settings == settings:
                await asyncio.sleep(min(left, BUSY_SECONDS))

    async def _until_changed(self, settings: Settings) -> float:
        """A round, which a change of the configuration ends. Returns the seconds until the next
        one."""
        round = asyncio.create_task(self._round(settings))
        try:
            while self._engine.settings == settings:
                done, _ = await asyncio.wait({round}, timeout=BUSY_SECONDS)
                if done:
                    return round.result()
            return 0.0
        finally:
            round.cancel()
            await asyncio.gather(round, return_exceptions=True)

    async def _round(self, settings: Settings) -> float:
        """Compare the tables that are due, as far as a round goes. Returns the seconds until the
        next round.
        """
        if self._pauses.pipeline_is_busy():
            return BUSY_SECONDS
        sink, mapping = make_sink(settings), make_mapping(settings)
        if not isinstance(sink, ProofStore):
            raise ConfigError("this target cannot store what a comparison has found")
        state, checkpoint = await stored_state(sink)
        chosen = choose(mapping.restore(state), checkpoint.progress, mapping, ())
        live = only_live(chosen.tables, checkpoint.progress)
        rules = settings.verify
        waits, tables = due(live, await sink.proofs(), rules, time.time())
        if not tables:
            return min(waits, LOOK_SECONDS)
        source = make_source(settings)
        pace = Pace(
            rules.budget, rules.rows_per_second, lambda: self._pauses.until_idle(settings, source)
        )
        with (
            closing(source),
            closing(rows_of("source", source)) as source_rows,
            closing(rows_of("sink", sink)) as target_rows,
            closing(pace),
        ):
            waiting = Waiting(source, self._committed)
            record = Record(sink, state)
            longest_seconds = max(rules.every_seconds, AGAIN_SECONDS)
            resumes = await resuming(sink, record, state, longest_seconds)
            try:
                await comparison.verify(
                    _for_a_while(tables),
                    MappedReader(source_rows, mapping),
                    SharesReader(target_rows, chosen.others),
                    source_position=source.position,
                    passed=waiting.passed,
                    held=self._committed,
                    chunk_rows=CHUNK_ROWS,
                    found=record.add if resumes is None else resumes.found,
                    pace=pace,
                    resumes=resumes,
                )
            finally:
                await record.store()
        if record.refused is not None:
            raise record.refused
        place = source.place if isinstance(source, PassesOver) else str
        self._tell(record.stored, settings.pipeline.name, place)
        self._metrics.tables.proven(await sink.proofs())
        return 0.0 if record.stored else LOOK_SECONDS

    async def _committed(self) -> str | None:
        return self._engine.status().committed_position

    def _tell(
        self, stored: Mapping[TableId, TableProof], pipeline: str, place: Callable[[str], str]
    ) -> None:
        """Log which tables differ. ``place`` is the form of a position that people read."""
        for id, proof in stored.items():
            if proof.outcome != "different":
                continue
            extra = {
                "pipeline": pipeline,
                "table": str(id),
                "position": place(proof.position),
                "count": proof.differences,
                "hint": rendered(REPAIR, config=str(self._engine.config), table=str(id)),
            }
            log.warning("rows of the table differ from the source", extra=extra)


def _tell_error(settings: Settings, fields: Mapping[str, str]) -> None:
    extra = {"pipeline": settings.pipeline.name, **fields}
    log.warning("tables cannot be compared now", extra=extra)


def only_live(
    tables: Mapping[Table, Sequence[Table]], progress: Mapping[TableId, TableProgress]
) -> list[Table]:
    """Those of ``tables``, which are the target's, whose tables of the source are all live."""
    return [
        table
        for table in tables
        if all(progress[it.id].state == "live" for it in table.sources if it.id in progress)
    ]


def due(
    tables: Sequence[Table],
    proofs: Mapping[TableId, TableProof],
    settings: VerifySettings,
    now: float,
) -> tuple[float, list[Table]]:
    """The tables whose comparison is due, the oldest first, and the seconds until the next one."""
    times = {
        table: min(_next(proofs.get(it.id), settings) for it in table.sources) for table in tables
    }
    waits = min(times.values(), default=now + LOOK_SECONDS) - now
    return max(0.0, waits), sorted(
        (table for table, at in times.items() if at <= now),
        key=lambda table: (times[table], str(table.id)),
    )


def _next(proof: TableProof | None, settings: VerifySettings) -> float:
    """When the comparison after this one is due, in Unix seconds."""
    if proof is None:
        return 0.0
    if proof.outcome == "equal":
        return proof.started_at + settings.every_seconds
    rest = max(AGAIN_SECONDS, AGAIN_TIMES * (proof.ended_at - proof.started_at))
    return proof.ended_at + min(settings.every_seconds, rest)


def _for_a_while(tables: Sequence[Table]) -> Iterator[Table]:
    """The tables, until the round has lasted long enough."""
    end = time.monotonic() + ROUND_SECONDS
    for table in tables:
        if time.monotonic() > end:
            return
        yield table

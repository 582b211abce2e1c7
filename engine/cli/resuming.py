"""
How far the comparisons of an engine have got, kept in the target.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import msgspec

from engine.cli.verify import Record
from engine.contract import State
from engine.proof import Unfinished, UnfinishedStore
from engine.schema import Table, TableId
from engine.verify.report import TableReport

__all__ = ["Resuming", "resuming", "version"]

#: How often it is stored how far a comparison has got.
SAVE_SECONDS: Final = 5.0


class Resuming:
    """Keeps how far the comparisons of a round have got (``engine.proof.Resumes``). ``known`` is
    what was stored before. What is too old is not used, so that a proof says something of today.
    ``state`` is that of the beginning."""

    def __init__(
        self,
        sink: UnfinishedStore,
        known: Mapping[TableId, Unfinished],
        record: Record,
        state: State,
        oldest: float,
    ) -> None:
        self._sink = sink
        self._record = record
        self._state = state
        self._known = known
        self._oldest = oldest
        self._kept = set(known)
        self._saved_at = time.monotonic()

    def unfinished(self, table: Table) -> Unfinished | None:
        """As ``Resumes.unfinished``."""
        found = self._known.get(table.sources[0].id)
        if found is None or found.started_at < self._oldest:
            return None
        return found if found.version == version(table, self._state) else None

    def is_time(self) -> bool:
        """As ``Resumes.is_time``."""
        return time.monotonic() - self._saved_at > SAVE_SECONDS

    async def save(self, table: Table, unfinished: Unfinished) -> None:
        """As ``Resumes.save``."""
        self._saved_at = time.monotonic()
        kept = msgspec.structs.replace(unfinished, version=version(table, self._state))
        await self._sink.save_unfinished(table.sources[0].id, kept)
        self._kept.add(table.sources[0].id)

    async def found(self, table: Table, report: TableReport) -> None:
        """Note the outcome, and forget a comparison that has ended."""
        await self._record.add(table, report)
        id = table.sources[0].id
        if id in self._kept:
            await self._sink.save_unfinished(id, None)
            self._kept.remove(id)


async def resuming(
    sink: object, record: Record, state: State, longest_seconds: float
) -> Resuming | None:
    """What a target has stored, but for what is older than ``longest_seconds``. None if it keeps
    no comparisons that have not ended."""
    if not isinstance(sink, UnfinishedStore):
        return None
    oldest = time.time() - longest_seconds
    return Resuming(sink, await sink.unfinished(), record, state, oldest)


def version(table: Table, state: State) -> str:
    """What tells a table from one of another shape, or of another generation."""
    generations = [state.generations.get(it.id, 0) for it in table.sources]
    return sha256(msgspec.json.encode([table, generations])).hexdigest()

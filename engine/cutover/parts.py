"""
What a cutover works with, and the waits of its steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.contract import PreparesTransactions, Sink, Source, State
from engine.errors import ConfigError, DecodeError, SourceError, TailraceError
from engine.handover import Cutover, CutoverStore, Freezer, Sides, Since
from engine.schema import TableId
from engine.settings.cutover import CutoverSettings
from engine.structure import Counter
from engine.toolkit.schema_diff import Difference
from engine.verify.report import VerifyReport

if TYPE_CHECKING:  # the client for HTTP takes a while to import
    from engine.cutover.hooks import Hooks

__all__ = ["BY_HOOK", "GONE_SECONDS", "LOG_SECONDS", "Engine", "Line", "Parts", "Waits", "tell"]

#: How often a position is asked for.
POLL_SECONDS: Final = 0.05
#: The ``before`` of a source that a hook has frozen.
BY_HOOK: Final = "hook"
#: An engine that is not connected to the target for so long is gone.
GONE_SECONDS: Final = 5.0
#: How often it is asked whether the engine is connected, while the target does not catch up.
ASK_SECONDS: Final = 0.5
#: How long a running engine may take where no downtime is too long.
NO_LIMIT_SECONDS: Final = 3600.0
#: How long the log is read for the tables that it has changed, if nothing else limits it.
LOG_SECONDS: Final = 30.0
#: So many tables are named that the log has changed.
NAMED: Final = 5
#: A log that ends before the place where it was frozen does not show what was written since.
WENT_BACK: Final = (
    "the source's log has less than when it was frozen, because it was reset or another server"
    " answers"
)


class Line(NamedTuple):
    """What is told of a step: before it (``did`` is empty), and after it, with how to undo it."""

    step: str
    did: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    undo: str = ""


class Engine(NamedTuple):
    """The engine of the pipeline, which goes on in a process of its own."""

    runs: Callable[[], Awaitable[bool]]
    #: Ends it, and says what became of it.
    stop: Callable[[], Awaitable[str]]


class Parts(NamedTuple):
    """What a cutover works with. ``tell`` is called before and after each step. ``compare``
    compares the tables of these names, all if there are none. ``differences`` are those of the
    schemas; none if one side cannot tell. ``counters`` are those of the source now, by table of the
    target. ``outdated`` has the tables whose stored rows the
    configuration would make otherwise, each with the reason.
    """

    source: Source
    sink: Sink
    freezer: Freezer
    store: CutoverStore
    engine: Engine
    hooks: Hooks
    settings: CutoverSettings
    compare: Callable[[Sequence[str]], Awaitable[VerifyReport]]
    differences: Callable[[], Awaitable[Sequence[Difference]]]
    counters: Callable[[State], Awaitable[Mapping[TableId, Counter]]]
    outdated: Callable[[State], Mapping[TableId, str]]
    tell: Callable[[Line], None]
    by: str
    pipeline: str
    sides: Callable[[], Awaitable[Sides]]


def tell(parts: Parts, line: Line) -> None:
    """Tell a line. Whatever the terminal or a receiver does, the step goes on."""
    with suppress(Exception):
        parts.tell(line)


class Waits:
    """The waits for source and target."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._source = parts.source
        self._settings = parts.settings

    def left(self, cutover: Cutover) -> float | None:
        """The seconds that are left of the longest downtime; None without a limit."""
        limit = self._settings.max_downtime_seconds
        if not limit or cutover.frozen_at is None:
            return limit or None
        return max(0.0, cutover.frozen_at + limit - time.time())

    async def position(self) -> str:
        """The end of the log now."""
        return await asyncio.to_thread(self._source.position)

    async def still(self) -> str:
        """The end of the log, when it has not moved for a while. Raises TailraceError if it does
        not stand still in time.
        """
        deadline = time.monotonic() + self._settings.freeze_seconds + self._settings.quiet_seconds
        end, since = await self.position(), time.monotonic()
        while time.monotonic() - since < self._settings.quiet_seconds:
            if time.monotonic() > deadline:
                raise TailraceError(
                    "the source is still written after it was frozen",
                    hint="a user with SUPER or READ ONLY ADMIN passes read_only, and a replica goes"
                    " on: end these sessions, or set freeze and thaw in [cutover]",
                )
            await asyncio.sleep(POLL_SECONDS)
            now = await self.position()
            if now != end:
                end, since = now, time.monotonic()
        return end

    async def frozen(self, cutover: Cutover) -> bool:
        """Whether the source takes no writes, and has taken none since the freeze."""
        by_hook = cutover.before == BY_HOOK
        if not (by_hook or await asyncio.to_thread(self._parts.freezer.is_frozen)):
            return False
        now = await self.position()
        return self._source.reached(cutover.end, now) and not self._went_back(cutover.end, now)

    async def require_frozen(self, cutover: Cutover) -> None:
        """Raise TailraceError if the source takes writes, or may have taken some since the
        freeze.
        """
        self.require_whole(cutover.end, await self.position())
        if not await self.frozen(cutover):
            raise TailraceError(
                "the source was written after it was frozen, or takes writes again",
                hint="find out who writes; then `tailrace cutover CONFIG --abort`, and begin again",
            )

    def require_whole(self, position: str, end: str) -> None:
        """Raise TailraceError if the log up to ``end`` lacks something of that at ``position``. It
        does not show what was written since.
        """
        if self._went_back(position, end):
            raise TailraceError(
                WENT_BACK,
                hint="`tailrace status CONFIG` says whether the engine can go on; then begin again",
            )

    def _went_back(self, position: str, end: str) -> bool:
        return not self._source.reached(end, position)

    async def written(self, position: str, end: str) -> str:
        """What the log may have changed from ``position`` to ``end``, its end, in words; empty if
        it has changed no table. A restart of the source, and a hook that revokes rights, write to
        the log, too.
        """
        if position == end:
            return ""
        if self._went_back(position, end):
            return WENT_BACK
        state = await self._parts.sink.state()
        tables = [] if state is None else [it for of in state.tables for it in of.sources]
        if not tables:
            return ""
        since = dict.fromkeys(tables, Since(position))
        try:
            changed = await asyncio.to_thread(self._parts.freezer.changed, since, LOG_SECONDS)
        except (SourceError, DecodeError, ConfigError) as error:  # then it may be anything
            return error.message
        names = sorted(map(str, changed.tables))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return changed.reason or ", ".join(names[:NAMED]) + more

    async def caught_up(self, seconds: float | None) -> float:
        """How long the target takes to have the log up to its end now."""
        began = time.monotonic()
        await self.passed(await self.position(), seconds)
        return time.monotonic() - began

    async def passed(self, position: str, seconds: float | None) -> None:
        """Wait until the target has the log up to ``position``. Raises TailraceError if it has not
        in time, and if no engine is there that applies it.
        """
        seconds = NO_LIMIT_SECONDS if seconds is None else seconds
        began = seen = asked = time.monotonic()
        while True:
            state = await self._parts.sink.state()
            checkpoint = None if state is None else state.checkpoint
            if checkpoint is not None and self._source.reached(checkpoint.position, position):
                return
            now = time.monotonic()
            if checkpoint is not None and checkpoint.paused:
                raise TailraceError(
                    "the pipeline is paused, so the target does not catch up",
                    hint="`tailrace resume CONFIG`",
                )
            if now - asked >= ASK_SECONDS:
                asked = now
                seen = now if await self._parts.engine.runs() else seen
            if now - seen >= GONE_SECONDS:
                raise TailraceError(
                    "no engine is connected to the target any more, so it does not catch up",
                    hint="`tailrace run CONFIG` starts one; leave it running",
                )
            if now - began >= seconds:
                raise TailraceError(
                    f"the target has not caught up within {round(seconds, 1):g} s",
                    hint="`tailrace status CONFIG` shows the lag",
                )
            await asyncio.sleep(POLL_SECONDS)

    def prepared(self, position: str) -> list[str]:
        """The transactions that are prepared at ``position``, the end of the log."""
        source = self._source
        return source.unresolved(position) if isinstance(source, PreparesTransactions) else []

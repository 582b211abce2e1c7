"""
The record of a cutover: read, stored, and added to.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.cutover.steps import STEPS, way_on
from engine.errors import TailraceError
from engine.handover import Cutover, CutoverStore, StepRecord

__all__ = ["Record", "require_ended", "warned", "with_step"]


class Record:
    """The newest record of a pipeline, which the target keeps."""

    def __init__(self, store: CutoverStore) -> None:
        self._store = store
        #: The record as it was last saved, or should have been.
        self.last: Cutover | None = None

    async def newest(self) -> Cutover | None:
        """The newest cutover. Raises TailraceError for one under way whose source is not that of
        the pipeline.
        """
        cutover = await self._store.newest()
        if cutover is not None and not cutover.ended and cutover.direction != "forward":
            raise TailraceError(
                "a cutover back to the source is under way, and this version cannot go on with it",
                hint=way_on(cutover, switch_back=False),
            )
        self.last = cutover
        return cutover

    async def save(self, cutover: Cutover) -> None:
        """Store a record durably, in the place of its earlier one."""
        self.last = cutover
        await self._store.save(cutover)

    async def save_if(self, cutover: Cutover, *, required: bool) -> bool:
        """Whether the target has stored the record. Raises TailraceError if that is required."""
        try:
            await self.save(cutover)
        except TailraceError:
            if required:
                raise
            return False
        return True


def require_ended(newest: Cutover | None, *, switch_back: bool) -> None:
    """Raise TailraceError if a cutover is under way. ``switch_back``: that hook is configured."""
    if newest is not None and not newest.ended:
        raise TailraceError(
            f"a cutover is under way: it stands at {newest.state}, begun by {newest.by}",
            hint=way_on(newest, switch_back=switch_back),
        )


def warned(cutover: Cutover, warnings: Sequence[str]) -> Cutover:
    """The record with more warnings."""
    return msgspec.structs.replace(cutover, warnings=(*cutover.warnings, *warnings))


def with_step(
    cutover: Cutover, step: str, at: float, seconds: float, did: str, undo: str
) -> Cutover:
    """The record with a step that was done."""
    done = StepRecord(step, at, seconds, did, STEPS[step].will, undo)
    return msgspec.structs.replace(cutover, steps=(*cutover.steps, done))

"""
The lag and the throughput of the last 24 hours, in memory, for whoever looks at a pipeline now.

There are two rings of fixed size: one value for every 5 seconds of the last hour, and one for every
minute of the last day. A slot has the greatest lag and the work that was done in it. A slot in
which nothing was recorded, because the engine did not run, has no values. ``History`` is the form
in which the values leave the engine; docs/status.md describes it.
"""

from __future__ import annotations

from array import array
from math import isnan, nan
from typing import Final

import msgspec

__all__ = ["HISTORY_VERSION", "RESOLUTIONS", "History", "HistoryRecorder", "Series", "Work"]

HISTORY_VERSION = 1

#: The seconds of a slot, and the number of slots.
RESOLUTIONS: Final = ((5, 720), (60, 1440))


class Work(msgspec.Struct, frozen=True):
    """Counters since the engine's start: row changes, their bytes, transactions, and backfilled
    rows.
    """

    rows: int = 0
    bytes: int = 0
    transactions: int = 0
    backfilled_rows: int = 0


class Series(msgspec.Struct, frozen=True):
    """One ring, the oldest value first. ``start`` is the Unix time at which its first slot begins.
    None: there is no value.
    """

    step_seconds: int
    start: int
    lag_seconds: list[float | None]
    rows_per_second: list[float | None]
    bytes_per_second: list[float | None]
    transactions_per_second: list[float | None]
    backfilled_rows_per_second: list[float | None]


class History(msgspec.Struct, frozen=True):
    """All rings, the finest first."""

    version: int = HISTORY_VERSION
    series: tuple[Series, ...] = ()


class _Ring:
    """Slots of ``step`` seconds. The slot of the present time is not complete yet."""

    def __init__(self, step: int, slots: int) -> None:
        self.step, self.slots = step, slots
        self._lag = array("d", [nan] * slots)
        self._work = [array("d", [nan] * slots) for _ in Work.__struct_fields__]
        #: The number of the newest slot, counted since 1970.
        self._newest: int | None = None

    def add(self, now: float, lag_seconds: float | None, work: tuple[int, ...]) -> None:
        """Record the lag now, and the work since the last call."""
        number = int(now // self.step)
        if self._newest is None or number - self._newest >= self.slots:
            first = number - self.slots + 1
        else:
            first = self._newest + 1
        for cleared in range(first, number + 1):
            for values in (self._lag, *self._work):
                values[cleared % self.slots] = nan
        # A clock that is set back adds to the newest slot.
        self._newest = number = max(number, self._newest or 0)
        slot = number % self.slots
        if lag_seconds is not None:
            known = self._lag[slot]
            self._lag[slot] = lag_seconds if isnan(known) else max(known, lag_seconds)
        for values, count in zip(self._work, work, strict=True):
            values[slot] = count + (0.0 if isnan(values[slot]) else values[slot])

    def series(self) -> Series:
        """The complete slots from the first with a value on."""
        newest = self._newest or 0
        numbers = range(newest - self.slots + 1, newest)
        begun = next((n for n in numbers if not isnan(self._work[0][n % self.slots])), newest)
        slots = [number % self.slots for number in range(begun, newest)]

        def shown(values: array[float], per: int) -> list[float | None]:
            found = (values[slot] for slot in slots)
            return [None if isnan(value) else round(value / per, 3) for value in found]

        rates = (shown(values, self.step) for values in self._work)
        return Series(self.step, begun * self.step, shown(self._lag, 1), *rates)


class HistoryRecorder:
    """Records the history of one pipeline."""

    def __init__(self) -> None:
        self._rings = [_Ring(step, slots) for step, slots in RESOLUTIONS]
        self._before = Work()

    def add(self, now: float, lag_seconds: float | None, work: Work) -> None:
        """Record the state at a Unix time. Call it at least once for each slot."""
        done = tuple(
            max(0, count - before)
            for count, before in zip(
                msgspec.structs.astuple(work), msgspec.structs.astuple(self._before), strict=True
            )
        )
        self._before = work
        for ring in self._rings:
            ring.add(now, lag_seconds, done)

    def history(self) -> History:
        """Everything that is kept."""
        return History(series=tuple(ring.series() for ring in self._rings))

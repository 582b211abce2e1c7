"""
The current position of a stream: file and offset, GTIDs, prepared XA transactions.

A ``MySQLPosition`` is made only when ``resume_position`` is read. For each transaction only a few
numbers change; the GTID set is extended only when a run of consecutive numbers ends.
"""

from __future__ import annotations

from typing import Final

from sources.mysql.gtid import GtidSet
from sources.mysql.position import Executed, MySQLPosition, file_number

__all__ = ["Gtid", "StreamPosition"]

#: Source, first and last number of a run (MySQL); domain, server id, sequence number (MariaDB).
Gtid = tuple[str, int, int]

_LOW_32_BITS: Final = 0xFFFFFFFF


class StreamPosition:
    """Starts at ``start``. ``file`` and ``offset`` are where the next event begins. Inside of a
    group of MariaDB 11.8, whose events have no position, the offset leaves out the events that the
    server does not send (Annotate_rows).

    ``moved`` is set when ``resume_position`` changes; whoever reads it resets it. ``executed``
    holds the GTIDs without the current run. ``prepared`` and ``skipped`` are replaced,
    never changed in place.
    """

    def __init__(self, start: MySQLPosition) -> None:
        self.file = start.file
        self.offset = start.offset
        self.executed: Executed = start.executed
        self.prepared = start.prepared
        self.skipped = start.skipped
        #: The places to pass over. It is replaced, never changed in place.
        self.passing = start.passing
        self.moved = False
        #: The offset at which the current group starts; -1 between groups.
        self.group = -1
        self._server = start.server
        self._run, self._first, self._last = start.source, start.first, start.last
        self._position: MySQLPosition | None = start
        # Until the server has sent what follows ``start``, the resume position stays ``start``.
        self._floor: MySQLPosition | None = start

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}"

    @property
    def group_place(self) -> str:
        """The place at which the current group starts, as ``file:offset``."""
        return f"{self.file}:{self.group}"

    @property
    def _place(self) -> tuple[int, int]:
        return file_number(self.file), self.offset

    @property
    def resume_position(self) -> MySQLPosition:
        """The end of the last complete group: the position from which a stream can resume."""
        if self._position is None:
            self._position = MySQLPosition(
                self._server,
                self.file,
                self.offset if self.group < 0 else self.group,
                self.executed,
                self._run,
                self._first,
                self._last,
                self.prepared,
                self.skipped,
                self.passing,
            )
        return self._position

    def synchronise(self, log_pos: int) -> None:
        """Correct the offset from the log position of an event, which has only its low 32 bits."""
        self.offset = _nearest(self.offset, log_pos)

    def skip_to(self, file: str, offset: int) -> None:
        """Move to a place that the server reports in a heartbeat, if no group is open."""
        if self.group < 0 and file == self.file and offset > self.offset:
            self.offset = offset

    def enter(self, size: int) -> None:
        """Begin a group. Its first event, of ``size`` bytes, has just been read."""
        self.group = self.offset - size

    def leave(self) -> None:
        """End a group that the resume position already includes."""
        self.group = -1

    def complete(self) -> None:
        """End a group, and move the resume position to its end."""
        self.group = -1
        self._position = self._floor = None
        self.moved = True

    def pass_over(self) -> None:
        """Move the resume position past an event, unless the event is inside a group."""
        if self.group >= 0:
            return
        floor = self._floor
        if floor is not None:
            # On another server the transactions of ``start`` may lie after this place.
            if not floor.file or self._place < (file_number(floor.file), floor.offset):
                return
            self._floor = None
        self._position = None
        self.moved = True

    def record(self, gtid: Gtid) -> None:
        """Add a transaction to the GTIDs, if the position has GTIDs."""
        source, first, last = gtid
        executed = self.executed
        if executed is None:
            return
        if isinstance(executed, GtidSet):
            if source == self._run and last == self._last + 1:
                self._last = last
                return
            if self._run:
                self.executed = executed.add(self._run, self._first, self._last)
        elif self._run and self._run != source:
            self.executed = executed.add(int(self._run), self._first, self._last)
        self._run, self._first, self._last = source, first, last

    def read_again(self, xid: str) -> None:
        """The rows of an XA transaction are not skipped any more."""
        if xid in self.skipped:
            self.skipped = {each: of for each, of in self.skipped.items() if each != xid}

    def resolve(self, xid: str) -> str | None:
        """Remove an XA transaction that is committed or rolled back.

        Return the place where it was prepared, None if this position does not name it. The GTID of
        its XA PREPARE, which MySQL's GTID set lacks until now, is added to the set.
        """
        place = self.prepared.get(xid)
        self.prepared = {each: at for each, at in self.prepared.items() if each != xid}
        self.read_again(xid)
        if place and isinstance(self.executed, GtidSet):
            source, _, number = place.rpartition(":")
            if source:
                self.executed = self.executed.add(source, int(number), int(number))
        return place


def _nearest(offset: int, low: int) -> int:
    """The offset nearest to ``offset`` with these low 32 bits: log positions wrap at 4 GiB."""
    ahead = (low - offset) & _LOW_32_BITS
    behind = offset + ahead - (1 << 32)
    return behind if ahead >> 31 and behind >= 0 else offset + ahead

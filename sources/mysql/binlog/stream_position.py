"""
Where a stream is: the place in the log's files, the GTIDs, the prepared XA transactions.

Moving is cheap and making a position is put off until someone asks: per transaction a few numbers
change, and the GTID set is folded only when another run of numbers begins.
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
    """Starts at ``start``. ``file`` and ``offset`` are where the next event of the log begins.

    ``moved`` tells that ``position`` is another than when it was reset; ``executed`` is the GTIDs
    without the run that is under way; ``prepared`` is never changed, only replaced.
    """

    def __init__(self, start: MySQLPosition) -> None:
        self.file = start.file
        self.offset = start.offset
        self.executed: Executed = start.executed
        self.prepared = start.prepared
        self.moved = False
        #: Where the group that is being read starts; -1 between groups.
        self.group = -1
        self._server = start.server
        self._run, self._first, self._last = start.source, start.first, start.last
        self._position: MySQLPosition | None = start
        # While the server catches up with ``start``, that stays what is reported.
        self._floor: MySQLPosition | None = start

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}"

    @property
    def group_place(self) -> str:
        """Where the group that is being read starts, as text."""
        return f"{self.file}:{self.group}"

    @property
    def _place(self) -> tuple[int, int]:
        return file_number(self.file), self.offset

    @property
    def position(self) -> MySQLPosition:
        """The end of the last group that was read whole."""
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
            )
        return self._position

    def synchronise(self, log_pos: int) -> None:
        """The log says that it is at an offset with these low 32 bits."""
        self.offset = _nearest(self.offset, log_pos)

    def skip_to(self, file: str, offset: int) -> None:
        """The server has passed over what we have: between groups that moves our place."""
        if self.group < 0 and file == self.file and offset > self.offset:
            self.offset = offset

    def enter(self, size: int) -> None:
        """A group begins with the event of that size that was just read."""
        self.group = self.offset - size

    def leave(self) -> None:
        """The group ends here, and nothing of it is new."""
        self.group = -1

    def complete(self) -> None:
        """The group ends here, and the position with it."""
        self.group = -1
        self._position = self._floor = None
        self.moved = True

    def pass_over(self) -> None:
        """The log went on with something that is part of no group."""
        if self.group >= 0:
            return
        floor = self._floor
        if floor is not None:
            # On another server than before, what we have may lie after this place.
            if not floor.file or self._place < (file_number(floor.file), floor.offset):
                return
            self._floor = None
        self._position = None
        self.moved = True

    def record(self, gtid: Gtid) -> None:
        """Count a transaction as executed, where the position has GTIDs."""
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

    def decide(self, xid: str) -> str | None:
        """An XA transaction is decided; where it was prepared, None if we never knew.

        What was left out of MySQL's GTIDs until now is executed from here on.
        """
        place = self.prepared.get(xid)
        self.prepared = {each: at for each, at in self.prepared.items() if each != xid}
        if place and isinstance(self.executed, GtidSet):
            source, _, number = place.rpartition(":")
            if source:
                self.executed = self.executed.add(source, int(number), int(number))
        return place


def _nearest(offset: int, low: int) -> int:
    """The offset next to ``offset`` that has these low 32 bits: positions wrap at 4 GiB."""
    ahead = (low - offset) & _LOW_32_BITS
    behind = offset + ahead - (1 << 32)
    return behind if ahead >> 31 and behind >= 0 else offset + ahead

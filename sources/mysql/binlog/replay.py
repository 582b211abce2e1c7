"""
Groups that are read although the position from which a stream starts has them already.

Idea: a position is exact, and the place from which the log is read may lie before it: log files are
read from their first byte, and every log from where an prepared XA transaction was prepared, whose
rows are needed again. What is between is passed over, except those rows. With a set of GTIDs
(MySQL) the server does that itself: it sends exactly what the position lacks.
"""

from __future__ import annotations

from collections.abc import Collection

from sources.mysql.binlog.events import DomainGtid
from sources.mysql.binlog.stream_position import StreamPosition
from sources.mysql.gtid import DomainState
from sources.mysql.position import MySQLPosition, file_number

__all__ = ["Replay"]


class Replay:
    """Knows the groups before ``start``; ``awaited`` is the XA transactions that it needs again."""

    def __init__(self, start: MySQLPosition, awaited: Collection[str]) -> None:
        self._start = start
        self._awaited = awaited
        #: Whether such groups may still come.
        self.lasts = start.executed is None or (
            isinstance(start.executed, DomainState) and bool(awaited)
        )

    def has_place(self, progress: StreamPosition) -> bool:
        """Whether it has the group that begins here, where files and offsets are all there is."""
        start = self._start
        if start.executed is not None:
            return False
        if (file_number(progress.file), progress.group) >= (file_number(start.file), start.offset):
            self.lasts = False
            return False
        return progress.group_place not in start.prepared.values()

    def has_gtid(self, gtid: DomainGtid) -> bool:
        """Whether it has the group of this GTID, where MariaDB's GTIDs decide."""
        executed = self._start.executed
        if not isinstance(executed, DomainState):
            return False
        contained = executed.contains(gtid.domain, gtid.sequence)
        return contained and not (gtid.prepares and gtid.xid in self._awaited)

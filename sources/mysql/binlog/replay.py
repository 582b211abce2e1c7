"""
Event groups that are read again after a resume, although the resume position includes them.

The log may be read from a place before the resume position: log files are read from their first
byte, and a log with prepared XA transactions from the oldest XA PREPARE, because the rows of these
transactions are needed again. The groups between that place and the resume position are skipped,
except for those rows. With a GTID set (MySQL) nothing is skipped here: the server sends only the
transactions that the set lacks.
"""

from __future__ import annotations

from collections.abc import Collection

from sources.mysql.binlog.events import DomainGtid
from sources.mysql.binlog.stream_position import StreamPosition
from sources.mysql.gtid import DomainState
from sources.mysql.position import MySQLPosition, file_number

__all__ = ["Replay"]


class Replay:
    """Recognises the groups that ``start`` includes.

    ``awaited`` holds the XA transactions that are prepared at ``start`` and must be read again.
    """

    def __init__(self, start: MySQLPosition, awaited: Collection[str]) -> None:
        self._start = start
        self._awaited = awaited
        self._places = {start.prepared[xid] for xid in awaited}
        #: Whether groups that ``start`` includes may still follow.
        self.lasts = start.executed is None or (
            isinstance(start.executed, DomainState) and bool(awaited)
        )

    def has_place(self, position: StreamPosition) -> bool:
        """Whether ``start`` includes the group that begins here, if it has no GTIDs."""
        start = self._start
        if start.executed is not None:
            return False
        if (file_number(position.file), position.group) >= (file_number(start.file), start.offset):
            self.lasts = False
            return False
        return position.group_place not in self._places

    def has_gtid(self, gtid: DomainGtid) -> bool:
        """Whether ``start`` includes the group with this GTID, if it has MariaDB's GTIDs."""
        executed = self._start.executed
        if not isinstance(executed, DomainState):
            return False
        contained = executed.contains(gtid.domain, gtid.sequence)
        return contained and not (gtid.prepares and gtid.xid in self._awaited)

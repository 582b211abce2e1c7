"""
The place in the log of a reader that decodes no rows. Pure.
"""

from __future__ import annotations

from sources.mysql.binlog import events as ev
from sources.mysql.binlog.stream_position import StreamPosition
from sources.mysql.position import MySQLPosition, file_number

__all__ = ["LogPlace"]


class LogPlace:
    """The end of the last event that was passed, at first ``start``. ``checksum``: whether events
    end with a checksum, as long as no event says otherwise.
    """

    def __init__(self, start: MySQLPosition, *, checksum: bool) -> None:
        self._position = StreamPosition(start)
        self._checksum = checksum
        #: The format of the file, with which it begins; None before the server has sent it.
        self.format: ev.Format | None = None

    def __str__(self) -> str:
        return str(self._position)

    @property
    def file(self) -> str:
        """The name of the file."""
        return self._position.file

    @property
    def numbers(self) -> tuple[int, int]:
        """The number of the file, and the offset in it."""
        return file_number(self._position.file), self._position.offset

    def pass_event(self, event: bytes) -> tuple[int, int] | None:
        """Move past an event. Returns its type, and where it ends without its checksum. Returns
        None if it is about the log itself or is not in the log.
        """
        _, kind, _, size, log_pos, flags = ev.read_header(event)
        position = self._position
        if kind == ev.FORMAT_DESCRIPTION:
            self.format = ev.read_format(event, len(event))
            self._checksum = self.format.checksum
            # A server that sends the log from the middle of a file first sends its beginning.
            position.offset = max(position.offset, log_pos)
        elif kind == ev.ROTATE:
            good = ev.checksum_is_good(event, kind)
            rotated = ev.read_rotate(event, len(event) - (4 if good else 0))
            position.file, position.offset = rotated
            self.format = None
        elif kind not in ev.LOG_EVENTS and not flags & ev.ARTIFICIAL:
            position.offset += size
            if log_pos and log_pos != position.offset:
                position.synchronise(log_pos)
            return kind, size - (4 if self._checksum else 0)
        return None

"""
Events and transactions that a user has the stream pass over (``tailrace skip``).

The places are part of the position, so they are stored with the checkpoint, and leave it in the
transaction that passes them. A place of an event is the end of it, and that of a transaction its
beginning, both as ``file:offset``. A stream without such places has none of this: the handlers of
events are wrapped only if there are some.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from sources.mysql.binlog import events as ev
from sources.mysql.binlog.query_event import QUERIES
from sources.mysql.binlog.stream_position import StreamPosition
from sources.mysql.position import file_number, split_place

__all__ = ["STARTS", "Handler", "passing"]

log = logging.getLogger("tailrace.source")

Handler = Callable[[int, bytes, int, int], None]

#: The events with which a group begins, where the log has them.
STARTS: Final = frozenset((ev.GTID, ev.GTID_TAGGED, ev.ANONYMOUS_GTID, ev.MARIADB_GTID))
_CHANGES: Final = frozenset((*ev.ROWS, ev.TABLE_MAP, ev.INCIDENT))


def passing(
    handlers: list[Handler | None],
    position: StreamPosition,
    defer: Callable[[bool], None],
    finish: Callable[[int], None],
    unknown: Callable[[int, int], None],
    leave_out: Callable[[bytes], None],
) -> list[Handler | None]:
    """The handlers of a stream at ``position``, wrapped if there are places to pass over.

    ``defer`` says whether statements have no effect from here on, until their group ends, and
    ``finish`` ends the group at a time. ``unknown`` handles an event of an unknown kind, with its
    flags. ``leave_out`` has the rows after a table map passed over, too.
    """
    if not position.passing:
        return handlers

    def refuse(kind: int, event: bytes, end: int, timestamp: int) -> None:
        unknown(kind, int.from_bytes(event[17:19], "little"))

    wrapped = _Passing(position, defer, finish, leave_out).wrapped
    return [wrapped(handler or refuse, known=handler is not None) for handler in handlers]


class _Passing:
    """Wraps the handlers of a stream."""

    def __init__(
        self,
        position: StreamPosition,
        defer: Callable[[bool], None],
        finish: Callable[[int], None],
        leave_out: Callable[[bytes], None],
    ) -> None:
        self._position = position
        self._defer = defer
        self._finish = finish
        self._leave_out = leave_out
        self._whole = False

    def wrapped(self, handler: Handler, *, known: bool) -> Handler:
        """The handler, but for the events at these places and in these transactions."""

        def handle(kind: int, event: bytes, end: int, timestamp: int) -> None:
            if self._starts(kind):
                offset = self._position.offset - len(event)
                self._whole = self._take(f"{self._position.file}:{offset}+")
                self._drop_before(offset)
            one = not self._whole and self._take(str(self._position))
            if not (self._whole or one):
                handler(kind, event, end, timestamp)
            elif kind in QUERIES:
                self._defer(True)
                handler(kind, event, end, timestamp)
                if one:
                    self._defer(False)
            elif kind == ev.TRANSACTION_PAYLOAD:  # it has the end of the transaction, too
                self._finish(timestamp)
            elif kind in _CHANGES or not known:
                self._position.pass_over()
                if kind == ev.TABLE_MAP:
                    self._leave_out(event)
            else:
                handler(kind, event, end, timestamp)

        return handle

    def _starts(self, kind: int) -> bool:
        return kind in STARTS or (kind in QUERIES and self._position.group < 0)

    def _take(self, place: str) -> bool:
        """Whether the stream is at one of the places, which leaves the position then."""
        position = self._position
        if place not in position.passing:
            return False
        position.passing = position.passing - {place}
        return True

    def _drop_before(self, offset: int) -> None:
        """Drop the places before this one, at which no event ends and no transaction begins."""
        position = self._position
        here = file_number(position.file), offset
        left = {it for it in position.passing if split_place(it.rstrip("+")) <= here}
        if left:
            position.passing -= left
            log.warning(
                "a place that was to be passed over is none, and nothing was passed over",
                extra={"places": sorted(it.rstrip("+") for it in left)},
            )

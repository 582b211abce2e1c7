"""
What one event, or one transaction, of the log changes, for a user who has it passed over. Pure.

The events come from a place before it, between two transactions. Tables and columns need not be
known: a table map has the storage types, which is enough to tell the rows of an event apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from engine.errors import ConfigError, DecodeError
from engine.recovery import LostChanges
from engine.schema import TableId
from sources.mysql.binlog import compression
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.log_place import LogPlace
from sources.mysql.binlog.passed_over import count_rows, row_decoder
from sources.mysql.binlog.passing import STARTS
from sources.mysql.binlog.query_event import QUERIES
from sources.mysql.position import MySQLPosition, split_place

__all__ = ["Inspection", "first_words"]

_ENDS: Final = frozenset((ev.XID, ev.XA_PREPARE, ev.TRANSACTION_PAYLOAD))
#: The statements that begin or end a transaction, by their first word.
_BEGIN: Final = frozenset(("BEGIN", "XA"))
_END: Final = frozenset(("COMMIT", "ROLLBACK"))
_WITHOUT_CHANGES: Final = frozenset(
    (*ev.WITHOUT_CHANGES, *STARTS, ev.XID, ev.XA_PREPARE, ev.TABLE_MAP)
)
#: The number of words of a statement that are shown. Further ones may be values, and so may be what
#: follows a quotation mark, a bracket, an assignment or a number.
_SHOWN_WORDS: Final = 3
_VALUE: Final = re.compile(r"""['"(=@]|(?<![\w`$])[\d.+-]""")


class Inspection:
    """Reads the log from ``start`` up to the event that ends at ``place``, or with ``whole`` up to
    the end of the transaction that begins there. ``lost`` has what it changes.
    """

    def __init__(self, start: MySQLPosition, place: str, *, whole: bool, checksum: bool) -> None:
        self.lost = LostChanges(whole=whole)
        self._place = LogPlace(start, checksum=checksum)
        self._wanted = place
        self._at = split_place(place)
        self._whole = whole
        #: Whether the last event is inside a transaction, and whether that is the one.
        self._inside = self._found = False
        self._maps: dict[bytes, tuple[bytes, int]] = {}
        #: The table id of the one event if it is a table map: its rows are passed over with it.
        self._mapped = b""

    def feed(self, events: Iterable[bytes]) -> bool:
        """Read these events. True when ``lost`` is complete.

        Raises ConfigError if no event ends, or no transaction begins, at the place.
        """
        return any(map(self._feed, events))

    def end(self) -> LostChanges:
        """The log has no more events."""
        if not self._found:
            raise self._missing()
        return self.lost

    def _feed(self, event: bytes) -> bool:
        found = self._place.pass_event(event)
        place = self._place.numbers
        if found is None:
            return self._on_log_event(event[4], place[0])
        kind, end = found
        start = place[0], place[1] - len(event)
        words = self._words(kind, event, end)
        if kind in STARTS or (kind in QUERIES and not self._inside):
            if self._found:
                return True
            self._inside = True
            self._maps.clear()
            self._found = self._whole and start == self._at
            if start > self._at:
                raise self._missing()
        if not (self._whole or self._found) and place >= self._at:
            if place > self._at:
                raise self._missing()
            self._found = True
            self._mapped = event[19:25] if kind == ev.TABLE_MAP else b""
        if kind == ev.TABLE_MAP:
            self._maps[event[19:25]] = event, end
        if self._found and self._note_found(kind, event, end, words):
            return True
        if kind in _ENDS or (words and words[0] in _END and words[1:2] != ["TO"]):
            self._inside = False
            return self._found
        return False

    def _on_log_event(self, kind: int, file: int) -> bool:
        if kind in (ev.HEARTBEAT, ev.HEARTBEAT_2):  # the log has nothing more
            self.end()
            return True
        if not self._found and file > self._at[0]:
            raise self._missing()
        return False

    def _missing(self) -> ConfigError:
        what = "transaction begins" if self._whole else "event ends"
        return ConfigError(
            f"no {what} at {self._wanted} of the source's log",
            hint="copy the position from the message of the stop",
        )

    # -- what is lost ------------------------------------------------------------------------------

    def _note_found(self, kind: int, event: bytes, end: int, words: list[str]) -> bool:
        """Note an event that is passed over. True if nothing follows it."""
        if not self._mapped:
            self._note(kind, event, end, words)
            return not self._whole
        if kind not in ev.ROWS:
            return False
        if event[19:25] == self._mapped:
            self._count(kind, event, end)
        return bool(event[25] & ev.STATEMENT_END)

    def _words(self, kind: int, event: bytes, end: int) -> list[str]:
        """The first words of a statement."""
        if kind not in QUERIES:
            return []
        try:
            statement = QUERIES[kind](event, end).statement
        except DecodeError:
            return []
        return first_words(statement)

    def _note(self, kind: int, event: bytes, end: int, words: list[str]) -> None:
        lost = self.lost
        if kind in ev.ROWS:
            self._count(kind, event, end)
        elif kind == ev.TRANSACTION_PAYLOAD:
            lost.whole = True
            try:
                for events in compression.payload_events(event, end):
                    for each in events:
                        self._note_inner(each)
            except DecodeError:
                self._note_unreadable(kind, event)
        elif words:
            if words[0] not in _BEGIN | _END:
                lost.statements.append(" ".join(words))
        elif kind not in _WITHOUT_CHANGES:
            self._note_unreadable(kind, event)

    def _note_inner(self, event: bytes) -> None:
        kind, end = event[4], len(event)
        if kind == ev.TABLE_MAP:
            self._maps[event[19:25]] = event, end
        self._note(kind, event, end, self._words(kind, event, end))

    def _note_unreadable(self, kind: int, event: bytes) -> None:
        what = "an incident of the server" if kind == ev.INCIDENT else f"an event of type {kind}"
        self.lost.unreadable.append(f"{what} with {len(event):,} bytes")

    def _count(self, kind: int, event: bytes, end: int) -> None:
        found = self._maps.get(event[19:25])
        count = None
        if found is not None:
            count = count_rows(row_decoder(*found), kind, event, end)
            id = TableId(*ev.read_table_name(*found))
        if found is None or count is None:
            self._note_unreadable(kind, event)
            return
        operation, _ = ev.ROWS[kind]
        rows = self.lost.rows
        rows[id, operation] = rows.get((id, operation), 0) + count


def first_words(statement: bytes) -> list[str]:
    """The first words of a statement, without any that may be a value of a row."""
    text = _VALUE.split(statement[:1000].decode("utf-8", "replace"), maxsplit=1)[0]
    words = text.split(None, _SHOWN_WORDS)[:_SHOWN_WORDS]
    return [words[0].upper(), *words[1:]] if words else []

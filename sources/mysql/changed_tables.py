"""
Which tables the log may have changed since a position of their own, read over a connection of its
own.

Only the names in the log are read: a table counts as changed by its TABLE_MAP, whatever follows. A
statement that is not known to leave all rows alone, an XA COMMIT, whose rows are elsewhere in the
log, and an event that cannot be read count as a change of every table. So does a change of a parent
whose foreign keys act unlogged, or of a MERGE table, for the tables that it may reach.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from math import inf
from typing import Any, Final

import msgspec
from pymysql.connections import Connection

from engine.errors import DecodeError, SourceError, SourceLost
from engine.handover import Changed, Since
from engine.schema import Table, TableId
from sources.mysql.binlog import compression
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.connection import BinlogConnection
from sources.mysql.binlog.foreign_keys import ancestors
from sources.mysql.binlog.inspection import first_words
from sources.mysql.binlog.log_place import LogPlace
from sources.mysql.binlog.passing import STARTS
from sources.mysql.binlog.query_event import QUERIES
from sources.mysql.catalog import all_foreign_keys
from sources.mysql.clock import ServerClock
from sources.mysql.merge_tables import all_merge_tables
from sources.mysql.position import MySQLPosition, file_number, parse_position
from sources.mysql.server_info import has_native_foreign_keys, log_end, read_server_info
from sources.mysql.settings import MySQLSettings

__all__ = ["ChangedNames", "oldest", "read_changed"]

_POLL_SECONDS: Final = 0.5
#: The statements that leave all rows alone, by their first word: those that begin and end
#: transactions, whose rows are in events, and those about rights.
_HARMLESS: Final = frozenset(
    (
        *("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "XA"),
        *("FLUSH", "GRANT", "REVOKE"),
    )
)
#: Others by their first two words: those about users and roles, and about statistics. ANALYZE
#: before another word executes a statement (MariaDB). SET DEFAULT has the word ROLE after it.
_HARMLESS_PAIRS: Final = frozenset(
    (
        *product(("CREATE", "ALTER", "DROP", "RENAME"), ("USER", "ROLE")),
        *product(("SET",), ("PASSWORD", "DEFAULT", "ROLE")),
        *product(("ANALYZE",), ("TABLE", "TABLES")),
    )
)
_WITHOUT_CHANGES: Final = frozenset((*ev.WITHOUT_CHANGES, *STARTS, *ev.ROWS, ev.XID, ev.XA_PREPARE))


class ChangedNames:
    """Reads events from the first position of ``span`` up to the place of the second. ``since`` has
    the position of each table, and ``moments`` when the log had it, by the server's clock;
    ``reach`` has the tables that a change of a table may change, by its name in lower case, because
    a server may fold the names in its log.

    After a reset the log has the same places and the same GTIDs again, for other transactions. But
    its files were begun later than the moment of a position in a file of the same name.
    """

    def __init__(
        self,
        since: Mapping[TableId, MySQLPosition],
        moments: Mapping[TableId, float],
        reach: Mapping[tuple[str, str], Collection[TableId]],
        span: tuple[MySQLPosition, MySQLPosition],
        *,
        checksum: bool,
    ) -> None:
        self.changed: set[TableId] = set()
        #: Why all tables may have changed that are not in ``changed`` by themselves.
        self.reason = ""
        self._since = {id: place(position) for id, position in since.items()}
        self._reach = reach
        start, end = span
        self._place = LogPlace(start, checksum=checksum)
        self._end = place(end)
        #: The first moment at which a file was known, by its number.
        self._known: dict[int, float] = {}
        for id, moment in moments.items():
            file = self._since[id][0]
            self._known[file] = min(moment, self._known.get(file, moment))

    def feed(self, events: Iterable[bytes]) -> bool:
        """Read these events. True when the end is reached."""
        return any(map(self._feed, events))

    def _feed(self, event: bytes) -> bool:
        found = self._place.pass_event(event)
        if found is None:
            self._check_file()
        else:
            kind, end = found
            self._note(kind, event, end)
        return self._place.format is not None and self._place.numbers >= self._end

    def _check_file(self) -> None:
        """Raise SourceError if the file was begun after its place was known, to the second."""
        format, (file, _) = self._place.format, self._place.numbers
        if format is not None and format.begun + 1 > self._known.get(file, inf):
            raise SourceError(
                f"the log may have been reset: {self._place.file} was begun after the tables were"
                " compared"
            )

    def _note(self, kind: int, event: bytes, end: int) -> None:
        try:
            if kind == ev.TABLE_MAP:
                schema, name = ev.read_table_name(event, end)
                self._note_change(self._reach.get((schema.lower(), name.lower()), ()))
            elif kind in QUERIES:
                self._note_statement(QUERIES[kind](event, end).statement)
            elif kind == ev.TRANSACTION_PAYLOAD:
                for events in compression.payload_events(event, end):
                    for each in events:
                        self._note(each[4], each, len(each))
            elif kind not in _WITHOUT_CHANGES:
                self._note_all(f"an event of type {kind}")
        except (DecodeError, UnicodeDecodeError):
            self._note_all("an event that cannot be read")

    def _note_statement(self, statement: bytes) -> None:
        words = first_words(statement)
        first = words[0] if words else ""
        second = words[1].upper() if words[1:] else ""
        if first not in _HARMLESS and (first, second) not in _HARMLESS_PAIRS:
            self._note_all("a statement that may change any table")
        elif first == "XA" and second == "COMMIT":
            self._note_all("an XA COMMIT")

    def _note_all(self, what: str) -> None:
        before = len(self.changed)
        self._note_change(self._since)
        if len(self.changed) > before:
            self.reason = f"the log has {what} at {self._place}"

    def _note_change(self, ids: Collection[TableId]) -> None:
        at = self._place.numbers
        self.changed.update(id for id in ids if self._since[id] < at)


def oldest(positions: Sequence[MySQLPosition], end: MySQLPosition) -> MySQLPosition:
    """The first of these positions in the log up to ``end``. Raises SourceError if they are not all
    of that log.

    Neither GTIDs nor places are enough. After a reset both begin again, and the one may have
    passed a position that the other has not. Places are ordered only in files of one name.
    """
    if not all(it.file and it.server == end.server for it in positions):
        raise SourceError("a position is not one of this server's log")
    if not all(_base_name(it) == _base_name(end) for it in positions):
        raise SourceError("a position is in a log with another name of its files")
    if not all(end.at_or_after(it) and place(it) <= place(end) for it in positions):
        raise SourceError("a position is beyond the log, which was reset")
    return min(positions, key=place)


def _base_name(position: MySQLPosition) -> str:
    return position.file.rpartition(".")[0]


def place(position: MySQLPosition) -> tuple[int, int]:
    """The place of a position, which orders those of one log."""
    return file_number(position.file), position.offset


def read_changed(
    settings: MySQLSettings,
    session: Connection[Any],
    since: Mapping[Table, Since],
    seconds: float,
) -> Changed:
    """As ``Freezer.changed``."""
    if not since:
        return Changed(frozenset())
    deadline = time.monotonic() + seconds
    info = read_server_info(session)
    end = log_end(session, info)
    clock = ServerClock()
    clock.compare(session)
    positions = {table.id: parse_position(it.position) for table, it in since.items()}
    moments = {table.id: it.at + (clock.ahead_seconds or 0.0) for table, it in since.items()}
    start = oldest(list(positions.values()), end)
    reach = _reach(session, list(since), native=has_native_foreign_keys(session, info))
    # Another id than the engine's: the server ends the older of two streams with the same id.
    replica = BinlogConnection(msgspec.structs.replace(settings, server_id=0))
    try:
        replica.open()
        names = ChangedNames(positions, moments, reach, (start, end), checksum=replica.checksum)
        replica.dump_from_file(start.file, start.offset)
        while (left := deadline - time.monotonic()) > 0:
            if names.feed(replica.receive(min(left, _POLL_SECONDS))):
                return Changed(frozenset(names.changed), names.reason)
    finally:
        replica.close()
    raise SourceLost(f"the log since then was not read within {seconds:g} seconds")


def _reach(
    session: Connection[Any], tables: Sequence[Table], *, native: bool
) -> dict[tuple[str, str], set[TableId]]:
    """The tables that a change of a table may change without a sign in the log, and itself."""
    keys = all_foreign_keys(session) if native else {}
    merged = all_merge_tables(session)
    found: dict[tuple[str, str], set[TableId]] = {}
    for table in tables:
        own = msgspec.structs.replace(table, foreign_keys=None)
        changing = {table.id, *ancestors([own], keys)}
        changing |= {id for id, joined in merged if not joined.isdisjoint(changing)}
        for id in changing:
            found.setdefault((id.schema.lower(), id.name.lower()), set()).add(table.id)
    return found

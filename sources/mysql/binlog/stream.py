"""
From the events of a log to changes: the state machine that knows transactions. No I/O.

Idea: one table of handlers by event type, and one place where a transaction ends (``_finish``). A
group of events becomes a transaction only when something in it concerns a followed table; all other
groups merely move the position, so filtered traffic costs next to nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from zlib import crc32

from engine.change import Begin, Change, Commit, Operation, Rows
from engine.errors import DecodeError, SourceError, TailraceError
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.compression import (
    decompressed_rows,
    payload_events,
    read_compressed_query,
)
from sources.mysql.binlog.replay import Replay
from sources.mysql.binlog.stream_position import Gtid, StreamPosition
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.binlog.xa import PreparedTransaction, PreparedTransactions, XaStatement, read_xa
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.gtid import GtidSet
from sources.mysql.position import MySQLPosition

__all__ = ["Stream"]

_STATEMENT_END: Final = 0x01
_DUMMY_TABLE: Final = b"\xff\xff\xff\0\0\0"
_MOST_TABLE_MAPS: Final = 10_000
_MOST_BEGINS: Final = 1_000
#: Rows of several events are handed on together up to this size.
_JOINED_BYTES: Final = 64 << 10
_GTID: Final = ev.GTID
_LAST_PLAIN_ROWS: Final = ev.DELETE_ROWS_2

#: Events that belong to the log and not to what happened.
_APART: Final = frozenset((ev.ROTATE, ev.FORMAT_DESCRIPTION, ev.HEARTBEAT, ev.HEARTBEAT_2))
#: Events that say nothing about rows, or that the statement after them says again.
_PASSED: Final = (
    ev.STOP,
    ev.INTVAR,
    ev.APPEND_BLOCK,
    ev.DELETE_FILE,
    ev.RAND,
    ev.USER_VAR,
    ev.BEGIN_LOAD_QUERY,
    ev.IGNORABLE,
    ev.ROWS_QUERY,
    ev.PREVIOUS_GTIDS,
    ev.TRANSACTION_CONTEXT,
    ev.VIEW_CHANGE,
    ev.MARIADB_ANNOTATE_ROWS,
    ev.MARIADB_BINLOG_CHECKPOINT,
    ev.MARIADB_GTID_LIST,
    ev.MARIADB_START_ENCRYPTION,
)
_ROWS: Final[dict[int, tuple[Operation, int]]] = {
    ev.WRITE_ROWS_1: ("insert", 1),
    ev.UPDATE_ROWS_1: ("update", 1),
    ev.DELETE_ROWS_1: ("delete", 1),
    ev.WRITE_ROWS_2: ("insert", 2),
    ev.UPDATE_ROWS_2: ("update", 2),
    ev.DELETE_ROWS_2: ("delete", 2),
    ev.PARTIAL_UPDATE_ROWS: ("update", 2),
    ev.MARIADB_WRITE_ROWS_COMPRESSED_1: ("insert", 1),
    ev.MARIADB_UPDATE_ROWS_COMPRESSED_1: ("update", 1),
    ev.MARIADB_DELETE_ROWS_COMPRESSED_1: ("delete", 1),
    ev.MARIADB_WRITE_ROWS_COMPRESSED_2: ("insert", 2),
    ev.MARIADB_UPDATE_ROWS_COMPRESSED_2: ("update", 2),
    ev.MARIADB_DELETE_ROWS_COMPRESSED_2: ("delete", 2),
}
_QUERIES: Final = {
    ev.QUERY: ev.read_query,
    ev.EXECUTE_LOAD_QUERY: ev.read_load_query,
    ev.MARIADB_QUERY_COMPRESSED: read_compressed_query,
}

Handler = Callable[[int, bytes, int, int], None]


class Stream:
    """Reads events, whole and in order, from ``position`` on; ``progress`` tells how far.

    ``checksum`` is whether events carry one before the first format description says so.
    """

    def __init__(
        self, position: MySQLPosition, tracking: Tracking, *, checksum: bool = False
    ) -> None:
        self.progress = StreamPosition(position)
        #: When the newest group was committed, in Unix seconds by the source's clock; 0.0 if none.
        self.committed_at = 0.0
        #: Whether the server has said after it that it has nothing more.
        self.idle = False
        self._tracking = tracking
        self._checksum = checksum
        self._transactions = PreparedTransactions(self.progress)
        self._replay = Replay(position, self._transactions.awaited)
        self._prepared: PreparedTransaction | None = None
        self._out: list[Change] = []
        self._target = self._out
        self._pending: Iterator[list[Change]] | None = None
        self._known: dict[bytes, RowDecoder | None] = {}
        self._tables: dict[bytes, RowDecoder | None] = {}
        self._sources: dict[bytes, str] = {}
        self._begins: set[bytes] = set()
        self._reset()
        self._handlers = self._make_handlers()

    def _reset(self) -> None:
        """The state between two groups."""
        self._explicit = False  # the group ends with an XID or COMMIT, not with its statement
        self._skipped = False  # the group is part of the start position
        self._deferred = False  # the group's statement takes effect in another group
        self._begun = False
        self._gtid: Gtid | None = None
        self._committed_at = 0.0

    def _make_handlers(self) -> list[Handler | None]:
        handlers: list[Handler | None] = [None] * 256
        for kind in _PASSED:
            handlers[kind] = self._on_passed
        for kind in _ROWS:
            handlers[kind] = self._on_rows
        for kind in _QUERIES:
            handlers[kind] = self._on_query
        handlers[ev.XID] = self._on_xid
        handlers[ev.TABLE_MAP] = self._on_table_map
        handlers[ev.INCIDENT] = self._on_incident
        handlers[ev.GTID] = handlers[ev.GTID_TAGGED] = self._on_gtid
        handlers[ev.ANONYMOUS_GTID] = self._on_anonymous
        handlers[ev.XA_PREPARE] = self._on_prepare
        handlers[ev.TRANSACTION_PAYLOAD] = self._on_payload
        handlers[ev.MARIADB_GTID] = self._on_domain_gtid
        return handlers

    # -- for those who read the log ----------------------------------------------------------------

    @property
    def inside(self) -> bool:
        """Whether a transaction has begun and has not ended."""
        return self._begun and self._prepared is None

    @property
    def unfinished(self) -> bool:
        """Whether the events so far end in the middle of a group."""
        return self.progress.group >= 0

    def feed(self, events: Iterable[bytes]) -> Iterator[list[Change]]:
        """The changes that these events bring, in one list or, where they are many, in several.

        To be exhausted. Raises DecodeError, SchemaError and SourceError, with the place in the log.
        """
        try:
            yield from self._feed(events)
            if self._prepared is not None:
                self._prepared.spill()
        except (struct.error, IndexError) as error:
            where = self.progress
            raise DecodeError(f"an event is cut off: {error}", position=where) from error
        except TailraceError as error:
            error.position = error.position or str(self.progress)
            raise

    def _feed(self, events: Iterable[bytes]) -> Iterator[list[Change]]:
        handlers, progress, read_header = self._handlers, self.progress, ev.read_header
        # What is looked up for every event is local: this loop is most of a single row's cost.
        apart, crc, good, artificial = _APART, crc32, ev.GOOD_CHECKSUM, ev.ARTIFICIAL
        checksum = self._checksum
        for event in events:
            timestamp, kind, _, size, log_pos, flags = read_header(event)
            if size != len(event):
                raise DecodeError(f"an event says it has {size} bytes, it has {len(event)}")
            if kind in apart:
                self._on_apart(kind, event, log_pos)
                checksum = self._checksum
                continue
            end = size
            if checksum:
                if crc(event) != good:
                    raise ev.bad_checksum(kind)
                end -= 4
            if not flags & artificial:
                offset = progress.offset = progress.offset + size
                if log_pos != offset and log_pos:
                    progress.synchronise(log_pos)
            handler = handlers[kind]
            if handler is None:
                self._on_unknown(kind, flags)
            else:
                handler(kind, event, end, timestamp)
            if self._pending is not None:
                pending, self._pending = self._pending, None
                yield from pending
        yield from self._flush()

    def _flush(self) -> Iterator[list[Change]]:
        if self._out:
            out, self._out = self._out, []
            if self._prepared is None:
                self._target = self._out
            yield out

    # -- the log itself ----------------------------------------------------------------------------

    def _on_apart(self, kind: int, event: bytes, log_pos: int) -> None:
        progress = self.progress
        good = ev.checksum_is_good(event, kind)
        if kind == ev.FORMAT_DESCRIPTION:
            format = ev.read_format(event, len(event))
            if format.checksum and not good:
                raise ev.bad_checksum(kind)
            self._checksum = format.checksum
            self._tracking.mariadb = format.mariadb
            progress.offset = log_pos or progress.offset
        elif kind == ev.ROTATE:
            # A server makes up a ROTATE before it has read what kind of checksum the file has.
            file, progress.offset = ev.read_rotate(event, len(event) - (4 if good else 0))
            progress.file = file
        else:
            end = len(event) - (4 if self._checksum else 0)
            if self._checksum and not good:
                raise ev.bad_checksum(kind)
            self.idle = True
            if kind == ev.HEARTBEAT:
                progress.skip_to(*ev.read_heartbeat(event, end, log_pos))
            else:
                progress.skip_to(*ev.read_heartbeat_2(event, end))
        progress.pass_over()

    def _on_passed(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        self.progress.pass_over()

    def _on_incident(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        raise SourceError(
            f"the source's log has lost events: {ev.read_incident(event, end)}",
            hint="copy the tables again; nothing in the log can bring the lost changes back",
        )

    def _on_unknown(self, kind: int, flags: int) -> None:
        if flags & ev.MAY_BE_IGNORED:
            return
        if kind > ev.MARIADB_DELETE_ROWS_COMPRESSED_2:
            raise SourceError(
                f"the log holds an event of the unknown type {kind}, which may be part of a row",
                hint="MariaDB 12.3 and newer: raise binlog_row_event_fragment_threshold to its"
                " largest value, then copy the tables again",
            )
        raise DecodeError(f"the log holds an event of the unknown type {kind}")

    # -- groups ------------------------------------------------------------------------------------

    def _open(self, size: int) -> None:
        progress = self.progress
        if progress.group >= 0:
            if self._begun or self._prepared is not None:
                raise DecodeError("a transaction starts before the one before it has ended")
            self._reset()
        progress.enter(size)
        if self._replay.lasts:
            self._skipped = self._replay.has_place(progress)

    def _on_gtid(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        read = ev.read_gtid if kind == _GTID else ev.read_tagged_gtid
        source, number, committed_at = read(event, end)
        self._open(len(event))
        try:
            text = self._sources[source]
        except KeyError:
            text = self._sources[source] = ev.source_text(source)
        self._gtid = (text, number, number)
        self._committed_at = committed_at

    def _on_anonymous(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        self._open(len(event))
        self._committed_at = ev.read_anonymous_gtid(event, end)

    def _on_domain_gtid(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        gtid = ev.read_domain_gtid(event, end, int.from_bytes(event[5:9], "little"))
        self._open(len(event))
        self._gtid = (str(gtid.domain), gtid.server, gtid.sequence)
        self._committed_at = float(timestamp)
        self._explicit = not gtid.standalone
        self._deferred = gtid.alters_later
        if self._replay.lasts and self._replay.has_gtid(gtid):
            self._skipped = True
        if gtid.prepares:
            self._hold()

    def _on_xid(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        self._finish(timestamp)

    def _begin(self) -> None:
        self._begun = True
        if self._prepared is None:
            start = self.progress.position
            self._out.append(Begin(self._transaction(), start, self._committed_at))

    def _transaction(self) -> str:
        if self._gtid is None:
            return self.progress.group_place
        source, first, last = self._gtid
        return f"{source}-{first}-{last}" if self._tracking.mariadb else f"{source}:{last}"

    def _finish(self, timestamp: int) -> None:
        """The group ends here, and with it the transaction, if it is one for us."""
        progress = self.progress
        committed_at = self.committed_at = self._committed_at or float(timestamp)
        self.idle = False
        if self._skipped:
            progress.leave()
            self._reset()
            return
        if self._gtid is not None:
            progress.record(self._gtid)
        progress.complete()
        if self._begun:
            progress.moved = False
            self._out.append(Commit(progress.position, committed_at))
        self._reset()

    # -- statements --------------------------------------------------------------------------------

    def _on_query(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        if self.progress.group < 0:
            self._open(len(event))
        body = event[19:end]
        if body in self._begins:
            # One session's are the same bytes, but for the time and place in their headers.
            self._explicit = True
            return
        query = _QUERIES[kind](event, end)
        statement = query.statement
        if statement == b"BEGIN":
            self._explicit = True
            if len(self._begins) > _MOST_BEGINS:
                self._begins.clear()
            self._begins.add(body)
        elif statement == b"COMMIT":
            self._finish(timestamp)
        elif statement.startswith(b"XA ") and (xa := read_xa(statement)) is not None:
            self._on_xa(xa, timestamp)
        elif statement.startswith(b"ROLLBACK"):
            self._on_rollback(statement, timestamp)
        elif self._skipped or self._deferred:
            self._end_of_statement(timestamp)
        else:
            self._follow(query)
            self._end_of_statement(timestamp)

    def _follow(self, query: ev.Query) -> None:
        effects = self._tracking.follow(query)
        if effects:
            self._known.clear()
            if not self._begun:
                self._begin()
            self._target.extend(effects)

    def _end_of_statement(self, timestamp: int) -> None:
        if not self._explicit:
            self._finish(timestamp)

    def _on_rollback(self, statement: bytes, timestamp: int) -> None:
        """The log holds what was rolled back only if it could not be rolled back as a whole."""
        if self._begun and not self._skipped:
            raise SourceError(
                "the log holds rows of followed tables that were rolled back, at least in part",
                hint="set binlog_format = ROW, and do not mix transactional with other engines in"
                " one transaction; copy the tables again",
            )
        if statement == b"ROLLBACK":
            self._finish(timestamp)

    # -- tables and rows ---------------------------------------------------------------------------

    def _on_table_map(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        body = event[19:end]
        try:
            self._tables[body[:6]] = self._known[body]
        except KeyError:
            self._tables[body[:6]] = None if self._skipped else self._meet(event, end, body)

    def _meet(self, event: bytes, end: int, body: bytes) -> RowDecoder | None:
        if self.progress.group < 0:
            raise DecodeError("a table map outside a transaction")
        decoder, change = self._tracking.meet(event, end)
        if change is not None or len(self._known) > _MOST_TABLE_MAPS:
            self._known.clear()
        if change is not None:
            if not self._begun:
                self._begin()
            self._target.append(change)
        self._known[body] = decoder
        return decoder

    def _on_rows(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        table = event[19:25]
        try:
            decoder = self._tables[table]
        except KeyError:
            if table != _DUMMY_TABLE:
                raise DecodeError("rows without the table map that they belong to") from None
            decoder = None
        if event[25] & _STATEMENT_END:
            self._tables.clear()
        if decoder is None or self._skipped:
            return
        op, version = _ROWS[kind]
        start = 27 if version == 1 else 27 + (event[27] | event[28] << 8)
        if start > end or self.progress.group < 0:
            raise DecodeError("rows outside a transaction, or rows that are cut off")
        if kind <= _LAST_PLAIN_ROWS:
            rows = decoder.decode(op, event, start, end)
        elif kind == ev.PARTIAL_UPDATE_ROWS:
            rows = decoder.decode(op, event, start, end, partial_json=True)
        else:
            event = decompressed_rows(event, start, end, 2 if op == "update" else 1)
            rows = decoder.decode(op, event, 0, len(event))
        if not self._begun:
            self._begin()
        target = self._target
        last = target[-1] if target else None
        # Statements of single rows make an event each: together they cost half from here on.
        if not (type(last) is Rows and last.size < _JOINED_BYTES and last.join(rows)):
            target.append(rows)

    def _on_payload(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        self._pending = self._unpack(event, end)

    def _unpack(self, event: bytes, end: int) -> Iterator[list[Change]]:
        """The events of a compressed transaction, which have neither checksum nor position."""
        for inner in payload_events(event, end):
            for each in inner:
                timestamp, kind, _, size, _, flags = ev.read_header(each)
                handler = self._handlers[kind]
                if handler is None:
                    self._on_unknown(kind, flags)
                elif kind == ev.TRANSACTION_PAYLOAD:
                    raise DecodeError("a transaction payload inside a transaction payload")
                else:
                    handler(kind, each, size, timestamp)
                if self._pending is not None:
                    pending, self._pending = self._pending, None
                    yield from pending
            if self._prepared is not None:
                self._prepared.spill()
            yield from self._flush()

    # -- XA ----------------------------------------------------------------------------------------

    def _on_xa(self, xa: XaStatement, timestamp: int) -> None:
        if xa.verb == "START":
            self._explicit = True
            self._hold()
        elif xa.verb in ("COMMIT", "ROLLBACK"):
            if self._skipped:
                self._finish(timestamp)
            elif (prepared := self._transactions.decide(xa)) is None:
                self._end_of_statement(timestamp)
            else:
                self._pending = self._commit(prepared, timestamp)

    def _hold(self) -> None:
        """From here on changes wait for the group's end to say what becomes of them."""
        self._prepared = PreparedTransaction()
        self._target = self._prepared.changes

    def _on_prepare(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        xid, one_phase = ev.read_prepare(event, end)
        prepared, self._prepared = self._prepared or PreparedTransaction(), None
        self._target = self._out
        self._begun = False
        if self._skipped:
            self._finish(timestamp)
        elif one_phase:
            self._pending = self._commit(prepared, timestamp)
        elif self._transactions.recover(xid, prepared):
            self.progress.leave()
            self._reset()
        else:
            self._transactions.prepare(xid, prepared, self._transaction())
            if prepared and isinstance(self.progress.executed, GtidSet):
                self._gtid = None  # so that the server sends it again until it is decided
            self._finish(timestamp)

    def _commit(self, prepared: PreparedTransaction, timestamp: int) -> Iterator[list[Change]]:
        """What was prepared, as a transaction of the group that is being read."""
        if prepared:
            self._begin()
            for changes in prepared.release():
                self._out += changes
                yield from self._flush()
        self._finish(timestamp)

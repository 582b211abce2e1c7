"""
The state machine that turns binlog events into transactions and changes. No I/O.

Each event type has a handler (``_make_handlers``), and an event group ends in one place
(``_finish``). A group becomes a transaction (``Begin``, changes, ``Commit``) only when it has an
event of a followed table; other groups only move the position, so they cost little. ``_feed`` and
the handlers are hot: for single-row transactions they are most of the cost per row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from zlib import crc32

from engine.change import Begin, Cascade, Change, Commit, Rows
from engine.errors import DecodeError, SourceError, TailraceError
from engine.remedies import BACKFILL_ALL, SKIP_STATEMENT, and_then
from sources.mysql.binlog import compression
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.cascades import Decoder
from sources.mysql.binlog.passing import Handler, passing
from sources.mysql.binlog.query_event import QUERIES, Query
from sources.mysql.binlog.replay import Replay
from sources.mysql.binlog.stream_position import Gtid, StreamPosition
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.binlog.xa import PreparedTransaction, PreparedTransactions, XaStatement, read_xa
from sources.mysql.gtid import GtidSet
from sources.mysql.position import MySQLPosition

__all__ = ["Stream"]

_STATEMENT_END: Final = ev.STATEMENT_END
_NO_FOREIGN_KEY_CHECKS: Final = 0x02
_DUMMY_TABLE: Final = b"\xff\xff\xff\0\0\0"
_MOST_TABLE_MAPS: Final = 10_000
_MOST_BEGINS: Final = 1_000
_LAST_PLAIN_ROWS: Final = ev.DELETE_ROWS_2
_ROWS: Final = ev.ROWS


class Stream:
    """Turns events into changes, from ``start`` on. ``position`` is the current position.

    ``checksum`` says whether events have a checksum until a format description says otherwise.
    """

    def __init__(self, start: MySQLPosition, tracking: Tracking, *, checksum: bool = False) -> None:
        self.position = StreamPosition(start)
        #: The commit time of the newest group, in Unix seconds of the source; 0.0 if none.
        self.committed_at = 0.0
        #: Whether a heartbeat came after the newest group: the server has nothing more to send.
        self.idle = False
        self._tracking = tracking
        self._passed_over = tracking.passed_over
        self._checksum = checksum
        self._prepared = PreparedTransactions(self.position, start.awaited(tracking.reads))
        self._replay = Replay(start, self._prepared.awaited)
        #: The XA transaction whose rows are being read, until its XA_PREPARE event.
        self._xa: PreparedTransaction | None = None
        self._out: list[Change] = []
        self._target = self._out
        self._pending: Iterator[list[Change]] | None = None
        self._known = tracking.decoders
        self._tables: dict[bytes, Decoder | None] = {}
        self._sources: dict[bytes, str] = {}
        self._begins: set[bytes] = set()
        self._reset()
        hooks = (self._defer, self._finish, self._on_unknown, self._leave_out)
        self._handlers = passing(self._make_handlers(), self.position, *hooks)

    def _reset(self) -> None:
        """Set the state between two groups."""
        self._explicit = False  # the group ends with an XID or COMMIT, not with its statement
        self._skipped = False  # the start position includes the group
        self._deferred = False  # the group's statement has no effect, or has it in another group
        self._begun = False  # the group has become a transaction
        self._without_rows = False  # only statements have made it one
        self._gtid: Gtid | None = None
        self._committed_at = 0.0

    def _make_handlers(self) -> list[Handler | None]:
        handlers: list[Handler | None] = [None] * 256
        for kind in ev.WITHOUT_CHANGES:
            handlers[kind] = self._on_ignored
        for kind in _ROWS:
            handlers[kind] = self._on_rows
        for kind in QUERIES:
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

    # -- the interface -----------------------------------------------------------------------------

    @property
    def inside(self) -> bool:
        """Whether ``Begin`` has been returned and ``Commit`` has not."""
        return self._begun and self._xa is None

    @property
    def unfinished(self) -> bool:
        """Whether the last event is in the middle of a group."""
        return self.position.group >= 0

    def feed(self, events: Iterable[bytes]) -> Iterator[list[Change]]:
        """The changes in these events, in one list or, where they are many, in several.

        Exhaust the iterator. Raises DecodeError, SchemaError and SourceError, with the position.
        """
        try:
            yield from self._feed(events)
            if self._xa is not None:
                self._xa.spill()
        except (struct.error, IndexError) as error:
            raise DecodeError(f"an event is cut off: {error}", position=self.position) from error
        except TailraceError as error:
            error.position = error.position or str(self.position)
            error.transaction = self.position.group_place if self.unfinished else ""
            raise

    def _feed(self, events: Iterable[bytes]) -> Iterator[list[Change]]:
        handlers, position, read_header = self._handlers, self.position, ev.read_header
        # Local names, because this loop is most of the cost of a single-row transaction.
        log_events, crc, good, artificial = ev.LOG_EVENTS, crc32, ev.GOOD_CHECKSUM, ev.ARTIFICIAL
        checksum = self._checksum
        for event in events:
            timestamp, kind, _, size, log_pos, flags = read_header(event)
            if size != len(event):
                raise DecodeError(f"an event's header says {size} bytes, and it has {len(event)}")
            if kind in log_events:
                self._on_log_event(kind, event, log_pos)
                checksum = self._checksum
                continue
            end = size
            if checksum:
                if crc(event) != good:
                    raise ev.bad_checksum(kind)
                end -= 4
            if not flags & artificial:
                offset = position.offset = position.offset + size
                if log_pos != offset and log_pos:
                    position.synchronise(log_pos)
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
            if self._xa is None:
                self._target = self._out
            yield out

    # -- the log itself ----------------------------------------------------------------------------

    def _on_log_event(self, kind: int, event: bytes, log_pos: int) -> None:
        position = self.position
        good = ev.checksum_is_good(event, kind)
        if kind == ev.FORMAT_DESCRIPTION:
            format = ev.read_format(event, len(event))
            if format.checksum and not good:
                raise ev.bad_checksum(kind)
            self._checksum = format.checksum
            self._tracking.use(format)
            self._known.clear()
            position.offset = log_pos or position.offset
        elif kind == ev.ROTATE:
            # A server may send an artificial ROTATE before it knows the file's checksum algorithm.
            file, position.offset = ev.read_rotate(event, len(event) - (4 if good else 0))
            position.file = file
        else:
            end = len(event) - (4 if self._checksum else 0)
            if self._checksum and not good:
                raise ev.bad_checksum(kind)
            self.idle = True
            if kind == ev.HEARTBEAT:
                position.skip_to(*ev.read_heartbeat(event, end, log_pos))
            else:
                position.skip_to(*ev.read_heartbeat_2(event, end))
        position.pass_over()

    def _on_ignored(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        self.position.pass_over()

    def _on_incident(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        raise SourceError(
            f"the source's log has lost events: {ev.read_incident(event, end)}",
            hint=and_then(SKIP_STATEMENT, BACKFILL_ALL),
        )

    def _on_unknown(self, kind: int, flags: int) -> None:
        if flags & ev.MAY_BE_IGNORED:
            return
        if kind > ev.MARIADB_DELETE_ROWS_COMPRESSED_2:
            raise SourceError(
                f"the log has an event of the unknown type {kind}, which may be part of a row",
                hint="MariaDB 12.3 and newer: raise binlog_row_event_fragment_threshold to its"
                f" maximum, then {BACKFILL_ALL}",
            )
        raise DecodeError(f"the log has an event of the unknown type {kind}")

    # -- groups ------------------------------------------------------------------------------------

    def _open(self, size: int) -> None:
        position = self.position
        if position.group >= 0:
            if self._begun or self._xa is not None:
                raise DecodeError("a transaction starts before the previous one has ended")
            self._reset()
        position.enter(size)
        if self._replay.lasts:
            self._skipped = self._replay.has_place(position)

    def _on_gtid(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        read = ev.read_gtid if kind == ev.GTID else ev.read_tagged_gtid
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
        self._deferred = gtid.deferred
        if self._replay.lasts and self._replay.has_gtid(gtid):
            self._skipped = True
        if gtid.prepares:
            self._begin_xa()

    def _defer(self, deferred: bool) -> None:
        self._deferred = deferred

    def _on_xid(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        self._finish(timestamp)

    def _begin(self) -> None:
        self._begun = True
        if self._xa is None:
            start = self.position.resume_position
            self._out.append(Begin(self._transaction(), start, self._committed_at))

    def _transaction(self) -> str:
        if self._gtid is None:
            return self.position.group_place
        source, first, last = self._gtid
        return f"{source}-{first}-{last}" if self._tracking.mariadb else f"{source}:{last}"

    def _finish(self, timestamp: int) -> None:
        """End the group, and the transaction if the group has become one."""
        position = self.position
        committed_at = self.committed_at = self._committed_at or float(timestamp)
        self.idle = False
        if self._skipped:
            position.leave()
            self._reset()
            return
        if self._gtid is not None:
            position.record(self._gtid)
        position.complete()
        if self._begun:
            position.moved = False
            self._out.append(Commit(position.resume_position, committed_at))
        self._reset()

    # -- statements --------------------------------------------------------------------------------

    def _on_query(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        if self.position.group < 0:
            self._open(len(event))
        body = event[19:end]
        if body in self._begins:
            # The BEGINs of a session differ only in their headers, so they are compared as bytes.
            self._explicit = True
            return
        query = QUERIES[kind](event, end)
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
            if not self._deferred:
                self._tracking.pass_over(query)
            self._end_of_statement(timestamp)
        else:
            self._follow(query)
            self._end_of_statement(timestamp)

    def _follow(self, query: Query) -> None:
        effects = self._tracking.follow(query)
        if effects:
            if not self._begun:
                self._begin()
                self._without_rows = True
            self._target.extend(effects)

    def _end_of_statement(self, timestamp: int) -> None:
        if not self._explicit:
            self._finish(timestamp)

    def _on_rollback(self, statement: bytes, timestamp: int) -> None:
        """A transaction that was rolled back is logged only if some of its changes remain.

        MariaDB logs so the DROP TABLE that a failed CREATE OR REPLACE TABLE … SELECT has done.
        """
        if self._begun and not self._without_rows and not self._skipped:
            raise SourceError(
                "the log has rows of followed tables that were rolled back, at least in part",
                hint="set binlog_format = ROW, do not mix transactional with other storage engines"
                f" in one transaction; {BACKFILL_ALL}",
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

    def _leave_out(self, event: bytes) -> None:
        """Pass over the rows after this table map."""
        self._tables[event[19:25]] = None

    def _meet(self, event: bytes, end: int, body: bytes) -> Decoder | None:
        if self.position.group < 0:
            raise DecodeError("a table map outside a transaction")
        decoder, change = self._tracking.meet(event, end)
        if change is not None or len(self._known) > _MOST_TABLE_MAPS:
            self._known.clear()
        if change is not None:
            if not self._begun:
                self._begin()
            self._target.append(change)
        self._known[body] = decoder
        if decoder is not None:
            self._without_rows = False
        return decoder

    def _on_rows(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        table = event[19:25]
        try:
            decoder = self._tables[table]
        except KeyError:
            if table != _DUMMY_TABLE:
                raise DecodeError("rows without their table map") from None
            decoder = None
        if (flags := event[25]) & _STATEMENT_END:
            self._tables.clear()
        if decoder is None or self._skipped:
            if self._passed_over and not self._skipped:
                at = self.position
                self._passed_over.count(kind, event, end, (at.file, at.offset))
            return
        op, version = _ROWS[kind]
        start = 27 if version == 1 else 27 + (event[27] | event[28] << 8)
        if start > end or self.position.group < 0:
            raise DecodeError("rows outside a transaction, or a rows event that is cut off")
        if kind <= _LAST_PLAIN_ROWS:
            rows = decoder.decode(op, event, start, end)
        elif kind == ev.PARTIAL_UPDATE_ROWS:
            rows = decoder.decode(op, event, start, end, partial_json=True)
        else:
            event = compression.decompressed_rows(event, start, end, 2 if op == "update" else 1)
            rows = decoder.decode(op, event, 0, len(event))
        if decoder.derive is not None:
            self._derive(decoder.derive(rows, not flags & _NO_FOREIGN_KEY_CHECKS))
            return
        if not self._begun:
            self._begin()
        target = self._target
        last = target[-1] if target else None
        # Single-row statements log one event each. Joined, their rows cost half from here on.
        if type(last) is not Rows or not last.join(rows):
            target.append(rows)

    def _derive(self, changes: Sequence[Rows | Cascade]) -> None:
        """Add what the rows of an event mean."""
        if changes and not self._begun:
            self._begin()
        for change in changes:
            last = self._target[-1] if self._target else None
            if type(last) is not Rows or type(change) is not Rows or not last.join(change):
                self._target.append(change)

    def _on_payload(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        self._pending = self._unpack(event, end)

    def _unpack(self, event: bytes, end: int) -> Iterator[list[Change]]:
        """Handle the events of a compressed transaction, which have no checksum or position."""
        for inner in compression.payload_events(event, end):
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
            if self._xa is not None:
                self._xa.spill()
            yield from self._flush()

    # -- XA ----------------------------------------------------------------------------------------

    def _on_xa(self, xa: XaStatement, timestamp: int) -> None:
        if xa.verb == "START":
            self._explicit = True
            self._begin_xa()
        elif xa.verb in ("COMMIT", "ROLLBACK"):
            if self._skipped:
                self._finish(timestamp)
            elif (prepared := self._prepared.resolve(xa)) is None:
                self._end_of_statement(timestamp)
            else:
                self._pending = self._commit(prepared, timestamp)

    def _begin_xa(self) -> None:
        """Collect the following changes in an XA transaction, not in the output."""
        self._xa = PreparedTransaction()
        self._target = self._xa.changes
        self._handlers[ev.TABLE_MAP] = self._on_xa_table_map

    def _on_xa_table_map(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        """Note the tables that are not followed."""
        self._on_table_map(kind, event, end, timestamp)
        if self._xa is not None:
            self._xa.meet(event, end, self._tracking.follows)

    def _on_prepare(self, kind: int, event: bytes, end: int, timestamp: int) -> None:
        xid, one_phase = ev.read_prepare(event, end)
        prepared, self._xa = PreparedTransaction() if self._xa is None else self._xa, None
        self._target = self._out
        self._handlers[ev.TABLE_MAP] = self._on_table_map
        self._begun = False
        if self._skipped:
            self._finish(timestamp)
        elif one_phase:
            self._pending = self._commit(prepared, timestamp)
        elif self._prepared.recover(xid, prepared):
            self.position.leave()
            self._reset()
        else:
            again = self._prepared.prepare(xid, prepared, self._transaction())
            if again and isinstance(self.position.executed, GtidSet):
                self._gtid = None  # the server sends it again until it is committed or rolled back
            self._finish(timestamp)

    def _commit(self, prepared: PreparedTransaction, timestamp: int) -> Iterator[list[Change]]:
        """Return the prepared changes as a transaction of the current group."""
        if prepared:
            self._begin()
            for changes in prepared.release():
                self._out += changes
                yield from self._flush()
        self._finish(timestamp)

"""
QUERY events: a logged statement, and the state of its session that its text does not contain. Pure.

The state is in three places: the event's header (the time, flags), fixed fields (the thread, the
error code, the default schema) and the status variables, which are decoded only for the statements
that can change a table. ``docs/what-the-log-does-not-say.md`` lists them all with their meaning.

Format: https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Query__event.html
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from engine.databases.mysql.charset import collation_charset, text_decoder
from engine.errors import DecodeError
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.compression import decompress
from sources.mysql.binlog.events import Format, read_header

__all__ = [
    "QUERIES",
    "Query",
    "Session",
    "read_compressed_query",
    "read_load_query",
    "read_query",
    "session_of",
    "statement_text",
]

_QUERY: Final = struct.Struct("<IIBHH")
_LOAD_QUERY_EXTRA: Final = 13  # file id, two offsets, how duplicates are handled

#: The flag LOG_EVENT_THREAD_SPECIFIC_F of the event header.
_THREAD_SPECIFIC: Final = 0x04

# Status variables, with the numbers of MySQL and MariaDB.
_FLAGS2: Final = 0
_SQL_MODE: Final = 1
_CHARSET: Final = 4
_TIME_ZONE: Final = 5
_INVOKER: Final = 11
_UPDATED_DB_NAMES: Final = 12
_MICROSECONDS: Final = 13
_EXPLICIT_DEFAULTS: Final = 16
_MARIADB_HRNOW: Final = 128
_MARIADB_GTID_FLAGS3: Final = 130
_MARIADB_COLLATIONS: Final = 131
_SIZES: Final = {
    _FLAGS2: 4,
    _SQL_MODE: 8,
    3: 4,  # auto_increment_increment and auto_increment_offset
    _CHARSET: 6,
    7: 2,  # lc_time_names
    8: 2,  # collation_database
    9: 8,  # which tables of a multi-table UPDATE are changed
    10: 4,  # the size of the event on the server before
    _MICROSECONDS: 3,
    _EXPLICIT_DEFAULTS: 1,
    17: 8,  # the transaction id of a DDL statement
    18: 2,  # default_collation_for_utf8mb4
    19: 1,  # sql_require_primary_key
    20: 1,  # default_table_encryption
    _MARIADB_HRNOW: 3,
    129: 8,  # MariaDB's transaction id of a DDL statement
}
#: A length byte, that number of bytes, and as many bytes more.
_TEXTS: Final = {2: 1, _TIME_ZONE: 0, 6: 0}
_MANY_NAMES: Final = 254

_MARIADB_EXPLICIT_DEFAULTS: Final = 1 << 24
#: The patch releases of MariaDB 10.5 to 10.9 that write this bit. 10.10 and newer always do.
_MARIADB_EXPLICIT_DEFAULTS_SINCE: Final = {5: 17, 6: 9, 7: 5, 8: 4, 9: 2}


class Query(NamedTuple):
    """A QUERY: a statement, its default schema, and the status variables as raw bytes.

    ``thread`` is the id of the session. ``error`` is not zero if the statement has failed, wholly
    or in part. ``timestamp`` is the time at which it began, in Unix seconds. ``flags`` are those of
    the event header, and ``server`` is the id of the server on which it ran first.
    """

    schema: str
    status: bytes
    statement: bytes
    thread: int = 0
    error: int = 0
    timestamp: int = 0
    flags: int = 0
    server: int = 0

    @property
    def thread_specific(self) -> bool:
        """Whether the statement uses a temporary table of its session."""
        return bool(self.flags & _THREAD_SPECIFIC)


class Session(NamedTuple):
    """The settings of the session that a statement depends on, as far as the log has them.

    ``charset`` is the client's. ``server_charset`` is that of a new database that does not name
    one, empty if unknown. ``time_zone`` is empty if the statement does not depend on it.
    ``microseconds`` are those of the time at which the statement began, None if the log does not
    have them.
    """

    sql_mode: int = 0
    charset: str = "utf8mb4"
    time_zone: str = ""
    microseconds: int | None = None
    explicit_defaults_for_timestamp: bool | None = None
    server_charset: str = ""


def read_query(event: bytes, end: int) -> Query:
    """QUERY_EVENT.

    It starts with the thread, the duration, the schema's length, the error code and the length of
    the status variables. The status variables follow, then the schema, a zero and the statement.
    """
    return _read_statement(event, end, 0)


def read_load_query(event: bytes, end: int) -> Query:
    """EXECUTE_LOAD_QUERY_EVENT: a LOAD DATA statement. Its file came in the events before it."""
    return _read_statement(event, end, _LOAD_QUERY_EXTRA)


def read_compressed_query(event: bytes, end: int) -> Query:
    """MariaDB's QUERY_COMPRESSED_EVENT: a QUERY whose statement is compressed."""
    query = read_query(event, end)
    return query._replace(statement=decompress(query.statement))


#: How the statement of an event is read, by the event's type.
QUERIES: Final[Mapping[int, Callable[[bytes, int], Query]]] = {
    ev.QUERY: read_query,
    ev.EXECUTE_LOAD_QUERY: read_load_query,
    ev.MARIADB_QUERY_COMPRESSED: read_compressed_query,
}


def _read_statement(event: bytes, end: int, extra: int) -> Query:
    if end < 32 + extra:
        raise DecodeError(f"query event of {end} bytes")
    timestamp, _, server, _, _, flags = read_header(event)
    thread, _, schema_size, error, status_size = _QUERY.unpack_from(event, 19)
    status = 32 + extra
    schema = status + status_size
    statement = schema + schema_size + 1
    if statement > end:
        raise DecodeError(f"query event: its statement starts at {statement}, but it ends at {end}")
    name = event[schema : statement - 1].decode("utf-8", "replace") if schema_size else ""
    text = event[statement:end]
    return Query(name, event[status:schema], text, thread, error, timestamp, flags, server)


def session_of(query: Query, format: Format) -> Session:
    """The session of a statement. ``format`` describes the log that the statement is in."""
    status = _status(query.status)
    options = status.get(_FLAGS2)
    explicit = status.get(_EXPLICIT_DEFAULTS)
    microseconds = status.get(_MICROSECONDS) or status.get(_MARIADB_HRNOW)
    known: bool | None = None
    if explicit is not None and not format.mariadb:
        known = explicit != b"\0"
    elif options is not None and _writes_explicit_defaults(format):
        known = bool(_integer(options) & _MARIADB_EXPLICIT_DEFAULTS)
    client = status.get(_CHARSET)
    return Session(
        _integer(status.get(_SQL_MODE, b"")),
        (collation_charset(_integer(client[:2])) if client else "") or "utf8mb4",
        status.get(_TIME_ZONE, b"").decode("utf-8", "replace"),
        None if microseconds is None else _integer(microseconds),
        known,
        _server_charset(client),
    )


def _server_charset(charsets: bytes | None) -> str:
    """The charset of ``collation_server``, the third number; empty if it is unknown."""
    try:
        return collation_charset(_integer(charsets[4:6])) if charsets else ""
    except DecodeError:
        return ""


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _status(status: bytes) -> dict[int, bytes]:
    """The status variables, up to the first one that is unknown or cut off."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(status):
        code = status[at]
        start = at + 1
        size = _SIZES.get(code)
        if size is None:
            if start >= len(status):
                break
            start, size, at = _variable_size(code, status, start)
        else:
            at = start + size
        if size < 0 or start + size > len(status):
            break
        found[code] = status[start : start + size]
    return found


def _variable_size(code: int, status: bytes, at: int) -> tuple[int, int, int]:
    """The start, size and end of a value whose size is not fixed. The size is -1 if unknown."""
    first = status[at]
    if code in _TEXTS:
        return at + 1, first, at + 1 + first + _TEXTS[code]
    if code == _INVOKER:  # a user and a host, each after its length
        host = at + 1 + first
        size = 2 + first + status[host] if host < len(status) else -1
    elif code == _UPDATED_DB_NAMES:
        size = 1
        for _ in range(0 if first == _MANY_NAMES else first):
            size = status.find(b"\0", at + size) + 1 - at
            if size <= 0:
                return at, -1, at
    elif code == _MARIADB_GTID_FLAGS3:  # flags, and the number of the START ALTER that they need
        size = 10 if int.from_bytes(status[at : at + 2], "little") & 12 else 2
    elif code == _MARIADB_COLLATIONS:
        size = 1 + 4 * first
    else:
        size = -1
    return at, size, at + size


def _writes_explicit_defaults(format: Format) -> bool:
    """Whether MariaDB writes explicit_defaults_for_timestamp into the options (MDEV-29078)."""
    major, minor, patch = (*format.version, 0, 0, 0)[:3]
    if not format.mariadb or (major, minor) < (10, 5):
        return False
    since = _MARIADB_EXPLICIT_DEFAULTS_SINCE.get(minor, 0) if major == 10 else 0
    return patch >= since


def statement_text(statement: bytes, charset: str) -> str:
    """The statement as text.

    A literal may have bytes that are invalid in the client's charset. Then the statement is decoded
    as UTF-8, with replacement characters for invalid bytes.
    """
    if charset not in ("utf8mb4", "utf8mb3", "binary"):
        try:
            return text_decoder(charset)(statement)
        except (DecodeError, LookupError, ValueError):
            pass
    return statement.decode("utf-8", "replace")

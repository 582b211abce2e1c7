"""
The format of binary log events: bytes in, values out. Pure.

An event is one ``bytes`` object that starts with its header of 19 bytes. ``end`` is the offset at
which its body ends, before the checksum if it has one. A length is checked against ``end`` before
it is used, and only ``DecodeError`` is raised. Bodies are not copied without need.

Formats: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html
and https://mariadb.com/kb/en/replication-protocol/
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import wraps
from typing import Final, NamedTuple, ParamSpec, TypeVar
from uuid import UUID

from engine.change import Operation
from engine.errors import DecodeError

P = ParamSpec("P")
R = TypeVar("R")

# Event types, with the numbers of MySQL and MariaDB.
QUERY: Final = 2
STOP: Final = 3
ROTATE: Final = 4
INTVAR: Final = 5
APPEND_BLOCK: Final = 9
DELETE_FILE: Final = 11
RAND: Final = 13
USER_VAR: Final = 14
FORMAT_DESCRIPTION: Final = 15
XID: Final = 16
BEGIN_LOAD_QUERY: Final = 17
EXECUTE_LOAD_QUERY: Final = 18
TABLE_MAP: Final = 19
WRITE_ROWS_1: Final = 23
UPDATE_ROWS_1: Final = 24
DELETE_ROWS_1: Final = 25
INCIDENT: Final = 26
HEARTBEAT: Final = 27
IGNORABLE: Final = 28
ROWS_QUERY: Final = 29
WRITE_ROWS_2: Final = 30
UPDATE_ROWS_2: Final = 31
DELETE_ROWS_2: Final = 32
GTID: Final = 33
ANONYMOUS_GTID: Final = 34
PREVIOUS_GTIDS: Final = 35
TRANSACTION_CONTEXT: Final = 36
VIEW_CHANGE: Final = 37
XA_PREPARE: Final = 38
PARTIAL_UPDATE_ROWS: Final = 39
TRANSACTION_PAYLOAD: Final = 40
HEARTBEAT_2: Final = 41
GTID_TAGGED: Final = 42
MARIADB_ANNOTATE_ROWS: Final = 160
MARIADB_BINLOG_CHECKPOINT: Final = 161
MARIADB_GTID: Final = 162
MARIADB_GTID_LIST: Final = 163
MARIADB_START_ENCRYPTION: Final = 164
MARIADB_QUERY_COMPRESSED: Final = 165
MARIADB_WRITE_ROWS_COMPRESSED_1: Final = 166
MARIADB_UPDATE_ROWS_COMPRESSED_1: Final = 167
MARIADB_DELETE_ROWS_COMPRESSED_1: Final = 168
MARIADB_WRITE_ROWS_COMPRESSED_2: Final = 169
MARIADB_UPDATE_ROWS_COMPRESSED_2: Final = 170
MARIADB_DELETE_ROWS_COMPRESSED_2: Final = 171

#: Events that describe the log itself and belong to no group.
LOG_EVENTS: Final = frozenset((ROTATE, FORMAT_DESCRIPTION, HEARTBEAT, HEARTBEAT_2))
#: Events without information about rows, or with information that the next statement repeats.
WITHOUT_CHANGES: Final = (
    STOP,
    INTVAR,
    APPEND_BLOCK,
    DELETE_FILE,
    RAND,
    USER_VAR,
    BEGIN_LOAD_QUERY,
    IGNORABLE,
    ROWS_QUERY,
    PREVIOUS_GTIDS,
    TRANSACTION_CONTEXT,
    VIEW_CHANGE,
    MARIADB_ANNOTATE_ROWS,
    MARIADB_BINLOG_CHECKPOINT,
    MARIADB_GTID_LIST,
    MARIADB_START_ENCRYPTION,
)
#: The rows events: what they do, and their version.
ROWS: Final[dict[int, tuple[Operation, int]]] = {
    WRITE_ROWS_1: ("insert", 1),
    UPDATE_ROWS_1: ("update", 1),
    DELETE_ROWS_1: ("delete", 1),
    WRITE_ROWS_2: ("insert", 2),
    UPDATE_ROWS_2: ("update", 2),
    DELETE_ROWS_2: ("delete", 2),
    PARTIAL_UPDATE_ROWS: ("update", 2),
    MARIADB_WRITE_ROWS_COMPRESSED_1: ("insert", 1),
    MARIADB_UPDATE_ROWS_COMPRESSED_1: ("update", 1),
    MARIADB_DELETE_ROWS_COMPRESSED_1: ("delete", 1),
    MARIADB_WRITE_ROWS_COMPRESSED_2: ("insert", 2),
    MARIADB_UPDATE_ROWS_COMPRESSED_2: ("update", 2),
    MARIADB_DELETE_ROWS_COMPRESSED_2: ("delete", 2),
}
#: Those whose rows are neither compressed nor partial.
PLAIN_ROWS: Final = frozenset(kind for kind in ROWS if kind <= DELETE_ROWS_2)

# Flags in the event header.
IN_USE: Final = 0x01
#: The flag of the last event with rows of a statement.
STATEMENT_END: Final = 0x01
ARTIFICIAL: Final = 0x20
MAY_BE_IGNORED: Final = 0x80

HEADER_SIZE: Final = 19
#: The CRC-32 of any bytes that are followed by their own CRC-32 in little-endian order.
GOOD_CHECKSUM: Final = 0x2144DF1C
#: The maximum size of an event: the maximum of max_allowed_packet.
LARGEST_EVENT: Final = 1 << 30

_HEADER = struct.Struct("<IBIIIH")
_GTID = struct.Struct("<B16sq")
_TIMED_GTID = struct.Struct("<x16sq17xQ")
_COMMIT_TIME_BITS = (1 << 55) - 1
_XA = struct.Struct("<BIII")
_DOMAIN_GTID = struct.Struct("<QIB")
_DEFERRED = 0x02 | 0x08  # FL_START_ALTER_E1, FL_ROLLBACK_ALTER_E1

#: timestamp (Unix seconds), type, server id, size, log position (its low 32 bits), flags.
read_header: Callable[[bytes], tuple[int, int, int, int, int, int]] = _HEADER.unpack_from


class Format(NamedTuple):
    """A FORMAT_DESCRIPTION: the server's version, and whether events have a CRC-32.

    ``created`` is not zero if the server has started with this file. ``server`` is its id.
    ``begun`` is when the file was begun, in Unix seconds.
    """

    server_version: str
    checksum: bool
    created: int = 0
    server: int = 0
    begun: int = 0

    @property
    def mariadb(self) -> bool:
        """Whether the log was written by MariaDB."""
        return "mariadb" in self.server_version.lower()

    @property
    def version(self) -> tuple[int, ...]:
        """The numbers of the server's version."""
        numbers = self.server_version.split("-")[0].split(".")
        return tuple(int(word) for word in numbers if word.isdigit())


#: A GTID of MySQL: the source (the 16 bytes of the UUID, then the tag if it has one), the number,
#: and the commit time on the server that sends it, in Unix seconds (0.0 before MySQL 8.0).
Gtid = tuple[bytes, int, float]


class DomainGtid(NamedTuple):
    """A GTID of MariaDB. ``xid`` is set for XA PREPARE, XA COMMIT and XA ROLLBACK.

    ``deferred``: its statement has no effect, because it is the START ALTER or the ROLLBACK ALTER
    of an ALTER TABLE that is logged in two parts (``binlog_alter_two_phase``). A COMMIT ALTER has.
    """

    domain: int
    server: int
    sequence: int
    standalone: bool
    prepares: bool
    deferred: bool
    xid: str


class Prepare(NamedTuple):
    """An XA_PREPARE. ``one_phase``: it is an XA COMMIT … ONE PHASE, without a PREPARE before."""

    xid: str
    one_phase: bool


def decoding(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Turn the errors that malformed bytes cause into a ``DecodeError`` that names ``what``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def decode(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except (struct.error, IndexError, ValueError, OverflowError) as error:
                raise DecodeError(f"{what}: {error}") from error

        return decode

    return decorate


def take(event: bytes, at: int, size: int, end: int) -> bytes:
    """``size`` bytes at ``at``. Raises DecodeError if the event ends before."""
    if size < 0 or at + size > end:
        raise DecodeError(f"{size} bytes are announced at {at} in an event that ends at {end}")
    return event[at : at + size]


def length_encoded(event: bytes, at: int, end: int) -> tuple[int, int]:
    """The length-encoded integer of 1, 3, 4 or 9 bytes at ``at``, and the offset after it."""
    first = take(event, at, 1, end)[0]
    if first < 0xFB:
        return first, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first)
    if size is None:
        raise DecodeError(f"no length-encoded integer starts with {first:#x}")
    return int.from_bytes(take(event, at + 1, size, end), "little"), at + 1 + size


# -- the log itself --------------------------------------------------------------------------------


@decoding("format description event")
def read_format(event: bytes, length: int) -> Format:
    """FORMAT_DESCRIPTION.

    Since MySQL 5.6.1 and MariaDB 5.3 it ends with the checksum algorithm and a checksum, whether or
    not the other events have a checksum.
    """
    take(event, HEADER_SIZE, 57, length)
    if int.from_bytes(event[19:21], "little") != 4:
        raise DecodeError("the log is older than MySQL 5.0 (its format is not version 4)")
    version = event[21:71].rstrip(b"\0").decode("ascii", "replace")
    if event[75] != HEADER_SIZE:
        raise DecodeError(f"event headers of {event[75]} bytes")
    created, server, begun = (int.from_bytes(event[at : at + 4], "little") for at in (71, 5, 0))
    format = Format(version.removeprefix("5.5.5-"), False, created, server, begun)
    if not _knows_checksums(format):
        return format
    algorithm = event[length - 5]
    if algorithm not in (0, 1, 255):
        raise DecodeError(f"unknown checksum algorithm {algorithm}")
    return format._replace(checksum=algorithm == 1)


def _knows_checksums(format: Format) -> bool:
    return format.version >= ((5, 3) if format.mariadb else (5, 6, 1))


def checksum_is_good(event: bytes, kind: int) -> bool:
    """Whether the event's last four bytes are its CRC-32.

    The checksum of a format description does not cover its flag IN_USE, which is set while the
    server writes the file.
    """
    if zlib.crc32(event) == GOOD_CHECKSUM:
        return True
    if kind != FORMAT_DESCRIPTION or len(event) < HEADER_SIZE or not event[17] & IN_USE:
        return False
    closed = event[:17] + bytes((event[17] & ~IN_USE,)) + event[18:]
    return zlib.crc32(closed) == GOOD_CHECKSUM


def bad_checksum(kind: int) -> DecodeError:
    """The error for an event of this type whose checksum is wrong."""
    return DecodeError(
        f"the checksum of an event of type {kind} is wrong",
        hint="the log file or the connection is damaged; run `mysqlbinlog --verify-binlog-checksum`"
        " on the file on the source",
    )


@decoding("rotate event")
def read_rotate(event: bytes, end: int) -> tuple[str, int]:
    """ROTATE: the next file, and the offset in it."""
    offset = int.from_bytes(take(event, HEADER_SIZE, 8, end), "little")
    return event[HEADER_SIZE + 8 : end].decode("utf-8"), offset


@decoding("heartbeat event")
def read_heartbeat(event: bytes, end: int, log_pos: int) -> tuple[str, int]:
    """HEARTBEAT: the file and offset that the server has reached."""
    return event[HEADER_SIZE:end].decode("utf-8"), log_pos


@decoding("heartbeat event")
def read_heartbeat_2(event: bytes, end: int) -> tuple[str, int]:
    """HEARTBEAT_LOG_EVENT_V2: the same as typed fields, for offsets over 4 GiB."""
    file, offset, at = "", 0, HEADER_SIZE
    while at < end:
        field, at = length_encoded(event, at, end)
        if field == 0:
            break
        size, at = length_encoded(event, at, end)
        value = take(event, at, size, end)
        if field == 1:
            file = value.decode("utf-8")
        elif field == 2:
            offset, _ = length_encoded(value, 0, size)
        at += size
    return file, offset


@decoding("incident event")
def read_incident(event: bytes, end: int) -> str:
    """INCIDENT: the server's message about the events that the log has lost."""
    size = take(event, HEADER_SIZE + 2, 1, end)[0]
    return take(event, HEADER_SIZE + 3, size, end).decode("utf-8", "replace")


# -- transactions ----------------------------------------------------------------------------------


def read_gtid(event: bytes, end: int) -> Gtid:
    """GTID_LOG_EVENT.

    The immediate commit time (MySQL 8.0 and newer) has seven bytes: microseconds, and a highest bit
    that says that the original commit time follows.
    """
    if end >= 69:
        # The eighth byte belongs to the next field. The mask removes it.
        source, number, committed = _TIMED_GTID.unpack_from(event, HEADER_SIZE)
    elif end >= 44:
        _, source, number = _GTID.unpack_from(event, HEADER_SIZE)
        committed = int.from_bytes(event[61:68], "little") if end >= 68 else 0
    else:
        raise DecodeError(f"GTID event of {end} bytes")
    if number <= 0:
        raise DecodeError(f"GTID number {number}")
    return source, number, (committed & _COMMIT_TIME_BITS) / 1e6


def read_anonymous_gtid(event: bytes, end: int) -> float:
    """ANONYMOUS_GTID_LOG_EVENT: the commit time only, otherwise as ``read_gtid``."""
    return (int.from_bytes(event[61:68], "little") & _COMMIT_TIME_BITS) / 1e6 if end >= 68 else 0.0


@decoding("tagged GTID event")
def read_tagged_gtid(event: bytes, end: int) -> Gtid:
    """GTID_TAGGED_LOG_EVENT, a message of MySQL's serialization library.

    It has a version, a size, and the number of the last field that must not be ignored. The fields
    follow, each after its number.

    https://dev.mysql.com/doc/dev/mysql-server/latest/PageLibsMysqlSerialization.html
    """
    at = HEADER_SIZE
    for _ in range(3):
        _, at = variable(event, at, end)
    uuid, tag, number, committed = bytearray(), b"", 0, 0
    while at < end:
        field, at = variable(event, at, end)
        if field == 1:
            for _ in range(16):
                byte, at = variable(event, at, end)
                uuid.append(byte)
        elif field == 3:
            size, at = variable(event, at, end)
            tag = take(event, at, size, end)
            at += size
        elif field > 6:
            break
        else:
            value, at = variable(event, at, end)
            if field == 2:
                # A signed number has its sign in the lowest bit.
                number = value >> 1
            elif field == 6:
                committed = value
    if len(uuid) != 16 or number <= 0:
        raise DecodeError("a GTID without its UUID or number")
    return bytes(uuid) + tag, number, committed / 1e6


def variable(event: bytes, at: int, end: int) -> tuple[int, int]:
    """An integer of 1 to 9 bytes. The low one bits of the first byte count the bytes after it."""
    first = take(event, at, 1, end)[0]
    more = ((first + 1) & ~first).bit_length() - 1
    value = int.from_bytes(take(event, at, more + 1, end), "little")
    return value >> (more + 1 if more < 8 else 8), at + more + 1


@decoding("GTID source")
def source_text(source: bytes) -> str:
    """The source of a ``Gtid`` as text: ``uuid`` or ``uuid:tag``."""
    uuid = str(UUID(bytes=source[:16]))
    return f"{uuid}:{source[16:].decode('ascii')}" if len(source) > 16 else uuid


@decoding("GTID event")
def read_domain_gtid(event: bytes, end: int, server: int) -> DomainGtid:
    """MariaDB's GTID_EVENT. Its server id is in the event header.

    https://mariadb.com/kb/en/gtid_event/
    """
    take(event, HEADER_SIZE, 13, end)
    sequence, domain, flags = _DOMAIN_GTID.unpack_from(event, HEADER_SIZE)
    if not flags & (2 | 64 | 128) and not (end > 32 and event[32] & _DEFERRED):
        # The common case: nothing follows that is used here.
        return DomainGtid(domain, server, sequence, flags & 1 == 1, False, False, "")
    at = HEADER_SIZE + 13
    if flags & 2:
        at += 8
    xid = ""
    if flags & (64 | 128):
        format_id, first, second = struct.unpack("<IBB", take(event, at, 6, end))
        data = take(event, at + 6, first + second, end)
        xid = xid_text(data[:first], data[first:], format_id)
        at += 6 + first + second
    deferred = at < end and event[at] & _DEFERRED != 0
    return DomainGtid(domain, server, sequence, flags & 1 == 1, flags & 64 == 64, deferred, xid)


@decoding("XA prepare event")
def read_prepare(event: bytes, end: int) -> Prepare:
    """XA_PREPARE_LOG_EVENT, which is the same in MySQL and MariaDB."""
    one_phase, format_id, first, second = _XA.unpack(take(event, HEADER_SIZE, 13, end))
    data = take(event, HEADER_SIZE + 13, first + second, end)
    return Prepare(xid_text(data[:first], data[first:], format_id), one_phase != 0)


def xid_text(global_part: bytes, branch: bytes, format_id: int) -> str:
    """The id of an XA transaction as it is written in logged statements."""
    return f"X'{global_part.hex()}',X'{branch.hex()}',{format_id}"


# -- tables and rows -------------------------------------------------------------------------------


@decoding("table map event")
def read_table_name(event: bytes, end: int) -> tuple[str, str]:
    """The schema and name in a TABLE_MAP, which follow the table's id and flags."""
    size, at = length_encoded(event, HEADER_SIZE + 8, end)
    schema = take(event, at, size, end)
    size, at = length_encoded(event, at + size + 1, end)
    return schema.decode("utf-8"), take(event, at, size, end).decode("utf-8")

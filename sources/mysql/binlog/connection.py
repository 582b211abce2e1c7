"""
A replica's connection to a MySQL or MariaDB server, over which the server sends its binary log.

PyMySQL connects and sends the replication commands. The answer to a dump command, the stream of
events, is read from the socket, never through PyMySQL's buffered reader: bytes that it has buffered
would be missing from the stream.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import ssl
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from pymysql.connections import Connection
from pymysql.constants import COMMAND

from engine.databases.mysql.connect import (
    ACCESS_DENIED,
    TRANSIENT,
    error_code,
    establish,
    interrupt,
    is_mariadb,
    prepare,
    query,
    translate_errors,
)
from engine.databases.mysql.pymysql_adapter import force_close, read_ok, send_command, take_socket
from engine.databases.mysql.settings import address_of
from engine.errors import SourceDenied, SourceError, SourceLost, SourceRejected
from engine.remedies import BACKFILL_ALL
from sources.mysql.binlog.packets import Packets, ServerError
from sources.mysql.binlog.temporary_tables import SessionId
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.settings import MySQLSettings

__all__ = ["BinlogConnection", "choose_server_id", "replica_host"]

_RECEIVE_BYTES: Final = 1 << 20
_RECEIVE_TLS_BYTES: Final = 1 << 16  # a TLS record holds 16 KiB at most
_LONGEST_WRITE_SECONDS: Final = 31_536_000
_MISSED_HEARTBEATS: Final = 3
_GTID_DUMP_FLAG: Final = 0x04

_OWN_SERVER_ID: Final = "set server_id of this source to an unused number, or to 0"
_REPLICATION_SLAVE: Final = (
    "GRANT REPLICATION SLAVE ON *.* TO the user of the source's url;"
    " `tailrace check CONFIG` has the whole statement"
)
_REPEATS: Final = "if the error repeats, look into the server's error log"
_FATAL_READING_LOG: Final = 1236


class BinlogConnection:
    """One replica connection: ``open``, then one ``dump_from_…``, then ``receive`` repeatedly.

    ``stop`` may be called from any thread. A call that waits for the server then ends at once.
    """

    def __init__(self, settings: MySQLSettings) -> None:
        self._settings = settings
        self._connection: Connection[Any] | None = None
        self._socket: socket.socket | None = None
        self._packets = Packets()
        self._silence_seconds = 0.0
        #: How long ``receive`` has waited for the server.
        self.waited_seconds = 0.0
        self._receive_bytes = _RECEIVE_BYTES
        self._stopped = False
        self.server_id = 0
        self.checksum = False
        #: This session.
        self.session = SessionId(0, 0)

    def open(self) -> None:
        """Connect and register as a replica. Raises SourceLost, SourceError."""
        connection = self._connection = prepare(self._settings)
        if self._stopped:
            raise SourceLost("the connection to the source was stopped")
        establish(connection)
        mariadb = is_mariadb(connection)
        self.server_id = choose_server_id(connection, self._settings)
        period = int(self._settings.heartbeat_seconds * 1e9)
        # MySQL before 5.6.2 has no checksums.
        checksum = _variable(connection, "binlog_checksum")
        assignments = [
            f"@master_binlog_checksum = '{checksum}'",
            f"@source_binlog_checksum = '{checksum}'",
            f"@master_heartbeat_period = {period}",
            f"@source_heartbeat_period = {period}",
            # While the target is slow we do not receive, and the server must not give up.
            f"net_write_timeout = {_LONGEST_WRITE_SECONDS}",
        ]
        if mariadb:
            assignments += ["@mariadb_slave_capability = 4"]
        else:
            name = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"tailrace-{self.server_id}"))
            assignments += [f"@slave_uuid = '{name}'", f"@replica_uuid = '{name}'"]
        query(connection, f"SET {', '.join(assignments)}")
        self.checksum = checksum == "CRC32"
        [(server, session)] = query(connection, "SELECT @@GLOBAL.server_id, CONNECTION_ID()")
        # Events have the lower 32 bits of a session's number.
        self.session = SessionId(int(server), int(session) & 0xFFFFFFFF)
        self._register(connection)

    @contextmanager
    def opening(self) -> Iterator[Callable[[], SessionId]]:
        """``open`` on another thread while the block runs, because both take many round trips. The
        function waits for it, raises its errors, and returns the session.
        """

        def opened() -> SessionId:
            future.result()
            return self.session

        with ThreadPoolExecutor(1, "tailrace-replica") as pool:
            future = pool.submit(self.open)
            yield opened

    def _register(self, connection: Connection[Any]) -> None:
        host = replica_host(self._settings).encode()
        payload = struct.pack("<IB", self.server_id, len(host)) + host
        with _replicating():
            # Empty user and password, port 0, recovery rank 0, source id 0.
            send_command(connection, COMMAND.COM_REGISTER_SLAVE, payload + bytes(1 + 1 + 2 + 4 + 4))
            read_ok(connection)

    def dump_from_file(self, file: str, offset: int) -> None:
        """Start the stream at an offset of a file. The command has 4 bytes for the offset: if it is
        larger, the stream starts at the beginning of the file.
        """
        at = offset if offset < 1 << 32 else 4
        payload = struct.pack("<IHI", at, 0, self.server_id) + file.encode()
        self._dump(COMMAND.COM_BINLOG_DUMP, payload)

    def dump_from_gtids(self, executed: GtidSet) -> None:
        """Start the stream with all transactions that are not in ``executed`` (MySQL)."""
        data = executed.encode()
        payload = struct.pack("<HIIQI", _GTID_DUMP_FLAG, self.server_id, 0, 4, len(data))
        self._dump(COMMAND.COM_BINLOG_DUMP_GTID, payload + data)

    def dump_from_domains(self, state: DomainState) -> None:
        """Start the stream after ``state`` (MariaDB)."""
        assert self._connection is not None
        query(
            self._connection,
            f"SET @slave_connect_state = '{state}', @slave_gtid_strict_mode = 1,"
            " @slave_gtid_ignore_duplicates = 0",
        )
        self._dump(COMMAND.COM_BINLOG_DUMP, struct.pack("<IHI", 4, 0, self.server_id))

    def _dump(self, command: int, payload: bytes) -> None:
        connection = self._connection
        assert connection is not None
        with _replicating():
            send_command(connection, command, payload)
            self._socket = take_socket(connection, self._settings.heartbeat_seconds)
        if isinstance(self._socket, ssl.SSLSocket):
            self._receive_bytes = _RECEIVE_TLS_BYTES
        if self._stopped:
            self.stop()

    @property
    def partial(self) -> bool:
        """Whether a part of an event was received, and the rest was not."""
        return self._packets.partial

    def receive(self, timeout_seconds: float) -> list[bytes]:
        """The events of one read; empty after the timeout, while an event is incomplete, and after
        ``stop``.

        Raises SourceLost if the connection broke or heartbeats are missing, SourceError if the
        server ended the stream with an error.
        """
        if self._packets.ending is not None:
            raise _refusal(self._packets.ending)
        assert self._socket is not None
        started = time.monotonic()
        try:
            self._socket.settimeout(timeout_seconds)
            data = self._socket.recv(self._receive_bytes)
        except TimeoutError:
            self._note_silence(time.monotonic() - started)
            return []
        except (OSError, ValueError) as error:
            if self._stopped:
                return []
            raise SourceLost(
                f"the connection to the source broke: {error}", hint=_REPEATS
            ) from error
        if not data:
            if self._stopped:
                return []
            raise SourceLost("the source has closed the connection", hint=_REPEATS)
        self._silence_seconds = 0.0
        self.waited_seconds += time.monotonic() - started
        return self._packets.cut(data)

    def _note_silence(self, seconds: float) -> None:
        self.waited_seconds += seconds
        self._silence_seconds += seconds
        if self._silence_seconds > self._settings.heartbeat_seconds * _MISSED_HEARTBEATS:
            raise SourceLost(
                f"no heartbeat from the source for {self._silence_seconds:.0f} seconds",
                hint="check that the source responds, and the network",
            )

    def stop(self) -> None:
        """End the stream; idempotent, from any thread."""
        self._stopped = True
        connection = self._connection
        if connection is not None:
            interrupt(connection)

    def close(self) -> None:
        """Free the socket; idempotent."""
        connection, self._connection = self._connection, None
        self._socket = None
        if connection is not None:
            force_close(connection)


@contextmanager
def _replicating() -> Iterator[None]:
    """Translate the errors of replication commands. A server denies them to a user that is logged
    in with the error of a denied login, too.
    """
    try:
        with translate_errors():
            yield
    except SourceLost:
        raise
    except SourceError as error:
        if error_code(error) not in ACCESS_DENIED:
            raise
        message = "the source denies its log to this user"
        raise SourceDenied(message, hint=_REPLICATION_SLAVE) from error.__cause__


def replica_host(settings: MySQLSettings) -> str:
    """The host name that the server shows for this replica. It is the same for each connection of
    one pipeline and differs between pipelines. It contains no secret.
    """
    address = address_of(settings)
    pipeline = (address.host, address.port, sorted(settings.tables), sorted(settings.exclude))
    return f"tailrace-{hashlib.sha256(repr(pipeline).encode()).hexdigest()[:16]}"


def choose_server_id(connection: Connection[Any], settings: MySQLSettings) -> int:
    """The id of the settings, or an unused random id. Raises SourceRejected if the id is in use.

    An older connection of this pipeline does not count: the server ends it when a newer one with
    the same id starts a dump.
    """
    wanted = settings.server_id
    taken = {int(query(connection, "SELECT @@GLOBAL.server_id")[0][0])}
    taken |= _other_replicas(connection, replica_host(settings))
    if wanted and wanted in taken:
        raise SourceRejected(
            f"another replica, or the source itself, uses the server_id {wanted}",
            hint=_OWN_SERVER_ID,
        )
    server_id = wanted
    while not server_id or (not wanted and server_id in taken):
        server_id = (1 << 31) + secrets.randbelow((1 << 31) - 1)
    return server_id


def _variable(connection: Connection[Any], name: str) -> str:
    """The value of a global variable; empty if the server does not have it."""
    rows = query(connection, "SHOW GLOBAL VARIABLES WHERE Variable_name = %s", (name,))
    return str(rows[0][1]) if rows else ""


def _other_replicas(connection: Connection[Any], our_host: str) -> set[int]:
    """The ids of the replicas that the server lists, without those of this pipeline."""
    try:
        rows = query(connection, "SHOW SLAVE HOSTS" if is_mariadb(connection) else "SHOW REPLICAS")
    except SourceLost:
        raise
    except SourceError:
        # MySQL before 8.0.22 has no SHOW REPLICAS, or the right is missing. The server then ends
        # one of two streams with the same id, see ``_refusal``.
        return set()
    return {int(row[0]) for row in rows if row[1] != our_host}


def _refusal(ending: ServerError) -> SourceError:
    text = ending.message
    lower = text.lower()
    if ending.code == 0 or ending.code in TRANSIENT:
        return SourceLost(f"the source ended the stream: {text}")
    if "same server_uuid/server_id" in lower or "same server_id" in lower:
        # This may be a newer engine of this pipeline. The retry then finds its epoch in the target.
        return SourceLost(
            "another replica connected to the source with the same server_id", hint=_OWN_SERVER_ID
        )
    if ending.code in ACCESS_DENIED:
        return SourceDenied(
            f"the source denies access: {text}",
            hint=_REPLICATION_SLAVE,
        )
    if "max_allowed_packet" in lower:
        return SourceError(
            f"the source cannot send a large event: {text}",
            hint="SET GLOBAL max_allowed_packet = 1073741824 on the source, if it is less there; a"
            f" larger event is sent by no server: {BACKFILL_ALL}",
        )
    if ending.code == _FATAL_READING_LOG:
        return SourceError(
            f"the source cannot send its log from the stored position: {text}",
            hint=f"the log was purged or reset: {BACKFILL_ALL}; keep the log longer"
            " (binlog_expire_logs_seconds)",
        )
    return SourceError(f"the source ended the stream with error {ending.code}: {text}")

"""
Connections to a MySQL or MariaDB server: the ordinary client's, and a replica's.

PyMySQL makes both (handshake, authentication, TLS). A replica then takes over the socket and never
goes through PyMySQL's buffered reader again, so no byte can be left behind in it.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import ssl
import struct
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import pymysql
from pymysql.connections import Connection
from pymysql.constants import COMMAND

from engine.databases.mysql.settings import Address, MySQLSettings, address_of
from engine.errors import ConfigError, SourceError, SourceLost
from sources.mysql.binlog.packets import Packets, ServerError
from sources.mysql.gtid import DomainState, GtidSet

__all__ = [
    "BinlogConnection",
    "choose_server_id",
    "connect",
    "establish",
    "interrupt",
    "is_mariadb",
    "prepare",
    "query",
    "replica_host",
    "server_version",
    "translate_errors",
]

#: The longest wait for a server that is being connected to: it has nothing to do yet but answer.
_GREETING_SECONDS: Final = 10.0

_RECEIVE_BYTES: Final = 1 << 20
_RECEIVE_TLS_BYTES: Final = 1 << 16  # TLS hands out 16 KiB at most
_LONGEST_WRITE_SECONDS: Final = 31_536_000
_MISSED_HEARTBEATS: Final = 3
_GTID_DUMP_FLAG: Final = 0x04

_OWN_SERVER_ID: Final = "set server_id of this source to a number of its own, or to 0"
_FATAL_READING_LOG: Final = 1236
_DENIED: Final = frozenset((1044, 1045, 1142, 1227, 1698, 3118))
#: The server's errors that pass: too many connections, shutdown, kill, lock waits, deadlock.
_PASSING: Final = frozenset((1040, 1053, 1077, 1078, 1079, 1203, 1205, 1213, 1317, 1927, 3032))


def connect(
    settings: MySQLSettings, *, autocommit: bool = True, timeout_seconds: float | None = None
) -> Connection[Any]:
    """An ordinary session: utf8mb4, time zone UTC, TLS as the settings say.

    ``timeout_seconds`` (default: the settings') bounds connecting and each wait for an answer.
    Raises SourceLost if the server cannot be reached, SourceError if it refuses us.
    """
    connection = prepare(settings, autocommit=autocommit, timeout_seconds=timeout_seconds)
    establish(connection)
    return connection


def prepare(
    settings: MySQLSettings, *, autocommit: bool = True, timeout_seconds: float | None = None
) -> Connection[Any]:
    """The session of ``connect`` before it is made, so that another thread can ``interrupt`` it
    while ``establish`` makes it.
    """
    address = address_of(settings)
    timeout = timeout_seconds or settings.timeout_seconds
    context = _tls(address)
    required = address.tls != "prefer" or bool(address.tls_ca or address.tls_cert)
    connection: Connection[Any] = Connection(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password.encode(),
        charset="utf8mb4",
        autocommit=autocommit,
        connect_timeout=min(timeout, _GREETING_SECONDS),
        read_timeout=timeout,
        write_timeout=timeout,
        init_command="SET time_zone = '+00:00'",
        program_name="tailrace",
        max_allowed_packet=1 << 30,
        defer_connect=True,
        ssl=context if required else None,
        ssl_disabled=context is None or not required,
    )
    if context is not None and not required:
        # PyMySQL has a switch for TLS where the server has it, but none for its context.
        connection.ssl, connection.ctx = True, context  # type: ignore[attr-defined]
    return connection


def establish(connection: Any) -> None:
    """Connect and log in. Raises as ``connect`` does."""
    timeouts = connection._read_timeout, connection._write_timeout
    connection._read_timeout = connection._write_timeout = connection.connect_timeout
    try:
        with translate_errors():
            connection.connect()
    except RuntimeError as error:
        raise SourceError(f"cannot log in at the source: {error}") from error
    connection._read_timeout, connection._write_timeout = timeouts


def interrupt(connection: Any) -> None:
    """End what another thread waits for on this connection, also while it is being made.

    The connection is of no more use; that thread closes it.
    """
    line = connection._sock
    if line is not None:
        with suppress(OSError):
            # Not the TLS socket's own method, which takes the session away from its reader.
            socket.socket.shutdown(line, socket.SHUT_RDWR)


def query(connection: Connection[Any], sql: str, arguments: Sequence[object] = ()) -> list[Any]:
    """All rows of a statement, as tuples. Raises SourceError or SourceLost."""
    with translate_errors(), connection.cursor() as cursor:
        cursor.execute(sql, tuple(arguments) or None)
        return list(cursor.fetchall())


def is_mariadb(connection: Connection[Any]) -> bool:
    """Whether the server is a MariaDB."""
    return "mariadb" in server_version(connection).lower()


def server_version(connection: Connection[Any]) -> str:
    """What the server says about itself when it greets, such as ``11.8.6-MariaDB-log``."""
    return str(connection.get_server_info()).removeprefix("5.5.5-")  # type: ignore[no-untyped-call]


@contextmanager
def translate_errors() -> Iterator[None]:
    """Errors of the driver and of its socket become ours; those of decoding do not."""
    try:
        yield
    except pymysql.MySQLError as error:
        raise _translate(error) from error
    except OSError as error:
        raise SourceLost(f"the connection to the source broke: {error}") from error
    except ValueError as error:
        # What PyMySQL's reader says when another thread has closed it.
        if "closed file" not in str(error):
            raise
        raise SourceLost(f"the connection to the source broke: {error}") from error


def _translate(error: pymysql.MySQLError) -> SourceError:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[-1]) if error.args else type(error).__name__
    cause = getattr(error, "original_exception", None)
    if isinstance(cause, ssl.SSLError):
        hint = 'see tls, tls_ca and the server\'s certificate; `tls = "require"` does not look'
        return SourceError(f"no secure connection to the source: {text}", hint=hint)
    if code in _DENIED:
        return SourceError(
            f"the source refuses: {text}", hint="see `tailrace check` for the rights"
        )
    if code in _PASSING or code == 0 or 2000 <= code < 3000:
        return SourceLost(f"the connection to the source broke: {text}")
    return SourceError(f"the source answers with error {code}: {text}")


class _TlsSocket(ssl.SSLSocket):
    """Closes itself at the latest when it is forgotten, as the standard library forgets one whose
    server hangs up right before the handshake.
    """

    def __del__(self) -> None:
        self.close()


def _tls(address: Address) -> ssl.SSLContext | None:
    """How to encrypt; certificates are loaded only where one is looked at, for that takes time."""
    if address.tls == "disable":
        return None
    verify = address.tls.startswith("verify")
    try:
        if verify:
            context = ssl.create_default_context(cafile=address.tls_ca or None)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The certificates that the servers make for themselves do not keep to the letter of X.509.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = address.tls == "verify-full"
        context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
        if address.tls_cert:
            context.load_cert_chain(address.tls_cert, address.tls_key or None)
    except OSError as error:
        raise ConfigError(
            f"tls_ca, tls_cert or tls_key cannot be used: {error.strerror or error}"
        ) from error
    context.sslsocket_class = _TlsSocket
    return context


class BinlogConnection:
    """One replica connection: ``open``, then ``dump…``, then ``receive`` until it raises.

    ``stop`` may be called from any thread and ends at once whatever waits for the server.
    """

    def __init__(self, settings: MySQLSettings) -> None:
        self._settings = settings
        self._connection: Connection[Any] | None = None
        self._socket: socket.socket | None = None
        self._packets = Packets()
        self._silence_seconds = 0.0
        self._receive_bytes = _RECEIVE_BYTES
        self._stopped = False
        self.server_id = 0
        self.checksum = False

    def open(self) -> None:
        """Connect and register as a replica. Raises SourceLost, SourceError."""
        connection = self._connection = prepare(self._settings)
        if self._stopped:
            raise SourceLost("the connection to the source was stopped")
        establish(connection)
        mariadb = is_mariadb(connection)
        self.server_id = choose_server_id(connection, self._settings)
        period = int(self._settings.heartbeat_seconds * 1e9)
        assignments = [
            "@master_binlog_checksum = @@GLOBAL.binlog_checksum",
            "@source_binlog_checksum = @@GLOBAL.binlog_checksum",
            f"@master_heartbeat_period = {period}",
            f"@source_heartbeat_period = {period}",
            # We stop receiving while the target is slow, for as long as that takes.
            f"net_write_timeout = {_LONGEST_WRITE_SECONDS}",
        ]
        if mariadb:
            assignments += ["@mariadb_slave_capability = 4"]
        else:
            name = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"tailrace-{self.server_id}"))
            assignments += [f"@slave_uuid = '{name}'", f"@replica_uuid = '{name}'"]
        query(connection, f"SET {', '.join(assignments)}")
        self.checksum = query(connection, "SELECT @master_binlog_checksum")[0][0] == "CRC32"
        self._register(connection)

    def _register(self, connection: Connection[Any]) -> None:
        host = replica_host(self._settings).encode()
        payload = struct.pack("<IB", self.server_id, len(host)) + host
        with translate_errors():
            connection._execute_command(COMMAND.COM_REGISTER_SLAVE, payload + bytes(2 + 2 + 4 + 4))  # type: ignore[attr-defined]
            connection._read_ok_packet()  # type: ignore[attr-defined]

    def dump_from_file(self, file: str, offset: int) -> None:
        """Start the stream at a place in a file; one beyond 4 GiB at the start of its file."""
        at = offset if offset < 1 << 32 else 4
        payload = struct.pack("<IHI", at, 0, self.server_id) + file.encode()
        self._dump(COMMAND.COM_BINLOG_DUMP, payload)

    def dump_from_gtids(self, executed: GtidSet) -> None:
        """Start the stream with everything that is not in ``executed`` (MySQL)."""
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
        with translate_errors():
            connection._execute_command(command, payload)  # type: ignore[attr-defined]
        self._socket = connection._sock  # type: ignore[attr-defined]
        if isinstance(self._socket, ssl.SSLSocket):
            self._receive_bytes = _RECEIVE_TLS_BYTES
        if self._stopped:
            self.stop()

    @property
    def partial(self) -> bool:
        """Whether the rest of an event is still to be received."""
        return self._packets.partial

    def receive(self, timeout_seconds: float) -> list[bytes]:
        """The events of one read; none after the timeout, or if an event is not whole yet.

        Raises SourceLost if the connection broke or no heartbeat came in time, SourceError if the
        server refuses to go on. After ``stop`` there are no events.
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
            raise SourceLost(f"the connection to the source broke: {error}") from error
        if not data:
            if self._stopped:
                return []
            raise SourceLost("the source has closed the connection")
        self._silence_seconds = 0.0
        return self._packets.cut(data)

    def _note_silence(self, seconds: float) -> None:
        self._silence_seconds += seconds
        if self._silence_seconds > self._settings.heartbeat_seconds * _MISSED_HEARTBEATS:
            raise SourceLost(
                f"no heartbeat from the source for {self._silence_seconds:.0f} seconds",
                hint="the source hangs, or the network lost the connection",
            )

    def stop(self) -> None:
        """End the stream; idempotent."""
        self._stopped = True
        connection = self._connection
        if connection is not None:
            interrupt(connection)

    def close(self) -> None:
        """Free the socket; idempotent."""
        connection, self._connection = self._connection, None
        self._socket = None
        if connection is not None:
            connection._force_close()  # type: ignore[attr-defined]


def replica_host(settings: MySQLSettings) -> str:
    """The name by which a server lists us among its replicas: the same for each connection of one
    pipeline, another one for another pipeline. It holds nothing that is secret.
    """
    address = address_of(settings)
    what = (address.host, address.port, sorted(settings.tables), sorted(settings.exclude))
    return f"tailrace-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}"


def choose_server_id(connection: Connection[Any], settings: MySQLSettings) -> int:
    """The id of the settings, or a random one that nobody uses. Raises SourceError if it is taken.

    A connection of our own pipeline takes nothing: the server lets the newer one replace it.
    """
    wanted = settings.server_id
    taken = {int(query(connection, "SELECT @@GLOBAL.server_id")[0][0])}
    taken |= _other_replicas(connection, replica_host(settings))
    if wanted and wanted in taken:
        raise SourceError(
            f"another replica, or the source itself, has the server_id {wanted} already",
            hint=_OWN_SERVER_ID,
        )
    server_id = wanted
    while not server_id or (not wanted and server_id in taken):
        server_id = (1 << 31) + secrets.randbelow((1 << 31) - 1)
    return server_id


def _other_replicas(connection: Connection[Any], our_host: str) -> set[int]:
    """The ids of those that the server lists, but for our own, perhaps from a lost connection."""
    try:
        rows = query(connection, "SHOW SLAVE HOSTS" if is_mariadb(connection) else "SHOW REPLICAS")
    except SourceLost:
        raise
    except SourceError:
        return set()  # MySQL before 8.0.22, or no right to look: the server itself will tell
    return {int(row[0]) for row in rows if row[1] != our_host}


def _refusal(ending: ServerError) -> SourceError:
    text = ending.message
    lower = text.lower()
    if ending.code == 0 or ending.code in _PASSING:
        return SourceLost(f"the source ends the stream: {text}")
    if "same server_uuid/server_id" in lower or "same server_id" in lower:
        # Perhaps a newer engine of this pipeline: the target tells when we come back.
        return SourceLost(
            "another replica has connected to the source with our server_id", hint=_OWN_SERVER_ID
        )
    if ending.code in _DENIED:
        return SourceError(
            f"the source refuses: {text}", hint="grant REPLICATION SLAVE to our user"
        )
    if "max_allowed_packet" in lower:
        return SourceError(
            f"the source cannot send a large event: {text}",
            hint="SET GLOBAL max_allowed_packet = 1073741824 on the source",
        )
    if ending.code == _FATAL_READING_LOG:
        return SourceError(
            f"the source cannot send its log from our position: {text}",
            hint="its log was purged or reset: copy the tables again, and keep the log longer"
            " (binlog_expire_logs_seconds)",
        )
    return SourceError(f"the source ends the stream with error {ending.code}: {text}")

"""
The private parts of PyMySQL that Tailrace uses. No other module touches them.

PyMySQL makes the connection: handshake, authentication, TLS. Tailrace also needs operations that
PyMySQL's public API does not have: to send commands other than a query, to read an answer directly
from the socket, and to close a connection without the COM_QUIT command. If a new release of PyMySQL
breaks such an operation, it breaks it here. ``tests/mysql/test_pymysql_adapter.py`` checks that the
private names exist and that no other module uses one.

Each function names what it relies on. Tailrace requires PyMySQL 1.2 or later. Where no other
version is named, all these releases, and earlier ones, behave alike.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import pymysql
from pymysql.connections import Connection

from engine.toolkit.hosts import is_local

__all__ = [
    "CLEAR_TEXT",
    "GuardedConnection",
    "force_close",
    "is_old_password",
    "limit_timeouts",
    "offer_tls",
    "original_exception",
    "read_ok",
    "return_text",
    "send_command",
    "socket_of",
    "take_socket",
]


#: The client library's code for an error of an authentication method.
CLEAR_TEXT: Final = 2061
#: The authentication methods that send the password as it is.
_CLEAR_TEXT_METHODS: Final = (b"mysql_clear_password", b"dialog")


if TYPE_CHECKING:
    _Connection = Connection[Any]
else:
    _Connection = Connection  # it is generic in its type information only


class GuardedConnection(_Connection):
    """A connection that shows nobody on the network the password.

    A server chooses the method of authentication. MySQL's own clients refuse those that send the
    password as clear text, unless they are told otherwise; PyMySQL follows any server, also without
    TLS. Relies on ``_process_auth``, which answers the server's choice, and on ``_secure``, which
    is true once the connection uses TLS.
    """

    def _process_auth(self, plugin_name: bytes, *more: object) -> object:
        if plugin_name in _CLEAR_TEXT_METHODS and not (self._secure or is_local(self.host)):  # type: ignore[attr-defined]
            raise pymysql.OperationalError(
                CLEAR_TEXT, "the server asks for the password as clear text, without TLS"
            )
        return super()._process_auth(plugin_name, *more)  # type: ignore[misc]


class _Internals(Protocol):
    """The undocumented attributes of ``pymysql.connections.Connection`` that are used here."""

    ssl: bool
    ctx: SSLContext
    connect_timeout: float | None
    _sock: socket.socket | None
    _read_timeout: float | None
    _write_timeout: float | None
    _current_timeout: float | None

    def _execute_command(self, command: int, sql: bytes | str) -> None: ...

    def _read_ok_packet(self) -> object: ...

    def _force_close(self) -> None: ...


def _internals(connection: Connection[Any]) -> _Internals:
    return cast(_Internals, connection)


def send_command(connection: Connection[Any], command: int, payload: bytes | str) -> None:
    """Send a command of the client/server protocol, and do not read its answer.

    A text is sent in the connection's character set. Relies on ``_execute_command``.
    """
    _internals(connection)._execute_command(command, payload)


def read_ok(connection: Connection[Any]) -> None:
    """Read the OK packet that answers a command. Raises PyMySQL's error for any other packet.

    Relies on ``_read_ok_packet``.
    """
    _internals(connection)._read_ok_packet()


def socket_of(connection: Connection[Any]) -> socket.socket | None:
    """The socket; None before ``connect`` and after the connection is closed or lost.

    Relies on ``_sock``, which ``connect`` sets before the handshake. TLS replaces it by an
    ``SSLSocket``.
    """
    return _internals(connection)._sock


def take_socket(connection: Connection[Any], timeout_seconds: float) -> socket.socket:
    """The socket, to read the answer to a command directly; each wait has the given timeout.

    Relies on PyMySQL's buffered reader (``_rfile``) to hold no byte between two complete answers.
    The direct reader therefore starts at the first byte of an answer, and PyMySQL can be used again
    after the last byte of it.

    PyMySQL sets its own timeouts again at its next read or write. Since 1.2.1 it does so only if
    its note of the current timeout, ``_current_timeout``, differs; so the note is updated here.

    Raises PyMySQL's InterfaceError if the connection is closed.
    """
    taken = socket_of(connection)
    if taken is None:
        raise pymysql.InterfaceError(0, "the connection is closed")
    taken.settimeout(timeout_seconds)
    _internals(connection)._current_timeout = timeout_seconds
    return taken


def force_close(connection: Connection[Any]) -> None:
    """Close the socket without COM_QUIT, so that no write can block; idempotent.

    Relies on ``_force_close``.
    """
    _internals(connection)._force_close()


@contextmanager
def limit_timeouts(connection: Connection[Any]) -> Iterator[None]:
    """Inside, each read and write has the connection's ``connect_timeout`` as its timeout.

    PyMySQL applies ``connect_timeout`` to the TCP connection alone, and waits for the handshake as
    long as for a query. Relies on ``_read_timeout`` and ``_write_timeout``, which PyMySQL reads
    again at each packet.
    """
    internals = _internals(connection)
    timeouts = internals._read_timeout, internals._write_timeout
    internals._read_timeout = internals._write_timeout = internals.connect_timeout
    try:
        yield
    finally:
        internals._read_timeout, internals._write_timeout = timeouts


def offer_tls(connection: Connection[Any], context: SSLContext) -> None:
    """Let a connection that is not made yet use TLS with this context if the server offers TLS.

    PyMySQL requires TLS if it is given a context, and otherwise makes a context of its own. Relies
    on the attributes ``ssl`` and ``ctx``. Create the connection with ``ssl_disabled=True``: since
    1.2.0 its ``_ssl_required`` then stays False, so PyMySQL goes on without TLS.
    """
    internals = _internals(connection)
    internals.ssl, internals.ctx = True, context


def return_text(connection: Connection[Any]) -> None:
    """Let queries return each value as the server's text: ``str``, or ``bytes`` for binary types.

    Relies on the attribute ``decoders``. The argument ``conv`` of PyMySQL would replace the
    converters of query parameters, too.
    """
    connection.decoders = {}


def is_old_password(error: Exception) -> bool:
    """Whether a login failed because the server asks for a password in the format before MySQL 4.1.

    PyMySQL does not have that method. Relies on how it fails: in the function
    ``scramble_old_password``, which it calls and no longer has, or with an error that has this text
    and no code, for the short request that MariaDB sends.
    """
    if isinstance(error, AttributeError):
        return error.name == "scramble_old_password"
    return error.args == ("received unknown auth switch request",)


def original_exception(error: pymysql.MySQLError) -> BaseException | None:
    """The OSError that made connecting fail, or None.

    Relies on the attribute ``original_exception`` of the error that ``Connection.connect`` raises.
    """
    cause = getattr(error, "original_exception", None)
    return cause if isinstance(cause, BaseException) else None

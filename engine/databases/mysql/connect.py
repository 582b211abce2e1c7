"""
Sessions of a MySQL or MariaDB server: connecting, TLS, plain queries, and the errors of PyMySQL as
those of Tailrace.

A source and a sink use the same functions. Their ``side`` chooses the class of the errors
(``SourceLost`` or ``SinkLost``, ``SourceError`` or ``SinkError``) and the side that the message
names.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

from engine.databases.mysql.pymysql_adapter import (
    CLEAR_TEXT,
    GuardedConnection,
    force_close,
    is_old_password,
    limit_timeouts,
    offer_tls,
    original_exception,
    socket_of,
)
from engine.databases.mysql.session_variables import assignments
from engine.databases.mysql.settings import Address, ConnectionSettings, address_of
from engine.databases.side import SOURCE, Side
from engine.errors import ConfigError, SinkError, SourceError

__all__ = [
    "ACCESS_DENIED",
    "TRANSIENT",
    "connect",
    "error_code",
    "establish",
    "has_greeted",
    "interrupt",
    "is_mariadb",
    "prepare",
    "query",
    "query_all",
    "server_version",
    "translate_errors",
    "version_number",
]

#: Error codes of the server for missing rights and failed authentication.
ACCESS_DENIED: Final = frozenset((1044, 1045, 1142, 1227, 1698))
#: … those of the login, which are errors of the configuration more often than of the rights.
_LOGIN_DENIED: Final = frozenset((1045, 1698))
#: Error codes of the server for conditions that pass: too many connections, shutdown, a killed
#: connection or query, lock wait timeout, deadlock, an idle session that the server has ended.
TRANSIENT: Final = frozenset(
    (1040, 1053, 1077, 1078, 1079, 1203, 1205, 1213, 1317, 1927, 3032, 4031)
)
#: Error codes whose texts may have a value of a row, or a part of a statement with one.
_WITH_VALUES: Final = frozenset(
    (1062, 1064, 1292, 1300, 1366, 1367, 1411, 1525, 1586, 1644, 1649, 1690, 3037, 3617, 3854)
)
#: Error codes of the client library for a server that cannot be reached: by socket, by TCP.
UNREACHABLE: Final = frozenset((2002, 2003, 2005))
#: What a resolver says if there is no host of the name, unlike when no name server answers.
_UNKNOWN_HOST: Final = (socket.EAI_NONAME, socket.EAI_NODATA)
_UNKNOWN_VARIABLE: Final = 1193
#: Error codes for a password in the old format: of a server that refuses it, and of one that sees a
#: client without it.
_OLD_PASSWORD: Final = frozenset((1251, 1275))
#: PyMySQL's code for an authentication method that it does not have.
_NO_PLUGIN: Final = 2059
_OTHER_PLUGIN: Final = "create a user with the authentication plugin mysql_native_password"
#: What OpenSSL says of a server that has only TLS 1.0 and 1.1.
_OLD_TLS_REASONS: Final = ("UNSUPPORTED_PROTOCOL", "WRONG_VERSION_NUMBER")
_OLD_TLS: Final = (
    "the server may have only TLS 1.0 and 1.1, as MySQL 5.6 and MariaDB 10.2 do; they are not"
    ' secure: use `tls = "disable"`, on a network that you trust or through a tunnel'
)
_CERTIFICATE: Final = (
    'check tls, tls_ca and the server\'s certificate; `tls = "require"` encrypts without verifying'
    " the certificate"
)
#: The remedies for accounts that cannot be used as they are, by the server's error code: a limit
#: of the account, an expired password, a locked account (MySQL, MariaDB), a connection without TLS.
_ACCOUNT: Final = {
    1226: "ALTER USER … WITH MAX_USER_CONNECTIONS 0, MAX_CONNECTIONS_PER_HOUR 0,"
    " MAX_QUERIES_PER_HOUR 0 removes the account's limits",
    1820: "ALTER USER … IDENTIFIED BY '…' gives the account a new password",
    1862: "ALTER USER … IDENTIFIED BY '…' gives the account a new password",
    3118: "ALTER USER … ACCOUNT UNLOCK",
    3159: 'set tls = "require", or "verify-full" with tls_ca, in {section}',
    4151: "ALTER USER … ACCOUNT UNLOCK",
}
_UNKNOWN_CHARSET: Final = 1115
_NO_UTF8MB4: Final = "it needs the character set utf8mb4, which MySQL has since 5.5.3"

#: The longest wait for each answer during the login, which needs no work from the server.
_LOGIN_SECONDS: Final = 10.0


def connect(
    settings: ConnectionSettings,
    *,
    autocommit: bool = True,
    timeout_seconds: float | None = None,
    side: Side = SOURCE,
) -> Connection[Any]:
    """Open a session with the character set utf8mb4 and the variables of ``session_variables``.

    ``timeout_seconds`` bounds connecting and each wait for an answer; by default it is that of the
    settings. Raises ``side.lost`` if the server cannot be reached, ``side.rejected`` if it rejects
    the login or does not exist, and ConfigError.
    """
    connection = prepare(settings, autocommit=autocommit, timeout_seconds=timeout_seconds)
    establish(connection, side)
    return connection


def prepare(
    settings: ConnectionSettings, *, autocommit: bool = True, timeout_seconds: float | None = None
) -> Connection[Any]:
    """The session of ``connect``, not connected yet, so that another thread can ``interrupt`` it
    during ``establish``.
    """
    address = address_of(settings)
    timeout = timeout_seconds or settings.timeout_seconds
    context = _tls(address)
    required = address.tls != "prefer" or bool(address.tls_ca or address.tls_cert)
    connection = GuardedConnection(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password.encode(),
        charset="utf8mb4",
        autocommit=autocommit,
        connect_timeout=min(timeout, _LOGIN_SECONDS),
        read_timeout=timeout,
        write_timeout=timeout,
        program_name="tailrace",
        max_allowed_packet=1 << 30,
        client_flag=CLIENT.MULTI_STATEMENTS,  # for ``query_all``
        defer_connect=True,
        ssl=context if required else None,
        ssl_disabled=context is None or not required,
    )
    if context is not None and not required:
        offer_tls(connection, context)
    return connection


def establish(connection: Connection[Any], side: Side = SOURCE) -> None:
    """Connect, log in, and set the session's variables. Raises as ``connect`` does."""
    try:
        _establish(connection, side)
    except side.lost:
        raise
    except side.refused as error:
        raise side.rejected(error.message, hint=error.hint) from error.__cause__


def _establish(connection: Connection[Any], side: Side) -> None:
    try:
        with translate_errors(side), limit_timeouts(connection):
            connection.connect()
            _set_variables(connection)
    except RuntimeError as error:  # a package that an authentication method needs is not installed
        raise side.refused(f"cannot log in at the {side.name}: {error}") from error
    except AttributeError as error:
        if not is_old_password(error):
            raise
        raise _old_password(side) from error


def _old_password(side: Side) -> SourceError | SinkError:
    return side.refused(
        f"cannot log in at the {side.name}: the user's password has the format before MySQL 4.1,"
        " which current clients do not support",
        hint="give the user a new password: SET SESSION old_passwords = 0; SET PASSWORD FOR <user>"
        " = PASSWORD('...'); or create another user",
    )


def _set_variables(connection: Connection[Any]) -> None:
    values = assignments(is_mariadb(connection), version_number(connection))
    with connection.cursor() as cursor:
        try:
            cursor.execute(f"SET {', '.join(values)}")
        except pymysql.MySQLError as error:
            if error.args[0] != _UNKNOWN_VARIABLE:
                raise
            # A fork need not have every variable of the release whose version it reports.
            for value in values:
                with _unless_unknown():
                    cursor.execute(f"SET {value}")


@contextmanager
def _unless_unknown() -> Iterator[None]:
    try:
        yield
    except pymysql.MySQLError as error:
        if error.args[0] != _UNKNOWN_VARIABLE:
            raise


def interrupt(connection: Connection[Any]) -> None:
    """Break a connection that another thread waits on, also during ``establish``.

    The waiting call fails at once. The other thread closes the connection.
    """
    used = socket_of(connection)
    if used is not None:
        with suppress(OSError):
            # SSLSocket.shutdown would take the TLS session away from the thread that reads.
            socket.socket.shutdown(used, socket.SHUT_RDWR)


def query(
    connection: Connection[Any], sql: str, arguments: Sequence[object] = (), side: Side = SOURCE
) -> list[Any]:
    """All rows of a statement, as tuples. Raises ``side.refused`` or ``side.lost``."""
    return query_all(connection, [(sql, arguments)], side)[0]


def query_all(
    connection: Connection[Any],
    statements: Sequence[tuple[str, Sequence[object]]],
    side: Side = SOURCE,
) -> list[list[Any]]:
    """All rows of each of several statements, given with their arguments, in one round trip.

    Raises as ``query`` does. What follows a statement that fails is not executed.
    """
    with _undamaged(connection, side), connection.cursor() as cursor:
        texts = [cursor.mogrify(sql, tuple(each) or None) for sql, each in statements]
        cursor.execute("; ".join(texts))
        found = [list(cursor.fetchall())]
        while cursor.nextset():
            found.append(list(cursor.fetchall()))
        return found


@contextmanager
def streamed(
    connection: Connection[Any], sql: str, side: Side = SOURCE
) -> Iterator[Iterator[tuple[Any, ...]]]:
    """The rows of a statement, which are received as they are asked for. At the end the client
    reads those that are left. Raises as ``query`` does."""
    with _undamaged(connection, side), connection.cursor(SSCursor) as cursor:
        cursor.execute(sql)
        yield iter(cursor.fetchone, None)


@contextmanager
def _undamaged(connection: Connection[Any], side: Side) -> Iterator[None]:
    try:
        with translate_errors(side):
            yield
    except (AssertionError, IndexError, RuntimeError, UnicodeDecodeError, struct.error) as error:
        # PyMySQL's errors for packets that do not follow the protocol; a RuntimeError if the server
        # asks for a file of this machine (LOAD DATA LOCAL).
        force_close(connection)
        raise side.lost(f"an answer of the {side.name} was damaged on its way") from error


def is_mariadb(connection: Connection[Any]) -> bool:
    """Whether the server is MariaDB."""
    return "mariadb" in server_version(connection).lower()


def has_greeted(connection: Connection[Any]) -> bool:
    """Whether the server has told its version, which it does before the login."""
    return hasattr(connection, "server_version")


def server_version(connection: Connection[Any]) -> str:
    """The version in the server's handshake, such as ``11.8.6-MariaDB-log``.

    MariaDB before 11.0 puts ``5.5.5-`` in front of it, for old replicas.
    """
    return str(connection.get_server_info()).removeprefix("5.5.5-")  # type: ignore[no-untyped-call]


def version_number(connection: Connection[Any]) -> tuple[int, ...]:
    """The version as numbers, such as ``(11, 8, 6)``."""
    numbers = re.findall(r"\d+", server_version(connection).split("-")[0])
    return tuple(int(number) for number in numbers[:3])


@contextmanager
def translate_errors(side: Side = SOURCE) -> Iterator[None]:
    """Turn the errors of PyMySQL and of its socket into those of the side.

    Other errors, such as those of a decoder, pass unchanged.
    """
    try:
        yield
    except pymysql.MySQLError as error:
        raise _translate(error, side) from error
    except OSError as error:
        raise side.lost(f"the connection to the {side.name} broke: {error}") from error
    except ValueError as error:
        # Python's buffered reader raises "read of closed file" if another thread has closed it.
        if "closed file" not in str(error):
            raise
        raise side.lost(f"the connection to the {side.name} broke: {error}") from error


def error_code(error: BaseException) -> int:
    """The server's code of an error that ``translate_errors`` has raised; 0 if it has none."""
    arguments = error.__cause__.args if isinstance(error.__cause__, pymysql.MySQLError) else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def _translate(error: pymysql.MySQLError, side: Side) -> SourceError | SinkError:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[-1]) if error.args else type(error).__name__
    original = original_exception(error)
    if isinstance(original, ssl.SSLError):
        hint = _OLD_TLS if original.reason in _OLD_TLS_REASONS else _CERTIFICATE
        return side.refused(f"no secure connection to the {side.name}: {text}", hint=hint)
    if code in _OLD_PASSWORD or is_old_password(error):
        return _old_password(side)
    if code == CLEAR_TEXT:
        return side.refused(
            f"cannot log in at the {side.name}: {text}",
            hint=f'set tls = "verify-full" and tls_ca in {side.section}: another server may have'
            " taken its place",
        )
    if code == _NO_PLUGIN:
        return side.refused(f"cannot log in at the {side.name}: {text}", hint=_OTHER_PLUGIN)
    if code == _UNKNOWN_CHARSET:
        return side.refused(f"the {side.name} is too old: {text}", hint=_NO_UTF8MB4)
    if code in _LOGIN_DENIED:
        return side.rejected(
            f"the {side.name} denies the login: {text}",
            hint=f"correct user and password in {side.section} url; there the characters"
            " % / @ : # ? of a password are written %25 %2F %40 %3A %23 %3F; an account that"
            f" requires TLS needs tls, and perhaps tls_cert and tls_key, in {side.section}",
        )
    if code in _ACCOUNT:
        return side.rejected(
            f"the {side.name} denies access: {text}",
            hint=_ACCOUNT[code].format(section=side.section),
        )
    if code in ACCESS_DENIED:
        return side.denied(
            f"the {side.name} denies access: {text}",
            hint="`tailrace check CONFIG` lists the missing rights",
        )
    if isinstance(original, socket.gaierror) and original.errno in _UNKNOWN_HOST:
        return side.rejected(
            f"no connection to the {side.name}: {text}",
            hint=f"correct the host in {side.section} url",
        )
    if code in UNREACHABLE:
        return side.lost(
            f"no connection to the {side.name}: {text}",
            hint=f"check that the server runs, and the host and port in {side.section} url",
        )
    # Codes from 2000 to 2999 are those of the client library. PyMySQL has no code (0) for its own
    # errors, such as the use of a closed connection.
    if code in TRANSIENT or code == 0 or 2000 <= code < 3000:
        return side.lost(f"the connection to the {side.name} broke: {text}")
    if code in _WITH_VALUES:
        text = "its text is left out, because it may have values of rows"
    return side.refused(f"the {side.name} returned error {code}: {text}")


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket that is closed when it is garbage collected.

    If the server hangs up right before the handshake, ``SSLContext.wrap_socket`` raises and leaves
    the socket open, which would cause a ResourceWarning.
    """

    def __del__(self) -> None:
        self.close()


def _tls(address: Address) -> ssl.SSLContext | None:
    """The TLS context of an address. The authorities' certificates are loaded only if the server's
    certificate is verified, because loading takes time.
    """
    if address.tls == "disable":
        return None
    verify = address.tls.startswith("verify")
    try:
        if verify:
            context = ssl.create_default_context(cafile=address.tls_ca or None)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The certificates that MySQL and MariaDB generate for themselves violate strict X.509,
        # which Python 3.13 checks by default.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = address.tls == "verify-full"
        context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
        if address.tls_cert:
            context.load_cert_chain(address.tls_cert, address.tls_key or None)
    except OSError as error:
        raise ConfigError(
            f"tls_ca, tls_cert or tls_key cannot be used: {error.strerror or error}",
            hint="name PEM files that exist and that this user may read",
        ) from error
    context.sslsocket_class = _TlsSocket
    return context

"""
The errors of psycopg and libpq as those of Tailrace, for a source and a sink of PostgreSQL.

A message contains no value of a row and no password. The ``side`` chooses the class of an error
(``SourceLost`` or ``SinkLost``, ``SourceError`` or ``SinkError``) and the section of the
configuration that its hint names.
"""

from __future__ import annotations

import re
from socket import EAI_NODATA, EAI_NONAME

import psycopg
from psycopg import errors as pg

from engine.databases.side import Side
from engine.errors import SinkError, SourceError

__all__ = ["connect_error", "describe", "driver_error"]

#: Errors of conditions that may have passed at the next attempt.
_TRANSIENT = (
    pg.OperationalError,  # lost connections, locks, exhausted resources (classes 53, 57, 58)
    pg.InterfaceError,
    pg.ReadOnlySqlTransaction,  # the server has become a standby
    pg.IdleInTransactionSessionTimeout,
    pg.TransactionTimeout,
)
#: SQLSTATEs that psycopg counts as operational and that each attempt has again: the limits of the
#: program (class 54), and 55000, object_not_in_prerequisite_state.
_PERMANENT = ("54", "55000")
#: Classes of SQLSTATEs whose messages may contain a value of a row: data errors (22), violated
#: constraints (23), and errors of functions and triggers, whose authors choose the message.
_WITH_VALUES = ("22", "23", "38", "39", "P0")

# libpq gives no SQLSTATE for a rejected connection, so 28000, 28P01, 3D000 and 42501 are known from
# the English message.
_REJECTED = (
    "authentication failed",
    "does not exist",
    "is not permitted to log in",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects connection",
)
#: Causes that libpq names in its message only, whether the server rejects the connection for good,
#: and the remedy.
_CAUSES = (
    (
        "server requested a cleartext password",
        True,
        "Set sslmode=verify-full in {section} url: another server may have taken its place.",
    ),
    (
        "permission denied for database",
        True,
        "GRANT CONNECT ON DATABASE … TO …; on the server, for the user of {section} url.",
    ),
    (
        "server does not support SSL",
        True,
        "Let the server offer TLS (ssl = on), or set sslmode=prefer in {section} url.",
    ),
    (
        "is not currently accepting connections",
        True,
        "ALTER DATABASE … ALLOW_CONNECTIONS true; on the server.",
    ),
    (
        "too many connections for role",
        False,
        "ALTER ROLE … CONNECTION LIMIT -1; on the server, for the user of {section} url.",
    ),
    (
        "too many connections for database",
        False,
        "ALTER DATABASE … CONNECTION LIMIT -1; on the server.",
    ),
    (
        "too many clients",
        False,
        "Raise max_connections of the server, or end sessions that nobody needs.",
    ),
    (
        "remaining connection slots are reserved",
        False,
        "Raise max_connections of the server, or end sessions that nobody needs.",
    ),
)
# psycopg resolves names itself, and has the resolver's error in its message only.
_UNKNOWN_HOST = re.compile(rf"failed to resolve host .*\[Errno ({EAI_NONAME}|{EAI_NODATA})\]")
_REJECTED_CLASSES = (
    pg.InvalidPassword,
    pg.InvalidAuthorizationSpecification,
    pg.InvalidCatalogName,
    pg.ProgrammingError,
)


def connect_error(error: psycopg.Error, side: Side) -> SourceError | SinkError:
    """The error of a failed ``psycopg.connect``: ``side.lost``, or ``side.rejected`` if the server
    rejected the connection or does not exist, or ``side.refused`` if the URL is wrong.

    libpq's message names the host and the user, and never the password. But if libpq cannot parse
    the URL, its message shows the URL, and is left out here.
    """
    if isinstance(error, pg.ProgrammingError) and error.sqlstate is None:
        return side.refused(
            f"the {side.name}'s URL cannot be read", hint=f"Correct {side.section} url."
        )
    text = " ".join(str(error).split())
    for words, permanent, remedy in _CAUSES:
        if words in text:
            made = side.rejected if permanent else side.lost
            hint = remedy.format(section=side.section)
            return made(f"PostgreSQL refuses the connection: {text}", hint=hint)
    if isinstance(error, _REJECTED_CLASSES) or any(words in text for words in _REJECTED):
        return side.rejected(
            f"PostgreSQL refuses the connection: {text}",
            hint=f"Correct {side.section} url (user, password, database), or pg_hba.conf on the"
            " server.",
        )
    if _UNKNOWN_HOST.search(text):
        return side.rejected(
            f"no connection to PostgreSQL: {text}", hint=f"Correct the host in {side.section} url."
        )
    return side.lost(
        f"no connection to PostgreSQL: {text}",
        hint=f"Check that the server runs and that host and port in {side.section} url are right.",
    )


def driver_error(
    error: psycopg.Error, side: Side, *, broken: bool, table: object = None
) -> SourceError | SinkError:
    """The error of a failed statement: ``side.lost`` if the connection is broken or if the
    statement may succeed at the next attempt, ``side.denied`` for want of a right, else
    ``side.refused``.
    """
    if broken:
        return side.lost(
            f"the connection to PostgreSQL broke ({describe(error)})",
            hint="If the error repeats, look into the server's log.",
            table=table,
        )
    if isinstance(error, _TRANSIENT) and not (error.sqlstate or "").startswith(_PERMANENT):
        message = f"PostgreSQL could not execute the statement now: {describe(error)}"
        return side.lost(message, hint=_hint(error, side), table=table)
    message = f"PostgreSQL refused the statement: {describe(error)}"
    made = side.denied if isinstance(error, pg.InsufficientPrivilege) else side.refused
    return made(message, hint=_hint(error, side), table=table)


def describe(error: psycopg.Error) -> str:
    """The error's class, the server's message, and the column and the constraint.

    The message is left out if it may contain a value. The details always may.
    """
    diagnosis = error.diag
    parts = [type(error).__name__]
    state = diagnosis.sqlstate or ""
    if diagnosis.message_primary and not state.startswith(_WITH_VALUES):
        parts.append(diagnosis.message_primary)
    for label, value in (
        ("column", diagnosis.column_name or _copied_column(diagnosis.context)),
        ("constraint", diagnosis.constraint_name),
    ):
        if value:
            parts.append(f"{label} {value}")
    return ", ".join(parts)


def _copied_column(context: str | None) -> str | None:
    """The column in the context of an error of COPY, ``COPY t, line 1, column c: "value"``."""
    found = re.match(r"COPY .*?, line \d+, column (\w+)", context or "")
    return found[1] if found else None


def _hint(error: psycopg.Error, side: Side) -> str:
    match error:
        case pg.LockNotAvailable():
            return (
                "Another session holds a lock for longer than the lock timeout. Find it with"
                " SELECT pid, application_name, query FROM pg_stat_activity"
                " WHERE pid = ANY (SELECT unnest(pg_blocking_pids(pid)) FROM pg_stat_activity);"
            )
        case pg.ReadOnlySqlTransaction():
            return (
                f"The {side.name} is a standby now. Point {side.section} url at its primary, or"
                " name all servers there with target_session_attrs=read-write."
            )
        case pg.DiskFull():
            return (
                f"Make room on the disk of the {side.name}'s server; the pipeline then goes on by"
                " itself."
            )
        case pg.InsufficientPrivilege():
            return "Run `tailrace check CONFIG`: it lists the missing rights."
    return "If the error repeats, look into the server's log."

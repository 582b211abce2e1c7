"""
Which names in a logged statement mean temporary tables of its session. Pure.

A temporary table hides a table of its name from its session. Servers log statements on temporary
tables: MariaDB in the formats MIXED and STATEMENT, MySQL 8.0 and newer only in STATEMENT. The flag
LOG_EVENT_THREAD_SPECIFIC_F of the event says that the statement uses a temporary table, but not
which one, and in a stored procedure MySQL and MariaDB 10 leave it set for the statements that
follow. So this module follows the temporary tables of each session from their CREATE on.

A session may have created them before the stream began. Then a statement with the flag is in doubt
if it names one table that is not known to be temporary. Sessions that begin later are known from
their beginning: a server numbers its sessions consecutively.

These statements always mean real tables: CREATE TABLE, DROP TABLE (a server logs DROP TEMPORARY
TABLE for the others) and, in MySQL, RENAME TABLE.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

import msgspec

from engine.errors import UnloggedChange
from engine.remedies import BACKFILL
from engine.schema import TableId
from sources.mysql.ddl.statements import (
    AlterTable,
    CreateTable,
    CreateTemporary,
    DropTemporary,
    EmptyTable,
    RenameTables,
    Statement,
    WriteRows,
)

__all__ = ["SessionId", "TemporaryTables", "without_temporary"]

_DOUBT: Final = "may have changed a temporary table of its session, which hides the table"
_LIKE: Final = "takes its columns from a table that may be a temporary one"


def without_temporary(
    statement: RenameTables,
    timestamp: int,
    created: Callable[[TableId], int | None],
    selected: Callable[[TableId], bool],
    followed: Collection[TableId],
) -> RenameTables:
    """The statement without pairs that have probably renamed a temporary table of MariaDB.

    In the format ROW the log does not show temporary tables, but it has this statement. The
    catalog does: a table that is older than the statement has kept its name. ``created`` reads the
    time at which a table was created from there.
    """
    news = {new for _, new in statement.pairs}
    real: list[tuple[TableId, TableId]] = []
    for old, new in statement.pairs:
        seconds = created(old) if old not in news and selected(old) else None
        if seconds is None or seconds >= timestamp or created(new) is not None:
            real.append((old, new))
        elif old in followed:
            raise UnloggedChange(
                f"{statement.kind} may have renamed a temporary table, which hides the table",
                hint=BACKFILL,
                table=old,
            )
    return msgspec.structs.replace(statement, pairs=tuple(real))


class SessionId(NamedTuple):
    """A session: the id of the server on which it ran, and its number there."""

    server: int
    thread: int


class TemporaryTables:
    """The temporary tables of all sessions. A session ends with a logged DROP of its tables.

    ``newest`` is a session that began before the stream; those with higher numbers began later.
    Without it no session is known from its beginning until the server restarts.
    """

    def __init__(self, newest: SessionId | None = None) -> None:
        self._newest = newest
        self._tables: dict[SessionId, set[TableId]] = {}

    def __bool__(self) -> bool:
        return bool(self._tables)

    def restart(self, server: int) -> None:
        """The server has started: the sessions before have ended."""
        self._newest = SessionId(server, 0)
        self._tables.clear()

    def real(
        self, statement: Statement, session: SessionId, *, flagged: bool, mariadb: bool
    ) -> Statement | None:
        """The part of the statement that concerns real tables; None if there is none.

        ``flagged`` is ``Query.thread_specific``. Where it is in doubt, the statement has a problem.
        """
        known = self._tables.setdefault(session, set())
        try:
            match statement:
                case CreateTemporary():
                    known.update(statement.tables)
                    return None
                case DropTemporary():
                    known.difference_update(statement.tables)
                    return None
                case RenameTables():
                    return _rename(statement, known) if mariadb else statement
                case _ if flagged:
                    return self._flagged(statement, known, session)
                case _:
                    return statement
        finally:
            if not known:
                del self._tables[session]

    def _flagged(
        self, statement: Statement, known: set[TableId], session: SessionId
    ) -> Statement | None:
        doubtful = not self._from_beginning(session)
        match statement:
            case AlterTable() | EmptyTable():
                id = statement.tables[0]
                if id not in known:
                    return _with_problem(statement, _DOUBT) if doubtful else statement
                if isinstance(statement, AlterTable) and statement.change.name is not None:
                    known.remove(id)
                    known.add(statement.change.name)
                return None
            case CreateTable(like=TableId() as like) if doubtful or like in known:
                return msgspec.structs.replace(statement, like=None, problem=_LIKE)
            case WriteRows():
                real = tuple(id for id in statement.tables if id not in known)
                return msgspec.structs.replace(statement, tables=real) if real else None
            case _:
                return statement

    def _from_beginning(self, session: SessionId) -> bool:
        newest = self._newest
        return newest is not None and newest.server == session.server and session > newest


def _rename(statement: RenameTables, known: set[TableId]) -> Statement:
    """In MariaDB, RENAME TABLE renames temporary tables too."""
    real: list[tuple[TableId, TableId]] = []
    for old, new in statement.pairs:
        if old in known:
            known.remove(old)
            known.add(new)
        else:
            real.append((old, new))
    ids = tuple(id for pair in real for id in pair)
    return msgspec.structs.replace(statement, tables=ids, pairs=tuple(real))


def _with_problem(statement: Statement, problem: str) -> Statement:
    return statement if statement.problem else msgspec.structs.replace(statement, problem=problem)

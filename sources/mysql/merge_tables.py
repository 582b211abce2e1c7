"""
MERGE tables: a change of one is logged under its name, and changes one of the MyISAM tables that it
joins (MySQL manual, "The MERGE Storage Engine").

The log does not say which one. The definitions are those of the server's catalog when the stream is
opened, changed by the statements of the log. One that was dropped before is not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from pymysql.connections import Connection

from engine.databases.mysql.connect import query
from engine.databases.mysql.identifiers import quote_name
from engine.errors import SchemaError, SourceError, SourceLost, UnloggedChange
from engine.schema import TableId
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.statements import (
    AlterTable,
    CreateTable,
    EmptyTable,
    RenameTables,
    Statement,
    WriteRows,
)

__all__ = ["MergeTables", "all_merge_tables", "joined_tables", "merge_tables", "refusal"]

_MERGE_TABLES: Final = """
SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES
WHERE UPPER(ENGINE) = 'MRG_MYISAM' ORDER BY 1, 2
"""
_ENGINE: Final = re.compile(r"\bENGINE\s*=?\s*['\"]?(?:MERGE|MRG_MYISAM)\b", re.IGNORECASE)
_UNION: Final = re.compile(r"\bUNION\s*=?\s*\(([^()]*)\)", re.IGNORECASE)
_NAME: Final = re.compile(r"(?:(`[^`]+`|[^\s`.,]+)\s*\.\s*)?(`[^`]+`|[^\s`.,]+)")


_REFUSAL: Final = "it is a MERGE table: changes of the tables that it joins are not logged for it"
_VIEW: Final = 'add "TABLE" to exclude in [source], and make it a view on the target'


def refusal(id: TableId) -> SchemaError:
    """Why a MERGE table cannot be followed."""
    return SchemaError(_REFUSAL, hint=_VIEW, table=id)


def merge_tables(session: Connection[Any]) -> list[TableId]:
    """The MERGE tables of a server that the user can see. Raises SourceError, SourceLost."""
    return [TableId(*found) for found in query(session, _MERGE_TABLES)]


def joined_tables(session: Connection[Any], id: TableId) -> frozenset[TableId]:
    """The tables that a MERGE table joins; none if the user may not see its definition."""
    try:
        ((_, sql),) = query(
            session, f"SHOW CREATE TABLE {quote_name(id.schema)}.{quote_name(id.name)}"
        )
    except SourceLost:
        raise
    except SourceError:
        return frozenset()  # or the tables do not fit
    return _joined(sql, id.schema, fold_names=False) or frozenset()


def all_merge_tables(session: Connection[Any]) -> list[tuple[TableId, frozenset[TableId]]]:
    """The MERGE tables of a server, and the tables that each of them joins."""
    return [(id, joined_tables(session, id)) for id in merge_tables(session)]


class MergeTables:
    """The MERGE tables that are known, and the tables that each of them joins."""

    def __init__(self, tables: Iterable[tuple[TableId, frozenset[TableId]]] = ()) -> None:
        self._tables = dict(tables)

    def check(self, id: TableId, followed: Collection[TableId], does: str) -> None:
        """Raise UnloggedChange if ``id`` is a MERGE table that joins a followed table."""
        for joined in sorted(self._tables.get(id, ())):
            if joined in followed:
                raise UnloggedChange(
                    f"the MERGE table {id}, which joins it, {does}, and the log does not say which"
                    " of its tables is changed",
                    hint='let applications change the table itself, or add "TABLE" to exclude in'
                    " [source]",
                    table=joined,
                )

    def follow(
        self,
        statement: Statement | None,
        sql: str,
        schema: str,
        dialect: Dialect,
        followed: Collection[TableId],
        wanted: Callable[[TableId], bool],
    ) -> bool:
        """Take note of a statement. Returns whether a definition is changed.

        Raises UnloggedChange as ``check``, and for a MERGE table that is to be followed.
        """
        match statement:
            case EmptyTable(tables=tables) | WriteRows(tables=tables):
                for id in tables if self._tables else ():
                    self.check(id, followed, "is written by a statement")
            case RenameTables(pairs=pairs):
                for old, new in pairs if self._tables else ():
                    if old in self._tables:
                        self._tables[new] = self._tables.pop(old)
            case CreateTable(tables=(id, *_)) | AlterTable(tables=(id, *_)):
                is_merge = id in self._tables and isinstance(statement, AlterTable)
                if not is_merge and not _ENGINE.search(sql):
                    return self._tables.pop(id, None) is not None
                found = _joined(sql, schema, fold_names=dialect.fold_names)
                if found is not None or not is_merge:
                    self._tables[id] = found or frozenset()
                if wanted(id):
                    raise UnloggedChange(_REFUSAL, hint=_VIEW, table=id)
                return True
        return False


def _joined(sql: str, schema: str, *, fold_names: bool) -> frozenset[TableId] | None:
    """The tables of the option UNION; None if there is none."""
    found = _UNION.search(sql)
    if found is None:
        return None
    names = [
        (database.strip("`") or schema, name.strip("`"))
        for database, name in _NAME.findall(found[1])
    ]
    if fold_names:
        names = [(database.lower(), name.lower()) for database, name in names]
    return frozenset(TableId(*name) for name in names)

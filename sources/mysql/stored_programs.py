"""
The views, triggers and stored functions of a server, read from its catalog.

They are read when the log first has a statement that could use them, and again after a statement
that changes them. A definition is the one of now: one that was dropped before it was read is not
known.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from pymysql.connections import Connection

from engine.databases.mysql.connect import is_mariadb, query, version_number
from engine.schema import TableId
from engine.structure import Hidden
from sources.mysql.ddl.dialect import NO_BACKSLASH_ESCAPES, Dialect
from sources.mysql.ddl.stored_programs import Program, Programs
from sources.mysql.rights import database, has_routine_table, read_routines
from sources.mysql.server_info import ServerInfo

__all__ = [
    "hidden_programs",
    "hidden_triggers",
    "hidden_views",
    "may_see_sessions",
    "read_programs",
    "shows_routines",
]

_OTHER: Final = "NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')"
_VIEWS: Final = f"""
SELECT TABLE_SCHEMA, TABLE_NAME, VIEW_DEFINITION
FROM information_schema.VIEWS WHERE TABLE_SCHEMA {_OTHER}
"""
_TRIGGERS: Final = f"""
SELECT TRIGGER_SCHEMA, TRIGGER_NAME, EVENT_OBJECT_TABLE, ACTION_STATEMENT, SQL_MODE
FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA {_OTHER}
"""
_ROUTINES: Final = f"""
SELECT ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_TYPE, ROUTINE_DEFINITION, SQL_MODE, ROUTINE_BODY
FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA {_OTHER}
"""
#: The privileges and the schemas of a grant, as SHOW GRANTS prints them.
_GRANT: Final = re.compile(r"GRANT (.+?) ON (?:\*|[`\"](.+?)[`\"])\.\* TO ", re.DOTALL)
#: The right to read the table of routines, or all tables of its schema.
_ON_ROUTINES: Final = re.compile(
    r"GRANT [^`\"]*\b(?:SELECT|ALL PRIVILEGES)\b[^`\"]* ON"
    r" [`\"]mysql[`\"]\.(?:\*|[`\"]proc[`\"]) TO "
)
#: The rights on a schema of which one shows the names of its routines.
_SHOW_NAMES: Final = ("EXECUTE", "ALTER ROUTINE", "CREATE ROUTINE")
_WILDCARDS: Final = {"%": ".*", "_": "."}


def read_programs(session: Connection[Any], info: ServerInfo, schemas: Iterable[str]) -> Programs:
    """All programs that the user may see. ``schemas`` are those of the followed tables.

    Raises SourceError, SourceLost.
    """
    return Programs(_read(session, info), hidden_triggers(session, schemas))


def _read(session: Connection[Any], info: ServerInfo) -> Iterator[Program]:
    plain = Dialect(info.mariadb, fold_names=info.fold_names)
    for schema, name, body in query(session, _VIEWS):
        yield Program("view", TableId(schema, name), body or None, dialect=plain)
    for schema, name, table, body, mode in query(session, _TRIGGERS):
        on = TableId(schema, table)
        yield Program("trigger", TableId(schema, name), body, on, _dialect(info, mode))
    for schema, name, kind, body, mode, language in query(session, _ROUTINES):
        text = body if language == "SQL" else None
        id, dialect = TableId(schema, name), _dialect(info, mode)
        yield Program("procedure" if kind == "PROCEDURE" else "function", id, text, None, dialect)


def _dialect(info: ServerInfo, mode: str) -> Dialect:
    bits = NO_BACKSLASH_ESCAPES if "NO_BACKSLASH_ESCAPES" in mode else 0
    return Dialect(info.mariadb, bits, info.fold_names)


def hidden_triggers(session: Connection[Any], schemas: Iterable[str]) -> list[str]:
    """Those of the schemas whose triggers the user may not see (the right TRIGGER)."""
    return _without(session, ("TRIGGER",), schemas)


def hidden_views(session: Connection[Any], schemas: Iterable[str]) -> list[str]:
    """Those of the schemas whose views' definitions the user may not see (SHOW VIEW)."""
    return _without(session, ("SHOW VIEW",), schemas)


def hidden_programs(session: Connection[Any], schemas: Collection[str]) -> Iterator[Hidden]:
    """The programs of the schemas whose names the user may not see. Some of them may be visible all
    the same, such as those that it has created.
    """
    mariadb, version = is_mariadb(session), version_number(session)
    for schema in _without(session, ("SELECT", "SHOW VIEW"), schemas):
        yield Hidden("view", schema, f"GRANT SHOW VIEW ON {database(schema)}")
    for schema in hidden_triggers(session, schemas):
        yield Hidden("trigger", schema, f"GRANT TRIGGER ON {database(schema)}")
    if not shows_routines(session):
        for schema in _without(session, _SHOW_NAMES, schemas):
            right = f"GRANT {read_routines(mariadb, version)}"
            yield Hidden("procedure", schema, right)
            yield Hidden("function", schema, right)
    for schema in _without(session, ("EVENT",), schemas):
        yield Hidden("event", schema, f"GRANT EVENT ON {database(schema)}")


def may_see_sessions(session: Connection[Any]) -> bool:
    """Whether the user may see the sessions of others (the right PROCESS)."""
    needed = {"PROCESS", "ALL PRIVILEGES"}
    return any(rights & needed and where.pattern == ".*" for rights, where in _grants(session))


def _without(
    session: Connection[Any], sufficient: Collection[str], schemas: Iterable[str]
) -> list[str]:
    """Those of the schemas on which the user has none of some rights."""
    enough = {*sufficient, "ALL PRIVILEGES"}
    seen = [where for rights, where in _grants(session) if rights & enough]
    return sorted(
        schema for schema in set(schemas) if not any(where.fullmatch(schema) for where in seen)
    )


def shows_routines(session: Connection[Any]) -> bool:
    """Whether the user may see all stored functions and procedures, and their bodies."""
    needed = {"SELECT", "SHOW_ROUTINE", "SHOW CREATE ROUTINE", "ALL PRIVILEGES"}
    if any(rights & needed and where.pattern == ".*" for rights, where in _grants(session)):
        return True
    if has_routine_table(is_mariadb(session), version_number(session)):
        return any(_ON_ROUTINES.match(line) for (line,) in query(session, "SHOW GRANTS"))
    return False


def _grants(session: Connection[Any]) -> Iterator[tuple[set[str], re.Pattern[str]]]:
    """The user's rights on whole schemas, also those of its active roles."""
    for (line,) in query(session, "SHOW GRANTS"):
        match = _GRANT.match(line)
        if match is not None:
            rights = {right.strip() for right in match[1].split(",")}
            yield rights, re.compile(_like(match[2]) if match[2] else ".*")


def _like(pattern: str) -> str:
    """A pattern of LIKE as a regular expression."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join(_WILDCARDS.get(part) or re.escape(part[-1]) for part in parts)

"""
The rights that the user of the source needs, as GRANT names them. Pure.

A right has another name, or another scope, on other servers. The remedies of ``preflight`` use the
same names.

https://dev.mysql.com/doc/refman/9.7/en/grant.html and
https://mariadb.com/docs/server/reference/sql-statements/account-management-sql-statements/grant
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

from engine.databases.mysql.identifiers import quote_name
from engine.rights import HandoverRights

__all__ = [
    "database",
    "freeze",
    "has_routine_table",
    "read_log_end",
    "read_replication",
    "read_routines",
    "rights",
]

_EVERYWHERE: Final = "*.*"
#: The wildcards of GRANT, and how they are escaped.
_MARKS: Final = r"[_%\\]"
_ESCAPED: Final = r"\\\g<0>"
#: The parts of a pattern, as fnmatch reads it: a bracket at the beginning of a set is part of it.
_PARTS: Final = re.compile(r"\*|\?|\[!?+\]?+[^]]*+\]|.", re.DOTALL)
#: The releases that have divided older rights, or introduced these.
_MARIADB_MONITORS: Final = (10, 5, 2)
_MYSQL_DYNAMIC: Final = (8, 0)
_MYSQL_SHOW_ROUTINE: Final = (8, 0, 20)
_MARIADB_READ_ONLY: Final = (10, 5, 2)


def read_log_end(mariadb: bool, version: tuple[int, ...]) -> str:
    """The right to ask for the end of the log."""
    return "BINLOG MONITOR" if mariadb and version >= _MARIADB_MONITORS else "REPLICATION CLIENT"


def read_replication(mariadb: bool, version: tuple[int, ...]) -> str:
    """The right to ask whether the server is a replica."""
    return "SLAVE MONITOR" if mariadb and version >= _MARIADB_MONITORS else "REPLICATION CLIENT"


def freeze(mariadb: bool, version: tuple[int, ...]) -> str:
    """The right to set ``read_only``, and ``super_read_only`` of MySQL."""
    if mariadb:
        return "READ ONLY ADMIN" if version >= _MARIADB_READ_ONLY else "SUPER"
    return "SYSTEM_VARIABLES_ADMIN" if version >= _MYSQL_DYNAMIC else "SUPER"


def read_routines(mariadb: bool, version: tuple[int, ...]) -> str:
    """The right to see the bodies of stored functions, with its scope."""
    if has_routine_table(mariadb, version):
        return "SELECT ON `mysql`.`proc`"
    return "SHOW_ROUTINE ON *.*" if version >= _MYSQL_SHOW_ROUTINE else "SELECT ON *.*"


def has_routine_table(mariadb: bool, version: tuple[int, ...]) -> bool:
    """Whether the bodies of stored functions are in a table that can be granted."""
    return mariadb or version < _MYSQL_DYNAMIC


def database(name: str) -> str:
    """A database as GRANT names it, where ``_`` and ``%`` are wildcards unless they are escaped."""
    return f"{quote_name(re.sub(_MARKS, _ESCAPED, name))}.*"


def rights(
    mariadb: bool,
    version: tuple[int, ...],
    tables: Sequence[str],
    *,
    locks: bool = True,
    may_replicate: bool = True,
    handover: HandoverRights | None = None,
) -> list[tuple[str, str]]:
    """The rights, with their scopes, that it takes to follow the tables of these patterns, each
    with what needs it. ``locks``: backfills lock tables. ``may_replicate``: the server may be a
    replica that does not log what it replicates. ``handover``: the tables are cut over.
    """
    patterns = [_split(pattern) for pattern in tables]
    schemas = _schemas(patterns)
    end, replication = read_log_end(mariadb, version), read_replication(mariadb, version)
    found = [
        ("REPLICATION SLAVE ON *.*", "Reads the log."),
        (f"{end} ON *.*", "Asks for the end of the log."),
    ]
    if may_replicate and replication != end:
        reason = "Asks whether the server is a replica, because it does not log what it replicates."
        found.append((f"{replication} ON *.*", reason))
    reason = "Reads the definitions and the rows of tables."
    read = list(_tables(patterns, schemas))
    if _is_wider(patterns, read):
        reason += " GRANT cannot name all patterns of `tables`, so it reaches more than they match."
    found += [(f"SELECT ON {it}", reason) for it in read]
    if locks:
        reason = (
            "Locks a table for a moment when its backfill begins: one without a key, one whose"
            " engine has no transactions, and each one if the log has no GTIDs."
        )
        found += [(f"LOCK TABLES ON {it}", reason) for it in schemas]
    if not mariadb and version >= _MYSQL_DYNAMIC:
        found.append(("XA_RECOVER_ADMIN ON *.*", "Lists the prepared XA transactions."))
    reason = "Sees the triggers, views and stored functions that a statement in the log may use."
    for right in ("TRIGGER", "SHOW VIEW"):
        found += [(f"{right} ON {it}", reason) for it in schemas]
    found.append((read_routines(mariadb, version), reason))
    if handover is not None:
        reason = "Sees the other sessions, which a cutover names."
        found.append(("PROCESS ON *.*", reason))
        reason = "Sees the events, which `tailrace schema diff` lists."
        found += [(f"EVENT ON {it}", reason) for it in schemas]
        if handover.freezes:
            reason = "Has the server refuse writes in a cutover."
            found.append((f"{freeze(mariadb, version)} ON *.*", reason))
    return found


def _split(pattern: str) -> tuple[str, str]:
    schema, _, name = pattern.partition(".")
    return schema, name


def _schemas(patterns: Sequence[tuple[str, str]]) -> list[str]:
    """The databases of the patterns as GRANT names them; all of them if one pattern has all."""
    names = dict.fromkeys(_like(schema) for schema, _ in patterns)
    if "%" in names:
        return [_EVERYWHERE]
    return [f"{quote_name(name)}.*" for name in names]


def _tables(patterns: Sequence[tuple[str, str]], schemas: Sequence[str]) -> Iterator[str]:
    """The databases and tables of the patterns as GRANT names them.

    A pattern of tables covers tables to come, and GRANT has no such patterns, so the database is
    named. So is one that another pattern of databases matches: of several grants on databases, the
    server uses one that matches, and not the others.
    """
    if list(schemas) == [_EVERYWHERE]:
        yield _EVERYWHERE
        return
    wide = {schema for schema, name in patterns if _is_pattern(schema) or _is_pattern(name)}
    whole = {it for it, _ in patterns if it in wide or any(fnmatchcase(it, one) for one in wide)}
    for schema, name in dict.fromkeys(
        (schema, "" if schema in whole else name) for schema, name in patterns
    ):
        if name:
            yield f"{quote_name(schema)}.{quote_name(name)}"
        else:
            yield f"{quote_name(_like(schema))}.*"


def _is_wider(patterns: Sequence[tuple[str, str]], scopes: Sequence[str]) -> bool:
    """Whether these scopes have more tables than the patterns match."""
    return any(
        "[" in schema
        or (name.strip("*") and f"{quote_name(schema)}.{quote_name(name)}" not in scopes)
        for schema, name in patterns
    )


def _is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _like(pattern: str) -> str:
    """A pattern of database names with the wildcards of GRANT."""
    if not pattern.strip("*"):
        return "%"
    parts = _PARTS.findall(pattern)
    return "".join(map(_wildcard, parts))


def _wildcard(part: str) -> str:
    if part == "*":
        return "%"
    return "_" if part == "?" or len(part) > 1 else re.sub(_MARKS, _ESCAPED, part)

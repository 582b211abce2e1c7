"""
Checks of how tables are stored: engines, partitions, and the right to lock tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

from engine.contract import Finding
from engine.databases.mysql.connect import ACCESS_DENIED, error_code, query
from engine.databases.mysql.identifiers import quote_name
from engine.errors import SourceError, SourceLost
from engine.schema import TableId
from sources.mysql.preflight.context import Check, Context, retention_seconds
from sources.mysql.rights import database

__all__ = ["STORAGE_CHECKS", "tables_to_lock"]

_STORED: Final = """
SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, CREATE_OPTIONS, DATA_LENGTH
FROM information_schema.TABLES
WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE')
ORDER BY TABLE_SCHEMA, TABLE_NAME
"""
_TRANSACTIONAL: Final = "SELECT ENGINE FROM information_schema.ENGINES WHERE TRANSACTIONS = 'YES'"
#: Engines whose tables show the rows of other tables or servers.
_ELSEWHERE: Final = frozenset(("connect", "federated", "s3", "sequence", "spider"))
#: Tables that the server cannot open have no engine; see ``tables`` for these and for MERGE tables.
_CHECKED_ELSEWHERE: Final = ("", "mrg_myisam")
#: A cautious estimate of how fast a table is read.
_READ_BYTES_PER_SECOND: Final = 10e6
#: No table has this name.
_NO_TABLE: Final = "tailrace_no_such_table"


class _Stored(NamedTuple):
    """How a table is stored; ``engine`` is in lower case."""

    id: TableId
    kind: str
    engine: str
    options: str
    #: About how many bytes its rows take.
    size: int


def _storage(context: Context) -> Iterator[Finding]:
    stored, transactional = _read_stored(context), _read_transactional(context)
    for table in stored:
        yield from _engine(table, transactional)
        if "partitioned" in table.options:
            yield Finding(
                "warning",
                str(table.id),
                "it is partitioned: DROP, TRUNCATE and EXCHANGE PARTITION change rows that the log"
                " does not show",
                'delete the rows before such a statement, or let `unlogged_change = "backfill"`'
                " (the default) read the table again",
                code="MY040",
            )
    yield from _long_reads(context, stored)
    to_lock = _to_lock(context, stored, transactional)
    yield from _locks(context, sorted({id.schema for id in to_lock}))


def tables_to_lock(context: Context) -> set[TableId]:
    """The tables that are locked for a moment when their backfill begins."""
    return _to_lock(context, _read_stored(context), _read_transactional(context))


def _to_lock(
    context: Context, stored: Sequence[_Stored], transactional: Collection[str]
) -> set[TableId]:
    found = {each.id for each in stored if each.engine not in transactional}
    return found | {each.id for each in context.tables if not context.info.gtids or not each.key}


def _read_stored(context: Context) -> list[_Stored]:
    return [
        _Stored(id, kind, str(engine or "").lower(), str(options or "").lower(), size or 0)
        for schema, name, kind, engine, options, size in query(context.session, _STORED)
        if context.wanted(id := TableId(schema, name))
    ]


def _read_transactional(context: Context) -> set[str]:
    return {str(name).lower() for (name,) in query(context.session, _TRANSACTIONAL)}


def _long_reads(context: Context, stored: Sequence[_Stored]) -> Iterator[Finding]:
    """A keyless table is read in one piece, and the stream waits for that."""
    keyless = {table.id for table in context.tables if not table.key}
    sizes = [(each.size, each.id) for each in stored if each.id in keyless]
    kept_seconds = retention_seconds(context.variables)
    if not sizes or not kept_seconds:
        return
    size, id = max(sizes)
    seconds = size / _READ_BYTES_PER_SECOND
    if seconds > kept_seconds / 2:
        yield Finding(
            "warning",
            str(id),
            f"the table has no key and about {size / 1e9:,.0f} GB: reading it may take"
            f" {seconds / 3600:,.0f} hours, the stream waits for that, and the log is kept for"
            f" {kept_seconds / 3600:,.0f} hours",
            "add a primary key, or SET GLOBAL binlog_expire_logs_seconds ="
            f" {int(seconds * 3)} until it is backfilled",
            code="MY019",
        )


def _engine(table: _Stored, transactional: Collection[str]) -> Iterator[Finding]:
    subject, engine = str(table.id), table.engine
    if table.kind == "SEQUENCE":
        message = "it is a sequence, and sequences are not followed"
        action = "create it on the target at the cutover, with its present value"
        yield Finding("warning", subject, message, action, code="MY041")
    elif engine in _ELSEWHERE:
        message = f"its engine {engine} shows rows of other tables, whose changes are logged"
        action = 'add "TABLE" to exclude in [source], and follow the tables that hold its rows'
        yield Finding(
            "error", subject, f"{message} under other names, or not at all", action, code="MY042"
        )
    elif engine == "blackhole":
        message = "its engine blackhole stores no rows, and the target would store them"
        action = 'add "TABLE" to exclude in [source]'
        yield Finding("warning", subject, message, action, code="MY043")
    elif engine not in (*transactional, *_CHECKED_ELSEWHERE):
        yield Finding(
            "warning",
            subject,
            f"its engine {engine} has no transactions: a statement that fails may"
            " have changed rows, and a backfill locks the table against writers",
            f"ALTER TABLE {_quoted(table.id)} ENGINE = InnoDB, or backfill it at a quiet time",
            code="MY044",
        )


def _locks(context: Context, schemas: Sequence[str]) -> Iterator[Finding]:
    """Whether the user may lock the tables whose backfill needs it.

    LOCK TABLES checks the right first, so it is tried on a table that does not exist.
    """
    for schema in schemas:
        try:
            query(context.session, f"LOCK TABLES {quote_name(schema)}.{_NO_TABLE} READ")
        except SourceLost:
            raise
        except SourceError as error:
            if error_code(error) not in ACCESS_DENIED:
                continue  # no such table: the right was checked before
            yield Finding(
                "error",
                schema,
                "the user may not lock tables here, which the backfill of tables without a key or"
                " without transactions needs, and of all tables if there are no GTIDs",
                f"GRANT LOCK TABLES ON {database(schema)} TO <user>",
                code="MY026",
            )


def _quoted(id: TableId) -> str:
    return f"{quote_name(id.schema)}.{quote_name(id.name)}"


#: The checks of how tables are stored.
STORAGE_CHECKS: Final[tuple[Check, ...]] = (_storage,)

"""
Checks of the tables that the configuration selects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pymysql.connections import Connection

from engine.contract import Finding
from engine.databases.mysql.connect import ACCESS_DENIED, error_code, query
from engine.databases.mysql.identifiers import quote_table
from engine.errors import SourceError, SourceLost
from engine.schema import Table
from sources.mysql.binlog.cascades import inexact_reason
from sources.mysql.merge_tables import joined_tables, merge_tables
from sources.mysql.preflight.context import Check, Context
from sources.mysql.rights import database
from sources.mysql.server_info import has_native_foreign_keys
from sources.mysql.settings import selector

__all__ = ["TABLE_CHECKS"]

_TABLES_PER_QUERY: Final = 250


def _unmatched(context: Context) -> Iterator[Finding]:
    for pattern in context.settings.tables:
        matches = selector((pattern,), (), fold_names=context.info.fold_names)
        if not any(matches(table.id) for table in context.tables):
            yield Finding(
                "warning" if context.tables else "error",
                "tables",
                f"{pattern!r} matches no table that the user can see",
                "correct it in tables of [source]; or GRANT SELECT on these tables TO <user>",
                code="MY030",
            )
    for pattern in context.settings.values.unmatched(context.tables) if context.tables else ():
        yield Finding(
            "warning",
            "source.values",
            f"{pattern!r} matches no followed table, or no column of one",
            "check its spelling; a table that is created later may match",
            code="MY031",
        )


def _refused(context: Context) -> Iterator[Finding]:
    for id, error in context.refused.items():
        yield Finding("error", str(id), error.message, error.hint, code="MY032")


def _readable(context: Context) -> Iterator[Finding]:
    refused = _unreadable(context.session, context.tables)
    for table, error in refused:
        message = "the user may not read the table"
        action = f"GRANT SELECT ON {database(table.id.schema)} TO <user>"
        if error_code(error) not in ACCESS_DENIED:
            message = f"the table cannot be read: {error.message}"
            action = f'REPAIR TABLE {quote_table(table)}, or add "TABLE" to exclude in [source]'
        yield Finding("error", str(table.id), message, action, code="MY033")
    yield Finding("ok", "tables", f"{len(context.tables) - len(refused)} tables can be followed")


def _unreadable(
    session: Connection[Any], tables: Sequence[Table]
) -> list[tuple[Table, SourceError]]:
    """The tables that cannot be read. One query tries many; only if it fails, each."""
    found = []
    for start in range(0, len(tables), _TABLES_PER_QUERY):
        some = tables[start : start + _TABLES_PER_QUERY]
        if _refusal(session, some):
            errors = ((table, _refusal(session, [table])) for table in some)
            found += [(table, error) for table, error in errors if error]
    return found


def _refusal(session: Connection[Any], tables: Sequence[Table]) -> SourceError | None:
    """The error of reading these tables; None if all of them can be read."""
    statement = " UNION ALL ".join(
        f"(SELECT 1 FROM {quote_table(table)} LIMIT 0)" for table in tables
    )
    try:
        query(session, statement)
    except SourceLost:
        raise
    except SourceError as error:
        return error
    return None


def _keyless(context: Context) -> Iterator[Finding]:
    for table in context.tables:
        if not table.key:
            yield Finding(
                "warning",
                str(table.id),
                "the table has no primary key and no unique key without nullable columns: changes"
                " are applied by comparing whole rows, and its backfill cannot be resumed",
                "add a primary key, if the application allows it",
                code="MY034",
            )


def _cascades(context: Context) -> Iterator[Finding]:
    if not has_native_foreign_keys(context.session, context.info):
        return
    tables = {table.id: table for table in context.tables}
    applied = 0
    for table in context.tables:
        for key in table.foreign_keys or ():
            if not key.cascades:
                continue
            reason = inexact_reason(table, key, tables.get(key.parent), context.tables)
            applied += not reason
            if reason:
                yield Finding(
                    "warning",
                    str(table.id),
                    f"rows that the foreign key {key.name} deletes or changes are not logged, and"
                    f" the target cannot do the same: {reason}",
                    "the table is backfilled again when it happens, and quarantined if it happens"
                    " often; let applications make these changes",
                    code="MY035",
                )
    if applied:
        message = f"{applied} foreign keys change rows without logging it, and so does the target"
        yield Finding("ok", "foreign keys", message)


def _merged(context: Context) -> Iterator[Finding]:
    """A change of a MERGE table is logged under its name, and changes one of its tables."""
    for table in merge_tables(context.session):
        for child in sorted(filter(context.wanted, joined_tables(context.session, table))):
            yield Finding(
                "warning",
                str(child),
                f"changes that are made through the MERGE table {table} are logged under its name,"
                " so the table is read again after each",
                "let applications change the table itself",
                code="MY037",
            )


#: The checks of the tables, in the order of their findings.
TABLE_CHECKS: Final[tuple[Check, ...]] = (
    _unmatched,
    _refused,
    _readable,
    _keyless,
    _cascades,
    _merged,
)

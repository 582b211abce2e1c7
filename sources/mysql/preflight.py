"""
The checks of a server before it is followed, for ``tailrace check``.

A finding that is not ``ok`` says what to type. Nothing is changed on the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from pymysql.connections import Connection

from engine.contract import Finding
from engine.databases.mysql.connect import query
from engine.databases.mysql.identifiers import quote_table
from engine.errors import SourceError, SourceLost
from engine.schema import Table, TableId
from sources.mysql.binlog.connection import BinlogConnection, choose_server_id
from sources.mysql.catalog import read_catalog
from sources.mysql.server_info import ServerInfo, log_end
from sources.mysql.settings import MySQLSettings, selector
from sources.mysql.unlogged import unlogged

__all__ = ["preflight"]

_DAY_SECONDS: Final = 86_400
_TABLES_PER_QUERY: Final = 250
_RESTART: Final = "and restart the server"
_CASCADES: Final = """
SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME
FROM information_schema.REFERENTIAL_CONSTRAINTS
WHERE UPDATE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT')
   OR DELETE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT')
ORDER BY 1, 2, 3
"""


def preflight(session: Connection[Any], info: ServerInfo, settings: MySQLSettings) -> list[Finding]:
    """All findings, in the order in which to fix them.

    Raises SourceLost if the connection breaks.
    """
    name = "MariaDB" if info.mariadb else "MySQL"
    version = ".".join(map(str, info.version))
    findings = [Finding("ok", "server", f"{name} {version}")]
    variables = _variables(session)
    for check in (_log, _format, _images, _metadata, _identity, _retention):
        findings += check(variables, info)
    wanted = selector(settings.tables, settings.exclude, fold_names=info.fold_names)
    tables = read_catalog(session, wanted)
    if variables.get("log_bin") == "ON":
        rights = list(_rights(session, info, settings))
        findings += rights
        if not any(finding.level == "error" for finding in rights):
            findings += unlogged(session, info, {table.id.schema for table in tables})
    findings += _tables(session, tables, settings, info)
    findings += _cascades(session, info, variables, wanted)
    return findings


def _variables(session: Connection[Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in query(session, "SHOW GLOBAL VARIABLES")}


def _log(variables: dict[str, str], info: ServerInfo) -> Iterator[Finding]:
    if variables.get("log_bin") != "ON":
        yield Finding(
            "error",
            "log_bin",
            "the server has no binary log",
            f"set `log_bin = binlog` below [mysqld] in its option file {_RESTART}",
        )
    else:
        yield Finding("ok", "log_bin", "the server has a binary log")


def _format(variables: dict[str, str], info: ServerInfo) -> Iterator[Finding]:
    format = variables.get("binlog_format", "ROW")
    if format == "ROW":
        yield Finding("ok", "binlog_format", "rows are logged as rows")
        return
    yield Finding(
        "error",
        "binlog_format",
        f"it is {format}: changes are logged as statements, which do not contain their rows",
        "SET GLOBAL binlog_format = 'ROW'; set it in the option file too, and let open sessions"
        " reconnect",
    )


def _images(variables: dict[str, str], info: ServerInfo) -> Iterator[Finding]:
    image = variables.get("binlog_row_image", "FULL")
    if image == "FULL":
        yield Finding("ok", "binlog_row_image", "whole rows are logged")
    else:
        yield Finding(
            "warning",
            "binlog_row_image",
            f"it is {image}: only parts of rows are logged, and keyless tables cannot be followed",
            "SET GLOBAL binlog_row_image = 'FULL'",
        )
    if "PARTIAL_JSON" in variables.get("binlog_row_value_options", ""):
        yield Finding(
            "error",
            "binlog_row_value_options",
            "changes of JSON documents are logged instead of the documents",
            "SET GLOBAL binlog_row_value_options = ''",
        )


def _metadata(variables: dict[str, str], info: ServerInfo) -> Iterator[Finding]:
    metadata = variables.get("binlog_row_metadata")
    if metadata == "FULL":
        yield Finding("ok", "binlog_row_metadata", "the log contains the columns' names and types")
        return
    newer = "MariaDB 10.5" if info.mariadb else "MySQL 8.0"
    yield Finding(
        "warning",
        "binlog_row_metadata",
        "the log has no column names: a schema change that cannot be derived stops the pipeline",
        "SET GLOBAL binlog_row_metadata = 'FULL'"
        if metadata
        else f"upgrade the server: {newer} has this setting",
    )


def _identity(variables: dict[str, str], info: ServerInfo) -> Iterator[Finding]:
    if variables.get("server_id") == "0":
        yield Finding(
            "error",
            "server_id",
            "it is 0: the server accepts no replicas",
            "SET GLOBAL server_id = 1; set it in the option file too",
        )
    if info.gtids:
        yield Finding("ok", "gtid_mode", "transactions have GTIDs")
    else:
        yield Finding(
            "warning",
            "gtid_mode",
            "transactions have no GTIDs: positions are valid on this server only, and a backfill"
            " locks the table briefly for each time slice",
            "see `Enabling GTID Transactions Online` in MySQL's manual",
        )


def _retention(variables: dict[str, str], info: ServerInfo) -> Iterator[Finding]:
    seconds = float(variables.get("binlog_expire_logs_seconds") or 0)
    seconds = seconds or float(variables.get("expire_logs_days") or 0) * _DAY_SECONDS
    if 0 < seconds < _DAY_SECONDS:
        yield Finding(
            "warning",
            "retention",
            f"the log is kept for {seconds / 3600:.1f} hours: after a longer stop changes are lost",
            "SET GLOBAL binlog_expire_logs_seconds = 604800 (Amazon RDS: CALL"
            " mysql.rds_set_configuration('binlog retention hours', 168))",
        )
    else:
        kept = f"for {seconds / _DAY_SECONDS:.1f} days" if seconds else "until it is purged"
        yield Finding("ok", "retention", f"the log is kept {kept}")


def _rights(
    session: Connection[Any], info: ServerInfo, settings: MySQLSettings
) -> Iterator[Finding]:
    """Check rights by using them. SHOW GRANTS is not enough: roles and partial revokes count."""
    client = "BINLOG MONITOR" if info.mariadb else "REPLICATION CLIENT"
    try:
        end = log_end(session, info)
    except SourceLost:
        raise
    except SourceError as error:
        action = f"GRANT {client}, REPLICATION SLAVE ON *.* TO <user>"
        yield Finding("error", "rights", error.message, action)
        return
    # With a server_id of its own, because a running engine may use the configured one.
    replica = BinlogConnection(msgspec.structs.replace(settings, server_id=0))
    try:
        choose_server_id(session, settings)
        replica.open()
        replica.dump_from_file(end.file, end.offset)
        while not replica.receive(settings.timeout_seconds):
            pass
        yield Finding("ok", "rights", "the user may read the log")
    except SourceLost:
        raise
    except SourceError as error:
        action = error.hint or "GRANT REPLICATION SLAVE ON *.* TO <user>"
        yield Finding("error", "rights", error.message, action)
    finally:
        replica.close()
    yield from _xa_rights(session, info)


def _xa_rights(session: Connection[Any], info: ServerInfo) -> Iterator[Finding]:
    try:
        prepared = query(session, "XA RECOVER")
    except SourceLost:
        raise
    except SourceError as error:
        if not info.mariadb:
            action = "if applications use XA: GRANT XA_RECOVER_ADMIN ON *.* TO <user>"
            yield Finding("warning", "xa", f"XA transactions cannot be listed: {error}", action)
        return
    if prepared:
        yield Finding(
            "warning",
            "xa",
            f"{len(prepared)} XA transactions are prepared: if they are committed after the start,"
            " the pipeline stops, because their rows were logged before it",
            "XA RECOVER; then XA COMMIT or XA ROLLBACK those that no application uses",
        )


def _tables(
    session: Connection[Any], tables: Sequence[Table], settings: MySQLSettings, info: ServerInfo
) -> Iterator[Finding]:
    yield from _unmatched(tables, settings, info)
    denied = _unreadable(session, tables)
    for table in denied:
        action = f"GRANT SELECT ON `{table.id.schema}`.* TO <user>"
        yield Finding("error", str(table.id), "the user may not read the table", action)
    for table in tables:
        if not table.key:
            yield Finding(
                "warning",
                str(table.id),
                "the table has no primary key and no unique key without nullable columns: changes"
                " are applied by comparing whole rows, and its backfill cannot be resumed",
                "add a primary key, if the application allows it",
            )
    yield Finding("ok", "tables", f"{len(tables) - len(denied)} tables can be followed")


def _unmatched(
    tables: Sequence[Table], settings: MySQLSettings, info: ServerInfo
) -> Iterator[Finding]:
    for pattern in settings.tables:
        matches = selector((pattern,), (), fold_names=info.fold_names)
        if not any(matches(table.id) for table in tables):
            yield Finding(
                "warning",
                "tables",
                f"{pattern!r} matches no table that the user can see",
                "check its spelling, and that the user has the right SELECT on these tables",
            )


def _unreadable(session: Connection[Any], tables: Sequence[Table]) -> list[Table]:
    """The tables that the user may not read. One query tries many; only if it fails, each."""
    found: list[Table] = []
    for start in range(0, len(tables), _TABLES_PER_QUERY):
        some = tables[start : start + _TABLES_PER_QUERY]
        if not _readable(session, some):
            found += [table for table in some if not _readable(session, [table])]
    return found


def _readable(session: Connection[Any], tables: Sequence[Table]) -> bool:
    """Whether the user may read all these tables."""
    statement = " UNION ALL ".join(
        f"(SELECT 1 FROM {quote_table(table)} LIMIT 0)" for table in tables
    )
    try:
        query(session, statement)
    except SourceLost:
        raise
    except SourceError:
        return False
    return True


def _cascades(
    session: Connection[Any],
    info: ServerInfo,
    variables: dict[str, str],
    wanted: Callable[[TableId], bool],
) -> Iterator[Finding]:
    """Since MySQL 9.6 the SQL layer executes cascades, and not InnoDB, so they are logged."""
    logged = not info.mariadb and info.version >= (9, 6)
    if logged and variables.get("innodb_native_foreign_keys", "OFF") != "ON":
        return
    for schema, table, constraint in query(session, _CASCADES):
        if wanted(TableId(schema, table)):
            yield Finding(
                "warning",
                f"{schema}.{table}",
                f"changes that the foreign key {constraint} makes by CASCADE or SET NULL are not"
                " logged",
                "run `tailrace verify` on the table often, or let applications make these changes",
            )

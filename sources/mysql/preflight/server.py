"""
Checks of the server: its settings, and the rights of the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from engine.contract import Finding
from engine.databases.mysql.connect import query
from engine.errors import SourceDenied, SourceError, SourceLost
from sources.mysql.binlog.connection import BinlogConnection, choose_server_id
from sources.mysql.clock import ServerClock
from sources.mysql.preflight.context import DAY_SECONDS, Check, Context, retention_seconds
from sources.mysql.releases import release_name, too_new
from sources.mysql.rights import database, read_log_end, read_routines
from sources.mysql.server_info import SWITCH_LOG_ON, log_end
from sources.mysql.stored_programs import hidden_triggers, hidden_views, shows_routines
from sources.mysql.unlogged import check_format

__all__ = ["RIGHTS_CHECKS", "SETTINGS_CHECKS"]

#: Sessions of a run with two readers: for questions, the log, the readers and a lock; at its start
#: also two that repeat these checks.
_LEAST_SESSIONS: Final = 5
_USUAL_SESSIONS: Final = 7
#: The difference of two clocks from which on it is a finding.
_CLOCK_SECONDS: Final = 1.0


def _server(context: Context) -> Iterator[Finding]:
    mariadb, version = context.info.mariadb, context.info.version
    if newer := too_new(mariadb, version):
        yield Finding(
            "warning", "server", newer, "look for a newer version of Tailrace", code="MY001"
        )
    else:
        yield Finding("ok", "server", release_name(mariadb, version))


def _log(context: Context) -> Iterator[Finding]:
    if not context.logs:
        yield Finding(
            "error",
            "log_bin",
            "the server has no binary log",
            SWITCH_LOG_ON,
            code="MY002",
        )
    else:
        yield Finding("ok", "log_bin", "the server has a binary log")


def _format(context: Context) -> Iterator[Finding]:
    yield check_format(context.variables.get("binlog_format", ""))


def _images(context: Context) -> Iterator[Finding]:
    image = context.variables.get("binlog_row_image", "FULL")
    if image == "FULL":
        yield Finding("ok", "binlog_row_image", "whole rows are logged")
    else:
        yield Finding(
            "warning",
            "binlog_row_image",
            f"it is {image}: only parts of rows are logged, and keyless tables cannot be followed",
            "SET GLOBAL binlog_row_image = 'FULL'",
            code="MY004",
        )
    if "PARTIAL_JSON" in context.variables.get("binlog_row_value_options", "") and image != "FULL":
        yield Finding(
            "warning",
            "binlog_row_value_options",
            "the changed parts of JSON documents are logged without the documents before: such a"
            " change has its table read again",
            "SET GLOBAL binlog_row_image = 'FULL', or SET GLOBAL binlog_row_value_options = ''",
            code="MY005",
        )


def _metadata(context: Context) -> Iterator[Finding]:
    metadata = context.variables.get("binlog_row_metadata")
    if metadata == "FULL":
        yield Finding("ok", "binlog_row_metadata", "the log contains the columns' names and types")
        return
    newer = "MariaDB 10.5" if context.info.mariadb else "MySQL 8.0"
    yield Finding(
        "warning",
        "binlog_row_metadata",
        "the log has no column names: after a schema change that cannot be derived, a table is read"
        " again",
        "SET GLOBAL binlog_row_metadata = 'FULL'"
        if metadata
        else f"upgrade the server: {newer} has this setting",
        code="MY006",
    )


def _identity(context: Context) -> Iterator[Finding]:
    if context.variables.get("server_id") == "0":
        yield Finding(
            "error",
            "server_id",
            "it is 0: the server accepts no replicas",
            "SET GLOBAL server_id = 1; set it in the option file too",
            code="MY007",
        )
    if context.info.gtids:
        lock = "" if context.info.executed_is_visible else "; a backfill locks the table briefly"
        yield Finding("ok", "gtid_mode", f"transactions have GTIDs{lock}")
    else:
        none = context.info.version < (5, 6, 5)
        yield Finding(
            "warning",
            "gtid_mode",
            "transactions have no GTIDs: positions are valid on this server only, and a backfill"
            " locks the table briefly for each time slice",
            "upgrade the server: MySQL 5.6 is the first release with GTIDs"
            if none
            else "see `Enabling GTID Transactions Online` in MySQL's manual",
            code="MY008",
        )


def _retention(context: Context) -> Iterator[Finding]:
    seconds = retention_seconds(context.variables)
    if 0 < seconds < DAY_SECONDS:
        yield Finding(
            "warning",
            "retention",
            f"the log is kept for {seconds / 3600:.1f} hours: after a longer stop changes are lost",
            "SET GLOBAL binlog_expire_logs_seconds = 604800 (Amazon RDS: CALL"
            " mysql.rds_set_configuration('binlog retention hours', 168))",
            code="MY009",
        )
    else:
        kept = f"for {seconds / DAY_SECONDS:.1f} days" if seconds else "until it is purged"
        yield Finding("ok", "retention", f"the log is kept {kept}")


def _durability(context: Context) -> Iterator[Finding]:
    """A server sends its log to replicas before it is on its own disk."""
    weak = [
        f"{name} = {value}"
        for name in ("sync_binlog", "innodb_flush_log_at_trx_commit")
        if (value := context.variables.get(name, "1")) != "1"
    ]
    if weak:
        names = ", GLOBAL ".join(f"{each.split()[0]} = 1" for each in weak)
        yield Finding(
            "warning",
            "durability",
            f"{' and '.join(weak)}: if its machine crashes, the server may lose transactions that"
            " the target has",
            f"SET GLOBAL {names}; set it in the option file too",
            code="MY010",
        )
    if context.variables.get("binlog_checksum") == "NONE":
        yield Finding(
            "warning",
            "binlog_checksum",
            "it is NONE: damage of the log may pass unnoticed",
            "SET GLOBAL binlog_checksum = 'CRC32'",
            code="MY011",
        )


def _clock(context: Context) -> Iterator[Finding]:
    """The log has the server's times. The lag takes a difference of the clocks into account."""
    clock = ServerClock()
    clock.compare(context.session)
    ahead = clock.ahead_seconds or 0.0
    if abs(ahead) < _CLOCK_SECONDS:
        yield Finding("ok", "clock", "the server's clock is that of this machine")
        return
    way = "ahead of" if ahead > 0 else "behind"
    yield Finding(
        "warning",
        "clock",
        f"the server's clock is {abs(ahead):.1f} seconds {way} that of this machine: the lag takes"
        " that into account, but the times of commits are the server's",
        "let both machines synchronize their clocks (NTP); `date -u` and SELECT UTC_TIMESTAMP()"
        " show them",
        code="MY028",
    )


def _sessions(context: Context) -> Iterator[Finding]:
    """The session's value is the limit of the account, or else that of the server."""
    ((limit,),) = query(context.session, "SELECT @@SESSION.max_user_connections")
    if 0 < int(limit) < _USUAL_SESSIONS:
        yield Finding(
            "error" if int(limit) < _LEAST_SESSIONS else "warning",
            "sessions",
            f"the account may have {limit} sessions at a time, and a run takes up to"
            f" {_USUAL_SESSIONS}, and one more for each reader that is added in [backfill]",
            "ALTER USER <user> WITH MAX_USER_CONNECTIONS 0; or raise the server's"
            " max_user_connections",
            code="MY027",
        )


def _rights(context: Context) -> Iterator[Finding]:
    """Check rights by using them. SHOW GRANTS is not enough: roles and partial revokes count."""
    try:
        end = log_end(context.session, context.info)
    except SourceLost:
        raise
    except SourceError as error:
        client = read_log_end(context.info.mariadb, context.info.version)
        action = f"GRANT {client}, REPLICATION SLAVE ON *.* TO <user>"
        yield Finding("error", "rights", error.message, action, code="MY020")
        return
    # With a server_id of its own, because a running engine may use the configured one.
    replica = BinlogConnection(msgspec.structs.replace(context.settings, server_id=0))
    try:
        choose_server_id(context.session, context.settings)
        replica.open()
        replica.dump_from_file(end.file, end.offset)
        while not replica.receive(context.settings.timeout_seconds):
            pass
        yield Finding("ok", "rights", "the user may read the log")
    except SourceLost:
        raise
    except SourceError as error:
        denied = isinstance(error, SourceDenied) or not error.hint
        action = "GRANT REPLICATION SLAVE ON *.* TO <user>" if denied else error.hint
        yield Finding("error", "rights", error.message, action, code="MY021")
    finally:
        replica.close()


def _prepared(context: Context) -> Iterator[Finding]:
    try:
        prepared = query(context.session, "XA RECOVER")
    except SourceLost:
        raise
    except SourceError as error:
        if not context.info.mariadb:
            action = "if applications use XA: GRANT XA_RECOVER_ADMIN ON *.* TO <user>"
            yield Finding(
                "warning", "xa", f"XA transactions cannot be listed: {error}", action, code="MY022"
            )
        return
    if prepared:
        yield Finding(
            "warning",
            "xa",
            f"{len(prepared)} XA transactions are prepared: if they are committed after the start,"
            " the pipeline stops, because their rows were logged before it",
            "XA RECOVER; then XA COMMIT or XA ROLLBACK those that no application uses",
            code="MY023",
        )


def _programs(context: Context) -> Iterator[Finding]:
    """What a statement in statement format changes is found only if these are visible."""
    schemas = {table.id.schema for table in context.tables}
    for schema in hidden_triggers(context.session, schemas):
        yield Finding(
            "warning",
            "triggers",
            f"the user may not see the triggers in {schema}: a change of another table there stops"
            " the pipeline if it is logged as a statement",
            f"GRANT TRIGGER ON {database(schema)} TO <user>",
            code="MY024",
        )
    for schema in hidden_views(context.session, schemas):
        yield Finding(
            "warning",
            "views",
            f"the user may not see the definitions of views in {schema}: a statement that uses one"
            " stops the pipeline if it is logged as a statement",
            f"GRANT SHOW VIEW ON {database(schema)} TO <user>",
            code="MY029",
        )
    if not shows_routines(context.session):
        right = read_routines(context.info.mariadb, context.info.version)
        yield Finding(
            "warning",
            "routines",
            "the user may not see stored functions: what they change in a statement that is logged"
            " as a statement passes unseen",
            f"GRANT {right} TO <user>",
            code="MY025",
        )


#: The checks of the settings, in the order of their findings.
SETTINGS_CHECKS: Final[tuple[Check, ...]] = (
    _server,
    _log,
    _format,
    _images,
    _metadata,
    _identity,
    _retention,
    _durability,
    _clock,
)
#: The checks of rights to read the log, which the server must have.
RIGHTS_CHECKS: Final[tuple[Check, ...]] = (_sessions, _rights, _prepared, _programs)

"""
What the server's log holds after a position, and for how long it keeps it.

The server deletes a file of the log when its last change is older than the variable says
(https://dev.mysql.com/doc/refman/8.4/en/replication-options-binary-log.html, binlog_expire_logs_…).
The newest file is not deleted. Rules outside of the server, such as those of a managed service or a
limit of size, are not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymysql.connections import Connection

from engine.databases.mysql.connect import query
from engine.log_status import LogAhead
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition, file_number
from sources.mysql.preflight.context import retention_seconds
from sources.mysql.server_info import ServerInfo, log_end, log_files

__all__ = ["bytes_after", "kept_seconds", "log_ahead", "transactions_between"]


def log_ahead(
    session: Connection[Any], info: ServerInfo, position: MySQLPosition, lag_seconds: float
) -> LogAhead:
    """As ``DescribesLog.log_ahead``."""
    end = log_end(session, info)
    rows = query(session, "SHOW GLOBAL VARIABLES LIKE '%expire_logs%'")
    kept = None
    if position.server == info.identity and position.file:
        newest = file_number(position.file) >= file_number(end.file)
        kept = kept_seconds({str(name): str(value) for name, value in rows}, newest, lag_seconds)
    return LogAhead(transactions_between(position, end), kept)


def bytes_after(session: Connection[Any], info: ServerInfo, position: MySQLPosition) -> int | None:
    """The size of the log after ``position``; None if it is from another server."""
    if position.server != info.identity or not position.file:
        return None
    number = file_number(position.file)
    after = sum(log.size for log in log_files(session) if file_number(log.name) >= number)
    return max(0, after - position.offset)


def kept_seconds(variables: Mapping[str, str], newest: bool, lag_seconds: float) -> float | None:
    """The least time until the file of a position may be deleted; None if it is never. ``newest``:
    it is the newest file. ``lag_seconds`` is the age of the position.
    """
    retention = retention_seconds(variables)
    if not retention or variables.get("binlog_expire_logs_auto_purge") == "OFF":
        return None
    # The file was changed at the position or later.
    return retention if newest else max(0.0, retention - lag_seconds)


def transactions_between(position: MySQLPosition, end: MySQLPosition) -> int | None:
    """The number of transactions after ``position`` up to ``end``; None without GTIDs."""
    before, after = position.gtids, end.gtids
    if isinstance(before, GtidSet) and isinstance(after, GtidSet):
        return sum(
            last - first + 1 - _overlap(first, last, before.sources.get(source, ()))
            for source, intervals in after.sources.items()
            for first, last in intervals
        )
    if isinstance(before, DomainState) and isinstance(after, DomainState):
        return sum(
            max(0, sequence - before.domains.get(domain, (0, 0))[1])
            for domain, (_, sequence) in after.domains.items()
        )
    return None


def _overlap(first: int, last: int, intervals: tuple[tuple[int, int], ...]) -> int:
    return sum(max(0, min(last, high) - max(first, low) + 1) for low, high in intervals)

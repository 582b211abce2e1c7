"""
The resume position: compare a stored position with the server's log, and request the dump.

The comparison comes before the dump request, so that an error says what is missing: a purged log, a
reset log, or another server. The server itself answers all of these with one error code (1236).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import msgspec
from pymysql.connections import Connection

from engine.databases.mysql.connect import query
from engine.errors import SourceError, SourceLost
from engine.remedies import BACKFILL_ALL, and_then
from engine.schema import TableId
from sources.mysql.binlog.connection import BinlogConnection
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition, file_number
from sources.mysql.server_info import (
    SWITCH_LOG_ON,
    ServerInfo,
    log_files,
    read_server_info,
    wait_for_gtids,
)
from sources.mysql.unlogged import check_format, unlogged

__all__ = ["confirm_log", "resume_at"]

Dump = Callable[[BinlogConnection], None]

#: How long a server may take to add a transaction that it has sent to its executed GTIDs.
_EXECUTED_SECONDS: Final = 2
_FIRST_OFFSET: Final = 4
#: The event with the GTIDs of the previous files is among this number of first events.
_HEAD_EVENTS: Final = 3
_GTID_NEXT: Final = re.compile(r"GTID_NEXT= '([^']+):([0-9]+)'")
_BACKFILL_AGAIN: Final = and_then(BACKFILL_ALL, "keep the log longer (binlog_expire_logs_seconds)")


def resume_at(
    connection: Connection[Any],
    info: ServerInfo,
    position: MySQLPosition | None,
    tables: Collection[TableId] = (),
    parents: Collection[TableId] = (),
) -> tuple[MySQLPosition, Dump]:
    """The position in terms of this server, and the function that requests the dump from there.

    Without a position, the log's beginning. ``tables`` are the followed tables, and ``parents``
    those whose rows may change theirs through foreign keys.
    Raises SourceError if the server no longer has the transactions after the position, never had
    those before it, does not log rows, or does not log the changes in a schema.
    """
    _check_logging(connection, info, tables)
    return _place(connection, info, position, {*tables, *parents})


def confirm_log(
    connection: Connection[Any],
    info: ServerInfo,
    position: MySQLPosition,
    tables: Collection[TableId] = (),
) -> None:
    """Check that the log still is the one that was read up to ``position``.

    A server that resets its log keeps its replicas connected, and sends them nothing more. Raises
    as ``resume_at``. If another server answers, such as behind a balancer, nothing is known.
    """
    if read_server_info(connection).identity == position.server:
        _place(connection, info, position, tables)


def _check_logging(
    connection: Connection[Any], info: ServerInfo, tables: Collection[TableId]
) -> None:
    """Check that the server logs the changes of these tables as rows."""
    format = query(connection, "SHOW GLOBAL VARIABLES LIKE 'binlog_format'")
    findings = [check_format(format[0][1] if format else "")]
    for finding in (*findings, *unlogged(connection, info, {id.schema for id in tables})):
        if finding.level == "error":
            raise SourceError(finding.message, hint=finding.action)


def _place(
    connection: Connection[Any],
    info: ServerInfo,
    position: MySQLPosition | None,
    tables: Collection[TableId],
) -> tuple[MySQLPosition, Dump]:
    """The result of ``resume_at``, after the server's log was compared with the position."""
    if position is None:
        return _from_beginning(connection, info)
    size = _file_size(connection, info, position)
    awaited = position.awaited(frozenset(tables).__contains__)
    gtids = position.gtids_with_prepared(awaited)
    if isinstance(gtids, GtidSet) and info.gtids and not info.mariadb:
        _check_gtids(connection, info, gtids)
        _check_history(connection, info, position, size)
        return _rebased(position, info), lambda replica: replica.dump_from_gtids(gtids)
    if isinstance(gtids, DomainState) and gtids and info.mariadb:
        _check_domains(connection, gtids)
        _check_history(connection, info, position, size)
        state = _oldest_state(gtids, awaited.values())
        return _rebased(position, info), lambda replica: replica.dump_from_domains(state)
    _check_history(connection, info, position, size)
    return _from_file(connection, info, position, awaited.values())


def _from_beginning(connection: Connection[Any], info: ServerInfo) -> tuple[MySQLPosition, Dump]:
    files = log_files(connection)
    if not files:
        raise SourceError("the source has no binary log", hint=SWITCH_LOG_ON)
    first = files[0].name
    if info.gtids and not info.mariadb:
        purged = GtidSet.parse(query(connection, "SELECT @@GLOBAL.gtid_purged")[0][0])
        start = MySQLPosition(info.identity, first, _FIRST_OFFSET, purged)
        return start, lambda replica: replica.dump_from_gtids(purged)
    start = MySQLPosition(info.identity, first, _FIRST_OFFSET)
    return start, lambda replica: replica.dump_from_file(first, _FIRST_OFFSET)


def _rebased(position: MySQLPosition, info: ServerInfo) -> MySQLPosition:
    """The position without its places in the log if it was taken from another server."""
    if position.server == info.identity:
        return position
    return msgspec.structs.replace(
        position, server=info.identity, file="", offset=0, passing=frozenset()
    )


def _file_size(
    connection: Connection[Any], info: ServerInfo, position: MySQLPosition
) -> int | None:
    """The size of the position's file; None if this server does not have it, or no longer.

    Raises SourceError if the position is beyond the end of the log.
    """
    if position.server != info.identity or not position.file:
        return None
    stem = position.file.rpartition(".")[0]
    files = {
        log.name: log.size
        for log in log_files(connection)
        if log.name.rpartition(".")[0] == stem  # log_bin may have a new base name
    }
    newest = max(files, key=file_number, default=position.file)
    if file_number(position.file) > file_number(newest):
        raise _reset(f"the log ends with {newest}, and the position is in {position.file}")
    size = files.get(position.file)
    if size is not None and position.offset > size:
        raise _reset(f"{position.file} ends at {size}, before the position at {position.offset}")
    return size


def _check_history(
    connection: Connection[Any], info: ServerInfo, position: MySQLPosition, size: int | None
) -> None:
    """Check that the log up to the position is the one that was read.

    GTIDs alone cannot show this: after a reset the server gives the same numbers to other
    transactions.
    """
    if size is None:
        return
    if info.mariadb:
        same = _same_domains(connection, position)
    else:
        same = _same_gtids(connection, position, ended=position.offset == size)
    if not same:
        raise _reset(f"{position.file} up to {position.offset} is not the log that was read before")


def _same_domains(connection: Connection[Any], position: MySQLPosition) -> bool:
    """Whether MariaDB's log has the position's GTIDs at its file and offset.

    Only domains that both have are compared.
    """
    gtids = position.gtids
    if not isinstance(gtids, DomainState):
        return True
    place = (position.file, position.offset)
    text = query(connection, "SELECT BINLOG_GTID_POS(%s, %s)", place)[0][0]
    if text is None:
        return False
    logged = DomainState.parse(text).domains
    return all(
        logged[domain][1] == sequence
        for domain, (_, sequence) in gtids.domains.items()
        if domain in logged
    )


def _same_gtids(connection: Connection[Any], position: MySQLPosition, *, ended: bool) -> bool:
    """Whether a transaction of MySQL's log ends at the position's file and offset.

    The position must include the transactions of the files before, and lack the next one.
    ``ended``: the position is the end of its file.
    """
    events = "SHOW BINLOG EVENTS IN %s FROM %s LIMIT %s"
    head = query(connection, events, (position.file, _FIRST_OFFSET, _HEAD_EVENTS))
    try:
        following = query(connection, events, (position.file, position.offset, 1))
    except SourceLost:
        raise
    except SourceError:
        return ended  # no event begins at the offset
    gtids = position.gtids_with_prepared()
    if not isinstance(gtids, GtidSet):
        return True
    before = [GtidSet.parse(event[5]) for event in head if event[2] == "Previous_gtids"]
    after = [match for event in following if (match := _GTID_NEXT.search(event[5]))]
    return all(map(gtids.includes, before)) and all(
        _is_next(gtids, match[1], int(match[2]), position.server) for match in after
    )


def _is_next(gtids: GtidSet, source: str, number: int, server: str) -> bool:
    """Whether this GTID can be the next one in the log after the transactions in ``gtids``."""
    if gtids.contains(source, number):
        return False
    # A server gives its own transactions consecutive numbers, in the order of its log.
    return source != server or number == 1 or gtids.contains(source, number - 1)


def _reset(reason: str) -> SourceError:
    return SourceError(
        f"the source's log was reset or restored: {reason}",
        hint=BACKFILL_ALL,
    )


def _check_gtids(connection: Connection[Any], info: ServerInfo, applied: GtidSet) -> None:
    sets = query(connection, "SELECT @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged")[0]
    executed, purged = (GtidSet.parse(text) for text in sets)
    unknown = applied.minus(executed)
    if unknown and not wait_for_gtids(connection, info, unknown, _EXECUTED_SECONDS):
        raise _ahead(str(unknown))
    lost = purged.minus(applied)
    if lost:
        raise SourceError(
            f"the source has purged transactions that are not applied yet: {lost}",
            hint=_BACKFILL_AGAIN,
        )


def _check_domains(connection: Connection[Any], applied: DomainState) -> None:
    logged = DomainState.parse(query(connection, "SELECT @@GLOBAL.gtid_binlog_pos")[0][0])
    ahead = DomainState(
        {
            domain: place
            for domain, place in applied.domains.items()
            if not logged.contains(domain, place[1])
        }
    )
    if ahead:
        raise _ahead(str(ahead))


def _ahead(reason: str) -> SourceError:
    return SourceError(
        f"the target has transactions that the source never had: {reason}",
        hint=and_then(
            "check whether it is another server, or one restored from a backup", BACKFILL_ALL
        ),
    )


def _oldest_state(gtids: DomainState, places: Iterable[str]) -> DomainState:
    """The state before the oldest prepared XA transaction whose rows are read again."""
    for place in places:
        if "-" in place:
            gtids = gtids.before(DomainState.parse(place))
    return gtids


def _from_file(
    connection: Connection[Any], info: ServerInfo, position: MySQLPosition, places: Iterable[str]
) -> tuple[MySQLPosition, Dump]:
    if position.server != info.identity or not position.file:
        raise SourceError(
            "the position is from another server, and has no GTIDs to continue on this one",
            hint=f"connect to the server it was taken from, or {BACKFILL_ALL}",
        )
    file, offset = _oldest_place(position, places)
    files = {log.name: log.size for log in log_files(connection)}
    if file not in files:
        oldest = min(files, key=file_number, default="none")
        raise SourceError(
            f"the source has purged its log file {file}: its oldest file is {oldest}",
            hint=_BACKFILL_AGAIN,
        )
    if offset > files[file]:
        raise _ahead(f"{file} ends at {files[file]}, before {offset}")
    # An empty MariaDB state is filled from here on. Other GTIDs do not apply to this log.
    start = position
    if not isinstance(position.executed, DomainState) or not info.mariadb:
        start = msgspec.structs.replace(position, executed=None, source="")
    return start, lambda replica: replica.dump_from_file(file, offset)


def _oldest_place(position: MySQLPosition, places: Iterable[str]) -> tuple[str, int]:
    found = [(position.file, position.offset)]
    for each in places:
        file, colon, offset = each.rpartition(":")
        if colon:
            found.append((file, int(offset)))
    return min(found, key=lambda place: (file_number(place[0]), place[1]))

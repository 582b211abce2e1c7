"""
Where a stream starts: what we have against what the server still has and ever had.

Asked before the dump, so that a purged log or a wrong server is named with what is missing, and not
by the server's one error for all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from pymysql.connections import Connection

from engine.databases.mysql.connect import query
from engine.errors import SourceError, SourceLost
from sources.mysql.binlog.connection import BinlogConnection
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition, file_number
from sources.mysql.server_info import ServerInfo, log_files
from sources.mysql.unlogged import unlogged

__all__ = ["resume_at"]

Dump = Callable[[BinlogConnection], None]

#: How long a server may take to count as executed what it has sent already.
_SETTLE_SECONDS: Final = 2
_FIRST_OFFSET: Final = 4
#: Among so many events is the one that tells the GTIDs of the files before.
_HEAD_EVENTS: Final = 3
_GTID_NEXT: Final = re.compile(r"GTID_NEXT= '([^']+):([0-9]+)'")
_COPY_AGAIN: Final = "copy the tables again, and keep the log longer (binlog_expire_logs_seconds)"


def resume_at(
    connection: Connection[Any],
    info: ServerInfo,
    position: MySQLPosition | None,
    schemas: Iterable[str] = (),
) -> tuple[MySQLPosition, Dump]:
    """The position as this server has it, and the request that starts the stream there.

    Without one: the beginning of the log. ``schemas`` are those of the followed tables. Raises
    SourceError if the server no longer has, or never had, what the position stands for, or does not
    log what happens in the schemas.
    """
    for finding in unlogged(connection, info, schemas):
        if finding.level == "error":
            raise SourceError(finding.message, hint=finding.action)
    if position is None:
        return _from_beginning(connection, info)
    size = _file_size(connection, info, position)
    gtids = position.gtids
    if isinstance(gtids, GtidSet) and info.gtids and not info.mariadb:
        _check_gtids(connection, gtids)
        _check_history(connection, info, position, size)
        return _rebased(position, info), lambda replica: replica.dump_from_gtids(gtids)
    if isinstance(gtids, DomainState) and gtids and info.mariadb:
        _check_domains(connection, gtids)
        _check_history(connection, info, position, size)
        state = _oldest_state(gtids, position)
        return _rebased(position, info), lambda replica: replica.dump_from_domains(state)
    _check_history(connection, info, position, size)
    return _from_file(connection, info, position)


def _from_beginning(connection: Connection[Any], info: ServerInfo) -> tuple[MySQLPosition, Dump]:
    files = log_files(connection)
    if not files:
        raise SourceError("the source keeps no binary log", hint="see `tailrace check`")
    first = files[0].name
    if info.gtids and not info.mariadb:
        purged = GtidSet.parse(query(connection, "SELECT @@GLOBAL.gtid_purged")[0][0])
        start = MySQLPosition(info.identity, first, _FIRST_OFFSET, purged)
        return start, lambda replica: replica.dump_from_gtids(purged)
    start = MySQLPosition(info.identity, first, _FIRST_OFFSET)
    return start, lambda replica: replica.dump_from_file(first, _FIRST_OFFSET)


def _rebased(position: MySQLPosition, info: ServerInfo) -> MySQLPosition:
    """On another server files and offsets begin anew; GTIDs go on."""
    if position.server == info.identity:
        return position
    return msgspec.structs.replace(position, server=info.identity, file="", offset=0)


def _file_size(
    connection: Connection[Any], info: ServerInfo, position: MySQLPosition
) -> int | None:
    """The size of the file that our place is in; None if this server has no such file (any more).

    Raises SourceError if our place is beyond the log's end.
    """
    if position.server != info.identity or not position.file:
        return None
    stem = position.file.rpartition(".")[0]
    files = {
        log.name: log.size
        for log in log_files(connection)
        if log.name.rpartition(".")[0] == stem  # the files may have got another name
    }
    newest = max(files, key=file_number, default=position.file)
    if file_number(position.file) > file_number(newest):
        raise _reset(f"the log ends with {newest}, and our place is in {position.file}")
    size = files.get(position.file)
    if size is not None and position.offset > size:
        raise _reset(f"{position.file} ends at {size}, before our place at {position.offset}")
    return size


def _check_history(
    connection: Connection[Any], info: ServerInfo, position: MySQLPosition, size: int | None
) -> None:
    """What the log's file says about our place is what we have read.

    GTIDs alone do not tell: a log that was reset gives the same numbers to other transactions.
    """
    if size is None:
        return
    if info.mariadb:
        same = _same_domains(connection, position)
    else:
        same = _same_gtids(connection, position, ended=position.offset == size)
    if not same:
        raise _reset(f"{position.file} is not what was read up to {position.offset}")


def _same_domains(connection: Connection[Any], position: MySQLPosition) -> bool:
    """Whether MariaDB's log has our GTIDs at our place, where both name one of a domain."""
    ours = position.gtids
    if not isinstance(ours, DomainState):
        return True
    place = (position.file, position.offset)
    text = query(connection, "SELECT BINLOG_GTID_POS(%s, %s)", place)[0][0]
    if text is None:
        return False
    theirs = DomainState.parse(text).domains
    return all(
        theirs[domain][1] == sequence
        for domain, (_, sequence) in ours.domains.items()
        if domain in theirs
    )


def _same_gtids(connection: Connection[Any], position: MySQLPosition, *, ended: bool) -> bool:
    """Whether in MySQL's log a transaction ends at our place, with none before it that we lack and
    none after it that we have."""
    events = "SHOW BINLOG EVENTS IN %s FROM %s LIMIT %s"
    head = query(connection, events, (position.file, _FIRST_OFFSET, _HEAD_EVENTS))
    try:
        following = query(connection, events, (position.file, position.offset, 1))
    except SourceLost:
        raise
    except SourceError:
        return ended  # no event begins there
    seen = position.seen
    if not isinstance(seen, GtidSet):
        return True
    before = [GtidSet.parse(event[5]) for event in head if event[2] == "Previous_gtids"]
    after = [match for event in following if (match := _GTID_NEXT.search(event[5]))]
    return all(map(seen.includes, before)) and all(
        _is_next(seen, gtid[1], int(gtid[2]), position.server) for gtid in after
    )


def _is_next(seen: GtidSet, source: str, number: int, server: str) -> bool:
    """Whether a log that goes on with this GTID can have what was seen before it."""
    if seen.contains(source, number):
        return False
    # A server numbers its own transactions one by one, in the order of its log.
    return source != server or number == 1 or seen.contains(source, number - 1)


def _reset(what: str) -> SourceError:
    return SourceError(
        f"the source's logs were reset or restored: {what}",
        hint="copy the tables again: what was written since cannot be told from what was applied",
    )


def _check_gtids(connection: Connection[Any], ours: GtidSet) -> None:
    sets = query(connection, "SELECT @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged")[0]
    executed, purged = (GtidSet.parse(text) for text in sets)
    unknown = ours.minus(executed)
    if unknown and query(
        connection, "SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)", (str(unknown), _SETTLE_SECONDS)
    ) != [(0,)]:
        raise _ahead(str(unknown))
    lost = purged.minus(ours)
    if lost:
        raise SourceError(
            f"the source has purged transactions that were not applied yet: {lost}",
            hint=_COPY_AGAIN,
        )


def _check_domains(connection: Connection[Any], ours: DomainState) -> None:
    theirs = DomainState.parse(query(connection, "SELECT @@GLOBAL.gtid_binlog_pos")[0][0])
    ahead = DomainState(
        {
            domain: place
            for domain, place in ours.domains.items()
            if not theirs.contains(domain, place[1])
        }
    )
    if ahead:
        raise _ahead(str(ahead))


def _ahead(gtids: str) -> SourceError:
    return SourceError(
        f"the target holds transactions that the source never had: {gtids}",
        hint="is it another server, or one restored from a backup? Copy the tables again",
    )


def _oldest_state(gtids: DomainState, position: MySQLPosition) -> DomainState:
    """Before the first prepared XA transaction, whose rows we need again."""
    for place in position.prepared.values():
        if "-" in place:
            gtids = gtids.before(DomainState.parse(place))
    return gtids


def _from_file(
    connection: Connection[Any], info: ServerInfo, position: MySQLPosition
) -> tuple[MySQLPosition, Dump]:
    if position.server != info.identity or not position.file:
        raise SourceError(
            "the position is one of another server, and has no GTIDs that this one could follow",
            hint="go back to the server it was taken from, or copy the tables again",
        )
    file, offset = _oldest_place(position)
    files = {log.name: log.size for log in log_files(connection)}
    if file not in files:
        oldest = min(files, key=file_number, default="none")
        raise SourceError(
            f"the source has purged its log from {file} on: its oldest file is {oldest}",
            hint=_COPY_AGAIN,
        )
    if offset > files[file]:
        raise _ahead(f"{file} up to {offset}, which ends at {files[file]}")
    # An empty state of MariaDB fills from here on; GTIDs that do not hold here are dropped.
    start = position
    if not isinstance(position.executed, DomainState) or not info.mariadb:
        start = msgspec.structs.replace(position, executed=None, source="")
    return start, lambda replica: replica.dump_from_file(file, offset)


def _oldest_place(position: MySQLPosition) -> tuple[str, int]:
    places = [(position.file, position.offset)]
    for place in position.prepared.values():
        file, colon, offset = place.rpartition(":")
        if colon:
            places.append((file, int(offset)))
    return min(places, key=lambda place: (file_number(place[0]), place[1]))

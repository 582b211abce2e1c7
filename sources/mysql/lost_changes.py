"""
What is lost if a place of a server's log is passed over, read over a connection of its own.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from engine.errors import SourceLost
from engine.recovery import LostChanges
from sources.mysql.binlog.connection import BinlogConnection
from sources.mysql.binlog.inspection import Inspection
from sources.mysql.position import MySQLPosition, split_place
from sources.mysql.settings import MySQLSettings

__all__ = ["read_lost_changes", "start_before"]

#: How long the log may be read up to the place.
_DEADLINE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.5
#: Where the first event of a file begins.
_FIRST_EVENT: Final = 4


def start_before(position: MySQLPosition, place: str) -> MySQLPosition:
    """A place between two transactions at or before ``place``, in its file."""
    file, offset = place.rpartition(":")[0], split_place(place)[1]
    near = position.file == file and position.offset <= offset
    return MySQLPosition("", file, position.offset if near else _FIRST_EVENT)


def read_lost_changes(
    settings: MySQLSettings, position: MySQLPosition, place: str, *, whole: bool
) -> LostChanges:
    """As ``PassesOver.lost``. Raises SourceError if the log cannot be read there."""
    # Another id than the engine's: the server ends the older of two streams with the same id.
    replica = BinlogConnection(msgspec.structs.replace(settings, server_id=0))
    try:
        replica.open()
        start = start_before(position, place)
        inspection = Inspection(start, place, whole=whole, checksum=replica.checksum)
        replica.dump_from_file(start.file, start.offset)
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while time.monotonic() < deadline:
            if inspection.feed(replica.receive(_POLL_SECONDS)):
                return inspection.lost
    finally:
        replica.close()
    raise SourceLost(f"the log was not read up to {place} within {_DEADLINE_SECONDS:.0f} seconds")

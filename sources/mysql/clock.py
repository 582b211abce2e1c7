"""
The server's clock, compared with that of this host.

The log has the server's time of each commit, so the age of a commit is a difference of two times of
that clock. Its time of now is known from this host's clock and the difference between both. A
server reads its clock between the moment in which the question is sent and that in which the answer
comes, so a round trip bounds the error.
"""

from __future__ import annotations

import time
from typing import Any, Final

from pymysql.connections import Connection

from engine.databases.mysql.connect import is_mariadb, query, version_number

__all__ = ["ServerClock", "difference"]

#: SYSDATE ignores the variable ``timestamp``; the session's time zone is UTC.
_MICROSECONDS: Final = "SELECT UNIX_TIMESTAMP(SYSDATE(6))"
_SECONDS: Final = "SELECT UNIX_TIMESTAMP(SYSDATE())"
#: The MySQL release with fractions of seconds.
_FRACTIONS: Final = (5, 6, 4)


class ServerClock:
    """By how much a server's clock is ahead of this host's, as it was compared at last. None: it
    was not compared yet.
    """

    def __init__(self) -> None:
        self.ahead_seconds: float | None = None

    def compare(self, session: Connection[Any]) -> None:
        """Ask the server for its time. Raises SourceLost."""
        fine = is_mariadb(session) or version_number(session) >= _FRACTIONS
        sent = time.time()
        ((now,),) = query(session, _MICROSECONDS if fine else _SECONDS)
        received = time.time()
        unit = 1e-6 if fine else 1.0
        self.ahead_seconds = difference(float(now), sent, received, unit)

    def now(self) -> float:
        """The server's time now, in Unix seconds."""
        return time.time() + (self.ahead_seconds or 0.0)


def difference(server: float, sent: float, received: float, unit: float) -> float:
    """The probable difference of two clocks: one showed ``server``, in whole ``unit`` seconds, at
    some moment between ``sent`` and ``received`` on the other. 0.0 if they may be equal.
    """
    least, most = server - received, server + unit - sent
    return 0.0 if least <= 0.0 <= most else (least + most) / 2

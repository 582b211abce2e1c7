"""
The connections that chunks are read through: each is lent for one read and kept for the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pymysql.connections import Connection

from engine.databases.mysql.connect import establish, interrupt, query
from engine.databases.mysql.pymysql_adapter import force_close
from engine.errors import SourceLost

__all__ = ["Lease", "Sessions"]

# Text must come as it is stored (a conversion could lose characters), and a slow target must not
# break the connection.
_SETTINGS = "SET SESSION character_set_results = NULL, net_write_timeout = 31536000"


class Lease:
    """A connection for one read; while ``spoiled`` is set it must not be used for another."""

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        self.spoiled = False


class Sessions:
    """Lends connections to any number of threads. ``prepare`` makes one that is not connected yet.

    Raises SourceError and SourceLost.
    """

    def __init__(self, prepare: Callable[[], Connection[Any]]) -> None:
        self._prepare = prepare
        self._idle: list[Connection[Any]] = []
        self._lent: set[Connection[Any]] = set()
        #: Lent connections that ``stop`` has shut down; a read on them may still end without error.
        self._broken: set[Connection[Any]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """A connection for one read. It is closed if the read fails or leaves it spoiled."""
        lease = Lease(self._take())
        well = False
        try:
            yield lease
            well = not lease.spoiled
        finally:
            self._give_back(lease.connection, well)

    def _take(self) -> Connection[Any]:
        with self._lock:
            made = bool(self._idle)
            connection = self._idle.pop() if made else self._prepare()
            # From here on ``stop`` interrupts it.
            self._lent.add(connection)
            stopped = self.stopped
        with ExitStack() as undo:
            undo.callback(self._give_back, connection, False)
            if stopped:
                raise SourceLost("the read was stopped")
            if not made:
                establish(connection)
                query(connection, _SETTINGS)
            undo.pop_all()
        return connection

    def _give_back(self, connection: Connection[Any], well: bool) -> None:
        with self._lock:
            self._lent.discard(connection)
            well = well and not self.stopped and connection not in self._broken
            self._broken.discard(connection)
            if well:
                self._idle.append(connection)
        if not well:
            force_close(connection)

    def resume(self) -> None:
        """Lend again after ``stop``."""
        self.stopped = False

    def stop(self) -> None:
        """Shut down every lent connection, so that its read fails at once; idempotent."""
        with self._lock:
            self.stopped = True
            self._broken |= self._lent
            for connection in self._lent:
                interrupt(connection)

    def close(self) -> None:
        """Stop, and free all connections; idempotent."""
        self.stop()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            force_close(connection)

"""
The place in the log at which a stream's foreign keys are those of the catalog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from engine.change import Begin, Change, Commit
from sources.mysql.binlog.foreign_keys import ForeignKeys
from sources.mysql.binlog.stream import Stream
from sources.mysql.position import MySQLPosition

__all__ = ["CatalogPlace", "at_once"]


class CatalogPlace:
    """The place at which the foreign keys of the catalog were read, or a later one."""

    def __init__(
        self,
        stream: Stream,
        keys: ForeignKeys,
        log_end: Callable[[], MySQLPosition],
        place: MySQLPosition,
    ) -> None:
        self._stream = stream
        self._keys = keys
        self._log_end = log_end
        self._place = place
        self._reads = 0

    def reach(self) -> Iterator[list[Change]]:
        """Take note that the log is read up to there, if it is. Yields a transaction with what
        follows for the tables.
        """
        keys, stream = self._keys, self._stream
        if not keys.ahead or stream.unfinished:
            return
        if keys.reads != self._reads:
            self._reads, self._place = keys.reads, self._log_end()
        at = stream.position.resume_position
        if at.at_or_after(self._place) and (changes := keys.reach()):
            yield at_once(at, changes)


def at_once(at: MySQLPosition, changes: Sequence[Change]) -> list[Change]:
    """A transaction with these changes at a place of the log."""
    return [Begin("", at, 0.0), *changes, Commit(at, 0.0)]

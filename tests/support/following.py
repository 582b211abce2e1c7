"""
Reads a stream on a thread, for tests of live sources.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Self

from engine.change import Change, Commit, Heartbeat, Rows
from engine.contract import Source
from engine.errors import TailraceError
from engine.schema import Table
from tests.support.waiting import wait_until

__all__ = ["Following"]


class Following:
    """Reads ``source`` from ``position`` into ``changes`` until the block ends."""

    def __init__(self, source: Source, position: str | None, tables: Iterable[Table]) -> None:
        self.changes: list[Change] = []
        self.error: TailraceError | None = None
        self._source = source
        self._thread = threading.Thread(target=self._read, args=(position, list(tables)))

    def _read(self, position: str | None, tables: list[Table]) -> None:
        try:
            for changes in self._source.stream(position, tables):
                self.changes += changes
        except TailraceError as error:
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._source.stop()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the stream has not stopped"
        self._source.close()

    @property
    def position(self) -> str:
        """The position of the stream. Empty before the first commit or heartbeat."""
        for change in reversed(self.changes):
            if isinstance(change, Commit | Heartbeat):
                return str(change.position)
        return ""

    @property
    def rows(self) -> list[Rows]:
        """All row changes so far."""
        return [change for change in self.changes if isinstance(change, Rows)]

    def inserted(self) -> list[object]:
        """The first column of each inserted row."""
        return [row[0] for rows in self.rows if rows.op == "insert" for row in rows.after or ()]

    def wait(self, target: str | None = None) -> None:
        """Wait until the stream has reached ``target``, by default the current end of the log."""
        goal = target or self._source.position()

        def reached() -> bool:
            if self.error is not None:
                raise self.error
            return bool(self.position) and self._source.reached(self.position, goal)

        wait_until(reached, 20.0, f"reaching {goal}")

    def failure(self) -> TailraceError:
        """Wait for the error that ends the stream, and return it."""
        wait_until(lambda: self.error is not None, 20.0, "an error")
        assert self.error is not None
        return self.error

"""
XA transactions: a PREPARE with the rows, and a COMMIT or ROLLBACK that may come much later.

Idea: between the two the rows are kept here, many of them in a temporary file. Nothing of it
needs to outlive the process: the position leaves the transaction out and names its place, so a
stream that starts there reads it again and holds the rows anew.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Iterator
from typing import IO, Final, Literal, NamedTuple

from engine.change import Change, Rows
from engine.errors import SourceError
from sources.mysql.binlog.stream_position import StreamPosition
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import UNKNOWN_PLACE

__all__ = ["PreparedTransaction", "PreparedTransactions", "XaStatement", "read_xa"]

_IN_MEMORY_BYTES: Final = 64 << 20
_STATEMENT = re.compile(
    r"XA\s+(START|BEGIN|END|PREPARE|COMMIT|ROLLBACK)\s+"
    r"X'((?:[0-9a-f]{2})*)'\s*,\s*X'((?:[0-9a-f]{2})*)'\s*,\s*([0-9]+)"
    r"(?:\s+ONE\s+PHASE)?\s*",
    re.IGNORECASE,
)


class XaStatement(NamedTuple):
    """``XA verb xid [ONE PHASE]`` as the servers write it into the log."""

    verb: Literal["START", "END", "PREPARE", "COMMIT", "ROLLBACK"]
    xid: str


def read_xa(statement: bytes) -> XaStatement | None:
    """The statement, if it is one of XA; None for every other text."""
    match = _STATEMENT.fullmatch(statement.decode("latin-1"))
    if match is None:
        return None
    verb = match[1].upper().replace("BEGIN", "START")
    xid = f"X'{match[2].lower()}',X'{match[3].lower()}',{int(match[4])}"
    return XaStatement(verb, xid)  # type: ignore[arg-type]


class PreparedTransaction:
    """The changes of one prepared transaction, in order. ``changes`` takes more of them."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._spilled: IO[bytes] | None = None
        self._pieces = 0

    def __bool__(self) -> bool:
        return bool(self.changes or self._pieces)

    def spill(self) -> None:
        """Move the changes to disk if they have become many. ``changes`` stays the same list."""
        size = sum(change.size for change in self.changes if isinstance(change, Rows))
        if size > _IN_MEMORY_BYTES:
            if self._spilled is None:
                self._spilled = tempfile.TemporaryFile(prefix="tailrace-xa-")  # noqa: SIM115
            pickle.dump(self.changes, self._spilled, pickle.HIGHEST_PROTOCOL)
            self._pieces += 1
            self.changes.clear()

    def release(self) -> Iterator[list[Change]]:
        """All of them, in pieces; to be called once."""
        if self._spilled is not None:
            with self._spilled as file:
                file.seek(0)
                for _ in range(self._pieces):
                    yield pickle.load(file)
        yield self.changes

    def drop(self) -> None:
        """Forget them."""
        if self._spilled is not None:
            self._spilled.close()
        self.changes = []
        self._pieces = 0


class PreparedTransactions:
    """The transactions that are prepared and not decided, as ``progress`` names them."""

    def __init__(self, progress: StreamPosition) -> None:
        self._progress = progress
        #: Those that were prepared before the stream's start and whose rows it has not read again.
        self.awaited = {
            xid for xid, place in progress.prepared.items() if place not in ("", UNKNOWN_PLACE)
        }
        self._prepared: dict[str, PreparedTransaction] = {}

    def recover(self, xid: str, prepared: PreparedTransaction) -> bool:
        """Whether the group was awaited; then its rows are kept, and nothing is new."""
        if xid not in self.awaited:
            return False
        self.awaited.remove(xid)
        self._prepared[xid] = prepared
        return True

    def prepare(self, xid: str, prepared: PreparedTransaction, transaction: str) -> None:
        """The group that is being read, by its own name ``transaction``, prepares these changes."""
        progress = self._progress
        place = _place(progress, transaction) if prepared else ""
        progress.prepared = {**progress.prepared, xid: place}
        if prepared:
            self._prepared[xid] = prepared

    def decide(self, xa: XaStatement) -> PreparedTransaction | None:
        """The changes that are committed by it, None if there are none.

        Raises SourceError if they were prepared before our log begins.
        """
        place = self._progress.decide(xa.xid)
        self.awaited.discard(xa.xid)
        prepared = self._prepared.pop(xa.xid, None)
        if prepared is None and xa.verb == "COMMIT" and place != "":
            raise _unknown_rows(xa.xid)
        if prepared is not None and xa.verb == "ROLLBACK":
            prepared.drop()
            return None
        return prepared


def _place(progress: StreamPosition, transaction: str) -> str:
    """Where the group that is being read is found again."""
    if isinstance(progress.executed, GtidSet):
        return transaction
    if isinstance(progress.executed, DomainState):
        return str(progress.position.gtids)
    return progress.group_place


def _unknown_rows(xid: str) -> SourceError:
    return SourceError(
        f"the XA transaction {xid} is committed, but it was prepared before our log begins, so its"
        " rows are not known",
        hint="copy the tables again, once XA RECOVER on the source shows nothing: wait for what it"
        " shows, or end it by XA COMMIT or XA ROLLBACK",
    )

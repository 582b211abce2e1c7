"""
XA transactions: XA PREPARE comes with the rows, XA COMMIT or XA ROLLBACK may come much later.

The rows of prepared transactions are kept in memory, and spilled to a temporary file where they are
many. They need not survive the process: the resume position does not include a prepared transaction
and names its place in the log, so a stream that resumes reads its rows again.

If a transaction has changed only tables that are not followed, its rows are skipped, but the resume
position has its place and its tables. A table may be followed before the transaction is committed:
its backfill does not show the rows, so a stream that follows the table reads them again. The same
holds for a table that waits to be backfilled again. Tables keep their names meanwhile: a prepared
transaction holds locks against RENAME, ALTER and DROP, also without its session.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Final, Literal, NamedTuple

from engine.change import Cascade, Change, Rows
from engine.errors import SourceError
from engine.remedies import BACKFILL_ALL
from engine.schema import TableId
from sources.mysql.binlog.events import read_table_name
from sources.mysql.binlog.stream_position import StreamPosition
from sources.mysql.gtid import DomainState, GtidSet

__all__ = ["PreparedTransaction", "PreparedTransactions", "XaStatement", "read_xa"]

_IN_MEMORY_BYTES: Final = 64 << 20
#: About the memory of one value of a ``Cascade``: a tuple and what it holds.
_VALUE_BYTES: Final = 128
_STATEMENT = re.compile(
    r"XA\s+(START|BEGIN|END|PREPARE|COMMIT|ROLLBACK)\s+"
    r"X'((?:[0-9a-f]{2})*)'\s*,\s*X'((?:[0-9a-f]{2})*)'\s*,\s*([0-9]+)"
    r"(?:\s+ONE\s+PHASE)?\s*",
    re.IGNORECASE,
)


class XaStatement(NamedTuple):
    """``XA verb xid [ONE PHASE]`` as servers log it; BEGIN is read as START."""

    verb: Literal["START", "END", "PREPARE", "COMMIT", "ROLLBACK"]
    xid: str


def read_xa(statement: bytes) -> XaStatement | None:
    """The XA statement in ``statement``; None if it is no XA statement."""
    match = _STATEMENT.fullmatch(statement.decode("latin-1"))
    if match is None:
        return None
    verb = match[1].upper().replace("BEGIN", "START")
    xid = f"X'{match[2].lower()}',X'{match[3].lower()}',{int(match[4])}"
    return XaStatement(verb, xid)  # type: ignore[arg-type]


class PreparedTransaction:
    """The changes of one XA transaction, in order. Append to ``changes`` to add more.

    ``skipped`` are the tables that it changes and that are not followed.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.skipped: set[TableId] = set()
        self._spilled: IO[bytes] | None = None
        self._pieces = 0

    def __bool__(self) -> bool:
        return bool(self.changes or self._pieces)

    def meet(self, event: bytes, end: int, follows: Callable[[TableId], bool]) -> None:
        """Note the table of a table map if it is not followed."""
        id = TableId(*read_table_name(event, end))
        if not follows(id):
            self.skipped.add(id)

    def spill(self) -> None:
        """Move the changes to disk if they exceed 64 MiB. ``changes`` stays the same list."""
        if sum(map(_size, self.changes)) > _IN_MEMORY_BYTES:
            if self._spilled is None:
                self._spilled = tempfile.TemporaryFile(prefix="tailrace-xa-")  # noqa: SIM115
            pickle.dump(self.changes, self._spilled, pickle.HIGHEST_PROTOCOL)
            self._pieces += 1
            self.changes.clear()

    def release(self) -> Iterator[list[Change]]:
        """All changes, in pieces. Call it once."""
        if self._spilled is not None:
            with self._spilled as file:
                file.seek(0)
                for _ in range(self._pieces):
                    yield pickle.load(file)
        yield self.changes

    def drop(self) -> None:
        """Discard all changes."""
        if self._spilled is not None:
            self._spilled.close()
        self.changes = []
        self._pieces = 0


class PreparedTransactions:
    """The prepared transactions: those that ``position`` names, with the rows that were read.

    ``awaited`` were prepared before the stream's start, and their rows are not read again yet.
    """

    def __init__(self, position: StreamPosition, awaited: Iterable[str]) -> None:
        self._position = position
        self.awaited = set(awaited)
        self._prepared: dict[str, PreparedTransaction] = {}

    def recover(self, xid: str, prepared: PreparedTransaction) -> bool:
        """Keep the rows of an awaited transaction; return False if it is not awaited."""
        if xid not in self.awaited:
            return False
        self.awaited.remove(xid)
        self._prepared[xid] = prepared
        if prepared:
            self._position.read_again(xid)
        return True

    def prepare(self, xid: str, prepared: PreparedTransaction, group: str) -> bool:
        """Keep the changes that the current group prepares; ``group`` is the group's own id.

        Return whether a stream that resumes may have to read them again.
        """
        position = self._position
        place = _place(position, group) if prepared or prepared.skipped else ""
        position.prepared = {**position.prepared, xid: place}
        if prepared:
            self._prepared[xid] = prepared
        elif prepared.skipped:
            position.skipped = {**position.skipped, xid: frozenset(prepared.skipped)}
        return bool(place)

    def resolve(self, xa: XaStatement) -> PreparedTransaction | None:
        """The transaction that an XA COMMIT commits; None if it has no rows, and for XA ROLLBACK.

        Raises SourceError if it was prepared before the place where this stream began.
        """
        skipped = xa.xid in self._position.skipped and xa.xid not in self.awaited
        place = self._position.resolve(xa.xid)
        self.awaited.discard(xa.xid)
        prepared = self._prepared.pop(xa.xid, None)
        if prepared is None and xa.verb == "COMMIT" and place != "" and not skipped:
            raise _unknown_rows(xa.xid)
        if prepared is not None and xa.verb == "ROLLBACK":
            prepared.drop()
            return None
        return prepared


def _size(change: Change) -> int:
    """About the bytes of a change."""
    if isinstance(change, Rows):
        return change.size
    return change.images * _VALUE_BYTES if isinstance(change, Cascade) else 0


def _place(position: StreamPosition, group: str) -> str:
    """The place from which the current group can be read again."""
    if isinstance(position.executed, GtidSet):
        return group
    if isinstance(position.executed, DomainState):
        return str(position.resume_position.gtids)
    return position.group_place


def _unknown_rows(xid: str) -> SourceError:
    return SourceError(
        f"the XA transaction {xid} is committed, but it was prepared before the position where the"
        " pipeline started, so its rows are not known",
        hint="wait until XA RECOVER on the source lists no transaction, or end each by XA COMMIT or"
        f" XA ROLLBACK; then {BACKFILL_ALL}",
    )

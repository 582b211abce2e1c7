"""
The rows of XA transactions between their PREPARE and their COMMIT, which may be far apart.

They are held here until the log decides; large ones on disk.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Iterator
from typing import IO, Final, Literal, NamedTuple

from engine.change import Change, Rows

__all__ = ["Held", "XaStatement", "read_xa"]

_IN_MEMORY_BYTES: Final = 64 << 20
_STATEMENT = re.compile(
    r"XA\s+(START|BEGIN|END|PREPARE|COMMIT|ROLLBACK)\s+"
    r"X'((?:[0-9a-f]{2})*)'\s*,\s*X'((?:[0-9a-f]{2})*)'\s*,\s*([0-9]+)"
    r"(\s+ONE\s+PHASE)?\s*",
    re.IGNORECASE,
)


class XaStatement(NamedTuple):
    """``XA verb xid [ONE PHASE]`` as the servers write it into the log."""

    verb: Literal["START", "END", "PREPARE", "COMMIT", "ROLLBACK"]
    xid: str
    one_phase: bool


def read_xa(statement: bytes) -> XaStatement | None:
    """The statement, if it is one of XA; None for every other text."""
    match = _STATEMENT.fullmatch(statement.decode("latin-1"))
    if match is None:
        return None
    verb = match[1].upper().replace("BEGIN", "START")
    xid = f"X'{match[2].lower()}',X'{match[3].lower()}',{int(match[4])}"
    return XaStatement(verb, xid, match[5] is not None)  # type: ignore[arg-type]


class Held:
    """The changes of one prepared transaction, in order. ``changes`` takes more of them."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._spilled: IO[bytes] | None = None
        self._pieces = 0

    def __bool__(self) -> bool:
        return bool(self.changes or self._pieces)

    def relieve(self) -> None:
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

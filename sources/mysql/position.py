"""
A place in the log of a MySQL or MariaDB server.

The text is JSON, so it is durable and readable. Making it costs as much as the GTID set is long;
making a ``MySQLPosition`` costs nothing: it shares the set of the last fold with its neighbours and
holds only the run since then.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec

from engine.errors import ConfigError
from sources.mysql.gtid import DomainState, GtidSet

__all__ = ["UNKNOWN_PLACE", "Executed", "MySQLPosition", "file_number", "parse_position"]

#: What has been executed, in the words of either family; None where the log has no GTIDs.
Executed = GtidSet | DomainState | None

#: Prepared XA transaction → where its group is found again; empty where nothing of it is needed.
Prepared = Mapping[str, str]

#: The place of an XA transaction that was prepared before our beginning.
UNKNOWN_PLACE = "?"

NOTHING_PREPARED: Prepared = {}

_UUID_CHARACTERS = 36


class MySQLPosition(msgspec.Struct, frozen=True, gc=False):
    """The end of a transaction in the log of ``server``: right before ``offset`` in ``file``.

    ``executed`` and the run hold the GTIDs. The run is ``last`` of ``source`` and everything down
    to ``first`` (MySQL), or the domain (as text), server id and sequence number of the last
    transaction (MariaDB: ``source``, ``first``, ``last``). ``prepared`` names the XA transactions
    that are prepared here and prepared; MySQL's GTIDs of those are not in ``executed``.
    """

    server: str
    file: str
    offset: int
    executed: Executed = None
    source: str = ""
    first: int = 0
    last: int = 0
    prepared: Prepared = NOTHING_PREPARED

    @property
    def gtids(self) -> Executed:
        """``executed`` with the run."""
        if not self.source or self.executed is None:
            return self.executed
        if isinstance(self.executed, GtidSet):
            return self.executed.add(self.source, self.first, self.last)
        return self.executed.add(int(self.source), self.first, self.last)

    def __str__(self) -> str:
        gtids = self.gtids
        text = _PositionText(
            self.server,
            self.file,
            self.offset,
            None if gtids is None else str(gtids),
            isinstance(gtids, DomainState),
            dict(self.prepared),
        )
        return msgspec.json.encode(text).decode()

    def at_or_after(self, other: MySQLPosition) -> bool:
        """Whether a stream that is here has seen everything up to ``other``.

        GTIDs decide where both have them. A file and offset decide between places of one server
        only; they would count a transaction that is logged, but not yet counted as executed.
        """
        ours, theirs = self.seen, other.gtids
        if isinstance(ours, GtidSet) and isinstance(theirs, GtidSet):
            return ours.includes(theirs)
        if isinstance(ours, DomainState) and isinstance(theirs, DomainState):
            return ours.includes(theirs)
        return self.server == other.server and self._place() >= other._place()

    def contains(self, transaction: str, start: MySQLPosition) -> bool:
        """Whether the transaction of that id, which starts at ``start``, is part of this."""
        ours = self.gtids
        if isinstance(ours, GtidSet) and isinstance(start.executed, GtidSet):
            source, _, number = transaction.rpartition(":")
            if ":" in transaction and len(source) >= _UUID_CHARACTERS:
                return ours.contains(source, int(number))
        if isinstance(ours, DomainState) and isinstance(start.executed, DomainState):
            domain, _, sequence = transaction.split("-")
            return ours.contains(int(domain), int(sequence))
        return self.server == start.server and self._place() > start._place()

    @property
    def seen(self) -> Executed:
        """``gtids`` with those of the prepared XA transactions."""
        gtids = self.gtids
        if isinstance(gtids, GtidSet):
            for place in self.prepared.values():
                source, _, number = place.rpartition(":")
                if source:
                    gtids = gtids.add(source, int(number), int(number))
        return gtids

    def _place(self) -> tuple[int, int]:
        return file_number(self.file), self.offset


class _PositionText(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    server: str
    file: str = ""
    offset: int = 0
    gtid: str | None = None
    mariadb: bool = False
    xa: dict[str, str] = {}


@lru_cache(maxsize=64)
def parse_position(text: str) -> MySQLPosition:
    """The position that ``str`` of one has written; ConfigError if it is none."""
    try:
        parts = msgspec.json.decode(text, type=_PositionText)
        executed: Executed = None
        if parts.gtid is not None:
            executed = (DomainState if parts.mariadb else GtidSet).parse(parts.gtid)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(
            f"not a position of a MySQL or MariaDB log: {error}",
            hint="positions come from Tailrace itself: take it from `tailrace status`",
        ) from error
    return MySQLPosition(
        parts.server, parts.file, parts.offset, executed, prepared=parts.xa or NOTHING_PREPARED
    )


@lru_cache(maxsize=1024)
def file_number(name: str) -> int:
    """The number at the end of a log file's name, by which files are ordered; -1 without one."""
    digits = name.rpartition(".")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else -1

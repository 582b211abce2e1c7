"""
A position in the log of a MySQL or MariaDB server.

``str`` of a position is JSON, which the checkpoint stores. Its cost grows with the length of the
GTID set. A ``MySQLPosition`` itself is cheap: consecutive positions share one GTID set, and each
has only the run of GTIDs since that set was made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache

import msgspec

from engine.errors import ConfigError
from engine.schema import TableId
from sources.mysql.gtid import DomainState, GtidSet

__all__ = [
    "UNKNOWN_PLACE",
    "Executed",
    "MySQLPosition",
    "file_number",
    "parse_position",
    "place_of",
    "split_place",
    "unresolved",
]

#: The executed transactions, in the form of either family; None if the log has no GTIDs.
Executed = GtidSet | DomainState | None

#: Prepared XA transaction → the place of its XA PREPARE; empty if its rows are not needed.
Prepared = Mapping[str, str]

#: The place of an XA transaction that was prepared before the pipeline started.
UNKNOWN_PLACE = "?"

NOTHING_PREPARED: Prepared = {}

#: Prepared XA transaction → its tables, if the rows of all of them were skipped.
Skipped = Mapping[str, frozenset[TableId]]

NOTHING_SKIPPED: Skipped = {}

_UUID_CHARACTERS = 36


class MySQLPosition(msgspec.Struct, frozen=True, gc=False):
    """The end of a transaction in the log of ``server``: right before ``offset`` in ``file``.

    ``executed`` and the run together are the GTIDs. For MySQL the run is the numbers ``first`` to
    ``last`` of ``source``. For MariaDB it is the last transaction: ``source`` is its domain as
    text, ``first`` its server id and ``last`` its sequence number. ``prepared`` names the XA
    transactions that are prepared at this position and neither committed nor rolled back; for MySQL
    the GTIDs of their XA PREPARE are not in ``executed``. ``skipped`` has those that changed only
    tables that were not followed. Their rows are needed if one of these is followed later.
    ``passing`` has the places after this position that the stream passes over (``binlog.passing``).
    """

    server: str
    file: str
    offset: int
    executed: Executed = None
    source: str = ""
    first: int = 0
    last: int = 0
    prepared: Prepared = NOTHING_PREPARED
    skipped: Skipped = NOTHING_SKIPPED
    passing: frozenset[str] = frozenset()

    @property
    def gtids(self) -> Executed:
        """The GTIDs: ``executed`` and the run."""
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
            {xid: sorted(tables) for xid, tables in sorted(self.skipped.items())},
            sorted(self.passing),
        )
        return msgspec.json.encode(text).decode()

    def at_or_after(self, other: MySQLPosition) -> bool:
        """Whether a stream at this position has read everything up to ``other``.

        If both have GTIDs, these are compared. Otherwise file and offset are compared, which is
        possible only for positions of one server. They cannot replace GTIDs: a transaction may be
        logged before its GTID counts as executed.
        """
        own, required = self.gtids_with_prepared(), other.gtids
        if isinstance(own, GtidSet) and isinstance(required, GtidSet):
            return own.includes(required)
        if isinstance(own, DomainState) and isinstance(required, DomainState):
            return own.includes(required)
        return self.server == other.server and self._place() >= other._place()

    def pass_over(self, place: str, *, whole: bool, end: MySQLPosition) -> MySQLPosition:
        """This position, with a place to pass over. Raises ConfigError if it is not after it, or
        after the log's ``end``.
        """
        place = place_of(place)
        at = split_place(place)
        if at < self._place() or (at == self._place() and not whole):
            raise ConfigError(f"the pipeline has passed {place} already")
        if at > end._place() or (at == end._place() and whole):
            raise ConfigError(f"the log ends before {place}")
        return msgspec.structs.replace(
            self, passing=self.passing | {f"{place}+" if whole else place}
        )

    def contains(self, transaction: str, start: MySQLPosition) -> bool:
        """Whether this position includes the transaction, which starts at ``start``."""
        ours = self.gtids
        if isinstance(ours, GtidSet) and isinstance(start.executed, GtidSet):
            source, _, number = transaction.rpartition(":")
            if ":" in transaction and len(source) >= _UUID_CHARACTERS:
                return ours.contains(source, int(number))
        if isinstance(ours, DomainState) and isinstance(start.executed, DomainState):
            domain, _, sequence = transaction.split("-")
            return ours.contains(int(domain), int(sequence))
        return self.server == start.server and self._place() > start._place()

    def awaited(self, follows: Callable[[TableId], bool]) -> dict[str, str]:
        """The prepared XA transactions that a stream of these tables reads again: their places."""
        return {
            xid: place
            for xid, place in self.prepared.items()
            if place not in ("", UNKNOWN_PLACE)
            and (xid not in self.skipped or any(map(follows, self.skipped[xid])))
        }

    def gtids_with_prepared(self, without: Collection[str] = ()) -> Executed:
        """``gtids`` and the GTIDs of the prepared XA transactions: all that has been read.

        ``without`` are XA transactions that are left out.
        """
        gtids = self.gtids
        if isinstance(gtids, GtidSet):
            for xid, place in self.prepared.items():
                source, _, number = place.rpartition(":")
                if source and xid not in without:
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
    xa_skipped: dict[str, list[TableId]] = {}
    passing: list[str] = []


@lru_cache(maxsize=64)
def parse_position(text: str) -> MySQLPosition:
    """The position in a text that ``str`` has made. Raises ConfigError for any other text."""
    try:
        parts = msgspec.json.decode(text, type=_PositionText)
        executed: Executed = None
        if parts.gtid is not None:
            executed = (DomainState if parts.mariadb else GtidSet).parse(parts.gtid)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(
            f"not a position of a MySQL or MariaDB log: {error}",
            hint="copy the position from the output of `tailrace status CONFIG`",
        ) from error
    return MySQLPosition(
        parts.server,
        parts.file,
        parts.offset,
        executed,
        prepared=parts.xa or NOTHING_PREPARED,
        skipped={xid: frozenset(tables) for xid, tables in parts.xa_skipped.items()},
        passing=frozenset(parts.passing),
    )


def place_of(position: str) -> str:
    """The place of a position, as ``file:offset``. Such a place stays as it is."""
    if not position.startswith("{"):
        return position
    at = parse_position(position)
    return f"{at.file}:{at.offset}"


def split_place(place: str) -> tuple[int, int]:
    """The number of the file, and the offset, of a place. Raises ConfigError if it is none."""
    file, _, offset = place.rpartition(":")
    if not file or not offset.isascii() or not offset.isdigit():
        raise ConfigError(
            f"{place!r} is not a place in the log", hint="copy file:offset from the message"
        )
    return file_number(file), int(offset)


def unresolved(position: str) -> list[str]:
    """The XA transactions that were prepared before a stream from ``position`` begins."""
    prepared = parse_position(position).prepared
    return [xid for xid, place in prepared.items() if place == UNKNOWN_PLACE]


@lru_cache(maxsize=1024)
def file_number(name: str) -> int:
    """The number at the end of a log file's name, which orders the files; -1 without one."""
    digits = name.rpartition(".")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else -1

"""
GTID sets of MySQL and GTID states of MariaDB: the transactions that a position includes.

Sets are immutable. Adding to one copies the map of its sources, so the stream does not add each
transaction: it keeps the current run (source, first, last), and adds it when another run begins.

MySQL: https://dev.mysql.com/doc/refman/en/replication-gtids-concepts.html
MariaDB: https://mariadb.com/kb/en/gtid/
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from uuid import UUID

import msgspec

__all__ = ["DomainState", "GtidSet", "Interval"]

#: First and last number, both included.
Interval = tuple[int, int]

_HIGHEST = 2**63 - 1
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_NUMBERS = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_PAIR = struct.Struct("<QQ")
_COUNT = struct.Struct("<Q")


class GtidSet(msgspec.Struct, frozen=True, gc=False):
    """A MySQL GTID set: source → its intervals, in order, and not adjacent to each other.

    A source is a lower-case UUID, or ``uuid:tag`` (MySQL 8.3 and newer).
    """

    sources: Mapping[str, tuple[Interval, ...]] = {}

    @classmethod
    def parse(cls, text: str) -> GtidSet:
        """Read the server's text of a set, such as ``uuid:1-5:7,uuid:tag:1``.

        A tag applies to all intervals after it, up to the next tag or comma. Raises ValueError if
        the text is not a GTID set.
        """
        sources: dict[str, tuple[Interval, ...]] = {}
        for part in "".join(text.split()).split(","):
            if not part:
                continue
            uuid, *words = part.split(":")
            source = uuid = str(UUID(uuid))
            for word in words:
                if _TAG.fullmatch(word.lower()):
                    source = f"{uuid}:{word.lower()}"
                    continue
                sources[source] = _joined(sources.get(source, ()), _interval(word))
        return cls(sources)

    def __str__(self) -> str:
        """The text as servers write it, ordered by source."""
        return ",".join(
            f"{source}:{':'.join(_interval_text(*interval) for interval in self.sources[source])}"
            for source in sorted(self.sources)
        )

    def __bool__(self) -> bool:
        return bool(self.sources)

    def add(self, source: str, first: int, last: int) -> GtidSet:
        """This set with the transactions ``first`` to ``last`` of ``source``."""
        intervals = _joined(self.sources.get(source, ()), (first, last))
        return GtidSet({**self.sources, source: intervals})

    def union(self, other: GtidSet) -> GtidSet:
        """The transactions that are in either set."""
        result = self
        for source, interval in other._pairs():
            result = result.add(source, *interval)
        return result

    def contains(self, source: str, number: int) -> bool:
        """Whether the transaction is in this set."""
        return _covers(self.sources.get(source, ()), number, number)

    def includes(self, other: GtidSet) -> bool:
        """Whether every transaction of ``other`` is in this set."""
        return all(
            _covers(self.sources.get(source, ()), *interval) for source, interval in other._pairs()
        )

    def minus(self, other: GtidSet) -> GtidSet:
        """The transactions that are in this set and not in ``other``."""
        sources: dict[str, tuple[Interval, ...]] = {}
        for source, intervals in self.sources.items():
            left = tuple(_without(intervals, other.sources.get(source, ())))
            if left:
                sources[source] = left
        return GtidSet(sources)

    def encode(self) -> bytes:
        """The set for COM_BINLOG_DUMP_GTID, as the server's ``Gtid_set::encode`` writes it.

        A set with tags has the newer form: its first eight bytes have the format (1) before and
        after the count, and the tag of each source follows its UUID.
        """
        tagged = any(":" in source for source in self.sources)
        count = len(self.sources)
        parts = [_COUNT.pack(1 << 56 | count << 8 | 1 if tagged else count)]
        for source in sorted(self.sources):
            uuid, _, tag = source.partition(":")
            parts.append(UUID(uuid).bytes)
            if tagged:
                parts.append(bytes((len(tag) << 1,)) + tag.encode("ascii"))
            intervals = self.sources[source]
            parts.append(_COUNT.pack(len(intervals)))
            parts.extend(_PAIR.pack(first, last + 1) for first, last in intervals)
        return b"".join(parts)

    def _pairs(self) -> Iterator[tuple[str, Interval]]:
        for source, intervals in self.sources.items():
            for interval in intervals:
                yield source, interval


class DomainState(msgspec.Struct, frozen=True, gc=False):
    """A MariaDB GTID state: domain → (server id, sequence number) of its last transaction.

    Sequence numbers rise within a domain, so the last one includes all before it. The server id
    does not affect the order.
    """

    domains: Mapping[int, tuple[int, int]] = {}

    @classmethod
    def parse(cls, text: str) -> DomainState:
        """Read a list of ``domain-server-sequence``. Raises ValueError if the text is not one."""
        domains: dict[int, tuple[int, int]] = {}
        for part in "".join(text.split()).split(","):
            if part:
                domain, server, sequence = (int(word) for word in part.split("-"))
                if sequence >= domains.get(domain, (0, 0))[1]:
                    domains[domain] = (server, sequence)
        return cls(domains)

    def __str__(self) -> str:
        return ",".join(
            f"{domain}-{server}-{sequence}"
            for domain, (server, sequence) in sorted(self.domains.items())
        )

    def __bool__(self) -> bool:
        return bool(self.domains)

    def add(self, domain: int, server: int, sequence: int) -> DomainState:
        """This state after the transaction ``domain-server-sequence``."""
        return DomainState({**self.domains, domain: (server, sequence)})

    def contains(self, domain: int, sequence: int) -> bool:
        """Whether this state includes the transaction."""
        return sequence <= self.domains.get(domain, (0, 0))[1]

    def includes(self, other: DomainState) -> bool:
        """Whether this state includes every transaction up to ``other``."""
        return all(
            self.contains(domain, sequence) for domain, (_, sequence) in other.domains.items()
        )

    def before(self, other: DomainState) -> DomainState:
        """The earlier transaction of each domain.

        A domain that either state lacks is left out, so it is read from its beginning.
        """
        return DomainState(
            {
                domain: min(place, other.domains[domain], key=lambda pair: pair[1])
                for domain, place in self.domains.items()
                if domain in other.domains
            }
        )


def _interval(text: str) -> Interval:
    match = _NUMBERS.fullmatch(text)
    if match is None:
        raise ValueError(f"not an interval of a GTID set: {text!r}")
    first = int(match[1])
    last = int(match[2] or first)
    if not 0 < first <= last <= _HIGHEST:
        raise ValueError(f"not an interval of a GTID set: {text!r}")
    return first, last


def _interval_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _joined(intervals: tuple[Interval, ...], new: Interval) -> tuple[Interval, ...]:
    """``intervals`` with ``new``; intervals that overlap or are adjacent become one."""
    first, last = new
    if not intervals or first > intervals[-1][1] + 1:
        return (*intervals, new)
    before = [pair for pair in intervals if pair[1] + 1 < first]
    after = [pair for pair in intervals if pair[0] > last + 1]
    touching = intervals[len(before) : len(intervals) - len(after)]
    if touching:
        first, last = min(first, touching[0][0]), max(last, touching[-1][1])
    return (*before, (first, last), *after)


def _covers(intervals: tuple[Interval, ...], first: int, last: int) -> bool:
    index = bisect_right(intervals, (first, _HIGHEST)) - 1
    return index >= 0 and intervals[index][1] >= last


def _without(intervals: tuple[Interval, ...], others: tuple[Interval, ...]) -> Iterator[Interval]:
    for first, last in intervals:
        for other_first, other_last in others:
            if other_last < first or other_first > last:
                continue
            if other_first > first:
                yield first, other_first - 1
            first = other_last + 1
        if first <= last:
            yield first, last

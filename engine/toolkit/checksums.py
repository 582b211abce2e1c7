"""
Checksums of rows that each database computes itself, so that a comparison need not read the rows.

The *row text* of a row has a field for each column, in order, and a comma after each field:

- a short field is the value's text, which never contains a comma: numbers, bits, dates and times.
  An empty field is NULL.
- a long field is the length of the value's text in bytes, a colon and the text: ``5:a,b,c``. A
  field without a length, ``:``, is NULL.

So two rows with the same text are equal in every column. A row is hashed by SHA-256 of its text in
UTF-8, and the first and the last 64 bits of the hashes of several rows are added up. Rows that are
equal do not cancel each other, as they would by an exclusive or. The sums of two sets of rows that
differ are the same with a probability of 2^-128.

Each database has SQL expressions of its own for the fields (``row_text`` in
``engine/databases/*``). Equal texts mean equal values. The reverse need not hold for rare values,
such as those that a policy replaces: checksums that differ only mean that the rows are compared.

A server may be unable to make the text of a row, because it is too long. It then hashes another
text that has no comma at its end, so it is that of no row. This text is the server's own: two
databases must not share one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple, Protocol, runtime_checkable

from engine.schema import Table
from engine.toolkit.key_order import ORDERED_KINDS

__all__ = [
    "EVERYTHING",
    "PART_DIGITS",
    "Checksum",
    "KeyRange",
    "SumsRows",
    "hashed",
    "is_ordered",
]

#: The digits of a part's name: a table has up to 4,096 parts.
PART_DIGITS: Final = 3

_Key = tuple[str | None, ...]
_Text = tuple[str | None, ...]

_64_BITS: Final = 1 << 64


class KeyRange(NamedTuple):
    """The keys above ``after``, up to and with ``upto``; None is no bound."""

    after: _Key | None = None
    upto: _Key | None = None


EVERYTHING: Final = KeyRange()


class Checksum(NamedTuple):
    """The number of rows, and the sums of their hashes modulo 2^64."""

    rows: int = 0
    first: int = 0
    last: int = 0

    @classmethod
    def of(cls, rows: object, first: object, last: object) -> Checksum:
        """The checksum that a database returns. The sum of no rows is NULL, and a database may
        count the first bit of a hash as its sign."""
        return cls(*(int(str(number or 0)) % _64_BITS for number in (rows, first, last)))

    def plus(self, other: Checksum) -> Checksum:
        """The checksum of the rows of both."""
        return Checksum.of(*(one + more for one, more in zip(self, other, strict=True)))

    @property
    def text(self) -> str:
        """The sums as 32 hexadecimal digits."""
        return f"{self.first:016x}{self.last:016x}"


@runtime_checkable
class SumsRows(Protocol):
    """A ``RowReader`` whose database computes checksums.

    ``nulled`` are the ordinals of columns in which a zero date counts as NULL, because the target
    stores it so.
    """

    def why_not_summed(self, table: Table) -> str:
        """Why there are no checksums of this table; empty if there are. May block."""

    def sum_range(self, table: Table, range: KeyRange, nulled: Collection[int] = ()) -> Checksum:
        """The checksum of the rows with these keys."""

    def boundary(self, table: Table, range: KeyRange, rows: int) -> _Key | None:
        """The key of the row with this number in a range, counted from 1 in this side's key order;
        None if the range has fewer rows."""

    def range_rows(self, table: Table, range: KeyRange) -> list[_Text]:
        """The rows of a range."""

    def sum_parts(self, table: Table, nulled: Collection[int] = ()) -> dict[str, Checksum]:
        """The checksums of all parts that have rows, in one statement. The part of a row is the
        first ``PART_DIGITS`` hexadecimal digits of the hash of its key's text, which has a field
        for each column of the key, or of its own text if the table has no key."""

    def part_rows(
        self, table: Table, parts: Collection[str], nulled: Collection[int] = ()
    ) -> Iterator[list[_Text]]:
        """The rows of some parts, as ``RowReader.scan``."""


def hashed(table: Table) -> Table:
    """The columns of a table whose text decides about a row's part: those of the key, or all."""
    return table.narrowed(()) if table.key else table


def is_ordered(table: Table) -> bool:
    """Whether both sides sort the keys of a table alike, so that a range has the same rows."""
    kinds = [table.columns[ordinal].type.kind for ordinal in table.key]
    return bool(kinds) and ORDERED_KINDS.issuperset(kinds)

"""
Checksums of rows that each database computes itself, so that a comparison need not read the rows.

The *row text* of a row has a field for each column, in order, and a comma after each field:

- a short field is the value's text, which never contains a comma: numbers, bits, dates and times.
  An empty field is NULL.
- a long field is the length of the value in bytes, a colon and the value's text: ``5:a,b,c``. A
  value of more than ``LONGEST`` bytes has the 64 digits of its SHA-256 instead of its text. A field
  without a length, ``:``, is NULL.

So two rows with the same text are equal in every column, and the text of a table's row is not
longer than its columns allow.

The checksum of a *range* of the key is the SHA-256 of the texts of its rows, joined in the order of
the key. A joined text can be read in one way only, so with the same number of rows it is that of
the same rows. One hash for many rows costs each of them very little.

The checksum of a *part*, whose rows have no order, is a sum: each row is hashed, and the first and
the last 64 bits of the hashes are added up. Rows that are equal do not cancel each other, as they
would by an exclusive or.

128 bits of a hash are kept. Two sets of rows that differ have the same checksum with a probability
of 2^-128.

Each database has SQL expressions of its own for the fields (``row_text`` in
``engine/databases/*``). Equal texts mean equal values. The reverse need not hold for rare values,
such as those that a policy replaces: checksums that differ only mean that the rows are compared.

A server may be unable to make the text of a row, because it is too long. For a part it then hashes
another text that has no comma at its end, so it is that of no row. For a range it leaves the text
out, or cuts the joined text off. Then this has fewer rows than were counted, unlike every joined
text that is whole. All of that is the server's own: two databases must not share it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple, Protocol, runtime_checkable

from engine.schema import Column, Table

__all__ = [
    "EVERYTHING",
    "LONGEST",
    "MOST_BYTES",
    "PART_DIGITS",
    "Checksum",
    "KeyRange",
    "SumsRows",
    "hashed",
    "is_never_longer",
    "most_rows",
]

#: The bytes of the longest value whose text is part of a row's text.
LONGEST: Final = 1024
#: The length of the joined text of a range. The texts of ``most_rows`` rows cannot be longer.
MOST_BYTES: Final = 128 << 20
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
    """The number of rows, and two numbers of 64 bits: of a range the first and the last bits of its
    hash, of a part the sums of those of its rows. Sums are modulo 2^64."""

    rows: int = 0
    first: int = 0
    last: int = 0

    @classmethod
    def of(cls, rows: object, first: object, last: object) -> Checksum:
        """The checksum that a database returns. The sum of no rows is NULL, and a database may
        count the first bit of a hash as its sign."""
        return cls(*(int(str(number or 0)) % _64_BITS for number in (rows, first, last)))

    @classmethod
    def of_text(cls, rows: object, digest: str | None) -> Checksum:
        """The checksum of a range: the number of rows, and the hexadecimal digits of the hash."""
        if digest is None:  # no rows have no text
            return cls(int(str(rows)))
        return cls(int(str(rows)), int(digest[:16], 16), int(digest[-16:], 16))

    def plus(self, other: Checksum) -> Checksum:
        """The checksum of both: the numbers are added up."""
        return Checksum.of(*(one + more for one, more in zip(self, other, strict=True)))

    @property
    def text(self) -> str:
        """The two numbers as 32 hexadecimal digits."""
        return f"{self.first:016x}{self.last:016x}"


@runtime_checkable
class SumsRows(Protocol):
    """A ``RowReader`` whose database computes checksums.

    ``nulled`` are the ordinals of columns in which a zero date counts as NULL, because the target
    stores it so.
    """

    def why_not_summed(self, table: Table) -> str:
        """Why there are no checksums of this table; empty if there are. May block."""

    def longest_text(self) -> int:
        """The bytes of the longest joined text that the database makes. May block."""

    def sum_range(self, table: Table, range: KeyRange, nulled: Collection[int] = ()) -> Checksum:
        """The checksum of the rows with these keys. They are at most ``most_rows``, or far fewer on
        the other side."""

    def count_zeros(self, table: Table, range: KeyRange, columns: Collection[int]) -> list[int]:
        """The number of zero dates in each of these columns of a source, in the rows with these
        keys."""

    def boundary(self, table: Table, range: KeyRange, rows: int) -> _Key | None:
        """The key of the row with this number in a range, counted from 1 in this side's key order;
        None if the range has fewer rows."""

    def range_rows(self, table: Table, range: KeyRange) -> tuple[list[_Text], _Key | None]:
        """The first rows of a range, which have about ``MOST_READ_BYTES`` at most
        (``engine.toolkit.row_limit``). The key is that of the last one if there are more."""

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


def is_never_longer(column: Column) -> bool:
    """Whether no value of a column with a long field has more than ``LONGEST`` bytes."""
    return 0 < _declared(column) <= LONGEST


def most_rows(table: Table, longest: int = MOST_BYTES) -> int:
    """The number of rows whose joined text surely has at most ``longest`` bytes, and at most
    ``MOST_BYTES``."""
    return max(1, min(longest, MOST_BYTES) // sum(map(_field_bytes, table.columns)))


#: The length of a field, but for the text of a long one: of 65 digits, 64 bits, or a length.
_FRAME: Final = 70


def _field_bytes(column: Column) -> int:
    """The length of a column's longest field."""
    match column.type.kind:
        case "binary" | "geometry":  # as hexadecimal digits
            return _FRAME + 2 * min(_declared(column) or LONGEST, LONGEST)
        case "text" | "json" | "enum" | "set" | "uuid":
            return _FRAME + min(_declared(column) or LONGEST, LONGEST)
        case _:
            return _FRAME


def _declared(column: Column) -> int:
    """The bytes of a column's longest value; 0 if that is not known."""
    match column.type.kind:
        case "text":
            return 4 * column.type.length
        case "binary":
            return column.type.length
        case "enum":
            return max((len(label.encode()) for label in column.type.members), default=0)
        case "set":
            return len(",".join(column.type.members).encode())
        case "uuid":
            return 36
        case _:
            return 0

"""
The result of a comparison, as ``tailrace verify`` shows it.

``tailrace verify --json`` prints a ``VerifyReport`` with these field names. A difference names the
columns that differ. A result holds the values of keys, and other values of rows only if a report in
detail is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from engine.toolkit.sampling import CONFIDENCE, highest_share, percent

__all__ = [
    "ColumnValues",
    "Difference",
    "Key",
    "Replaced",
    "Sample",
    "TableReport",
    "VerifyReport",
]

#: The longest value that is kept whole, in characters, and what is shown of it before the first
#: difference.
LONGEST: Final = 200
_CONTEXT: Final = 40

#: The canonical text of each column of a row's key, in the key's order; None is NULL.
Key = tuple[str | None, ...]


class ColumnValues(msgspec.Struct, frozen=True):
    """The values of a column on both sides, as canonical texts; None is NULL, or no row. Long ones
    are shortened to the place where they differ. ``hidden``: they are left out, because the column
    is masked.
    """

    column: str
    source: str | None
    target: str | None
    hidden: bool = False

    @classmethod
    def of(cls, column: str, source: str | None, target: str | None) -> ColumnValues:
        """The values, shortened."""
        start = _first_difference(source or "", target or "")
        return cls(column, _shortened(source, start), _shortened(target, start))


def _first_difference(one: str, other: str) -> int:
    """The length of the common beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _shortened(text: str | None, start: int) -> str | None:
    if text is None or len(text) <= LONGEST:
        return None if text is None else str(text)
    begin = max(0, min(start - _CONTEXT, len(text) - LONGEST))
    end = begin + LONGEST
    marks = "…" if begin else "", "…" if end < len(text) else ""
    return f"{marks[0]}{text[begin:end]}{marks[1]} ({len(text):,} characters)"


class Replaced(msgspec.Struct, frozen=True):
    """A policy that may change values of a column, such as ``zero_date = "null"``, and the number
    of values that it changes among the rows of the source that were compared. ``changed`` names
    them, such as ``zero dates that became NULL``.
    """

    column: str
    policy: str
    values: int = 0
    changed: str = ""


class Difference(msgspec.Struct, frozen=True):
    """One row that differs.

    ``changed``: both databases have the row, with other values in ``columns``. ``missing``: only
    the source has it. ``extra``: only the target has it. ``values`` are those of ``columns``, or of
    all columns of a missing or extra row, if they were asked for.
    """

    kind: Literal["changed", "missing", "extra"]
    key: Key
    columns: tuple[str, ...] = ()
    values: tuple[ColumnValues, ...] | UnsetType = UNSET


class Sample(msgspec.Struct, frozen=True):
    """What a random sample of the rows of both sides tells (``engine.toolkit.sampling``).

    ``rows`` of the source and ``target_rows`` of the target were compared. With the probability
    ``confidence``, less than ``differ_below`` of the source's rows differ or are missing, and less
    than ``extra_below`` of the target's are extra, each as a share of 1. Rows left open count as
    rows that differ, on both sides.
    """

    rows: int
    target_rows: int
    differ_below: float
    extra_below: float
    confidence: float = CONFIDENCE

    @classmethod
    def of(cls, rows: int, target_rows: int, counts: Mapping[str, int], left_open: int) -> Sample:
        """What the differences of a sample tell, by their kinds."""
        differ = counts.get("changed", 0) + counts.get("missing", 0) + left_open
        extra = counts.get("extra", 0) + left_open
        shares = highest_share(differ, rows), highest_share(extra, target_rows)
        return cls(rows, target_rows, *shares)

    @property
    def text(self) -> str:
        """In words."""
        return (
            f"a sample of {self.rows:,} rows of the source and {self.target_rows:,} of the target:"
            f" with {self.confidence:.0%} confidence less than {percent(self.differ_below)} of the"
            f" source's rows differ or are missing, and less than {percent(self.extra_below)} of"
            " the target's are extra"
        )


class TableReport(msgspec.Struct, frozen=True):
    """The comparison of one table.

    ``rows`` is the number of rows on the source. ``differing``, ``missing`` and ``extra``
    are exact counts of the rows that are changed, missing or extra (see ``Difference``).
    ``differences`` lists the first 10,000 of them; it is empty for a keyless table.

    ``inconclusive`` is the reason why a part of the table could not be compared, empty if there is
    none. ``hot`` is the number of rows that were left open: they changed too fast to be compared
    before the deadline, or the pipeline did not reach the end of the log. They are not counted as
    differences. ``equal`` is false if the table is inconclusive.

    ``started_at`` is when the comparison began, in Unix seconds, and ``position`` the place
    of the source's log that the target had reached then: each row was compared as of this place or
    a later one.

    ``method`` says how the rows were compared: by ``checksums`` that both databases computed, or as
    ``rows`` that were all read; ``reason`` then says why. ``read`` is the number of rows that were
    read from the source. ``target_rows`` is the number of rows on the target. The checksums are
    those of all rows, as each range or part was summed first, so those of equal tables differ where
    changes were on their way; they are empty if the rows were read.

    ``sample``: only random rows were compared. ``rows`` and ``target_rows`` are their numbers then,
    the counts are those of the sample, and ``equal`` says that none of its rows differs.

    ``replaced`` has the policies that may change values. What they change is no difference.
    """

    table: str
    rows: int
    differing: int
    missing: int
    extra: int
    seconds: float
    equal: bool
    inconclusive: str = ""
    differences: tuple[Difference, ...] = ()
    hot: int = 0
    started_at: float = 0.0
    position: str = ""
    method: Literal["checksums", "rows"] = "rows"
    reason: str = ""
    read: int = 0
    target_rows: int = 0
    source_checksum: str = ""
    target_checksum: str = ""
    replaced: tuple[Replaced, ...] = ()
    sample: Sample | None = None


class VerifyReport(msgspec.Struct, frozen=True):
    """The comparison of all tables; ``equal`` if each of them is."""

    equal: bool
    seconds: float
    tables: tuple[TableReport, ...]

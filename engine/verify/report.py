"""
The result of a comparison, as ``tailrace verify`` shows it.

``tailrace verify --json`` prints a ``VerifyReport`` with these field names. A difference names the
columns that differ. A report holds the values of keys and no other values of rows.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Difference", "Key", "TableReport", "VerifyReport"]

#: The canonical text of each column of a row's key, in the key's order; None is NULL.
Key = tuple[str | None, ...]


class Difference(msgspec.Struct, frozen=True):
    """One row that differs.

    ``changed``: both databases have the row, with other values in ``columns``. ``missing``: only
    the source has it. ``extra``: only the target has it.
    """

    kind: Literal["changed", "missing", "extra"]
    key: Key
    columns: tuple[str, ...] = ()


class TableReport(msgspec.Struct, frozen=True):
    """The comparison of one table.

    ``rows`` is the number of rows on the source. ``differing``, ``missing`` and ``extra``
    are exact counts of the rows that are changed, missing or extra (see ``Difference``).
    ``differences`` lists the first 10,000 of them; it is empty for a keyless table.

    ``inconclusive`` is the reason why a part of the table could not be compared, empty if there is
    none. ``hot`` is the number of rows that changed too fast to be compared before the deadline;
    they are not counted as differences. ``equal`` is false if the table is inconclusive.

    ``started_at`` is when the comparison began, in Unix seconds, and ``position`` the end of the
    source's log then: each row was compared as of this place or a later one.

    ``method`` says how the rows were compared: by ``checksums`` that both databases computed, or as
    ``rows`` that were all read; ``reason`` then says why. ``read`` is the number of rows that were
    read from the source.
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


class VerifyReport(msgspec.Struct, frozen=True):
    """The comparison of all tables; ``equal`` if each of them is."""

    equal: bool
    seconds: float
    tables: tuple[TableReport, ...]

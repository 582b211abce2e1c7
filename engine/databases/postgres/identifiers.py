"""
Names as SQL identifiers of PostgreSQL, and the place of each source table on the target.

PostgreSQL cuts longer identifiers silently, so two names with a common beginning could become the
same. ``fitted`` shortens such a name itself and keeps it unique. It also changes the names of
system columns, which no other column can have.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from engine.schema import TableId

__all__ = ["MAX_IDENTIFIER_BYTES", "Naming", "digested", "fitted", "quote"]

#: The server's limit (NAMEDATALEN - 1).
MAX_IDENTIFIER_BYTES = 63
#: Names that no column can have, because each table has hidden columns of these names (PostgreSQL's
#: manual, "System Columns").
_SYSTEM_COLUMNS = frozenset({"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"})


def quote(*names: str) -> str:
    """One SQL identifier made of the given names, fitted and quoted: ``"schema"."table"``."""
    return ".".join('"' + fitted(name).replace('"', '""') + '"' for name in names)


def fitted(name: str) -> str:
    """The name as it is on the target: unchanged if it can be, else as by ``digested``."""
    if len(name.encode()) <= MAX_IDENTIFIER_BYTES and name not in _SYSTEM_COLUMNS:
        return name
    return digested(name, name)


def digested(readable: str, whole: str) -> str:
    """A name that fits: the beginning of ``readable``, and a digest of ``whole`` that makes it
    unique.
    """
    digest = hashlib.blake2b(whole.encode(), digest_size=4).hexdigest()
    start = readable.encode()[: MAX_IDENTIFIER_BYTES - len(digest) - 1]
    return f"{start.decode(errors='ignore')}_{digest}"


class Naming(NamedTuple):
    """The place of the source's tables on the target: all in ``schema``, or, if it is empty, each
    in the schema that is named as the source's.
    """

    schema: str = ""

    def place(self, id: TableId) -> tuple[str, str]:
        """The schema and the name on the target, fitted."""
        return (fitted(self.schema or id.schema), fitted(id.name))

    def sql(self, id: TableId) -> str:
        """The qualified, quoted name on the target."""
        return quote(*self.place(id))

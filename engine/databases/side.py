"""
The side that uses a database: its name in messages, and the errors that it raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from engine.errors import (
    SinkDenied,
    SinkError,
    SinkLost,
    SinkRejected,
    SourceDenied,
    SourceError,
    SourceLost,
    SourceRejected,
)
from engine.schema import Table

__all__ = ["IDLE_SECONDS", "SOURCE", "TARGET", "Side"]

#: A connection that has answered nothing for so long is opened again before the next read, because
#: a server or a firewall may have ended it.
IDLE_SECONDS: Final = 30.0

_Text = tuple[str | None, ...]


class Side(NamedTuple):
    """Source or target. ``section`` is the part of the configuration with its settings.

    ``lost`` is the error of a broken connection, which is retried, ``refused`` that of a request
    that fails again if it is repeated, ``rejected`` that of a connection that the server does not
    accept, and ``denied`` that of a request to which the user has no right.
    """

    name: str
    section: str
    lost: type[SourceLost | SinkLost]
    refused: type[SourceError | SinkError]
    rejected: type[SourceRejected | SinkRejected]
    denied: type[SourceDenied | SinkDenied]

    def later(
        self, table: Table, after: _Text | None, rows: list[_Text], *, keys_only: bool
    ) -> list[_Text]:
        """Rows, or keys, that were read after the key ``after``. Raises ``refused`` if they end
        with that key again, since a read of all chunks would never end.
        """
        ordinals: Sequence[int] = range(len(table.key)) if keys_only else table.key
        if rows and after is not None and tuple(rows[-1][it] for it in ordinals) == after:
            text = "a row is read again after its own key, so the table cannot be read in its order"
            raise self.refused(text, table=table.id)
        return rows


SOURCE = Side("source", "[source]", SourceLost, SourceError, SourceRejected, SourceDenied)
TARGET = Side("target", "[sink]", SinkLost, SinkError, SinkRejected, SinkDenied)

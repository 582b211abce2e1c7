"""
The side that uses a database: its name in messages, and the errors that it raises.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.errors import SinkError, SinkLost, SinkRejected, SourceError, SourceLost, SourceRejected

__all__ = ["SOURCE", "TARGET", "Side"]


class Side(NamedTuple):
    """Source or target. ``section`` is the part of the configuration with its settings.

    ``lost`` is the error of a broken connection, which is retried, ``refused`` that of a request
    that fails again if it is repeated, and ``rejected`` that of a connection that the server does
    not accept.
    """

    name: str
    section: str
    lost: type[SourceLost | SinkLost]
    refused: type[SourceError | SinkError]
    rejected: type[SourceRejected | SinkRejected]


SOURCE = Side("source", "[source]", SourceLost, SourceError, SourceRejected)
TARGET = Side("target", "[sink]", SinkLost, SinkError, SinkRejected)

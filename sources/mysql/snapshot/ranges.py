"""
The ranges of a table's keys that chunks are read from.
"""

from __future__ import annotations

import threading

import msgspec

from engine.change import Chunk
from sources.mysql.snapshot.keyset import Key

__all__ = ["Range", "RangePart", "Split"]


class Range(msgspec.Struct, frozen=True):
    """Keys above ``after`` and up to ``last``; without ``last``, the next ``limit`` rows.
    ``is_next``: its chunk is the next one to be delivered.
    """

    after: Key | None
    last: Key | None
    limit: int
    is_next: threading.Event = msgspec.field(default_factory=threading.Event)


#: The range of a chunk, and the range after it.
Split = tuple[Range, Range | None]


class RangePart(msgspec.Struct, frozen=True):
    """The chunk that was read from a range, and the rest of the range."""

    chunk: Chunk
    rest: Range | None

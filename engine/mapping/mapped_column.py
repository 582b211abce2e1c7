"""
A column of a mapped table.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.schema import Column

__all__ = ["MappedColumn"]


class MappedColumn(NamedTuple):
    """A column of the target, and the code of its value in the form of a row tuple.

    ``inputs`` are the ordinals of the source's columns that it depends on. ``source`` is the one
    whose value it has: unchanged, if ``plain``, else masked so that different values stay
    different. It is None for all others.
    """

    column: Column
    code: str
    inputs: frozenset[int]
    source: int | None = None
    plain: bool = False

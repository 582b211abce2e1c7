"""
``[verify]``: the comparison that an engine makes by itself.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["VerifySettings"]


class VerifySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``continuous``: each live table is compared every ``every_seconds``, the one whose last
    comparison is oldest first. ``budget`` is the share of the time in which the databases may be
    read for it, and ``rows_per_second`` the most rows, 0 without a limit. The comparison waits
    while more than ``busy_threads`` threads of the source are at work; 0: however many there are.
    """

    continuous: bool = False
    every_seconds: Annotated[float, Meta(gt=0)] = 86_400.0
    budget: Annotated[float, Meta(gt=0, le=1)] = 0.1
    rows_per_second: Annotated[float, Meta(ge=0)] = 0.0
    busy_threads: Annotated[int, Meta(ge=0)] = 25

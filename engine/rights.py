"""
The rights that the users of a configuration need, as statements for those who may grant them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from engine.schema import Table

__all__ = ["Grant", "Grants", "HandoverRights", "SinkRights", "SourceRights"]


class Grant(msgspec.Struct, frozen=True):
    """A statement that gives a user one right, and what the user does with it."""

    statement: str
    reason: str


class Grants(msgspec.Struct, frozen=True):
    """The rights of the user of one server. ``create`` creates this user, with a placeholder for
    the password.
    """

    server: str
    create: str
    grants: list[Grant]


class HandoverRights(msgspec.Struct, frozen=True):
    """What a cutover needs of the source's user, besides what a pipeline does. ``freezes``: it
    stops the writes itself, and no hook does.
    """

    freezes: bool


@runtime_checkable
class SourceRights(Protocol):
    """A source whose user needs rights."""

    def grants(self, handover: HandoverRights | None = None) -> Grants:
        """The rights, also of a user that does not exist yet, with those of a cutover if one is
        configured. May block. Raises ``SourceLost`` if the server cannot be reached.
        """


@runtime_checkable
class SinkRights(Protocol):
    """A sink whose user needs rights."""

    async def grants(self, tables: Sequence[Table]) -> Grants:
        """The rights to store these tables, also of a user that does not exist yet. Without tables,
        those to store any. Raises ``SinkLost`` if the server cannot be reached.
        """

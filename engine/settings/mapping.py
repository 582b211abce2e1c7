"""
The mapping of tables: ``[mapping]`` and ``[mask]`` of the configuration.

    [mapping."shop.*"]
    to = "crm.*"
    [mapping."shop.orders"]
    select = "*, price * quantity AS total"
    where = "state <> 'draft'"
    mask = { email = "hash" }

A key of ``[mapping]`` is a pattern of tables. Of several that match a table, the keys of the last
one count. ``docs/mapping.md`` describes the keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from engine.errors import ConfigError
from engine.schema import TableId

__all__ = ["MaskSettings", "TableRules", "rules_of"]

_MASK: Final = re.compile(r"hash|redact|null|digits|truncate\((\d{1,4})\)")


class TableRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The mapping of the tables that one pattern matches.

    ``to``: the table on the target, ``schema.table``; ``*`` stands for the source's name.
    ``select``: its columns, as in a SELECT; ``*`` are all columns of the source but those of
    ``drop``, with the new names of ``rename``. ``where``: the rows that the target has. ``mask``:
    by column of the target, ``hash``, ``digits``, ``truncate(N)``, ``redact`` or ``null``.
    ``types``: by column of the target, another type, as in the source's CREATE TABLE. ``assert``:
    conditions that no row of the target may break. ``merge``: several tables may have the same
    ``to``; the named column, the first of the key, tells their rows apart by the source's name.
    """

    to: str = ""
    select: str = ""
    rename: dict[str, str] = {}
    drop: tuple[str, ...] = ()
    where: str = ""
    mask: dict[str, str] = {}
    types: dict[str, str] = {}
    assert_: str | tuple[str, ...] = msgspec.field(default=(), name="assert")
    merge: dict[str, Literal["schema", "table", "schema.table"]] = {}

    def __post_init__(self) -> None:
        if self.to and (self.to.count(".") != 1 or not all(self.to.split("."))):
            raise ConfigError(
                f"mapping: to = {self.to!r} is not a table",
                hint="write schema.table, such as crm.*",
            )
        if isinstance(self.assert_, str):
            msgspec.structs.force_setattr(self, "assert_", (self.assert_,))
        if len(self.merge) > 1:
            raise ConfigError("mapping: merge has several columns", hint="name one")
        for column, mask in self.mask.items():
            if not _MASK.fullmatch(mask):
                raise ConfigError(
                    f"mapping: the mask {mask!r} of {column} does not exist",
                    hint="masks are hash, digits, truncate(N), redact and null",
                )


class MaskSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``key`` is the secret of the masks ``hash`` and ``digits``. With the same key, equal values
    are masked alike, in every table and pipeline.
    """

    key: str = ""


def rules_of(settings: Mapping[str, TableRules], id: TableId) -> TableRules | None:
    """The rules of one table; None if no pattern matches it."""
    found: dict[str, object] = {}
    for pattern, rules in settings.items():
        if id.matches(pattern):
            default = TableRules()
            found |= {
                field: value
                for field in rules.__struct_fields__
                if (value := getattr(rules, field)) != getattr(default, field)
            }
    return msgspec.structs.replace(TableRules(), **found) if found else None


def check_patterns(settings: Mapping[str, TableRules]) -> None:
    """Raise ConfigError for a key of ``[mapping]`` that is no pattern of tables."""
    for pattern in settings:
        if len(pattern.split(".")) != 2 or not all(pattern.split(".")):
            raise ConfigError(
                f"mapping: {pattern!r} is not a pattern schema.table",
                hint='write [mapping."schema.table"], such as [mapping."shop.*"]',
            )

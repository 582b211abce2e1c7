"""
What a table is: names, columns, neutral types. One immutable ``Table`` is one version of a table.

Neutral types stand between the types of a source and those of a sink. A value of each travels in a
row tuple in one form only, the same from the snapshot and from the stream:

============================  =====================================================================
neutral type                  value in a row tuple (``None`` is NULL for all)
============================  =====================================================================
boolean                       ``bool``
int8 … int64, uint8 … uint64  ``int``
decimal                       ``str``, all digits of the scale: ``"-12.50"``
float32, float64              ``float`` (a float32 holds exactly the four-byte value)
text, json, enum, uuid        ``str``
set                           ``str``, members joined by commas, as MySQL shows it
binary                        ``bytes``
bit                           ``int``, the bits as an unsigned number
date                          ``str`` ``YYYY-MM-DD``, also what is no date: ``0000-00-00``
time                          ``str`` ``HH:MM:SS[.ffffff]``, a time of day
datetime                      ``str`` ``YYYY-MM-DD HH:MM:SS[.ffffff]``, without a zone
timestamp                     ``str`` as datetime, always UTC, with no suffix
interval                      ``str`` ``[-]H…H:MM:SS[.ffffff]``, at least two digits of hours
geometry                      ``bytes``, EWKB with its SRID
array                         ``list`` of the element's values
============================  =====================================================================

Fractions of a second have exactly ``scale`` digits (none for 0). Text is the form of temporal and
decimal values because it is lossless and both the text protocols of databases and ``COPY`` speak
it: nothing is parsed on the way that need not be.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Column", "Index", "Kind", "Table", "TableId", "Type"]

Kind = Literal[
    "boolean",
    "int8",
    "int16",
    "int24",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint24",
    "uint32",
    "uint64",
    "decimal",
    "float32",
    "float64",
    "text",
    "binary",
    "bit",
    "date",
    "time",
    "datetime",
    "timestamp",
    "interval",
    "json",
    "enum",
    "set",
    "uuid",
    "geometry",
    "array",
]


class TableId(msgspec.Struct, frozen=True, gc=False, order=True, cache_hash=True):
    """The name of a table: ``schema`` (MySQL: database) and ``name``, in the source's spelling."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Type(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A neutral type.

    ``length`` is in characters (text), bytes (binary) or bits (bit), 0 where unbounded;
    ``precision`` and ``scale`` are decimal digits; for temporal types ``scale`` is the number of
    digits of a second's fraction. ``members`` are the labels of an enum or set in their order.
    """

    kind: Kind
    length: int = 0
    precision: int = 0
    scale: int = 0
    members: tuple[str, ...] = ()
    element: Type | None = None

    def __str__(self) -> str:
        if self.kind == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.kind == "array":
            return f"array({self.element})"
        size = self.length or self.scale
        return f"{self.kind}({size})" if size else self.kind


class Column(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One column of one version of a table.

    ``source_type`` is the source's own type text, complete: what the source's decoder needs to know
    can be read from it again (MySQL: ``varchar(20) character set latin1``, ``int unsigned``).
    ``default`` is the source's default as SQL text, None where there is none. ``generated`` is true
    where the source computes the value; it travels and is stored as a plain column in the target.
    """

    name: str
    type: Type
    source_type: str
    nullable: bool = True
    default: str | None = None
    generated: bool = False


class Index(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A secondary index: ordinals of its columns in order; ``prefix`` where it covers only part of
    some column's value (it then proves nothing about whole values)."""

    name: str
    columns: tuple[int, ...]
    unique: bool = False
    prefix: bool = False


class Table(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, cache_hash=True):
    """One immutable version of a table.

    ``key`` holds the ordinals of the columns that identify a row (primary key, else a unique index
    without nullable columns); empty if nothing does. Hashable, and the hash is kept, so codecs are
    cached by it. ``version`` counts from 1 with each schema change that Tailrace has followed.
    """

    id: TableId
    columns: tuple[Column, ...]
    key: tuple[int, ...] = ()
    indexes: tuple[Index, ...] = ()
    version: int = 1

    @property
    def uniques(self) -> tuple[Index, ...]:
        """The secondary unique indexes over whole values."""
        return tuple(index for index in self.indexes if index.unique and not index.prefix)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names in order."""
        return tuple(column.name for column in self.columns)

    def ordinal(self, name: str) -> int:
        """The ordinal of the column of that name; KeyError if there is none."""
        for ordinal, column in enumerate(self.columns):
            if column.name == name:
                return ordinal
        raise KeyError(name)

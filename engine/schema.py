"""
Tables, columns and neutral types. A ``Table`` is one immutable version of a table.

A source maps its types to neutral types, and a sink maps neutral types to its own. A row tuple
holds a value in exactly one form, whether it comes from the stream or from a backfill:

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
date                          ``str`` ``YYYY-MM-DD``, also an invalid date: ``0000-00-00``
time                          ``str`` ``HH:MM:SS[.ffffff]``, a time of day
datetime                      ``str`` ``YYYY-MM-DD HH:MM:SS[.ffffff]``, without a zone
timestamp                     ``str`` as datetime, always UTC, with no suffix
interval                      ``str`` ``[-]H…H:MM:SS[.ffffff]``, at least two digits of hours
geometry                      ``bytes``, EWKB with its SRID
array                         ``list`` of the element's values
============================  =====================================================================

A fraction of a second has exactly ``scale`` digits, and none for scale 0. Temporal and decimal
values are text because that is lossless, and because ``COPY`` and the text protocols of databases
use text, so such values are not parsed on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

__all__ = [
    "Bound",
    "Column",
    "Expression",
    "ForeignKey",
    "Index",
    "Kind",
    "Origin",
    "Part",
    "Partitions",
    "Range",
    "ReferentialAction",
    "Table",
    "TableId",
    "Type",
    "joined_ranges",
]

#: What happens to a row when the row that it refers to is deleted, or its referenced columns are
#: changed. ``restrict`` stands for all actions that refuse the statement.
ReferentialAction = Literal["restrict", "cascade", "set null"]

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


def _matches(id: TableId, pattern: str) -> bool:
    schema, _, name = pattern.partition(".")
    return fnmatchcase(id.schema, schema) and fnmatchcase(id.name, name)


class TableId(msgspec.Struct, frozen=True, gc=False, order=True, cache_hash=True):
    """The name of a table, as the source spells it. ``schema`` is the database in MySQL."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    def matches(self, pattern: str) -> bool:
        """Whether a pattern ``schema.name`` with ``*`` and ``?`` has this table.

        A pattern with capitals also has the name in lower case: some servers store all names so.
        """
        return _matches(self, pattern) or _matches(self, pattern.lower())


class Type(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A neutral type.

    ``length`` counts characters (text), bytes (binary) or bits (bit), and is 0 if unbounded.
    ``precision`` and ``scale`` count decimal digits; for a temporal type, ``scale`` counts the
    digits of a second's fraction. ``members`` are the labels of an enum or set, in order.
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


class Expression(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node of an expression over the columns of one row, in arithmetic without limits.

    ``text`` is the name of a ``column``, the digits of a ``number`` or ``float``, a ``text``, the
    digits to which ``round`` rounds (half away from zero), or why an expression is ``inexact``: it
    cannot be said exactly in these terms (its arguments are the columns). Of the others:

    - ``null``; ``minus``, ``abs``, ``floor``, ``ceiling``, ``add``, ``subtract``, ``multiply``;
      ``divide`` and ``modulo``, of whole numbers, towards zero, NULL for a divisor of zero
    - ``limit``: the first argument, at least the second and at most the third
    - ``float`` with an argument makes a number a floating-point one
    - the conditions ``equal``, ``same`` (NULL equals NULL), ``less``, ``less_equal``, ``is_null``,
      ``and``, ``or``, ``not``; ``from_condition`` makes a number of one: 1 or 0
    - ``if`` (a condition, a value, and another), ``coalesce``, ``null_if``
    - ``concat``; ``digits`` makes a text of a whole number
    - ``year``, ``month``, ``day`` and ``date`` of a date
    """

    name: str
    arguments: tuple[Expression, ...] = ()
    text: str = ""

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns that it is computed from."""
        if self.name == "column":
            return frozenset((self.text,))
        return frozenset[str]().union(*(argument.columns for argument in self.arguments))

    def renamed(self, names: Mapping[str, str]) -> Expression:
        """The expression with the new names of columns."""
        if self.name == "column":
            return Expression("column", text=names.get(self.text, self.text))
        arguments = tuple(argument.renamed(names) for argument in self.arguments)
        return Expression(self.name, arguments, self.text)


class Column(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One column of one version of a table.

    ``source_type`` is the complete text of the source's type, such as
    ``varchar(20) character set latin1`` or ``int unsigned`` for MySQL: the source builds its
    decoder from it. ``default`` is the source's default as SQL text, or None. ``generated`` marks a
    column that the source computes, and ``expression`` is what it computes, None if that is not
    known.
    """

    name: str
    type: Type
    source_type: str
    nullable: bool = True
    default: str | None = None
    generated: bool = False
    expression: Expression | None = None


class Index(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A secondary index. ``columns`` are ordinals, in order. ``prefix`` marks an index that covers
    only the beginning of a column's value, and so does not make whole values unique.
    """

    name: str
    columns: tuple[int, ...]
    unique: bool = False
    prefix: bool = False


class ForeignKey(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A foreign key of a table: ``columns`` refer to ``parent_columns`` of the table ``parent``.

    Both are names, because the parent need not be followed.
    """

    name: str
    columns: tuple[str, ...]
    parent: TableId
    parent_columns: tuple[str, ...]
    on_delete: ReferentialAction = "restrict"
    on_update: ReferentialAction = "restrict"

    @property
    def cascades(self) -> bool:
        """Whether a change of the parent's rows changes rows of the table."""
        return self.on_delete != "restrict" or self.on_update != "restrict"


#: A bound of a range, in the form of a row tuple; None is no bound.
Bound = int | str | None
#: The values from a lower bound up to an upper one, without that. NULL is less than every value.
Range = tuple[Bound, Bound]


class Part(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The rows of a table whose value in ``column`` is in one of ``ranges``, or is ``text``.

    ``function`` is what the source computes from the column to decide where a row belongs. It
    matters for values that are no real dates.
    """

    column: str
    ranges: tuple[Range, ...]
    function: str = ""
    text: str | None = None

    def has(self, value: object) -> bool:
        """Whether a row with this value in the column belongs to the part."""
        return (self.text is not None and value == self.text) or any(
            (lower is None if value is None else _at_least(value, lower))
            and (upper is None or not _at_least(value, upper))
            for lower, upper in self.ranges
        )

    def joined(self, other: Part) -> Part:
        """The rows of both parts, which are of the same column."""
        return Part(self.column, joined_ranges([*self.ranges, *other.ranges]), self.function)


def joined_ranges(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same values in as few ranges as possible, in order."""
    joined: list[Range] = []
    for lower, upper in sorted(ranges, key=_order):
        first, last = joined[-1] if joined else (None, None)
        if joined and (last is None or lower is None or _at_least(last, lower)):
            if last is not None and (upper is None or _at_least(upper, last)):
                joined[-1] = (first, upper)
        else:
            joined.append((lower, upper))
    return tuple(joined)


def _at_least(value: object, bound: Bound) -> bool:
    if isinstance(bound, int):
        return isinstance(value, int) and value >= bound
    return bound is None or (isinstance(value, str) and value >= bound)


def _order(range: Range) -> tuple[bool, int, str]:
    lower = range[0]
    number = lower if isinstance(lower, int) else 0
    return lower is not None, number, lower if isinstance(lower, str) else ""


class Partitions(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Partitions by the values of one column. ``source_type`` is the column's, and ``function`` is
    what the source computes from it.

    By ranges: a partition holds the values from the bound of the one before it up to its own of
    ``bounds``, without that; the first one also holds NULL. By lists: a partition holds the values
    of its own ``lists``, which is empty if they are not known.
    """

    column: str
    source_type: str
    function: str
    names: tuple[str, ...]
    bounds: tuple[Bound, ...] = ()
    lists: tuple[tuple[Range, ...], ...] = ()

    def part(self, place: int) -> tuple[Range, ...]:
        """The values of the partition with this place in ``names``; empty if not known."""
        if self.lists:
            return self.lists[place]
        return ((self.bounds[place - 1] if place else None, self.bounds[place]),)


class Origin(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, cache_hash=True):
    """A table of the source whose rows are put into a table of the target by a mapping.

    ``mapping`` is the fingerprint of the mapping's rules for it. Where several are merged,
    ``share`` is the text that tells its rows apart, in the first column of the table.
    """

    table: Table
    mapping: str
    share: str = ""


class Table(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, cache_hash=True):
    """One immutable version of a table.

    ``key`` holds the ordinals of the columns that identify a row: those of the primary key, else of
    a unique index without nullable columns. It is empty for a keyless table. ``version`` counts
    from 1 and grows with each schema change that the pipeline follows. ``default_charset`` is the
    source's charset or collation of columns that are added without one; it is empty if the source
    has none, or it is not known. ``foreign_keys`` are those whose actions the source executes
    without logging the changed rows; a target has none. They are None if they are not known.
    ``partitions`` are the source's, None if it has none or they are not known. A ``Table`` is
    hashable and keeps its hash, so codecs are cached by it.

    A table of the target that a mapping makes has ``origins``: the tables of the source that it is
    made of. Else the table is the source's own, under its own name.
    """

    id: TableId
    columns: tuple[Column, ...]
    key: tuple[int, ...] = ()
    indexes: tuple[Index, ...] = ()
    version: int = 1
    default_charset: str = ""
    foreign_keys: tuple[ForeignKey, ...] | None = None
    partitions: Partitions | None = None
    origins: tuple[Origin, ...] = ()

    @property
    def sources(self) -> tuple[Table, ...]:
        """The tables of the source: those of ``origins``, else the table itself."""
        return tuple(origin.table for origin in self.origins) or (self,)

    @property
    def uniques(self) -> tuple[Index, ...]:
        """The secondary unique indexes without prefixes."""
        return tuple(index for index in self.indexes if index.unique and not index.prefix)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def narrowed(self, names: Collection[str]) -> Table:
        """The key and the columns with these names alone, in their order, without indexes."""
        kept = self.ordinals(names)
        return msgspec.structs.replace(
            self,
            columns=tuple(self.columns[ordinal] for ordinal in kept),
            key=tuple(map(kept.index, self.key)),
            indexes=(),
            foreign_keys=(),
            partitions=None,
        )

    def ordinals(self, names: Collection[str]) -> tuple[int, ...]:
        """The ordinals of the key and of the columns with these names."""
        return tuple(
            ordinal
            for ordinal, column in enumerate(self.columns)
            if ordinal in self.key or column.name in names
        )

    def ordinal(self, name: str) -> int:
        """The ordinal of the column with this name. Raises KeyError if there is none."""
        for ordinal, column in enumerate(self.columns):
            if column.name == name:
                return ordinal
        raise KeyError(name)

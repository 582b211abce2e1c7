"""
The PostgreSQL type of each neutral type.

A PostgreSQL type holds each value of the neutral type unchanged. The exceptions are invalid dates
(``TEMPORAL``) and texts with U+0000 (``TEXTUAL``).
"""

from __future__ import annotations

from engine.schema import Column, Table, Type

__all__ = [
    "TEMPORAL",
    "TEXTUAL",
    "CollatedColumn",
    "ComputedColumn",
    "EnumColumn",
    "column_type",
    "enum_columns",
    "holds_null",
    "type_name",
]

MAX_VARCHAR_LENGTH = 10_485_760

#: Kinds whose values are text that may contain any character, also U+0000.
TEXTUAL = frozenset({"text", "json", "enum", "set"})
#: Kinds whose values begin with a date, which may be invalid, such as 0000-00-00.
TEMPORAL = frozenset({"date", "datetime", "timestamp"})

_FIXED = {
    "boolean": "boolean",
    "int8": "smallint",
    "int16": "smallint",
    "int24": "integer",
    "int32": "integer",
    "int64": "bigint",
    "uint8": "smallint",
    "uint16": "integer",
    "uint24": "integer",
    "uint32": "bigint",
    "uint64": "numeric(20)",
    "float32": "real",
    "float64": "double precision",
    "binary": "bytea",
    "date": "date",
    "json": "json",
    "enum": "text",
    "set": "text",
    "uuid": "uuid",
    "geometry": "bytea",
}


def type_name(type: Type) -> str:
    """The PostgreSQL type that holds a neutral type, as SQL."""
    match type.kind:
        case "decimal":
            return f"numeric({type.precision},{type.scale})" if type.precision else "numeric"
        case "text":
            bounded = 0 < type.length <= MAX_VARCHAR_LENGTH
            return f"varchar({type.length})" if bounded else "text"
        case "bit":
            return f"bit({type.length or 1})"
        case "time":
            return f"time({type.scale})"
        case "datetime":
            return f"timestamp({type.scale})"
        case "timestamp":
            return f"timestamptz({type.scale})"
        case "interval":
            return f"interval({type.scale})"
        case "array":
            return f"{type_name(type.element) if type.element else 'text'}[]"
        case kind:
            return _FIXED[kind]


class EnumColumn(Column, frozen=True, gc=False, omit_defaults=True):
    """A column of an enum type of PostgreSQL; ``enum_type`` is its quoted name."""

    enum_type: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the enum type. The source stores the empty text for an invalid value."""
        members = self.type.members
        return members if "" in members else ("", *members)


class ComputedColumn(Column, frozen=True, gc=False, omit_defaults=True):
    """A column that PostgreSQL computes; ``sql`` is its expression."""

    sql: str = ""


class CollatedColumn(Column, frozen=True, gc=False, omit_defaults=True):
    """A text column with a nondeterministic collation, whose quoted name is ``collation``.

    A column of the key keeps the default collation, so that two texts of the source are two on the
    target. Only its unique indexes have the other one.
    """

    collation: str = ""
    locale: str = ""
    in_key: bool = False


def enum_columns(table: Table) -> list[EnumColumn]:
    """The columns of a table that have enum types."""
    return [column for column in table.columns if isinstance(column, EnumColumn)]


def column_type(column: Column) -> str:
    """The PostgreSQL type of a column with its collation, as SQL."""
    if isinstance(column, CollatedColumn) and not column.in_key:
        return f"{type_name(column.type)} COLLATE {column.collation}"
    return column.enum_type if isinstance(column, EnumColumn) else type_name(column.type)


def holds_null(table: Table, ordinal: int) -> bool:
    """Whether the target's column accepts NULL. A column with dates does so even if the source's is
    NOT NULL, because NULL stands for an invalid date. A column of the key never does.
    """
    if ordinal in table.key:
        return False
    column = table.columns[ordinal]
    return column.nullable or column.type.kind in TEMPORAL

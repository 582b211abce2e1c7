"""
Neutral types as PostgreSQL types, names as SQL identifiers.

One rule: a type of the target holds every value of the source's type as it is, or the column's
exceptions are listed here (dates that are none, U+0000).
"""

from __future__ import annotations

from engine.schema import Column, Table, Type

__all__ = [
    "TEMPORAL",
    "TEXTUAL",
    "column_type",
    "holds_null",
    "type_name",
]

MAX_VARCHAR_LENGTH = 10_485_760

#: Kinds whose values travel as text and may hold any character.
TEXTUAL = frozenset({"text", "json", "enum", "set"})
#: Kinds whose values begin with a date, and may be what is no date.
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


def column_type(column: Column) -> str:
    """The PostgreSQL type of a column, as SQL."""
    return type_name(column.type)


def holds_null(table: Table, ordinal: int) -> bool:
    """Whether the target's column takes NULL: also where the source has NOT NULL and a zero date,
    which has no other form there; never in the key."""
    if ordinal in table.key:
        return False
    column = table.columns[ordinal]
    return column.nullable or column.type.kind in TEMPORAL

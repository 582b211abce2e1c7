"""
Other types for columns of the target (``types``). Pure.

A conversion never loses or changes a value. What the new type cannot hold, such as a number that is
too large for it, is an error when the row is applied.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.databases.mysql.types import neutral_type, parse_type
from engine.mapping.values import ExpressionError
from engine.schema import Type

__all__ = ["conversion", "parsed_type"]

#: Kinds whose values in a row tuple are ``str``.
_TEXTS = frozenset(
    ("text", "enum", "set", "json", "uuid", "decimal", "date", "time", "datetime", "timestamp")
)
_MOMENTS = frozenset(("datetime", "timestamp"))


def parsed_type(text: str) -> tuple[Type, str]:
    """The neutral type of a type as it is written in CREATE TABLE, and its source type text.

    Raises SchemaError for an unknown type.
    """
    if text.strip().lower() in ("boolean", "bool"):
        return Type("boolean"), "tinyint"
    parsed = parse_type(text)
    return neutral_type(str(parsed)), str(parsed)


def conversion(old: Type, new: Type) -> Callable[[str], str] | None:
    """The code that converts a value that is not NULL; None if the value stays as it is.

    Raises ExpressionError if values would be lost.
    """
    if old.kind == new.kind and old.kind not in ("decimal", "datetime", "timestamp", "interval"):
        return None
    if _is_integer(old):
        return _from_integer(old, new)
    if old.kind == "decimal" and new.kind == "decimal" and new.scale >= old.scale:
        missing = ("" if old.scale or new.scale == old.scale else ".") + "0" * (
            new.scale - old.scale
        )
        return (lambda code: f"{code} + {missing!r}") if missing else None
    if old.kind in _TEXTS and new.kind == "text":
        return None
    if old.kind in _MOMENTS and new.kind in _MOMENTS and new.scale == old.scale:
        return None
    if old.kind == "date" and new.kind in _MOMENTS and not new.scale:
        return lambda code: f'{code} + " 00:00:00"'
    if (old.kind, new.kind) in (("text", "json"), ("text", "uuid"), ("float32", "float64")):
        return None
    raise ExpressionError(f"{old} cannot be converted to {new} without loss")


def _is_integer(type: Type) -> bool:
    return type.kind.startswith(("int", "uint")) and type.kind != "interval"


def _from_integer(old: Type, new: Type) -> Callable[[str], str] | None:
    if _is_integer(new):
        return None
    if new.kind == "boolean":
        return lambda code: f"flag({code})"
    if new.kind == "decimal":
        unit = 10**new.scale
        return lambda code: f"fixed_text({code} * {unit}, {new.scale})"
    if new.kind == "text":
        return lambda code: f"str({code})"
    raise ExpressionError(f"{old} cannot be converted to {new} without loss")

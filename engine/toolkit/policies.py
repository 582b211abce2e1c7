"""
Value policies: what happens to a value that cannot be carried as it is, or that can be carried in
more than one form.

A policy holds for a whole pipeline, for tables, or for columns. A column's takes precedence over
its table's, and that over the pipeline's. Of several patterns that match, the last one counts::

    [sink.values]
    zero_date = "null"
    [sink.values.tables]
    "shop.order*" = { zero_date = "epoch" }
    [sink.values.columns]
    "shop.orders.paid_on" = { zero_date = "text" }

``ReadPolicies`` belong to a source: they decide what a value is. ``StoragePolicies`` belong to a
sink: they decide how it is stored. ``docs/types.md`` shows what each policy does.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any, Literal, Self, get_args, get_type_hints

import msgspec

from engine.errors import ConfigError
from engine.schema import Table, TableId

__all__ = ["ReadPolicies", "StoragePolicies", "ValuePolicies"]

#: By pattern: the policies to use instead, by name.
Overrides = dict[str, dict[str, str]]


class ValuePolicies(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The policies of a pipeline, and of some of its tables and columns.

    The keys of ``tables`` are patterns ``schema.table``, those of ``columns`` patterns
    ``schema.table.column``, with ``*`` and ``?``. The names of columns are not case-sensitive.
    A table whose name is in lower case matches a pattern in any case, because some servers store
    names in lower case, however they are written (``lower_case_table_names`` = 1 of MySQL).

    Raises ConfigError for a wrong pattern, and for a policy or value that does not exist.
    """

    tables: Overrides = {}
    columns: Overrides = {}

    def __post_init__(self) -> None:
        for overrides, parts in ((self.tables, 2), (self.columns, 3)):
            for pattern, policies in overrides.items():
                self._check(pattern, policies, parts)

    def of(self, table: TableId, column: str) -> Self:
        """The policies of one column; they have no overrides."""
        if not self.tables and not self.columns:
            return self
        chosen: dict[str, Any] = {"tables": {}, "columns": {}}
        for pattern, policies in self.tables.items():
            if _matches(pattern, (table.schema, table.name)):
                chosen |= policies
        for pattern, policies in self.columns.items():
            if _matches(pattern, (table.schema, table.name), column):
                chosen |= policies
        return msgspec.structs.replace(self, **chosen)

    def unmatched(self, tables: Collection[Table]) -> list[str]:
        """The patterns that match none of these tables, or none of their columns."""
        names = [(table.id.schema, table.id.name) for table in tables]
        found = [
            pattern for pattern in self.tables if not any(_matches(pattern, it) for it in names)
        ]
        found += [
            pattern
            for pattern in self.columns
            if not any(
                _matches(pattern, it, name)
                for table, it in zip(tables, names, strict=True)
                for name in table.names
            )
        ]
        return found

    def _check(self, pattern: str, policies: dict[str, str], parts: int) -> None:
        if len(pattern.split(".")) != parts or not all(pattern.split(".")):
            form = ("schema.table", "schema.table.column")[parts - 2]
            raise ConfigError(f"{pattern!r} is not a pattern {form}", hint=f"write {form}")
        allowed = {
            name: get_args(hint)
            for name, hint in get_type_hints(type(self)).items()
            if name not in ("tables", "columns")
        }
        for name, value in policies.items():
            if name not in allowed:
                raise ConfigError(
                    f"{pattern}: there is no policy {name} here",
                    hint=f"the policies are {', '.join(allowed)}",
                )
            if allowed[name] and value not in allowed[name]:
                raise ConfigError(
                    f"{pattern}: {name} is {value!r}",
                    hint=f"allowed are {', '.join(allowed[name])}",
                )


class ReadPolicies(ValuePolicies, frozen=True, kw_only=True):
    """How a source reads values.

    ``invalid_text``: bytes that are no character in the column's character set. ``replace``: each
    sequence becomes U+FFFD; ``escape``: each byte is written as ``\\x98``, and the
    column on the target is wide enough for that; ``error``: the policy ``on_error`` decides about
    the table. In a key column, unless it is
    ``error``, a character for private use from U+F0000 on stands for one or two bytes, so that two
    keys stay two.

    ``charset``: the real charset of text columns whose declared one is wrong, such as ``utf8mb4``
    for UTF-8 in a latin1 column. Empty: the declared one.
    """

    invalid_text: Literal["replace", "escape", "error"] = "replace"
    charset: str = ""


class StoragePolicies(ValuePolicies, frozen=True, kw_only=True):
    """How a sink stores values. With ``error``, the policy ``on_error`` decides about the table.
    A table is backfilled again (``unlogged_change``) when a policy changes that decides about its
    rows.

    ``zero_date``: a date that is not in the calendar, such as 0000-00-00. ``null``, ``epoch``
    (1970-01-01) or ``-infinity`` replace it; with ``text`` the column is text, which holds every
    date exactly. In a key column a zero date becomes ``-infinity``, which no date of the source is,
    and any other invalid date is an error.

    ``nul_byte``: the character U+0000 in text. ``strip`` removes it, ``replace`` writes U+2400. In
    a key column, unless it is ``error``, the character U+F0000 for private use stands for U+0000,
    and is an error itself, so that two keys stay two.

    ``tinyint1``: the type of TINYINT(1). ``unsigned_bigint``: the type of BIGINT UNSIGNED.

    ``enum``: ``text``, or ``native``: an enum type of PostgreSQL, in the order of the labels. An
    ENUM with a label that PostgreSQL cannot have stays text.

    ``generated``: ``plain``, or ``generated``: a generated column is one on the target, too, if
    PostgreSQL computes its expression exactly as the source does. Else it stays plain, which
    ``tailrace check`` shows.

    ``collation``: that of text columns whose collation ignores case on the source. ``default`` is
    the database's; with ``source`` they get a nondeterministic ICU collation that ignores the same,
    as far as ICU can. A column of the key gets it only in a unique index.

    ``out_of_range``: a value that a narrower type of these policies does not hold. ``null``, or
    ``clamp``: true, or the largest BIGINT. In a key column it is an error.
    """

    zero_date: Literal["null", "epoch", "-infinity", "text", "error"] = "null"
    nul_byte: Literal["strip", "replace", "error"] = "strip"
    tinyint1: Literal["smallint", "boolean"] = "smallint"
    unsigned_bigint: Literal["numeric", "bigint"] = "numeric"
    enum: Literal["text", "native"] = "text"
    generated: Literal["plain", "generated"] = "plain"
    collation: Literal["default", "source"] = "default"
    out_of_range: Literal["error", "null", "clamp"] = "error"


def _matches(pattern: str, table: tuple[str, str], column: str | None = None) -> bool:
    """Whether a pattern of tables, or of columns, matches."""
    parts = pattern.split(".")
    same = all(map(fnmatchcase, table, parts)) or all(
        map(fnmatchcase, table, pattern.lower().split("."))
    )
    return same and (column is None or fnmatchcase(column.lower(), parts[-1].lower()))

"""
Guards before a schema change, where a policy decides about values that existing rows have. Pure.

A policy is applied to rows. A statement that changes existing rows without logging them would pass
it by: a default of a new column, or a value whose form depends on whether it is in the key. The
table is backfilled again instead, if it has rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from engine.databases.postgres.stored import Fingerprint, exceeds_bigint
from engine.databases.postgres.types import TEMPORAL, TEXTUAL
from engine.schema import Column, Table
from sinks.postgres.copy import is_date
from sinks.postgres.ddl import Step

__all__ = ["policy_guards"]

#: The kinds whose values have another form in a key, if a policy changes them.
_KEY_FORMS: Final = TEXTUAL | TEMPORAL


def policy_guards(
    before: Table,
    after: Table,
    renamed: Mapping[str, str],
    policies: Fingerprint,
    name: str,
) -> Iterator[Step]:
    """The guards for the change from ``before`` to ``after``.

    ``renamed`` has the new names of columns, ``policies`` is the fingerprint of ``after``, and
    ``name`` the quoted name of the table on the target.
    """
    old = {renamed.get(column.name, column.name): column for column in before.columns}
    old_key = {renamed.get(it, it) for it in (before.columns[n].name for n in before.key)}
    key = {after.columns[ordinal].name for ordinal in after.key}
    for column in after.columns:
        chosen, known = policies.get(column.name, {}), old.get(column.name)
        if known is None:
            reason = _of_default(column, chosen)
        elif (column.name in key) != (column.name in old_key) and column.type.kind in _KEY_FORMS:
            reason = "enters or leaves the key, where some values have another form"
        elif known.nullable and not column.nullable and chosen.get("out_of_range") == "null":
            reason = "becomes NOT NULL, and some of its values may be NULL on the target alone"
        else:
            reason = ""
        if reason:
            yield Step(f"SELECT 1 FROM {name} LIMIT 1", f"column {column.name} {reason}")


def _of_default(column: Column, policies: Mapping[str, str]) -> str:
    """Why a policy may refuse or change the default of a new column; empty if none does."""
    default = (column.default or "").strip("'")
    zero_date = policies.get("zero_date", "null") if column.type.kind in TEMPORAL else "null"
    implied = column.default is None and not column.nullable
    zero = implied or "0000-00-00" in default
    if (
        (zero and zero_date == "error")
        or (zero_date not in ("null", "text") and _is_no_date(default) and not zero)
        or exceeds_bigint(column, policies.get("unsigned_bigint", ""))
        or ("tinyint1" in policies and default not in ("", "0", "1"))
        or ("nul_byte" in policies and "\0" in default)
    ):
        return "is new, and a policy decides about its default in existing rows"
    return ""


def _is_no_date(default: str) -> bool:
    return default[:1].isdigit() and not is_date(default[:10])

"""
Guards before a schema change, where a policy decides about values that existing rows have. Pure.

A policy is applied to rows. A statement that changes existing rows without logging them would pass
it by: a default of a new column, or a value whose form depends on whether it is in the key. The
table is backfilled again instead, if it has rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from engine.databases.postgres.stored import INFINITY, Fingerprint, exceeds_bigint
from engine.databases.postgres.types import TEMPORAL, TEXTUAL
from engine.schema import Column, Table
from sinks.postgres.ddl import Step
from sinks.postgres.defaults import replaced_default

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
        if column.generated and known is None:
            reason = ""
        elif known is None:
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
    replaced = replaced_default(column)
    # A zero date is added as what the policy makes of it.
    zero = column.default is None or "0000-00-00" in default
    added = ("null", "text", *(("epoch", INFINITY) if zero else ()))
    if (
        (replaced == "zero_date" and policies.get("zero_date", "null") not in added)
        or exceeds_bigint(column, policies.get("unsigned_bigint", ""))
        or ("tinyint1" in policies and default not in ("", "0", "1"))
        or (replaced == "nul_byte" and "nul_byte" in policies)
    ):
        return "is new, and a policy decides about its default in existing rows"
    return ""

"""
Changes that a sink cannot do, because it lacks the capability. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.change import Cascade, Change, DeletePart, SchemaChange
from engine.contract import Capabilities
from engine.errors import SchemaError, UnloggedChange

__all__ = ["refuse_impossible"]


def refuse_impossible(changes: Sequence[Change], capabilities: Capabilities) -> None:
    """Raise SchemaError or UnloggedChange for the first change that a sink with ``capabilities``
    cannot do.
    """
    if not capabilities.schema_changes:
        _refuse_schema_changes(changes)
    if not capabilities.cascades:
        _refuse_cascades(changes)
    if not capabilities.parts:
        _refuse_parts(changes)
    if not capabilities.computes:
        _refuse_computed(changes)


def _refuse_schema_changes(changes: Sequence[Change]) -> None:
    for change in changes:
        if isinstance(change, SchemaChange) and change.before is not None:
            raise SchemaError(
                "the table was altered, renamed or dropped, which this sink cannot follow",
                hint="adapt the target, and begin anew: `tailrace reset CONFIG`, then"
                " `tailrace run CONFIG`",
                table=change.before.id,
            )


def _refuse_parts(changes: Sequence[Change]) -> None:
    for change in changes:
        if isinstance(change, DeletePart):
            raise UnloggedChange(
                "removes a part of the rows, which the log does not show and this sink cannot do",
                table=change.table.id,
            )


def _refuse_computed(changes: Sequence[Change]) -> None:
    for change in changes:
        if isinstance(change, SchemaChange) and change.computed and change.after is not None:
            raise UnloggedChange(
                f"fills the column {change.computed[0]} with computed values, which the log does"
                " not show and this sink cannot do",
                table=change.after.id,
            )


def _refuse_cascades(changes: Sequence[Change]) -> None:
    for change in changes:
        if isinstance(change, Cascade):
            raise UnloggedChange(
                "rows are deleted or changed by a foreign key, which the log does not show and this"
                " sink cannot do",
                table=change.tables[0].id,
            )

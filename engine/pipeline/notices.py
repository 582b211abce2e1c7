"""
What the pipeline logs of changes that it has applied.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from engine.change import SchemaChange, UnloggedPart
from engine.schema import TableId

__all__ = ["note_columns", "note_part", "note_replaced"]

log = logging.getLogger("tailrace.pipeline")


def note_part(pipeline: str, change: UnloggedPart) -> None:
    """A part of a table is backfilled again."""
    log.warning(
        "a part of the table is backfilled again",
        extra={
            "pipeline": pipeline,
            "table": str(change.table.id),
            "column": change.part.column,
            "reason": change.reason,
        },
    )


def note_columns(pipeline: str, change: SchemaChange) -> None:
    """New columns of a table are backfilled."""
    log.warning(
        "new columns of the table are backfilled",
        extra={
            "pipeline": pipeline,
            "table": str(change.after and change.after.id),
            "column": ", ".join(change.unlogged),
            "reason": change.reason,
        },
    )


def note_replaced(
    pipeline: str,
    replaced: Collection[tuple[TableId, str, str]],
    noted: set[tuple[TableId, str, str]],
) -> None:
    """A policy has changed values of columns. A place that is not in ``noted`` is logged."""
    for place in replaced:
        if place not in noted:
            noted.add(place)
            table, column, policy = place
            log.warning(
                "values of a column are changed by a policy",
                extra={
                    "pipeline": pipeline,
                    "table": str(table),
                    "column": column,
                    "policy": policy,
                },
            )

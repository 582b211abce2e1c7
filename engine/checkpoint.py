"""
The progress of a pipeline: the position, the epoch, and how far each table's backfill is.

A sink writes the ``Checkpoint`` in the transaction that writes the rows, so the two cannot
disagree. A checkpoint is immutable. The methods of ``TableProgress`` are the only steps from one
state of a table to the next:

    pending ──backfilled──▶ backfilling ──backfilled (last chunk)──▶ catching_up ──caught_up──▶ live
       └──────────────backfilled (only chunk)───────────────────────────▲

A table that the log itself creates is live from the start. A live table is backfilling if a part of
it is read again, or new columns of it are, and so is one that is read again in place, once its
shape is known. From any
state, a change that the log does not show exactly makes a table pending again, or quarantined, as
the policy says. A table that the configuration does not select any more is excluded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from engine.schema import Part, TableId

__all__ = ["Cause", "Checkpoint", "LeftState", "TableProgress", "TableState"]

TableState = Literal["pending", "backfilling", "catching_up", "live", "quarantined", "excluded"]


#: The states of a table that is not followed: it waits for its discovery, or is left out.
LeftState = Literal["pending", "quarantined", "excluded"]


class Cause(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a table is quarantined, or backfilled again: what happened, and what to do.

    ``position`` is the place in the log, ``statement`` the logged statement without its values.
    ``hint`` names command lines as ``TailraceError.hint`` does. ``at`` is the Unix time.
    """

    reason: str
    hint: str = ""
    position: str = ""
    statement: str = ""
    at: float = 0.0


class TableProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The backfill of one table.

    ``cursor`` is the source's text of the last key that was read, ``rows`` the number of rows
    written, but for those of a ``part``, ``estimate`` the number of rows that were expected at the
    start.
    ``high_watermark`` is the position up to which the chunks may show changes. The stream has to
    pass it before the table equals the source at every commit.

    ``again``: the target has older rows of the table, which stay until the new ones replace them.
    ``cause`` says why, or why the table is quarantined or excluded: then it is not followed. With
    ``part``, only the rows of this part are older ones, and only they are backfilled. ``in_place``:
    the new rows take the place of the older ones in the table itself, without a second one.
    With ``columns``, only these new columns are backfilled; they hold NULL until then.

    ``changed_at``: when the source committed the last change of rows that the stream has applied,
    in Unix seconds; 0.0 if none is known. It is stored now and then, and when a pipeline stops.
    """

    state: TableState = "pending"
    cursor: str | None = None
    rows: int = 0
    estimate: int = 0
    high_watermark: str | None = None
    again: bool = False
    cause: Cause | None = None
    part: Part | None = None
    in_place: bool = False
    columns: tuple[str, ...] = ()
    changed_at: float = 0.0

    @property
    def followed(self) -> bool:
        """Whether the table's changes are applied, or will be."""
        return self.state not in ("quarantined", "excluded")

    @property
    def reason(self) -> str:
        """Why the table is quarantined, or backfilled again; empty if it is neither."""
        return "" if self.cause is None else self.cause.reason

    def restarted(self) -> TableProgress:
        """The progress of a table whose rows were rolled back, or are truncated next.

        Raises ``ValueError`` if a part or columns are backfilled: the rest is there.
        """
        if self.part is not None or self.columns:
            raise ValueError("the backfill of a part or of columns does not start again")
        return TableProgress(
            "backfilling" if self.in_place else "pending",
            estimate=self.estimate,
            again=self.again,
            cause=self.cause,
            in_place=self.in_place,
            changed_at=self.changed_at,
        )

    def backfilled(self, rows: int, cursor: str | None, high_watermark: str) -> TableProgress:
        """The progress after a chunk of ``rows`` rows; ``cursor`` is None after the last chunk.

        Raises ``ValueError`` unless the table is pending or backfilling.
        """
        if self.state not in ("pending", "backfilling"):
            raise ValueError(f"a table that is {self.state} takes no chunk")
        state: TableState = "backfilling" if cursor is not None else "catching_up"
        written = self.rows if self.part is not None else self.rows + rows
        return TableProgress(
            *(state, cursor, written, self.estimate, high_watermark),
            again=self.again,
            cause=self.cause,
            part=self.part,
            in_place=self.in_place,
            columns=self.columns,
            changed_at=self.changed_at,
        )

    def caught_up(self) -> TableProgress:
        """The progress after the stream has passed ``high_watermark``.

        Raises ``ValueError`` unless the table is catching up.
        """
        if self.state != "catching_up":
            raise ValueError(f"a table that is {self.state} cannot catch up")
        return TableProgress(
            "live", None, self.rows, self.estimate, None, changed_at=self.changed_at
        )


class Checkpoint(msgspec.Struct, frozen=True):
    """The state that one target transaction made durable.

    ``position`` is the source's durable text: everything up to it is applied, nothing after it.
    ``committed_at`` is the source's time up to which everything is applied: the commit time of the
    last transaction, or the time of a heartbeat after it (Unix seconds, 0.0 before the first).
    ``progress`` holds each followed table's progress. ``paused`` says that a command has paused the
    pipeline; only a sink that keeps commands has to store it. The position must never move
    backward: only a sink's ``commit`` stores a checkpoint, and it refuses one whose ``epoch`` is
    not its own.
    """

    pipeline: str
    epoch: int
    position: str
    committed_at: float = 0.0
    progress: Mapping[TableId, TableProgress] = msgspec.field(default_factory=dict)
    paused: bool = False

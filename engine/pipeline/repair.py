"""
The repair of single rows: the source's rows are written at a known place of the log.

The rows are read by their keys while the stream stands at a position S. They show everything up to
S, and nothing after a high watermark T. The stream goes on, and each change of the log after S is
looked at: a row that one of them touches is left out. When the stream has passed T, each row that
is left has been the same on the source from S on, so it is the source's row at the position of the
stream, and is written there, in one transaction with the outcome of the command. So an older value
never replaces a newer one, and no row is ahead of the stream, which unique values of other rows
could not bear.

A row is deleted only if the comparison has found it on the target alone and the source still lacks
it, or the mapping leaves it out. The target keeps two texts of a key apart even where the source
takes them for equal, so a change of the log touches it only if it has the same text. Keys of other
types, such as floats, may have several texts for one value. In such a table, nothing is deleted if
one of the rows is touched, or a row gets a new key.

Nothing is stored but the command and its keys. After a crash the command still waits, and the rows
are read again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from engine.change import (
    Cascade,
    Change,
    DeletePart,
    Row,
    Rows,
    SchemaChange,
    Truncate,
    UnloggedPart,
)
from engine.commands import StoredCommand
from engine.contract import Source
from engine.errors import ApplyError, ShapeChanged
from engine.mapping.reader import decoder
from engine.pipeline.table_progress import ProgressTracker
from engine.pipeline.writer import TargetWriter
from engine.recovery import ReadsKeys, RepairKeys, RepairStore, TooLarge
from engine.schema import Table, TableId
from engine.toolkit.key_order import ORDERED_KINDS

__all__ = ["REPAIR_SECONDS", "CannotRepair", "Repair", "TableRepair"]

#: How long the reads may take, and the stream to pass them.
REPAIR_SECONDS: Final = 60.0
#: The most bytes of rows that a repair holds in memory until they are written.
MOST_BYTES: Final = 64 << 20
#: The types of which a value has one form in a row tuple, and is equal to no other one on a target.
EXACT_KINDS: Final = ORDERED_KINDS | {"text", "enum", "set"}

Reached = Callable[[str, str], bool]


class CannotRepair(Exception):
    """Rows cannot be repaired. The message is the outcome of the command."""


class TableRepair:
    """The rows of one table that wait to be written. ``rows`` is what the source has of the keys
    that are ``wanted``, of which those that are ``extra`` may be deleted.
    """

    def __init__(
        self,
        table: Table,
        wanted: Iterable[Row],
        extra: Iterable[Row],
        rows: Iterable[Row],
        high_watermark: str,
    ) -> None:
        self.table = table
        self.high_watermark = high_watermark
        self._rows = {self._key(row): row for row in rows}
        self._extra = set(extra)
        #: Keys of which a change was seen.
        self._touched: set[Row] = set()
        self._watched = self._extra.union(wanted, self._rows)
        #: Whether keys that differ in Python are different keys on the target.
        self._exact = all(table.columns[n].type.kind in EXACT_KINDS for n in table.key)

    def __len__(self) -> int:
        """The number of rows that may be written or deleted."""
        return len(self.rows) + len(self.extra - self.rows.keys())

    @property
    def rows(self) -> dict[Row, Row]:
        """The rows to write, by their keys."""
        return {key: row for key, row in self._rows.items() if key not in self._touched}

    @property
    def extra(self) -> set[Row]:
        """The keys of the rows to delete, unless ``rows`` has them."""
        return self._extra - self._touched

    def _key(self, row: Row) -> Row:
        return tuple([row[ordinal] for ordinal in self.table.key])

    def watch(self, change: Change) -> None:
        """Leave out what a change of the log touches."""
        match change:
            case Rows(table=table):
                if table.id == self.table.id:
                    self._watch_rows(change)
            case Cascade(tables=tables):
                if self.table.id in {it.id for it in tables}:
                    self._leave_all()
            case SchemaChange(before=before, after=after):
                if self.table.id in {it.id for it in (before, after) if it is not None}:
                    self._leave_all()
            case Truncate(table=table) | DeletePart(table=table) | UnloggedPart(table=table):
                if table.id == self.table.id:
                    self._leave_all()

    def _leave_all(self) -> None:
        self._touched |= self._watched

    def _watch_rows(self, rows: Rows) -> None:
        before, after = ({self._key(it) for it in side or ()} for side in (rows.before, rows.after))
        touched = self._watched & (before | after)
        self._touched |= touched
        if not self._exact and (touched or after - before):
            self._touched |= self._extra


class Repair:
    """The rows that a command repairs, from their reads until they are written."""

    def __init__(
        self, stored: StoredCommand, tables: Iterable[TableRepair], deadline: float
    ) -> None:
        self.stored = stored
        self._tables = tuple(tables)
        self._asked = sum(map(len, self._tables))
        self._deadline = deadline

    @classmethod
    async def begin(
        cls,
        stored: StoredCommand,
        keys: Mapping[TableId, RepairKeys],
        source: Source,
        writer: TargetWriter,
        tracker: ProgressTracker,
        letters: Mapping[TableId, int],
        *,
        deadline: float,
    ) -> Repair:
        """Read the rows. The target is at a commit, and the stream goes on from there, and has to
        pass the reads before ``deadline``, a time of ``time.monotonic``. Raises CannotRepair.
        """
        if not isinstance(source, ReadsKeys):
            raise CannotRepair("this source cannot read single rows")
        if writer.paused:
            raise CannotRepair("the pipeline is paused; `tailrace resume CONFIG` goes on")
        tables, bytes_left = [], MOST_BYTES
        for id, wanted in sorted(keys.items()):
            table = _repairable(id, writer, tracker, letters)
            differing, extra = _values(table, wanted.differing), _values(table, wanted.extra)
            both = [*differing, *extra]
            try:
                chunk = await asyncio.to_thread(
                    source.rows_of_keys, table, both, writer.position, bytes_left
                )
            except TooLarge:
                raise CannotRepair(
                    f"the rows to repair have more than {MOST_BYTES >> 20} MiB, up to those of"
                    f" {id}. `tailrace backfill CONFIG {id}` reads that table again"
                ) from None
            except ShapeChanged:
                raise CannotRepair(
                    f"{id} was altered on the source, and the pipeline has not come to that yet;"
                    " type the command again"
                ) from None
            bytes_left -= chunk.size
            high = str(chunk.high_watermark)
            tables.append(TableRepair(table, differing, extra, chunk.rows, high))
        return cls(stored, tables, deadline)

    def watch(self, changes: Iterable[Change]) -> None:
        """Leave out rows that these changes of the log touch. Call it with each that is applied."""
        for change in changes:
            for table in self._tables:
                table.watch(change)

    def is_due(self, position: str, reached: Reached) -> bool:
        """Whether the stream has passed the reads at ``position``. Raises CannotRepair after the
        deadline.
        """
        if all(reached(position, it.high_watermark) for it in self._tables):
            return True
        if time.monotonic() > self._deadline:
            raise CannotRepair(
                f"the pipeline has not come to the source's rows of now within"
                f" {REPAIR_SECONDS:.0f} seconds; type the command again when it lags less"
            )
        return False

    async def write(
        self, writer: TargetWriter, tracker: ProgressTracker, store: RepairStore
    ) -> str:
        """Write the rows in the open transaction, or a new one. Returns what was done. Raises
        ApplyError if the target refuses rows.
        """
        lines, left = [], self._asked
        for it in self._tables:
            known = tracker.progress.get(it.table.id)
            if known is None or known.state != "live" or tracker.table(it.table.id) != it.table:
                continue
            left -= len(it)
            written, deleted = await _write(it, writer, store)
            lines.append(f"{it.table.id}: rows written: {written:,}, deleted: {deleted:,}")
        if left:
            lines.append(f"rows left out, because they changed meanwhile: {left:,}")
        return "; ".join(lines) or "there is nothing to repair"


async def _write(it: TableRepair, writer: TargetWriter, store: RepairStore) -> tuple[int, int]:
    """Write the rows of a table. Returns the numbers of rows that were written and deleted."""
    rows, id, reason = list(it.rows.values()), it.table.id, ""
    try:
        try:
            async with store.savepoint():
                return await writer.repair(it.table, it.extra, rows)
        except ApplyError as error:
            if not error.of_rows:
                raise
            # Rows may have each other's unique values on the target.
            if reason := await store.why_not_anew(writer.target(it.table)):
                raise
        return await writer.repair(it.table, it.extra, rows, anew=True)
    except ApplyError as error:
        kept = f", and they are not deleted and inserted, because {reason}" if reason else ""
        raise ApplyError(
            f"no row is repaired, because the target refuses rows of {id}: {error.message}{kept}."
            f" `tailrace backfill CONFIG {id}` reads the table again"
        ) from error


def _repairable(
    id: TableId, writer: TargetWriter, tracker: ProgressTracker, letters: Mapping[TableId, int]
) -> Table:
    """The table, if its rows can be repaired. Raises CannotRepair."""
    table, known = tracker.table(id), tracker.progress.get(id)
    if table is None or known is None or known.state != "live":
        raise CannotRepair(f"{id} is not live")
    if letters.get(id):
        raise CannotRepair(
            f"rows of {id} wait as dead letters; `tailrace dead-letters CONFIG retry` or discard"
            " ends that"
        )
    if reason := writer.why_not_repaired(table):
        raise CannotRepair(
            f"rows of {id} cannot be repaired: {reason}. `tailrace backfill CONFIG {id}` reads the"
            " table again"
        )
    return table


def _values(table: Table, keys: Iterable[tuple[str, ...]]) -> list[Row]:
    """Keys in the form of row tuples. Raises CannotRepair."""
    decoders = [decoder(table.columns[ordinal].type) for ordinal in table.key]
    try:
        return [
            tuple([decode(text) for decode, text in zip(decoders, key, strict=True)])
            for key in keys
        ]
    except ValueError:
        raise CannotRepair(f"the stored keys are not keys of {table.id}") from None

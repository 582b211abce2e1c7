"""
A sink that keeps a copy of small tables in one JSON file, exactly once.

The file is ``state.json`` of ``engine.toolkit.state_file``. It holds the checkpoint, and in ``own``
the rows of each table, in the form of docs/records.md. All tables are in memory, and a commit
writes all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import unquote

import msgspec

from engine.change import Change, Rows, SchemaChange, Truncate
from engine.checkpoint import Checkpoint
from engine.contract import Applied, Capabilities, Finding, State
from engine.schema import Table, TableId
from engine.toolkit.memory_table import MemoryTable
from engine.toolkit.record import Image, RecordEncoder, decode_image, decode_record
from engine.toolkit.state_file import StateFile, Stored, translate_errors


class JSONFileSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``url`` is ``jsonfile:`` and the path of a folder, which is created if it is missing."""

    url: str


class TableRows(msgspec.Struct, frozen=True):
    """The rows of one table, as objects that map columns to values."""

    table: TableId
    rows: list[Image]


class Contents(msgspec.Struct, frozen=True):
    """The sink's own part of ``state.json``."""

    tables: tuple[TableRows, ...] = ()


class JSONFileSink:
    """The tables of the open transaction are in ``_tables``, the committed ones in the file."""

    Settings = JSONFileSettings
    capabilities = Capabilities(
        guarantee="exactly once", transactional=True, upsert=True, schema_changes=False
    )

    def __init__(self, settings: JSONFileSettings, pipeline: str) -> None:
        folder = Path(unquote(settings.url.removeprefix("jsonfile:")))
        self._file = StateFile(folder, pipeline, Contents())
        self._tables: dict[TableId, MemoryTable] = {}

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        if (folder := self._file.unwritable()) is None:
            return [Finding("ok", "jsonfile", f"rows go to {self._file.folder}/state.json")]
        action = "correct the url, or the rights of the folder"
        return [Finding("error", "jsonfile", f"no file can be created in {folder}", action)]

    async def open(self, epoch: int | None = None) -> State:
        with translate_errors():
            state = await asyncio.to_thread(self._file.open, epoch, lambda own: None)
        await self.rollback()
        return state

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        applied = Applied()
        for change in changes:
            if isinstance(change, Rows):
                id = change.table.id
                drift = self._tables[id].apply(change)
                if drift and id not in in_backfill:
                    applied.drift[id] = applied.drift.get(id, 0) + drift
            elif isinstance(change, Truncate):
                self._tables[change.table.id].clear()
            elif isinstance(change, SchemaChange) and change.after is not None:
                self._tables[change.after.id] = MemoryTable(change.after)
        return applied

    async def commit(self, checkpoint: Checkpoint) -> None:
        with translate_errors():
            await asyncio.to_thread(self._commit, checkpoint, list(self._tables.values()))

    def _commit(self, checkpoint: Checkpoint, tables: Sequence[MemoryTable]) -> None:
        own = Contents(tuple(TableRows(table.table.id, _images(table)) for table in tables))
        with self._file.writing():
            self._file.replace(Stored(checkpoint, tuple(table.table for table in tables), own))

    async def rollback(self) -> None:
        with translate_errors():
            self._tables = await asyncio.to_thread(self._read)

    def _read(self) -> dict[TableId, MemoryTable]:
        stored = self._file.read()
        tables = {table.id: MemoryTable(table) for table in stored.tables}
        for saved in stored.own.tables:
            table = tables[saved.table].table
            rows = [decode_image(table, image) for image in saved.rows]
            tables[saved.table].apply(Rows(table, "read", None, rows))
        return tables

    async def state(self) -> State | None:
        with translate_errors():
            return await asyncio.to_thread(self._file.state)

    async def close(self) -> None:
        self._file.close()


def _images(table: MemoryTable) -> list[Image]:
    lines = RecordEncoder().encode([Rows(table.table, "read", None, list(table))])
    return [image for line in lines if (image := decode_record(line).after) is not None]

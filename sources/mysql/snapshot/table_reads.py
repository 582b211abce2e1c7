"""
Reads of tables that need no cursor: which of many are empty, and single rows by their keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from engine.change import Chunk, Row
from engine.schema import Table
from sources.mysql.snapshot.chunks import ChunkReader

__all__ = ["TableReads"]


class TableReads(ABC):
    """A source with a reader of chunks."""

    @abstractmethod
    def _chunk_reader(self) -> ChunkReader:
        """The reader, which is made when it is first needed."""

    def empty(self, tables: Sequence[Table], low_watermark: str) -> list[Chunk]:
        """One chunk for each of the tables that has no row; see ``SnapshotSource.empty``."""
        return self._chunk_reader().empty(tables, low_watermark)

    def rows_of_keys(
        self, table: Table, keys: Sequence[Row], low_watermark: str, most_bytes: int
    ) -> Chunk:
        """The rows with these keys; see ``ReadsKeys.rows_of_keys``."""
        return self._chunk_reader().rows_of_keys(table, keys, low_watermark, most_bytes)

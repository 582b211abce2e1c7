"""Reads tables in chunks, for the tests of the snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.change import Chunk, Row
from engine.schema import Table
from sources.mysql.server_info import log_end, read_server_info
from sources.mysql.snapshot.chunks import ChunkReader

#: The fixture ``make_reader``, which makes the chunk reader of a server.
MakeReader = Callable[..., ChunkReader]


def current_position(connection: Any) -> str:
    """The end of the server's log."""
    return str(log_end(connection, read_server_info(connection)))


def read_chunks(
    reader: ChunkReader, table: Table, connection: Any, *, rows: int = 9, readers: int = 1
) -> list[Chunk]:
    """All chunks of the table, read now."""
    return list(
        reader.chunks(table, None, current_position(connection), rows=rows, readers=readers)
    )


def rows_of(chunks: list[Chunk]) -> list[Row]:
    """The rows of all chunks."""
    return [row for chunk in chunks for row in chunk.rows]

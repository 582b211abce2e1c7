"""
Decompression of transaction payloads, rows events and statements. Pure.

The announced size is an upper bound: no more bytes than announced are decompressed, and no memory
is allocated ahead for them. A compressed transaction of any size is returned a few events at a
time.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import zstandard

from engine.errors import DecodeError
from sources.mysql.binlog.events import (
    HEADER_SIZE,
    LARGEST_EVENT,
    decoding,
    length_encoded,
    take,
)
from sources.mysql.binlog.query_event import Query, read_query

__all__ = [
    "cut_events",
    "decompress",
    "decompressed_rows",
    "payload_events",
    "read_compressed_query",
]

_PIECE_BYTES: Final = 1 << 20
_EVENT_SIZE: Final = struct.Struct("<9xI")  # after the timestamp, type and server id
_ZSTD, _PLAIN = 0, 255
_PAYLOAD_END, _COMPRESSION, _SIZE = 0, 2, 3


def read_compressed_query(event: bytes, end: int) -> Query:
    """MariaDB's QUERY_COMPRESSED_EVENT: a QUERY whose statement is compressed."""
    query = read_query(event, end)
    return query._replace(statement=decompress(query.statement))


@decoding("compressed rows event")
def decompressed_rows(event: bytes, start: int, end: int, bitmaps: int) -> bytes:
    """The body of a compressed rows event of MariaDB, in the form of the plain event.

    The number of columns and the ``bitmaps`` bitmaps after it are not compressed; the rows are.
    """
    columns, at = length_encoded(event, start, end)
    rows = at + bitmaps * ((columns + 7) // 8)
    return take(event, start, rows - start, end) + decompress(event[rows:end])


@decoding("compressed data")
def decompress(data: bytes) -> bytes:
    """Decompress data in MariaDB's format.

    One byte holds the algorithm (0: zlib) and the number of bytes of the size. The size follows as
    a big-endian integer, then a zlib stream.
    """
    head = take(data, 0, 1, len(data))[0]
    size_size = head & 7
    if head & 0xF0 != 0x80 or not 1 <= size_size <= 4:
        raise DecodeError(f"unknown compression {head:#x}")
    size = int.from_bytes(take(data, 1, size_size, len(data)), "big")
    if size > LARGEST_EVENT:
        raise DecodeError(
            f"compressed data: {size} bytes are announced, more than an event can have"
        )
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(memoryview(data)[1 + size_size :], size + 1)
    except zlib.error as error:
        raise DecodeError(f"compressed data: {error}") from error
    if len(plain) != size or not stream.eof:
        raise DecodeError(f"compressed data: it does not hold the {size} bytes that are announced")
    return plain


def payload_events(event: bytes, end: int) -> Iterator[list[bytes]]:
    """The events inside a TRANSACTION_PAYLOAD, a few at a time to bound memory.

    They have no checksum, and the log positions in their headers are not valid.
    """
    compression, size, at = _read_payload_head(event, end)
    if compression == _PLAIN:
        pieces: Iterator[bytes] = iter((event[at:end],))
    elif compression == _ZSTD:
        pieces = _zstd_pieces(event, at, end)
    else:
        raise DecodeError(f"transaction payload: unknown compression {compression}")
    rest, total = b"", 0
    for piece in pieces:
        total += len(piece)
        if total > size:
            break
        events, rest = cut_events(rest + piece if rest else piece)
        yield events
    if total != size or rest:
        raise DecodeError(
            f"transaction payload: it does not hold the {size} bytes that are announced"
        )


@decoding("transaction payload event")
def _read_payload_head(event: bytes, end: int) -> tuple[int, int, int]:
    """The compression type, the uncompressed size, and the offset of the payload."""
    fields, at = {_COMPRESSION: _PLAIN}, HEADER_SIZE
    while True:
        field, at = length_encoded(event, at, end)
        if field == _PAYLOAD_END:
            break
        size, at = length_encoded(event, at, end)
        fields[field], _ = length_encoded(take(event, at, size, end), 0, size)
        at += size
    return fields[_COMPRESSION], fields.get(_SIZE, end - at), at


def _zstd_pieces(event: bytes, at: int, end: int) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor().stream_reader(
        memoryview(event)[at:end], read_across_frames=True
    )
    try:
        while piece := reader.read(_PIECE_BYTES):
            yield piece
    except zstandard.ZstdError as error:
        raise DecodeError(f"transaction payload: {error}") from error


def cut_events(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete events at the start of ``data``, and the remaining bytes."""
    events: list[bytes] = []
    read_size = _EVENT_SIZE.unpack_from
    at, end = 0, len(data)
    last_start = end - HEADER_SIZE
    while at <= last_start:
        (size,) = read_size(data, at)
        if not HEADER_SIZE <= size <= LARGEST_EVENT:
            raise DecodeError(f"an event of {size} bytes is announced")
        if at + size > end:
            break
        events.append(data[at : at + size])
        at += size
    return events, data[at:]

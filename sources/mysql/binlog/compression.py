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
    PLAIN_ROWS,
    decoding,
    length_encoded,
    take,
)
from sources.mysql.codec.large_event import LARGE_BYTES, EventBuffer, complete, event_buffer

__all__ = [
    "EventCutter",
    "cut_events",
    "decompress",
    "decompressed_rows",
    "payload_events",
]

_PIECE_BYTES: Final = 1 << 20
_EVENT_KIND: Final = 4
_EVENT_SIZE: Final = struct.Struct("<9xI")  # after the timestamp, type and server id
_ZSTD, _PLAIN = 0, 255
_PAYLOAD_END, _COMPRESSION, _SIZE = 0, 2, 3


@decoding("compressed rows event")
def decompressed_rows(event: bytes, start: int, end: int, bitmaps: int) -> bytes:
    """The body of a compressed rows event of MariaDB, in the form of the plain event.

    The number of columns and the ``bitmaps`` bitmaps after it are not compressed; the rows are.
    """
    columns, at = length_encoded(event, start, end)
    rows = at + bitmaps * ((columns + 7) // 8)
    head = take(event, start, rows - start, end)
    plain = event_buffer(0, of_rows=False)
    size, pieces = _decompressed(memoryview(event)[rows:end])
    if size >= LARGE_BYTES:
        plain = event_buffer(len(head) + size, of_rows=True)
    plain.write(head)
    for piece in pieces:
        plain.write(piece)
    return complete(plain)


@decoding("compressed data")
def decompress(data: bytes) -> bytes:
    """Decompress data in MariaDB's format.

    One byte holds the algorithm (0: zlib) and the number of bytes of the size. The size follows as
    a big-endian integer, then a zlib stream.
    """
    _, pieces = _decompressed(memoryview(data))
    return b"".join(pieces)


def _decompressed(data: memoryview) -> tuple[int, Iterator[bytes]]:
    """The size of what the data hold, and the pieces of it, which have this size together."""
    head = bytes(data[:5])
    size_size = take(head, 0, 1, len(head))[0] & 7
    if head[0] & 0xF0 != 0x80 or not 1 <= size_size <= 4:
        raise DecodeError(f"unknown compression {head[0]:#x}")
    size = int.from_bytes(take(head, 1, size_size, len(head)), "big")
    if size > LARGEST_EVENT:
        raise DecodeError(
            f"compressed data: {size} bytes are announced, more than an event can have"
        )
    return size, _inflated(data[1 + size_size :], size)


def _inflated(data: memoryview, size: int) -> Iterator[bytes]:
    stream, left = zlib.decompressobj(), size
    for at in range(0, len(data), _PIECE_BYTES):
        part: bytes | memoryview = data[at : at + _PIECE_BYTES]
        more = True
        while more and left >= 0:
            try:
                piece = stream.decompress(part, _PIECE_BYTES)
            except zlib.error as error:
                raise DecodeError(f"compressed data: {error}") from error
            part, left = stream.unconsumed_tail, left - len(piece)
            more = bool(part) or len(piece) == _PIECE_BYTES
            if left >= 0:
                yield piece
    if left or not stream.eof:
        raise DecodeError(f"compressed data: it does not hold the {size} bytes that are announced")


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
    cutter, total = EventCutter(), 0
    for piece in pieces:
        total += len(piece)
        if total > size:
            break
        yield cutter.cut(piece)
    if total != size or cutter.partial:
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


class EventCutter:
    """Cuts a stream of bytes into events. ``partial``: the last one has been given only in part."""

    def __init__(self) -> None:
        self._rest = b""
        #: A large event, and how much of it is missing.
        self._event: EventBuffer | None = None
        self._missing = 0

    @property
    def partial(self) -> bool:
        """Whether the last event has been given only in part."""
        return bool(self._rest) or self._event is not None

    def cut(self, data: bytes) -> list[bytes]:
        """Add bytes. Return the events that are complete now, in order."""
        events: list[bytes] = []
        if self._event is not None:
            part = memoryview(data)[: self._missing]
            self._event.write(part)
            self._missing -= len(part)
            if self._missing:
                return []
            events.append(complete(self._event))
            self._event, data = None, data[len(part) :]
        found, rest = cut_events(self._rest + data if self._rest else data)
        events += found
        if len(rest) >= HEADER_SIZE:
            (size,) = _EVENT_SIZE.unpack_from(rest)
            if size >= LARGE_BYTES:
                self._event = event_buffer(size, of_rows=rest[_EVENT_KIND] in PLAIN_ROWS)
                self._event.write(rest)
                self._missing, rest = size - len(rest), b""
        self._rest = rest
        return events


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

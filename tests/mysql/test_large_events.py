"""Large events arrive in pieces, also inside of compressed ones, and are in memory once."""

from __future__ import annotations

import random
import zlib

import pytest

from engine.errors import DecodeError
from sources.mysql.binlog.compression import EventCutter, decompressed_rows
from sources.mysql.binlog.events import QUERY, WRITE_ROWS_2
from sources.mysql.binlog.packets import Packets
from sources.mysql.codec.large_event import LARGE_BYTES, LargeEvent


def event_of(kind: int, size: int, letter: bytes) -> bytes:
    head = bytes(4) + bytes([kind]) + bytes(4) + size.to_bytes(4, "little") + bytes(6)
    return head + letter * (size - len(head))


@pytest.mark.parametrize("piece", [1 << 20, (1 << 20) + 7, 1 << 26])
def test_events_are_cut_wherever_the_pieces_end(piece: int) -> None:
    events = [
        event_of(QUERY, 30, b"a"),
        event_of(WRITE_ROWS_2, LARGE_BYTES + 5, b"b"),
        event_of(QUERY, LARGE_BYTES, b"c"),
        event_of(WRITE_ROWS_2, LARGE_BYTES - 1, b"d"),
        event_of(WRITE_ROWS_2, 19, b""),
    ]
    sent, cutter, found = b"".join(events), EventCutter(), list[bytes]()
    for at in range(0, len(sent), piece):
        found += cutter.cut(sent[at : at + piece])
    assert not cutter.partial
    assert [each[:] for each in found] == events
    if piece < LARGE_BYTES:  # a piece that has the whole event is in memory already
        assert [isinstance(each, LargeEvent) for each in found] == [False, True, *[False] * 3]


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
def test_rows_that_fill_a_packet(size: int) -> None:
    """A packet has a status byte and the event; a full one is followed by another."""
    packets, sent = Packets(), b"\0" + event_of(WRITE_ROWS_2, size, b"x")
    last = event_of(QUERY, 19, b"")
    parts = [sent[:LARGE_BYTES], sent[LARGE_BYTES:], b"\0" + last]
    found = packets.cut(b"".join(len(it).to_bytes(3, "little") + b"\0" + it for it in parts))
    assert [each[:] for each in found] == [sent[1:], last]
    assert len(found[0]) == size


@pytest.mark.parametrize("size", [0, 1, 300, 1 << 20, (1 << 20) + 1, LARGE_BYTES, 3 << 23])
def test_compressed_rows_of_each_size(size: int) -> None:
    half = random.Random(size).randbytes(size // 2)
    plain = half + bytes(size - len(half))
    packed = bytes((0x84,)) + size.to_bytes(4, "big") + zlib.compress(plain, 1)
    found = decompressed_rows(b"\1\1" + packed, 0, 2 + len(packed), 1)
    assert found[:] == b"\1\1" + plain
    assert isinstance(found, LargeEvent) == (size >= LARGE_BYTES)
    for wrong in (size + 1, size - 1):
        if wrong >= 0:
            damaged = bytes((0x84,)) + wrong.to_bytes(4, "big") + packed[5:]
            with pytest.raises(DecodeError, match="does not hold"):
                decompressed_rows(b"\1\1" + damaged, 0, 2 + len(damaged), 1)

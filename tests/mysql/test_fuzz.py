"""
Damaged bytes raise only Tailrace's own errors, soon, and without allocating sizes that they claim.

Recorded events are damaged and get a valid checksum again, so the damage reaches every decoder.
"""

from __future__ import annotations

import random
import tracemalloc
import zlib
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DecodeError, SchemaError, SourceError
from sources.mysql.binlog import compression as packed
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.events import Format
from sources.mysql.binlog.packets import Packets
from sources.mysql.binlog.query_event import (
    Query,
    read_compressed_query,
    read_load_query,
    read_query,
    session_of,
)
from sources.mysql.binlog.stream import Stream
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.ddl.definitions import Definitions
from sources.mysql.position import MySQLPosition
from tests.support.recorded_logs import RECORDED, events

EXPECTED = (DecodeError, SchemaError, SourceError)
ROUNDS = 400
EVENT_READERS = (
    lambda event: ev.read_format(event, len(event)),
    lambda event: ev.read_rotate(event, len(event)),
    lambda event: ev.read_heartbeat(event, len(event), 0),
    lambda event: ev.read_heartbeat_2(event, len(event)),
    lambda event: ev.read_incident(event, len(event)),
    lambda event: ev.read_gtid(event, len(event)),
    lambda event: ev.read_anonymous_gtid(event, len(event)),
    lambda event: ev.read_tagged_gtid(event, len(event)),
    lambda event: ev.read_domain_gtid(event, len(event), 1),
    lambda event: ev.read_prepare(event, len(event)),
    lambda event: read_query(event, len(event)),
    lambda event: read_load_query(event, len(event)),
    lambda event: session_of(Query("", event[19:], b""), Format("11.8.6-MariaDB", True)),
    lambda event: read_compressed_query(event, len(event)),
    lambda event: ev.read_table_name(event, len(event)),
    lambda event: packed.decompressed_rows(event, 19, len(event), 2),
    lambda event: list(packed.payload_events(event, len(event))),
    lambda event: packed.cut_events(event),
    lambda event: packed.decompress(event),
)


def damaged(event: bytes, dice: random.Random) -> bytes:
    """The event with bytes of its body changed, removed or added; its size and checksum fit."""
    body = bytearray(event[19:-4])
    for _ in range(dice.choice((1, 1, 2, 8))):
        at = dice.randrange(len(body) + 1)
        kind = dice.random()
        if kind < 0.6 and at < len(body):
            body[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, dice.randrange(256)))
        elif kind < 0.8:
            del body[at : at + dice.randrange(1, 20)]
        else:
            body[at:at] = dice.randbytes(dice.randrange(1, 20))
    size = (19 + len(body) + 4).to_bytes(4, "little")
    kind_byte = bytes([dice.randrange(256)]) if dice.random() < 0.05 else event[4:5]
    plain = event[:4] + kind_byte + event[5:9] + size + event[13:19] + bytes(body)
    return plain + zlib.crc32(plain).to_bytes(4, "little")


@pytest.mark.parametrize("name", RECORDED)
def test_a_damaged_log_gives_changes_or_an_expected_error(name: str) -> None:
    dice = random.Random(name)
    log = [event for _, found in events(name) for event in found]
    for _ in range(ROUNDS):
        start = dice.randrange(len(log))
        at = dice.randrange(start, len(log))
        mutated = [log[0], *log[start:at], damaged(log[at], dice), *log[at + 1 :]]
        stream = Stream(
            MySQLPosition("", "binlog.000002", 4),
            Tracking((), lambda id: True, definitions=Definitions()),
        )
        with suppress(*EXPECTED):
            for _ in stream.feed(mutated):
                pass


@given(st.integers(0, len(EVENT_READERS) - 1), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(reader: int, data: bytes) -> None:
    with suppress(DecodeError):
        EVENT_READERS[reader](data)


@given(st.integers(0, len(EVENT_READERS) - 1), st.integers(0, 10_000))
def test_damaged_events_are_read_or_refused(reader: int, seed: int) -> None:
    dice = random.Random(seed)
    log = [event for _, found in events(dice.choice(RECORDED)) for event in found]
    with suppress(DecodeError):
        EVENT_READERS[reader](damaged(dice.choice(log), dice)[:-4])


@given(st.binary(max_size=300), st.integers(1, 50))
def test_packets_do_not_depend_on_how_bytes_arrive(data: bytes, step: int) -> None:
    def cut(size: int) -> tuple[list[bytes], object]:
        packets, found = Packets(), []
        try:
            for at in range(0, len(data), size):
                found += packets.cut(data[at : at + size])
                if packets.ending is not None:
                    break
        except DecodeError:
            return found, DecodeError
        return found, packets.ending

    assert cut(step)[1] == cut(1)[1]
    if cut(step)[1] is not DecodeError:
        assert cut(step)[0] == cut(1)[0]


def peak_of(event: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            for _ in packed.payload_events(event, len(event)):
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_decompression_bomb_is_refused() -> None:
    """A small payload that decompresses to far more than the size that it states."""
    bomb = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    fields = b"\x02\x01\x00" + b"\x03\x03\xfc\x00\x10" + b"\x00"
    assert peak_of(bytes(19) + fields + bomb) < 16 << 20


def test_a_stated_size_is_not_allocated() -> None:
    fields = b"\x02\x01\x00" + b"\x03\x09\xfe" + (1 << 50).to_bytes(8, "little") + b"\x00"
    assert peak_of(bytes(19) + fields + zstandard.compress(bytes(30))) < 16 << 20
    plain = zlib.compress(bytes(100))
    with pytest.raises(DecodeError, match="announced"):
        packed.decompress(b"\x84\x3f\xff\xff\xff" + plain)

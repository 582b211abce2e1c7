"""
The formats of binary log events, read from bytes as the servers write them.
"""

from __future__ import annotations

import struct
import zlib

import pytest
import zstandard

from engine.errors import DecodeError
from sources.mysql.binlog import compression as packed
from sources.mysql.binlog import events as ev
from tests.support.recorded_logs import RECORDED, events

VERSIONS = {"mysql-9.7": "9.7.", "mariadb-10.11": "10.11.", "mariadb-11.8": "11.8."}


@pytest.mark.parametrize("name", RECORDED)
def test_the_format_has_the_server_version_and_the_checksum_algorithm(name: str) -> None:
    formats = {file: ev.read_format(found[0], len(found[0])) for file, found in events(name)}
    first, *_ = formats.values()
    assert first.server_version.startswith(VERSIONS[name])
    assert first.mariadb == name.startswith("mariadb")
    assert {format.checksum for format in formats.values()} == {True, False}
    for file, found in events(name):
        for event in found[1:]:
            assert ev.checksum_is_good(event, event[4]) == formats[file].checksum


@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_logs_have_the_events_they_were_recorded_for(name: str) -> None:
    kinds = {event[4] for _, found in events(name) for event in found}
    both = {ev.QUERY, ev.ROTATE, ev.XID, ev.TABLE_MAP, ev.XA_PREPARE}
    mysql = {
        ev.GTID,
        ev.GTID_TAGGED,
        ev.TRANSACTION_PAYLOAD,
        ev.PREVIOUS_GTIDS,
        ev.WRITE_ROWS_2,
        ev.UPDATE_ROWS_2,
        ev.DELETE_ROWS_2,
    }
    mariadb = {
        ev.MARIADB_GTID,
        ev.MARIADB_GTID_LIST,
        ev.MARIADB_QUERY_COMPRESSED,
        ev.MARIADB_WRITE_ROWS_COMPRESSED_1,
        ev.MARIADB_UPDATE_ROWS_COMPRESSED_1,
        ev.MARIADB_DELETE_ROWS_COMPRESSED_1,
        ev.WRITE_ROWS_1,
    }
    assert kinds >= both | (mysql if name.startswith("mysql") else mariadb)


def test_the_checksum_ignores_that_the_log_is_in_use() -> None:
    _, found = next(events("mysql-9.7"))
    closed = found[0]
    in_use = closed[:17] + bytes([closed[17] | ev.IN_USE]) + closed[18:]
    assert ev.checksum_is_good(in_use, ev.FORMAT_DESCRIPTION)
    assert not ev.checksum_is_good(in_use[:30] + b"x" + in_use[31:], ev.FORMAT_DESCRIPTION)


def test_gtids_have_their_commit_time_and_tag() -> None:
    found = [event for _, each in events("mysql-9.7") for event in each]
    plain = [ev.read_gtid(event, len(event)) for event in found if event[4] == ev.GTID]
    numbers = [number for _, number, _ in plain]
    assert numbers == sorted(numbers)
    (tagged,) = (event for event in found if event[4] == ev.GTID_TAGGED)
    source, number, committed_at = ev.read_tagged_gtid(tagged, len(tagged) - 4)
    assert ev.source_text(source) == ev.source_text(plain[0][0]) + ":tagged"
    assert number == 1
    assert plain[0][2] <= committed_at <= plain[-1][2] + 60
    assert abs(committed_at - struct.unpack_from("<I", tagged)[0]) < 60


def inner(kind: int, body: bytes) -> bytes:
    return struct.pack("<IBIIIH", 0, kind, 1, 19 + len(body), 0, 0) + body


@pytest.mark.parametrize("compression", [0, 255])
def test_a_payload_holds_events(compression: int) -> None:
    wanted = [inner(ev.QUERY, bytes([n % 256]) * (n * 1000)) for n in range(60)]
    plain = b"".join(wanted)
    data = zstandard.compress(plain) if compression == 0 else plain
    fields = b"\x02\x01" + (b"\0" if compression == 0 else b"\x03\xfc\xff\0")
    if compression:
        fields = b"\x02\x03\xfc\xff\x00"
    fields += b"\x03\x04\xfd" + len(plain).to_bytes(3, "little") + b"\x00"
    event = bytes(19) + fields + data
    assert [each for some in packed.payload_events(event, len(event)) for each in some] == wanted
    with pytest.raises(DecodeError):
        list(packed.payload_events(event, len(event) - 1))


def test_compressed_rows_keep_their_bitmaps() -> None:
    rows = bytes(range(200))
    data = b"\x81\xc8" + zlib.compress(rows)
    event = bytes(27) + b"\x09" + b"\xff\x01" + b"\xff\x01" + data
    assert packed.decompressed_rows(event, 27, len(event), 2) == b"\x09\xff\x01\xff\x01" + rows


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, 1 << 40, (1 << 63) - 1, 1 << 63])
def test_integers_of_variable_length(value: int) -> None:
    more = min(8, (max(value.bit_length(), 1) - 1) // 7)
    ones = (1 << more) - 1
    number = value << 8 | ones if more == 8 else value << (more + 1) | ones
    data = number.to_bytes(more + 1, "little")
    assert ev.variable(data + b"rest", 0, len(data) + 4) == (value, len(data))


def test_xa_ids_are_the_same_in_events_and_statements() -> None:
    body = struct.pack("<BIII", 1, 7, 2, 1) + b"\x01\xffb"
    prepare = ev.read_prepare(bytes(19) + body, 19 + len(body))
    assert prepare == ("X'01ff',X'62',7", True)


@pytest.mark.parametrize(
    ("body", "deferred"),
    [
        ("99010000000000000000000029000000000000", False),
        ("97010000000000000000000029020000000000", True),  # START ALTER
        ("98010000000000000000000029049701000000000000", False),  # COMMIT ALTER
        ("94010000000000000000000029089301000000000000", True),  # ROLLBACK ALTER
        ("97010000000000000000000029125600000000", True),  # with the number of the session
        ("9801000000000000000000002914970100000000000056000000", False),
        ("9401000000000000000000002918930100000000000056000000", True),
        ("970100000000000000000000" + "2b" + "07" + "00" * 7 + "02", True),  # with a commit id
        ("970100000000000000000000" + "2b" + "02" + "00" * 7, False),
    ],
)
def test_the_parts_of_an_alter_in_the_gtids_of_mariadb(body: str, deferred: bool) -> None:
    event = bytes(19) + bytes.fromhex(body)
    gtid = ev.read_domain_gtid(event, len(event), 1)
    assert gtid.deferred is deferred
    assert gtid.sequence in range(0x194, 0x19A)
    assert gtid.standalone

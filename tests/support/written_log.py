"""
Binary logs that a test writes event by event, and streams that read them.
"""

from __future__ import annotations

import struct
from zlib import crc32

from engine.change import Change, Rows
from engine.schema import Column, Table, TableId, Type
from sources.mysql.binlog import events as ev
from sources.mysql.binlog.stream import Stream
from sources.mysql.binlog.tracking import Tracking
from sources.mysql.gtid import GtidSet
from sources.mysql.position import MySQLPosition

__all__ = ["ITEM", "PLAIN", "START", "UUID", "Log", "fed", "inserted", "stream_at"]

UUID = "aaaaaaaa-0000-0000-0000-000000000001"


class Log:
    """Events as a server writes them, with checksums and consecutive log positions."""

    def __init__(self, offset: int = 4) -> None:
        self.offset = offset
        self.events: list[bytes] = []

    def add(self, kind: int, body: bytes, *, log_pos: int | None = None, flags: int = 0) -> Log:
        size = 19 + len(body) + 4
        self.offset += size
        place = self.offset & 0xFFFFFFFF if log_pos is None else log_pos
        event = struct.pack("<IBIIIH", 1_700_000_000, kind, 1, size, place, flags) + body
        self.events.append(event + crc32(event).to_bytes(4, "little"))
        return self

    def query(self, text: str, schema: str = "shop") -> Log:
        name = schema.encode()
        head = struct.pack("<IIBHH", 1, 0, len(name), 0, 0)
        return self.add(ev.QUERY, head + name + b"\0" + text.encode())

    def gtid(self, number: int) -> Log:
        uuid = bytes.fromhex(UUID.replace("-", ""))
        return self.add(ev.GTID, struct.pack("<B16sq", 1, uuid, number))

    def table(self, name: str = "item") -> Log:
        table = name.encode()
        names = b"\x04" + b"\x03" + b"\x02id"  # COLUMN_NAME
        return self.add(
            ev.TABLE_MAP,
            b"\x07\0\0\0\0\0\x01\0\x04shop\0"
            + bytes([len(table)])
            + table
            + b"\0\x01\x03\0\0"
            + names,
        )

    def insert(self, id: int, *, last: bool = True) -> Log:
        head = b"\x07\0\0\0\0\0" + (b"\x01\0" if last else b"\0\0") + b"\x02\0"
        return self.add(ev.WRITE_ROWS_2, head + b"\x01\xff\xfe" + id.to_bytes(4, "little"))

    def xid(self) -> Log:
        return self.add(ev.XID, bytes(8))

    def prepare(self, name: str, *, one_phase: bool = False) -> Log:
        head = struct.pack("<BIII", one_phase, 1, len(name), 0)
        return self.add(ev.XA_PREPARE, head + name.encode())


ITEM = Table(TableId("shop", "item"), (Column("id", Type("int32"), "int", nullable=False),), (0,))


def stream_at(position: MySQLPosition, *tables: Table) -> Stream:
    tracking = Tracking(tables or (ITEM,), lambda id: id.schema == "shop")
    return Stream(position, tracking, checksum=True)


def fed(stream: Stream, log: Log) -> list[Change]:
    return [change for part in stream.feed(log.events) for change in part]


def inserted(changes: list[Change]) -> list[int]:
    return [row[0] for change in changes if isinstance(change, Rows) for row in change.after or ()]


START = MySQLPosition("s", "binlog.000001", 4, GtidSet.parse(f"{UUID}:1-9"))
PLAIN = MySQLPosition("s", "binlog.000001", 4)

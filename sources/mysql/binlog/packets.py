"""
The replication protocol's packets: received bytes in, complete events out. Pure.

A packet has a length of three bytes, a sequence number, a status byte and an event. A packet of the
maximum length is followed by a packet that continues the same event and has no status byte.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from engine.errors import DecodeError

__all__ = ["Packets", "ServerError"]

_HEAD: Final = struct.Struct("<IB")
_HEAD_SIZE: Final = 4
_LARGEST: Final = 0xFFFFFF
#: A server has no larger events: ``max_allowed_packet`` is at most 1 GiB.
_LARGEST_EVENT: Final = (1 << 30) + (1 << 20)
_OK, _EOF, _ERR = 0x00, 0xFE, 0xFF


class ServerError(NamedTuple):
    """An ERR packet, or an EOF packet (code 0) with which the server ends the dump."""

    code: int
    message: str


class Packets:
    """Cuts received bytes into events. ``ending`` is set when the server has ended the dump."""

    def __init__(self) -> None:
        self.ending: ServerError | None = None
        self._chunks: list[bytes] = []
        self._missing = 0
        self._parts: list[bytes] = []
        self._parts_size = 0

    @property
    def partial(self) -> bool:
        """Whether the last event has been received only in part."""
        return bool(self._chunks or self._parts)

    def cut(self, data: bytes) -> list[bytes]:
        """Add received bytes. Return the events that are complete now, in order."""
        if self._chunks:
            # A packet that arrives in many pieces is joined once, so the cost stays linear.
            self._chunks.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._chunks)
        events: list[bytes] = []
        read_head, largest, parts = _HEAD.unpack_from, _LARGEST, self._parts
        at, received = 0, len(data)
        last_start = received - 5
        while at <= last_start:
            head, status = read_head(data, at)
            size = head & largest
            end = at + _HEAD_SIZE + size
            if end > received:
                break
            if not status and not parts and size != largest:
                events.append(data[at + 5 : end])
            elif not self._take_unusual(data[at + _HEAD_SIZE : end], events):
                break
            at = end
        self._keep(data[at:] if at else data)
        return events

    def _keep(self, rest: bytes) -> None:
        self._chunks = [rest] if rest else []
        size = _HEAD_SIZE + max(1, int.from_bytes(rest[:3], "little"))
        self._missing = (size if len(rest) >= 3 else _HEAD_SIZE + 1) - len(rest)

    def _take_unusual(self, payload: bytes, events: list[bytes]) -> bool:
        """Take a part of a large event, an ERR or an EOF; return False if the dump has ended."""
        if self._parts or (len(payload) == _LARGEST and payload[0] == _OK):
            self._parts.append(payload if self._parts else payload[1:])
            self._parts_size += len(payload)
            if self._parts_size > _LARGEST_EVENT:
                raise DecodeError("an event of the replication stream is larger than 1 GiB")
            if len(payload) < _LARGEST:
                events.append(b"".join(self._parts))
                self._parts.clear()
                self._parts_size = 0
            return True
        status = payload[0] if payload else None
        if status == _ERR and len(payload) >= 3:
            code = int.from_bytes(payload[1:3], "little")
            text = payload[9:] if payload[3:4] == b"#" else payload[3:]
            self.ending = ServerError(code, text.decode("utf-8", "replace"))
        elif status == _EOF:
            self.ending = ServerError(0, "the server has ended the stream")
        else:
            raise DecodeError(f"a packet of the replication stream has the status {status}")
        return False

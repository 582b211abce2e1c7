"""
The replication protocol's packets: received bytes in, complete events out. Pure.

A packet has a length of three bytes, a sequence number, a status byte and an event. A packet of the
maximum length is followed by a packet that continues the same event and has no status byte.

An event of several packets is collected in one buffer (``large_event``).

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from engine.errors import DecodeError
from sources.mysql.binlog.events import PLAIN_ROWS
from sources.mysql.codec.large_event import EventBuffer, complete, event_buffer

__all__ = ["Packets", "ServerError"]

_HEAD: Final = struct.Struct("<IB")
_HEAD_SIZE: Final = 4
_LARGEST: Final = 0xFFFFFF
#: A server sends no larger events: ``max_allowed_packet`` is at most 1 GiB.
_LARGEST_EVENT: Final = (1 << 30) + (1 << 20)
#: Where a packet has the kind and the size of its event: after the status, in the event's header.
_EVENT_KIND: Final = 5
_EVENT_SIZE: Final = slice(10, 14)
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
        #: The event that continues in the next packet.
        self._event: EventBuffer | None = None
        self._missing_of_event = 0

    @property
    def partial(self) -> bool:
        """Whether the last event has been received only in part."""
        return bool(self._chunks) or self._event is not None

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
        read_head, largest = _HEAD.unpack_from, _LARGEST
        at, received = 0, len(data)
        last_start = received - 5
        while at <= last_start:
            head, status = read_head(data, at)
            size = head & largest
            end = at + _HEAD_SIZE + size
            if end > received:
                break
            if not status and self._event is None and size != largest:
                events.append(data[at + 5 : end])
            elif not self._take_unusual(memoryview(data)[at + _HEAD_SIZE : end], events):
                break
            at = end
        self._keep(data[at:] if at else data)
        return events

    def _keep(self, rest: bytes) -> None:
        self._chunks = [rest] if rest else []
        size = _HEAD_SIZE + max(1, int.from_bytes(rest[:3], "little"))
        self._missing = (size if len(rest) >= 3 else _HEAD_SIZE + 1) - len(rest)

    def _take_unusual(self, payload: memoryview, events: list[bytes]) -> bool:
        """Take a part of a large event, an ERR or an EOF; return False if the dump has ended."""
        full = len(payload) == _LARGEST
        if self._event is not None:
            self._add(self._event, payload)
            if not full:
                event, self._event = self._event, None
                events.append(complete(event))
                if self._missing_of_event:
                    raise DecodeError(
                        "an event of the replication stream is smaller than its header says"
                    )
            return True
        if full and payload[0] == _OK:
            size = self._missing_of_event = int.from_bytes(payload[_EVENT_SIZE], "little")
            if size > _LARGEST_EVENT:
                raise DecodeError("an event of the replication stream is larger than 1 GiB")
            self._event = event_buffer(size, of_rows=payload[_EVENT_KIND] in PLAIN_ROWS)
            self._add(self._event, payload[1:])
            return True
        status = payload[0] if payload else None
        if status == _ERR and len(payload) >= 3:
            error = bytes(payload)
            text = error[9:] if error[3:4] == b"#" else error[3:]
            code = int.from_bytes(error[1:3], "little")
            self.ending = ServerError(code, text.decode("utf-8", "replace"))
        elif status == _EOF:
            self.ending = ServerError(0, "the server has ended the stream")
        else:
            raise DecodeError(f"a packet of the replication stream has the status {status}")
        return False

    def _add(self, event: EventBuffer, part: memoryview) -> None:
        self._missing_of_event -= len(part)
        if self._missing_of_event < 0:
            raise DecodeError("an event of the replication stream is larger than its header says")
        event.write(part)

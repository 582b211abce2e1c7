"""
The rows of a query, read straight from the connection's socket.

PyMySQL reads packet by packet and value by value. Here the socket is read in large pieces, and the
decoder takes all row packets that are complete in a piece. The rest is handled here: packets that
are cut by the end of a piece, rows that continue in another packet, and the packets before and
after the rows. PyMySQL's own buffered reader holds nothing between two complete responses, so
PyMySQL can use the connection before and after.

The format is ``COM_QUERY_RESPONSE`` of the client/server protocol, with EOF packets (PyMySQL does
not set CLIENT_DEPRECATE_EOF).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from pymysql.connections import Connection
from pymysql.constants.COMMAND import COM_QUERY
from pymysql.err import OperationalError, raise_mysql_exception

from engine.change import Row
from engine.databases.mysql.pymysql_adapter import send_command, take_socket
from engine.errors import TableUnreadable
from sources.mysql.codec.large_event import LargeEvent

__all__ = ["Decoder", "cut_rows", "query_rows"]

_PIECE_BYTES = 1 << 18
_LARGE_PIECE_BYTES = 1 << 20
_WHOLE = 0xFFFFFF  # a packet of this size continues in the next one
_EOF, _ERROR, _TWO_BYTES = 0xFE, 0xFF, 0xFC
_EOF_LONGEST = 8
_LOST, _MALFORMED = 2013, 2027
#: No value is larger, because ``max_allowed_packet`` is at most 1 GiB.
_LARGEST_ROW = 1 << 30


class Decoder(Protocol):
    """Makes rows from row packets, see ``sources.mysql.snapshot.text_rows``."""

    def take(self, data: bytes, start: int) -> tuple[list[Row], int]:
        """The rows of the packets from ``start`` on, and the position where ``cut_rows`` stops."""
        ...

    def decode(self, packets: list[bytes]) -> list[Row]:
        """The rows of complete packets, which are given without their headers."""
        ...

    def decode_large(self, packet: LargeEvent) -> Row:
        """The row of a packet that is given in memory of its own."""
        ...


def query_rows(
    connection: Connection[Any],
    query: str,
    decoder: Decoder,
    timeout_seconds: float,
    before_huge: Callable[[], None] = lambda: None,
) -> Iterator[tuple[list[Row], int]]:
    """Run the query on a PyMySQL connection; yield its rows piece by piece, and their bytes.
    ``before_huge`` is called before a row of more than 16 MiB is received, and may wait.

    Raises PyMySQL's errors, OSError, and what the decoder raises; TableUnreadable for a row of more
    than 1 GiB; TimeoutError after ``timeout_seconds`` without a byte. If the iterator is not read
    to its end, or the decoder raises, the connection must be closed.
    """
    send_command(connection, COM_QUERY, query)
    # The socket is read from the first byte on: PyMySQL's reader would buffer bytes of the rows.
    socket = take_socket(connection, timeout_seconds)
    cutter = _Cutter(decoder, before_huge)
    while True:
        piece = socket.recv(cutter.wants)
        if not piece:
            raise OperationalError(_LOST, "the server closed the connection")
        found = cutter.cut(piece)
        yield found, len(piece)
        if cutter.ended:
            return


def cut_rows(data: bytes, start: int) -> tuple[list[bytes], int]:
    """The row packets from ``start`` on, without their headers, and the position of the first
    packet that is incomplete, continues in another packet, or is not a row.
    """
    packets: list[bytes] = []
    add = packets.append
    at, end = start, len(data)
    while at + 4 < end:
        size = data[at] | data[at + 1] << 8 | data[at + 2] << 16
        first = at + 4
        stop = first + size
        if stop > end or size == _WHOLE or not size:
            break
        if data[first] >= _EOF and (size <= _EOF_LONGEST or data[first] == _ERROR):
            break
        add(data[first:stop])
        at = stop
    return packets, at


class _Cutter:
    """Makes rows from the pieces of a stream; keeps an incomplete packet for the next piece."""

    def __init__(self, decoder: Decoder, before_huge: Callable[[], None]) -> None:
        self._before_huge = before_huge
        self.ended = False
        self.wants = _PIECE_BYTES
        self._decoder = decoder
        self._skip = -1
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._needed = 0
        #: The parts of a row that continues in the next packet, and its size.
        self._long: list[LargeEvent] | None = None
        self._long_size = 0
        #: Whether another part follows the last one, and how much of that one is missing.
        self._continues = False
        self._missing = 0

    def cut(self, piece: bytes) -> list[Row]:
        """The rows that this piece completes."""
        rows: list[Row] = []
        at = 0
        if self._missing:
            at = self._fill(memoryview(piece)[: self._missing])
            if self._missing:
                return []
            rows = self._end_part()
        elif self._rest:
            self._rest.append(piece)
            self._rest_size += len(piece)
            if self._rest_size < self._needed:
                return []
            piece = b"".join(self._rest)
            self._rest = []
        while not self.ended:
            if not self._skip and self._long is None:
                taken, at = self._decoder.take(piece, at)
                rows = rows + taken if rows else taken
            stop = self._whole(piece, at)
            if not stop:
                self._keep(piece, at)
                break
            rows += self._other(memoryview(piece)[at + 4 : stop])
            at = stop
        return rows

    def _whole(self, piece: bytes, at: int) -> int:
        """The end of the packet at this position; 0 if the packet is incomplete."""
        self._needed = 4
        if at + 4 > len(piece):
            return 0
        self._needed += int.from_bytes(piece[at : at + 3], "little")
        stop = at + self._needed
        return stop if stop <= len(piece) else 0

    def _other(self, part: memoryview) -> list[Row]:
        """Handle a packet that the decoder did not take; return the row that it completes."""
        if len(part) == _WHOLE or self._long is not None:
            return self._continue(part)
        packet = bytes(part)
        if not packet:
            raise OperationalError(_MALFORMED, "the server sent an empty packet")
        if self._skip:
            self._head(packet)
        else:
            self._end(packet)
        return []

    def _head(self, packet: bytes) -> None:
        """The number of columns, or an error; then the columns' definitions and an EOF packet."""
        if packet[0] == _ERROR:
            raise_mysql_exception(packet)
        if self._skip < 0:
            wide = packet[0] == _TWO_BYTES
            self._skip = int.from_bytes(packet[1:3], "little") if wide else packet[0]
            self._skip += 2
        self._skip -= 1

    def _keep(self, piece: bytes, at: int) -> None:
        self._rest_size = len(piece) - at
        size = self._needed - 4
        if self._rest_size >= 4 and (size == _WHOLE or self._long is not None):
            self._begin_part(size)
            self._fill(memoryview(piece)[at + 4 :])
            return
        self._rest = [piece[at:]] if self._rest_size else []
        # For a long packet, ask for its rest at once: the pieces are joined when it is complete.
        self.wants = max(_PIECE_BYTES, min(self._needed - self._rest_size, _WHOLE))

    def _continue(self, part: memoryview) -> list[Row]:
        """Take a part of a long row; return the row that it completes."""
        self._begin_part(len(part))
        self._fill(part)
        return self._end_part()

    def _begin_part(self, size: int) -> None:
        if self._long is None:
            self._before_huge()
            self._long, self._long_size = [], 0
        self._long_size += size
        self._continues = size == _WHOLE
        if self._long_size > _LARGEST_ROW:
            raise TableUnreadable(
                "the table has a row of more than 1 GiB",
                hint="make the row smaller on the source, or leave the table out: exclude in"
                " [source]",
            )
        if size:
            self._long.append(LargeEvent(size))
        self._missing, self.wants = size, _LARGE_PIECE_BYTES

    def _fill(self, part: memoryview) -> int:
        """Add bytes to the last part of a long row; return their number."""
        if part and self._long:
            self._long[-1].write(part)
        self._missing -= len(part)
        return len(part)

    def _end_part(self) -> list[Row]:
        """The row, if this part is the last one."""
        if self._long is None or self._continues:
            return []
        row, parts, self._long = LargeEvent(self._long_size), self._long, None
        for each in parts:
            row.write(each)
            each.close()
        return [self._decoder.decode_large(row)]

    def _end(self, packet: bytes) -> None:
        if packet[0] == _ERROR:
            raise_mysql_exception(packet)
        self.ended = True

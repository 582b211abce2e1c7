"""
The rows of a query, straight from the connection's socket.

PyMySQL reads packet by packet and value by value; here the socket is read in large pieces, and each
is given to the decoder as a whole, which takes all row packets that it holds. What is left is
handled here: packets that a piece's end has cut, those that go on in another, and the last one.
PyMySQL's own buffered reader holds nothing between two complete responses, so its connection can be
used before and after.

The format is ``COM_QUERY_RESPONSE`` of the client/server protocol, with EOF packets (PyMySQL does
not ask for their successors).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from pymysql.constants.COMMAND import COM_QUERY
from pymysql.err import OperationalError, raise_mysql_exception

from engine.change import Row
from engine.databases.mysql.pymysql_adapter import send_command, take_socket

__all__ = ["Decoder", "cut_rows", "query_rows"]

_PIECE_BYTES = 1 << 18
_WHOLE = 0xFFFFFF  # a packet of this size goes on in the next one
_EOF, _ERROR, _TWO_BYTES = 0xFE, 0xFF, 0xFC
_EOF_LONGEST = 8
_LOST, _MALFORMED = 2013, 2027


class Decoder(Protocol):
    """Makes rows of row packets, see ``sources.mysql.snapshot.text_rows``."""

    def take(self, data: bytes, start: int) -> tuple[list[Row], int]:
        """The rows whose packets begin at ``start``, as far as ``cut_rows`` goes."""
        ...

    def decode(self, packets: list[bytes]) -> list[Row]:
        """The rows of whole packets, without their heads."""
        ...


def query_rows(
    connection: Any, query: str, decoder: Decoder, timeout_seconds: float
) -> Iterator[tuple[list[Row], int]]:
    """Run the query on a PyMySQL connection; yield its rows as they come, and their bytes.

    Raises PyMySQL's errors, OSError, and what the decoder raises; TimeoutError after
    ``timeout_seconds`` without a byte. If it is left before its end, or by an error of the decoder,
    the connection must be closed.
    """
    send_command(connection, COM_QUERY, query)
    # From its first byte on: PyMySQL's reader would keep what it has read too much.
    socket = take_socket(connection, timeout_seconds)
    cutter = _Cutter(decoder)
    while True:
        piece = socket.recv(cutter.wants)
        if not piece:
            raise OperationalError(_LOST, "the server closed the connection")
        found = cutter.cut(piece)
        yield found, len(piece)
        if cutter.ended:
            return


def cut_rows(data: bytes, start: int) -> tuple[list[bytes], int]:
    """The row packets from ``start`` on, without their heads, and where the first one stands that
    is not whole, goes on in another, or is no row.
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
    """Pieces of a stream → rows; what is cut off waits for the next piece."""

    def __init__(self, decoder: Decoder) -> None:
        self.ended = False
        self.wants = _PIECE_BYTES
        self._decoder = decoder
        self._skip = -1
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._needed = 0
        self._long: list[bytes] = []

    def cut(self, piece: bytes) -> list[Row]:
        """The rows whose packets are whole up to here."""
        if self._rest:
            self._rest.append(piece)
            self._rest_size += len(piece)
            if self._rest_size < self._needed:
                return []
            piece = b"".join(self._rest)
            self._rest = []
        rows: list[Row] = []
        at = 0
        while not self.ended:
            if not (self._skip or self._long):
                taken, at = self._decoder.take(piece, at)
                rows = rows + taken if rows else taken
            stop = self._whole(piece, at)
            if not stop:
                self._keep(piece, at)
                break
            rows += self._other(piece[at + 4 : stop])
            at = stop
        return rows

    def _whole(self, piece: bytes, at: int) -> int:
        """Where the packet at this place ends; 0 if it is cut off."""
        self._needed = 4
        if at + 4 > len(piece):
            return 0
        self._needed += int.from_bytes(piece[at : at + 3], "little")
        stop = at + self._needed
        return stop if stop <= len(piece) else 0

    def _other(self, packet: bytes) -> list[Row]:
        """What is not simply a row's packet; the row that it completes, if it does."""
        if len(packet) == _WHOLE or self._long:
            return self._continue(packet)
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
        self._rest = [piece[at:]] if self._rest_size else []
        # A long packet is not joined anew with each piece of it.
        self.wants = max(_PIECE_BYTES, min(self._needed - self._rest_size, _WHOLE))

    def _continue(self, part: bytes) -> list[Row]:
        self._long.append(part)
        if len(part) == _WHOLE:
            return []
        packet, self._long = b"".join(self._long), []
        return self._decoder.decode([packet])

    def _end(self, packet: bytes) -> None:
        if packet[0] == _ERROR:
            raise_mysql_exception(packet)
        self.ended = True

"""
The rows of a query, as packets, straight from the connection's socket.

PyMySQL reads packet by packet and value by value; here the socket is read in large pieces and cut,
nothing more. PyMySQL's own buffered reader holds nothing between two complete responses, so its
connection can be used before and after.

The format is ``COM_QUERY_RESPONSE`` of the client/server protocol, with EOF packets (PyMySQL does
not ask for their successors).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pymysql.constants.COMMAND import COM_QUERY
from pymysql.err import OperationalError, raise_mysql_exception

__all__ = ["packets"]

_PIECE_BYTES = 1 << 18
_WHOLE = 0xFFFFFF  # a packet of this size goes on in the next one
_EOF, _ERROR, _TWO_BYTES = 0xFE, 0xFF, 0xFC
_EOF_LONGEST = 8
_LOST = 2013


def packets(connection: Any, query: str, timeout_seconds: float) -> Iterator[list[bytes]]:
    """Run the query on a PyMySQL connection; yield its row packets, as many as one read brings.

    Raises PyMySQL's errors, and OSError; TimeoutError after ``timeout_seconds`` without a byte. If
    it is left before its end, the connection must be closed.
    """
    connection._execute_command(COM_QUERY, query)
    # From its first byte on: PyMySQL's reader would keep what it has read too much.
    socket = connection._sock
    socket.settimeout(timeout_seconds)
    cutter = _Cutter()
    while True:
        piece = socket.recv(cutter.wants)
        if not piece:
            raise OperationalError(_LOST, "the server closed the connection")
        rows = cutter.cut(piece)
        if rows:
            yield rows
        if cutter.ended:
            return


class _Cutter:
    """Pieces of a stream → packets; what is cut off waits for the next piece."""

    def __init__(self) -> None:
        self.ended = False
        self.wants = _PIECE_BYTES
        self._skip = -1
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._needed = 0
        self._long: list[bytes] = []

    def cut(self, piece: bytes) -> list[bytes]:
        """The whole row packets up to here."""
        if self._rest:
            self._rest.append(piece)
            self._rest_size += len(piece)
            if self._rest_size < self._needed:
                return []
            piece = b"".join(self._rest)
            self._rest = []
        rows: list[bytes] = []
        add = rows.append
        at, end = 0, len(piece)
        self._needed = 4
        while at + 4 <= end:
            size = piece[at] | piece[at + 1] << 8 | piece[at + 2] << 16
            start = at + 4
            stop = start + size
            if stop > end:
                self._needed = stop - at
                break
            at = stop
            if size == _WHOLE or self._long:
                self._continue(piece[start:stop], size == _WHOLE, rows)
            elif self._skip:
                self._head(piece[start:stop])
            elif piece[start] >= _EOF and (size <= _EOF_LONGEST or piece[start] == _ERROR):
                self._end(piece[start:stop])
                return rows
            else:
                add(piece[start:stop])
        self._keep(piece, at)
        return rows

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

    def _continue(self, part: bytes, more: bool, rows: list[bytes]) -> None:
        self._long.append(part)
        if not more:
            rows.append(b"".join(self._long))
            self._long = []

    def _end(self, packet: bytes) -> None:
        if packet[0] == _ERROR:
            raise_mysql_exception(packet)
        self.ended = True

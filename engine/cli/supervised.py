"""
The engine's side of a supervisor: the option ``--supervised SOCKET`` of ``tailrace run``.

The standard input of such an engine is one end of a socket pair. When the supervisor is gone, the
other end is closed, and the engine commits and stops. The error with which it ends goes there, too.
The API is served at the Unix socket SOCKET, in a folder that only this user can open, instead of
the address of the configuration, and needs no token.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from engine.errors import TailraceError
from engine.ops.supervisor.processes import LastWords
from engine.remedies import remedy_of

__all__ = ["stop_with_supervisor", "tell_supervisor"]


def stop_with_supervisor(stop: Callable[[], None]) -> None:
    """Call ``stop`` when the supervisor is gone."""
    loop = asyncio.get_running_loop()

    def closed() -> None:
        loop.remove_reader(sys.stdin.fileno())
        stop()

    loop.add_reader(sys.stdin.fileno(), closed)


def tell_supervisor(error: TailraceError, config: Path) -> None:
    """Tell the supervisor why the engine ends."""
    words = LastWords(str(error), remedy_of(error, str(config)))
    with suppress(OSError), socket.socket(fileno=sys.stdin.fileno()) as supervisor:
        supervisor.sendall(msgspec.json.encode(words))
        supervisor.detach()

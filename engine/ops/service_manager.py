"""
What systemd wants to know of a service of ``Type=notify``: sd_notify(3), over the datagram socket
that the variable NOTIFY_SOCKET names. Without the variable nothing is sent.

The service is ready when its configuration is read and its server listens. A source or a target
that is away is no failure of the service, because the engine waits for it; the state in words is in
the line ``Status`` of ``systemctl status``. The watchdog is notified by the event loop, so a loop
that hangs is ended and started again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from engine.ops.log import printable

__all__ = ["ServiceManager", "as_service"]

#: How often the state is sent.
STATUS_SECONDS = 5.0


class ServiceManager:
    """The service manager of this process, if it has one."""

    def __init__(self) -> None:
        path = os.environ.get("NOTIFY_SOCKET", "")
        #: A name in the abstract namespace begins with @ (sd_notify(3)).
        self._address = "\0" + path[1:] if path.startswith("@") else path

    @property
    def present(self) -> bool:
        """Whether somebody is told."""
        return bool(self._address)

    @property
    def watchdog_seconds(self) -> float | None:
        """How long the watchdog waits for this process; None if there is none."""
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        text = os.environ.get("WATCHDOG_USEC", "")
        return int(text) / 1e6 if text.isdecimal() and int(text) else None

    def tell(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1``. A manager that is gone is no error."""
        if not self._address:
            return
        message = "\n".join(map(printable, assignments)).encode()
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(self._address)
            sender.send(message)


@asynccontextmanager
async def as_service(status: Callable[[], str]) -> AsyncGenerator[None, None]:
    """Tell the service manager that the service is ready, then its ``status`` in words and that the
    event loop works, until the context is left. It is stopping then.
    """
    manager = ServiceManager()
    if not manager.present:
        yield
        return
    manager.tell("READY=1", f"STATUS={status()}")
    task = asyncio.create_task(_go_on(manager, status))
    try:
        yield
    finally:
        task.cancel()
        manager.tell("STOPPING=1", "STATUS=Stopping: whole transactions are committed first.")


async def _go_on(manager: ServiceManager, status: Callable[[], str]) -> None:
    limit = manager.watchdog_seconds
    wait = min(STATUS_SECONDS, limit / 3) if limit else STATUS_SECONDS
    while True:
        await asyncio.sleep(wait)
        manager.tell(f"STATUS={status()}", *(["WATCHDOG=1"] if limit else []))

"""
Tells the receivers of ``[notify.NAME]`` what happens to a pipeline.

Each receiver gets its notifications one at a time and in order. What fails is tried again with
back-off, under the same id, so a receiver that has seen the id may ignore it. Notifications are
kept in memory: those that wait when the process is killed are lost, and the next start raises the
alerts that still hold.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import httpx
import msgspec

from engine.errors import ConfigError
from engine.ops.delivery import Failure, execute, post
from engine.ops.notifications import Notification, Notifications
from engine.ops.status import Status
from engine.settings.notify import NotifySettings

__all__ = ["NotificationCounts", "notifying", "sending"]

log = logging.getLogger("tailrace.notify")

#: By receiver and outcome: ``sent``, ``failed`` (an attempt that is followed by another one), or
#: ``lost``.
NotificationCounts = Counter[tuple[str, str]]

#: How often the status is compared with the one before.
WATCH_SECONDS = 1.0
#: The wait before the second attempt, which doubles up to the longest one.
FIRST_SECONDS = 1.0
LONGEST_SECONDS = 300.0
#: How many notifications wait for one receiver. The oldest is dropped for the next one.
MOST_WAITING = 1000
#: How long the end of the engine waits for the receivers.
CLOSE_SECONDS = 5.0


@asynccontextmanager
async def notifying(
    receivers: Mapping[str, NotifySettings],
    status: Callable[[], Status],
    notifications: Notifications,
    counts: NotificationCounts,
) -> AsyncGenerator[None, None]:
    """Send what follows from ``status`` until the context is left. The end waits for the last ones
    for a short time. ``counts`` is counted up.
    """
    async with sending(receivers, counts) as send:
        if send is None:
            yield
            return

        def look() -> None:
            send(notifications.following(status(), datetime.now(UTC), time.monotonic()))

        async def watch() -> None:
            while True:
                look()
                await asyncio.sleep(WATCH_SECONDS)

        watching = asyncio.create_task(watch())
        watching.add_done_callback(_log_failure)
        try:
            yield
        finally:
            watching.cancel()
            look()
            await asyncio.gather(watching, return_exceptions=True)


@asynccontextmanager
async def sending(
    receivers: Mapping[str, NotifySettings], counts: NotificationCounts
) -> AsyncGenerator[Callable[[Sequence[Notification]], None] | None, None]:
    """A function that sends notifications until the context is left; None without receivers. The
    end waits for the last ones for a short time. ``counts`` is counted up.

    Raises ConfigError if requests cannot be sent from this machine.
    """
    queues = [_Receiver(name, it, counts) for name, it in receivers.items() if it.url or it.command]
    if not queues:
        yield None
        return

    def send(found: Sequence[Notification]) -> None:
        for queue in queues:
            queue.add(found)

    tasks = [asyncio.create_task(queue.run()) for queue in queues]
    for task in tasks:
        task.add_done_callback(_log_failure)
    try:
        yield send
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(queue.join() for queue in queues))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for queue in queues:
            queue.drop_rest()


class _Receiver:
    """One receiver, and the notifications that wait for it."""

    def __init__(self, name: str, settings: NotifySettings, counts: NotificationCounts) -> None:
        self._name = name
        self._settings = settings
        self._counts = counts
        self._queue: asyncio.Queue[Notification] = asyncio.Queue()
        self._client = _client(name, settings) if settings.url else None

    def add(self, notifications: Sequence[Notification]) -> None:
        """Put those into the queue that the receiver wants."""
        for it in notifications:
            if it.event in self._settings.events:
                if self._queue.qsize() == MOST_WAITING:
                    self._lost(self._queue.get_nowait(), "too many wait")
                    self._queue.task_done()
                self._queue.put_nowait(it)

    async def join(self) -> None:
        """Wait until nothing waits."""
        await self._queue.join()

    def drop_rest(self) -> None:
        """At the end: say which notifications were not sent."""
        while not self._queue.empty():
            self._lost(self._queue.get_nowait(), "the engine has ended")

    async def run(self) -> None:
        """Send what is in the queue, until cancelled."""
        try:
            while True:
                notification = await self._queue.get()
                try:
                    await self._send(notification)
                except asyncio.CancelledError:
                    self._lost(notification, "the engine has ended")
                    raise
                finally:
                    self._queue.task_done()
        finally:
            if self._client is not None:
                await self._client.aclose()

    async def _send(self, notification: Notification) -> None:
        """Try until it is sent, refused, or too old."""
        wait = FIRST_SECONDS
        while True:
            if self._client is not None:
                failure = await self._post(notification, self._client)
            else:
                failure = await self._execute(notification)
            if failure is None:
                self._counts[self._name, "sent"] += 1
                return
            age = (datetime.now(UTC) - notification.timestamp).total_seconds()
            if failure.final or age + wait > self._settings.give_up_seconds:
                self._lost(notification, failure.reason)
                return
            self._counts[self._name, "failed"] += 1
            log.warning(
                "a notification is not sent, and is tried again",
                extra={"receiver": self._name, "error": failure.reason, "delay_seconds": wait},
            )
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_SECONDS)

    def _lost(self, notification: Notification, reason: str) -> None:
        self._counts[self._name, "lost"] += 1
        log.error(
            "a notification is lost",
            extra={"receiver": self._name, "notification": notification.type, "error": reason},
        )

    async def _post(self, notification: Notification, client: httpx.AsyncClient) -> Failure | None:
        settings = self._settings
        return await post(
            client,
            settings.url,
            notification.id,
            msgspec.json.encode(notification),
            secret=settings.secret,
            seconds=settings.timeout_seconds,
        )

    async def _execute(self, notification: Notification) -> Failure | None:
        """Run the command, with the notification as JSON on its standard input."""
        about = {
            "TAILRACE_NOTIFICATION_ID": notification.id,
            "TAILRACE_NOTIFICATION_TYPE": notification.type,
        }
        body = msgspec.json.encode(notification) + b"\n"
        settings = self._settings
        return await execute(settings.command, body, about, seconds=settings.timeout_seconds)


def _client(name: str, settings: NotifySettings) -> httpx.AsyncClient:
    """The client of a webhook, by the variables of the environment that httpx knows."""
    try:
        return httpx.AsyncClient(timeout=settings.timeout_seconds)
    except (ImportError, OSError, ValueError) as error:  # its message may have a password
        raise ConfigError(
            f"notify.{name}: no request can be sent: {type(error).__name__}",
            hint="look at the variables ALL_PROXY, HTTP_PROXY, HTTPS_PROXY and SSL_CERT_FILE",
        ) from error


def _log_failure(task: asyncio.Task[None]) -> None:
    """Say that a task has ended by a bug."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("no notifications are sent any more", exc_info=error)

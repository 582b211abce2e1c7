"""
Tells the receivers of ``[notify.NAME]`` what happens to a pipeline.

Each receiver gets its notifications one at a time and in order. What fails is tried again with
back-off, under the same id, so a receiver that has seen the id may ignore it. Notifications are
kept in memory: those that wait when the process is killed are lost, and the next start raises the
alerts that still hold.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple

import httpx
import msgspec

from engine.ops.notifications import Notification, Notifications
from engine.ops.status import Status
from engine.settings.notify import NotifySettings, secret_bytes

__all__ = ["NotificationCounts", "notifying", "signed"]

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

#: The answers that say that a notification will never be taken.
REFUSED = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.GONE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


class _Failure(NamedTuple):
    """Why an attempt failed, and whether another one would fail, too."""

    reason: str
    final: bool = False


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
    queues = [_Receiver(name, it, counts) for name, it in receivers.items() if it.url or it.command]
    if not queues:
        yield
        return

    def look() -> None:
        found = notifications.following(status(), datetime.now(UTC), time.monotonic())
        for queue in queues:
            queue.add(found)

    async def watch() -> None:
        while True:
            look()
            await asyncio.sleep(WATCH_SECONDS)

    watching = asyncio.create_task(watch())
    sending = [asyncio.create_task(queue.run()) for queue in queues]
    try:
        yield
    finally:
        watching.cancel()
        look()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(queue.join() for queue in queues))
        for task in sending:
            task.cancel()
        await asyncio.gather(watching, *sending, return_exceptions=True)
        for queue in queues:
            queue.drop_rest()


class _Receiver:
    """One receiver, and the notifications that wait for it."""

    def __init__(self, name: str, settings: NotifySettings, counts: NotificationCounts) -> None:
        self._name = name
        self._settings = settings
        self._counts = counts
        self._queue: asyncio.Queue[Notification] = asyncio.Queue()

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
        async with httpx.AsyncClient(timeout=self._settings.timeout_seconds) as client:
            while True:
                notification = await self._queue.get()
                try:
                    await self._send(notification, client)
                except asyncio.CancelledError:
                    self._lost(notification, "the engine has ended")
                    raise
                finally:
                    self._queue.task_done()

    async def _send(self, notification: Notification, client: httpx.AsyncClient) -> None:
        """Try until it is sent, refused, or too old."""
        wait = FIRST_SECONDS
        while True:
            if self._settings.url:
                failure = await self._post(notification, client)
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

    async def _post(self, notification: Notification, client: httpx.AsyncClient) -> _Failure | None:
        """Send a request. A redirect is not followed, because it could lead anywhere."""
        body = msgspec.json.encode(notification)
        headers = {
            "content-type": "application/json",
            "user-agent": "tailrace",
            **signed(notification.id, int(time.time()), body, self._settings.secret),
        }
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                async with client.stream(
                    "POST", self._settings.url, content=body, headers=headers
                ) as answer:
                    status = answer.status_code
        except TimeoutError:
            return _Failure("the receiver does not answer in time")
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # its message may have the URL
            return _Failure(f"the receiver cannot be reached: {type(error).__name__}")
        if 200 <= status < 300:
            return None
        return _Failure(f"the receiver answers with status {status}", final=status in REFUSED)

    async def _execute(self, notification: Notification) -> _Failure | None:
        """Run the command, with the notification as JSON on its standard input."""
        body = msgspec.json.encode(notification) + b"\n"
        about = {
            "TAILRACE_NOTIFICATION_ID": notification.id,
            "TAILRACE_NOTIFICATION_TYPE": notification.type,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *self._settings.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=os.environ | about,
                start_new_session=True,  # Ctrl-C is for the engine
            )
        except OSError as error:
            return _Failure(f"the command cannot be started: {error.strerror}")
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                await process.communicate(body)
        except TimeoutError:
            return _Failure("the command does not end in time")
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            return _Failure(f"the command ends with status {process.returncode}")
        return None


def signed(id: str, at: int, body: bytes, secret: str) -> dict[str, str]:
    """The headers of Standard Webhooks for an attempt at ``at``, in Unix seconds; without a
    ``secret`` there is no signature
    (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
    """
    headers = {"webhook-id": id, "webhook-timestamp": str(at)}
    if secret:
        digest = hmac.new(
            secret_bytes(secret), b"%b.%d.%b" % (id.encode(), at, body), hashlib.sha256
        )
        headers["webhook-signature"] = "v1," + base64.b64encode(digest.digest()).decode()
    return headers

"""
``[notify.NAME]``: who is told of changes of state, and how.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.errors import ConfigError

__all__ = ["Event", "NotifySettings", "secret_bytes"]

Event = Literal["alert", "state", "table", "cutover"]

#: What a secret begins with, and how many bytes follow, as the specification of Standard Webhooks
#: has it: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
SECRET_PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)


class NotifySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A receiver of notifications: the ``url`` of a webhook, or a ``command``. One with neither
    receives nothing.

    With a ``secret``, requests are signed. ``events`` selects what is sent. An attempt that takes
    longer than ``timeout_seconds`` has failed, and the next one follows until a notification is
    older than ``give_up_seconds``.
    """

    url: str = ""
    secret: str = ""
    command: tuple[str, ...] = ()
    events: tuple[Event, ...] = ("alert", "state", "table", "cutover")
    timeout_seconds: Annotated[float, Meta(gt=0)] = 10.0
    give_up_seconds: Annotated[float, Meta(gt=0)] = 3600.0

    def __post_init__(self) -> None:
        if self.url and self.command:
            raise ConfigError(
                "notify: a receiver has a url and a command",
                hint="write one [notify.NAME] for each",
            )
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ConfigError("notify: url is not an http or https URL", hint='write "https://…"')
        if self.secret:
            if not self.url:
                raise ConfigError("notify: a secret needs a url", hint="delete it, or add the url")
            secret_bytes(self.secret)


def secret_bytes(secret: str) -> bytes:
    """The key of a secret. Raises ConfigError if it is not one of Standard Webhooks."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or len(key) not in SECRET_BYTES:
        raise ConfigError(
            f"notify: secret is not {SECRET_PREFIX} and the base64 of"
            f" {SECRET_BYTES.start} to {SECRET_BYTES.stop - 1} bytes",
            hint='`echo "whsec_$(openssl rand -base64 32)"` prints a good one',
        )
    return key

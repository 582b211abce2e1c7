"""
OpenTelemetry: spans of what the pipeline does, sent by OTLP over HTTP.

    attempt ◀──link── transaction ─┬─ batch ── apply
                                   ├─ chunk ── apply
                                   └─ commit
    command

A transaction is one transaction on the target, from its first change to its commit or rollback. It
is a trace of its own, because an attempt may last for months.

The packages are those of the extra ``tailrace[otel]``. Only ``engine.ops.otel`` imports them, if an
endpoint is configured. Otherwise the pipeline has ``NO_TRACING``, whose methods do nothing.
Spans wait in a bounded queue for a thread that sends them. If the receiver is away, spans are
dropped, and the pipeline does not notice.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

__all__ = ["NO_TRACING", "Tracing"]

_NOTHING: Final = nullcontext()


class Tracing:
    """The spans of one pipeline. This class makes none."""

    def span(self, name: str, **attributes: str | int) -> AbstractContextManager[None]:
        """A span of its own for the body: an attempt or a command."""
        return _NOTHING

    def inside(self, name: str, **attributes: str | int) -> AbstractContextManager[None]:
        """A span for the body, in that of the transaction, which the first one opens."""
        return _NOTHING

    def commit(self, position: str) -> AbstractContextManager[None]:
        """A span for a commit, if a transaction is open."""
        return _NOTHING

    def end_transaction(self, error: str = "") -> None:
        """The transaction is committed, or ends with an error of this class."""

    def close(self) -> None:
        """Send what waits, for a short time."""


NO_TRACING: Final = Tracing()

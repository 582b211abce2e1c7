"""
The log: one logger named ``tailrace``, one line per event, as text or as JSON.

A line has a message and ``extra`` fields that say where: pipeline, table, position, counts. Both
formats have the same fields, which ``FIELDS`` in ``engine.ops.log_fields`` lists. Repeats are
limited (``engine.ops.repeats``).

Row values and secrets are never logged. The URL of a server passes through
``engine.settings.secrets.redact`` first. A traceback has no messages, except those of Tailrace's
own errors, because the message of another exception may contain a value. Warnings of libraries are
written without their arguments, for the same reason.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import orjson

from engine.errors import TailraceError
from engine.ops.repeats import RepeatLimit
from engine.settings.loader import LogFormat, LogLevel

__all__ = [
    "JsonFormatter",
    "TextFormatter",
    "configure",
    "printable",
    "write_held",
    "write_repeats",
]

#: The logger of Tailrace; those of its modules are below it.
ROOT: Final = "tailrace"
#: How often the held lines are looked at.
HELD_SECONDS = 1.0

#: The attributes of every log record; all others were passed as ``extra``.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: How psycopg begins a warning of what follows an error that it raises, which is logged itself.
_ECHO: Final = "error ignored terminating"
#: A value that needs no quotes in a text line.
PLAIN = re.compile(r"[\w.:/,+@*-]+")


def configure(format: LogFormat, level: LogLevel, pipeline: str = "") -> None:
    """Send the logger ``tailrace`` to standard error, and what other libraries warn of. Replaces an
    earlier configuration. ``pipeline`` is for lines that do not name theirs.
    """
    handler = StandardError(pipeline)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logger = logging.getLogger(ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    others = logging.getLogger()
    others.handlers[:] = [it for it in others.handlers if not isinstance(it, StandardError)]
    others.addHandler(handler)
    threading.excepthook = _thread_failed


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Log the exception that has ended a thread; Python would print its message."""
    error = failure.exc_value
    if error is not None:
        logging.getLogger(ROOT).error("a thread has failed", exc_info=error)


class StandardError(logging.Handler):
    """Writes to the current ``sys.stderr``, which the terminal view replaces while it is shown, so
    that log lines scroll above it. Repeats are limited.
    """

    def __init__(self, pipeline: str = "", limit: RepeatLimit | None = None) -> None:
        super().__init__()
        self._pipeline = pipeline
        self._limit = limit or RepeatLimit()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or hold it back."""
        if not _is_own(record):
            if record.levelno < logging.WARNING or str(record.msg).startswith(_ECHO):
                return
            record = _without_values(record)
        if self._pipeline and not hasattr(record, "pipeline"):
            record.pipeline = self._pipeline
        self._write(self._limit.take(record))

    def write_due(self) -> None:
        """Write the lines that were held back long enough."""
        self.acquire()
        try:
            self._write(self._limit.due())
        finally:
            self.release()

    def flush(self) -> None:
        """Write all lines that are held back. ``logging`` calls this at the end of the process."""
        self.acquire()
        try:
            self._write(self._limit.rest())
        finally:
            self.release()

    def _write(self, records: Iterable[logging.LogRecord]) -> None:
        for record in records:
            try:
                sys.stderr.write(self.format(record) + "\n")
                sys.stderr.flush()
            except (OSError, ValueError):  # it is closed
                self.handleError(record)


async def write_repeats() -> None:
    """Write held lines when they are due, until cancelled."""
    while True:
        await asyncio.sleep(HELD_SECONDS)
        for handler in _handlers():
            handler.write_due()


def write_held() -> None:
    """Write all lines that are held back, before the process or a run ends."""
    for handler in _handlers():
        handler.flush()


def _handlers() -> list[StandardError]:
    handlers = logging.getLogger(ROOT).handlers
    return [handler for handler in handlers if isinstance(handler, StandardError)]


def _is_own(record: logging.LogRecord) -> bool:
    return record.name == ROOT or record.name.startswith(f"{ROOT}.")


def _without_values(record: logging.LogRecord) -> logging.LogRecord:
    """What a library logs, up to where its message may have a value."""
    text = re.split(r"['\"<%{\n]", str(record.msg), maxsplit=1)[0].strip()
    record.msg, record.args = text or "a warning of a library", None
    return record


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """The record's ``extra`` fields, in the order in which they were given."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


class _Formatter(logging.Formatter):
    """Formats exceptions without the messages that may contain values."""

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """The stack of the exception and of those that caused it, and their classes."""
        found: list[str] = []
        error, seen = ei[1], set[int]()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            stack = "".join(traceback.format_tb(error.__traceback__))
            kind = f"{type(error).__module__}.{type(error).__qualname__}"
            message = f": {printable(str(error))}" if isinstance(error, TailraceError) else ""
            found.append(f"Traceback (most recent call last):\n{stack}{kind}{message}")
            hidden = error.__suppress_context__
            error = error.__cause__ or (None if hidden else error.__context__)
        return "\n\nThe cause of the following:\n\n".join(reversed(found))


class JsonFormatter(_Formatter):
    """``time`` (ISO, UTC), ``level``, ``logger``, ``message``, the extra fields, and ``exception``
    where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class TextFormatter(_Formatter):
    """The same fields for people: ``2026-01-31T12:00:00.000Z INFO message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        words = [moment(record), f"{record.levelname:<7}", printable(record.getMessage())]
        words += (f"{name}={quoted(value)}" for name, value in fields(record).items())
        if record.exc_info:
            words.append("\n" + self.formatException(record.exc_info))
        return " ".join(words)


def moment(record: logging.LogRecord) -> str:
    """The record's time in ISO 8601, UTC, to the millisecond."""
    when = datetime.fromtimestamp(record.created, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03}Z"


def quoted(value: object) -> str:
    """A value in a text line, in quotes where it needs them."""
    text = str(value)
    return text if PLAIN.fullmatch(text) else printable(orjson.dumps(text).decode())


def printable(text: str) -> str:
    """The text with escapes in place of line breaks, control characters and characters that change
    the direction of writing. A name with such characters could otherwise forge a line of the log,
    or control the terminal.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)

"""
The log: one logger named ``tailrace``, one line per event, as text or as JSON.

A line has a message and ``extra`` fields that say where: pipeline, table, position, counts. Both
formats have the same fields. Row values and secrets are never logged; the URL of a server passes
through ``engine.settings.secrets.redact`` first.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

from engine.settings.loader import LogFormat, LogLevel

__all__ = ["JsonFormatter", "TextFormatter", "configure", "printable"]

#: The attributes of every log record; all others were passed as ``extra``.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: A value that needs no quotes in a text line.
PLAIN = re.compile(r"[\w.:/,+@*-]+")


def configure(format: LogFormat, level: LogLevel) -> None:
    """Send the logger ``tailrace`` to standard error. Replaces an earlier configuration."""
    handler = StandardError()
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logger = logging.getLogger("tailrace")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


class StandardError(logging.Handler):
    """Writes to the current ``sys.stderr``, which the terminal view replaces while it is shown, so
    that log lines scroll above it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except OSError:
            self.handleError(record)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """The record's ``extra`` fields, in the order in which they were given."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


class JsonFormatter(logging.Formatter):
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


class TextFormatter(logging.Formatter):
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

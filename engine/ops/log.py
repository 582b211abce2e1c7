"""
The log: one logger named ``tailrace``, one line per event, as text or as JSON.

A line is a message in plain words, and the ``extra`` fields that say where: pipeline, table,
position, counts. Both formats carry the same fields. Row values and secrets never get here; the
name of a server is passed through ``redact`` first.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

__all__ = ["Format", "JsonFormatter", "Level", "TextFormatter", "configure", "redact"]

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

#: What every log record has; all else was passed as ``extra``.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: Up to the last @, since a password that was not encoded may hold anything.
PASSWORD_IN_ACCOUNT = re.compile(r"(?<=://)([^/?#:@]*):.*(?=@)", re.DOTALL)
PASSWORD_IN_QUERY = re.compile(r"(?i)([?&][^=&#]*(?:password|secret|token)[^=&#]*=)[^&#]*")
#: A value that needs no quotes in a text line.
PLAIN = re.compile(r"[\w.:/,+@*-]+")


def configure(format: Format, level: Level) -> None:
    """Send the logger ``tailrace`` to standard error; replaces what was configured before."""
    handler = StandardError()
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logger = logging.getLogger("tailrace")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


class StandardError(logging.Handler):
    """Writes to what standard error is at the moment: a live view may have taken its place, to let
    log lines scroll above it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except OSError:
            self.handleError(record)


def redact(url: str) -> str:
    """The URL without its passwords, for messages."""
    return PASSWORD_IN_QUERY.sub(r"\1***", PASSWORD_IN_ACCOUNT.sub(r"\1:***", url))


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """The record's ``extra`` fields, in the order in which they were given."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


class JsonFormatter(logging.Formatter):
    """``time`` (ISO, UTC), ``level``, ``logger``, ``message``, then the extra fields, perhaps
    ``exception``.
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
    """The same for people: ``2026-01-31T12:00:00.000Z INFO message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        words = [moment(record), f"{record.levelname:<7}", record.getMessage()]
        words += (f"{name}={quoted(value)}" for name, value in fields(record).items())
        if record.exc_info:
            words.append("\n" + self.formatException(record.exc_info))
        return " ".join(words)


def moment(record: logging.LogRecord) -> str:
    """The record's time in ISO 8601, UTC, to the millisecond."""
    when = datetime.fromtimestamp(record.created, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03}Z"


def quoted(value: object) -> str:
    """A value in a text line, in quotes where it would not stand for itself."""
    text = str(value)
    return text if PLAIN.fullmatch(text) else orjson.dumps(text).decode()

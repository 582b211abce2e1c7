"""
The error tree: every failure that Tailrace raises on purpose.

    TailraceError
    ├── ConfigError       the configuration, or the command line, is wrong
    ├── SourceError       the source refuses, or cannot go on
    │   └── SourceLost    the connection to the source broke or stalled (retried)
    ├── SinkError         the target refuses, or cannot go on
    │   └── SinkLost      the connection to the target broke or stalled (retried)
    ├── DecodeError       bytes of the log are not what the format says
    ├── SchemaError       a table's shape is unknown or cannot be followed
    │   └── ShapeChanged  the live table is ahead of the log (the stream goes first)
    ├── ApplyError        the target cannot take a change
    ├── Fenced            a newer engine runs this pipeline
    ├── ParityError       the comparison of both sides cannot be made
    └── CutoverError      a step of the cutover is refused

Driver errors are translated at the border of ``sources`` and ``sinks`` (``raise … from error``), so
nothing inside the engine knows a driver. A message names what happened, the hint says what to type
or change. Neither may hold a row value or a secret.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ApplyError",
    "ConfigError",
    "CutoverError",
    "DecodeError",
    "Fenced",
    "ParityError",
    "SchemaError",
    "ShapeChanged",
    "SinkError",
    "SinkLost",
    "SourceError",
    "SourceLost",
    "TailraceError",
]


class TailraceError(Exception):
    """Base of all: a message, and what an operator needs to act on it."""

    #: Whether the pipeline may reconnect and go on from the checkpoint by itself.
    retryable: ClassVar[bool] = False
    #: The exit status of a command that ends with this error.
    exit_status: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        table: object | None = None,
        position: object | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.table = None if table is None else str(table)
        self.position = None if position is None else str(position)

    def __str__(self) -> str:
        text = self.message
        if self.table is not None:
            text += f" [table {self.table}]"
        if self.position is not None:
            text += f" [position {self.position}]"
        return text


class ConfigError(TailraceError):
    """The configuration or the command line is wrong."""

    exit_status = 2


class SourceError(TailraceError):
    """The source refuses or cannot go on; waiting does not mend it."""


class SourceLost(SourceError):
    """The connection to the source broke, stalled, or could not be made."""

    retryable = True


class SinkError(TailraceError):
    """The target refuses or cannot go on; waiting does not mend it."""


class SinkLost(SinkError):
    """The connection to the target broke, stalled, or could not be made.

    If it broke in COMMIT the outcome is unknown: the pipeline reads the checkpoint back, always.
    """

    retryable = True


class DecodeError(TailraceError):
    """Bytes of a log that are not what their format says."""


class SchemaError(TailraceError):
    """A table's shape at a position is unknown, or a schema change cannot be followed."""


class ShapeChanged(SchemaError):
    """The live table has another shape than the log has had so far: the stream must go first."""


class ApplyError(TailraceError):
    """The target cannot take a change that was decoded well."""


class Fenced(TailraceError):
    """A newer engine has taken over this pipeline; this one must stop and change nothing."""


class ParityError(TailraceError):
    """Both sides cannot be compared (differences found are a result, not an error)."""


class CutoverError(TailraceError):
    """A step of the cutover is refused."""

    exit_status = 4

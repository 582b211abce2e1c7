"""
The errors that Tailrace raises on purpose.

    TailraceError
    ├── ConfigError       the configuration or the command line is wrong
    ├── SourceError       the source refuses a request, or its log cannot be followed
    │   ├── SourceLost    the connection to the source broke or stalled (retried)
    │   ├── SourceRejected    the source rejects the connection (retried for a while, not at first)
    │   ├── SourceDenied  the source denies a request for want of a right (retried likewise)
    │   └── TableUnreadable   one table of the source cannot be read
    ├── SinkError         the target refuses a request
    │   ├── SinkLost      the connection to the target broke or stalled (retried)
    │   ├── SinkRejected  the target rejects the connection (retried for a while, not at first)
    │   └── SinkDenied    the target denies a request for want of a right (retried likewise)
    ├── DecodeError       the bytes of a log do not follow their format
    ├── SchemaError       the shape of a table is unknown or cannot be followed
    │   ├── ShapeChanged  the live table is ahead of the log (retried after the stream has advanced)
    │   │   └── TableRecreated  … or was created anew, perhaps with the same shape
    │   └── UnloggedChange    a change of one table that the log does not show exactly
    ├── ApplyError        the target cannot store a change
    ├── Fenced            a newer engine runs this pipeline
    ├── DeadlineExceeded  a run has not caught up in time
    ├── ApiError          the API of an engine does not answer, or refuses a request
    ├── ListenError       the address of the API cannot be used now
    └── OutputError       the result of a command cannot be written

``engine.databases`` translates the errors of drivers (``raise … from error``), so nothing above it
knows a driver. The message says what happened. The hint says what to type or
change. Neither may contain a row value or a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:  # the environment of a clone is made before msgspec is installed
    from engine.schema import TableId

__all__ = [
    "ApiError",
    "ApplyError",
    "ConfigError",
    "DeadlineExceeded",
    "DecodeError",
    "Fenced",
    "ListenError",
    "OutputError",
    "SchemaError",
    "ShapeChanged",
    "TableRecreated",
    "SinkDenied",
    "SinkError",
    "SinkLost",
    "SinkRejected",
    "SourceDenied",
    "SourceError",
    "SourceLost",
    "SourceRejected",
    "TableUnreadable",
    "TailraceError",
    "UnloggedChange",
]


class TailraceError(Exception):
    """The base class: a message, a hint, and the table and position that they are about."""

    #: Whether the pipeline reconnects and resumes from the checkpoint after this error.
    retryable: ClassVar[bool] = False
    #: Whether the error, if it names a table, concerns that table alone: the policy ``on_error``
    #: then decides whether the others go on.
    of_one_table: ClassVar[bool] = False
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
        #: The logged statement that failed, without the values in it. Empty if none did.
        self.statement = ""
        #: The place of the transaction in which it happened, for `tailrace skip`. Empty if none.
        self.transaction = ""
        #: Whether it may concern another table, which the next attempt tells.
        self.undecided = False

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
    """The source refuses a request, or its log cannot be followed. Retrying does not help."""


class SourceLost(SourceError):
    """The connection to the source broke, stalled, or could not be made."""

    retryable = True


class SourceRejected(SourceError):
    """The source rejects the connection, or there is no host of its name.

    A pipeline that has worked retries it for a while: a password or a certificate may be about to
    be replaced. At a pipeline's start the configuration is wrong.
    """


class SourceDenied(SourceError):
    """The source denies a request, because the user has no right to it.

    A pipeline that has resumed at a checkpoint, or has finished its first backfill, had the right
    before, and retries it for a while: it may be about to be granted again. Before that the set-up
    is wrong.
    """


class TableUnreadable(SourceError):
    """One table of the source cannot be read, such as one that is marked as crashed."""

    of_one_table = True


class SinkError(TailraceError):
    """The target refuses a request. Retrying does not help."""


class SinkLost(SinkError):
    """The connection to the target broke, stalled, or could not be made.

    If it broke during COMMIT, the outcome is unknown. The pipeline always reads the checkpoint
    back.
    """

    retryable = True


class SinkRejected(SinkError):
    """The target rejects the connection, or there is no host of its name, or no such folder.

    It is retried as ``SourceRejected``.
    """


class SinkDenied(SinkError):
    """The target denies a request, because the user has no right to it.

    It is retried as ``SourceDenied``.
    """


class DecodeError(TailraceError):
    """The bytes of a log do not follow their format."""

    of_one_table = True


class SchemaError(TailraceError):
    """The shape of a table at a position is unknown, or a schema change cannot be followed."""

    of_one_table = True


class ShapeChanged(SchemaError):
    """The live table has a newer shape than the stream has reached. The stream must advance."""


class TableRecreated(ShapeChanged):
    """The live table was created anew, such as by TRUNCATE. Its shape may be the same."""


class UnloggedChange(SchemaError):
    """The rows or the shape of one table change in a way that the log does not show, or that the
    target cannot do exactly. Other tables are not affected.

    The policy ``unlogged_change`` decides what follows. ``moved``: the table's name is no longer
    one of the pipeline's, so the table cannot be backfilled again. ``needs_twin``: it cannot be
    backfilled in place.
    """

    def __init__(
        self,
        message: str,
        *,
        table: TableId,
        hint: str = "",
        position: object | None = None,
        moved: bool = False,
        needs_twin: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, table=table, position=position)
        self.id = table
        self.moved = moved
        self.needs_twin = needs_twin

    def about(self, table: TableId) -> UnloggedChange:
        """The same error of the table under another name."""
        error = UnloggedChange(
            self.message,
            table=table,
            hint=self.hint,
            position=self.position,
            moved=self.moved,
            needs_twin=self.needs_twin,
        )
        error.undecided = self.undecided
        return error


class ApplyError(TailraceError):
    """The target cannot store a change that was decoded correctly."""

    of_one_table = True
    #: Whether the values of rows are the reason, so that other rows of the table can be stored.
    of_rows = True


class Fenced(TailraceError):
    """A newer engine runs this pipeline. This engine must stop and change nothing.

    Its exit status tells what restarts engines that another start would only fence the newer one.
    """

    exit_status = 4


class DeadlineExceeded(TailraceError):
    """The pipeline has not done what it should do in time."""


class ApiError(TailraceError):
    """The API of an engine does not answer, or refuses a request of a command line.

    ``status`` is the status code of its response; None if there was none.
    """

    def __init__(self, message: str, *, hint: str = "", status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class ListenError(TailraceError):
    """The address of the API cannot be used now, such as one that the machine gets later."""


class OutputError(TailraceError):
    """Standard output, or the file that a command writes, cannot be written."""

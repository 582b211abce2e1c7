"""
The output of commands: results on standard output, errors and progress on standard error.

A result is a struct, printed as JSON or as tables. Characters that the terminal's encoding does not
have are printed as escapes. Standard streams that are closed are replaced by the null device, since
otherwise the next socket would get their number.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from engine.errors import OutputError
from engine.ops.log import printable

if TYPE_CHECKING:  # it takes a tenth of a second to import, and JSON does not need it
    from rich.console import RenderableType

__all__ = ["prepare_streams", "print_json", "print_tables", "print_warning", "write_records"]


def prepare_streams() -> None:
    """Make the standard streams usable. Call it before anything opens a file or a socket."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed; open() returns the lowest free number, which is this one
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_json(result: object) -> None:
    """Print a result as one line of JSON. Raises OutputError if it cannot be written."""
    write_records([msgspec.json.encode(result) + b"\n"])


def print_tables(tables: RenderableType) -> None:
    """Print a result for people. Raises OutputError if it cannot be written."""
    from rich.console import Console

    try:
        Console().print(tables, crop=False)  # a command that is longer than a line stays whole
    except OSError as error:
        raise _refused(error) from error


def print_warning(text: str, remedy: str) -> None:
    """Print a warning on standard error, and what to do about it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("warning: ", "bold yellow"), printable(text)))
    if remedy:
        console.print(Text.assemble(("what to do: ", "bold"), printable(remedy)))


def write_records(lines: Sequence[bytes]) -> None:
    """Write lines of JSON to standard output. Raises OutputError if they cannot be written."""
    try:
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise _refused(error) from error


def _refused(error: OSError) -> OSError | OutputError:
    """A broken pipe stays what it is: the reader has seen enough."""
    if isinstance(error, BrokenPipeError):
        return error
    # What is left in the buffer cannot be written at exit either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return OutputError(f"cannot write to standard output: {error.strerror or error}")

"""
Places and statements of the source as they are shown and stored: without the values of rows. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.change import Begin, Change, SchemaChange
from engine.errors import TailraceError

__all__ = ["locate", "without_literals"]

#: The number of characters of a statement that an error shows.
SHOWN_STATEMENT = 500
#: A number that is not the length of a type, and not a part of a name.
_LONG_NUMBER = re.compile(r"(?<![\w`$.])(?:\d[\d.]{5,})(?![\w`$])")


def without_literals(statement: str) -> str:
    """A statement up to its first string, in one line, with ``?`` for long numbers. Both may hold
    values of rows.
    """
    shown = re.split("['\"]", statement[:SHOWN_STATEMENT], maxsplit=1)[0]
    shown, length = _LONG_NUMBER.sub("?", shown), len(shown)
    return " ".join(shown.split()) + (" …" if length < len(statement) else "")


def locate(error: TailraceError, changes: Sequence[Change]) -> None:
    """Note the place in the log from which on ``changes`` were applied, and the statement."""
    for change in changes:
        if type(change) is Begin and error.position is None:
            error.position = str(change.position)
        elif type(change) is SchemaChange and not error.statement:
            named = {str(it.id) for it in (change.before, change.after) if it is not None}
            if error.table in named:
                error.statement = without_literals(change.statement)

"""
Remedies: how the hint of an error names a command line. Pure.

A hint has the command line in backquotes, with placeholders as in the command's usage::

    `tailrace backfill CONFIG TABLE` reads the table again
    add "TABLE" to exclude in [source]

What shows the hint knows the path of the configuration as the user typed it, and the table of the
error. ``rendered`` is the one place that puts them in.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from engine.errors import TailraceError

__all__ = [
    "BACKFILL",
    "BACKFILL_ALL",
    "REPAIR",
    "SKIP_STATEMENT",
    "SKIP_TRANSACTION",
    "and_then",
    "remedy_of",
    "rendered",
]

#: The remedy for a table whose rows on the target are not those of the source.
BACKFILL: Final = "`tailrace backfill CONFIG TABLE` reads the table again"
#: The remedy for rows that a comparison has found different.
REPAIR: Final = (
    "`tailrace verify CONFIG --table TABLE --repair` shows the rows, and asks to repair them"
)
#: The remedy for a log that cannot be followed from the checkpoint on.
BACKFILL_ALL: Final = (
    "`tailrace backfill CONFIG --all` reads all tables again, and goes on at the end of the log"
)
#: The remedies for an event, or a transaction, that stops the pipeline.
SKIP_STATEMENT: Final = (
    "`tailrace skip CONFIG --statement POSITION` goes on without what it changes"
)
SKIP_TRANSACTION: Final = (
    "`tailrace skip CONFIG --transaction TRANSACTION` goes on without the whole transaction"
)

#: A command line, and the name of a table, or of a column of it, in a line of a configuration.
_COMMAND_LINE: Final = re.compile(r"`tailrace [^`]*`")
_NAME: Final = re.compile(r'"TABLE(?=["\.])')


def rendered(
    hint: str, *, config: str = "", table: str = "", position: str = "", transaction: str = ""
) -> str:
    """``hint`` with these in the place of CONFIG, TABLE, POSITION (of a statement) and TRANSACTION
    (the place where it begins); an empty one stays.
    """
    given = {
        "CONFIG": config,
        "TABLE": table,
        "POSITION": position,
        "TRANSACTION": transaction,
    }

    def put(line: re.Match[str]) -> str:
        words = (
            shlex.quote(given[word]) if given.get(word) else word
            for word in line[0].strip("`").split(" ")
        )
        return f"`{' '.join(words)}`"

    if table:
        hint = _NAME.sub(lambda _: f'"{table}', hint)
    return _COMMAND_LINE.sub(put, hint)


def remedy_of(error: TailraceError, config: str) -> str:
    """What to do about an error, with the command lines that skip the place that raised it."""
    skips = (SKIP_STATEMENT, SKIP_TRANSACTION) if error.transaction else ()
    return rendered(
        and_then(error.hint, *skips),
        config=config,
        table=error.table or "",
        position=error.position or "",
        transaction=error.transaction,
    )


def and_then(hint: str, *more: str) -> str:
    """A hint with further steps, without those that it has already."""
    for step in more:
        if step not in hint:
            hint = f"{hint.rstrip('.')}; {step}" if hint else step
    return hint

"""
Cuts a SQL script, such as a dump, into its statements. Pure.

A script is read as the ``mysql`` client reads it: ``DELIMITER`` changes the delimiter, ``USE``
needs none, and quotes and comments may contain it. The scan takes one match per statement, so a
dump with data costs little more than reading it. It accepts any bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from mmap import mmap
from typing import Final, NamedTuple

__all__ = ["ScriptStatement", "script_statements"]

# Space and comments before a statement. The comments of version 999999 are MariaDB's, for its
# client: no server runs them.
_BETWEEN: Final = re.compile(
    rb"(?: [\x00-\x20]++ | \#[^\n]*+ | --(?=[\x00-\x20]|\Z)[^\n]*+"
    rb" | /\*(?!M?!).*?\*/ | /\*M?!999999.*?\*/ )++",
    re.VERBOSE | re.DOTALL,
)
_DELIMITER: Final = re.compile(rb"DELIMITER[ \t]++([^\s]++)[^\n]*+", re.IGNORECASE)
_USE: Final = re.compile(rb"USE\s++(`(?:[^`]++|``)*+`|[^\s;`]++)[ \t]*+[;\n]?", re.IGNORECASE)
# A quote that is not closed counts as a plain character, so the scan ends.
_STATEMENT: Final = rb"""
  (?: [^'"`/#\-FIRST]++
    | '(?:[^'\\]++|\\.|'')*+' | "(?:[^"\\]++|\\.|"")*+" | `(?:[^`]++|``)*+`
    | \#[^\n]*+ | --(?=[\x00-\x20])[^\n]*+ | /\*(?!M?!).*?\*/
    | (?!DELIMITER).
  )*+
"""


class ScriptStatement(NamedTuple):
    """A statement without its delimiter, the comments before it, and the number of its line."""

    sql: bytes
    comments: bytes
    line: int


def script_statements(script: bytes | mmap) -> Iterator[ScriptStatement]:
    """The statements of a script, in order. ``USE`` is one of them, ``DELIMITER`` is not."""
    at, line, delimiter = 0, 1, b";"
    comments = b""
    while at < len(script):
        start = at
        if found := _BETWEEN.match(script, at):
            comments += found[0]
        elif found := _DELIMITER.match(script, at):
            delimiter = found[1]
        elif found := _USE.match(script, at):
            yield ScriptStatement(b"USE " + found[1], comments, line)
            comments = b""
        else:
            found = _pattern(delimiter).match(script, at)
            assert found is not None
            if found[0].strip():
                yield ScriptStatement(found[0], comments, line)
                comments = b""
        at = found.end()
        line += found[0].count(b"\n")
        if script[at : at + len(delimiter)] == delimiter:
            at += len(delimiter)
        elif at == start:
            at += 1


@lru_cache(maxsize=8)
def _pattern(delimiter: bytes) -> re.Pattern[bytes]:
    first = re.escape(delimiter[:1])
    text = _STATEMENT.replace(b"FIRST", first).replace(b"DELIMITER", re.escape(delimiter))
    return re.compile(text, re.VERBOSE | re.DOTALL)

"""
A logged statement as messages show it: without the values in it. Pure.
"""

from __future__ import annotations

from typing import Final

from sources.mysql.ddl.tokens import Tokens

__all__ = ["masked"]

#: The number of characters after which a statement is cut off.
LONGEST: Final = 500
#: Statements whose short numbers belong to a definition, not to rows: the length of a type has at
#: most five digits. A longer number may be a default, or the constant of an expression.
_DEFINITIONS: Final = frozenset(("ALTER", "CREATE", "DROP", "RENAME", "TRUNCATE"))
_LENGTH_DIGITS: Final = 5


def masked(sql: str) -> str:
    """The statement in one line, with ``?`` for each string, and for each number that may be one of
    a row.
    """
    tokens = Tokens(sql)
    rows = tokens.peek().word not in _DEFINITIONS
    text, end = "", 0
    while (token := tokens.next()).kind != "end" and len(text) <= LONGEST:
        space = " " if text and token.start > end else ""
        shown = sql[token.start : token.end]
        number = token.kind == "number" or (token.kind == "word" and shown[0].isdigit())
        value = token.kind in ("string", "quoted", "broken") or (
            number and (rows or len(shown) > _LENGTH_DIGITS)
        )
        text += space + ("?" if value else shown)
        end = token.end
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"

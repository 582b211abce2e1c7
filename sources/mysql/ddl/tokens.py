"""
The tokenizer for the SQL of MySQL and MariaDB, and a cursor over its tokens. Pure.

It is one regular expression that is applied lazily: a statement of 100 MB costs only the tokens
that are read. It handles constructs that general SQL tokenizers do not: the SQL in version comments
(``/*!50100 … */``, ``/*M!100301 … */``; before a server logs a statement it blanks the mark of
those that it did not execute), names that start with a digit, and MySQL's escapes in strings. It
accepts any text: an invalid part becomes a token that no grammar rule takes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal, NamedTuple

__all__ = ["Token", "Tokens", "Unreadable", "quote"]

TokenKind = Literal["word", "name", "string", "quoted", "number", "symbol", "broken", "end"]

# The groups are possessive: there is no backtracking, so the time is linear in the text.
_TOKEN: Final = r"""
    (?P<space> [\x00-\x20]++
      | \#[^\n]*+
      | --(?=[\x00-\x20]|\Z)[^\n]*+
      | VERSION_MARK [0-9]{0,6}
      | \*/
      | /\*.*?(?:\*/|\Z) )
  | (?P<number> (?: [0-9]++(?:\.[0-9]*+)? | (?<![\w$`"])\.[0-9]++ )
                (?: [eE][+-]?[0-9]++ )? (?![\w$\x80-\U0010ffff]) )
  | (?P<word> [\w$\x80-\U0010ffff]++ )
  | `(?P<name> (?:[^`]++|``)*+ ) (?:`|(?P<open_name>\Z))
  | '(?P<string> (?:[^'ESCAPE]++|ESCAPE.?|'')*+ ) (?:'|(?P<open_string>\Z))
  | "(?P<quoted> (?:[^"ESCAPE]++|ESCAPE.?|"")*+ ) (?:"|(?P<open_quoted>\Z))
  | (?P<symbol> . )
"""
_ESCAPE: Final = re.compile(r"\\(.)|''|\"\"", re.DOTALL)
_ESCAPED: Final = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}
_KEPT: Final = frozenset("%_")  # outside LIKE these escapes keep their backslash


@lru_cache
def _pattern(mariadb: bool, backslash_escapes: bool) -> re.Pattern[str]:
    mark = r"/\*M?!" if mariadb else r"/\*!"
    text = _TOKEN.replace("VERSION_MARK", mark)
    if not backslash_escapes:
        text = text.replace("ESCAPE.?|", "").replace("ESCAPE", "")
    return re.compile(text.replace("ESCAPE", r"\\"), re.VERBOSE | re.DOTALL)


class Unreadable(Exception):
    """The text does not match the known grammar. The message has the place, never the text."""


class Token(NamedTuple):
    """One token of a statement.

    ``word`` is an unquoted word in upper case or a symbol, and empty for other tokens. ``text`` is
    the token without its quotes. ``start`` and ``end`` are its place in the statement.
    """

    kind: TokenKind
    word: str
    text: str
    start: int
    end: int


class Tokens:
    """A cursor over the tokens of one statement. A semicolon ends it."""

    def __init__(self, sql: str, *, mariadb: bool = False, backslash_escapes: bool = True) -> None:
        self.sql = sql
        self._match = _pattern(mariadb, backslash_escapes).match
        self._mariadb = mariadb
        self._escapes = backslash_escapes
        self._ahead: list[Token] = []
        self._place = 0
        self._scanned = 0
        self._rest = len(sql)

    def of(self, sql: str) -> Tokens:
        """A cursor over another text, with the same rules."""
        return Tokens(sql, mariadb=self._mariadb, backslash_escapes=self._escapes)

    def rest(self) -> Tokens | None:
        """A cursor over what follows the semicolon, after all tokens are taken; None if nothing."""
        return self.of(self.sql[self._rest :]) if self._rest < len(self.sql) else None

    def peek(self, ahead: int = 0) -> Token:
        """The token that is ``ahead`` tokens away; a token of kind ``end`` after the last one."""
        while len(self._ahead) <= self._place + ahead:
            self._ahead.append(self._scan())
        return self._ahead[self._place + ahead]

    def next(self) -> Token:
        """Take one token of any kind. The end can be taken any number of times."""
        token = self.peek()
        if token.kind != "end":
            self._place += 1
        return token

    @property
    def ended(self) -> bool:
        """Whether all tokens are taken."""
        return self.peek().kind == "end"

    def at(self, *words: str) -> bool:
        """Whether these words and symbols come next."""
        return all(self.peek(ahead).word == word for ahead, word in enumerate(words))

    def at_any(self, words: frozenset[str]) -> bool:
        """Whether one of these words or symbols comes next."""
        return self.peek().word in words

    def take(self, *words: str) -> bool:
        """Take these words and symbols if they come next. Return whether they did."""
        if not self.at(*words):
            return False
        self._place += len(words)
        return True

    def take_any(self, words: frozenset[str]) -> str:
        """Take one of these words if it comes next. Return it, or an empty string."""
        return self.next().word if self.at_any(words) else ""

    def expect(self, *words: str) -> None:
        """Take these words and symbols. Raises Unreadable if they do not come next."""
        if not self.take(*words):
            raise self.unreadable()

    def name(self) -> str:
        """Take an identifier, quoted or not."""
        token = self.next()
        # After a dot a name may look like a number. "x" is a name with ANSI_QUOTES.
        if token.kind not in ("word", "name", "quoted", "number") or not token.text:
            raise self.unreadable()
        return token.text

    def string(self) -> str:
        """Take a string literal."""
        token = self.next()
        if token.kind not in ("string", "quoted"):
            raise self.unreadable()
        return token.text

    def integer(self) -> int:
        """Take a number without a sign or fraction."""
        token = self.next()
        if token.kind != "number" or not token.text.isascii() or not token.text.isdigit():
            raise self.unreadable()
        if len(token.text) > 20:
            raise self.unreadable()
        return int(token.text)

    def group(self) -> str:
        """Take a balanced group in parentheses. Return its text with the parentheses."""
        first = self.peek()
        self.expect("(")
        depth, last = 1, first
        while depth:
            last = self.next()
            if last.kind in ("end", "broken"):
                raise self.unreadable()
            depth += (last.word == "(") - (last.word == ")")
        return self.sql[first.start : last.end]

    def skip(self) -> None:
        """Take one token, or one group in parentheses."""
        if self.at("("):
            self.group()
        elif self.next().kind in ("end", "broken"):
            raise self.unreadable()

    def unreadable(self) -> Unreadable:
        """The error for the next token."""
        return Unreadable(f"cannot be read near character {self.peek().start + 1}")

    def _scan(self) -> Token:
        match = self._match(self.sql, self._scanned)
        while match is not None and match.lastgroup == "space":
            match = self._match(self.sql, match.end())
        if match is None or match["symbol"] == ";":
            self._rest = match.end() if match is not None else len(self.sql)
            self._scanned = len(self.sql)
            return Token("end", "", "", self._scanned, self._scanned)
        self._scanned = match.end()
        return self._token(match)

    def _token(self, match: re.Match[str]) -> Token:
        group = match.lastgroup or ""
        text, place = match[group], match.span()
        match group:
            case "word":
                return Token("word", text.upper(), text, *place)
            case "symbol":
                return Token("symbol", text, text, *place)
            case "number":
                return Token("number", "", text, *place)
            case "name":
                return Token("name", "", text.replace("``", "`"), *place)
            case "string" | "quoted":
                return Token(group, "", self._unescaped(text, match[0][0]), *place)
            case _:
                return Token("broken", "", "", *place)

    def _unescaped(self, text: str, mark: str) -> str:
        if not self._escapes or "\\" not in text:
            return text.replace(mark * 2, mark)

        def plain(match: re.Match[str]) -> str:
            escaped = match[1]
            if escaped is None:
                return mark if match[0][0] == mark else match[0]
            return match[0] if escaped in _KEPT else _ESCAPED.get(escaped, escaped)

        return _ESCAPE.sub(plain, text)


def quote(text: str) -> str:
    """``text`` as a string literal in single quotes, valid with and without ANSI_QUOTES."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"

"""
The parser for definitions of indexes and constraints in CREATE and ALTER. Pure.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from engine.schema import ReferentialAction, TableId
from sources.mysql.ddl.dialect import Dialect, read_table_name
from sources.mysql.ddl.tokens import Tokens

__all__ = [
    "KeyDefinition",
    "KeyKind",
    "References",
    "at_key",
    "read_index",
    "read_key",
    "read_references",
]

KeyKind = Literal["primary", "unique", "index", "text", "foreign"]

#: InnoDB refuses SET DEFAULT.
_ACTIONS: Final[tuple[tuple[tuple[str, ...], ReferentialAction], ...]] = (
    (("RESTRICT",), "restrict"),
    (("CASCADE",), "cascade"),
    (("SET", "NULL"), "set null"),
    (("SET", "DEFAULT"), "restrict"),
    (("NO", "ACTION"), "restrict"),
)


class References(msgspec.Struct, frozen=True):
    """The REFERENCES clause of a foreign key. The schema of ``table`` is empty for the schema of
    the table that has the key; ``columns`` is empty for the primary key.
    """

    table: TableId
    columns: tuple[str, ...]
    on_delete: ReferentialAction
    on_update: ReferentialAction


class KeyDefinition(msgspec.Struct, frozen=True):
    """An index as a statement defines it.

    ``parts`` are column names with the length of their prefix (0: none). ``plain`` is false if a
    part is not a column. ``name`` is empty if the server chooses the name. ``references`` is set
    for a foreign key.
    """

    kind: KeyKind
    name: str
    parts: tuple[tuple[str, int], ...]
    plain: bool = True
    if_not_exists: bool = False
    references: References | None = None


def at_key(tokens: Tokens) -> bool:
    """Whether the definition of an index or a constraint comes next, not of a column."""
    words = ("PRIMARY", "UNIQUE", "INDEX", "KEY", "FULLTEXT", "SPATIAL", "CONSTRAINT", "FOREIGN")
    if tokens.at_any(frozenset((*words, "CHECK"))):
        return True
    if tokens.at("VECTOR", "(") or tokens.at("PERIOD", "FOR"):
        return True
    return tokens.at("VECTOR", "INDEX") or tokens.at("VECTOR", "KEY")


def read_key(tokens: Tokens, dialect: Dialect) -> KeyDefinition | None:
    """Take the definition of an index or a constraint. None for one that has no index."""
    symbol = ""
    if tokens.take("CONSTRAINT"):
        tokens.take("IF", "NOT", "EXISTS")
        words = frozenset(("PRIMARY", "UNIQUE", "FOREIGN", "CHECK"))
        if not tokens.at_any(words):
            symbol = tokens.name()
    if tokens.take("CHECK"):
        tokens.group()
        tokens.take("NOT")
        tokens.take("ENFORCED")
        return None
    if tokens.take("PERIOD", "FOR"):
        tokens.name()
        tokens.group()
        return None
    if tokens.take("FOREIGN", "KEY"):
        return _read_foreign_key(tokens, dialect, symbol)
    if tokens.take("PRIMARY", "KEY"):
        return _read_named(tokens, "primary", symbol)
    if tokens.take("UNIQUE"):
        tokens.take_any(frozenset(("INDEX", "KEY")))
        return _read_named(tokens, "unique", symbol)
    kind: KeyKind = "index"
    if tokens.take_any(frozenset(("FULLTEXT", "SPATIAL", "VECTOR"))):
        kind = "text"
        tokens.take_any(frozenset(("INDEX", "KEY")))
    elif not tokens.take_any(frozenset(("INDEX", "KEY"))):
        raise tokens.unreadable()
    return _read_named(tokens, kind, symbol)


def _read_named(tokens: Tokens, kind: KeyKind, name: str) -> KeyDefinition:
    """Take the rest of an index definition: ``[name] [USING x] (part, …) [options]``."""
    if_not_exists = tokens.take("IF", "NOT", "EXISTS")
    if not tokens.at_any(frozenset(("(", "USING", "TYPE"))):
        name = tokens.name()
    if tokens.take_any(frozenset(("USING", "TYPE"))):
        tokens.name()
    return _read_parts(tokens, kind, name, if_not_exists)


def read_index(tokens: Tokens, name: str, *, unique: bool, tracked: bool) -> KeyDefinition:
    """Take the parts and options of CREATE INDEX."""
    kind: KeyKind = "text" if not tracked else "unique" if unique else "index"
    return _read_parts(tokens, kind, name, False)


def _read_parts(tokens: Tokens, kind: KeyKind, name: str, if_not_exists: bool) -> KeyDefinition:
    parts, plain = _read_part_list(tokens)
    _skip_key_options(tokens)
    return KeyDefinition(kind, name, parts, plain, if_not_exists)


def _read_part_list(tokens: Tokens) -> tuple[tuple[tuple[str, int], ...], bool]:
    tokens.expect("(")
    parts: list[tuple[str, int]] = []
    plain = True
    while True:
        if tokens.at("("):
            tokens.group()
            plain = False
        else:
            name, length = tokens.name(), 0
            if tokens.take("("):
                length = tokens.integer()
                tokens.expect(")")
            parts.append((name, length))
        tokens.take_any(frozenset(("ASC", "DESC")))
        if tokens.take("WITHOUT", "OVERLAPS"):
            plain = False
        if tokens.take(")"):
            return tuple(parts), plain
        tokens.expect(",")


def _skip_key_options(tokens: Tokens) -> None:
    while not (tokens.ended or tokens.at_any(frozenset((",", ")", "ALGORITHM", "LOCK")))):
        tokens.skip()


def _read_foreign_key(tokens: Tokens, dialect: Dialect, symbol: str) -> KeyDefinition:
    if_not_exists = tokens.take("IF", "NOT", "EXISTS")
    name = "" if tokens.at("(") else tokens.name()
    parts, plain = _read_part_list(tokens)
    references = read_references(tokens, dialect)
    return KeyDefinition("foreign", symbol or name, parts, plain, if_not_exists, references)


def read_references(tokens: Tokens, dialect: Dialect) -> References:
    """Take the REFERENCES clause of a foreign key."""
    tokens.expect("REFERENCES")
    table = read_table_name(tokens, "", dialect)
    parts: tuple[tuple[str, int], ...] = ()
    if tokens.at("("):
        parts, _ = _read_part_list(tokens)
    if tokens.take("MATCH"):
        tokens.next()
    actions: dict[str, ReferentialAction] = {}
    while tokens.take("ON"):
        event = tokens.take_any(frozenset(("DELETE", "UPDATE")))
        found = next((action for words, action in _ACTIONS if tokens.take(*words)), None)
        if not event or found is None:
            raise tokens.unreadable()
        actions[event] = found
    columns = tuple(name for name, _ in parts)
    on_delete, on_update = (actions.get(event, "restrict") for event in ("DELETE", "UPDATE"))
    return References(table, columns, on_delete, on_update)

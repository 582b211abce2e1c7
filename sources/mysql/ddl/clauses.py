"""
The parser for the clauses of ALTER TABLE. Pure.

The result is one ``Alteration``. An unknown clause makes the statement unreadable: no clause is
ignored because it looks harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from engine.schema import TableId
from sources.mysql.ddl.columns import (
    Charset,
    ColumnDefinition,
    read_charset,
    read_column,
    read_default,
)
from sources.mysql.ddl.dialect import Dialect, read_table_name
from sources.mysql.ddl.keys import KeyDefinition, at_key, read_key
from sources.mysql.ddl.partitions import PartitionChange, read_partition_change
from sources.mysql.ddl.tokens import Tokens

__all__ = ["FIRST", "Alteration", "ColumnChange", "read_alteration"]

FIRST: Final = ""

# Clauses and options without an effect on rows or the definition.
_PLAIN_CLAUSES: Final = (
    ("DISABLE", "KEYS"),
    ("ENABLE", "KEYS"),
    ("FORCE",),
    ("NOWAIT",),
    ("WITH", "VALIDATION"),
    ("WITHOUT", "VALIDATION"),
    ("SECONDARY_LOAD",),
    ("SECONDARY_UNLOAD",),
)
_OPTIONS: Final = (
    frozenset(("ALGORITHM", "LOCK", "WAIT", "ENGINE", "TYPE", "AUTO_INCREMENT", "COMMENT"))
    | frozenset(("AVG_ROW_LENGTH", "CHECKSUM", "COMPRESSION", "CONNECTION", "DELAY_KEY_WRITE"))
    | frozenset(("ENCRYPTION", "INSERT_METHOD", "KEY_BLOCK_SIZE", "MAX_ROWS", "MIN_ROWS"))
    | frozenset(("PACK_KEYS", "PASSWORD", "ROW_FORMAT", "STORAGE", "STATS_AUTO_RECALC"))
    | frozenset(("STATS_PERSISTENT", "STATS_SAMPLE_PAGES", "TABLESPACE", "UNION"))
    | frozenset(("TABLE_CHECKSUM", "PAGE_CHECKSUM", "TRANSACTIONAL", "AUTOEXTEND_SIZE"))
    | frozenset(("SECONDARY_ENGINE", "ENGINE_ATTRIBUTE", "SECONDARY_ENGINE_ATTRIBUTE", "START"))
)
_SAFE_PARTITIONING: Final = (
    ("ADD", "PARTITION"),
    ("REORGANIZE", "PARTITION"),
    ("COALESCE", "PARTITION"),
    ("ANALYZE", "PARTITION"),
    ("CHECK", "PARTITION"),
    ("OPTIMIZE", "PARTITION"),
    ("REBUILD", "PARTITION"),
    ("REPAIR", "PARTITION"),
    ("REMOVE", "PARTITIONING"),
    ("PARTITION", "BY"),
)
_REFUSED: Final = (
    (("DROP", "PARTITION"), "drops a partition with its rows, which the log does not show"),
    (("TRUNCATE", "PARTITION"), "empties a partition, which the log does not show"),
    (("EXCHANGE", "PARTITION"), "exchanges a partition's rows, which the log does not show"),
    (("CONVERT", "PARTITION"), "moves a partition's rows, which the log does not show"),
    (("CONVERT", "TABLE"), "moves a table's rows, which the log does not show"),
    (("DISCARD",), "discards rows, which the log does not show"),
    (("IMPORT",), "imports rows that the log does not show"),
    (("ENGINE", "BLACKHOLE"), "discards rows, which the log does not show"),
    (("ENGINE", "=", "BLACKHOLE"), "discards rows, which the log does not show"),
)
#: Clauses that are refused because the definition after them is not known.
_RESHAPING: Final = (
    (("ADD", "SYSTEM", "VERSIONING"), "adds a table's history, which cannot be followed"),
    (("DROP", "SYSTEM", "VERSIONING"), "drops a table's history, which cannot be followed"),
    (("ADD", "PERIOD", "FOR", "SYSTEM_TIME"), "adds a table's history"),
    (("WITH", "SYSTEM", "VERSIONING"), "adds a table's history, which cannot be followed"),
)


class ColumnChange(msgspec.Struct, frozen=True):
    """A column that is added (``old`` is empty) or changed.

    ``after`` is its new place: the name of the column before it, or ``FIRST``. With None it keeps
    its place, or comes last if it is new. ``conditional``: the clause has IF EXISTS or IF NOT
    EXISTS.
    """

    definition: ColumnDefinition
    old: str = ""
    after: str | None = None
    conditional: bool = False


class Alteration(msgspec.Struct):
    """All clauses of one ALTER TABLE, by kind.

    ``refused`` says why the statement cannot be followed, and is empty if it can; ``reshapes``: not
    even the definition after it is known. ``others`` are other tables that a partition is exchanged
    with or converted from. ``dropped_constraints`` may be foreign keys, unique indexes or checks.
    ``engine`` is the storage engine that the statement names, in lower case.
    """

    name: TableId | None = None
    columns: list[ColumnChange] = msgspec.field(default_factory=list)
    dropped: list[tuple[str, bool]] = msgspec.field(default_factory=list)
    renamed: list[tuple[str, str]] = msgspec.field(default_factory=list)
    defaults: list[tuple[str, str | None]] = msgspec.field(default_factory=list)
    keys: list[KeyDefinition] = msgspec.field(default_factory=list)
    dropped_keys: list[str] = msgspec.field(default_factory=list)
    dropped_foreign_keys: list[tuple[str, bool]] = msgspec.field(default_factory=list)
    dropped_constraints: list[str] = msgspec.field(default_factory=list)
    renamed_keys: list[tuple[str, str]] = msgspec.field(default_factory=list)
    primary_dropped: bool = False
    charset: Charset = Charset()
    converted: bool = False
    refused: str = ""
    reshapes: bool = False
    others: list[TableId] = msgspec.field(default_factory=list)
    partitions: PartitionChange | None = None
    engine: str = ""


class _Reader:
    """Reads the clauses of one statement into an ``Alteration``."""

    def __init__(self, tokens: Tokens, schema: str, dialect: Dialect) -> None:
        self._tokens = tokens
        self._schema = schema
        self._dialect = dialect
        self.found = Alteration()
        self._verbs: Mapping[str, Callable[[], None]] = {
            "ADD": self._add,
            "DROP": self._drop,
            "CHANGE": self._change,
            "MODIFY": self._modify,
            "RENAME": self._rename,
            "ALTER": self._alter,
            "CONVERT": self._convert,
            "ORDER": self._order,
        }

    def read(self) -> Alteration:
        tokens = self._tokens
        while not tokens.ended and not self.found.refused:
            if self._refuses() or self._repartitions():
                break
            if tokens.take(","):
                continue
            verb = self._verbs.get(tokens.peek().word)
            if verb is not None:
                tokens.next()
                verb()
            else:
                self._option()
        return self.found

    def _refuses(self) -> bool:
        tokens = self._tokens
        for words, reason in (*_RESHAPING, *_REFUSED):
            if tokens.at(*words):
                self.found.partitions = read_partition_change(tokens)
                self.found.refused = reason
                self.found.reshapes = (words, reason) in _RESHAPING
                self._other_tables()
                return True
        return False

    def _other_tables(self) -> None:
        """Read the tables that a partition is exchanged with or converted from."""
        tokens = self._tokens
        while not tokens.ended:
            if tokens.next().word == "TABLE" and not tokens.ended:
                id = read_table_name(tokens, self._schema, self._dialect)
                self.found.others.append(id)

    def _repartitions(self) -> bool:
        tokens = self._tokens
        if not any(tokens.at(*words) for words in _SAFE_PARTITIONING):
            return False
        self.found.partitions = read_partition_change(tokens)
        while not tokens.ended:
            tokens.skip()
        return True

    def _option(self) -> None:
        tokens = self._tokens
        if any(tokens.take(*words) for words in _PLAIN_CLAUSES):
            return
        tokens.take("DEFAULT")
        charset = read_charset(tokens)
        if charset is not None:
            if self.found.converted and charset.name != self.found.charset.name:
                raise tokens.unreadable()
            self.found.charset = charset.over(self.found.charset)
            return
        directory = tokens.take("DATA", "DIRECTORY") or tokens.take("INDEX", "DIRECTORY")
        if not directory:
            assigned = tokens.peek(1).word == "="
            if not tokens.at_any(_OPTIONS) and not (assigned and tokens.peek().kind == "word"):
                raise tokens.unreadable()
            if tokens.next().word in ("ENGINE", "TYPE"):
                self.found.engine = tokens.peek(1 if assigned else 0).text.lower()
        tokens.take("=")
        tokens.skip()

    def _add(self) -> None:
        tokens = self._tokens
        if at_key(tokens):
            self._add_key()
            return
        tokens.take("COLUMN")
        conditional = tokens.take("IF", "NOT", "EXISTS")
        if not tokens.take("("):
            self._add_column(conditional)
            return
        while True:
            if at_key(tokens):
                self._add_key()
            else:
                self._add_column(conditional)
            if tokens.take(")"):
                return
            tokens.expect(",")

    def _add_key(self) -> None:
        key = read_key(self._tokens, self._dialect)
        if key is not None:
            self.found.keys.append(key)

    def _add_column(self, conditional: bool) -> None:
        definition = read_column(self._tokens, self._tokens.name(), self._dialect)
        change = ColumnChange(definition, "", self._place(), conditional)
        self.found.columns.append(change)

    def _place(self) -> str | None:
        if self._tokens.take("FIRST"):
            return FIRST
        return self._tokens.name() if self._tokens.take("AFTER") else None

    def _change(self) -> None:
        self._tokens.take("COLUMN")
        conditional = self._tokens.take("IF", "EXISTS")
        old = self._tokens.name()
        self._changed(old, self._tokens.name(), conditional)

    def _modify(self) -> None:
        self._tokens.take("COLUMN")
        conditional = self._tokens.take("IF", "EXISTS")
        name = self._tokens.name()
        self._changed(name, name, conditional)

    def _changed(self, old: str, new: str, conditional: bool) -> None:
        definition = read_column(self._tokens, new, self._dialect)
        change = ColumnChange(definition, old, self._place(), conditional)
        self.found.columns.append(change)

    def _drop(self) -> None:
        tokens = self._tokens
        if tokens.take("PRIMARY", "KEY"):
            self.found.primary_dropped = True
        elif tokens.take("CHECK") or tokens.take("PERIOD", "FOR"):
            tokens.take("IF", "EXISTS")
            tokens.name()
        elif tokens.take("FOREIGN", "KEY"):
            conditional = tokens.take("IF", "EXISTS")
            self.found.dropped_foreign_keys.append((tokens.name(), conditional))
        elif tokens.take("CONSTRAINT"):
            tokens.take("IF", "EXISTS")
            self.found.dropped_constraints.append(tokens.name())
        elif tokens.take("INDEX") or tokens.take("KEY"):
            tokens.take("IF", "EXISTS")
            self.found.dropped_keys.append(tokens.name())
        else:
            tokens.take("COLUMN")
            conditional = tokens.take("IF", "EXISTS")
            self.found.dropped.append((tokens.name(), conditional))
            tokens.take_any(frozenset(("RESTRICT", "CASCADE")))

    def _rename(self) -> None:
        tokens = self._tokens
        if tokens.take("COLUMN"):
            tokens.take("IF", "EXISTS")
            old = tokens.name()
            tokens.expect("TO")
            self.found.renamed.append((old, tokens.name()))
        elif tokens.take_any(frozenset(("INDEX", "KEY"))):
            tokens.take("IF", "EXISTS")
            old = tokens.name()
            tokens.expect("TO")
            self.found.renamed_keys.append((old, tokens.name()))
        else:
            tokens.take_any(frozenset(("TO", "AS", "=")))
            self.found.name = read_table_name(tokens, self._schema, self._dialect)

    def _alter(self) -> None:
        tokens = self._tokens
        if tokens.take_any(frozenset(("INDEX", "KEY", "CHECK", "CONSTRAINT"))):
            tokens.take("IF", "EXISTS")
            tokens.name()
            tokens.take("NOT")
            words = ("VISIBLE", "INVISIBLE", "ENFORCED", "IGNORED")
            if not tokens.take_any(frozenset(words)):
                raise tokens.unreadable()
            return
        tokens.take("COLUMN")
        tokens.take("IF", "EXISTS")
        name = tokens.name()
        if tokens.take("SET", "DEFAULT"):
            self.found.defaults.append((name, self._dialect.default(read_default(tokens)[0])))
        elif tokens.take("DROP", "DEFAULT"):
            self.found.defaults.append((name, None))
        elif not tokens.take("SET", "VISIBLE"):
            tokens.expect("SET", "INVISIBLE")

    def _convert(self) -> None:
        tokens = self._tokens
        tokens.expect("TO")
        charset = read_charset(tokens) or Charset()
        collation = read_charset(tokens) or Charset()
        if charset.name == "default" and not self._dialect.mariadb:
            charset = collation  # MySQL takes the session's collation_database
        if not charset.name and not collation.name:
            raise tokens.unreadable()
        name = charset.name or collation.name
        if self.found.charset.name not in ("", name):
            raise tokens.unreadable()  # two charsets: which one counts depends on the server
        self.found.charset = Charset(name, collation.collation)
        self.found.converted = True

    def _order(self) -> None:
        self._tokens.expect("BY")
        while True:
            self._tokens.name()
            self._tokens.take_any(frozenset(("ASC", "DESC")))
            if not self._tokens.take(","):
                return


def read_alteration(tokens: Tokens, schema: str, dialect: Dialect) -> Alteration:
    """The clauses after the table's name. Raises Unreadable if one is not known."""
    return _Reader(tokens, schema, dialect).read()

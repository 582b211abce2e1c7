"""
The SQL dialect of a statement: the server's family and the settings that affect its meaning.
"""

from __future__ import annotations

from typing import Final

import msgspec

from engine.schema import Column, TableId
from sources.mysql.ddl.session_time import SessionTime
from sources.mysql.ddl.tokens import Tokens

__all__ = [
    "HIGH_NOT_PRECEDENCE",
    "NO_BACKSLASH_ESCAPES",
    "Dialect",
    "read_table_name",
    "skip_set_statement",
]

_REAL_AS_FLOAT: Final = 1 << 0
_ORACLE: Final = 1 << 9
#: The bit of the SQL mode that makes a backslash an ordinary character.
NO_BACKSLASH_ESCAPES: Final = 1 << 20
#: The bit of the SQL mode that makes NOT as strong as a sign.
HIGH_NOT_PRECEDENCE: Final = 1 << 29
_MAXDB: Final = 1 << 12
_STRICT_TRANS_TABLES: Final = 1 << 21
_STRICT_ALL_TABLES: Final = 1 << 22
_NO_ENGINE_SUBSTITUTION: Final = 1 << 30
_PAD_CHAR_TO_FULL_LENGTH: Final = 1 << 31
_MARIADB_EMPTY_STRING_IS_NULL: Final = 1 << 32


class Dialect(msgspec.Struct, frozen=True):
    """The server's family and settings, and those of the session.

    ``sql_mode`` has the bits of the log's status variable. ``fold_names``: the server stores table
    names in lower case. ``explicit_defaults_for_timestamp`` is None if the log does not have it.
    ``time`` is when the statement began, in the session's time zone.
    ``inline_references``: REFERENCES in the definition of a column makes a foreign key, as it does
    from MySQL 9.0 and MariaDB 10.5 on; earlier servers ignore it.
    ``converts_years``: a YEAR(2) becomes a YEAR(4) where a statement defines it, and in all columns
    of a table that a statement alters or repairs, as in MySQL from 5.6.6 on
    (https://dev.mysql.com/doc/refman/5.7/en/migrating-from-year2.html).
    """

    mariadb: bool = False
    sql_mode: int = _STRICT_TRANS_TABLES
    fold_names: bool = False
    explicit_defaults_for_timestamp: bool | None = None
    time: SessionTime = SessionTime()
    inline_references: bool = True
    converts_years: bool = False

    def tokens(self, sql: str) -> Tokens:
        """A cursor over the tokens of a statement."""
        escapes = not self.sql_mode & NO_BACKSLASH_ESCAPES
        return Tokens(sql, mariadb=self.mariadb, backslash_escapes=escapes)

    @property
    def strict(self) -> bool:
        """Whether the server has refused to lose data (strict SQL mode)."""
        return bool(self.sql_mode & (_STRICT_TRANS_TABLES | _STRICT_ALL_TABLES))

    @property
    def pads(self) -> bool:
        """Whether the values of CHAR columns are read with spaces up to the column's length."""
        return bool(self.sql_mode & _PAD_CHAR_TO_FULL_LENGTH)

    @property
    def keeps_engine(self) -> bool:
        """Whether the server never takes another storage engine than the one that is named."""
        return bool(self.sql_mode & _NO_ENGINE_SUBSTITUTION)

    @property
    def oracle(self) -> bool:
        """Whether MariaDB reads types as Oracle does, where a DATE has a time."""
        return self.mariadb and bool(self.sql_mode & _ORACLE)

    @property
    def real(self) -> str:
        """The type that REAL means."""
        return "float" if self.sql_mode & _REAL_AS_FLOAT else "double"

    @property
    def timestamp_type(self) -> str:
        """The type that TIMESTAMP means."""
        return "datetime" if self.sql_mode & _MAXDB else "timestamp"

    def altered(self, column: Column) -> Column:
        """An existing column after a statement that alters its table."""
        if self.converts_years and column.source_type == "year(2)":
            return msgspec.structs.replace(column, source_type="year")
        return column

    def default(self, default: str | None) -> str | None:
        """The default that a literal means: an empty string can be NULL (MariaDB)."""
        empty_is_null = self.mariadb and self.sql_mode & _MARIADB_EMPTY_STRING_IS_NULL
        return None if empty_is_null and default == "''" else default


def read_table_name(tokens: Tokens, schema: str, dialect: Dialect) -> TableId:
    """Take ``[schema.]name``. ``schema`` is the schema of an unqualified name."""
    name = tokens.name()
    if tokens.take("."):
        schema, name = name, tokens.name()
    return TableId(schema.lower(), name.lower()) if dialect.fold_names else TableId(schema, name)


def skip_set_statement(tokens: Tokens) -> bool:
    """Skip MariaDB's ``SET STATEMENT variable = value, … FOR``. Return whether it sets sql_mode.

    MariaDB parses the statement before it sets the mode, and logs the mode that is set.
    """
    sets_mode = False
    if tokens.take("SET", "STATEMENT"):
        while not tokens.ended and not tokens.at("FOR"):
            sets_mode |= tokens.next().word == "SQL_MODE"
        tokens.take("FOR")
    return sets_mode

"""
Whose SQL a statement is: what the session's settings and the server's family change in its meaning.
"""

from __future__ import annotations

from typing import Final

import msgspec

from engine.schema import TableId
from sources.mysql.ddl.tokens import Tokens

__all__ = ["Dialect", "read_table_name"]

_REAL_AS_FLOAT: Final = 1 << 0
_ORACLE: Final = 1 << 9
_NO_BACKSLASH_ESCAPES: Final = 1 << 20
_STRICT_TRANS_TABLES: Final = 1 << 21
_STRICT_ALL_TABLES: Final = 1 << 22


class Dialect(msgspec.Struct, frozen=True):
    """Who wrote the statement: the server's family, the session's SQL mode (its bits as the log has
    them), and whether the server folds the names of tables to lower case."""

    mariadb: bool = False
    sql_mode: int = _STRICT_TRANS_TABLES
    fold_names: bool = False

    def tokens(self, sql: str) -> Tokens:
        """A cursor over a statement."""
        escapes = not self.sql_mode & _NO_BACKSLASH_ESCAPES
        return Tokens(sql, mariadb=self.mariadb, backslash_escapes=escapes)

    @property
    def strict(self) -> bool:
        """Whether the server has refused what would lose data."""
        return bool(self.sql_mode & (_STRICT_TRANS_TABLES | _STRICT_ALL_TABLES))

    @property
    def oracle(self) -> bool:
        """Whether MariaDB reads Oracle's types, where a DATE has a time."""
        return self.mariadb and bool(self.sql_mode & _ORACLE)

    @property
    def real(self) -> str:
        """The type that REAL stands for."""
        return "float" if self.sql_mode & _REAL_AS_FLOAT else "double"


def read_table_name(tokens: Tokens, schema: str, dialect: Dialect) -> TableId:
    """Take ``[schema.]name``; ``schema`` is that of a name without one."""
    name = tokens.name()
    if tokens.take("."):
        schema, name = name, tokens.name()
    return TableId(schema.lower(), name.lower()) if dialect.fold_names else TableId(schema, name)

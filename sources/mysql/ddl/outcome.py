"""
What a statement that failed on the source has done there nevertheless. Pure.

A statement is logged with its error code if it has failed and a replica must repeat its effects, or
may have to. Which statements servers log so, and what they have done:

- CREATE OR REPLACE TABLE (MariaDB): the old table is dropped, and there is no new one.
- DROP TABLE with error 1051 (MySQL before 8.0): the tables that existed are dropped.
- Statements on tables without transactions (TRUNCATE, DML): a part of the change is kept, which the
  log does not show.

A statement without effects is not logged, and MySQL 8.0 and newer undo a failed DDL statement.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sources.mysql.ddl.statements import (
    CreateTable,
    CreateTemporary,
    DropTables,
    DropTemporary,
    Statement,
)

__all__ = ["outcome"]

_BAD_TABLE: Final = 1051


def outcome(statement: Statement, error: int) -> Statement:
    """The statement that does what this one has done. ``error`` is its error code, or zero."""
    if not error or (isinstance(statement, DropTables) and error == _BAD_TABLE):
        return statement
    if isinstance(statement, CreateTable) and statement.or_replace:
        return DropTables(statement.kind, statement.tables)
    if isinstance(statement, CreateTemporary):
        return DropTemporary(statement.kind, statement.tables)
    problem = f"failed on the source with error {error}, and may have taken effect in part"
    return msgspec.structs.replace(statement, problem=problem)

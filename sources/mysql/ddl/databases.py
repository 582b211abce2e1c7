"""
The default charset of each database at the current place in the log. Pure.

CREATE TABLE takes it if the statement names no charset. Statements on databases tell it. For a
database that none has changed, the catalog does, but only for the log after the catalog was read:
before, it may be the result of a statement that is still to come. Then it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping

from sources.mysql.ddl.columns import Charset, charset_of
from sources.mysql.ddl.objects import CreateDatabase

__all__ = ["DatabaseCharsets"]


class DatabaseCharsets:
    """Default charsets by database. ``catalog`` has the collations of a server's catalog; without a
    server, a database exists from its CREATE DATABASE on.
    """

    def __init__(self, catalog: Mapping[str, str] | None = None) -> None:
        self._catalog = dict(catalog or {})
        self._complete = catalog is None
        self._stated: dict[str, Charset] = {}
        self._dropped: set[str] = set()

    def copy(self) -> DatabaseCharsets:
        """The same charsets, which change on their own."""
        copy = DatabaseCharsets(self._catalog)
        copy._complete = self._complete
        copy._stated = dict(self._stated)
        return copy

    def reach_catalog(self) -> None:
        """Take note that the log is read up to the place where the catalog was read; idempotent."""
        if not self._complete:
            self._complete = True
            known = {schema: charset_of(text) for schema, text in self._catalog.items()}
            self._stated = {**known, **self._stated}

    def find(self, schema: str) -> str:
        """The default collation or charset of a database; empty if it is not known."""
        return self._stated.get(schema, Charset()).text

    def follow(self, statement: CreateDatabase, schema: str, server: Charset) -> None:
        """Follow CREATE or ALTER DATABASE. ``schema`` is the session's default database, and
        ``server`` the charset of a new database that does not name one.
        """
        name = statement.name or schema
        exists = name in self._stated or not (self._complete or name in self._dropped)
        if statement.if_not_exists and exists:
            return
        self._dropped.discard(name)
        before = self._stated.get(name, Charset()) if statement.alters else server
        self._stated[name] = statement.charset.resolved(server).over(before)

    def drop(self, schema: str) -> None:
        """Follow DROP DATABASE."""
        self._dropped.add(schema)
        self._stated.pop(schema, None)
        self._catalog.pop(schema, None)

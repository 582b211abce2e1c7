"""
The definitions of tables from a schema dump: a file such as ``mysqldump --no-data`` writes it, or a
folder of files with CREATE statements.

The statements are followed in order, as those of a log are (``ddl.definitions``). Data is skipped,
so a full dump does as well.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.errors import ConfigError
from sources.mysql.binlog.query_event import statement_text
from sources.mysql.ddl.columns import charset_of
from sources.mysql.ddl.definitions import Definitions
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.script import ScriptStatement, script_statements
from sources.mysql.ddl.statements import CreateTable, read_statement

__all__ = ["read_schema"]

#: The line of mysqldump that names the only database of a dump without USE.
_DATABASE: Final = re.compile(rb"^-- Host: .*?Database: (\S.*?)\s*$", re.MULTILINE)
#: The place in the log that mysqldump writes, as a statement or a comment.
_PLACE: Final = re.compile(
    rb"(?:MASTER|SOURCE)_LOG_FILE='([^']+)',\s*(?:MASTER|SOURCE)_LOG_POS=(\d+)"
)
_HEAD: Final = 500
#: The statements that define something, and those that change how the next ones are read.
_WANTED: Final = re.compile(
    rb"(?:/\*M?!\d*\s*)?(CREATE|ALTER|DROP|RENAME|USE|SET)\b", re.IGNORECASE
)
#: The end of the names of mydumper's files that create databases.
_FIRST: Final = "-schema-create"
_NAMES: Final = re.compile(
    r"(?:/\*M?!\d*\s*)?SET\s+(NAMES|character_set_client\s*=)\s*['\"]?(@?\w+)", re.IGNORECASE
)


def read_schema(path: Path, definitions: Definitions, dialect: Dialect) -> str:
    """Follow the statements of a dump, or of each ``.sql`` file of a folder in the order of names.

    Returns the place in the log at which the dump was taken, ``file:offset``, if the dump says so
    (``mysqldump --master-data`` or ``--source-data``), else an empty text. ``dialect`` is that of
    the server that wrote the log. Raises ConfigError for a file that cannot
    be read, and for a table whose database is unknown.
    """
    if not path.is_dir():
        return _Reader(path, "", definitions, dialect).read()
    files = sorted(path.rglob("*.sql"), key=lambda file: (not file.stem.endswith(_FIRST), file))
    if not files:
        raise ConfigError(f"the folder {path} has no .sql files", hint="name a dump, or its folder")
    for file in files:
        _Reader(file, _database_of(file, path), definitions, dialect).read()
    return ""


def _database_of(file: Path, folder: Path) -> str:
    """The database that a file's place tells: ``shop/item.sql``, ``shop.item-schema.sql``."""
    if file.parent != folder:
        return file.relative_to(folder).parts[0]
    database, dot, _ = file.stem.partition(".")
    return database if dot else ""


class _Reader:
    """Reads one file. Its statements change the database and the charset of the next ones."""

    def __init__(
        self, path: Path, database: str, definitions: Definitions, dialect: Dialect
    ) -> None:
        self._path = path
        self._definitions = definitions
        self._dialect = dialect
        self._database = database
        self._named = self._charset = "utf8mb4"

    def read(self) -> str:
        """Follow the statements. Returns the place of the dump in the log, as ``read_schema``."""
        place = ""
        for statement in self._statements():
            head = statement.comments + statement.sql[:_HEAD]
            if not place and (found := _PLACE.search(head)):
                place = f"{found[1].decode()}:{found[2].decode()}"
            if named := _DATABASE.search(statement.comments):
                self._database = named[1].decode("utf-8", "replace")
            if _WANTED.match(statement.sql):
                self._follow(statement)
        return place

    def _statements(self) -> Iterator[ScriptStatement]:
        try:
            with self._path.open("rb") as file:
                if not file.seek(0, 2):
                    return
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as script:
                    yield from script_statements(script)
        except OSError as error:
            raise ConfigError(
                f"the schema {self._path} cannot be read: {error.strerror}",
                hint="name a dump of the tables in [source] schema, such as mysqldump --no-data",
            ) from error

    def _follow(self, statement: ScriptStatement) -> None:
        sql = statement_text(statement.sql, self._charset)
        if found := _NAMES.match(sql):
            self._set_charset(found[1].upper() == "NAMES", found[2])
            return
        tokens = self._dialect.tokens(sql)
        if tokens.take("SET"):
            return
        if tokens.take("USE"):
            self._database = _unquoted(sql)
            return
        if not self._database and self._lacks_database(sql):
            raise ConfigError(
                f"{self._path}:{statement.line}: the database of the table is unknown",
                hint="write USE and the database's name as the first line of the file",
            )
        self._definitions.follow(sql, self._database, self._dialect)

    def _lacks_database(self, sql: str) -> bool:
        statement = read_statement(sql, "", self._dialect)
        return isinstance(statement, CreateTable) and not statement.tables[0].schema

    def _set_charset(self, names: bool, charset: str) -> None:
        """Follow SET NAMES, and SET character_set_client, which @saved_cs_client takes back."""
        known = charset_of(charset).name
        self._charset = self._named if charset.startswith("@") or not known else known
        if names:
            self._named = self._charset


def _unquoted(use: str) -> str:
    name = use[4:].strip()
    return name[1:-1].replace("``", "`") if name.startswith("`") else name

"""
What a mirror does not have: a list of what has to be created on the target before a cutover.

Tables, columns, keys, secondary indexes, NOT NULL and constant defaults are mirrored. The rest is
not needed while only the source is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from engine.contract import Finding
from engine.databases.mysql.connect import query
from engine.errors import SourceError, SourceLost
from engine.schema import Column
from sources.mysql.codec.defaults import constant_default
from sources.mysql.preflight.context import Check, Context

__all__ = ["CARRIED_CHECKS"]

#: What is counted in the server's catalog: a name, and a query for the schema of each.
_OBJECTS: Final = (
    (
        "AUTO_INCREMENT columns",
        "SELECT TABLE_SCHEMA FROM information_schema.COLUMNS WHERE EXTRA LIKE '%auto_increment%'",
    ),
    ("foreign keys", "SELECT CONSTRAINT_SCHEMA FROM information_schema.REFERENTIAL_CONSTRAINTS"),
    ("checks", "SELECT CONSTRAINT_SCHEMA FROM information_schema.CHECK_CONSTRAINTS"),
    ("views", "SELECT TABLE_SCHEMA FROM information_schema.VIEWS"),
    ("triggers", "SELECT TRIGGER_SCHEMA FROM information_schema.TRIGGERS"),
    ("procedures and functions", "SELECT ROUTINE_SCHEMA FROM information_schema.ROUTINES"),
    ("events", "SELECT EVENT_SCHEMA FROM information_schema.EVENTS"),
)


def _carried(context: Context) -> Iterator[Finding]:
    columns = [column for table in context.tables for column in table.columns]
    counts = {
        "defaults that are expressions": sum(map(_is_computed, columns)),
        "generated columns (plain there)": sum(column.generated for column in columns),
        "ENUM columns (text there)": sum(column.type.kind == "enum" for column in columns),
    }
    schemas = sorted({table.id.schema for table in context.tables})
    for name, statement in _OBJECTS:
        counts[name] = sum(schema in schemas for schema in _schemas(context, statement))
    found = [f"{count} {name}" for name, count in counts.items() if count]
    if not found:
        return
    dump = " ".join(("mysqldump --no-data --routines --events --databases", *schemas))
    yield Finding(
        "warning",
        "not carried",
        f"the databases have {', '.join(found)}: the target does not get them, nor accounts and"
        " their rights",
        f"{dump} shows their definitions: create them on the target before the cutover",
        code="MY060",
    )


def _is_computed(column: Column) -> bool:
    if column.default is None or column.generated:
        return False
    try:
        constant_default(column)
    except ValueError:
        return True
    return False


def _schemas(context: Context, statement: str) -> Sequence[str]:
    try:
        return [schema for (schema,) in query(context.session, statement)]
    except SourceLost:
        raise
    except SourceError:
        return ()  # the user may not list them; ``server`` says so where it matters


#: The list of what is not mirrored.
CARRIED_CHECKS: Final[tuple[Check, ...]] = (_carried,)

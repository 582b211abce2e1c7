"""
Tables of the target that exist before the pipeline has created them: whether it may use them.

``SchemaFollower`` asks this before it creates tables, and ``preflight`` before a run.
"""

from __future__ import annotations

from typing import Final

from engine.databases.postgres.identifiers import quote
from engine.errors import SinkError
from engine.schema import Table, TableId
from sinks.postgres.ddl import column_definitions
from sinks.postgres.session import Session

__all__ = ["EXISTS", "refuse_existing", "refuse_owned"]

#: Whether a relation or a type has a ``name``. Types of arrays make way for others.
EXISTS: Final = (
    "coalesce(to_regclass(name)::oid, (SELECT oid FROM pg_type WHERE oid = to_regtype(name) AND"
    " typcategory <> 'A')) IS NOT NULL"
)

_EXPECTED: Final = "tailrace_expected"
#: The columns in the order of their names, with their types and positions in the primary key.
_COLUMNS: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), array_position(i.indkey, a.attnum)
FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname"""
_RELATION: Final = """
SELECT relkind, pg_has_role(relowner, 'USAGE'), pg_get_userbyid(relowner), row_security_active(oid)
FROM pg_class WHERE oid = to_regclass($1)"""
#: Ordinary and partitioned tables.
_TABLES: Final = ("r", "p")
_KINDS: Final = {
    "i": "index",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
}


def refuse_owned(owner: str, id: TableId) -> SinkError:
    """The error about a table that belongs to another pipeline, or to this one already."""
    return SinkError(
        f"the target's table already belongs to pipeline {owner}",
        hint='Two pipelines cannot share a table: set schema = "…" in [sink], or add "TABLE" to'
        " exclude in [source], of one of them.",
        table=id,
    )


async def refuse_existing(session: Session, table: Table, name: str) -> None:
    """Raise SinkError unless the relation ``name`` is an empty table of a role that the session may
    act for, and has the columns and the key of ``table``, which has the types of the target.

    A transaction must be open. A temporary table is created and dropped in it.
    """
    cursor = await session.execute(_RELATION, (name,), table=table.id)
    kind, ours, role, hides_rows = await cursor.fetchone() or ("", True, "", False)
    kind = kind.decode() if isinstance(kind, bytes) else kind
    if kind not in _TABLES:
        found = _KINDS.get(kind, "type")
        raise _in_the_way(f"the target has a {found} of this name", found, table, name)
    if not ours:
        raise SinkError(
            f"the target has a table of this name that belongs to the role {role}",
            hint=f"ALTER TABLE {name} OWNER TO {quote(session.connection.info.user)}; or set [sink]"
            " schema to another schema.",
            table=table.id,
        )
    if hides_rows:
        raise SinkError(
            "the target's table has row-level security, which hides rows from the role",
            hint=f"ALTER TABLE {name} DISABLE ROW LEVEL SECURITY;",
            table=table.id,
        )
    definitions = ", ".join(column_definitions(table))
    key = ", ".join(quote(table.columns[ordinal].name) for ordinal in table.key)
    await session.execute(
        f"CREATE TEMPORARY TABLE {_EXPECTED} ({definitions}"
        + (f", PRIMARY KEY ({key})" if key else "")
        + ") ON COMMIT DROP",
        table=table.id,
    )
    columns = []
    for relation in (name, f"pg_temp.{_EXPECTED}"):
        cursor = await session.execute(_COLUMNS, (relation,), table=table.id)
        columns.append(await cursor.fetchall())
    await session.execute(f"DROP TABLE pg_temp.{_EXPECTED}")
    if columns[0] != columns[1] or await session.execute_bulk(f"SELECT 1 FROM {name} LIMIT 1"):
        raise _in_the_way(
            "the target has a table of this name that was not created by this pipeline, and is"
            " not an empty table of the same columns and key",
            "table",
            table,
            name,
        )


def _in_the_way(message: str, kind: str, table: Table, name: str) -> SinkError:
    return SinkError(
        message,
        hint=f"If nobody needs it: DROP {kind.upper()} {name}; otherwise set [sink] schema to"
        " another schema.",
        table=table.id,
    )

"""
The target's tables follow the source's: created, altered, indexed, emptied and dropped, in the open
transaction, together with the record of what they are now.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from psycopg import errors as pg

from engine.change import SchemaChange
from engine.databases.postgres.identifiers import SYSTEM_COLUMNS, Naming, quote
from engine.errors import ApplyError, SchemaError, SinkError
from engine.schema import Table, TableId
from sinks.postgres.ddl import (
    Step,
    alter_table,
    column_definitions,
    create_indexes,
    create_table,
)
from sinks.postgres.session import Session
from sinks.postgres.state import SCHEMA, StateStore

__all__ = ["SchemaFollower", "is_reserved"]

AGAIN = "DROP the table on the target, and copy it again with the columns it has now."
#: Columns in the order of their names, with types and the place in the primary key.
_SHAPE = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), array_position(i.indkey, a.attnum)
FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname"""


def is_reserved(schema: str) -> bool:
    """Whether a schema is ours or the server's, and so cannot take a source's tables."""
    return schema in (SCHEMA, "information_schema") or schema.startswith("pg_")


class SchemaFollower:
    """Changes tables through a session; raises ``SchemaError`` for what cannot be followed."""

    def __init__(self, session: Session, state: StateStore, naming: Naming) -> None:
        self._session = session
        self._state = state
        self._naming = naming

    async def create(self, tables: Sequence[Table]) -> None:
        """Make tables, in a few round trips however many; one that is there is taken if it may
        be."""
        for table in tables:
            _refuse_system_columns(table)
        await self._make_schemas([table.id for table in tables])
        names = [self._naming.sql(table.id) for table in tables]
        there = set(await self._names_that("to_regclass(name) IS NOT NULL", names))
        missing: dict[str, Table] = {}
        taken: set[str] = set()
        for name, table in zip(names, tables, strict=True):
            if name in taken:
                raise _owned(self._state.pipeline, table)
            taken.add(name)
            if name in there:
                await self._adopt(table, name)
            else:
                missing[name] = table
        await self._run_all([(create_table(it, name), it.id) for name, it in missing.items()])
        await self._state.save_tables(tables, indexed=False)

    async def change(self, change: SchemaChange) -> None:
        """Bring a table that is there from one version to the next, or drop it."""
        before, after = change.before, change.after
        if after is not None:
            _refuse_system_columns(after)
        if before is not None and after is None:
            await self._run(Step(f"DROP TABLE IF EXISTS {self._naming.sql(before.id)}"), before.id)
            await self._state.forget_table(before.id)
        elif before is not None and after is not None:
            await self._alter(before, after, change)

    async def truncate(self, table: Table) -> None:
        """Delete all rows, by TRUNCATE where the role may and nothing refers to the table."""
        name = self._naming.sql(table.id)
        session = self._session
        refusals = (pg.InsufficientPrivilege, pg.FeatureNotSupported)
        truncate = partial(session.execute_bulk, f"TRUNCATE {name}", table=table.id)
        if not await session.in_savepoint(truncate, refusals):
            await session.execute_bulk(f"DELETE FROM {name}", table=table.id)

    async def settle(self, tables: Sequence[Table]) -> None:
        """Build the secondary indexes."""
        await self._session.execute_bulk_all(
            [
                (statement, table.id)
                for table in tables
                for statement in create_indexes(table, self._naming)
            ]
        )
        await self._state.save_indexed(tables)

    async def _alter(self, before: Table, after: Table, change: SchemaChange) -> None:
        await self._make_schemas([after.id])
        indexed = await self._state.indexed(before.id)
        for step in alter_table(before, after, change.renamed, self._naming, indexed=indexed):
            await self._run(step, after.id)
        if before.id != after.id:
            await self._state.forget_table(before.id)
        await self._state.save_tables([after], indexed=indexed)

    async def _run(self, step: Step, id: TableId) -> None:
        try:
            found = await self._session.execute_bulk(step.sql, table=id)
        except ApplyError as error:
            raise SchemaError(error.message, hint=AGAIN, table=id) from error
        if step.refusal and found:
            raise SchemaError(step.refusal, hint=AGAIN, table=id)

    async def _run_all(self, statements: Sequence[tuple[str, TableId]]) -> None:
        try:
            await self._session.execute_bulk_all(statements)
        except ApplyError as error:
            raise SchemaError(error.message, hint=AGAIN, table=error.table) from error

    async def _names_that(self, condition: str, names: Sequence[str]) -> list[str]:
        """Those of the names of which the condition is true."""
        query = f"SELECT name FROM unnest($1::text[]) AS name WHERE {condition}"
        cursor = await self._session.execute(query, (list(names),))
        return [name for (name,) in await cursor.fetchall()]

    async def _make_schemas(self, ids: Sequence[TableId]) -> None:
        """Make the target's schemas of these tables, as far as they are not there."""
        schemas: dict[str, TableId] = {}
        for id in ids:
            schema, _ = self._naming.place(id)
            if is_reserved(schema):
                raise SinkError(
                    f"the schema {schema} is reserved on the target",
                    hint="Set [sink] schema to another one.",
                    table=id,
                )
            schemas.setdefault(quote(schema), id)
        for name in await self._names_that("to_regnamespace(name) IS NULL", [*schemas]):
            await self._run(Step(f"CREATE SCHEMA {name}"), schemas[name])

    async def _adopt(self, table: Table, name: str) -> None:
        """Take a table that is there, if nobody has it, it is empty and just as we would make
        it."""
        owner = await self._state.owner(table.id)
        if owner is not None:
            raise _owned(owner, table)
        expected = "tailrace_expected"
        definitions = ", ".join(column_definitions(table))
        key = ", ".join(quote(table.columns[ordinal].name) for ordinal in table.key)
        await self._session.execute(
            f"CREATE TEMPORARY TABLE {expected} ({definitions}"
            + (f", PRIMARY KEY ({key})" if key else "")
            + ") ON COMMIT DROP",
            table=table.id,
        )
        shapes = []
        for one in (name, f"pg_temp.{expected}"):
            cursor = await self._session.execute(_SHAPE, (one,), table=table.id)
            shapes.append(await cursor.fetchall())
        await self._session.execute(f"DROP TABLE pg_temp.{expected}")
        if shapes[0] != shapes[1] or await self._session.execute_bulk(
            f"SELECT 1 FROM {name} LIMIT 1"
        ):
            raise SinkError(
                "a table of this name is on the target, was not made by this pipeline, and is not"
                " an empty one of the same shape",
                hint=f"If nobody needs it: DROP TABLE {name}; else set [sink] schema to another"
                " schema.",
                table=table.id,
            )


def _owned(owner: str, table: Table) -> SinkError:
    return SinkError(
        f"the target's table belongs to pipeline {owner} already",
        hint="Two sources cannot share a table: set [sink] schema, or exclude it from one.",
        table=table.id,
    )


def _refuse_system_columns(table: Table) -> None:
    for name in sorted(SYSTEM_COLUMNS & set(table.names)):
        raise SchemaError(
            f"column {name} has the name of a system column of PostgreSQL",
            hint="Rename the column in the source before its table is copied, or exclude the"
            " table.",
            table=table.id,
        )

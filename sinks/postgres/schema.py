"""
Schema changes on the target: tables are created, altered, indexed, truncated and dropped.

A change is part of the open transaction, and so is the record of the table's new version in
``tailrace.table_version``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import msgspec
from psycopg import errors as pg

from engine.change import DeletePart, ReplaceColumns, ReplacePart, SchemaChange
from engine.databases.postgres.identifiers import Naming, quote
from engine.databases.postgres.stored import Storage, deciding_policies
from engine.databases.postgres.types import holds_null
from engine.errors import ApplyError, SchemaError, SinkError, UnloggedChange
from engine.remedies import BACKFILL
from engine.schema import Table, TableId
from sinks.postgres.cascades import FOLDED_INDEX
from sinks.postgres.column_types import create_types, drop_types
from sinks.postgres.ddl import (
    Step,
    alter_table,
    create_indexes,
    create_table,
    delete_part,
)
from sinks.postgres.defaults import replaced_default
from sinks.postgres.existing import EXISTS, refuse_existing, refuse_owned
from sinks.postgres.policy_guards import policy_guards
from sinks.postgres.replacement import Replacement, fill_columns, insert_all
from sinks.postgres.session import Session
from sinks.postgres.state import SCHEMA, StateStore

__all__ = ["SchemaFollower", "is_reserved"]

log = logging.getLogger("tailrace.sink")
#: The remedy for a change that PostgreSQL cannot do as the source did.
BACKFILL_AGAIN = BACKFILL
#: Why new columns cannot be filled.
NO_VALUE = "rows of the target that the source does not have lack a value in a new column"
_FOLDED = f"""
SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass($1) AND starts_with(c.relname, '{FOLDED_INDEX}')"""


def is_reserved(schema: str) -> bool:
    """Whether a schema is Tailrace's or the server's, and so cannot hold a source's tables."""
    return schema in (SCHEMA, "information_schema") or schema.startswith("pg_")


class SchemaFollower:
    """Follows schema changes through a session.

    Raises ``UnloggedChange`` for a change of a table that PostgreSQL cannot do as the source did,
    and ``SchemaError`` for a table that it cannot have.
    """

    def __init__(
        self, session: Session, state: StateStore, naming: Naming, storage: Storage
    ) -> None:
        self._session = session
        self._state = state
        self._naming = naming
        #: A source's table with the types of the target.
        self._stored = storage.table
        self._storage = storage

    async def create(self, tables: Sequence[Table]) -> None:
        """Create tables, all of them in a few round trips. A table that exists is used if it is
        empty, has the same columns and key, and belongs to no pipeline."""
        await self._make_schemas([table.id for table in tables])
        await self._run_all(
            [(enum, it.id) for it in tables for enum in create_types(self._stored(it))]
        )
        names = [self._naming.sql(table.id) for table in tables]
        existing = set(await self._names_that(EXISTS, names))
        missing: dict[str, Table] = {}
        taken: set[str] = set()
        for name, table in zip(names, tables, strict=True):
            if name in taken:
                raise refuse_owned(self._state.pipeline, table.id)
            taken.add(name)
            if name in existing:
                await self._check_existing(table, name)
            else:
                missing[name] = self._stored(table)
        await self._run_all([(create_table(it, name), it.id) for name, it in missing.items()])
        for table in tables:
            self._note_plain(table, [*self._storage.plain(table)])
        await self._state.save_tables(tables, indexed=False)

    async def change(self, change: SchemaChange) -> dict[tuple[TableId, str, str], int]:
        """Alter a table from one version to the next, or drop it. Returns the number of values that
        a policy replaced, as ``Applied.replaced``."""
        before, after = change.before, change.after
        if before is not None and after is None:
            await self._run(Step(f"DROP TABLE IF EXISTS {self._naming.sql(before.id)}"), before.id)
            for enum in drop_types(self._stored(before)):
                await self._run(Step(enum), before.id)
            await self._state.forget_table(before.id)
        elif before is not None and after is not None:
            await self._alter(before, after, change, await self._state.indexed(before.id))
            return await self._replaced(before, after, dict(change.renamed))
        return {}

    async def replace(self, before: Table, twin: Table, after: Table) -> None:
        """Put ``twin`` in the place of ``before``; see ``sinks.postgres.replacement``."""
        await self._drop_folded(twin)
        replacement = Replacement(
            *(self._session, self._naming),
            *(await self._state.stored(before), self._stored(twin), self._stored(after)),
            run=lambda step: self._run(step, after.id),
            truncate=self.truncate,
        )
        await replacement.execute()
        for id in (before.id, twin.id):
            await self._state.forget_table(id)
        await self._state.save_tables([after], indexed=True)

    async def keep_rows(self, before: Table, after: Table) -> None:
        """Give a table another shape, and drop its unique indexes until it has caught up."""
        try:
            if await self._state.stored(before) != self._stored(before):
                raise UnloggedChange("a policy has changed a type", table=after.id)
            indexed = False if await self._state.indexed(before.id) is False else None
            await self._alter(before, after, SchemaChange("", before, after), indexed)
        except UnloggedChange as error:
            message = f"the table cannot be backfilled in place: {error.message}"
            raise UnloggedChange(message, table=after.id, needs_twin=True) from error

    async def truncate(self, table: Table) -> None:
        """Delete all rows: by TRUNCATE, or by DELETE if the role has no right to truncate the table
        or a foreign key refers to it."""
        name = self._naming.sql(table.id)
        session = self._session
        expected = (pg.InsufficientPrivilege, pg.FeatureNotSupported)
        truncate = partial(session.execute_bulk, f"TRUNCATE {name}", table=table.id)
        if not await session.in_savepoint(truncate, expected):
            await session.execute_bulk(f"DELETE FROM {name}", table=table.id)

    async def delete_part(self, change: DeletePart) -> None:
        """Delete a part of the rows of a table."""
        table = change.table
        policy = self._storage.policies(table)[table.ordinal(change.part.column)].zero_date
        for step in delete_part(table, self._stored(table), change, self._naming, policy):
            await self._run(step, table.id)

    async def replace_part(self, change: ReplacePart) -> None:
        """Put the rows of the twin in the place of those of the part."""
        table, twin = change.table, change.twin
        await self.delete_part(DeletePart(table, change.part))
        name, other = self._naming.sql(table.id), self._naming.sql(twin.id)
        await self._run(Step(insert_all(self._stored(table), other, name)), table.id)
        await self._run(Step(f"DROP TABLE {other}"), table.id)
        await self._state.forget_table(twin.id)

    async def replace_columns(self, change: ReplaceColumns) -> None:
        """Put the values of the twin into columns that hold NULL in all rows."""
        before, twin, after = change.before, change.twin, change.after
        stored = self._stored(before), self._stored(after)
        fill = fill_columns(after, change.columns, self._naming.sql(twin.id), self._naming)
        await self._run(Step(fill), after.id)
        required = [
            f"{quote(name)} IS NULL"
            for name in change.columns
            if not holds_null(stored[1], stored[1].ordinal(name))
        ]
        if required:  # a row that the source did not have would get an invented value
            query = f"SELECT 1 FROM {self._naming.sql(after.id)} WHERE {' OR '.join(required)}"
            await self._run(Step(f"{query} LIMIT 1", NO_VALUE), after.id)
        await self._run(Step(f"DROP TABLE {self._naming.sql(twin.id)}"), after.id)
        await self._state.forget_table(twin.id)
        # The table's columns have the policies of today, unlike those of ``_alter``.
        for step in alter_table(*stored, (), self._naming, indexed=True):
            await self._run(step, after.id)
        self._note_plain(after, change.columns)
        await self._state.save_tables([after], indexed=True)

    async def build_indexes(self, tables: Sequence[Table]) -> None:
        """Build the secondary indexes of tables, all of them in one round trip."""
        await self._session.execute_bulk_all(
            [
                (statement, table.id)
                for table in tables
                for statement in create_indexes(self._stored(table), self._naming)
            ]
        )
        await self._state.save_indexed(tables)

    async def _alter(
        self, before: Table, after: Table, change: SchemaChange, indexed: bool | None
    ) -> None:
        """``indexed`` is what ``StateStore.indexed`` is to be from then on."""
        self._check_policies(before, after, dict(change.renamed))
        await self._drop_folded(before)
        await self._make_schemas([after.id])
        then = self._stored(after)
        if indexed is None:
            then = _without_unique_indexes(then)
        policies, name = self._storage.fingerprint(after), self._naming.sql(before.id)
        for step in policy_guards(before, after, dict(change.renamed), policies, name):
            await self._run(step, before.id)
        for step in alter_table(
            *(self._stored(before), then, change.renamed, self._naming),
            filled=change.filled,
            computed=change.computed,
            indexed=indexed is not False,
        ):
            await self._run(step, after.id)
        if before.id != after.id:
            await self._state.forget_table(before.id)
        self._note_plain(after, change.computed)
        await self._state.save_tables([after], indexed=indexed)

    async def _drop_folded(self, table: Table) -> None:
        """Drop the indexes for foreign keys, which other types of columns would not fit. They are
        created again where they are needed."""
        if not any(key.cascades for key in table.foreign_keys or ()):
            return
        cursor = await self._session.execute(_FOLDED, (self._naming.sql(table.id),))
        for (index,) in await cursor.fetchall():
            await self._session.execute(f"DROP INDEX {index}", table=table.id)

    async def _replaced(
        self, before: Table, after: Table, renamed: Mapping[str, str]
    ) -> dict[tuple[TableId, str, str], int]:
        """Count the values that existing rows got in new columns, where a policy replaced them."""
        old = {renamed.get(name, name) for name in before.names}
        found = [
            (after.id, column.name, reason)
            for column, policies in zip(after.columns, self._storage.policies(after), strict=True)
            if column.name not in old
            and (reason := replaced_default(column))
            and not (reason == "zero_date" and policies.zero_date == "text")
        ]
        if not found:
            return {}
        cursor = await self._session.execute(f"SELECT count(*) FROM {self._naming.sql(after.id)}")
        (rows,) = await cursor.fetchone() or (0,)
        return dict.fromkeys(found, int(rows)) if rows else {}

    def _note_plain(self, table: Table, names: Collection[str]) -> None:
        """Log which of these generated columns stay plain against their policy."""
        for column, reason in self._storage.plain(table).items():
            if column in names:
                log.warning(
                    "a generated column is stored as a plain column",
                    extra={"table": str(table.id), "column": column, "reason": reason},
                )

    def _check_policies(self, before: Table, after: Table, renamed: Mapping[str, str]) -> None:
        """Raise UnloggedChange if other policies hold under a new name of the table or a column."""
        was, now = self._storage.fingerprint(before), self._storage.fingerprint(after)
        names = {name: renamed.get(name, name) for name in before.names}
        old = {names[name]: dict(policies) for name, policies in was.items()}
        for column in before.columns:
            name = names[column.name]
            nul_byte = now.get(name, {}).get("nul_byte")
            if nul_byte and "nul_byte" not in deciding_policies(column):
                # It was no text, so the policy has changed none of its values.
                old.setdefault(name, {})["nul_byte"] = nul_byte
        reason = self._storage.outdated(after, old, [*names.values()])
        if reason:
            raise UnloggedChange(reason, hint=BACKFILL_AGAIN, table=after.id)

    async def _run(self, step: Step, id: TableId) -> None:
        try:
            found = await self._session.execute_bulk(step.sql, table=id)
        except ApplyError as error:
            raise UnloggedChange(error.message, hint=BACKFILL_AGAIN, table=id) from error
        if step.refusal and found:
            raise UnloggedChange(step.refusal, hint=BACKFILL_AGAIN, table=id)

    async def _run_all(self, statements: Sequence[tuple[str, TableId]]) -> None:
        try:
            await self._session.execute_bulk_all(statements)
        except ApplyError as error:
            raise SchemaError(error.message, hint=BACKFILL_AGAIN, table=error.table) from error

    async def _names_that(self, condition: str, names: Sequence[str]) -> list[str]:
        """The names for which the SQL condition is true."""
        query = f"SELECT name FROM unnest($1::text[]) AS name WHERE {condition}"
        cursor = await self._session.execute(query, (list(names),))
        return [name for (name,) in await cursor.fetchall()]

    async def _make_schemas(self, ids: Sequence[TableId]) -> None:
        """Create the schemas of these tables on the target, if they do not exist."""
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

    async def _check_existing(self, table: Table, name: str) -> None:
        """Raise ``SinkError`` unless the existing table belongs to no pipeline and can be used."""
        owner = await self._state.owner(table.id)
        if owner is not None:
            raise refuse_owned(owner, table.id)
        await refuse_existing(self._session, self._stored(table), name)


def _without_unique_indexes(table: Table) -> Table:
    indexes = tuple(index for index in table.indexes if not index.unique)
    return msgspec.structs.replace(table, indexes=indexes)

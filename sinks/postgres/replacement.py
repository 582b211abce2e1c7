"""
A table takes the place of another one, in the open transaction.

A new table has none of what others have added to the old one: views, foreign keys, triggers,
policies, publications, comments and indexes. Where there is any of it, the old table stays and gets
the new rows. Readers then wait for the copy. Else the new table is renamed, which takes no time.
Privileges are granted again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine.databases.postgres.identifiers import Naming, quote
from engine.errors import SchemaError, UnloggedChange
from engine.schema import Table
from sinks.postgres.ddl import Step, alter_table, create_indexes, index_name
from sinks.postgres.session import Session

__all__ = ["replace_table"]

#: Whether something hangs on a table ($1) that its successor would not have. $2: its own indexes.
_HAS_DEPENDENTS = """
SELECT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_class'::regclass AND refobjid = t.oid
         AND deptype = 'n')
    OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = t.oid AND NOT tgisinternal)
    OR EXISTS (SELECT FROM pg_policy WHERE polrelid = t.oid)
    OR EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = t.oid)
    OR EXISTS (SELECT FROM pg_inherits WHERE t.oid IN (inhrelid, inhparent))
    OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = t.oid AND attacl IS NOT NULL)
    OR EXISTS (SELECT FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid = t.oid)
    OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = t.oid AND contype NOT IN ('p', 'n'))
    OR EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE i.indrelid = t.oid AND NOT i.indisprimary AND c.relname <> ALL ($2::text[]))
FROM pg_class t WHERE t.oid = to_regclass($1)"""

#: The privileges on a table ($1) as GRANT clauses. The owner's own are implied.
_GRANTS = """
SELECT format('GRANT %s ON %%s TO %s%s', a.privilege_type,
         CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
         CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class t, aclexplode(t.relacl) a
WHERE t.oid = to_regclass($1) AND a.grantee <> t.relowner"""

_DEPENDENT = (
    "drop the views and other objects of the target that depend on the table, start again, and"
    " create them again when the table is live"
)


async def replace_table(
    session: Session,
    naming: Naming,
    tables: tuple[Table, Table, Table],
    run: Callable[[Step], Awaitable[None]],
    truncate: Callable[[Table], Awaitable[None]],
) -> None:
    """Make the second of ``tables`` take the place of the first and become the third.

    ``run`` executes a step of DDL and ``truncate`` removes all rows. Raises SchemaError if what
    others have added, such as a view, does not let the old table have the new columns.
    """
    before, twin, after = tables
    name, new = naming.sql(before.id), naming.sql(twin.id)
    indexes = [index_name(naming.place(before.id)[1], index.name) for index in before.indexes]
    cursor = await session.execute(_HAS_DEPENDENTS, (name, indexes), table=before.id)
    if await cursor.fetchone() == (True,):
        await truncate(before)
        try:
            for step in alter_table(before, after, (), naming, indexed=True):
                await run(step)
        except UnloggedChange as error:
            raise SchemaError(error.message, hint=_DEPENDENT, table=before.id) from error
        for statement in create_indexes(after, naming):  # those that were not built yet
            await run(Step(statement))
        columns = ", ".join(quote(column) for column in after.names)
        copy = f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {new}"
        await session.execute_bulk(copy, table=after.id)
        await run(Step(f"DROP TABLE {new}"))
        return
    grants = await (await session.execute(_GRANTS, (name,), table=before.id)).fetchall()
    await run(Step(f"DROP TABLE IF EXISTS {name}"))
    for step in alter_table(twin, after, (), naming, indexed=True):
        await run(step)
    for (grant,) in grants:
        await run(Step(grant % name))

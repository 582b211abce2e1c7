"""
A table takes the place of another one, in the open transaction.

A new table has none of what others have added to the old one: views, foreign keys, triggers,
policies, publications, comments, indexes, columns and settings. Where there is any of it, the old
table stays and gets the new rows. Readers then wait for the copy, and columns of others get their
defaults. Else the new table is renamed, which takes no time, its constraints get the names of the
old ones, and privileges are granted again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from engine.change import without_twin_prefix
from engine.databases.postgres.identifiers import Naming, fitted, quote
from engine.databases.postgres.types import ComputedColumn
from engine.errors import SchemaError, UnloggedChange
from engine.schema import Table
from sinks.postgres.cascades import FOLDED_INDEX
from sinks.postgres.ddl import Step, alter_table, create_indexes, index_name
from sinks.postgres.session import Session

__all__ = ["Replacement", "fill_columns", "insert_all"]

#: Whether something hangs on a table ($1) that its successor would not have. $2: its own indexes.
#: $3: its own columns.
_HAS_DEPENDENTS = f"""
SELECT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_class'::regclass AND refobjid = t.oid
         AND deptype = 'n' AND classid <> 'pg_attrdef'::regclass)
    OR EXISTS (SELECT FROM pg_depend d JOIN pg_type y ON y.oid = d.refobjid
         WHERE d.refclassid = 'pg_type'::regclass AND d.deptype = 'n'
         AND t.oid IN (y.typrelid, (SELECT typrelid FROM pg_type e WHERE e.oid = y.typelem)))
    OR t.relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
    OR t.relreplident <> 'd' OR t.reloptions IS NOT NULL OR t.reltablespace <> 0
    OR t.relrowsecurity OR t.relforcerowsecurity
    OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = t.oid)
    OR EXISTS (SELECT FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
         AND d.refobjid = t.oid)
    OR EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = t.oid)
    OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = t.oid AND attnum > 0
         AND NOT attisdropped AND attname <> ALL ($3::text[]))
    OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = t.oid AND NOT tgisinternal)
    OR EXISTS (SELECT FROM pg_policy WHERE polrelid = t.oid)
    OR EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = t.oid)
    OR EXISTS (SELECT FROM pg_inherits WHERE t.oid IN (inhrelid, inhparent))
    OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = t.oid AND attacl IS NOT NULL)
    OR EXISTS (SELECT FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid = t.oid)
    OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = t.oid AND contype NOT IN ('p', 'n'))
    OR EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE i.indrelid = t.oid AND NOT i.indisprimary AND c.relname <> ALL ($2::text[])
         AND NOT starts_with(c.relname, '{FOLDED_INDEX}'))
FROM pg_class t WHERE t.oid = to_regclass($1)"""

#: The privileges on a table ($1) as GRANT clauses. The owner's own are implied.
_GRANTS = """
SELECT format('GRANT %s ON %%s TO %s%s', a.privilege_type,
         CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
         CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class t, aclexplode(t.relacl) a
WHERE t.oid = to_regclass($1) AND a.grantee <> t.relowner"""

#: The names of a table's key and of its NOT NULL constraints (from PostgreSQL 18 on), by type and
#: column.
_CONSTRAINTS = """
SELECT c.contype::text, coalesce(a.attname, ''), c.conname FROM pg_constraint c
LEFT JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1] AND c.contype = 'n'
WHERE c.conrelid = to_regclass($1) AND c.contype IN ('p', 'n') ORDER BY 1, 2"""

_DEPENDENT = (
    "drop the views and other objects of the target that depend on the table, start again, and"
    " create them again when the table is live"
)


def insert_all(table: Table, source: str, target: str) -> str:
    """Insert all rows of one table into another one of the same shape. Both names are quoted."""
    columns = ", ".join(
        quote(column.name) for column in table.columns if not isinstance(column, ComputedColumn)
    )
    return f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {source}"


def fill_columns(table: Table, columns: Sequence[str], source: str, naming: Naming) -> str:
    """Set columns that hold NULL in all rows to the values of the table ``source``, by the key.

    Rows whose values are NULL there are not written.
    """
    key = " AND ".join(
        f"t.{name} = w.{name}" for name in (quote(table.columns[n].name) for n in table.key)
    )
    names = [quote(name) for name in columns]
    values = ", ".join(f"{name} = w.{name}" for name in names)
    filled = " OR ".join(f"w.{name} IS NOT NULL" for name in names)
    return (
        f"UPDATE {naming.sql(table.id)} AS t SET {values} FROM {source} AS w"
        f" WHERE {key} AND ({filled})"
    )


class Replacement(NamedTuple):
    """``twin`` takes the place of ``before`` and becomes ``after``.

    ``run`` executes a step of DDL, and ``truncate`` removes all rows.
    """

    session: Session
    naming: Naming
    before: Table
    twin: Table
    after: Table
    run: Callable[[Step], Awaitable[None]]
    truncate: Callable[[Table], Awaitable[None]]

    async def execute(self) -> None:
        """Raises SchemaError if what others have added, such as a view, is in the way."""
        naming, before = self.naming, self.before
        indexes = [index_name(naming.place(before.id)[1], index.name) for index in before.indexes]
        columns = [fitted(column) for column in before.names]
        parameters = (naming.sql(before.id), indexes, columns)
        cursor = await self.session.execute(_HAS_DEPENDENTS, parameters, table=before.id)
        try:
            if await cursor.fetchone() == (True,):
                await self._fill()
            else:
                await self._swap()
        except UnloggedChange as error:
            raise SchemaError(error.message, hint=_DEPENDENT, table=before.id) from error

    async def _fill(self) -> None:
        """Give the old table the new shape and rows."""
        name, twin = self.naming.sql(self.before.id), self.naming.sql(self.twin.id)
        await self.truncate(self.before)
        for step in alter_table(self.before, self.after, (), self.naming, indexed=True):
            await self.run(step)
        for statement in create_indexes(self.after, self.naming):  # those not built yet
            await self.run(Step(statement))
        await self.session.execute_bulk(insert_all(self.after, twin, name), table=self.after.id)
        await self.run(Step(f"DROP TABLE {twin}"))

    async def _swap(self) -> None:
        """Drop the old table, and rename the twin."""
        name = self.naming.sql(self.before.id)
        cursor = await self.session.execute(_GRANTS, (name,), table=self.before.id)
        grants = await cursor.fetchall()
        constraints = await self._constraints()
        await self.run(Step(f"DROP TABLE IF EXISTS {name}"))
        for step in alter_table(self.twin, self.after, (), self.naming, indexed=True):
            await self.run(step)
        await self._rename_constraints(constraints)
        for (grant,) in grants:
            await self.run(Step(grant % name))

    async def _constraints(self) -> dict[tuple[str, str], str]:
        name = self.naming.sql(self.before.id)
        cursor = await self.session.execute(_CONSTRAINTS, (name,), table=self.before.id)
        return {(kind, column): name for kind, column, name in await cursor.fetchall()}

    async def _rename_constraints(self, old: Mapping[tuple[str, str], str]) -> None:
        """Give the table's constraints the names of the ``old`` ones, or their own names without
        the twin's prefix. A name that is taken is left alone.
        """
        name, schema = self.naming.sql(self.after.id), self.naming.place(self.after.id)[0]
        own = await self._constraints()
        taken = set(own.values())
        for place, now in own.items():
            wanted = without_twin_prefix(old.get(place, now))
            if wanted in taken:
                continue
            if place[0] == "p":  # its index shares a name space with the schema's tables
                query = "SELECT to_regclass($1) IS NOT NULL"
                cursor = await self.session.execute(query, (quote(schema, wanted),))
                if await cursor.fetchone() == (True,):
                    continue
            taken.add(wanted)
            await self.run(
                Step(f"ALTER TABLE {name} RENAME CONSTRAINT {quote(now)} TO {quote(wanted)}")
            )

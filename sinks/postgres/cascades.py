"""
The actions of foreign keys: ``Cascade`` becomes statements.

The values that rows refer to are loaded into a staging table. One statement for each foreign key
deletes or changes the rows that refer to them, and inserts the values that these rows had, and have
now, into the staging tables of the foreign keys that act next. So a level of foreign keys costs one
statement for each key, whatever the number of rows. It ends when no row is hit::

    WITH hit AS (DELETE FROM line AS t USING staged_1 AS s WHERE t.order_id = s.o0
                 RETURNING t.id AS r0),
         i0 AS (INSERT INTO staged_2 (o0) SELECT DISTINCT r0 FROM hit)
    SELECT 1 FROM hit LIMIT 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from engine.change import Cascade, Row
from engine.databases.postgres.identifiers import quote
from engine.schema import Table
from engine.toolkit.cascades import Step, runs, steps
from sinks.postgres.copy import Encoder
from sinks.postgres.session import Session
from sinks.postgres.staging import StagingTables
from sinks.postgres.statements import StagingTable, Statements

__all__ = ["Cascades"]


#: The statements of a table, which know its name and how its values are stored.
Sql = Callable[[Table], Statements]


class _Level(NamedTuple):
    """The foreign keys that act next, each with the staging table of its values."""

    staged: dict[Step, str]
    number: int


class Cascades:
    """Applies cascades in the open transaction of a session."""

    def __init__(self, session: Session, staging: StagingTables, sql: Sql) -> None:
        self._session = session
        self._staging = staging
        self._sql = sql

    async def apply(self, change: Cascade) -> None:
        """Apply one cascade to the tables that it names."""
        # A table in backfill has no secondary index yet, so a hash join is the fast plan.
        await self._session.execute("SET LOCAL enable_hashjoin = on")
        if change.after is None:
            await self._apply(change, change.before, None)
        else:
            for before, after in runs(change.before, change.after):
                await self._apply(change, before, after)
        await self._session.execute("SET LOCAL enable_hashjoin = off")

    async def _apply(self, change: Cascade, before: list[Row], after: list[Row] | None) -> None:
        changed = None if after is None else frozenset(change.columns)
        rows = before if after is None else [o + n for o, n in zip(before, after, strict=True)]
        level = _Level({}, 0)
        for step in steps(change.tables, change.parent, changed):
            if step.key.parent_columns == change.columns:
                staging = _staging_table(step, level.number, self._sql)
                level.staged[step] = await self._staging.load(step.child.id, staging, rows)
        while level.staged:
            level = await self._next(change, level)

    async def _next(self, change: Cascade, level: _Level) -> _Level:
        """Execute the foreign keys of one level. Returns the next one."""
        following: dict[Step, str] = {}
        hit: set[Step] = set()
        for step, staged in level.staged.items():
            outputs = {}
            for each in steps(change.tables, step.child.id, step.changed):
                if each not in following:
                    staging = _staging_table(each, level.number + 1, self._sql)
                    following[each] = await self._staging.create(each.child.id, staging)
                outputs[each] = following[each]
            query = _statement(step, staged, outputs, self._sql)
            if await self._session.execute_bulk(query, table=step.child.id):
                hit.update(outputs)
        staged_next = {step: staged for step, staged in following.items() if step in hit}
        return _Level(staged_next, level.number + 1)


def _staging_table(step: Step, level: int, sql: Sql) -> StagingTable:
    """The staging table for the old values of a step, and for the new ones of an update.

    Levels take turns with two, because a self-reference reads one and fills the next.
    """
    table, key, statements = step.child, step.key, sql(step.child)
    ordinals = [table.ordinal(name) for name in key.columns]
    names = [f"o{n}" for n in range(len(ordinals))]
    if step.update:
        names += [f"n{n}" for n in range(len(ordinals))]
        ordinals *= 2
    query = ", ".join(
        f"{quote(table.columns[ordinal].name)} AS {name}"
        for ordinal, name in zip(ordinals, names, strict=True)
    )
    fields = [statements.field(ordinal, place) for place, ordinal in enumerate(ordinals)]
    purpose = f"foreign key {key.name} {level % 2} {step.update}"
    encoder = Encoder(table.id, fields, len(fields))
    return StagingTable(
        purpose, ", ".join(names), f"SELECT {query} FROM {statements.name}", encoder
    )


def _statement(step: Step, staged: str, outputs: dict[Step, str], sql: Sql) -> str:
    name, columns = sql(step.child).name, [quote(each) for each in step.key.columns]
    same = " AND ".join(f"t.{column} = s.o{n}" for n, column in enumerate(columns))
    if step.deletes:
        query = f"DELETE FROM {name} AS t USING {staged} AS s WHERE {same}"
    else:
        new = "NULL" if step.action == "set null" else "s.n{}"
        values = ", ".join(f"{column} = {new.format(n)}" for n, column in enumerate(columns))
        query = f"UPDATE {name} AS t SET {values} FROM {staged} AS s WHERE {same}"
    if not outputs:
        return query
    returned: list[str] = []
    inserts = [
        _insert(step, each, target, returned, f"i{n}")
        for n, (each, target) in enumerate(outputs.items())
    ]
    results = ", ".join(f"{value} AS r{n}" for n, value in enumerate(returned))
    return (
        f"WITH hit AS ({query} RETURNING {results}), {', '.join(inserts)} SELECT 1 FROM hit LIMIT 1"
    )


def _insert(step: Step, each: Step, target: str, returned: list[str], name: str) -> str:
    """The part of a statement that gives the values of the rows that it hits to the next step.

    ``returned`` collects the values that it needs: those of ``t`` are the new ones.
    """
    old, new = [], []
    for column in each.key.parent_columns:
        returned.append(f"t.{quote(column)}")
        new.append(f"r{len(returned) - 1}")
        if column in step.key.columns and not step.deletes:
            returned.append(f"s.o{step.key.columns.index(column)}")
        old.append(f"r{len(returned) - 1}")
    names = [f"o{n}" for n in range(len(old))]
    values, where = old, ""
    if each.update:
        names += [f"n{n}" for n in range(len(new))]
        values = old + new
        where = f" WHERE ({', '.join(old)}) IS DISTINCT FROM ({', '.join(new)})"
    return (
        f"{name} AS (INSERT INTO {target} ({', '.join(names)})"
        f" SELECT DISTINCT {', '.join(values)} FROM hit{where})"
    )

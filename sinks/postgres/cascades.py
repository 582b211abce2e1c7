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

Texts that the source compares without regard to case or to spaces at the end are compared as
``_folded`` makes them, through an index of its own. It has one value for all texts of which it is
not known what they are equal to; guards find these before the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from engine.change import Cascade, Folding, Row
from engine.databases.postgres.identifiers import digested, quote
from engine.errors import UnloggedChange
from engine.schema import Table
from engine.toolkit.cascades import FOLDED_CHARACTERS, Step, runs, steps, uncertain
from sinks.postgres.copy import Encoder
from sinks.postgres.session import Session
from sinks.postgres.staging import StagingTables
from sinks.postgres.statements import StagingTable, Statements

__all__ = ["FOLDED_INDEX", "Cascades"]

#: How the names of indexes on folded texts begin.
FOLDED_INDEX: Final = "tailrace_folded"
#: What stands for all texts that are not folded. No folded text contains it.
_UNKNOWN: Final = "E'\\x01'"
_HAS_INDEX: Final = """
SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass($1) AND c.relname = $2"""

#: The statements of a table, which know its name and how its values are stored.
Sql = Callable[[Table], Statements]

Foldings = Sequence[Folding | None]


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
        self._session.later("SET LOCAL enable_hashjoin = on")
        if change.after is None:
            await self._apply(change, change.before, None)
        else:
            for before, after in runs(change.before, change.after, apart=bool(change.folded)):
                await self._apply(change, before, after)
        self._session.later("SET LOCAL enable_hashjoin = off")

    async def _apply(self, change: Cascade, before: list[Row], after: list[Row] | None) -> None:
        changed = None if after is None else frozenset(change.columns)
        rows = before if after is None else [o + n for o, n in zip(before, after, strict=True)]
        level = _Level({}, 0)
        for step in steps(change.tables, change.parent, changed):
            if step.key.parent_columns == change.columns:
                staging = _staging_table(step, level.number, self._sql)
                level.staged[step] = await self._staging.load(step.child.id, staging, rows)
                self._check_stored(step, staging)
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
            foldings = change.folded.get((step.child.id, step.key.name), ())
            if foldings:
                await self._prepare(step, staged, foldings)
            query = _statement(step, staged, outputs, self._sql, foldings)
            if await self._session.execute_bulk(query, table=step.child.id):
                hit.update(outputs)
        staged_next = {step: staged for step, staged in following.items() if step in hit}
        return _Level(staged_next, level.number + 1)

    def _check_stored(self, step: Step, staging: StagingTable) -> None:
        """Refuse values that the target cannot store, or that may stand for such a value."""
        sql, table = self._sql(step.child), step.child
        stand_in = any(sql.may_stand_in(table.ordinal(name)) for name in step.key.columns)
        if stand_in or staging.encoder.take_replaced():
            raise UnloggedChange(
                f"rows are deleted or changed by the foreign key {step.key.name}, which the log"
                " does not show: a policy replaces values of its columns",
                hint="choose another value policy for the columns, which keeps every value",
                table=table.id,
            )

    async def _prepare(self, step: Step, staged: str, foldings: Foldings) -> None:
        """Create the index, if there is none, and look for texts that are not folded."""
        name, id = self._sql(step.child).name, step.child.id
        column, how = next(
            (quote(column), how)
            for column, how in zip(step.key.columns, foldings, strict=True)
            if how is not None
        )
        index = digested(FOLDED_INDEX, f"{name} {column} {how}")
        cursor = await self._session.execute(_HAS_INDEX, (name, index), table=id)
        if await cursor.fetchone() is None:
            query = f"CREATE INDEX {quote(index)} ON {name} ({_folded(column, how)})"
            # Without statistics of the index, the planner would read the whole table.
            await self._session.execute_bulk_all([(query, id), (f"ANALYZE {name}", id)])
        self._session.later("SET LOCAL enable_seqscan = off")
        for query in _guards(step, name, staged, foldings):
            if await self._session.execute_bulk(query, table=id):
                raise uncertain(step)
        self._session.later("SET LOCAL enable_seqscan = on")


def _folded(value: str, how: Folding) -> str:
    """The expression for a text as ``engine.toolkit.cascades.fold`` makes it."""
    plain = text = f'({value}::text COLLATE "C")'
    text = f"rtrim({text})" if how.spaces else text
    text = f"lower({text})" if how.case else text
    return (
        f"(CASE WHEN {plain} !~ '[^ -~]' AND length({plain}) <= {FOLDED_CHARACTERS} THEN {text}"
        f" WHEN {plain} IS NOT NULL THEN {_UNKNOWN} END)"
    )


def _guards(step: Step, name: str, staged: str, foldings: Foldings) -> Iterator[str]:
    """Queries that find values, or rows that may refer to them, whose texts are not folded."""
    places = [(n, how) for n, how in enumerate(foldings) if how is not None]
    values = " OR ".join(f"{_folded(f's.o{n}', how)} = {_UNKNOWN}" for n, how in places)
    yield f"SELECT FROM {staged} AS s WHERE {values} LIMIT 1"
    for n, how in places:
        column = quote(step.key.columns[n])
        others = "".join(
            f" AND t.{quote(other)} = s.o{m}"
            for m, other in enumerate(step.key.columns)
            if foldings[m] is None
        )
        yield (
            f"SELECT FROM {name} AS t JOIN {staged} AS s ON"
            f" {_folded(f't.{column}', how)} = {_UNKNOWN}{others} LIMIT 1"
        )


def _same(step: Step, foldings: Foldings) -> str:
    """The condition that a row of the child refers to a staged value."""
    return " AND ".join(
        f"t.{quote(column)} = s.o{n}"
        if how is None
        else f"{_folded(f't.{quote(column)}', how)} = {_folded(f's.o{n}', how)}"
        for n, (column, how) in enumerate(
            zip(step.key.columns, foldings or [None] * len(step.key.columns), strict=True)
        )
    )


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
        f"{statements.exact(ordinal)} AS {name}"
        for ordinal, name in zip(ordinals, names, strict=True)
    )
    fields = [statements.field(ordinal, place) for place, ordinal in enumerate(ordinals)]
    purpose = f"foreign key {key.name} {level % 2} {step.update}"
    encoder = Encoder(table.id, fields, len(fields))
    return StagingTable(
        purpose, ", ".join(names), f"SELECT {query} FROM {statements.name}", encoder
    )


def _statement(
    step: Step, staged: str, outputs: dict[Step, str], sql: Sql, foldings: Foldings
) -> str:
    name, columns = sql(step.child).name, [quote(each) for each in step.key.columns]
    same = _same(step, foldings)
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
        _insert(step, each, target, returned, f"i{n}", sql(step.child))
        for n, (each, target) in enumerate(outputs.items())
    ]
    results = ", ".join(f"{value} AS r{n}" for n, value in enumerate(returned))
    return (
        f"WITH hit AS ({query} RETURNING {results}), {', '.join(inserts)} SELECT 1 FROM hit LIMIT 1"
    )


def _insert(
    step: Step, each: Step, target: str, returned: list[str], name: str, sql: Statements
) -> str:
    """The part of a statement that gives the values of the rows that it hits to the next step.

    ``returned`` collects the values that it needs: those of ``t`` are the new ones.
    """
    old, new = [], []
    for column in each.key.parent_columns:
        returned.append(f"t.{sql.exact(step.child.ordinal(column))}")
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

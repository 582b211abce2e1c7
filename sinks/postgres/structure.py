"""
What tables of the target should have, what they have, and the statements that complete them, for
``tailrace schema``.

PostgreSQL itself writes both sides in one form: a temporary table is created as the target's table
should be, both are read from the catalog by the same query, and the transaction is rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psycopg import errors as pg

from engine.databases.postgres.identifiers import Naming, fitted, quote
from engine.databases.postgres.stored import Storage
from engine.errors import ApplyError, SinkError, SinkLost
from engine.structure import Item, Program, ProgramKind, WantedTable
from sinks.postgres.cascades import FOLDED_INDEX
from sinks.postgres.defaults import literal
from sinks.postgres.session import Session
from sinks.postgres.structure_parts import NUMBERS, TEMPORARY, Parts

__all__ = ["ACTING_FOREIGN_KEYS", "SchemaReader", "execute_alone"]

#: Why a pipeline that runs has to be stopped before its target gets foreign keys.
ACTING_FOREIGN_KEYS: Final = (
    "session_replication_role cannot be set, so foreign keys of the target act on every row that"
    " the engine applies"
)
#: How long a statement waits for a lock for which all others wait behind it.
_LOCK_TIMEOUT: Final = "2s"
_BUILD_TIMEOUT: Final = "30s"

_PAST: Final = "past all numbers of the source"
_EXISTS: Final = "SELECT 1 FROM pg_class WHERE oid = to_regclass($1) AND relkind IN ('r', 'p')"
#: The constraints whose names neither a check nor a foreign key of the table can have.
_TAKEN: Final = """
SELECT conname FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype NOT IN ('c', 'f')"""
#: The parts of a table: kind, name, definition, whether it is unfinished, and whether it is
#: harmless if only the target has it.
_PARTS: Final = f"""
WITH it AS (SELECT $1::regclass::oid AS id),
columns AS (
  SELECT a.*, pg_get_expr(d.adbin, d.adrelid) AS expression FROM it
  JOIN pg_attribute a ON a.attrelid = it.id AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = it.id AND d.adnum = a.attnum)
SELECT 'column', attname::text, format_type(atttypid, atttypmod)
  || coalesce((SELECT ' COLLATE ' || collname FROM pg_collation WHERE oid = attcollation
     AND collname <> 'default'), ''), false, false FROM columns
UNION ALL SELECT 'not null', attname, 'NOT NULL', false, false FROM columns WHERE attnotnull
UNION ALL SELECT 'generated', attname, expression, false, false FROM columns
  WHERE attgenerated <> ''
UNION ALL SELECT 'identity', attname, '{NUMBERS}', false, false FROM columns
  WHERE attidentity = 'd' OR (attgenerated = '' AND expression LIKE 'nextval(%')
UNION ALL SELECT 'identity', attname, 'GENERATED ALWAYS', false, false FROM columns
  WHERE attidentity = 'a'
UNION ALL SELECT 'default', attname, expression, false, false FROM columns
  WHERE attgenerated = '' AND expression NOT LIKE 'nextval(%'
UNION ALL SELECT CASE WHEN indisprimary THEN 'key' ELSE 'index' END,
  CASE WHEN indisprimary THEN '' ELSE c.relname END,
  CASE WHEN indisunique AND NOT indisprimary THEN 'UNIQUE ' ELSE '' END
  || substring(pg_get_indexdef(c.oid) FROM ' USING (.*)'), NOT indisvalid, NOT indisunique
  FROM it JOIN pg_index i ON i.indrelid = it.id JOIN pg_class c ON c.oid = i.indexrelid
  WHERE NOT starts_with(c.relname, '{FOLDED_INDEX}')
UNION ALL SELECT 'check', conname, regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', ''),
  NOT convalidated, false FROM it JOIN pg_constraint c ON conrelid = it.id AND contype = 'c'
UNION ALL SELECT 'foreign key', conname, format('(%s) -> %s.%s (%s)', names.own, n.nspname,
  r.relname, names.other)
  || CASE confdeltype WHEN 'c' THEN ' ON DELETE CASCADE' WHEN 'n' THEN ' ON DELETE SET NULL'
     WHEN 'd' THEN ' ON DELETE SET DEFAULT' ELSE '' END
  || CASE confupdtype WHEN 'c' THEN ' ON UPDATE CASCADE' WHEN 'n' THEN ' ON UPDATE SET NULL'
     WHEN 'd' THEN ' ON UPDATE SET DEFAULT' ELSE '' END, NOT convalidated, false
  FROM it JOIN pg_constraint c ON conrelid = it.id AND contype = 'f'
  JOIN pg_class r ON r.oid = confrelid JOIN pg_namespace n ON n.oid = r.relnamespace,
  LATERAL (SELECT string_agg(a.attname, ', ' ORDER BY place) AS own,
    string_agg(b.attname, ', ' ORDER BY place) AS other
    FROM unnest(conkey, confkey) WITH ORDINALITY AS k(own, other, place)
    JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = k.own
    JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = k.other) AS names
UNION ALL SELECT 'comment', '', obj_description(id, 'pg_class'), false, true FROM it
  WHERE obj_description(id, 'pg_class') IS NOT NULL
UNION ALL SELECT 'comment', attname, col_description(attrelid, attnum), false, true FROM columns
  WHERE col_description(attrelid, attnum) IS NOT NULL
UNION ALL SELECT 'trigger', tgname, '', false, false FROM it
  JOIN pg_trigger ON tgrelid = it.id AND NOT tgisinternal"""
_PROGRAMS: Final = """
SELECT 'view', nspname::text, relname::text FROM pg_class
JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('v', 'm') AND nspname = ANY($1::text[])
UNION SELECT CASE prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, nspname, proname
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE nspname = ANY($1::text[]) AND prorettype <> 'trigger'::regtype AND NOT EXISTS (
  SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')"""
_ADVICE: Final[dict[ProgramKind, str]] = {
    "view": "translate what SHOW CREATE VIEW shows, and create it on the target",
    "trigger": "translate what SHOW CREATE TRIGGER shows, and create it on the target",
    "function": "translate what SHOW CREATE FUNCTION shows, and create it on the target",
    "procedure": "translate what SHOW CREATE PROCEDURE shows, and create it on the target",
    "event": "PostgreSQL has no events: use pg_cron, or a scheduler outside of the database",
}


class SchemaReader:
    """Reads through a session that is used for nothing else."""

    def __init__(self, session: Session, naming: Naming, storage: Storage) -> None:
        self._session = session
        self._naming = naming
        self._storage = storage

    async def items(
        self, tables: Sequence[WantedTable], programs: Sequence[Program]
    ) -> tuple[list[Item], list[Item]]:
        """As ``ComparesSchema.schema_items``."""
        wanted: list[Item] = []
        existing: list[Item] = []
        known = {it.table.id: it.table for it in tables}
        for it in tables:
            place = ".".join(self._naming.place(it.table.id))
            name = self._naming.sql(it.table.id)
            wanted.append(Item("table", place, "", advice="`tailrace run CONFIG` creates it"))
            cursor = await self._session.execute(_EXISTS, (name,))
            if await cursor.fetchone() is None:
                continue
            existing.append(Item("table", place, ""))
            cursor = await self._session.execute(_TAKEN, (name,))
            taken = [constraint for (constraint,) in await cursor.fetchall()]
            parts = Parts(it, known, self._naming, self._storage, taken)
            try:
                wanted += await self._expected(parts, place)
                existing += await self._parts(name, place)
            finally:
                await self._session.rollback()
            if it.details.numbered:
                wanted_sequence, found = await self._sequence(parts, name, place)
                wanted += wanted_sequence
                existing += found
        more, found = await self._compare_programs(tables, programs)
        return wanted + more, existing + found

    async def _expected(self, parts: Parts, place: str) -> list[Item]:
        """What the table should have, of which a part is read from the temporary table."""
        made = {(it.kind, it.name): it for it in parts.made()}
        await self._session.begin()
        await self._session.execute_bulk_all([(sql, place) for sql in parts.expected()])
        found = []
        for item in await self._parts(TEMPORARY, place):
            known = made.pop((item.kind, item.name), None)
            found.append(item if known is None else _described(known, item.definition))
        return [*found, *made.values()]

    async def _parts(self, relation: str, place: str) -> list[Item]:
        cursor = await self._session.execute(_PARTS, (relation,))
        return [
            Item(
                *(kind, place, name, definition),
                unfinished=unfinished,
                harmless=harmless and relation != TEMPORARY,
                advice="" if relation == TEMPORARY else "only the target has it",
            )
            for kind, name, definition, unfinished, harmless in await cursor.fetchall()
        ]

    async def _sequence(self, parts: Parts, name: str, place: str) -> tuple[list[Item], list[Item]]:
        """Whether the next number of a column is greater than all that are used."""
        column = parts.numbered
        cursor = await self._session.execute(
            "SELECT pg_get_serial_sequence($1, $2)", (name, fitted(column))
        )
        (sequence,) = await cursor.fetchone() or (None,)
        if sequence is None:
            return [], []
        cursor = await self._session.execute(
            f"SELECT last_value::numeric + is_called::integer, (SELECT seqmax FROM pg_sequence"
            f" WHERE seqrelid = {literal(sequence)}::regclass),"
            f" (SELECT coalesce(max({quote(column)}), 0) FROM {name}) FROM {sequence}"
        )
        number, most, maximum = await cursor.fetchone() or (0, 0, 0)
        ended = number > most
        found = "it has no next number" if ended else f"the next number is {number}"
        wanted = Item(
            *("sequence", place, fitted(column), _PAST, () if ended else (parts.set_sequence(),)),
            advice=f"the sequence ends at {most}, and the source goes on after that: give it a"
            " larger MAXVALUE, or the column another default",
        )
        past = number > max(maximum, parts.given)
        return [wanted], [Item("sequence", place, fitted(column), _PAST if past else found)]

    async def _compare_programs(
        self, tables: Sequence[WantedTable], programs: Sequence[Program]
    ) -> tuple[list[Item], list[Item]]:
        places = {
            source.id: ".".join(self._naming.place(it.table.id))
            for it in tables
            for source in it.table.sources
        }
        wanted = []
        schemas = {self._naming.place(it.table.id)[0] for it in tables}
        for program in programs:
            schema, name = self._naming.place(program.id)
            on = schema
            if program.kind == "trigger":
                if program.table not in places:
                    continue
                on = places[program.table]
            advice, event = _ADVICE[program.kind], program.kind == "event"
            wanted.append(Item(program.kind, on, name, advice=advice, by_name=True, harmless=event))
        cursor = await self._session.execute(_PROGRAMS, (sorted(schemas),))
        existing = [
            Item(kind, schema, name, advice="only the target has it", harmless=True)
            for kind, schema, name in await cursor.fetchall()
        ]
        return wanted, existing


async def execute_alone(session: Session, statements: Sequence[str]) -> None:
    """As ``ComparesSchema.execute_alone``, on a session of its own.

    The build of an index waits for older transactions, and only other schema changes wait for it.
    """
    for statement in statements:
        timeout = _BUILD_TIMEOUT if " CONCURRENTLY " in statement else _LOCK_TIMEOUT
        await session.execute(f"SET lock_timeout = '{timeout}'")
        try:
            await session.execute_bulk(statement)
        except ApplyError as error:
            error.hint = _remedy(error.__cause__) or error.hint
            raise
        except SinkLost as error:
            if not isinstance(error.__cause__, pg.LockNotAvailable):
                raise
            raise SinkError(
                f"another session holds a lock on the table for more than {timeout[:-1]} s",
                hint=f"{error.hint} When its transaction has ended, repeat the command",
            ) from error


def _remedy(cause: BaseException | None) -> str:
    """What to do about a statement that PostgreSQL refuses; empty if the session's hint holds."""
    match cause:
        case pg.ForeignKeyViolation():
            return (
                "Rows refer to no row of the other table, or their texts differ from its texts and"
                " are equal only in the source's collation, such as 'a' and 'A'. Correct them in"
                " the source, then repeat the command. Until then the foreign key is NOT VALID: it"
                " holds for new rows, and a cutover is refused"
            )
        case pg.CheckViolation():
            return (
                "Rows violate it, so the source does not enforce it on them. Correct them in the"
                " source, then repeat the command. Until then the check is NOT VALID: it holds for"
                " new rows, and a cutover is refused"
            )
        case pg.InvalidForeignKey():
            return "Create a unique index over exactly these columns, then repeat the command"
        case pg.DatatypeMismatch() | pg.CollationMismatch():
            return (
                "The columns have types or collations that PostgreSQL does not compare: create a"
                " trigger that does the same"
            )
        case pg.DuplicateObject() | pg.DuplicateTable():
            return "Rename or drop what has this name on the target, then repeat the command"
        case (
            pg.FeatureNotSupported()
            | pg.SyntaxError()
            | pg.UndefinedFunction()
            | pg.AmbiguousFunction()
            | pg.IndeterminateDatatype()
            | pg.CannotCoerce()
            | pg.WrongObjectType()
            | pg.InvalidObjectDefinition()
            | pg.DataError()
        ):
            return (
                "`tailrace schema diff CONFIG` shows both sides: create on the target what does the"
                " same"
            )
    return ""


def _described(item: Item, definition: str) -> Item:
    return Item(
        *(item.kind, item.table, item.name, definition, item.statements, item.finish),
        advice=item.advice,
    )

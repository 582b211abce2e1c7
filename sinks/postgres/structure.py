"""
What tables of the target should have, what they have, and the statements that complete them, for
``tailrace schema``.

PostgreSQL itself writes both sides in one form: a temporary table is created as the target's table
should be, both are read from the catalog by the same query, and the transaction is rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from psycopg.errors import LockNotAvailable

from engine.databases.postgres.expressions import Inexact
from engine.databases.postgres.identifiers import Naming, fitted, quote
from engine.databases.postgres.stored import Storage
from engine.errors import SinkError, SinkLost
from engine.schema import Column, ForeignKey
from engine.structure import Check, Item, ItemKind, Program, ProgramKind, WantedTable
from sinks.postgres.cascades import FOLDED_INDEX
from sinks.postgres.ddl import (
    column_definitions,
    create_index,
    index_name,
    indexable,
    key_constraint,
)
from sinks.postgres.defaults import NULL, constant_default, literal, time_default
from sinks.postgres.session import Session

__all__ = ["ACTING_FOREIGN_KEYS", "SchemaReader", "execute_alone"]

#: Why a pipeline that runs has to be stopped before its target gets foreign keys.
ACTING_FOREIGN_KEYS: Final = (
    "session_replication_role cannot be set, so foreign keys of the target act on every row that"
    " the engine applies"
)
#: How long a statement waits for a lock for which all others wait behind it.
_LOCK_TIMEOUT: Final = "2s"
_BUILD_TIMEOUT: Final = "30s"

#: The temporary table, and its name with its schema.
_EXPECTED: Final = "tailrace_expected"
_TEMPORARY: Final = f"pg_temp.{_EXPECTED}"
_NUMBERS: Final = "numbers for new rows"
_PAST: Final = "past the maximum"
_INTEGERS: Final = frozenset(
    ("int8", "int16", "int24", "int32", "int64", "uint8", "uint16", "uint24", "uint32")
)
_EXISTS: Final = "SELECT 1 FROM pg_class WHERE oid = to_regclass($1) AND relkind IN ('r', 'p')"
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
UNION ALL SELECT 'identity', attname, '{_NUMBERS}', false, false FROM columns
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
        for it in tables:
            place = ".".join(self._naming.place(it.table.id))
            name = self._naming.sql(it.table.id)
            wanted.append(Item("table", place, "", advice="`tailrace run CONFIG` creates it"))
            cursor = await self._session.execute(_EXISTS, (name,))
            if await cursor.fetchone() is None:
                continue
            existing.append(Item("table", place, ""))
            parts = _Parts(it, self._naming, self._storage)
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

    async def _expected(self, parts: _Parts, place: str) -> list[Item]:
        """What the table should have, of which a part is read from the temporary table."""
        made = {(it.kind, it.name): it for it in parts.made()}
        await self._session.begin()
        await self._session.execute_bulk_all([(sql, place) for sql in parts.expected()])
        found = []
        for item in await self._parts(_TEMPORARY, place):
            known = made.pop((item.kind, item.name), None)
            found.append(item if known is None else _described(known, item.definition))
        return [*found, *made.values()]

    async def _parts(self, relation: str, place: str) -> list[Item]:
        cursor = await self._session.execute(_PARTS, (relation,))
        return [
            Item(
                *(kind, place, name, definition),
                unfinished=unfinished,
                harmless=harmless and relation != _TEMPORARY,
                advice="" if relation == _TEMPORARY else "only the target has it",
            )
            for kind, name, definition, unfinished, harmless in await cursor.fetchall()
        ]

    async def _sequence(
        self, parts: _Parts, name: str, place: str
    ) -> tuple[list[Item], list[Item]]:
        """Whether the next number of a column is greater than all that are used."""
        column = parts.numbered
        cursor = await self._session.execute(
            "SELECT pg_get_serial_sequence($1, $2)", (name, fitted(column))
        )
        (sequence,) = await cursor.fetchone() or (None,)
        if sequence is None:
            return [], []
        cursor = await self._session.execute(
            f"SELECT (SELECT last_value + is_called::integer FROM {sequence}),"
            f" (SELECT coalesce(max({quote(column)}), 0) FROM {name})"
        )
        number, maximum = await cursor.fetchone() or (0, 0)
        found = _PAST if number > maximum else f"the next number is {number}"
        wanted = Item("sequence", place, fitted(column), _PAST, (parts.set_sequence(),))
        return [wanted], [Item("sequence", place, fitted(column), found)]

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
        except SinkLost as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            raise SinkError(
                f"another session holds a lock on the table for more than {timeout[:-1]} s",
                hint=f"{error.hint} When its transaction has ended, repeat the command",
            ) from error


def _described(item: Item, definition: str) -> Item:
    return Item(
        *(item.kind, item.table, item.name, definition, item.statements, item.finish),
        advice=item.advice,
    )


class _Parts:
    """The parts of a table that Tailrace knows how to make, and the others with advice."""

    def __init__(self, wanted: WantedTable, naming: Naming, storage: Storage) -> None:
        self._wanted = wanted
        self._naming = naming
        self._storage = storage
        self._stored = storage.table(wanted.table)
        self._name = naming.sql(wanted.table.id)
        self._place = ".".join(naming.place(wanted.table.id))
        self.numbered = wanted.details.numbered

    def expected(self) -> list[str]:
        """The statements that create the temporary table."""
        stored = self._stored
        parts = column_definitions(stored)
        if stored.key:
            parts.append(key_constraint(stored))
        statements = [f"CREATE TEMPORARY TABLE {_EXPECTED} ({', '.join(parts)}) ON COMMIT DROP"]
        statements += (
            create_index(stored, index, self._naming, _TEMPORARY)
            for index in stored.indexes
            if indexable(stored, index)
        )
        for column in stored.columns:
            if (default := _expression(column)) is not None:
                statements.append(_set_default(_TEMPORARY, column, default))
        for check in self._wanted.details.checks:
            if check.enforced and (sql := self._condition(check)[0]):
                statements.append(_add_check(_TEMPORARY, check, sql))
        return statements

    def made(self) -> Iterator[Item]:
        """What a statement can make, or somebody has to."""
        yield from self._defaults()
        yield from self._indexes()
        yield from self._numbers()
        yield from self._comments()
        yield from map(self._check, self._wanted.details.checks)
        yield from map(self._foreign_key, self._wanted.foreign_keys)
        for name in self._wanted.details.touched:
            advice = (
                f"the source sets {name} to the time of each update: create a trigger of this name"
                " BEFORE UPDATE that does the same"
            )
            yield self._item("trigger", f"{name}_on_update", advice=advice, by_name=True)
        for number, note in enumerate(self._wanted.notes, 1):
            yield self._item("table", f"note {number}", advice=note, harmless=True)

    def set_sequence(self) -> str:
        """The statement that sets the next number past the maximum."""
        column = quote(self.numbered)
        sequence = (
            f"pg_get_serial_sequence({literal(self._name)}, {literal(fitted(self.numbered))})"
        )
        used = f"coalesce(pg_sequence_last_value({sequence}::regclass), 0)"  # it never goes back
        return (
            f"SELECT setval({sequence}, (greatest(max({column}), {used}) + 1)::bigint, false)"
            f" FROM {self._name}"
        )

    def _item(
        self,
        kind: ItemKind,
        name: str,
        definition: str = "",
        statements: tuple[str, ...] = (),
        finish: tuple[str, ...] = (),
        *,
        advice: str = "",
        by_name: bool = False,
        harmless: bool = False,
    ) -> Item:
        return Item(
            *(kind, self._place, fitted(name), definition, statements, finish),
            advice=advice,
            by_name=by_name,
            harmless=harmless,
        )

    def _defaults(self) -> Iterator[Item]:
        for column in self._stored.columns:
            if column.default is None or column.generated:
                continue
            default = constant_default(column) or _expression(column)
            if default == NULL:
                continue
            if default is not None:
                statement = _set_default(self._name, column, default)
                yield self._item("default", column.name, statements=(statement,))
            else:
                advice = "it is no constant, and cannot be said exactly: set one that does the same"
                text = f"DEFAULT {column.default}"
                yield self._item("default", column.name, text, advice=advice, by_name=True)

    def _indexes(self) -> Iterator[Item]:
        stored, naming = self._stored, self._naming
        table = naming.place(stored.id)[1]
        others = dict(self._wanted.details.other_indexes)
        for index in stored.indexes:
            name = index_name(table, index.name)
            if indexable(stored, index):
                build = create_index(stored, index, naming, more="CONCURRENTLY ")
                schema, _ = naming.place(stored.id)
                drop = f"DROP INDEX CONCURRENTLY IF EXISTS {quote(schema, name)}"
                yield self._item("index", name, statements=(build,), finish=(drop, build))
            elif index.prefix or not index.unique:
                others.setdefault(index.name, "an index over values that may be long")
        for name, what in others.items():
            advice = "create one of this name that serves your queries"
            name = index_name(table, name)
            yield self._item("index", name, what, advice=advice, by_name=True)

    def _numbers(self) -> Iterator[Item]:
        name = self.numbered
        if not name:
            return
        column = self._stored.columns[self._stored.ordinal(name)]
        alter = f"ALTER TABLE {self._name} ALTER COLUMN {quote(name)}"
        if column.type.kind in _INTEGERS:
            statements = [f"{alter} ADD GENERATED BY DEFAULT AS IDENTITY"]
        else:
            schema, table = self._naming.place(self._stored.id)
            sequence = quote(schema, index_name(table, f"{name}_seq"))
            statements = [
                f"CREATE SEQUENCE IF NOT EXISTS {sequence} OWNED BY {self._name}.{quote(name)}",
                f"{alter} SET DEFAULT nextval({literal(sequence)})",
            ]
        statements.append(self.set_sequence())
        yield self._item("identity", name, _NUMBERS, tuple(statements))

    def _comments(self) -> Iterator[Item]:
        details = self._wanted.details
        if details.comment:
            statement = f"COMMENT ON TABLE {self._name} IS {literal(details.comment)}"
            yield self._item("comment", "", details.comment, (statement,))
        for name, comment in details.comments.items():
            on = f"COMMENT ON COLUMN {self._name}.{quote(name)}"
            yield self._item("comment", name, comment, (f"{on} IS {literal(comment)}",))

    def _condition(self, check: Check) -> tuple[str, str]:
        """The condition as SQL, or why there is none."""
        try:
            return self._storage.condition(self._wanted.table, check.condition), ""
        except Inexact as error:
            return "", str(error)

    def _check(self, check: Check) -> Item:
        sql, reason = self._condition(check)
        if not check.enforced:
            advice = "the source does not enforce it"
            return self._item("check", check.name, advice=advice, by_name=True, harmless=True)
        if not sql:
            advice = f"{reason}: create one of this name that does the same"
            text = f"CHECK ({check.text})"
            return self._item("check", check.name, text, advice=advice, by_name=True)
        validate = self._validate(check.name)
        add = f"{_add_check(self._name, check, sql)} NOT VALID"
        return self._item("check", check.name, statements=(add, validate), finish=(validate,))

    def _foreign_key(self, key: ForeignKey) -> Item:
        naming = self._naming
        parent = naming.place(key.parent)
        actions = "".join(
            f" ON {event} {action.upper()}"
            for event, action in (("DELETE", key.on_delete), ("UPDATE", key.on_update))
            if action != "restrict"
        )
        own, other = (", ".join(map(fitted, names)) for names in (key.columns, key.parent_columns))
        definition = f"({own}) -> {'.'.join(parent)} ({other}){actions}"
        own, other = (", ".join(map(quote, names)) for names in (key.columns, key.parent_columns))
        add = (
            f"ALTER TABLE {self._name} ADD CONSTRAINT {quote(key.name)} FOREIGN KEY ({own})"
            f" REFERENCES {quote(*parent)} ({other}){actions} NOT VALID"
        )
        validate = self._validate(key.name)
        return self._item("foreign key", key.name, definition, (add, validate), (validate,))

    def _validate(self, name: str) -> str:
        return f"ALTER TABLE {self._name} VALIDATE CONSTRAINT {quote(name)}"


def _expression(column: Column) -> str | None:
    """A default that is no constant, as SQL; None if there is none, or it is not exact."""
    if column.generated or column.default is None or constant_default(column) is not None:
        return None
    return time_default(column)


def _set_default(table: str, column: Column, default: str) -> str:
    return f"ALTER TABLE {table} ALTER COLUMN {quote(column.name)} SET DEFAULT {default}"


def _add_check(table: str, check: Check, sql: str) -> str:
    return f"ALTER TABLE {table} ADD CONSTRAINT {quote(check.name)} CHECK ({sql})"

"""
The parts that a table of the target should have, each with the statements that make it, or with
what a person can do. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from engine.databases.postgres.expressions import Inexact
from engine.databases.postgres.identifiers import Naming, digested, fitted, quote
from engine.databases.postgres.stored import Storage
from engine.databases.postgres.types import EnumColumn, type_name
from engine.schema import Column, ForeignKey, Table, TableId
from engine.structure import Check, Item, ItemKind, WantedTable
from sinks.postgres.ddl import (
    column_definitions,
    create_index,
    index_name,
    indexable,
    key_constraint,
)
from sinks.postgres.defaults import NULL, constant_default, literal, time_default

__all__ = ["NUMBERS", "TEMPORARY", "Parts"]

#: The temporary table, and its name with its schema.
EXPECTED: Final = "tailrace_expected"
TEMPORARY: Final = f"pg_temp.{EXPECTED}"
NUMBERS: Final = "numbers for new rows"
_INTEGERS: Final = frozenset(
    ("int8", "int16", "int24", "int32", "int64", "uint8", "uint16", "uint24", "uint32")
)
#: The types between which foreign keys exist, besides equal ones (PostgreSQL's operator families).
_FAMILIES: Final = {
    "smallint": "integer",
    "bigint": "integer",
    "varchar": "text",
    "real": "double precision",
    "timestamptz": "timestamp",
}


class Parts:
    """The parts of a table that Tailrace knows how to make, and the others with advice.

    ``tables`` are all that the target should have, for foreign keys. ``taken`` are the names of
    constraints that the table has on the target besides checks and foreign keys.
    """

    def __init__(
        self,
        wanted: WantedTable,
        tables: Mapping[TableId, Table],
        naming: Naming,
        storage: Storage,
        taken: Iterable[str],
    ) -> None:
        self._wanted = wanted
        self._tables = tables
        self._naming = naming
        self._storage = storage
        self._stored = storage.table(wanted.table)
        names = set(taken)
        self._checks = [
            msgspec.structs.replace(it, name=_free(it.name, "check", names))
            for it in wanted.details.checks
        ]
        self._foreign_keys = [
            msgspec.structs.replace(it, name=_free(it.name, "foreign key", names))
            for it in wanted.foreign_keys
        ]
        self._name = naming.sql(wanted.table.id)
        self._place = ".".join(naming.place(wanted.table.id))
        self.numbered = wanted.details.numbered
        #: The largest number that the source has given.
        self.given = max(0, wanted.details.next_number - 1)

    def expected(self) -> list[str]:
        """The statements that create the temporary table."""
        stored = self._stored
        parts = column_definitions(stored)
        if stored.key:
            parts.append(key_constraint(stored))
        statements = [f"CREATE TEMPORARY TABLE {EXPECTED} ({', '.join(parts)}) ON COMMIT DROP"]
        statements += (
            create_index(stored, index, self._naming, TEMPORARY)
            for index in stored.indexes
            if indexable(stored, index)
        )
        for column in stored.columns:
            if column.generated or column.default is None or constant_default(column) is not None:
                continue  # the column's definition has it
            if (default := self._default(column)) is not None:
                statements.append(_set_default(TEMPORARY, column, default))
        for check in self._checks:
            if check.enforced and (sql := self._condition(check)[0]):
                statements.append(_add_check(TEMPORARY, check, sql))
        return statements

    def made(self) -> Iterator[Item]:
        """What a statement can make, or somebody has to."""
        yield from self._defaults()
        yield from self._indexes()
        yield from self._numbers()
        yield from self._comments()
        yield from map(self._check, self._checks)
        yield from map(self._foreign_key, self._foreign_keys)
        for name in self._wanted.details.touched:
            advice = (
                f"the source sets {name} to the time of each update: create a trigger of this name"
                " BEFORE UPDATE that does the same"
            )
            yield self._item("trigger", f"{name}_on_update", advice=advice, by_name=True)
        for number, note in enumerate(self._wanted.notes, 1):
            yield self._item("table", f"note {number}", advice=note, harmless=True)

    def set_sequence(self) -> str:
        """The statement that sets the next number past all that the source has given. A sequence
        that ends before that has none then, so it gives no number twice.
        """
        column = quote(self.numbered)
        sequence = (
            f"pg_get_serial_sequence({literal(self._name)}, {literal(fitted(self.numbered))})"
        )
        used = f"pg_sequence_last_value({sequence}::regclass)"  # it never goes back
        most = f"(SELECT seqmax FROM pg_sequence WHERE seqrelid = {sequence}::regclass)"
        return (
            f"SELECT setval({sequence}, greatest(used, 1)::bigint, used > 0) FROM (SELECT"
            f" least(greatest(max({column}), {used}, {self.given}), {most}) AS used"
            f" FROM {self._name}) AS it"
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

    def _default(self, column: Column) -> str | None:
        """The default of a column that has one, as SQL; None if it is not exact. An expression may
        be a constant, unless it is a text of another charset.
        """
        shown = self._wanted.details.defaults.get(column.name, "")
        if shown and not shown.startswith("_"):
            column = msgspec.structs.replace(column, default=shown)
        return constant_default(column) or time_default(column)

    def _defaults(self) -> Iterator[Item]:
        for column in self._stored.columns:
            if column.default is None or column.generated:
                continue
            default = self._default(column)
            if default == NULL:
                continue
            if default is not None:
                statement = _set_default(self._name, column, default)
                yield self._item("default", column.name, statements=(statement,))
            else:
                advice = "it cannot be said exactly: set one that does the same"
                shown = self._wanted.details.defaults.get(column.name, column.default)
                text = f"DEFAULT {shown}"
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
        yield self._item("identity", name, NUMBERS, tuple(statements))

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
        if advice := self._why_not(key, f"{'.'.join(parent)} ({other})"):
            return self._item("foreign key", key.name, definition, advice=advice)
        own, other = (", ".join(map(quote, names)) for names in (key.columns, key.parent_columns))
        add = (
            f"ALTER TABLE {self._name} ADD CONSTRAINT {quote(key.name)} FOREIGN KEY ({own})"
            f" REFERENCES {quote(*parent)} ({other}){actions} NOT VALID"
        )
        validate = self._validate(key.name)
        return self._item("foreign key", key.name, definition, (add, validate), (validate,))

    def _why_not(self, key: ForeignKey, parent: str) -> str:
        """Why PostgreSQL cannot have a foreign key, and what to do; empty if it can, as far as the
        other table is known.
        """
        table = self._tables.get(key.parent)
        if table is None:
            return ""
        stored = self._storage.table(table)
        uniques = [stored.key, *(it.columns for it in stored.uniques if indexable(stored, it))]
        others = [stored.ordinal(name) for name in key.parent_columns]
        if not any(set(unique) == set(others) for unique in uniques):
            return (
                f"PostgreSQL needs a unique index over exactly {parent}, and the source has none:"
                " create the index and the foreign key on the target if these values are unique,"
                " else a trigger that does the same"
            )
        for name, ordinal in zip(key.columns, others, strict=True):
            pair = (self._stored.columns[self._stored.ordinal(name)], stored.columns[ordinal])
            own, other = map(_family, pair)
            if own != other and (own, other) != ("integer", "numeric"):
                return (
                    f"PostgreSQL does not compare {name} with {parent}, which has another type:"
                    " create a trigger that does the same"
                )
        return ""

    def _validate(self, name: str) -> str:
        return f"ALTER TABLE {self._name} VALIDATE CONSTRAINT {quote(name)}"


def _set_default(table: str, column: Column, default: str) -> str:
    return f"ALTER TABLE {table} ALTER COLUMN {quote(column.name)} SET DEFAULT {default}"


def _add_check(table: str, check: Check, sql: str) -> str:
    return f"ALTER TABLE {table} ADD CONSTRAINT {quote(check.name)} CHECK ({sql})"


def _free(name: str, kind: ItemKind, taken: set[str]) -> str:
    """A name that no other constraint of the table has in PostgreSQL, where checks, foreign keys
    and the key share one name space. It is added to ``taken``.
    """
    found, whole = fitted(name), f"{kind}\0{name}"
    while found in taken:
        found, whole = digested(name, whole), f"{whole}\0"
    taken.add(found)
    return found


def _family(column: Column) -> str:
    """What a column's type has in common with those that a foreign key compares it with."""
    if isinstance(column, EnumColumn):
        return column.enum_type
    name = type_name(column.type).partition("(")[0]
    return _FAMILIES.get(name, name)

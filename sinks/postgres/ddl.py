"""
DDL for the target: create, alter and index tables as the source does. Pure.

A schema change becomes a list of steps. Some steps are *guards*: queries that must find no row. A
guard comes before a step that could otherwise make the two sides differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from engine.change import DeletePart
from engine.databases.postgres.identifiers import Naming, digested, quote
from engine.databases.postgres.types import (
    TEMPORAL,
    CollatedColumn,
    ComputedColumn,
    EnumColumn,
    column_type,
    enum_columns,
    holds_null,
)
from engine.schema import Bound, Column, Index, Table
from engine.toolkit.table_diff import (
    AddColumn,
    AddIndex,
    ChangeDefault,
    ChangeKey,
    Difference,
    DropColumn,
    DropIndex,
    RenameColumn,
    RenameIndex,
    RenameTable,
    Retype,
    differences,
)
from sinks.postgres.column_types import collation_of, create_types, drop_types, indexed
from sinks.postgres.conversions import conversion
from sinks.postgres.defaults import (
    NULL,
    constant_default,
    existing_value,
    implicit_value,
    value_literal,
)

__all__ = [
    "Step",
    "alter_table",
    "column_definitions",
    "create_index",
    "create_indexes",
    "create_table",
    "delete_part",
    "index_name",
    "indexable",
    "key_constraint",
]

#: The temporary name of a table that is moved from one schema to another.
MOVING = "tailrace_moving"
UNINDEXED_KINDS = frozenset({"json", "geometry", "array"})


class Step(NamedTuple):
    """A statement to execute; or a guard, whose ``refusal`` is the error message if it finds a
    row."""

    sql: str
    refusal: str = ""


def create_table(table: Table, name: str) -> str:
    """CREATE TABLE with the key and without secondary indexes; ``name`` is quoted."""
    parts = column_definitions(table)
    if table.key:
        parts.append(key_constraint(table))
    return f"CREATE TABLE {name} (\n  " + ",\n  ".join(parts) + "\n)"


def delete_part(
    table: Table, stored: Table, change: DeletePart, naming: Naming, zero_date: str
) -> Iterator[Step]:
    """The steps that delete a part of the rows of ``table``, which is stored as ``stored``.

    A date that the target cannot store may belong to another part than what it was replaced by.
    """
    ordinal, name = table.ordinal(change.part.column), naming.sql(table.id)
    column = table.columns[ordinal]
    value = quote(column.name)
    temporal = column.type.kind in TEMPORAL
    exact = stored.columns[ordinal].type == column.type
    if temporal or not exact:
        known = exact and zero_date in ("null", "error")
        condition = f" WHERE {value} IS NULL OR {value} = '-infinity'" if known else ""
        yield Step(
            f"SELECT 1 FROM {name}{condition} LIMIT 1",
            f"removes rows by values of the column {column.name}, of which the target may have"
            " others",
        )
    conditions = [_in_range(column, *range) for range in change.part.ranges]
    if change.part.text is not None:
        conditions.append(f"{value} = {value_literal(column, change.part.text)}")
    found = " OR ".join(conditions)
    yield Step(f"DELETE FROM {name} WHERE {found}")


def _in_range(column: Column, lower: Bound, upper: Bound) -> str:
    """The condition that a column's value is in a range."""
    value = quote(column.name)
    conditions = [
        f"{value} {comparison} {value_literal(column, str(bound))}"
        for comparison, bound in ((">=", lower), ("<", upper))
        if bound is not None
    ]
    found = " AND ".join(conditions) or "true"
    return f"({found} OR {value} IS NULL)" if lower is None else f"({found})"


def column_definitions(table: Table) -> list[str]:
    """Each column with its type, constant default and NOT NULL."""
    return [_definition(table, ordinal) for ordinal in range(len(table.columns))]


def key_constraint(table: Table) -> str:
    """The PRIMARY KEY clause."""
    return f"PRIMARY KEY ({', '.join(quote(table.columns[n].name) for n in table.key)})"


def create_indexes(table: Table, naming: Naming) -> list[str]:
    """CREATE INDEX for each secondary index that the target gets (``indexable``)."""
    return [create_index(table, it, naming) for it in table.indexes if indexable(table, it)]


def index_name(table: str, index: str) -> str:
    """The name of a secondary index on the target: readable, unique, and not longer than an
    identifier may be. In PostgreSQL the indexes and tables of a schema share one name space."""
    return digested(f"{table}_{index}", f"{table}\0{index}")


def alter_table(
    before: Table,
    after: Table,
    renamed: Sequence[tuple[str, str]],
    naming: Naming,
    *,
    filled: Sequence[tuple[str, str]] = (),
    computed: Sequence[str] = (),
    indexed: bool,
) -> list[Step]:
    """The steps from one version of a table to the next.

    ``renamed``, ``filled`` and ``computed`` are those of ``SchemaChange``. ``indexed`` says whether
    the secondary indexes have been built. If a guard finds a row, the change cannot be followed
    exactly.
    """
    return list(_Alteration(before, after, renamed, filled, computed, naming, indexed).steps())


class _Alteration:
    """The steps of one schema change; ``table`` is the table's new quoted name."""

    def __init__(
        self,
        before: Table,
        after: Table,
        renamed: Sequence[tuple[str, str]],
        filled: Sequence[tuple[str, str]],
        computed: Sequence[str],
        naming: Naming,
        indexed: bool,
    ) -> None:
        self.before, self.after, self.naming, self.indexed = before, after, naming, indexed
        self.names = dict(renamed)
        self.filled = dict(filled)
        self.computed = computed
        #: Columns that PostgreSQL computes are dropped and added again if they change.
        self.dropped, self.added = self._recomputed()
        self.recollated = self._recollated()
        self.changes = [
            change
            for change in differences(before, after, renamed)
            if not self._is_recomputed(change)
        ]
        self.table = naming.sql(after.id)

    def steps(self) -> Iterator[Step]:
        yield from map(Step, create_types(self.after))
        for change in self.changes:
            if isinstance(change, RenameTable):
                yield from self._rename_table()
        for change in self.changes:
            if isinstance(change, DropIndex) and self.indexed:
                yield Step(f"DROP INDEX IF EXISTS {self._index(change.index.name)}")
            elif isinstance(change, ChangeKey) and change.before:
                yield Step(_alter_key(self.table, "DROP CONSTRAINT %I"))
        for index in self.before.indexes if self.indexed else ():
            if any(self._new_name(n) in self.recollated for n in index.columns):
                yield Step(f"DROP INDEX IF EXISTS {self._index(index.name)}")
        for name in self.dropped:
            yield self._alter(f"DROP COLUMN {quote(name)}")
        for change in self.changes:
            if isinstance(change, DropColumn):
                yield self._alter(f"DROP COLUMN {quote(change.column.name)}")
        yield from self._rename_columns()
        for change in self.changes:
            if isinstance(change, AddColumn):
                yield from self._add_column(change.column)
            elif isinstance(change, Retype):
                yield from self._retype(change)
            elif isinstance(change, ChangeDefault):
                yield self._set_default(change.column)
        yield from self._moved_enums()
        for name in self.recollated:
            kind = column_type(self.after.columns[self.after.ordinal(name)])
            yield self._alter(f"ALTER COLUMN {quote(name)} TYPE {kind}")
        for name in self.added:
            ordinal = self.after.ordinal(name)
            yield self._alter(f"ADD COLUMN {_definition(self.after, ordinal)}")
        yield from self._check_computed()
        yield from self._nullability()
        yield from self._finish()
        yield from map(Step, drop_types(self.before, self.after))

    def _recomputed(self) -> tuple[list[str], list[str]]:
        """The columns that PostgreSQL computes before or after, and that do not stay the same: the
        old names of those to drop, and the names of those to add."""
        changes = differences(self.before, self.after, [*self.names.items()])
        retyped = {change.after.name for change in changes if isinstance(change, Retype)}
        old = {self.names.get(it.name, it.name): it for it in self.before.columns}
        new = {column.name: column for column in self.after.columns}
        changed = {
            name
            for name in old | new
            if isinstance(old.get(name), ComputedColumn)
            or isinstance(new.get(name), ComputedColumn)
            if not self._stays(old.get(name), new.get(name), retyped)
        }
        dropped = [column.name for name, column in old.items() if name in changed]
        return dropped, [name for name in new if name in changed]

    def _new_name(self, ordinal: int) -> str:
        """The name that a column of the table before has after."""
        name = self.before.columns[ordinal].name
        return self.names.get(name, name)

    def _recollated(self) -> list[str]:
        """The columns whose collation changes, or whether it holds for the column or in indexes."""
        old = {self._new_name(n): column for n, column in enumerate(self.before.columns)}
        return [
            column.name
            for column in self.after.columns
            if column.name in old
            and column.name not in self.added
            and collation_of(column) != collation_of(old[column.name])
        ]

    def _is_recomputed(self, change: Difference) -> bool:
        """Whether a change is part of dropping a column and adding it again."""
        match change:
            case DropColumn():
                return change.column.name in self.dropped
            case RenameColumn():
                return change.before in self.dropped
            case AddColumn() | ChangeDefault():
                return change.column.name in self.added
            case Retype():
                return change.after.name in self.added
        return False

    def _stays(self, old: Column | None, new: Column | None, retyped: set[str]) -> bool:
        """Whether both are computed, in the same way and from unchanged columns."""
        return (
            isinstance(old, ComputedColumn)
            and isinstance(new, ComputedColumn)
            and old.expression is not None
            and old.expression.renamed(self.names) == new.expression
            and (old.type, old.nullable) == (new.type, new.nullable)
            and retyped.isdisjoint(new.expression.columns)
        )

    def _check_computed(self) -> Iterator[Step]:
        for name in self.computed:
            column = self.after.columns[self.after.ordinal(name)]
            where = "" if column.generated else f" WHERE {quote(name)} = 0 OR {quote(name)} IS NULL"
            if not isinstance(column, ComputedColumn):
                yield Step(
                    f"SELECT 1 FROM {self.table}{where} LIMIT 1",
                    "the source's log does not hold the values that existing rows got in the"
                    f" {'generated ' * column.generated}column {name}",
                )

    def _alter(self, action: str) -> Step:
        return Step(f"ALTER TABLE {self.table} {action}")

    def _index(self, name: str) -> str:
        schema, table = self.naming.place(self.after.id)
        return quote(schema, index_name(table, name))

    def _rename_table(self) -> Iterator[Step]:
        schema, name = self.naming.place(self.before.id)
        new_schema, new_name = self.naming.place(self.after.id)
        if schema == new_schema:
            if name != new_name:
                yield from self._rename_relations(schema, name, new_name)
            return
        # Either schema may already have a table or indexes of the old or the new name.
        moving = quote(schema, MOVING)
        yield from self._rename_relations(schema, name, MOVING)
        yield Step(_alter_key(moving, "RENAME CONSTRAINT %I TO moving_%s"))
        yield Step(f"ALTER TABLE {moving} SET SCHEMA {quote(new_schema)}")
        yield Step(_alter_key(quote(new_schema, MOVING), "RENAME CONSTRAINT %I TO pkey_%s"))
        yield from self._rename_relations(new_schema, MOVING, new_name)

    def _rename_relations(self, schema: str, name: str, new_name: str) -> Iterator[Step]:
        """Rename a table and its secondary indexes."""
        yield Step(f"ALTER TABLE {quote(schema, name)} RENAME TO {quote(new_name)}")
        if self.indexed:
            for index in filter(lambda index: indexable(self.before, index), self.before.indexes):
                old = quote(schema, index_name(name, index.name))
                new = quote(index_name(new_name, index.name))
                yield Step(f"ALTER INDEX IF EXISTS {old} RENAME TO {new}")

    def _rename_columns(self) -> Iterator[Step]:
        """Rename columns. They may swap names, so a column whose new name is still taken gets a
        temporary name first."""
        renames = [change for change in self.changes if isinstance(change, RenameColumn)]
        taken = {change.before for change in renames}
        deferred: list[tuple[str, str]] = []
        for number, change in enumerate(renames):
            to = change.after
            if to in taken:
                to = f"tailrace_{number}"
                deferred.append((to, change.after))
            yield self._alter(f"RENAME COLUMN {quote(change.before)} TO {quote(to)}")
        for name, to in deferred:
            yield self._alter(f"RENAME COLUMN {quote(name)} TO {quote(to)}")

    def _only_if_empty(self, refusal: str) -> Step:
        return Step(f"SELECT 1 FROM {self.table} LIMIT 1", refusal)

    def _add_column(self, column: Column) -> Iterator[Step]:
        ordinal = self.after.ordinal(column.name)
        if column.name in self.filled:
            value: str | None = value_literal(column, self.filled[column.name])
        else:
            value = existing_value(column)
        if value is None or ordinal in self.after.key:
            yield self._only_if_empty(
                f"the source's log does not hold the values that existing rows got in the new"
                f" column {column.name}"
            )
        default = constant_default(column) or NULL
        fill = NULL if value is None else value
        nullable = "" if holds_null(self.after, ordinal) else " NOT NULL"
        kind = f"{quote(column.name)} {column_type(column)}"
        filled = "" if fill == NULL else f" DEFAULT {fill}"
        yield self._alter(f"ADD COLUMN {kind}{filled}{nullable}")
        if default != fill:
            yield self._set_default(column)

    def _set_default(self, column: Column) -> Step:
        default = constant_default(column) or NULL
        action = "DROP DEFAULT" if default == NULL else f"SET DEFAULT {default}"
        return self._alter(f"ALTER COLUMN {quote(column.name)} {action}")

    def _retype(self, change: Retype) -> Iterator[Step]:
        name, kind = quote(change.after.name), column_type(change.after)
        how = conversion(change.before, change.after)
        changed = (
            f"column {change.after.name} changed from {change.before.type} to {change.after.type}"
        )
        if how is None:
            yield self._only_if_empty(
                f"{changed}, a conversion that PostgreSQL does not do exactly as the source does"
            )
            using = f"NULL::{kind}"
        else:
            using = how.using
        if how is not None and how.guard:
            yield Step(
                f"SELECT 1 FROM {self.table} WHERE {how.guard} LIMIT 1",
                f"{changed}, and has values that the source may have changed by it",
            )
        if isinstance(change.after, EnumColumn) and change.before != change.after:
            using = f"({using or name})::text::{kind}"
        if not using and column_type(change.before) == kind:
            return
        if change.before.default is not None:  # else it may be an identity column by now
            yield self._alter(f"ALTER COLUMN {name} DROP DEFAULT")
        yield self._alter(f"ALTER COLUMN {name} TYPE {kind}{f' USING {using}' * bool(using)}")
        if change.after.default is not None:
            yield self._set_default(change.after)

    def _moved_enums(self) -> Iterator[Step]:
        """Use the enum types of the schema to which the table is moved."""
        if self.naming.place(self.before.id)[0] == self.naming.place(self.after.id)[0]:
            return
        for column in enum_columns(self.after):
            name, kind = quote(column.name), column.enum_type
            yield self._alter(f"ALTER COLUMN {name} DROP DEFAULT")
            yield self._alter(f"ALTER COLUMN {name} TYPE {kind} USING {name}::text::{kind}")
            yield self._set_default(column)

    def _nullability(self) -> Iterator[Step]:
        old = {
            self.names.get(column.name, column.name): holds_null(self.before, ordinal)
            for ordinal, column in enumerate(self.before.columns)
        }
        for ordinal, column in enumerate(self.after.columns):
            now = holds_null(self.after, ordinal)
            if old.get(column.name, now) == now or column.name in self.added:
                continue
            name = quote(column.name)
            if now:
                yield self._alter(f"ALTER COLUMN {name} DROP NOT NULL")
                continue
            # Without strict SQL mode the source has replaced NULL by the zero value of the type.
            zero = implicit_value(column)
            if zero is not None and zero != NULL:
                yield Step(f"UPDATE {self.table} SET {name} = {zero} WHERE {name} IS NULL")
            yield self._alter(f"ALTER COLUMN {name} SET NOT NULL")

    def _finish(self) -> Iterator[Step]:
        for change in self.changes:
            if isinstance(change, ChangeKey) and change.after:
                yield self._alter(f"ADD {key_constraint(self.after)}")
        if not self.indexed:
            return
        for change in self.changes:
            if isinstance(change, RenameIndex):
                new = quote(index_name(self.naming.place(self.after.id)[1], change.after))
                old = self._index(change.before)
                yield Step(f"ALTER INDEX IF EXISTS {old} RENAME TO {new}")
            elif isinstance(change, AddIndex) and indexable(self.after, change.index):
                yield Step(create_index(self.after, change.index, self.naming))
        for index in self.after.indexes:  # those that were dropped with a column
            names = {self.after.columns[ordinal].name for ordinal in index.columns}
            if not names.isdisjoint([*self.added, *self.recollated]) and indexable(
                self.after, index
            ):
                yield Step(create_index(self.after, index, self.naming))


def _definition(table: Table, ordinal: int) -> str:
    column = table.columns[ordinal]
    definition = f"{quote(column.name)} {column_type(column)}"
    if isinstance(column, ComputedColumn):
        definition += f" GENERATED ALWAYS AS ({column.sql}) STORED"
    default = constant_default(column) or NULL
    if default != NULL:
        definition += f" DEFAULT {default}"
    return definition if holds_null(table, ordinal) else f"{definition} NOT NULL"


def indexable(table: Table, index: Index) -> bool:
    """Whether the target gets this index.

    Left out are unique indexes on the key's columns, indexes on prefixes of values (the lengths are
    not known), and indexes that would have to be full-text or spatial ones.
    """
    collated = any(isinstance(table.columns[n], CollatedColumn) for n in index.columns)
    on_key = index.unique and set(index.columns) == set(table.key) and not collated
    if index.prefix or on_key:
        return False
    types = [table.columns[ordinal].type for ordinal in index.columns]
    if any(type.kind in UNINDEXED_KINDS for type in types):
        return False
    return index.unique or all(type.length for type in types if type.kind in ("text", "binary"))


def create_index(table: Table, index: Index, naming: Naming, on: str = "", more: str = "") -> str:
    """CREATE INDEX on the table, or on another one of the same columns; ``more`` is an option."""
    columns = ", ".join(indexed(table.columns[ordinal], index) for ordinal in index.columns)
    unique = "UNIQUE " if index.unique else ""
    name, on = index_name(naming.place(table.id)[1], index.name), on or naming.sql(table.id)
    return f"CREATE {unique}INDEX {more}IF NOT EXISTS {quote(name)} ON {on} ({columns})"


def _alter_key(table: str, action: str) -> str:
    """A statement that alters the primary key, whatever its name is. ``action`` is a format string
    for that name and for a number that no other key has (the oid of its index)."""
    regclass = "'" + table.replace("'", "''") + "'::regclass"
    return f"""DO $tailrace$
DECLARE primary_key record;
BEGIN
  FOR primary_key IN
    SELECT conname, conindid FROM pg_constraint WHERE conrelid = {regclass} AND contype = 'p'
  LOOP
    EXECUTE format(
      'ALTER TABLE %s {action}', {regclass}, primary_key.conname, primary_key.conindid
    );
  END LOOP;
END
$tailrace$"""

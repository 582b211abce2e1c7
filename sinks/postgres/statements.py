"""
The SQL of one table version: every statement that applies rows to the table.

Many rows are loaded into a staging table and applied by one statement of each kind; few rows are
applied by a statement for each row. A statement is made when it is first needed, and kept for as
long as the table version is in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from engine.change import DeleteRange
from engine.databases.postgres.identifiers import quote
from engine.databases.postgres.stored import Storage
from engine.databases.postgres.types import (
    TEMPORAL,
    CollatedColumn,
    ComputedColumn,
    holds_null,
)
from engine.errors import SchemaError, UnloggedChange
from engine.remedies import BACKFILL
from engine.schema import Column, Table
from engine.toolkit.compaction import columns_of
from engine.toolkit.key_order import ORDERED_KINDS
from sinks.postgres.copy import Encoder, Field

__all__ = ["StagingTable", "Statements"]

#: The names of the old key's columns in a staging table that also has the new key.
_OLD_KEY = "tailrace_k{}"


class StagingTable(NamedTuple):
    """The definition of a staging table. ``query`` gives its columns their types; ``encoder``
    encodes the rows that are loaded into it. Tables of equal columns differ by ``purpose``."""

    purpose: str
    columns: str
    query: str
    encoder: Encoder


class Statements:
    """SQL and encoders for one version of a table; ``name`` is its quoted name on the target.

    A *mask* is one of ``engine.toolkit.compaction``: the known columns, or None for all columns.
    """

    def __init__(self, table: Table, name: str, storage: Storage) -> None:
        self.table = table
        self.name = name
        self._policies = storage.policies(table)
        self._stored = storage.table(table)
        self._key = [quote(table.columns[n].name) for n in table.key]
        #: The ordinals of the columns that are written: PostgreSQL computes the others.
        self._written = [
            ordinal
            for ordinal, column in enumerate(self._stored.columns)
            if not isinstance(column, ComputedColumn)
        ]
        self._all = self._columns(None)
        # A prepared statement keeps the types of its parameters. The comment makes the statements
        # of each table version different, so that psycopg prepares them anew.
        self._mark = f" /* version {table.version} */"
        self.rows = lru_cache(maxsize=64)(self._rows)
        self.keys = lru_cache(maxsize=1)(self._keys)
        self.key_changes = lru_cache(maxsize=64)(self._key_changes)
        self.delete_one = lru_cache(maxsize=1)(self._delete_one)
        self.update_one = lru_cache(maxsize=64)(self._update_one)
        self.insert_one = lru_cache(maxsize=64)(self._insert_one)

    def field(self, ordinal: int, position: int) -> Field:
        """A column to encode, whose value is at this position of a tuple. It need not be a key."""
        return Field(position, self.table.columns[ordinal], False, self._policies[ordinal])

    def may_stand_in(self, ordinal: int) -> bool:
        """Whether a value may be stored in the place of another one."""
        kind, policies = self.table.columns[ordinal].type.kind, self._policies[ordinal]
        narrowed = (kind == "uint64" and policies.unsigned_bigint == "bigint") or (
            kind in ("int8", "uint8") and policies.tinyint1 == "boolean"
        )
        return (kind in TEMPORAL and policies.zero_date == "epoch") or (
            narrowed and policies.out_of_range == "clamp"
        )

    def exact(self, ordinal: int) -> str:
        """A column as a value that is equal to no other text, whatever the column's collation."""
        name = quote(self.table.columns[ordinal].name)
        collated = isinstance(self._stored.columns[ordinal], CollatedColumn)
        return f'{name} COLLATE "C"' if collated else name

    # Staging tables

    def _rows(self, mask: int | None) -> StagingTable:
        """For rows, with the columns of the mask."""
        self._check_generated(mask, self.table.key)
        columns = self._columns(mask)
        fields = [self._field(n) for n in self._known(mask)]
        return self._staging_table("rows", columns, columns, fields)

    def _keys(self) -> StagingTable:
        """For the keys of rows."""
        columns = ", ".join(self._key)
        return self._staging_table(
            "keys", columns, columns, [self._field(n) for n in self.table.key]
        )

    def _key_changes(self, mask: int) -> StagingTable:
        """For key changes: the old key, and the columns of the mask of the new row. The rows to
        encode are the old and the new image, joined."""
        self._check_generated(mask, ())
        width = len(self.table.columns)
        new = [self._field(n, shift=width) for n in self._known(mask)]
        old = [self._field(n) for n in self.table.key]
        keys = ", ".join(_OLD_KEY.format(n) for n in range(len(old)))
        query = ", ".join(f"{name} AS {_OLD_KEY.format(n)}" for n, name in enumerate(self._key))
        known = self._columns(mask)
        return self._staging_table(
            "key_changes", f"{keys}, {known}", f"{query}, {known}", [*old, *new], 2
        )

    def _check_generated(self, mask: int | None, unchanged: Sequence[int]) -> None:
        """Raise UnloggedChange if generated columns may change with those of the mask, and are not
        in it: MariaDB leaves virtual ones out of images that are not full."""
        known = columns_of(self.table, mask)
        changed = {self.table.columns[n].name for n in known if n not in unchanged}
        for ordinal in self._written:
            column = self.table.columns[ordinal]
            if column.generated and ordinal not in known and _may_use(column, changed):
                raise UnloggedChange(
                    f"the log does not hold the generated column {column.name} of changed rows",
                    hint="SET GLOBAL binlog_row_image = FULL on the source, and let its sessions"
                    " reconnect.",
                    table=self.table.id,
                )

    def _staging_table(
        self, purpose: str, columns: str, query: str, fields: Sequence[Field], images: int = 1
    ) -> StagingTable:
        encoder = Encoder(self.table.id, fields, images * len(self.table.columns))
        return StagingTable(purpose, columns, f"SELECT {query} FROM {self.name}", encoder)

    def _field(self, ordinal: int, shift: int = 0) -> Field:
        column, key = self.table.columns[ordinal], ordinal in self.table.key
        return Field(shift + ordinal, column, key, self._policies[ordinal])

    # Statements that apply staged rows; ``staged`` is the name of the staging table

    def copy(self, mask: int | None) -> str:
        """COPY directly into the table, without staging."""
        return f"COPY {self.name} ({self._columns(mask)}) FROM STDIN"

    def delete(self, staged: str) -> str:
        """Delete the rows whose keys are staged."""
        return f"DELETE FROM {self.name} AS t USING {staged} AS s WHERE {self._same_key()}"

    def delete_range(self, change: DeleteRange, staged: str) -> tuple[str, list[object]]:
        """Delete the rows in a range whose keys are not staged; with the parameters."""
        columns = ", ".join(f"t.{quote(name)}" for name in change.columns)
        conditions: list[str] = []
        parameters: list[object] = []
        if change.share is not None:
            parameters.append(change.share.text)
            conditions.append(f"t.{quote(change.share.column)} = $1")
        for sign, bound in zip((">", "<="), change.range, strict=True):
            if bound is not None:
                first = len(parameters) + 1
                parameters += self._bound(change.columns, bound)
                places = ", ".join(f"${n}" for n in range(first, len(parameters) + 1))
                conditions.append(f"({columns}) {sign} ({places})")
        conditions.append(self._not_in(staged))
        return f"DELETE FROM {self.name} AS t WHERE {' AND '.join(conditions)}", parameters

    def keep_keys(self, twin: str) -> str:
        """Delete the rows whose keys another table does not have."""
        return f"DELETE FROM {self.name} AS t WHERE {self._not_in(twin)}"

    def _not_in(self, other: str) -> str:
        return f"NOT EXISTS (SELECT FROM {other} AS s WHERE {self._same_key()})"

    def _bound(self, names: Sequence[str], values: Sequence[object]) -> list[object]:
        """The end of a range as parameters. Raises SchemaError if the target cannot have it."""
        ordinals = [self.table.ordinal(name) for name in names]
        row: list[object] = [None] * len(self.table.columns)
        for ordinal, value in zip(ordinals, values, strict=True):
            row[ordinal] = value
        fields = [self._field(ordinal) for ordinal in ordinals]
        encoder = Encoder(self.table.id, fields, len(row))
        (parameters,) = encoder.parameters([tuple(row)])
        kinds = {self._stored.columns[ordinal].type.kind for ordinal in ordinals}
        if encoder.replaced or not kinds <= ORDERED_KINDS:
            raise SchemaError(
                "the target sorts values of the key otherwise, because a policy changes them, so"
                " the table cannot be backfilled in place",
                hint=BACKFILL,
                table=self.table.id,
            )
        return list(parameters)

    def update(self, staged: str, mask: int | None) -> str:
        """Update rows by key; empty if the mask has no columns but the key's."""
        assignments = ", ".join(f"{name} = s.{name}" for name in self._values(mask))
        if not assignments:
            return ""
        return (
            f"UPDATE {self.name} AS t SET {assignments} FROM {staged} AS s WHERE {self._same_key()}"
        )

    def insert(
        self, staged: str, mask: int | None, replace: bool, *, if_different: bool = False
    ) -> str:
        """Insert the staged rows. Where a row with the key exists, the columns of the mask are
        replaced, or only ``if_different``; without ``replace`` the row is left as it is."""
        columns = self._columns(mask)
        query = f"INSERT INTO {self.name} AS t ({columns}) SELECT {columns} FROM {staged}"
        return query + self._on_conflict(mask, replace, if_different)

    def count_present(self, staged: str) -> str:
        """Count the staged rows whose key exists in the table."""
        return f"SELECT count(*) FROM {staged} AS s JOIN {self.name} AS t ON {self._same_key()}"

    def merge(self, staged: str, merged: str, mask: int) -> str:
        """Delete the rows whose key changes, and insert into ``merged`` the rows that they become:
        the columns of the mask from the staged row, the others from the deleted one."""
        known = set(self._known(mask))
        merge = ", ".join(
            f"{'s' if n in known else 't'}.{quote(self.table.columns[n].name)}"
            for n in self._written
        )
        same = " AND ".join(
            f"t.{name} = s.{_OLD_KEY.format(n)}" for n, name in enumerate(self._key)
        )
        return (
            f"WITH deleted AS (DELETE FROM {self.name} AS t USING {staged} AS s WHERE {same}"
            f" RETURNING {merge}) INSERT INTO {merged} ({self._all}) SELECT * FROM deleted"
        )

    def delete_from_multiset(self, staged: str) -> str:
        """For each staged row, delete one row that is equal to it in every column, if any."""
        values = ", ".join(f"{self._comparable('s', n)} AS c{n}" for n in self._written)
        columns = ", ".join(f"c{n}" for n in self._written)
        return (
            f"DELETE FROM {self.name} WHERE ctid = ANY (ARRAY("
            f"SELECT f.ctid FROM ("
            f"SELECT t.ctid, w.n, row_number() OVER (PARTITION BY w.i) AS i FROM ("
            f"SELECT {columns}, count(*) AS n, row_number() OVER () AS i"
            f" FROM (SELECT {values} FROM {staged} AS s) AS s GROUP BY {columns}) AS w"
            f" JOIN {self.name} AS t ON {self._same_row()}) AS f WHERE f.i <= f.n))"
        )

    # Statements for single rows, with parameters

    def _delete_one(self) -> str:
        """Delete by key; the parameters are those of ``keys``."""
        same = " AND ".join(f"{name} = ${n}" for n, name in enumerate(self._key, 1))
        return f"DELETE FROM {self.name} WHERE {same}{self._mark}"

    def _update_one(self, mask: int | None) -> str:
        """Update by key; the parameters are those of ``rows``. Empty in the cases of ``update``."""
        places = {n: f"${i}" for i, n in enumerate(self._known(mask), 1)}
        names = {n: quote(self.table.columns[n].name) for n in places}
        key = self.table.key
        values = ", ".join(f"{names[n]} = {places[n]}" for n in places if n not in key)
        same = " AND ".join(f"{names[n]} = {places[n]}" for n in key)
        return f"UPDATE {self.name} SET {values} WHERE {same}{self._mark}" if values else ""

    def _insert_one(self, mask: int | None, replace: bool) -> str:
        """Insert one row, as ``insert`` does if different; the parameters are those of ``rows``."""
        places = ", ".join(f"${i}" for i in range(1, len(self._known(mask)) + 1))
        query = f"INSERT INTO {self.name} AS t ({self._columns(mask)}) VALUES ({places})"
        return f"{query}{self._on_conflict(mask, replace, True)}{self._mark}"

    # Clauses

    def _known(self, mask: int | None) -> list[int]:
        """The ordinals of the columns of a mask that are written."""
        if mask is None:
            return self._written
        return [n for n in columns_of(self.table, mask) if n in self._written]

    def _columns(self, mask: int | None) -> str:
        return ", ".join(quote(self.table.columns[n].name) for n in self._known(mask))

    def _values(self, mask: int | None) -> list[str]:
        """The columns of a mask without those of the key."""
        names = self.table.names
        return [quote(names[n]) for n in self._known(mask) if n not in self.table.key]

    def _same_key(self) -> str:
        return " AND ".join(f"t.{name} = s.{name}" for name in self._key)

    def _on_conflict(self, mask: int | None, replace: bool, if_different: bool) -> str:
        if not self._key:
            return ""
        values = self._values(mask) if replace else []
        if not values:
            return f" ON CONFLICT ({', '.join(self._key)}) DO NOTHING"
        assignments = ", ".join(f"{name} = excluded.{name}" for name in values)
        clause = f" ON CONFLICT ({', '.join(self._key)}) DO UPDATE SET {assignments}"
        if not if_different:
            return clause
        # An equal row is locked, and not written again: those who follow the target see no change.
        # That halves the cost of an equal row and adds up to a third to that of another one. The
        # operator compares the stored bytes, so it knows -0 from 0, and works for types without
        # equality, too.
        there, new = (", ".join(f"{it}.{name}" for name in values) for it in ("t", "excluded"))
        return f"{clause} WHERE ROW({there})::record *<> ROW({new})::record"

    def _comparable(self, alias: str, ordinal: int) -> str:
        """A column as a value of a type that has an equality operator."""
        column = self.table.columns[ordinal]
        value = f"{alias}.{self.exact(ordinal)}"
        match column.type.kind:
            case "json":
                return f"{value}::text"
            case "float32" | "float64":
                return f"({value} + 0)"  # -0 + 0 is 0, also as text
        return value

    def _same_row(self) -> str:
        """The condition that rows of ``t`` and ``w`` are equal. It has at least one ``=``, which
        makes a hash join possible."""
        values = {n: self._comparable("t", n) for n in self._written}
        null = {n for n in values if holds_null(self._stored, n)}
        hashed = [f"{value} = w.c{n}" for n, value in values.items() if n not in null]
        others = [f"{values[n]} IS NOT DISTINCT FROM w.c{n}" for n in sorted(null)]
        if not hashed:
            wanted = ", ".join(f"w.c{n}" for n in values)
            hashed = [f"ROW({', '.join(values.values())})::text = ROW({wanted})::text"]
        return " AND ".join([*hashed, *others])


def _may_use(column: Column, names: set[str]) -> bool:
    """Whether a generated column may be computed from columns of these names."""
    return column.expression is None or not names.isdisjoint(column.expression.columns)

"""
A mutable table, for the clauses of a statement to change.

A draft is made from a tracked ``Table`` or is empty, is changed by the names of columns and
indexes, and is made a ``Table`` again. Its indexes refer to column objects, not to ordinals. Names
are compared without regard to case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from engine.databases.mysql.types import parse_type
from engine.schema import Column, ForeignKey, Index, Table, TableId
from sources.mysql.ddl.foreign_keys import automatic_name, moved_names
from sources.mysql.ddl.keys import KeyDefinition, References
from sources.mysql.ddl.tokens import Unreadable

__all__ = ["Contradiction", "Draft", "DraftColumn"]


class Contradiction(Unreadable):
    """The statement does not fit the table: the table's definition is of another time."""


class DraftColumn:
    """A column of a draft. Indexes refer to this object, so they follow a new name or type."""

    def __init__(self, column: Column) -> None:
        self.column = column

    @property
    def name(self) -> str:
        """The current name."""
        return self.column.name

    def replace(self, **fields: Any) -> None:
        """Replace fields of the column."""
        self.column = msgspec.structs.replace(self.column, **fields)


class _DraftIndex:
    def __init__(
        self, name: str, columns: list[DraftColumn], *, unique: bool, prefix: bool, implied: bool
    ) -> None:
        self.name = name
        self.columns = columns
        self.unique = unique
        self.prefix = prefix
        self.implied = implied  # created by the server for a foreign key


class _DraftForeignKey:
    def __init__(self, name: str, columns: list[DraftColumn], references: References) -> None:
        self.name = name  # empty until the server's name for it is known
        self.columns = columns
        self.references = references


class Draft:
    """A table that a statement creates or changes."""

    def __init__(self) -> None:
        self._id: TableId | None = None
        self._foreign_keys: list[_DraftForeignKey] = []
        self._foreign_keys_known = True
        self.columns: list[DraftColumn] = []
        self.default_charset = ""
        self._primary: list[DraftColumn] = []
        self._indexes: list[_DraftIndex] = []
        #: A key that is a primary key, or only a unique index with the same columns.
        self._doubtful: list[DraftColumn] = []
        self._key_in_doubt = False

    @classmethod
    def of(cls, table: Table) -> Draft:
        """A draft of an existing table."""
        draft = cls()
        draft.columns = [DraftColumn(column) for column in table.columns]
        draft.default_charset = table.default_charset
        draft._indexes = [
            _DraftIndex(
                index.name,
                [draft.columns[ordinal] for ordinal in index.columns],
                unique=index.unique,
                prefix=index.prefix,
                implied=False,
            )
            for index in table.indexes
        ]
        draft._id = table.id
        draft._foreign_keys = [
            _DraftForeignKey(
                key.name,
                [draft.find(name) for name in key.columns],
                References(key.parent, key.parent_columns, key.on_delete, key.on_update),
            )
            for key in table.foreign_keys or ()
        ]
        draft._foreign_keys_known = table.foreign_keys is not None
        key = [draft.columns[ordinal] for ordinal in table.key]
        if any(index.columns == table.key for index in table.uniques):
            draft._doubtful = key
        else:
            draft._primary = key
        return draft

    def add_columns(self, columns: Iterable[Column]) -> None:
        """Add columns at the end."""
        self.columns.extend(DraftColumn(column) for column in columns)

    def table(self, id: TableId, version: int) -> Table:
        """The draft as a table.

        Raises Unreadable if it has no column or its key is unknown, Contradiction if two columns
        have one name.
        """
        if not self.columns:
            raise Unreadable("drops the last column")
        if self._key_in_doubt and not self._primary:
            raise Unreadable("drops a unique index, which may be the table's key")
        for column in self._primary:
            column.replace(nullable=False)
        if len({column.name.lower() for column in self.columns}) < len(self.columns):
            raise Contradiction("adds a column that the table has already")
        place = {column: ordinal for ordinal, column in enumerate(self.columns)}
        columns = tuple(column.column for column in self.columns)
        self._indexes.sort(key=lambda index: index.name.lower())
        indexes = tuple(
            Index(
                index.name,
                tuple(place[column] for column in index.columns),
                unique=index.unique,
                prefix=index.prefix,
            )
            for index in self._indexes
        )
        primary = tuple(place[column] for column in self._primary)
        key = choose_key(columns, primary, indexes)
        return Table(
            *(id, columns, key, indexes, version, self.default_charset),
            foreign_keys=self._made_foreign_keys(id),
        )

    def _made_foreign_keys(self, id: TableId) -> tuple[ForeignKey, ...] | None:
        if not self._foreign_keys and not self._foreign_keys_known:
            return None
        made: list[ForeignKey] = []
        for key in self._foreign_keys:
            to = key.references
            if not to.columns:
                raise Unreadable("defines a foreign key without the columns that it refers to")
            parent = to.table if to.table.schema else TableId(id.schema, to.table.name)
            columns = tuple(column.name for column in key.columns)
            name = key.name or automatic_name(id, made)
            made.append(ForeignKey(name, columns, parent, to.columns, to.on_delete, to.on_update))
        return moved_names(tuple(made), self._id or id, id)

    def ignore_foreign_keys(self) -> None:
        """The storage engine has none."""
        self._foreign_keys, self._foreign_keys_known = [], True

    def find(self, name: str) -> DraftColumn:
        """The column with this name. Raises Contradiction if there is none."""
        for column in self.columns:
            if _same(column.name, name):
                return column
        raise Contradiction("names an unknown column")

    def has(self, name: str) -> bool:
        """Whether there is a column with this name."""
        return any(_same(column.name, name) for column in self.columns)

    def drop_column(self, column: DraftColumn) -> None:
        """Drop the column, also from every index. An index is dropped with its last column."""
        self.columns.remove(column)
        self._primary = [other for other in self._primary if other is not column]
        self._foreign_keys = [key for key in self._foreign_keys if column not in key.columns]
        for index in self._indexes:
            index.columns = [other for other in index.columns if other is not column]
        self._indexes = [index for index in self._indexes if index.columns]

    def add_key(self, key: KeyDefinition) -> None:
        """Add the index of a definition, as the server does.

        Full-text, spatial and functional indexes do not constrain rows and are not tracked.
        """
        if not key.plain or key.kind == "text":
            return
        columns = [self.find(name) for name, _ in key.parts]
        if key.kind == "primary":
            self._primary = columns
            return
        if key.if_not_exists and self._index(key.name) is not None:
            return
        implied = key.kind == "foreign"
        if key.references is not None and not self._add_foreign_key(key, columns):
            return
        if implied and self._covered(columns):
            return
        if not implied:
            self._drop_implied(columns)
        name = key.name or self._free_name(columns[0].name)
        prefix = any(
            _is_prefix(column.column, length)
            for column, (_, length) in zip(columns, key.parts, strict=True)
        )
        self._indexes.append(
            _DraftIndex(name, columns, unique=key.kind == "unique", prefix=prefix, implied=implied)
        )

    def _add_foreign_key(self, key: KeyDefinition, columns: list[DraftColumn]) -> bool:
        """Add a foreign key, unless it exists and the statement says IF NOT EXISTS."""
        assert key.references is not None
        old = self._foreign_key(key.name) if key.name else None
        if old is not None and key.if_not_exists:
            return False
        if old is not None:
            self._foreign_keys.remove(old)
        self._foreign_keys.append(_DraftForeignKey(key.name, columns, key.references))
        return True

    def drop_foreign_key(self, name: str, *, optional: bool) -> bool:
        """Drop a foreign key. Returns whether it is known.

        Raises Contradiction if it is one of the known keys under another name.
        """
        key = self._foreign_key(name)
        if key is None and self._foreign_keys and not optional:
            raise Contradiction("drops an unknown foreign key")
        if key is not None:
            self._foreign_keys.remove(key)
        return key is not None

    def _foreign_key(self, name: str) -> _DraftForeignKey | None:
        return next((key for key in self._foreign_keys if _same(key.name, name)), None)

    def drop_key(self, name: str) -> None:
        """Drop the index with this name, if it is tracked."""
        if _same(name, "PRIMARY"):
            self.drop_primary()
        index = self._index(name)
        if index is None:
            return
        self._indexes.remove(index)
        if self._doubtful and index.unique and index.columns == self._doubtful:
            self._key_in_doubt = not any(
                other.unique and other.columns == self._doubtful for other in self._indexes
            )

    def drop_primary(self) -> None:
        """Drop the primary key."""
        self._primary = self._doubtful = []

    def rename_key(self, old: str, new: str) -> None:
        """Rename an index, if it is tracked."""
        index = self._index(old)
        if index is not None:
            index.name = new

    def _index(self, name: str) -> _DraftIndex | None:
        return next((index for index in self._indexes if _same(index.name, name)), None)

    def _covered(self, columns: list[DraftColumn]) -> bool:
        begins = [self._primary, *(index.columns for index in self._indexes if not index.prefix)]
        return any(begin[: len(columns)] == columns for begin in begins)

    def _drop_implied(self, columns: list[DraftColumn]) -> None:
        self._indexes = [
            index
            for index in self._indexes
            if not (index.implied and columns[: len(index.columns)] == index.columns)
        ]

    def _free_name(self, base: str) -> str:
        name, number = base, 2
        while _same(name, "PRIMARY") or self._index(name) is not None:
            name, number = f"{base}_{number}", number + 1
        return name


def choose_key(
    columns: Sequence[Column], primary: tuple[int, ...], indexes: Iterable[Index]
) -> tuple[int, ...]:
    """The ordinals of the columns that identify a row.

    They are the primary key, else the shortest unique index over whole columns that are not
    nullable, else none.
    """
    if primary:
        return primary
    candidates = [
        index.columns
        for index in indexes
        if index.unique
        and not index.prefix
        and not any(columns[ordinal].nullable for ordinal in index.columns)
    ]
    return min(candidates, key=len, default=())


def _is_prefix(column: Column, length: int) -> bool:
    """Whether an index over ``length`` characters or bytes (0: all) covers only a prefix."""
    return bool(length) and length != parse_type(column.source_type).length


def _same(first: str, second: str) -> bool:
    return first.lower() == second.lower()

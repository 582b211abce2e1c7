"""
What a schema has besides columns and rows: defaults, indexes, foreign keys, checks, comments, views
and programs. Both sides describe it, so that it can be compared and completed on the target.

A source describes its tables in neutral terms (``TableDetails``). A sink makes of them what the
target should have, and describes what it has, as items in its own form.
``engine.toolkit.schema_diff`` compares the items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from engine.schema import Expression, ForeignKey, Table, TableId

__all__ = [
    "Check",
    "ComparesSchema",
    "Counter",
    "DescribesSchema",
    "Hidden",
    "Item",
    "ItemKind",
    "Program",
    "ProgramKind",
    "Structure",
    "TableDetails",
    "WantedTable",
]

ItemKind = Literal[
    "table",
    "column",
    "not null",
    "default",
    "generated",
    "identity",
    "sequence",
    "key",
    "index",
    "check",
    "foreign key",
    "comment",
    "view",
    "trigger",
    "function",
    "procedure",
    "event",
]
ProgramKind = Literal["view", "trigger", "function", "procedure", "event"]


class Check(msgspec.Struct, frozen=True):
    """A CHECK constraint: ``text`` is the source's SQL, ``condition`` what it means. ``enforced``:
    the source refuses rows that violate it.
    """

    name: str
    text: str
    condition: Expression
    enforced: bool = True


class Counter(msgspec.Struct, frozen=True):
    """The column that gets a number where an INSERT gives none, and the number of the next row.
    That is not past the column's maximum alone: it is also past numbers of deleted rows.
    """

    column: str
    next: int


class TableDetails(msgspec.Struct, frozen=True):
    """What a table has that its ``Table`` does not tell.

    ``comments`` are those of columns, by name. ``numbered`` is the column that gets a number where
    an INSERT gives none; ``touched`` are those that an UPDATE sets to the time. ``other_indexes``
    are the indexes that are not in ``Table.indexes``, each with what it is. ``next_number`` is the
    number of the next row, as in ``Counter``, 0 if it is not known. ``defaults`` are those of
    columns that are expressions, by name, as people write them; none where the ``Table`` has them
    so.
    """

    comment: str = ""
    comments: Mapping[str, str] = {}
    numbered: str = ""
    touched: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    other_indexes: Mapping[str, str] = {}
    next_number: int = 0
    defaults: Mapping[str, str] = {}


class Program(msgspec.Struct, frozen=True, order=True):
    """A view, trigger, routine or event. ``table`` is that of a trigger."""

    kind: ProgramKind
    id: TableId
    table: TableId | None = None


class Hidden(msgspec.Struct, frozen=True, order=True):
    """The programs of one kind in a schema that the user may not see, and the beginning of the
    statement that shows them, without the user's name.
    """

    kind: ProgramKind
    schema: str
    grant: str


class Structure(msgspec.Struct, frozen=True):
    """What a source has besides the columns and rows of its tables, and what of it is hidden."""

    tables: Mapping[TableId, TableDetails]
    programs: tuple[Program, ...]
    hidden: tuple[Hidden, ...] = ()


class WantedTable(msgspec.Struct, frozen=True):
    """A table of the target, with what it should have, under the target's names.

    ``notes`` say what is left out because a mapping changes it.
    """

    table: Table
    details: TableDetails
    foreign_keys: tuple[ForeignKey, ...] = ()
    notes: tuple[str, ...] = ()


class Item(msgspec.Struct, frozen=True):
    """One part of a schema. ``definition`` is its text in the target's own form.

    ``statements`` create it on the target, ``finish`` completes one that is ``unfinished`` there,
    such as an index whose build was interrupted. Without statements ``advice`` says why, and what
    to do. ``by_name``: the definition cannot be compared, so one of this name is enough.
    ``harmless``: if only the target has it, nothing is wrong.
    """

    kind: ItemKind
    table: str
    name: str
    definition: str = ""
    statements: tuple[str, ...] = ()
    finish: tuple[str, ...] = ()
    advice: str = ""
    unfinished: bool = False
    by_name: bool = False
    harmless: bool = False


@runtime_checkable
class DescribesSchema(Protocol):
    """A source that tells what its schemas have besides columns and rows."""

    def structure(self, tables: Sequence[Table]) -> Structure:
        """That of these tables and of their schemas. May block."""

    def counters(self, tables: Sequence[Table]) -> Mapping[TableId, Counter]:
        """Those of the tables that number their rows, as they are now. May block."""


@runtime_checkable
class ComparesSchema(Protocol):
    """A sink that tells what its tables should have and what they have, and completes them."""

    async def schema_items(
        self, tables: Sequence[WantedTable], programs: Sequence[Program]
    ) -> tuple[list[Item], list[Item]]:
        """What the target should have, and what it has. Nothing is changed."""
        ...

    async def execute_alone(self, statements: Sequence[str]) -> None:
        """Execute statements, each in a transaction of its own. They wait briefly for locks.
        Raises ``ApplyError`` or ``SinkError`` if one is refused.
        """
        ...

    async def why_no_foreign_keys(self) -> str:
        """Why foreign keys would disturb a pipeline that runs; empty if they would not."""
        ...

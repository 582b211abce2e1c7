"""
What foreign keys do to rows without the log showing it.

InnoDB executes ON DELETE and ON UPDATE itself, below the log: the log has the parent's rows alone.
Since MySQL 9.6 the SQL layer executes them and logs them, unless ``innodb_native_foreign_keys`` is
on. So a rows event of a parent makes a ``Cascade`` here, unless the session had
``foreign_key_checks`` off, as a flag of the event says. Whether a table is a parent is decided once
per table version, with its decoder.

The target can repeat an action if it compares the values as the source does. It cannot for text
with a collation that takes different texts for equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from engine.change import Cascade, Operation, Row, Rows, SchemaChange
from engine.databases.mysql.charset import may_be_invalid, text_decoder
from engine.databases.mysql.types import parse_type
from engine.errors import DecodeError, SchemaError, UnloggedChange
from engine.schema import Column, ForeignKey, Table, TableId
from engine.toolkit.cascades import order_matters, reached
from engine.toolkit.policies import ReadPolicies
from sources.mysql.codec.invalid_text import InvalidText
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_match import mismatch, parse_table_map, table_from_map
from sources.mysql.codec.versioned import current_rows, row_end
from sources.mysql.ddl.effects import Effect
from sources.mysql.ddl.statements import (
    AlterTable,
    CreateTable,
    RenameTables,
    Statement,
    changes_foreign_keys,
)

__all__ = ["Decoder", "ForeignKeys", "Keys", "Parent", "UnfollowedParent", "inexact_reason"]

#: The kinds of values that PostgreSQL compares as InnoDB does.
_EXACT: Final = frozenset(
    ("int8", "int16", "int24", "int32", "int64", "uint8", "uint16", "uint24", "uint32", "uint64")
) | frozenset(("decimal", "binary", "uuid"))
#: Collations that compare bytes and do not ignore spaces at the end.
#: The server checks what is stored in these charsets.
_CHECKED: Final = frozenset(("ascii", "utf8mb3", "utf8mb4"))
_NO_PAD: Final = ("_nopad_bin", "_0900_bin")

Keys = Mapping[TableId, tuple[ForeignKey, ...]]


class Parent:
    """Makes the cascades after rows of one version of ``table``.

    ``followed``: the table's rows are part of the stream.
    """

    def __init__(self, table: Table, cascades: list[Cascade], *, followed: bool) -> None:
        self.followed = followed
        self._models = cascades
        self._row_end = row_end(table)
        self._ordinals = [_ordinals(table, model.columns) for model in cascades]

    def derive(self, rows: Rows, checks: bool) -> list[Rows | Cascade]:
        """What the rows of an event mean: these rows, if the table is followed, and then, if the
        session has checked foreign keys, what these do.
        """
        found: list[Rows | Cascade] = []
        for each in (rows,) if self._row_end is None else current_rows(rows, self._row_end):
            if self.followed:
                found.append(each)
            if checks and each.op != "insert":
                found += self._cascades(each)
        return found

    def _cascades(self, rows: Rows) -> list[Cascade]:
        found = []
        for model, ordinals in zip(self._models, self._ordinals, strict=True):
            if ordinals is None:
                reason = "the log has no column of the name that it refers to"
            else:
                before, after, reason = _values(rows, ordinals)
                if before:
                    found.append(msgspec.structs.replace(model, before=before, after=after))
            if reason:
                found.append(_unknown(model, rows.op, reason))
        return found

    def unknown(self, op: Operation, reason: str) -> list[Cascade]:
        """The cascades after rows that cannot be decoded."""
        return [_unknown(model, op, reason) for model in self._models]

    @property
    def referenced(self) -> frozenset[str]:
        """The names of the columns that foreign keys refer to, in lower case."""
        return frozenset(name.lower() for model in self._models for name in model.columns)


def _ordinals(table: Table, columns: tuple[str, ...]) -> tuple[int, ...] | None:
    places = {column.name.lower(): ordinal for ordinal, column in enumerate(table.columns)}
    if not all(name.lower() in places for name in columns):
        return None
    return tuple(places[name.lower()] for name in columns)


def _unknown(model: Cascade, op: Operation, reason: str) -> Cascade:
    """A cascade whose values are not known."""
    keys = {
        (step.child.id, step.key.name): reason
        for parent, step in reached(model)
        if parent == model.parent
    }
    after: list[Row] | None = None if op == "delete" else []
    return msgspec.structs.replace(model, after=after, inexact={**model.inexact, **keys})


def _values(rows: Rows, ordinals: tuple[int, ...]) -> tuple[list[Row], list[Row] | None, str]:
    """The values of these columns that were deleted or changed, and why they are not known."""
    wanted = sum(1 << ordinal for ordinal in ordinals)
    before_present = wanted if rows.before_present is None else rows.before_present
    after_present = wanted if rows.after_present is None else rows.after_present
    if rows.op == "update" and not after_present & wanted:
        return [], [], ""
    if before_present & wanted != wanted:
        return [], None, "the row images of the log lack the columns that it refers to"
    before = [tuple(row[n] for n in ordinals) for row in rows.before or ()]
    if rows.after is None:
        return before, None, ""
    after = [
        tuple(new[n] if after_present >> n & 1 else old[n] for n in ordinals)
        for old, new in zip(rows.before or (), rows.after, strict=True)
    ]
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    return [old for old, _ in changed], [new for _, new in changed], ""


class UnfollowedParent:
    """Decodes the rows of a parent that is not followed, for its children.

    An error is about the children: the values of the rows are unknown then. ``undecoded`` says why
    no row can be decoded; it is empty with a ``decoder``.
    """

    def __init__(
        self, id: TableId, parent: Parent, decoder: RowDecoder | None, undecoded: str = ""
    ) -> None:
        self._without_rows = Table(id, ())
        self._parent = parent
        self._decoder = decoder
        self._undecoded = undecoded
        self.derive: Callable[[Rows, bool], Sequence[Rows | Cascade]] | None = self._derive

    def decode(
        self, op: Operation, data: bytes, start: int, end: int, *, partial_json: bool = False
    ) -> Rows:
        """The rows. They have no images if these mean nothing, or cannot be decoded."""
        if op != "insert" and self._decoder is not None:
            try:
                return self._decoder.decode(op, data, start, end, partial_json=partial_json)
            except (SchemaError, DecodeError) as error:
                self._undecoded = f"rows of its parent cannot be decoded: {error.message}"
        return Rows(self._without_rows, op, None, None)

    def _derive(self, rows: Rows, checks: bool) -> Sequence[Rows | Cascade]:
        if rows.before is not None:
            return self._parent.derive(rows, checks)
        return (
            self._parent.unknown(rows.op, self._undecoded) if checks and rows.op != "insert" else ()
        )


class _UnreadText(InvalidText):
    """Takes any bytes for the text of columns other than the ``referenced`` ones."""

    def __init__(self, referenced: frozenset[str]) -> None:
        super().__init__(ReadPolicies())
        self._referenced = referenced

    def decoder(self, table: Table, column: Column, charset: str) -> Callable[[bytes], str] | None:
        """As in the base class."""
        if column.name.lower() in self._referenced:
            return None
        return text_decoder(charset, "replace")


#: What decodes the rows after a table map.
Decoder = RowDecoder | UnfollowedParent


class ForeignKeys:
    """The foreign keys of the followed ``tables``, and of others that they may act through.

    ``others`` reads the foreign keys of all tables as they are now; None if there is no server.
    ``decoders`` are discarded when something changes.

    The version of a table that was stored before foreign keys were has none, and those of the
    catalog may be newer than the place in the log. So they are not exact until that is reached.
    """

    def __init__(
        self,
        tables: dict[TableId, Table],
        others: Callable[[], Keys] | None,
        decoders: dict[bytes, Decoder | None],
    ) -> None:
        self._tables = tables
        self._read = others
        self._decoders = decoders
        self._others: Keys = others() if others is not None else {}
        self._first = self._others
        self._are_known = False
        #: Whether the actions are missing in the log.
        self.unlogged = True
        #: The tables with foreign keys that refer to each table; None if it is to be made.
        self._children: dict[TableId, list[Table]] | None = None

    def add_missing(self) -> list[SchemaChange]:
        """Add the foreign keys of tables that were followed before these were stored.

        Call it when the log is read up to a place at which the catalog was read already. No
        statement has changed them between, because it would be an unlogged change.
        """
        changes: list[SchemaChange] = []
        if self._are_known:
            return changes
        self._are_known = True
        for table in list(self._tables.values()):
            if table.foreign_keys is None:
                keys, version = self._first.get(table.id, ()), table.version + 1
                after = msgspec.structs.replace(table, foreign_keys=keys, version=version)
                self._tables[table.id] = after
                changes.append(SchemaChange("", table, after))
        self.changed()
        return changes

    def follow(self, statement: Statement | None, effects: Sequence[Effect]) -> None:
        """Take note of a statement and its effects on followed tables.

        Raises UnloggedChange if it changes foreign keys that are not known.
        """
        if (
            isinstance(statement, AlterTable)
            and self._read is not None
            and self._is_unknown(statement.tables[0])
            and changes_foreign_keys(statement)
        ):
            raise UnloggedChange(
                f"{statement.kind} changes the table's foreign keys, and those before it are not"
                " known",
                table=statement.tables[0],
            )
        others = isinstance(statement, RenameTables) or (
            isinstance(statement, CreateTable | AlterTable)
            and statement.tables[0] not in self._tables
            and changes_foreign_keys(statement)
        )
        if others or effects:
            self.changed(others=others)

    def _is_unknown(self, id: TableId) -> bool:
        return id in self._tables and self._tables[id].foreign_keys is None

    def decoder(
        self,
        id: TableId,
        event: bytes,
        end: int,
        mariadb: bool,
        live: Callable[[TableId], Table | None] | None,
    ) -> Decoder | None:
        """What decodes the rows of a table that is not followed, for its children. None if it has
        none.
        """
        if not self.has_parent(id):
            return None
        try:
            map = parse_table_map(event, 19, end, mariadb=mariadb)
            if map.names is not None:
                table = table_from_map(map, None)
            else:
                now = live(id) if live is not None else None
                if now is None or mismatch(now, map) is not None:
                    raise SchemaError(
                        "the columns of its parent, which is not followed, are unknown"
                    )
                table = now
            if (parent := self.parent(table, followed=False)) is None:
                return None
            decoder = RowDecoder(table, map, _UnreadText(parent.referenced))
        except (SchemaError, DecodeError) as error:
            if (parent := self.parent(Table(id, ()), followed=False)) is None:
                return None
            return UnfollowedParent(id, parent, None, error.message)
        return UnfollowedParent(id, parent, decoder)

    def changed(self, *, others: bool = False) -> None:
        """The followed tables have changed; ``others``: the foreign keys of other tables, too."""
        self._children = None
        self._decoders.clear()
        if others and self._read is not None:
            self._others = self._read()

    def has_parent(self, id: TableId) -> bool:
        """Whether foreign keys refer to the table."""
        if self._children is None:
            self._children = defaultdict(list)
            for table in self._all():
                for parent in {key.parent for key in table.foreign_keys or () if key.cascades}:
                    self._children[parent].append(table)
        return self.unlogged and id in self._children

    def parent(self, table: Table, *, followed: bool) -> Parent | None:
        """What makes the cascades after rows of ``table``; None if there are none."""
        if not self.has_parent(table.id):
            return None
        family = self._descendants(table.id)
        known = {**family, table.id: table}
        tables = tuple(_normalised(each, known) for each in family.values())
        columns = sorted(
            {
                key.parent_columns
                for each in tables
                for key in each.foreign_keys or ()
                if key.parent == table.id and key.cascades
            }
        )
        unknown = frozenset(filter(self._is_unknown, family))
        models = [_model(table.id, names, tables, known, unknown) for names in columns]
        models = [model for model in models if any(each.columns for each in model.tables)]
        return Parent(table, models, followed=followed) if models else None

    def _descendants(self, id: TableId) -> dict[TableId, Table]:
        """The tables whose foreign keys refer to the table, directly or through others."""
        assert self._children is not None
        found: dict[TableId, Table] = {}
        waiting = [id]
        while waiting:
            for child in self._children.get(waiting.pop(), ()):
                if child.id not in found:
                    found[child.id] = child
                    waiting.append(child.id)
        return found

    def _all(self) -> Iterator[Table]:
        """The followed tables, and the others without columns."""
        for id, table in self._tables.items():
            if table.foreign_keys is None:
                table = msgspec.structs.replace(table, foreign_keys=self._others.get(id))
            yield table
        for id, keys in self._others.items():
            if id not in self._tables:
                yield Table(id, (), foreign_keys=keys)


def _model(
    parent: TableId,
    columns: tuple[str, ...],
    tables: tuple[Table, ...],
    known: Mapping[TableId, Table],
    unknown: frozenset[TableId],
) -> Cascade:
    """The cascade after rows of ``parent``, without their values.

    ``unknown`` are the tables whose foreign keys may be others at this place in the log.
    """
    steps = []
    for after in (None, list[Row]()):  # what a DELETE reaches, and what an UPDATE does
        steps += [each for _, each in reached(Cascade(parent, columns, [], after, tables))]
    ids = {step.child.id for step in steps}
    inexact = {}
    for step in steps:
        reason = inexact_reason(step.child, step.key, known.get(step.key.parent), tables)
        if step.child.id == parent and step.child.columns and not step.child.key:
            reason = "a row image shows what other deleted rows of the statement have done"
        if step.child.id in unknown:
            reason = "its foreign keys at this place in the log are not known"
        if reason:
            inexact[step.child.id, step.key.name] = reason
    return Cascade(
        *(parent, columns, [], None),
        tables=tuple(table for table in tables if table.id in ids),
        inexact=inexact,
    )


def _normalised(table: Table, known: Mapping[TableId, Table]) -> Table:
    """The table whose foreign keys spell the columns of their parents as these do."""
    keys = []
    for key in table.foreign_keys or ():
        parent = known.get(key.parent)
        names = {} if parent is None else {column.lower(): column for column in parent.names}
        spelled = tuple(names.get(name.lower(), name) for name in key.parent_columns)
        keys.append(msgspec.structs.replace(key, parent_columns=spelled))
    return msgspec.structs.replace(table, foreign_keys=tuple(keys))


def inexact_reason(
    child: Table, key: ForeignKey, parent: Table | None, tables: Iterable[Table]
) -> str:
    """Why a target cannot do what the key does; empty if it can, or if the child or the parent is
    not followed. ``tables`` may have foreign keys that refer to the child.
    """
    if not child.columns or parent is None or not parent.columns:
        return ""
    try:
        pairs = [
            (child.columns[child.ordinal(mine)], parent.columns[parent.ordinal(its)])
            for mine, its in zip(key.columns, key.parent_columns, strict=True)
        ]
    except (KeyError, ValueError):
        return "its columns are not known"
    for mine, its in pairs:
        if not _compares_exactly(mine, its):
            return f"values of the column {mine.name} that differ may be equal for the source"
    if other := order_matters(child, tables):
        return f"what the foreign keys {other} do together depends on their order"
    only_deletes = key.on_delete != "set null" and key.on_update == "restrict"
    if not only_deletes and row_end(child) is not None:
        return "the table has a history"
    if not only_deletes and any(column.generated for column in child.columns):
        return "generated columns may be computed from its columns"
    return ""


def _compares_exactly(mine: Column, its: Column) -> bool:
    kind = mine.type.kind
    if kind != its.type.kind or mine.type.scale != its.type.scale:
        return False
    if kind != "text":
        return kind in _EXACT
    types = [parse_type(column.source_type) for column in (mine, its)]
    if any(not each.collation.endswith("_bin") for each in types):
        return False
    # Bytes that are no character are replaced, in the parent's key otherwise than in a child.
    if any(may_be_invalid(each.charset) and each.charset not in _CHECKED for each in types):
        return False
    # The values of CHAR have no spaces at the end on either side.
    return all(each.collation.endswith(_NO_PAD) for each in types) or all(
        each.base == "char" for each in types
    )

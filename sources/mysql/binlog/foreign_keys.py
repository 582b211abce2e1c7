"""
The foreign keys at the current place in the log: those of the followed tables, and of others that
they may act through.

The followed tables' own are tracked by version. Those of other tables come from the catalog, which
may be *ahead*: read at a later place in the log than the stream has reached. Until that is reached,
a statement that ends a foreign key proves that actions may have been missed before it, so the
tables on which it may have acted are unlogged changes. When it is reached, the tracked foreign keys
must be those of the catalog. That also finds what a statement does not show: whether the storage
engine has foreign keys at all.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from engine.change import Cascade, Row, SchemaChange
from engine.databases.mysql.charset import text_decoder
from engine.errors import DecodeError, SchemaError, UnloggedChange
from engine.schema import Column, ForeignKey, Partitions, Table, TableId
from engine.toolkit.cascades import reached
from engine.toolkit.policies import ReadPolicies
from sources.mysql.binlog.cascades import (
    Decoder,
    Parent,
    UnfollowedParent,
    foldings,
    inexact_reason,
)
from sources.mysql.codec.invalid_text import InvalidText
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_match import mismatch, parse_table_map, table_from_map
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.effects import Effect
from sources.mysql.ddl.foreign_keys import has_foreign_keys, moved_names
from sources.mysql.ddl.statements import (
    AlterTable,
    CreateTable,
    DropDatabase,
    DropTables,
    RenameTables,
    Statement,
    adds_foreign_keys,
    changes_foreign_keys,
    engine_is_certain,
)

__all__ = ["ForeignKeys", "Keys", "ancestors"]

_UNDEFINED: Final = (
    "no statement defines the table's foreign keys: rows that they delete or change are not in the"
    " log, and stay as they are"
)
_DUMP: Final = "name a dump of the table's definition in [source] schema (mysqldump --no-data)"

log = logging.getLogger("tailrace.source")

Keys = Mapping[TableId, tuple[ForeignKey, ...]]


def ancestors(tables: Iterable[Table], others: Keys) -> frozenset[TableId]:
    """The tables whose rows may change rows of ``tables`` through foreign keys, also indirectly."""
    keys = dict(others)
    keys |= {table.id: table.foreign_keys for table in tables if table.foreign_keys is not None}
    waiting = [table.id for table in tables]
    found: set[TableId] = set()
    while waiting:
        for key in keys.get(waiting.pop(), ()):
            if key.cascades and key.parent not in found:
                found.add(key.parent)
                waiting.append(key.parent)
    return frozenset(found)


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


class ForeignKeys:
    """The foreign keys of the followed ``tables``, and of others that they may act through.

    ``read`` reads the foreign keys of all tables, and ``engine`` is the storage engine of a table;
    both as they are now. Without ``engine``, there is no server, and ``read`` reads them as they
    are at the current place in the log. ``decoders`` are discarded when something changes.

    The version of a table that was stored before foreign keys were has none. It gets those of the
    catalog when that is reached; until then they are not exact. If no statement has changed the
    table until then, it also gets its ``partitions`` of the catalog.
    """

    def __init__(
        self,
        tables: dict[TableId, Table],
        read: Callable[[], Keys] | None,
        decoders: dict[bytes, Decoder | None],
        engine: Callable[[TableId], str | None] | None = None,
        partitions: Mapping[TableId, Partitions] | None = None,
    ) -> None:
        self._tables = tables
        self._partitions = {id: (tables[id], found) for id, found in (partitions or {}).items()}
        self._read = read
        self._engine = engine
        self._decoders = decoders
        self._others: Keys = read() if read is not None else {}
        self._in_step = engine is None
        #: Whether the catalog was read at a later place in the log than the stream has reached.
        self.ahead = not self._in_step
        #: The number of times that the catalog was read.
        self.reads = 0
        #: Whether the actions are missing in the log.
        self.unlogged = True
        self._noted: set[tuple[TableId, str]] = set()
        #: The tables with foreign keys that refer to each table; None if it is to be made.
        self._children: dict[TableId, list[Table]] | None = None

    def ancestors(self) -> frozenset[TableId]:
        """The tables whose rows may change rows of followed tables."""
        return ancestors(self._tables.values(), self._others) if self.unlogged else frozenset()

    def reach(self) -> list[SchemaChange]:
        """Take note that the log is read up to a place at which the catalog was read already.

        Returns the next versions of the tables that were followed before foreign keys were stored.
        Raises UnloggedChange if a table has other foreign keys than were derived.
        """
        self.ahead = False
        for table in self._tables.values():
            keys = table.foreign_keys
            if keys is not None and self.unlogged and _differ(keys, self._others.get(table.id, ())):
                raise UnloggedChange(
                    "the table has other foreign keys on the source than its statements in the log"
                    " define, so rows that they delete or change may differ",
                    table=table.id,
                )
        changes: list[SchemaChange] = []
        for table in list(self._tables.values()):
            if table.foreign_keys is None:
                keys, version = self._others.get(table.id, ()), table.version + 1
                after = msgspec.structs.replace(table, foreign_keys=keys, version=version)
                first, partitions = self._partitions.get(table.id, (None, None))
                if table is first:
                    after = msgspec.structs.replace(after, partitions=partitions)
                self._tables[table.id] = after
                changes.append(SchemaChange("", table, after))
        if changes:
            self.changed()
        return changes

    def follow(
        self, statement: Statement | None, effects: Sequence[Effect], dialect: Dialect
    ) -> list[Effect]:
        """The effects of a statement on followed tables, as far as their storage engines have
        foreign keys.

        Raises UnloggedChange if foreign keys may have acted that were not known before it.
        """
        self._check_unknown(statement)
        if self.ahead and self.unlogged:
            self._check_ended(statement, effects)
        effects = [self._as_stored(statement, effect, dialect) for effect in effects]
        others = isinstance(statement, RenameTables) or any(map(_moves_keys, effects))
        if isinstance(statement, CreateTable | AlterTable):
            # Foreign keys to a table of another storage engine do nothing.
            new = isinstance(statement, CreateTable) or bool(statement.change.engine)
            others |= changes_foreign_keys(statement)
            others |= new and self.has_parent(statement.tables[0])
        if others or effects:
            self.changed(others=others)
        return effects

    def _check_unknown(self, statement: Statement | None) -> None:
        """Refuse to change the foreign keys of tables whose foreign keys are not known."""
        if self._read is None:
            return
        if isinstance(statement, AlterTable) and changes_foreign_keys(statement):
            id = statement.tables[0]
            if self._is_unknown(id):
                raise UnloggedChange(
                    f"{statement.kind} changes the table's foreign keys, and those before it are"
                    " not known",
                    table=id,
                )
        for old, new in _renamed(statement) if self.ahead else ():
            for id in filter(self._is_unknown, self._tables):
                parents = {key.parent for key in self._others.get(id, ()) if key.cascades}
                if id == old or new in parents:
                    raise UnloggedChange(
                        f"a statement renames {old}, and the foreign keys before it are not known",
                        table=id,
                    )

    def _check_ended(self, statement: Statement | None, effects: Sequence[Effect]) -> None:
        """Refuse the end of foreign keys whose actions the catalog may not have shown.

        A followed table may lose its link to one that is not, and that one its own links.
        """
        changes = [each for each in effects if isinstance(each, SchemaChange)]
        gone = {each.before.id for each in changes if each.before and each.after is None}
        for id in self._ended(statement):
            if not self.has_parent(id):
                continue
            for child in self._descendants(id):
                if child in self._tables and child not in gone:
                    raise UnloggedChange(
                        f"{id}, to which the table's foreign keys lead, has lost foreign keys"
                        " that may have changed rows before",
                        table=child,
                    )
        for each in changes:
            if isinstance(statement, AlterTable) and not has_foreign_keys(statement.change.engine):
                raise UnloggedChange(
                    f"{statement.kind} changes the storage engine, and the one before it is not"
                    " known",
                    table=statement.tables[0],
                )
            if each.before and each.after and _lost(each.before, each.after) - self._tables.keys():
                raise UnloggedChange(
                    "a foreign key is dropped that refers to a table that is not followed, and"
                    " whose own foreign keys at this place in the log are not known",
                    table=each.before.id,
                )

    def _ended(self, statement: Statement | None) -> Collection[TableId]:
        """The tables that are not followed and may lose foreign keys, or their name."""
        match statement:
            case DropTables(tables=tables) | RenameTables(tables=tables):
                found: Iterable[TableId] = tables
            case CreateTable(tables=tables) if statement.or_replace:
                found = tables
            case AlterTable() if changes_foreign_keys(statement):
                found = statement.tables[:1]
            case DropDatabase(schema=schema):
                self.has_parent(TableId("", ""))
                found = [id for id in self._children or () if id.schema == schema]
            case _:
                found = ()
        return [id for id in found if id not in self._tables]

    def _as_stored(self, statement: Statement | None, effect: Effect, dialect: Dialect) -> Effect:
        """The effect without foreign keys, if the table has a storage engine that ignores them.

        If that is a later engine of the table, its foreign keys differ when the catalog is reached.
        """
        if not (
            isinstance(statement, CreateTable | AlterTable)
            and isinstance(effect, SchemaChange)
            and (after := effect.after) is not None
            and after.id in statement.tables
            and any(key.cascades for key in after.foreign_keys or ())
            and (adds_foreign_keys(statement) or _engine_of(statement))
            and not engine_is_certain(statement, dialect)
        ):
            return effect
        if self._engine is None:
            self._note(after.id, "the storage engine of a table is not known, InnoDB is assumed")
        elif (self._engine(after.id) or "innodb").lower() != "innodb":
            bare = msgspec.structs.replace(after, foreign_keys=())
            return msgspec.structs.replace(effect, after=bare)
        return effect

    def _note(self, id: TableId, message: str) -> None:
        """Log a warning, once for each table."""
        if (id, message) not in self._noted:
            self._noted.add((id, message))
            log.warning(message, extra={"table": str(id), "hint": _DUMP})

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
            self.reads += 1
            self.ahead = not self._in_step

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
        if table.foreign_keys is None and followed and self._in_step and self.unlogged:
            self._note(table.id, _UNDEFINED)
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
    folded = {}
    for step in steps:
        reason = inexact_reason(step.child, step.key, known.get(step.key.parent), tables)
        if step.child.id == parent and step.child.columns and not step.child.key:
            reason = "a row image shows what other deleted rows of the statement have done"
        if step.child.id in unknown:
            reason = "its foreign keys at this place in the log are not known"
        if reason:
            inexact[step.child.id, step.key.name] = reason
        elif found := foldings(step.child, step.key, known.get(step.key.parent)):
            folded[step.child.id, step.key.name] = found
    return Cascade(
        *(parent, columns, [], None),
        tables=tuple(table for table in tables if table.id in ids),
        inexact=inexact,
        folded=folded,
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


def _engine_of(statement: CreateTable | AlterTable) -> str:
    return statement.engine if isinstance(statement, CreateTable) else statement.change.engine


def _renamed(statement: Statement | None) -> Sequence[tuple[TableId, TableId]]:
    if isinstance(statement, RenameTables):
        return statement.pairs
    if isinstance(statement, AlterTable) and statement.change.name is not None:
        return [(statement.tables[0], statement.change.name)]
    return ()


def _moves_keys(effect: Effect) -> bool:
    """Whether a table has other foreign keys after the effect."""
    if not isinstance(effect, SchemaChange):
        return False
    before = effect.before.foreign_keys if effect.before else ()
    after = effect.after.foreign_keys if effect.after else ()
    return (before or ()) != (after or ())


def _lost(before: Table, after: Table) -> set[TableId]:
    """The parents of the foreign keys that a statement drops."""
    names = {key.name for key in after.foreign_keys or ()}
    keys = moved_names(before.foreign_keys or (), before.id, after.id)
    return {key.parent for key in keys if key.cascades and key.name not in names}


def _differ(one: Iterable[ForeignKey], other: Iterable[ForeignKey]) -> bool:
    """Whether these foreign keys do different things. Their names do not matter."""
    return _meaning(one) != _meaning(other)


def _meaning(keys: Iterable[ForeignKey]) -> set[tuple[object, ...]]:
    return {
        (
            *(
                _lower(key.columns),
                _lower((key.parent.schema, key.parent.name)),
                _lower(key.parent_columns),
            ),
            *(key.on_delete, key.on_update),
        )
        for key in keys
        if key.cascades
    }


def _lower(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)

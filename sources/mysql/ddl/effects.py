"""
The effects of a logged statement on followed tables. Pure.

A statement that changes a table's definition, its name or all of its rows is logged as text, and
its effects are derived from the text. If they cannot be derived exactly, an ``UnloggedChange``
names the kind of statement, the table and what to do. A statement that touches no followed table
never raises an error, even if it cannot be parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import msgspec

from engine.change import DeletePart, SchemaChange, Truncate, UnloggedPart
from engine.errors import SchemaError, UnloggedChange
from engine.remedies import BACKFILL
from engine.schema import Table, TableId
from sources.mysql.ddl.alter import Unfollowable, alter
from sources.mysql.ddl.columns import Charset, charset_of, resolve
from sources.mysql.ddl.computed import computed as computed_columns
from sources.mysql.ddl.dialect import Dialect
from sources.mysql.ddl.draft import Contradiction, Draft
from sources.mysql.ddl.foreign_keys import has_foreign_keys, renamed_table, with_parents
from sources.mysql.ddl.masked import masked
from sources.mysql.ddl.partitions import changed
from sources.mysql.ddl.statements import (
    AlterTable,
    CreateTable,
    DropDatabase,
    DropTables,
    EmptyTable,
    RenameTables,
    RepairTables,
    Statement,
    WriteRows,
    read_statement,
)
from sources.mysql.ddl.tokens import Unreadable

__all__ = ["Effect", "ReadsAlone", "apply_statement"]

#: What a statement can do to a followed table.
Effect = SchemaChange | Truncate | DeletePart | UnloggedPart

_BACKFILL_AGAIN = BACKFILL
_ROW_FORMAT = f"set binlog_format = ROW, globally and in sessions that set their own; {BACKFILL}"
#: The verbs of statements that change rows.
_WRITES = frozenset(("INSERT", "REPLACE", "UPDATE", "DELETE", "LOAD", "WITH"))


#: Called with the kind and the tables of DML in statement format that names no followed table.
#: The tables are empty if they cannot be read. Raises SchemaError if selected rows may change.
CheckWrite = Callable[[str, tuple[TableId, ...]], None]
#: Whether it is worth to read the new columns of a change alone (``SchemaChange.unlogged``).
ReadsAlone = Callable[[SchemaChange], bool]


def _trust(kind: str, tables: tuple[TableId, ...]) -> None:
    """Take it that the statement changes no selected table."""


class _Followed(msgspec.Struct, frozen=True):
    """The followed tables before the statement, and the settings that its text does not contain.

    The fields are those of ``apply_statement``.
    """

    sql: str
    tables: Mapping[TableId, Table]
    wanted: Callable[[TableId], bool]
    charset: Callable[[str], Charset]
    dialect: Dialect
    discovered: Mapping[TableId, Table] = {}
    check_write: CheckWrite = _trust
    empty: bool = False
    ignored: Collection[TableId] = ()
    reads_alone: ReadsAlone | None = None

    def change(
        self,
        before: Table | None,
        after: Table | None,
        renamed: tuple[tuple[str, str], ...] = (),
        filled: tuple[tuple[str, str], ...] = (),
        computed: tuple[str, ...] = (),
    ) -> SchemaChange:
        """The schema change from one version to the next."""
        return SchemaChange(self.sql, before, after, renamed, filled, computed)


def apply_statement(
    sql: str,
    schema: str,
    tables: Mapping[TableId, Table],
    wanted: Callable[[TableId], bool],
    *,
    discovered: Mapping[TableId, Table] = {},
    ignored: Collection[TableId] = (),
    default_charset: Callable[[str], str] | None = None,
    dialect: Dialect = Dialect(),  # noqa: B008  frozen
    check_write: CheckWrite = _trust,
    empty: bool = False,
    statement: Statement | None = None,
    reads_alone: ReadsAlone | None = None,
) -> list[Effect]:
    """The effects of ``sql`` on followed tables, in order; empty if it touches none.

    ``statement`` is what it has done, if that is not what ``sql`` says. ``schema`` is the session's
    default database, ``tables`` are the tracked versions, and ``wanted`` says whether the
    configuration selects a table. ``discovered`` are tables that exist and wait for their backfill,
    and ``wanted`` is false for those of ``ignored`` (``Source.stream``): of these only a DROP or a
    new name has an effect. ``default_charset``
    returns the charset or collation of a database, ``check_write`` decides on DML on other tables.
    ``empty``: no rows of the tables are followed, so only the definitions matter. ``reads_alone``
    decides on new columns whose values are not in the log; without it, that is an UnloggedChange.

    Raises UnloggedChange if the statement touches a followed table and its effects cannot be
    derived exactly, such as for DML in statement format. No text raises any other error.
    """
    statement = statement or read_statement(sql, schema, dialect)
    if statement is None:
        return []

    def charset(schema: str) -> Charset:
        return charset_of(default_charset(schema)) if default_charset else Charset()

    followed = _Followed(
        *(sql, tables, wanted, charset, dialect),
        discovered=discovered,
        check_write=check_write,
        empty=empty,
        ignored=ignored,
        reads_alone=reads_alone,
    )
    if statement.problem:
        _check_problem(statement, followed)
    effects = _effects(statement, followed) + _dropped(statement, followed)
    return [*effects, *_parents_renamed(statement, effects, followed)]


def _parents_renamed(
    statement: Statement, effects: list[Effect], followed: _Followed
) -> list[SchemaChange]:
    """What the statement does to foreign keys that refer to a renamed table or column."""
    columns: dict[tuple[TableId, str], str] = {}
    if isinstance(statement, RenameTables):
        pairs = statement.pairs
    elif isinstance(statement, AlterTable):
        (id, change) = statement.tables[0], statement.change
        pairs = () if change.name is None else ((id, change.name),)
        renamed = [*change.renamed, *((it.old, it.definition.name) for it in change.columns)]
        columns = {(id, old.lower()): new for old, new in renamed if old and old != new}
    else:
        return []
    if not pairs and not columns:
        return []
    now = dict(followed.tables)
    for effect in effects:
        if isinstance(effect, SchemaChange):
            if effect.before is not None:
                now.pop(effect.before.id, None)
            if effect.after is not None:
                now[effect.after.id] = effect.after
    changed = with_parents(now.values(), pairs, columns)
    return [followed.change(before, after) for before, after in changed]


def _dropped(statement: Statement, followed: _Followed) -> list[Effect]:
    """A change for each table of ``ignored`` whose name the statement removes."""
    ignored = followed.ignored
    gone: set[TableId] = set()
    match statement:
        case DropTables():
            gone.update(statement.tables)
        case DropDatabase():
            gone.update(id for id in ignored if id.schema == statement.schema)
        case RenameTables():
            for old, new in statement.pairs:
                gone.add(old)
                gone.discard(new)
        case AlterTable() if statement.change.name not in (None, statement.tables[0]):
            gone.add(statement.tables[0])
    return [followed.change(Table(id, ()), None) for id in sorted(gone.intersection(ignored))]


def _effects(statement: Statement, followed: _Followed) -> list[Effect]:
    tables = followed.tables
    match statement:
        case CreateTable():
            return _create(statement, followed)
        case AlterTable():
            return _alter(statement, followed)
        case RenameTables():
            return _rename(statement, followed)
        case DropTables():
            return [followed.change(tables[id], None) for id in statement.tables if id in tables]
        case DropDatabase():
            gone = sorted(id for id in tables if id.schema == statement.schema)
            return [followed.change(tables[id], None) for id in gone]
        case EmptyTable():
            return _empty(statement, followed)
        case WriteRows():
            return _write(statement, followed)
        case RepairTables():
            return _repair(statement, followed)
        case _:
            if statement.kind in _WRITES:
                followed.check_write(statement.kind, ())
            return []


def _unlogged(kind: str, id: TableId, reason: str, hint: str = _BACKFILL_AGAIN) -> UnloggedChange:
    return UnloggedChange(f"{kind} {reason}", hint=hint, table=id)


def _check_problem(statement: Statement, followed: _Followed) -> None:
    """Refuse a statement whose effects are unknown if it names a followed table."""
    match statement:
        case CreateTable() | AlterTable():
            return  # the problem may concern another table
        case DropDatabase():
            ids = tuple(sorted(id for id in followed.tables if id.schema == statement.schema))
        case _:
            ids = statement.tables
    for id in ids:
        if id in followed.tables:
            raise _unlogged(statement.kind, id, statement.problem)


def _create(statement: CreateTable, followed: _Followed) -> list[Effect]:
    (id,) = statement.tables
    before = followed.tables.get(id)
    if not followed.wanted(id) or (before is not None and statement.if_not_exists):
        return []
    if before is None and id in followed.discovered and _may_exist(statement, followed):
        return []
    if before is not None and not statement.or_replace:
        raise _unlogged(statement.kind, id, "creates a table that is already followed")
    gone = [] if before is None else [followed.change(before, None)]
    version = 1 if before is None else before.version + 1
    return [*gone, followed.change(None, _created(statement, id, version, followed))]


def _may_exist(statement: CreateTable, followed: _Followed) -> bool:
    """Whether a discovered table may be older than the statement, or its columns are unknown."""
    unknown = statement.like is not None and statement.like not in followed.tables
    return statement.if_not_exists or unknown


def _created(statement: CreateTable, id: TableId, version: int, followed: _Followed) -> Table:
    """The table that CREATE TABLE creates."""
    if statement.problem:
        raise _unlogged(statement.kind, id, statement.problem)
    if statement.like is not None:
        model = followed.tables.get(statement.like) or followed.discovered.get(statement.like)
        if model is None:
            reason = f"takes its columns from {statement.like}, which is not followed"
            raise _unlogged(statement.kind, id, reason)
        copied = tuple(map(followed.dialect.altered, model.columns))
        return msgspec.structs.replace(
            model, id=id, version=version, columns=copied, foreign_keys=()
        )
    draft = Draft()
    try:
        database = followed.charset(id.schema)
        charset = statement.charset.resolved(database).over(database)
        draft.default_charset = charset.text
        expressions = {
            it.name: it.expression for it in statement.columns if it.expression is not None
        }
        columns = [resolve(definition, charset) for definition in statement.columns]
        draft.add_columns(computed_columns(columns, expressions))
        for definition in statement.columns:
            for key in definition.keys:
                draft.add_key(key)
        for key in statement.keys:
            draft.add_key(key)
        if not has_foreign_keys(statement.engine):
            draft.ignore_foreign_keys()
        table = draft.table(id, version)
        partitions = changed(None, table.columns, statement.partitions, followed.dialect.time)
        return msgspec.structs.replace(table, partitions=partitions)
    except Unreadable as error:
        raise _unlogged(statement.kind, id, str(error)) from error


def _alter(statement: AlterTable, followed: _Followed) -> list[Effect]:
    id = statement.tables[0]
    table = followed.tables.get(id)
    for other in statement.tables[1:]:
        if other != statement.change.name and other in followed.tables and not followed.empty:
            raise _unlogged(statement.kind, other, "changes rows that the log does not show")
    if table is None:
        target = statement.change.name
        if target is not None and followed.wanted(target) and not followed.wanted(id):
            raise _unknown_rows(statement.kind, target, id)
        return []
    if statement.problem:
        raise _unlogged(statement.kind, id, statement.problem)
    try:
        altered = alter(
            *(table, statement.change, followed.charset(id.schema), followed.dialect),
            ignore=statement.ignore,
            empty=followed.empty,
        )
    except Contradiction as error:
        if followed.empty:
            return []  # the definition is of a later time, and has the change already
        raise _unlogged(statement.kind, id, str(error)) from error
    except (Unreadable, Unfollowable) as error:
        raise _unlogged(statement.kind, id, str(error)) from error
    except SchemaError as error:
        raise _unlogged(statement.kind, id, error.message, error.hint) from error
    after = altered.table
    if after.id != id:
        _check_name(statement.kind, id, after.id, followed)
    effects: list[Effect] = []
    if altered.emptied:
        effects.append(Truncate(table))
    elif altered.removed is not None:
        effects.append(DeletePart(table, altered.removed))
    elif altered.exchanged is not None:
        reason = f"{statement.kind} {statement.change.refused}"
        effects.append(UnloggedPart(table, altered.exchanged, reason, masked(followed.sql)))
    change = followed.change(table, after, altered.renamed, altered.filled, altered.computed)
    if altered.unlogged:
        reason = next(iter(altered.unlogged.values()))
        change = msgspec.structs.replace(
            change, unlogged=tuple(altered.unlogged), reason=f"{statement.kind} {reason}"
        )
        if effects or followed.reads_alone is None or not followed.reads_alone(change):
            raise _unlogged(statement.kind, id, reason)
    return [*effects, change]


def _rename(statement: RenameTables, followed: _Followed) -> list[Effect]:
    """One schema change for each pair, so that a sink can use the same temporary names."""
    now = dict(followed.tables)
    origin = {id: id for id in now}
    steps: list[SchemaChange] = []
    for old, new in _real_pairs(statement, followed):
        table = now.pop(old, None)
        origin[new] = origin.pop(old, old)
        if table is not None:
            now[new] = renamed_table(table, new)
            steps.append(followed.change(table, now[new]))
    moved = [(old, new) for new, old in sorted(origin.items()) if old != new]
    for old, new in moved:
        if new not in now and followed.wanted(new) and not followed.wanted(old):
            raise _unknown_rows(statement.kind, new, old)
    for old, new in moved:
        if new in now:
            _check_name(statement.kind, old, new, followed)
    return list(steps)


def _real_pairs(statement: RenameTables, followed: _Followed) -> Iterator[tuple[TableId, TableId]]:
    """The pairs without those that can only have renamed a temporary table of MariaDB.

    In the format ROW the log does not show temporary tables, but it has this statement. A new name
    is never that of an existing table, and a table cannot be renamed twice under its old name.
    """
    names = set(followed.tables)
    for at, (old, new) in enumerate(statement.pairs):
        again = next((each for each in statement.pairs[at + 1 :] if old in each), None)
        twice = again is not None and again[0] == old
        if old in names and (new in names or twice):
            if statement.if_exists and new not in names:
                raise _unlogged(statement.kind, old, "may have renamed a temporary table")
            continue
        if old in names:
            names.remove(old)
            names.add(new)
        yield old, new


def _check_name(kind: str, old: TableId, new: TableId, followed: _Followed) -> None:
    if new in followed.ignored:
        raise _unlogged(kind, old, f"renames it to {new}, which is not followed now")
    if not followed.wanted(new):
        raise UnloggedChange(
            f"{kind} renames it to {new}, which the pipeline does not select",
            hint=f'add "TABLE" to exclude in [source], and "{new}" to tables if it is needed; then'
            " `tailrace reload CONFIG` or `tailrace run CONFIG`",
            table=old,
            moved=True,
        )


def _unknown_rows(kind: str, new: TableId, old: TableId) -> UnloggedChange:
    return _unlogged(kind, new, f"replaces it by {old}, which was not followed", BACKFILL)


def _write(statement: WriteRows, followed: _Followed) -> list[Effect]:
    for id in statement.tables:
        if id in followed.tables:
            reason = "was logged as a statement, not as rows"
            raise _unlogged(statement.kind, id, reason, _ROW_FORMAT)
    followed.check_write(statement.kind, statement.tables)
    return []


def _repair(statement: RepairTables, followed: _Followed) -> list[Effect]:
    changes: list[Effect] = []
    for table in (followed.tables[id] for id in statement.tables if id in followed.tables):
        columns = tuple(map(followed.dialect.altered, table.columns))
        if columns != table.columns and not followed.empty:
            raise _unlogged(statement.kind, table.id, "changes years of two digits")
        if columns != table.columns:
            after = msgspec.structs.replace(table, columns=columns, version=table.version + 1)
            changes.append(followed.change(table, after))
    return changes


def _empty(statement: EmptyTable, followed: _Followed) -> list[Effect]:
    emptied = [followed.tables[id] for id in statement.tables if id in followed.tables]
    if not emptied and statement.kind in _WRITES:
        followed.check_write(statement.kind, statement.tables)
    return [Truncate(table) for table in emptied]

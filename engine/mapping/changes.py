"""
The mapping of a pipeline: changes of the source's tables become changes of the target's. Pure.

The stream, the tracker and the state know the tables of the source. On the way to the sink each
change passes ``Mapping.targets``. The sink stores the target's table, which has the source's
version within it (``Table.origins``), so ``sources`` finds the source's versions again at a start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Mapping as Map

import msgspec

from engine.change import (
    Cascade,
    CaughtUp,
    Change,
    DeletePart,
    Replace,
    ReplacePart,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.contract import Applied, State
from engine.errors import ConfigError, TailraceError, UnloggedChange
from engine.mapping.table import TableMapping, own_id
from engine.schema import Part, Table, TableId
from engine.settings.mapping import MaskSettings, TableRules, check_patterns, rules_of

__all__ = ["Mapping"]


class Mapping:
    """The mappings of a pipeline's tables, and the tables that the target has now.

    Raises ConfigError for wrong settings.
    """

    def __init__(
        self, rules: Map[str, TableRules] | None = None, mask: MaskSettings | None = None
    ) -> None:
        self._rules = rules or {}
        self._mask = mask or MaskSettings()
        check_patterns(self._rules)
        self._mappings: dict[Table, TableMapping | None] = {}
        #: What the target has: its table by the id of the source's.
        self._targets: dict[TableId, Table] = {}

    def of(self, source: Table) -> TableMapping | None:
        """The mapping of a version of a table; None if its rows stay as they are.

        Raises ConfigError if the rules do not fit it.
        """
        if source not in self._mappings:
            rules = rules_of(self._rules, own_id(source.id))
            self._mappings[source] = (
                None if rules is None else TableMapping(source, rules, self._mask.key)
            )
        return self._mappings[source]

    def target(self, source: Table) -> Table:
        """The target's table for a version of a table. Raises ConfigError."""
        mapping = self.of(source)
        return source if mapping is None else mapping.target

    def check(self, tables: Iterable[Table]) -> None:
        """Raise ConfigError unless the mappings of all these tables fit them, and no two of them
        have the same target.
        """
        found: dict[TableId, TableId] = {}
        for table in tables:
            target = self.target(table).id
            other = found.setdefault(target, table.id)
            if other != table.id:
                raise ConfigError(
                    f"the tables {other} and {table.id} are mapped to one table, {target}",
                    hint="set another `to` for one of them in [mapping]",
                    table=table.id,
                )

    @property
    def active(self) -> bool:
        """Whether a table may be mapped. If not, changes need not pass."""
        return bool(self._rules or self._targets)

    def restore(self, state: State) -> State:
        """Take over the tables of the target, and return the state with those of the source.

        Tables whose rows were mapped by other rules are outdated, too.
        """
        self._targets.clear()
        outdated: dict[TableId, str] = {}
        for target in state.tables:
            for source in target.sources:
                if target.id in state.outdated:
                    outdated[source.id] = state.outdated[target.id]
                elif not self._makes(target, source):
                    outdated[source.id] = "the mapping of the table has changed"
                self._arrive(source, target)
        tables = tuple(source for target in state.tables for source in target.sources)
        return msgspec.structs.replace(state, tables=tables, outdated=outdated)

    def _makes(self, target: Table, source: Table) -> bool:
        """Whether the rules of now make ``target`` from ``source``."""
        try:
            return self.target(source) == target
        except ConfigError:  # the rules may be meant for a newer version of the table
            return False

    def target_ids(self, ids: Collection[TableId]) -> Collection[TableId]:
        """The names of these tables on the target."""
        return {self._targets[id].id if id in self._targets else id for id in ids}

    def found(self, applied: Applied) -> Applied:
        """What the sink found, by the names of the source."""
        names = {target.id: source for source, target in self._targets.items()}
        return Applied(
            {names.get(id, id): count for id, count in applied.drift.items()},
            {(names.get(id, id), it, why): n for (id, it, why), n in applied.replaced.items()},
        )

    def own_error(self, error: TailraceError) -> TailraceError:
        """The error of the sink, with the name of the source's table."""
        for source, target in self._targets.items():
            if isinstance(error, UnloggedChange) and error.id == target.id:
                return UnloggedChange(
                    error.message, hint=error.hint, table=source, position=error.position
                )
            if error.table == str(target.id):
                error.table = str(source)
                break
        return error

    def targets(self, changes: Sequence[Change]) -> list[Change]:
        """The changes of the target that follow from changes of the source."""
        return [target for change in changes for target in self._targets_of(change)]

    def _targets_of(self, change: Change) -> Iterator[Change]:
        match change:
            case Rows(table=table):
                mapping = self.of(table)
                if mapping is None:
                    yield change
                else:
                    yield from mapping.rows(change, self._now(table))
            case SchemaChange():
                yield from self._follow(change)
            case Truncate(table) | CaughtUp(table):
                yield msgspec.structs.replace(change, table=self._now(table))
            case DeletePart(table, part):
                yield DeletePart(self._now(table), self._part(table, part))
            case ReplacePart(table, twin, part):
                yield ReplacePart(self._now(table), self._leave(twin), self._part(table, part))
            case Replace(before, twin, after):
                old, new = self._leave(before), self._leave(twin)
                target = self.target(after)
                self._arrive(after, target)
                yield Replace(old, new, target)
            case Cascade():
                self._refuse_cascades(change)
                yield change
            case _:
                yield change

    def _now(self, source: Table) -> Table:
        """The target's table that has the rows of a version of a table."""
        return self._targets.get(source.id, source)

    def _leave(self, source: Table) -> Table:
        return self._targets.pop(source.id, source)

    def _arrive(self, source: Table, target: Table) -> None:
        if target.origins:
            self._targets[source.id] = target

    def _follow(self, change: SchemaChange) -> Iterator[Change]:
        before, after = change.before, change.after
        old = None if before is None else self._leave(before)
        if after is None:
            yield msgspec.structs.replace(change, before=old)
            return
        try:
            mapping, target = self.of(after), self.target(after)
        except ConfigError as error:
            raise UnloggedChange(
                error.message, hint=error.hint, table=own_id((before or after).id), moved=True
            ) from error
        self._arrive(after, target)
        if before is None or old is None or (mapping is None and not old.origins):
            yield msgspec.structs.replace(change, before=old, after=target)
            return
        previous = self.of(before)
        if previous is None or mapping is None or previous.fingerprint != mapping.fingerprint:
            raise _unlogged(before, "a table gets another mapping by its new name")
        yield _translated(change, previous, mapping, old)

    def _part(self, table: Table, part: Part) -> Part:
        mapping = self.of(table)
        if mapping is None:
            return part
        place = mapping.places.get(table.ordinal(part.column))
        if place is None:
            raise _unlogged(
                table,
                f"a part of the rows is removed by the column {part.column}, which the target does"
                " not have",
            )
        return msgspec.structs.replace(part, column=mapping.target.columns[place].name)

    def _refuse_cascades(self, change: Cascade) -> None:
        """Raise UnloggedChange if a foreign key acts on a mapped table, or through one."""
        for table in change.tables:
            if self.of(table) is not None:
                raise _unlogged(
                    table,
                    "rows of a mapped table are deleted or changed by a foreign key, which the log"
                    " does not show",
                )


def _unlogged(table: Table, reason: str) -> UnloggedChange:
    return UnloggedChange(reason, hint="Backfill the table again.", table=own_id(table.id))


def _translated(
    change: SchemaChange, before: TableMapping, after: TableMapping, old: Table
) -> SchemaChange:
    """A schema change in the columns of the target. Raises UnloggedChange if values change that are
    computed from others.
    """
    names = dict(change.renamed)
    old_columns = {names.get(it.name, it.name): it for it in before.source.columns}

    def same(ordinals: Collection[int]) -> bool:
        """Whether the columns with these ordinals have the same values as before."""
        for ordinal in ordinals:
            column = after.source.columns[ordinal]
            known = old_columns.get(column.name)
            if column.name in change.computed:
                return False
            if known is None or (known.type, known.source_type) != (
                column.type,
                column.source_type,
            ):
                return False
        return True

    computed = [column for column in after.columns if not column.plain]
    had = {column.column.name for column in before.columns if not column.plain}
    for column in computed:
        if column.column.name not in had or not same(column.inputs):
            raise _unlogged(
                before.source, f"the column {column.column.name} is computed, and has other values"
            )
    if after.condition is not None and not same(after.condition.inputs):
        raise _unlogged(before.source, "where has a column that was changed")
    return msgspec.structs.replace(
        change,
        before=old,
        after=after.target,
        renamed=_renamed(before, after, names),
        filled=_filled(change, after),
        computed=_generated(change, after),
    )


def _generated(change: SchemaChange, after: TableMapping) -> tuple[str, ...]:
    """The names that generated columns whose values are new have on the target."""
    places = [after.places.get(after.source.ordinal(name)) for name in change.computed]
    return tuple(after.target.columns[place].name for place in places if place is not None)


def _renamed(
    before: TableMapping, after: TableMapping, names: Map[str, str]
) -> tuple[tuple[str, str], ...]:
    """The columns of the target that the change renames."""
    sources = {name: ordinal for ordinal, name in enumerate(after.source.names)}
    found = []
    for ordinal, place in before.places.items():
        name = before.source.columns[ordinal].name
        now = after.places.get(sources.get(names.get(name, name), -1))
        if now is not None:
            pair = before.target.columns[place].name, after.target.columns[now].name
            if pair[0] != pair[1]:
                found.append(pair)
    return tuple(found)


def _filled(change: SchemaChange, after: TableMapping) -> tuple[tuple[str, str], ...]:
    """The values that existing rows get in new columns of the target."""
    found = []
    for name, value in change.filled:
        place = after.places.get(after.source.ordinal(name))
        if place is not None:
            found.append((after.target.columns[place].name, value))
    return tuple(found)

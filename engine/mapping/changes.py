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
    Begin,
    Cascade,
    CaughtUp,
    Change,
    Commit,
    DeletePart,
    DeleteRange,
    Heartbeat,
    InPlace,
    Replace,
    ReplaceColumns,
    ReplacePart,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.contract import Applied, RowFilter, State
from engine.errors import ConfigError, TailraceError, UnloggedChange
from engine.mapping.cascades import translated_cascade
from engine.mapping.merging import (
    emptied,
    fits,
    is_merged,
    joined,
    refused,
    share_of,
    without,
)
from engine.mapping.schema_changes import translated, unlogged
from engine.mapping.table import TableMapping, own_id
from engine.remedies import BACKFILL
from engine.schema import Part, Table, TableId
from engine.settings.loader import ErrorSettings
from engine.settings.mapping import MaskSettings, TableRules, check_patterns, rules_of

__all__ = ["Mapping"]


class Mapping:
    """The mappings of a pipeline's tables, and the tables that the target has now.

    ``errors`` says what becomes of rows that the target refuses. Raises ConfigError for wrong
    settings.
    """

    def __init__(
        self,
        rules: Map[str, TableRules] | None = None,
        mask: MaskSettings | None = None,
        errors: ErrorSettings | None = None,
    ) -> None:
        self._errors = errors
        self._rules = rules or {}
        self._mask = mask or MaskSettings()
        check_patterns(self._rules)
        self._mappings: dict[Table, TableMapping | None] = {}
        #: What the target has: its table by the id of the source's.
        self._targets: dict[TableId, Table] = {}
        #: The merged tables whose sources are written apart, because the target has refused a row
        #: of one of them.
        self._apart: set[str] = set()
        #: The tables whose stored rows were mapped by other rules.
        self.edited: set[TableId] = set()

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

    def row_filter(self, source: Table) -> RowFilter | None:
        """The rows of a version of a table that a read may leave out. Raises ConfigError."""
        mapping = self.of(source)
        return None if mapping is None else mapping.row_filter

    def check(self, tables: Iterable[Table]) -> list[Table]:
        """The tables of the target for all these tables. Raises ConfigError unless the mappings fit
        them, and only tables that are merged have the same target.
        """
        found: dict[TableId, list[Table]] = {}
        for source in tables:
            self._take(source, found)
        return [joined(others) if is_merged(others[0]) else others[0] for others in found.values()]

    def misfits(
        self, followed: Iterable[Table], tables: Iterable[Table]
    ) -> dict[TableId, ConfigError]:
        """Those of ``tables`` that the rules do not fit, if each is followed besides ``followed``,
        which they fit, and the ones before it. Raises ConfigError if they do not fit ``followed``.
        """
        found: dict[TableId, list[Table]] = {}
        for source in followed:
            self._take(source, found)
        errors: dict[TableId, ConfigError] = {}
        more: dict[TableId, list[Table]] = {}
        for source in tables:
            try:
                target = self._take(source, found)
            except ConfigError as error:
                errors[source.id] = error
            else:
                more.setdefault(target.id, []).append(target)
        for id, targets in more.items():
            if is_merged(targets[0]):
                known = found[id][: -len(targets)]
                errors.update(refused(known, targets))
        return errors

    def _take(self, source: Table, found: dict[TableId, list[Table]]) -> Table:
        """Add the target of a table to those that are ``found``, and return it. Raises ConfigError
        if it cannot be one of them.
        """
        target = self.target(source)
        self._check_masks(source)
        others = found.setdefault(target.id, [])
        if others and not (is_merged(target) and is_merged(others[0])):
            other = others[0].sources[0].id
            raise ConfigError(
                f"the tables {other} and {source.id} are mapped to one table, {target.id}",
                hint="set another `to` for one of them in [mapping], or `merge` for both",
                table=source.id,
            )
        others.append(target)
        return target

    def check_edited(self, live: Sequence[Table]) -> None:
        """Raise ConfigError unless the rules fit the followed tables, as they are on the source
        now. A table whose rules are those of before is left out if they do not fit it, because a
        schema change that waits in the log is the reason.
        """
        self.check(table for table in live if table.id in self.edited or self._fits(table))

    def _fits(self, source: Table) -> bool:
        try:
            self.target(source)
        except ConfigError:
            return False
        return True

    def _check_masks(self, source: Table) -> None:
        """Raise ConfigError if rows would be kept aside with the values that a mask hides."""
        rules = rules_of(self._rules, own_id(source.id))
        if (
            rules is not None
            and rules.mask
            and self._errors is not None
            and self._errors.policy(own_id(source.id)) == "dead_letter"
        ):
            raise ConfigError(
                "columns of the table are masked, and a dead letter would hold their values",
                hint='set another policy for the table in [errors] tables, such as "quarantine"',
                table=source.id,
            )

    @property
    def active(self) -> bool:
        """Whether a table may be mapped. If not, changes need not pass."""
        return bool(self._rules or self._targets)

    @property
    def merges(self) -> bool:
        """Whether tables are merged."""
        return any(rules.merge for rules in self._rules.values())

    def restore(self, state: State) -> State:
        """Take over the tables of the target, and return the state with those of the source.

        Tables whose rows were mapped by other rules are outdated, too.
        """
        self._targets.clear()
        self.edited.clear()
        outdated: dict[TableId, str] = {}
        for target in state.tables:
            for source in target.sources:
                if not self._makes(target, source):
                    self.edited.add(own_id(source.id))
                    outdated[source.id] = "the mapping of the table has changed"
                if target.id in state.outdated:
                    outdated[source.id] = state.outdated[target.id]
                self._arrive(source, target)
        tables = tuple(source for target in state.tables for source in target.sources)
        return msgspec.structs.replace(state, tables=tables, outdated=outdated)

    def _makes(self, target: Table, source: Table) -> bool:
        """Whether the rules of now make ``target`` from ``source``."""
        try:
            own = self.target(source)
            return fits(target, own) if is_merged(own) else own == target
        except ConfigError:  # the rules may be meant for a newer version of the table
            return False

    def target_ids(self, ids: Collection[TableId]) -> Collection[TableId]:
        """The names of these tables on the target."""
        return {self._targets[id].id if id in self._targets else id for id in ids}

    def found(self, applied: Applied) -> Applied:
        """What the sink found, by the names of the source. What it found in a merged table may be
        of several sources, so it keeps the name of the target's table.
        """
        names = {
            target.id: source for source, target in self._targets.items() if not is_merged(target)
        }
        return Applied(
            {names.get(id, id): count for id, count in applied.drift.items()},
            {(names.get(id, id), it, why): n for (id, it, why), n in applied.replaced.items()},
        )

    def own_error(self, error: TailraceError, changes: Sequence[Change]) -> TailraceError:
        """The error of the sink about ``changes``, with the name of the source's table. If it may
        be about several tables that are merged, it is ``undecided``, and ``runs`` keeps them apart
        from then on.
        """
        found = [id for id, table in self._targets.items() if str(table.id) == error.table]
        if not found or error.table is None:
            return error
        changed = {id: None for change in changes for id in _changed(change) if id in found}
        undecided = len(changed) > 1 and error.table not in self._apart
        (self._apart.add if undecided else self._apart.discard)(error.table)
        id = next(iter(changed), found[0])
        if isinstance(error, UnloggedChange):
            error = error.about(id)
        error.table, error.undecided = str(id), undecided
        return error

    def runs(self, changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
        """The changes in order, cut so that an error of the sink about one run tells which table of
        the source it concerns.
        """
        if not self._apart:
            yield changes
            return
        run: list[Change] = []
        sources: dict[TableId, TableId] = {}
        for change in changes:
            tables = [(self._targets[id].id, id) for id in _changed(change) if id in self._targets]
            apart = {target: id for target, id in tables if str(target) in self._apart}
            if any(sources.get(target, id) != id for target, id in apart.items()):
                yield run
                run, sources = [], {}
            sources |= apart
            run.append(change)
        yield run

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
                    yield from mapping.rows(change, self.now(table))
            case SchemaChange():
                yield from self._follow(change)
            case Truncate(table):
                yield emptied(self.now(table), table)
            case CaughtUp(table):
                yield CaughtUp(self.now(table))
            case DeletePart(table, part):
                yield DeletePart(self.now(table), self._part(table, part))
            case ReplacePart(table, twin, part):
                target = self.now(table)
                twin_target = self._targets.pop(twin.id, twin)
                yield ReplacePart(target, twin_target, self._part(table, part))
            case Replace(before, twin, after):
                yield from self._replace(before, twin, after)
            case InPlace(before, after):
                yield self._in_place(before, after)
            case DeleteRange(table=table):
                yield self._delete_range(change, table)
            case Cascade():
                yield translated_cascade(change, self.of, self._targets)
            case _:
                yield change

    def now(self, source: Table) -> Table:
        """The target's table that has the rows of a table of the source now."""
        return self._targets.get(source.id, source)

    def _arrive(self, source: Table, target: Table) -> None:
        """Note the target of a table, and the new version of a table that is merged."""
        if target.origins:
            self._targets[source.id] = target
        for origin in target.origins if is_merged(target) else ():
            self._targets[origin.table.id] = target

    def _place(self, source: Table, own: Table) -> tuple[Table | None, Table]:
        """The merged table that takes the rows of ``own`` now, and then. ``own`` itself if it is
        not merged.
        """
        if not is_merged(own):
            return None, own
        now = next((table for table in self._targets.values() if table.id == own.id), None)
        if now is None or not is_merged(now):
            return None, own
        parts = [self.target(table) for table in now.sources if table.id != source.id]
        then = joined([*parts, own])
        return now, msgspec.structs.replace(then, version=now.version + 1)

    def _leave(self, source: Table) -> Iterator[Change]:
        """Remove the rows of a table from the target."""
        target = self._targets.pop(source.id, source)
        share = share_of(target, source)
        origin = next((it for it in target.origins if it.table.id == source.id), None)
        rest = None if origin is None else without(target, origin)
        if share is None or rest is None:
            yield SchemaChange("", target, None)
            return
        yield DeletePart(target, share)
        yield SchemaChange("", target, rest)
        self._arrive(rest.sources[0], rest)

    def _replace(self, before: Table, twin: Table, after: Table) -> Iterator[Change]:
        """The twin takes the place of the table, which may be another one by the rules of now."""
        old, new = self.now(before), self._targets.pop(twin.id, twin)
        own = self.target(after)
        if not is_merged(old) and not is_merged(own):
            self._targets.pop(before.id, None)
            self._arrive(after, own)
            yield Replace(old, new, own)
            return
        if old.id != own.id or not is_merged(own):
            yield from self._leave(before)
        now, then = self._place(after, own)
        self._arrive(after, then)
        if now is None:
            yield SchemaChange("", new, then)
        else:
            yield SchemaChange("", now, then)
            part = share_of(then, after)
            assert part is not None
            # The twin gets the columns that only other tables have.
            same = msgspec.structs.replace(then, id=new.id, indexes=())
            yield SchemaChange("", msgspec.structs.replace(new, indexes=()), same)
            yield ReplacePart(then, same, part)

    def why_not_in_place(self, before: Table, after: Table) -> str:
        """Why the rows of a table, which the target has as those of the version ``before``, cannot
        be replaced by ranges of its key by those of ``after``; empty if they can.
        """
        try:
            mapping, own = self.of(after), self.target(after)
        except ConfigError as error:
            return error.message
        now = self.now(before)
        stored = next((it for it in now.origins if it.table.id == before.id), None)
        if (stored and stored.mapping) != (mapping and mapping.fingerprint):
            return "the mapping of the table has changed"
        if mapping is None:
            return ""
        if is_merged(now) and not fits(now, own):
            return "the table is merged with others, and its columns have changed"
        for ordinal in after.key:
            column, place = after.columns[ordinal], mapping.places.get(ordinal)
            if place is None or mapping.columns[place].column.type != column.type:
                return f"the mapping changes the values of the column {column.name} of the key"
        return ""

    def _in_place(self, before: Table, after: Table) -> InPlace:
        own = self.target(after)
        old = self._targets.pop(before.id, before)
        now, then = self._place(after, own)
        self._arrive(after, then)
        return InPlace(now or old, then)

    def _delete_range(self, change: DeleteRange, table: Table) -> DeleteRange:
        mapping, target = self.of(table), self.now(table)
        if mapping is None:
            return change
        # As deletes, rows are filtered and converted, and no assertion is tested.
        rows = Rows(table, "delete", change.kept, None)
        kept = [row for it in mapping.rows(rows, target) for row in it.before or ()]
        places = (mapping.places[table.ordinal(name)] for name in change.columns)
        columns = tuple(mapping.columns[place].column.name for place in places)
        return DeleteRange(target, columns, change.range, kept, share_of(target, table))

    def _follow(self, change: SchemaChange) -> Iterator[Change]:
        before, after = change.before, change.after
        if after is None:
            assert before is not None
            for step in self._leave(before):
                if isinstance(step, SchemaChange):
                    step = msgspec.structs.replace(step, statement=change.statement)
                yield step
            return
        try:
            mapping, own = self.of(after), self.target(after)
            now, then = self._place(after, own)
        except ConfigError as error:
            raise UnloggedChange(
                error.message,
                hint=f"{error.hint}; `tailrace run CONFIG` then, and {BACKFILL}",
                table=own_id((before or after).id),
            ) from error
        if before is None:
            self._arrive(after, then)
            yield msgspec.structs.replace(change, before=now, after=then)
            return
        yield self._alter(change, before, after, mapping, then)

    def _alter(
        self,
        change: SchemaChange,
        before: Table,
        after: Table,
        mapping: TableMapping | None,
        then: Table,
    ) -> SchemaChange:
        """A schema change of a table that the target has."""
        old = self._targets.pop(before.id, before)
        previous = self.of(before)
        stored = next((it for it in old.origins if it.table.id == before.id), None)
        if stored is not None and (previous is None or stored.mapping != previous.fingerprint):
            # It was mapped by other rules, and only waits for the table that replaces it.
            origins = tuple(
                msgspec.structs.replace(it, table=after) if it is stored else it
                for it in old.origins
            )
            kept = msgspec.structs.replace(old, origins=origins)
            self._arrive(after, kept)
            return SchemaChange(change.statement, old, kept)
        if previous is None and mapping is None:
            return change
        if previous is None or mapping is None or previous.fingerprint != mapping.fingerprint:
            raise unlogged(before, "a table gets another mapping by its new name")
        self._arrive(after, then)
        if not is_merged(then):
            return translated(change, previous, mapping, old)
        if not _same_columns(previous, mapping):
            raise unlogged(before, "columns of a table that is merged with others have changed")
        return SchemaChange(change.statement, old, then)

    def _part(self, table: Table, part: Part) -> Part:
        mapping = self.of(table)
        if mapping is None:
            return part
        if is_merged(mapping.target):
            raise unlogged(table, "a part of the rows of a merged table is removed")
        place = mapping.places.get(table.ordinal(part.column))
        if place is None:
            raise unlogged(
                table,
                f"a part of the rows is removed by the column {part.column}, which the target does"
                " not have",
            )
        return msgspec.structs.replace(part, column=mapping.target.columns[place].name)


def _changed(change: Change) -> Iterator[TableId]:
    """The tables that a change names."""
    match change:
        case SchemaChange(before=before, after=after):
            yield from (table.id for table in (before, after) if table is not None)
        case Cascade(tables=tables):
            yield from (table.id for table in tables)
        case Replace(before=table) | ReplaceColumns(before=table) | InPlace(before=table):
            yield table.id
        case Begin() | Commit() | Heartbeat():
            pass
        case _:
            yield change.table.id


def _same_columns(one: TableMapping, other: TableMapping) -> bool:
    """Whether a schema change leaves the target's columns and their values as they are."""
    return [(it.column, it.plain) for it in one.columns] == [
        (it.column, it.plain) for it in other.columns
    ] and all(it.plain or not it.inputs for it in other.columns)
